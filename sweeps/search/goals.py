"""What a sweep maximises: one aggregate of GEO_MEAN, or the GEO_MEAN of every species group at once. No Ray, no torch.

record of a trial → values for Optuna; records → the Pareto front, of which one trial is picked.
"""

import argparse
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna

from reid_core.files.escape import escape_line
from reid_core.metrics.summary import format_interval
from sweeps.results.journal import Record

EACH_GROUP = "each_group"
AGGREGATES = ("mean_of_groups", "pooled", "worst_group")  # values of `threshold.objective`
SAMPLERS = ("tpe", "nsga2", "random")
POPULATION = 10  # of NSGA-II: a sweep has tens of trials, Optuna's 50 would be one generation
Sampler = Literal["tpe", "nsga2", "random"]


def add_goal_flags(parser: argparse.ArgumentParser) -> None:
    """`--objective` and `--sampler`."""
    parser.add_argument(
        "--objective",
        choices=(*AGGREGATES, EACH_GROUP),
        help="what is maximised: the mean GEO_MEAN over the groups (default), the pooled one (the paper), that of the "
        "worst group, or each group's at once: no trial is pruned then, the Pareto front is printed, and of that "
        "the trial with the best threshold.objective is picked",
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, default="tpe", help="Optuna's: tpe (default), nsga2 or random; pruning stays"
    )


@dataclass(frozen=True)
class Goals:
    """What is maximised, and which of Optuna's samplers proposes."""

    groups: tuple[str, ...] = ()  # whose GEO_MEAN is maximised, all at once; none: the trial's objective
    sampler: Sampler = "tpe"

    @property
    def directions(self) -> list[str]:
        """For Optuna: one per goal."""
        return ["maximize"] * max(1, len(self.groups))

    def values(self, record: Record) -> list[float] | None:
        """A completed trial's value for each goal; None unless it completed.

        A group without known or without new animals has no GEO_MEAN in any trial of a sweep, and counts 0.
        """
        if record.objective is None:
            return None
        if not self.groups:
            return [record.objective]
        return [record.metrics.get(f"geo_mean.{group}", 0.0) for group in self.groups]

    def make_sampler(self, seed: int, num_known: int) -> optuna.samplers.BaseSampler:
        """The sampler. A resumed sweep has a generator of its own: the first one's would propose again what is known.

        TPE models parameters together, copes with conditional ones, and spreads concurrent trials.
        """
        own_seed = seed + num_known
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=own_seed)
        if self.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=own_seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=own_seed)


def find_front(records: Sequence[Record], goals: Goals) -> list[Record]:
    """The completed trials that no other one beats in every goal (and in one of them clearly), in their order."""
    completed = [record for record in records if record.objective is not None]
    value_TG = np.array([goals.values(record) for record in completed], dtype=float)
    at_least_TT = (value_TG[:, None] >= value_TG).all(axis=2) if len(completed) else np.zeros((0, 0), dtype=bool)
    beats_TT = at_least_TT & ~at_least_TT.T
    is_beaten_T: np.ndarray = np.any(beats_TT, axis=0)
    return [record for record, is_beaten in zip(completed, is_beaten_T, strict=True) if not is_beaten]


def pick(records: Sequence[Record], goals: Goals) -> Record | None:
    """The completed trial with the largest objective (`threshold.objective`), of the Pareto front where there is one.

    The first of equals; None if no trial completed.
    """
    candidates = find_front(records, goals) if goals.groups else [r for r in records if r.objective is not None]
    return max(candidates, key=lambda record: record.objective or -math.inf, default=None)


def format_front(records: Sequence[Record], goals: Goals) -> str:
    """The Pareto front as a table, best objective first; every group with its 95 % interval."""
    front = sorted(find_front(records, goals), key=lambda record: -(record.objective or 0.0))
    lines = [
        f"{'Pareto front':<14}" + "".join(f"{escape_line(group):>24}" for group in goals.groups) + f"{'objective':>12}"
    ]
    for record in front:
        spans = [
            format_interval(*(record.metrics.get(f"geo_mean_{end}.{group}") for end in ("low", "high")))
            for group in goals.groups
        ]
        values = "".join(
            f"{value:>9.3f}{span:>15}" for value, span in zip(goals.values(record) or (), spans, strict=True)
        )
        lines.append(f"{record.name:<14}{values}{record.objective:>12.4f}")
    return "\n".join(lines)
