"""Record the learning curves of many configurations of a tiny model, for `benchmarks/search.py` to replay.

    python benchmarks/record_configurations.py                   # `make bench-long`: some 25 minutes on one core

257 configurations of the metric-learning space around the preset `tiny`, from random weights: the preset, then uniform
draws. Each is trained on the drawn data set for all its epochs, none pruned. Written is one row per configuration: the
searched values, and per epoch `geo_mean_cosine`, `loss_validating` and seconds. A stopped recording goes on where it
was.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset
from reid_core.config.values import fingerprint, flatten, override
from reid_core.data.synthetic import write_synthetic
from reid_core.errors import TrainingError
from reid_core.experiment.evaluation import epoch_evaluation
from reid_core.experiment.prepare import prepare
from reid_core.experiment.prepared import Prepared
from reid_core.experiment.training_setup import make_trainer, training_data_of
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.place import Place
from reid_core.training.batches import local_batches
from sweeps.search.space import SearchSpace, metric_space

RECORD = Path(__file__).with_name("configurations.parquet")
# Eight epochs, as ASHA halves at 2, 4 and 8 then: the shape of 5, 10 and 20 of the paper's preset.
SETTINGS = {
    "data.image_px": 32,
    "augment.probability": 0.0,
    "model.weights": "random",
    "match.matcher": "none",
    "optim.epochs": 8,
    "loss.miner": "semihard",
    "optim.lr_head": 2e-3,  # rates of random weights
    "optim.lr_stages": 2e-3,
    "optim.lr_norm": 2e-3,
}
MEASURED = (SCORE, "loss_validating", "seconds")


def base_config() -> TrialConfig:
    """What every configuration shares."""
    return override(make_preset("tiny"), SETTINGS)


def draw_configurations(count: int, base: TrialConfig) -> list[dict[str, Any]]:
    """Searched values by dotted key: the preset's own, then uniform draws; the same ones every time."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchSpace(metric_space, base)
    study.enqueue_trial(space.base_point())
    return [space.suggest(study.ask()) for _ in range(count)]


def train(config: TrialConfig, prepared: Prepared) -> dict[str, list[float]]:
    """The learning curves of a configuration: per name of `MEASURED` one value per epoch."""
    data, place = training_data_of(config, prepared), Place()
    trainer = make_trainer(config, prepared, data.plan, place)
    batches = local_batches(data.plan, data.source)
    reports = list(trainer.fit(batches, epoch_evaluation(config, prepared, place)))
    return {name: [report[name] for report in reports] for name in MEASURED}


def record_all(count: int, base: TrialConfig, prepared: Prepared, done: Path) -> list[dict[str, Any]]:
    """Train what `done` does not hold yet, one line per configuration; one that diverges has no curves."""
    rows = [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
    for index, values in enumerate(draw_configurations(count, base)[len(rows) :], start=len(rows)):
        started = time.monotonic()
        try:
            rows.append(values | train(override(base, values), prepared))
        except TrainingError as error:
            print(f"{index}: {error}")
            rows.append(values)
        with done.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        curve = " ".join(f"{score:.3f}" for score in rows[-1].get(SCORE, ()))
        print(f"{index} of {count}: {curve} in {time.monotonic() - started:.1f} s", flush=True)
    return rows


def describe(rows: list[dict[str, Any]]) -> str:
    """How different the configurations are, and what the first epochs say about the last."""
    score_CE = np.array([row[SCORE] for row in rows])
    best_C = score_CE.max(axis=1)
    early = ", ".join(
        f"epoch {epoch} {spearmanr(score_CE[:, :epoch].max(axis=1), best_C).statistic:.2f}" for epoch in (1, 2, 4)
    )
    seconds = sum(sum(row["seconds"]) for row in rows)
    return (
        f"{len(rows)} configurations, {seconds:.0f} s of training\n"
        f"first epoch {score_CE[:, 0].mean():.3f}, last {score_CE[:, -1].mean():.3f} (means); best of each: "
        f"{best_C.min():.3f} to {best_C.max():.3f}, sd {best_C.std(ddof=1):.3f}, preset {best_C[0]:.3f}\n"
        f"rank correlation of the best until then with the best of all epochs: {early}; of epoch 2 with the last "
        f"epoch: {spearmanr(score_CE[:, 1], score_CE[:, -1]).statistic:.2f}"
    )


def main() -> None:
    """Draw, train, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=257)
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-cache"), help="drawn data and unfinished record")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    base = base_config()
    root = write_synthetic(options.cache / "drawn")
    prepared = prepare(root.resolve(), options.cache, base)
    done = options.cache / f"configurations-{fingerprint(base)}.jsonl"
    rows = [row for row in record_all(options.configurations, base, prepared, done) if SCORE in row]
    print(describe(rows))
    shared = {key: value for key, value in flatten(base).items() if key not in set().union(*rows)}
    table = pa.Table.from_pylist([dict.fromkeys(sorted(set().union(*rows))) | row for row in rows])
    pq.write_table(table.replace_schema_metadata({"shared": json.dumps(shared)}), RECORD, compression="zstd")
    done.unlink()
    print(f"in {RECORD}")


if __name__ == "__main__":
    main()
