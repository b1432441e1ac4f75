"""The tables and figures of the comparison: what the rows left behind → tables.md, .csv and figures/*.png.

The paper's figures: §3.2, 6.1 to 6.4, A.1 to A.7. No Ray.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from reid_core.config.parameters import TrialConfig
from reid_core.experiment.prepare import load_database
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import plan_of
from reid_core.metrics.geo_mean import Shares, compute_shares, pool
from reid_core.metrics.intervals import bootstrap, interval
from reid_core.scoring.thresholds import ScoredQueries, threshold_curve
from reid_core.training.augment import Augmenter
from reid_core.training.optim import head_rate, learning_rate_factor
from sweeps.comparison import figures
from sweeps.comparison.tables import write_tables
from sweeps.results.journal import Record

CLASSIFIERS = ("batch16", "batch32", "batch64", "batch64_warmup", "batch64_complex_head")
BATCH_SIZES = CLASSIFIERS[:3]
BASELINE = "starter"
THRESHOLDS = np.linspace(0, 1, 201)
SHEET = 12  # photographs on an augmentation sheet

Metrics = dict[str, dict[str, float]]


def write_report(
    out: Path,
    root: Path,
    configs: Mapping[str, TrialConfig],
    records: Mapping[str, Record],
    metrics: Mapping[str, Metrics],
    failures: Mapping[str, str],
    note: str,
    *,
    skip_missing: bool,
) -> str:
    """Write every table and figure; the text of tables.md, and where everything lies.

    Args:
        out: Result folder; `out/rows/ROW/predictions.parquet` has the answers of each completed row.
        root: Data folder.
        configs: Row → configuration.
        records: Completed row → record, with its reports.
        metrics: Completed row → metrics on `thresholdSet` and `testSet`.
        failures: Row → why it has no result.
        note: What a reader must know before the numbers.
        skip_missing: As the data were prepared.
    """
    rows = {row: _with_improvement(out, row, metrics[row]) if row in metrics else {} for row in configs}
    tables = write_tables(rows, out, note, failures=failures)
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    drawn = [
        *draw_data(folder, root, next(iter(configs.values())), out / "cache", skip_missing=skip_missing),
        *draw_training(folder, {row: record.reports for row, record in records.items()}),
        *draw_thresholds(folder, {row: out / "rows" / row / "predictions.parquet" for row in records}, metrics),
        *draw_schedules(folder, configs, load_prepared(out / "cache")),
    ]
    paths = "\n".join(str(path) for path in (tables, out / "table_6_1.csv", out / "table_6_2.csv", *drawn))
    return f"{tables.read_text()}\n{paths}"


def _with_improvement(out: Path, row: str, metrics: Metrics) -> Metrics:
    """The metrics with the interval of the improvement over the baseline, by paired resamples of the same animals."""
    mine, base = (_pooled_shares(out / "rows" / name / "predictions.parquet") for name in (row, BASELINE))
    if row == BASELINE or mine is None or base is None:
        return metrics
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_R = bootstrap(mine).geo_mean() / bootstrap(base).geo_mean()
    if not np.isfinite(ratio_R).all():  # a baseline of 0 in some resample
        return metrics
    low, high = (100 * (ratio - 1) for ratio in interval(ratio_R))
    gain = {"improvement_percent_low": low, "improvement_percent_high": high}
    return metrics | {"testSet": metrics["testSet"] | gain}


def _pooled_shares(predictions: Path) -> Shares | None:
    if not predictions.exists():
        return None
    column = _read_answers(predictions, "testSet")
    names = ("answer", "identity", "known")
    shares = {
        group: compute_shares(*(column[name][column["group"] == group] for name in names))
        for group in np.unique(column["group"].astype(str))
    }
    return pool(shares)


def _read_answers(predictions: Path, part: str) -> dict[str, np.ndarray]:
    table = pq.read_table(predictions, filters=[("part", "=", part)])
    column = {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}
    return column | {"known": column["known"].astype(bool), "probability": column["probability"].astype(float)}


def draw_data(folder: Path, root: Path, config: TrialConfig, cache: Path, *, skip_missing: bool) -> list[Path]:
    """Images per individual (§3.2), and what the augmentation does to photographs (A.1, A.2)."""
    database = load_database(root, skip_missing=skip_missing)
    identity_N, group_N = (np.array(database[name].to_pylist(), dtype=object) for name in ("identity", "group"))
    prepared = load_prepared(cache)
    training = prepared.parts.rows("training")
    rows = np.random.default_rng(config.seed).choice(training, min(SHEET, len(training)), replace=False)
    pixels_BHWC, augment, seeds = prepared.images.pixels(rows), Augmenter(config.augment), np.arange(SHEET)
    augmented_BHWC = augment(pixels_BHWC, seeds[: len(rows)])
    many_BHWC = augment(np.repeat(pixels_BHWC[:1], SHEET, axis=0), seeds)
    return [
        figures.plot_images_per_individual(identity_N, group_N, folder / "3_2_images_per_individual.png"),
        figures.plot_augmentation(pixels_BHWC, augmented_BHWC, folder / "A_1_augmentation.png"),
        figures.plot_variants(pixels_BHWC[0], many_BHWC, folder / "A_2_one_image.png"),
    ]


def draw_training(folder: Path, reports_of_row: Mapping[str, list[dict]]) -> list[Path]:
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
        drawn.append(figures.plot_losses(chosen, key, path, f"{what}: {which}"))
    for row, reports in trained.items():
        number = {"metric": "A_3_", "metric_512": "A_3_"}.get(row, "")
        drawn.append(figures.plot_row_losses(reports, folder / f"{number}losses_{row}.png", f"Losses of {row}"))
        number = {"metric": "A_4_", "metric_512": "A_4_"}.get(row, "")
        drawn.append(figures.plot_accuracy(reports, folder / f"{number}accuracy_{row}.png", f"Accuracy of {row}"))
    return drawn


def draw_thresholds(folder: Path, predictions: Mapping[str, Path], metrics: Mapping[str, Metrics]) -> list[Path]:
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
            figures.plot_threshold_curves(
                curves_of(path), chosen, folder / f"{number}thresholds_{row}.png", f"thresholdSet, {row}"
            )
        )
    return drawn


def curves_of(predictions: Path) -> dict[str, figures.Curve]:
    """Group → thresholds and the curves over them, from the answers on `thresholdSet`."""
    column, curves = _read_answers(predictions, "thresholdSet"), {}
    for group in np.unique(column["group"].astype(str)):
        names = ("probability", "candidate", "identity", "known")
        score_Q, candidate_Q, identity_Q, known_Q = (column[name][column["group"] == group] for name in names)
        queries = ScoredQueries(score_Q, candidate_Q == identity_Q, identity_Q, known_Q)
        curves[str(group)] = (THRESHOLDS, *threshold_curve(queries, THRESHOLDS))
    return curves


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
    return [figures.plot_learning_rates(rates, steps, folder / "A_7_learning_rates.png", f"Learning rates of {row}")]
