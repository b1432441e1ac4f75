"""The figures of a comparison: the photographs, and how each row was trained and its thresholds chosen. No Ray.

data folder, reports and predictions of rows → figures/*.png, numbered as in the paper (§3.2, 6.1 to 6.4, A.1 to A.7).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reid_core.config.parameters import TrialConfig
from reid_core.data.table.metadata import Reading
from reid_core.experiment.prepare import load_database
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import plan_of
from reid_core.training.augment import Augmenter
from reid_core.training.optim import head_rate, learning_rate_factor
from sweeps.comparison import plots
from sweeps.comparison.answers import curves_of
from sweeps.comparison.numbers import RowMetrics
from sweeps.comparison.rows import BATCH_SIZES, CLASSIFIERS

SHEET = 12  # photographs on an augmentation sheet


def draw_data(folder: Path, root: Path, config: TrialConfig, cache: Path, *, reading: Reading) -> list[Path]:
    """Images per individual (§3.2), and what the augmentation does to photographs (A.1, A.2)."""
    database = load_database(root, reading=reading)
    identity_N, group_N = (np.array(database[name].to_pylist(), dtype=object) for name in ("identity", "group"))
    prepared = load_prepared(cache)
    training = prepared.parts.rows("training")
    rows = np.random.default_rng(config.seed).choice(training, min(SHEET, len(training)), replace=False)
    pixels_BHWC, augment, seeds = prepared.images.pixels(rows), Augmenter(config.augment), np.arange(SHEET)
    augmented_BHWC, _ = augment(pixels_BHWC, seeds[: len(rows)])
    many_BHWC, _ = augment(np.repeat(pixels_BHWC[:1], SHEET, axis=0), seeds)
    return [
        plots.plot_images_per_individual(identity_N, group_N, folder / "3_2_images_per_individual.png"),
        plots.plot_augmentation(pixels_BHWC, augmented_BHWC, folder / "A_1_augmentation.png"),
        plots.plot_variants(pixels_BHWC[0], many_BHWC, folder / "A_2_one_image.png"),
    ]


def draw_training(folder: Path, reports_of_row: Mapping[str, plots.Reports]) -> list[Path]:
    """Losses (6.1, 6.2, A.3, A.5, A.6) and accuracies (A.4) per epoch."""
    trained = {row: reports for row, reports in reports_of_row.items() if reports}
    classifiers = {row: trained[row] for row in CLASSIFIERS if row in trained}
    batch_sizes = {row: trained[row] for row in BATCH_SIZES if row in trained}
    drawn = []
    for number, chosen, key in (
        ("6_1", classifiers, "loss"),
        ("6_2", classifiers, "loss_validating"),
        ("A_5", batch_sizes, "loss"),
        ("A_6", batch_sizes, "loss_validating"),
    ):
        what = "Training loss" if key == "loss" else "Validation loss"
        which = "classification" if chosen is classifiers else "batch sizes"
        path = folder / f"{number}_{what.lower().replace(' ', '_')}_{which.replace(' ', '_')}.png"
        drawn.append(plots.plot_losses(chosen, key, path, f"{what}: {which}"))
    for row, reports in trained.items():
        number = {"metric": "A_3_", "metric_512": "A_3_"}.get(row, "")
        drawn.append(plots.plot_row_losses(reports, folder / f"{number}losses_{row}.png", f"Losses of {row}"))
        number = {"metric": "A_4_", "metric_512": "A_4_"}.get(row, "")
        drawn.append(plots.plot_accuracy(reports, folder / f"{number}accuracy_{row}.png", f"Accuracy of {row}"))
    return drawn


def draw_thresholds(folder: Path, predictions: Mapping[str, Path], metrics: RowMetrics) -> list[Path]:
    """BAKS, BAUS and GEO_MEAN over the threshold on `thresholdSet`, per group (6.3, 6.4)."""
    drawn = []
    for row, path in predictions.items():
        number = {"batch64_warmup": "6_3_", "metric": "6_4_"}.get(row, "")
        chosen = {
            key.partition(".")[2]: value
            for key, value in metrics[row]["thresholdSet"].items()
            if key.startswith("threshold.")
        }
        drawn.append(
            plots.plot_threshold_curves(
                curves_of(path), chosen, folder / f"{number}thresholds_{row}.png", f"thresholdSet, {row}"
            )
        )
    return drawn


def draw_schedules(folder: Path, configs: Mapping[str, TrialConfig], prepared: Prepared) -> list[Path]:
    """The learning rates of Batch64-WarmupLR, step by step (A.7)."""
    row = "batch64_warmup"
    if row not in configs:
        return []
    config = configs[row].optim
    steps = len(plan_of(configs[row], prepared)) // max(1, config.epochs)
    peak_of = {"head": head_rate(config), "stages": config.lr_stages, "norm": config.lr_norm}
    rates = {
        part: np.array(
            [peak * learning_rate_factor(config, step, steps, part=part) for step in range(steps * config.epochs)]
        )
        for part, peak in peak_of.items()
    }
    return [plots.plot_learning_rates(rates, steps, folder / "A_7_learning_rates.png", f"Learning rates of {row}")]
