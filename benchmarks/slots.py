"""How long is it from one trial's last training step to the next one's first?

    python benchmarks/slots.py [--trials 8] [--nested 8] [--scratch FOLDER]

Real trials of the tiny backbone, two workers each, one at a time: on a slot, whose workers serve trial after trial,
and nested, with a Ray Train run and new workers for each, as Ray's own examples do it. Both in one Ray, one after the
other. Every training step of rank 0 is written down with its time.
"""

import argparse
import importlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes would wait for each other
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.local_ray import patch_on_import, start_ray

STEPS = "REID_STEPS_FILE"  # environment variable
TRAINER = "reid_core.training.trainer"
BAR_S, BAR_RATIO = 1.0, 0.1
WORKERS = 2


def time_steps(trainer: Any) -> None:
    """Begin and end of each step of rank 0 go to a file, with the trial's seed, which no other trial has."""
    step = trainer._train_step

    def timed(self: Any, batch: Any) -> Any:
        began = time.time()
        result = step(self, batch)
        if self.place.rank == 0:
            with Path(os.environ[STEPS]).open("a") as file:
                file.write(json.dumps([self.config.seed, began, time.time()]) + "\n")
        return result

    trainer._train_step = timed


def install_clock() -> None:
    """Ray runs this in each of its processes."""
    patch_on_import(TRAINER, lambda module: time_steps(module.Trainer))


def main(arguments: list[str] | None = None) -> int:
    """Measure both; the status is 0 if the bars are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8, help="on the slot")
    parser.add_argument("--nested", type=int, default=8, help="with a Ray Train run each")
    parser.add_argument("--scratch", type=Path, help="keep data and trials here")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        scratch = options.scratch or Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        os.environ[STEPS] = str(scratch / "steps.jsonl")
        slot_s, nested_s = measure(scratch, options.trials, options.nested)
    for name, gaps_s in (("slot", slot_s), ("nested", nested_s)):
        print(f"{name:<8} last step → next first step, s:", *(f"{gap_s:.2f}" for gap_s in gaps_s))
    value, peer = median(slot_s), median(nested_s)
    ok = value <= BAR_S and value <= BAR_RATIO * peer
    print(
        f"RESULT trial_to_trial_seconds value={value:.2f} peer={peer:.2f} ratio={value / peer:.3f} "
        f"bar={BAR_S:.1f}s,{BAR_RATIO} {'ok' if ok else 'short'}"
    )
    return 0 if ok else 1


def measure(scratch: Path, num_slot: int, num_nested: int) -> tuple[list[float], list[float]]:
    """Gaps in seconds between trials on a slot, and between nested ones."""
    import ray

    from reid_core.config.presets import tiny
    from reid_core.config.values import override
    from reid_core.data.synthetic import write_synthetic
    from reid_core.experiment.prepare import prepare
    from sweeps.machines.resources import Resources
    from sweeps.search.suggestion import Suggestion
    from sweeps.trials.context import SweepContext
    from sweeps.trials.tuning import run_fixed

    config = override(tiny(), {"optim.epochs": 2, "match.matcher": "none"})
    prepare(write_synthetic(scratch / "data", scale=0.35), scratch / "cache", config)
    resources = Resources(workers=WORKERS)
    start_ray(resources, hook="benchmarks.slots.install_clock")
    nested = importlib.import_module("benchmarks.slots").run_nested  # other processes find it by this name
    gaps = []
    for kind, num_trials, first_seed in (("slot", num_slot, 1000), ("nested", num_nested, 2000)):
        seeds = range(first_seed, first_seed + num_trials)
        trials = [Suggestion(name=f"{kind}-{seed}", parameters={"seed": seed}) for seed in seeds]
        context = SweepContext(config, str(scratch / kind), str(scratch / "cache"), resources)
        records = run_fixed(trials, context, drive=nested if kind == "nested" else None)
        assert [record.status for record in records.values()] == ["completed"] * num_trials, records
        gaps.append(read_gaps(Path(os.environ[STEPS]), list(seeds)))
    ray.shutdown()
    return gaps[0], gaps[1]


def read_gaps(file: Path, seeds: list[int]) -> list[float]:
    """Seconds from each trial's last step to the first one of the trial after it."""
    steps = [json.loads(line) for line in file.read_text().splitlines()]
    began = [min(step[1] for step in steps if step[0] == seed) for seed in seeds]
    ended = [max(step[2] for step in steps if step[0] == seed) for seed in seeds]
    return [after - before for before, after in zip(ended[:-1], began[1:], strict=True)]


def run_nested(suggestion: Any, *, context: Any) -> None:
    """A trial as a function of Ray Tune, with a Ray Train run of its own."""
    import ray.tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from reid_core.metrics.epoch_report import SCORE
    from sweeps.search.suggestion import FINAL
    from sweeps.trials.driver import FINAL_KEYS
    from sweeps.trials.slots.ready import ready_trial

    result = TorchTrainer(
        partial(train_nested, ready_trial(suggestion, context)),
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(
            name=suggestion.name,
            storage_path=context.out,
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    ).fit()
    assert result.metrics is not None
    final = {key: result.metrics[key] for key in FINAL_KEYS if key in result.metrics}
    ray.tune.report({FINAL: True, "epoch": 0, SCORE: float("nan"), **final})


def train_nested(settings: Any) -> None:
    """What its workers run: the same training, which reports to Ray Train."""
    import ray.train

    from reid_core.metrics.epoch_report import SCORE
    from sweeps.trials.worker import Line, run_alone, train_place

    class ToTrain(Line):
        def send(self, report: dict[str, Any]) -> bool:
            ray.train.report(report)
            return True

        def send_last(self, report: dict[str, Any]) -> None:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "empty").touch()  # a result has no metrics without a checkpoint
                checkpoint = ray.train.Checkpoint.from_directory(folder) if self.place.rank == 0 else None
                ray.train.report({"epoch": 0, SCORE: float("nan"), **report}, checkpoint=checkpoint)

    run_alone(settings, ToTrain(None, 1, train_place(settings)))


if __name__ == "__main__":
    sys.exit(main())
