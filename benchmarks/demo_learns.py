"""Does the demo's model learn: what are its scores after training, and what were they before, and do settings matter?

    python benchmarks/demo_learns.py [--seeds 3] [--draws 6]      # some minutes on one core

The preset `tiny` on the drawn data set, as in `python -m reid_core`. Epoch 0 is the frozen backbone's own features,
without any head, on the same split and through the same chain. Accuracy is that of the most similar training image,
GEO_MEAN that of the cosine alone on `thresholdSet`, both of the best epoch by GEO_MEAN, as a sweep counts it. Then as
many configurations, drawn uniformly from the demo's search space: how far apart are they?
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset
from reid_core.config.values import override
from reid_core.data.synthetic import write_synthetic
from reid_core.errors import TrainingError
from reid_core.experiment.epoch_zero import report_epoch_zero
from reid_core.experiment.evaluation import epoch_evaluation
from reid_core.experiment.prepare import prepare
from reid_core.experiment.prepared import Prepared
from reid_core.experiment.training_setup import make_trainer, training_data_of
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.place import Place
from reid_core.training.batches import local_batches
from sweeps.search.space import SearchSpace, metric_space

MEASURED = {"accuracy": "accuracy_validating", "geo_mean": SCORE}
BAR, BAR_GAIN, BAR_SPREAD = 0.5, 0.1, 0.1


def train(config: TrialConfig, prepared: Prepared) -> dict[str, Any]:
    """The best epoch's report."""
    data = training_data_of(config, prepared)
    trainer = make_trainer(config, prepared, data.plan, Place())
    for report in trainer.fit(local_batches(data.plan, data.source), epoch_evaluation(config, prepared, Place())):
        print_report(report)
    return trainer.best


def print_report(report: dict[str, Any]) -> None:
    """One line of an epoch."""
    shown = "  ".join(f"{name} {report[key]:.3f}" for name, key in MEASURED.items())
    print(f"  epoch {report['epoch']}  {shown}", flush=True)


def measure_preset(root: Path, cache: Path, num_seeds: int) -> None:
    """The preset against epoch 0, mean of the seeds."""
    before, after = [], []
    for seed in range(num_seeds):
        config = override(base_config(), {"seed": seed})
        prepared = prepare(root, cache / f"seed-{seed}", config)
        before.append(report_epoch_zero(config, prepared, Place()))
        print(f"seed {seed}")
        print_report({"epoch": 0, **before[-1]})
        after.append(train(config, prepared))
    for name, key in MEASURED.items():
        value, peer = (float(np.mean([report[key] for report in reports])) for reports in (after, before))
        print_result(f"demo_{name}", value, BAR, peer=peer)
        print_result(f"demo_{name}_gained", value - peer, BAR_GAIN)


def measure_spread(root: Path, cache: Path, num_draws: int) -> None:
    """Configurations of the demo's space: the best less the median of their best epochs."""
    config = base_config()
    prepared = prepare(root, cache / "seed-0", config)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchSpace(metric_space, config)
    scores = []
    for _ in range(num_draws):
        values = space.suggest(study.ask())
        print(
            "  ".join(f"{key}={f'{value:.3g}' if isinstance(value, float) else value}" for key, value in values.items())
        )
        try:
            scores.append(train(override(config, values), prepared)[SCORE])
        except TrainingError as error:
            print(f"  {error}")
            scores.append(0.0)
    print("geo_mean of each:", " ".join(f"{score:.3f}" for score in scores))
    print_result("demo_spread", max(scores) - float(np.median(scores)), BAR_SPREAD)


def base_config() -> TrialConfig:
    """The preset; local matching plays no part in what is measured."""
    return override(make_preset("tiny"), {"match.matcher": "none"})


def print_result(claim: str, value: float, bar: float, *, peer: float | None = None) -> None:
    """The line that this script is run for."""
    against = "" if peer is None else f"peer={peer:.4f} ratio={value / peer:.3f} "
    print(f"RESULT {claim} value={value:.4f} {against}bar={bar:.3f} {'ok' if value >= bar else 'short'}", flush=True)


def main() -> None:
    """Draw, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=6, help="configurations of the search space; 0: none")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-cache/demo"), help="drawn data and caches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("timm").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    root = write_synthetic(options.cache / "drawn").resolve()
    measure_preset(root, options.cache, options.seeds)
    if options.draws:
        measure_spread(root, options.cache, options.draws)


if __name__ == "__main__":
    main()
