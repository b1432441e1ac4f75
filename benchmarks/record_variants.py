"""Train from a bank of variants and online, on real photographs, for `benchmarks/frozen_activations.py` to print.

    python benchmarks/record_variants.py --data PATH --weights mobilenetv2_100.safetensors     # `make bench-long`

Per seed two configurations that differ in where augmented images come from: new ones each epoch, or a bank of five
variants whose frozen activations are kept. The split is that of seed 0 for all; the seed decides initial weights,
batches and augmentation. `testSet` is scored once per run and selects nothing. No photographs are written.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset
from reid_core.config.values import override
from reid_core.data.splits.parts import Parts
from reid_core.data.test_set import record_use
from reid_core.experiment.evaluation import epoch_evaluation
from reid_core.experiment.final_test import run_final_test
from reid_core.experiment.prepare import prepare, read_truth
from reid_core.experiment.prepared import Prepared
from reid_core.experiment.training_setup import (
    TrainingData,
    keep_activations,
    kept_batches,
    make_trainer,
    plan_of,
    training_data_of,
)
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel
from reid_core.training.batches import local_batches
from reid_core.training.trainer import Evaluate, Trainer

RECORD = Path(__file__).with_name("variants.json")
SETTINGS: dict[str, Any] = {
    "model.backbone": "mobilenetv2_100",
    "model.unfrozen_stages": 1,
    "data.mean": 0.5,
    "data.std": 0.5,
    "data.image_px": 128,
    "match.matcher": "sift-mnn",
    "match.image_px": 256,
}
SIDES: dict[str, dict[str, Any]] = {
    "online": {"data.variants": None, "model.keep_activations": False},
    "bank": {"data.variants": 5, "model.keep_activations": True},
}
SCORES = ("mean_of_groups", "geo_mean", "baks", "baus", "pooled")  # or `<score>.<group>`


def run_side(config: TrialConfig, prepared: Prepared, truth: Parts) -> dict[str, Any]:
    """Train one configuration and score its best epoch: numbers by name."""
    plan = plan_of(config, prepared)
    trainer = make_trainer(config, prepared, plan, Place())
    started = time.perf_counter()
    data = training_data_of(config, prepared)
    place = keep_activations(config, prepared, data, trainer.model, Place())
    build_s = time.perf_counter() - started  # nothing to build online
    evaluate, evaluation_seconds = timed(epoch_evaluation(config, prepared, place))
    before = evaluate(trainer.model)["geo_mean_cosine"]
    history = train(trainer, data, place, evaluate)
    evaluation_s = sum(evaluation_seconds[1:])
    return {
        "geo_mean_cosine": [round(value, 5) for value in [before, *(report["geo_mean_cosine"] for report in history)]],
        "best_epoch": trainer.best["epoch"],
        "steps_per_epoch": trainer.steps_per_epoch,
        "build_s": round(build_s, 1),
        "train_s": round(sum(report["seconds"] for report in history) - evaluation_s, 1),
        "evaluation_s": round(evaluation_s, 1),
        **measure_bank(data, place),
        "metrics": score_model(config, prepared, truth, trainer.restore_best(), place),
    }


def timed(evaluate: Evaluate) -> tuple[Evaluate, list[float]]:
    """The same function, and the seconds of each of its calls, which it fills."""
    seconds: list[float] = []

    def evaluate_timed(model: ReidModel) -> dict[str, float]:
        started = time.perf_counter()
        report = evaluate(model)
        seconds.append(time.perf_counter() - started)
        return report

    return evaluate_timed, seconds


def train(trainer: Trainer, data: TrainingData, place: Place, evaluate: Evaluate) -> list[dict[str, Any]]:
    """One report per epoch."""
    batches = kept_batches(data.plan, data.source, trainer.model, place) or local_batches(data.plan, data.source)
    for report in trainer.fit(batches, evaluate):
        seconds, geo_mean = report["seconds"], report["geo_mean_cosine"]
        print(f"  epoch {report['epoch']}: {seconds:.1f} s, geo_mean_cosine {geo_mean:.3f}", flush=True)
    return trainer.history


def score_model(
    config: TrialConfig, prepared: Prepared, truth: Parts, model: ReidModel, place: Place
) -> dict[str, dict[str, float]]:
    """The defined scores of the full chain on `thresholdSet`, which chose the thresholds, and on `testSet`."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = run_final_test(config, prepared, truth, model, Path(folder), place).metrics
    return {
        part: {
            name: round(value, 5)
            for name, value in values.items()
            if name.split(".")[0] in SCORES and math.isfinite(value)
        }
        for part, values in metrics.items()
    }


def measure_bank(data: TrainingData, place: Place) -> dict[str, float]:
    """Images that training draws from, and what the bank takes on disk in MB: pixels of variants, activations."""
    pool, source = data.pool, data.source
    row_R = np.unique(np.concatenate(list(pool.rows_of.values())))
    sizes = {"training_images": len(row_R), "of_them_variants": len(pool.source_E), "variants_mb": 0.0}
    if source.variants:
        sizes["variants_mb"] = round(Path(source.variants).stat().st_size / 1e6, 1)
    if place.activations is not None:
        sizes["activation_mb"] = round(place.activations.layout.row_bytes / 1e6, 4)
        sizes["activations_mb"] = round(len(row_R) * place.activations.layout.row_bytes / 1e6, 1)
        files = place.activations.folder.glob("*.arrow")
        sizes["activations_folder_mb"] = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    return sizes


def compare(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Bank less online, paired by seed: of every score that all runs have, and of the seconds of training.

    Returns:
        By `<part>.<score>` and `train_s`: means, differences, and their 95 % t interval (`scipy.stats.ttest_rel`).
    """
    values = {side: [scores_of(run) for run in runs if run["side"] == side] for side in SIDES}
    everywhere = [name for name in values["online"][0] if all(name in run for side in SIDES for run in values[side])]
    return {
        name: compare_score([run[name] for run in values["bank"]], [run[name] for run in values["online"]])
        for name in everywhere
    }


def scores_of(run: dict[str, Any]) -> dict[str, float]:
    """One run's scores in a flat table."""
    flat = {f"{part}.{name}": value for part, scores in run["metrics"].items() for name, value in scores.items()}
    return flat | {"train_s": run["train_s"]}


def compare_score(bank_S: list[float], online_S: list[float]) -> dict[str, Any]:
    """Means, differences and their interval over the seeds S."""
    difference_S = np.subtract(bank_S, online_S)
    found = stats.ttest_rel(bank_S, online_S).confidence_interval(0.95)
    numbers = {
        "bank": np.mean(bank_S),
        "online": np.mean(online_S),
        "difference": np.mean(difference_S),
        "standard_error": stats.sem(difference_S),
        "low": found.low,
        "high": found.high,
    }
    by_seed = [round(float(value), 5) for value in difference_S]
    return {name: round(float(value), 5) for name, value in numbers.items()} | {"by_seed": by_seed}


def main() -> None:
    """Train both sides of every seed, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with metadata.csv and the photographs")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenetv2_100.safetensors")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-cache"), help="where prepared data are kept")
    options = parser.parse_args()
    started = time.perf_counter()
    own = {"model.weights": str(options.weights.absolute()), "optim.epochs": options.epochs}
    base = override(make_preset("megadescriptor"), SETTINGS | own)
    data = options.data.resolve()
    prepared = prepare(data, options.cache, base)  # with the base's seed: the split is the same for all
    use = record_use(options.cache, trial="variants", config=base)
    truth, runs = read_truth(data, prepared, use=use), []
    for seed in range(options.seeds):
        for side in list(SIDES)[:: 1 if seed % 2 == 0 else -1]:  # neither side is always the first
            print(f"seed {seed}, {side}", flush=True)
            run = run_side(override(base, SIDES[side] | {"seed": seed}), prepared, truth)
            runs.append({"seed": seed, "side": side, **run})
            print(f"  {runs[-1]}", flush=True)
    record = {
        "settings": SETTINGS,
        "sides": SIDES,
        "epochs": options.epochs,
        "threads": torch.get_num_threads(),
        "total_s": round(time.perf_counter() - started),
        "compared": compare(runs),
        "runs": runs,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(runs)} runs in {record['total_s']} s, in {RECORD}")


if __name__ == "__main__":
    main()
