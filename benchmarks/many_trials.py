"""Does a sweep become slower, or larger, with the trials that it has behind it?

    python benchmarks/many_trials.py [--trials 200] [--concurrent 2] [--scratch FOLDER]

Trials that do nothing, through the whole machinery of a search: Optuna's TPE on the preset's space, ASHA, journal,
trials.parquet, what is shown, Ray Tune with its processes. Only the slots are stand-ins: they make up the reports of
six epochs, and a final one as long as a real trial's, at once.

Compared is the wall clock from one ended trial to the next: the last quarter's mean over that of the first quarter,
without the first trial, which waits for Ray's processes; once with the time in which Optuna proposes values, which
grows with the trials that its model is made of, and once without. Memory is what the sweep's own process holds;
processes are all that it has started.
"""

import argparse
import logging
import math
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes would wait for each other
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import ray
from ray.tune.result import DONE

from benchmarks.local_ray import start_ray
from reid_core.config.presets import tiny
from reid_core.metrics.epoch_report import SCORE
from sweeps.machines.limits import Limits
from sweeps.machines.resources import Resources
from sweeps.results.result_folder import open_journal
from sweeps.search.optuna_search import JournalSearch
from sweeps.search.space import SearchSpace, metric_space
from sweeps.search.suggestion import FINAL, Suggestion
from sweeps.stages.run_search import make_scheduler
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_tuner

EPOCHS = 6
ENDS = ("", "_low", "_high")  # of a metric's name, and of its interval's
GROUPS = ("ScalesID", "SpotsID", "StripesID")
BAR_RATIO, BAR_MB = 1.1, 1.0


class EmptySlot:
    """In the place of a slot: the trial's reports are there before anybody asks for them."""

    def __init__(self) -> None:
        """No trial is at hand."""
        self.trial, self.reports = "", list[dict[str, Any]]()

    def begin(self, trial: str, claim: str, suggestion: Suggestion, context: Any) -> bool:
        """Make up all reports."""
        self.trial, self.reports = trial, make_reports(suggestion.name)
        return True

    def at_hand(self) -> str:
        """The last trial."""
        return self.trial

    def next(self, trial: str, position: int) -> dict[str, Any]:
        """The trial's report number `position`, from 0."""
        return self.reports[position]

    def abandon(self, claim: str) -> None:
        """Nothing is at work."""


class EmptySlots:
    """In the place of a pool: as many of them as there are trials at a time."""

    def __init__(self, concurrent: int) -> None:
        """Start them."""
        actor: Any = ray.remote(num_cpus=0)(EmptySlot)
        self.slots = [actor.remote() for _ in range(concurrent)]

    def provide(self, num_trials: int) -> list[Any]:
        """Their handles."""
        return self.slots

    def clear(self) -> None:
        """Nothing is at work."""

    let_go = clear


def make_reports(name: str) -> list[dict[str, Any]]:
    """Of a trial's epochs, and its final one; better and worse ones by chance, the same for the same name."""
    drawn = random.Random(name)
    best = drawn.uniform(0.2, 0.8)
    epochs = [
        {
            **{"epoch": epoch, SCORE: best * (1 - 0.5**epoch), "loss": 1 / epoch, "gradient_norm": 1.0},
            **{"loss_spread": 0.1, "loss_validating": 1 / epoch, "accuracy_validating": best, "seconds": 0.1},
        }
        for epoch in range(1, EPOCHS + 1)
    ]
    names = [f"{metric}{end}.{group}" for metric in ("geo_mean", "baks", "baus") for end in ENDS for group in GROUPS]
    metrics = dict.fromkeys((*names, *(f"mean_of_groups{end}" for end in ENDS)), best)
    final = {FINAL: True, DONE: True, "epoch": 0, SCORE: math.nan, "history": epochs, "retries": 0}
    return [*epochs, {**final, "metrics": metrics, "objective": best, "checkpoint_path": f"/nowhere/{name}"}]


@dataclass
class Course:
    """What was measured whenever a trial had ended."""

    ended_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    proposed_s: list[float] = field(default_factory=list)  # that proposals had taken by then
    in_proposals_s: float = 0.0
    held_mb: list[float] = field(default_factory=list)
    num_processes: list[int] = field(default_factory=list)

    def note(self) -> None:
        """A trial has ended."""
        own = psutil.Process()
        self.ended_s.append(time.monotonic())
        self.cpu_s.append(sum(own.cpu_times()[:2]))
        self.proposed_s.append(self.in_proposals_s)
        self.held_mb.append(own.memory_info().rss / 2**20)
        self.num_processes.append(len(own.children(recursive=True)))


COURSE = Course()  # not part of the searcher, which Ray Tune pickles


class TimedSearch(JournalSearch):
    """Notes when its trials have ended, and how long it takes to propose one."""

    def _propose(self, trial_id: str) -> dict[str, Any] | None:
        """As it is, and timed."""
        began_s = time.monotonic()
        try:
            return super()._propose(trial_id)
        finally:
            COURSE.in_proposals_s += time.monotonic() - began_s

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """As it is, and a note."""
        super().on_trial_complete(trial_id, result, error)
        COURSE.note()


def main(arguments: list[str] | None = None) -> int:
    """Measure; the status is 0 if the bars are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="keep the journal here")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        run(options.scratch or Path(folder), options.trials, options.concurrent)
    return report(COURSE, options.trials // 4)


def run(out: Path, num_trials: int, concurrent: int) -> None:
    """The search; `COURSE` has what was measured."""
    resources = Resources(concurrent=concurrent, workers=1)
    start_ray(resources)
    context = SweepContext(tiny(), str(out), str(out / "cache"), resources, pool=EmptySlots(concurrent))
    searcher = TimedSearch(SearchSpace(metric_space, tiny()), open_journal(out))
    scheduler, limits = make_scheduler(EPOCHS, []), Limits(resources=resources)
    run_tuner(searcher, context, num_left=num_trials, num_trials=num_trials, limits=limits, scheduler=scheduler)
    ray.shutdown()


def report(course: Course, count: int) -> int:
    """Print what was measured, and what was reached."""
    first, last = slice(1, count + 1), slice(-count, None)
    gaps = [after - before for before, after in pairwise(course.ended_s)]
    work = [after - before for before, after in pairwise(course.cpu_s)]
    proposals = [after - before for before, after in pairwise(course.proposed_s)]
    rest = [gap - proposal for gap, proposal in zip(gaps, proposals, strict=True)]
    measured = {"wall clock": gaps, "of that Optuna's proposals": proposals, "CPU of the sweep's own process": work}
    for what, steps in measured.items():
        quarters = [mean(steps[i : i + count]) for i in range(0, len(steps) - count // 2, count)]
        print(f"{what}, s per trial, by quarter:", *(f"{each:.3f}" for each in quarters))
    (early, late), (rest_early, rest_late) = ((mean(each[:count]), mean(each[-count:])) for each in (gaps, rest))
    grown = (mean(course.held_mb[last]) - mean(course.held_mb[first])) / (len(course.held_mb) - count)
    most = [max(course.num_processes[part]) for part in (first, last)]
    reached = [
        ("seconds_per_trial_in_the_last_quarter", late, early, BAR_RATIO, late <= BAR_RATIO * early),
        ("the_same_without_proposals", rest_late, rest_early, BAR_RATIO, rest_late <= BAR_RATIO * rest_early),
        ("megabytes_per_trial", grown, BAR_MB, 1.0, grown <= BAR_MB),
        ("processes_in_the_last_quarter", most[1], most[0], 1.0, most[1] <= most[0]),
    ]
    for claim, value, peer, bar, is_ok in reached:
        print(
            f"RESULT {claim} value={value:.3f} peer={peer:.3f} ratio={value / peer:.2f} bar={bar:.2f} "
            f"{'ok' if is_ok else 'short'}"
        )
    return 0 if all(is_ok for *_, is_ok in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
