"""Best score after so many trained epochs, on recorded learning curves: random, TPE, and TPE with ASHA.

    python benchmarks/search.py                    # 101 repetitions: about two minutes; also draws search.png

`configurations.parquet` (`record_configurations.py`) holds the learning curves of 257 configurations. The search is
restricted to them: each suggestion becomes the nearest recorded configuration that the repetition has not tried, in
coordinates where each searched key runs from 0 to 1, and the sampler learns the values and scores of that one. Sampler
and scheduler are the sweep's own; so are the first trial (the preset) and what Optuna learns of a pruned trial. Two
trials run at a time, epoch by epoch in turn. A trial's score is that of its best epoch; a pruned trial has none.

Bias: nothing between the recorded configurations can be found, and close to a good one there are few, so TPE gains less
than in the open space; the noise of training is frozen, so no score can be confirmed or refuted.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
from matplotlib.ticker import MultipleLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.schedulers import TrialScheduler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, override
from reid_core.metrics.epoch_report import SCORE
from sweeps.comparison.figure_parts import Series, add_legend, draw_lines, make_panels, save_png
from sweeps.search.goals import Goals
from sweeps.search.space import SearchSpace, metric_space
from sweeps.stages.run_search import make_scheduler

RECORD = Path(__file__).with_name("configurations.parquet")
RANDOM, TPE, OURS = "random", "TPE", "TPE + ASHA"
SIDES: dict[str, tuple[Callable[[int], optuna.samplers.BaseSampler], bool]] = {  # sampler of a seed, pruning
    RANDOM: (lambda seed: optuna.samplers.RandomSampler(seed=seed), False),
    TPE: (lambda seed: Goals().make_sampler(seed, 0), False),
    "random + ASHA": (lambda seed: optuna.samplers.RandomSampler(seed=seed), True),
    OURS: (lambda seed: Goals().make_sampler(seed, 0), True),
}
BAR = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Table:
    """The record. Letters: C configurations, E epochs, D searched keys.

    Attributes:
        base: The preset that all configurations start from; the first of them.
        values: Searched values of each configuration by dotted key.
        unit_CD: The same between 0 and 1; 0.5 where a key does not apply.
        score_CE: Score of each configuration after each epoch.
        known: Distributions of all searched keys.
    """

    base: TrialConfig
    values: list[dict[str, Any]]
    unit_CD: np.ndarray
    score_CE: np.ndarray
    known: dict[str, BaseDistribution]


def load_table(path: Path) -> Table:
    """The table of a record."""
    record = pq.read_table(path)
    rows, shared = record.to_pylist(), json.loads(record.schema.metadata[b"shared"])
    keys = [key for key in flatten(TrialConfig()) if key in record.column_names]
    preset = {key: value for key, value in rows[0].items() if key in keys and value is not None}
    base = override(TrialConfig(), shared | preset)
    known = SearchSpace(metric_space, base).all_distributions()
    values = [{key: row[key] for key in keys if row[key] is not None} for row in rows]
    return Table(
        base=base,
        values=values,
        unit_CD=np.array([place(one, known) for one in values]),
        score_CE=np.array([row[SCORE] for row in rows]),
        known=known,
    )


def place(values: dict[str, Any], known: dict[str, BaseDistribution]) -> list[float]:
    """Coordinates between 0 and 1 of searched values, (D,)."""
    return [place_one(distribution, values[key]) if key in values else 0.5 for key, distribution in known.items()]


def place_one(distribution: Any, value: Any) -> float:
    """A choice by its position among the choices, a number by its position in its range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value) / max(1, len(distribution.choices) - 1)
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = np.log([low, high, value])
    return float((value - low) / (high - low))


@dataclass(kw_only=True)
class Running:
    """A trial that trains: what was suggested, what is trained instead, and how far it is."""

    suggested: optuna.Trial
    index: int  # of the configuration
    epochs: int = 0


class Search:
    """A sweep on the table."""

    def __init__(self, table: Table, sampler: optuna.samplers.BaseSampler, *, pruning: bool) -> None:
        self.table, self.pruning = table, pruning
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.space = SearchSpace(metric_space, table.base)
        self.study.enqueue_trial(self.space.base_point())
        self.scheduler = make_scheduler(table.score_CE.shape[1], [])
        self.scheduler.set_search_properties(SCORE, "max")
        self.untried_C = np.ones(len(table.values), dtype=bool)

    def start(self) -> Running:
        """The next trial: the nearest untried configuration to what the sampler suggests."""
        suggested = self.study.ask()
        unit_D = np.array(place(self.space.suggest(suggested), self.table.known))
        gap_C = np.where(self.untried_C, ((self.table.unit_CD - unit_D) ** 2).sum(axis=1), np.inf)
        index = int(gap_C.argmin())
        self.untried_C[index] = False
        self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=index))  # type: ignore[arg-type]
        return Running(suggested=suggested, index=index)

    def train_epoch(self, trial: Running) -> TrialState:
        """One more epoch: the state that the trial has then."""
        trial.epochs += 1
        score_E = self.table.score_CE[trial.index]
        result = {"epoch": trial.epochs, SCORE: score_E[trial.epochs - 1]}
        decision = self.scheduler.on_trial_result(None, SimpleNamespace(trial_id=trial.index), result)  # type: ignore[arg-type]
        if self.pruning and decision == TrialScheduler.STOP:
            return TrialState.PRUNED
        return TrialState.COMPLETE if trial.epochs == len(score_E) else TrialState.RUNNING

    def end(self, trial: Running, state: TrialState) -> float:
        """Give Optuna the configuration that was trained, in place of the suggested one; its score, if complete."""
        table, values = self.table, self.table.values[trial.index]
        score_E = table.score_CE[trial.index, : trial.epochs]
        score = float(score_E.max()) if state == TrialState.COMPLETE else None
        self.study.tell(trial.suggested, state=TrialState.FAIL)  # a failed trial teaches TPE nothing
        self.study.add_trial(
            create_trial(
                state=state,
                value=score,
                params=values,
                distributions={key: table.known[key] for key in values},
                intermediate_values=dict(enumerate(score_E.tolist(), start=1)),
            )
        )
        return -np.inf if score is None else score


def run_search(search: Search, budget: int, concurrent: int) -> np.ndarray:
    """Best score of a complete trial after n trained epochs, n from 0 to `budget`; -inf before the first."""
    best = np.full(budget + 1, -np.inf)
    running = [search.start() for _ in range(concurrent)]
    for count in range(1, budget + 1):
        trial = running.pop(0)
        state = search.train_epoch(trial)
        if state == TrialState.RUNNING:
            running.append(trial)
        else:
            best[count:] = max(best[count], search.end(trial, state))
            running.append(search.start())
    return best


def first_reaching(best_N: np.ndarray, target: float) -> int | None:
    """Trained epochs until the best score reaches the target; None if it never does."""
    return int(np.argmax(best_N >= target)) if best_N[-1] >= target else None


def draw(median_of: dict[str, np.ndarray], target: float, path: Path) -> None:
    """The curves, with random's final best as a line across."""
    figure, (axes,) = make_panels(1, "Best score after so many trained epochs")
    lines = draw_lines(axes, [Series(name, np.arange(len(best_N)), best_N) for name, best_N in median_of.items()])
    axes.axhline(target, color="black", linewidth=0.8, zorder=1)
    axes.set_xlim(0, len(median_of[RANDOM]) - 1)
    axes.xaxis.set_major_locator(MultipleLocator(len(median_of[RANDOM]) // 8))
    axes.set(xlabel="trained epochs, all trials together", ylabel=f"best {SCORE}, median over repetitions")
    axes.grid(True, color="0.9")
    add_legend(figure, lines, list(median_of), below=True)
    save_png(figure, path)


def report(table: Table, best_of: dict[str, np.ndarray]) -> None:
    """Print curves, epochs to random's final best, and the claim; `best_of` has (repetitions, N) per side."""
    median_of = {name: np.median(best_RN, axis=0) for name, best_RN in best_of.items()}
    budget, target = len(median_of[RANDOM]) - 1, float(median_of[RANDOM][-1])
    final_C = np.sort(table.score_CE.max(axis=1))[::-1]
    print(f"{len(final_C)} configurations: preset {table.score_CE[0].max():.4f}, best ones {np.round(final_C[:5], 4)}")
    columns = [budget * share // 12 for share in (1, 2, 3, 4, 6, 8, 10, 12)]
    print(f"{'best score after epochs':<24}" + "".join(f"{column:>8}" for column in columns))
    for name, best_N in median_of.items():
        print(f"{name:<24}" + "".join(f"{best_N[column]:8.4f}" for column in columns))
    for name, best_RN in best_of.items():
        reached = first_reaching(median_of[name], target)
        share = (best_RN[:, budget // 3] >= target).mean()
        print(
            f"{name} reaches {target:.4f} after {reached if reached is not None else f'more than {budget}'} epochs "
            f"(median); after {budget // 3} in {share:.0%} of the repetitions"
        )
    draw({name: median_of[name] for name in (RANDOM, TPE, OURS)}, target, RECORD.with_name("search.png"))
    value = first_reaching(median_of[OURS], target)
    ratio = value / budget if value is not None else np.inf
    print(
        f"RESULT search_epochs value={value if value is not None else 'never'} peer={budget} ratio={ratio:.3f} "
        f"bar={BAR:.3f} {'ok' if ratio <= BAR else 'short'}"
    )


def main() -> None:
    """Replay, print the curves and the claim, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--repetitions", type=int, default=101)
    parser.add_argument("--trials", type=int, default=50, help="complete trials that the budget of epochs pays for")
    parser.add_argument("--concurrent", type=int, default=2)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = load_table(options.record)
    budget = options.trials * table.score_CE.shape[1]
    best_of: dict[str, list[np.ndarray]] = {name: [] for name in SIDES}
    for seed in range(options.repetitions):
        for name, (make, pruning) in SIDES.items():
            search = Search(table, make(seed), pruning=pruning)
            best_of[name].append(run_search(search, budget, options.concurrent))
    report(table, {name: np.stack(curves) for name, curves in best_of.items()})


if __name__ == "__main__":
    main()
