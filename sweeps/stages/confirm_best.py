"""Confirmation: the best configurations are run again, with other seeds on fresh splits, and those runs choose.

records of the search → further trials in OUT/confirm → scores of configurations × runs → winner. The search's own
best score is the largest of many noisy ones; a confirmed one is not.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reid_core.errors import UserError
from reid_core.experiment.prepare import prepare_fresh_split
from reid_core.metrics.confirmation import Confirmed, confirm
from sweeps.machines.limits import Limits
from sweeps.results.journal import Record
from sweeps.results.result_folder import CONFIRM
from sweeps.search.optuna_search import PRESET
from sweeps.search.suggestion import Suggestion
from sweeps.stages.flags import LEAST_RUNS, ConfirmSettings
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_fixed

logger = logging.getLogger(__name__)


class UnconfirmedError(Exception):
    """Nothing was confirmed, for the reason that the message gives."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A confirmation that has ended. Letters: C candidates, R runs."""

    best: Record  # the winner, completed on the sweep's own split: its model is the one to export
    candidates: list[Record]
    score_CR: np.ndarray  # objective of each candidate in each run, NaN where it failed
    confirmed: Confirmed
    winning_runs: list[Record]

    def describe(self) -> dict[str, Any]:
        """What result.json holds of it."""
        rows = zip(self.candidates, self.score_CR, strict=True)
        runs = {candidate.name: [_or_none(value) for value in score_R] for candidate, score_R in rows}
        numbers = {name: _or_none(value) for name, value in asdict(self.confirmed).items() if isinstance(value, float)}
        return {"winner": self.candidates[self.confirmed.winner].name, **numbers, "runs": runs}


def confirm_best(
    records: Sequence[Record], best: Record, context: SweepContext, settings: ConfirmSettings, limits: Limits
) -> Confirmation:
    """Confirm what a search has found; what ran before is not repeated.

    Args:
        records: Of the search.
        best: What the search alone would choose.
        context: Of the search.
        settings: How many configurations, and how often.
        limits: Of the sweep; the hours of the search are spent already.

    Raises:
        UnconfirmedError: If it is switched off, a limit ended it before two runs of each, or all runs failed.
    """
    if not settings.num_best:
        raise UnconfirmedError("--confirm 0")
    if reason := limits.reached(records):
        raise UnconfirmedError(reason)
    candidates = choose_candidates(records, best, settings.num_best)
    confirming, limits = replace(context, out=str(Path(context.out) / CONFIRM)), limits.after(records)
    runs = run_fixed(make_suggestions(candidates, context, settings.num_runs), confirming, limits=limits)
    num_runs = count_whole_runs(candidates, runs, settings.num_runs)
    if num_runs < settings.num_runs:
        reason = f"{num_runs} of {settings.num_runs} runs of each ended before {limits.reached(list(runs.values()))}"
        if num_runs < LEAST_RUNS:
            raise UnconfirmedError(reason)
        logger.warning("%s", reason)
    score_CR = scores_of(candidates, runs, num_runs)
    try:
        confirmed = confirm(
            score_CR,
            preset=_find_preset(candidates),
            search_C=[_score(each) for each in candidates],
            epoch_zero_CR=scores_of(candidates, runs, num_runs, "epoch0"),
        )
    except UserError as error:
        raise UnconfirmedError(str(error)) from error
    winner = candidates[confirmed.winner]
    names = [run_name(winner, number) for number in range(1, num_runs + 1)]
    return Confirmation(
        best=_complete(winner, confirming),
        candidates=candidates,
        score_CR=score_CR,
        confirmed=confirmed,
        winning_runs=[runs[name] for name in names if runs[name].reports],
    )


def choose_candidates(records: Sequence[Record], best: Record, num_best: int) -> list[Record]:
    """The search's choice, the completed trials next best by objective, and the preset, however it ended."""
    others = [record for record in records if record.objective is not None and record.name != best.name]
    chosen = [best, *sorted(others, key=lambda record: -(record.objective or 0.0))][:num_best]
    preset = [record for record in records if record.name == PRESET and record not in chosen]
    return chosen + preset


def make_suggestions(candidates: Sequence[Record], context: SweepContext, num_runs: int) -> list[Suggestion]:
    """The trials of a confirmation, run by run, so that an early end leaves whole runs; prepares their fresh splits."""
    suggestions = []
    for number in range(1, num_runs + 1):
        split = prepare_fresh_split(Path(context.cache), number, context.base)
        seed = {"seed": context.base.seed + number}
        for each in candidates:
            suggestions.append(
                Suggestion(name=run_name(each, number), parameters=each.parameters | seed, cache=str(split))
            )
    return suggestions


def count_whole_runs(candidates: Sequence[Record], runs: dict[str, Record], num_runs: int) -> int:
    """How many runs, from the first on, have ended for every candidate."""
    ended = {name for name, run in runs.items() if run.has_ended}
    for number in range(1, num_runs + 1):
        if not all(run_name(each, number) in ended for each in candidates):
            return number - 1
    return num_runs


def run_name(candidate: Record, number: int) -> str:
    """Name of one run of a candidate."""
    return f"{candidate.name}-run{number}"


def scores_of(
    candidates: Sequence[Record], runs: dict[str, Record], num_runs: int, metric: str = "objective"
) -> np.ndarray:
    """A metric of each candidate in each run; NaN where a run failed, or has no such metric; shape (C, R)."""
    names = [[run_name(candidate, number) for number in range(1, num_runs + 1)] for candidate in candidates]
    return np.array([[runs[name].metrics.get(metric, np.nan) for name in row] for row in names], dtype=float)


def format_confirmation(confirmation: Confirmation) -> str:
    """For people: every candidate's runs, the winner's score with its interval, and what the search had promised."""
    confirmed, num_runs = confirmation.confirmed, confirmation.score_CR.shape[1]
    lines = [f"confirmation: {num_runs} runs of each, with other seeds on fresh splits of availableSet"]
    lines.append(f"{'trial':<12}{'search':>8}{'mean':>8}  runs")
    for candidate, mean, score_R in zip(confirmation.candidates, confirmed.mean_C, confirmation.score_CR, strict=True):
        runs = " ".join(f"{score:.3f}" for score in score_R)
        preset = "  (the preset)" if candidate.name == PRESET else ""
        lines.append(f"{candidate.name:<12}{_score(candidate):>8.3f}{mean:>8.3f}  {runs}{preset}")
    winner = confirmation.candidates[confirmed.winner]
    lines.append(f"{winner.name} wins")
    lines.append(_format_span("score, by runs that did not choose it", confirmed, "score"))
    if winner.name != PRESET:
        lines.append(_format_span("difference to the preset", confirmed, "difference", sign="+"))
    if not np.isnan(confirmed.gain):
        lines.append(_format_span("gain over the frozen backbone (epoch 0)", confirmed, "gain", sign="+"))
    lines.append(f"  {'selection optimism (search less that)':<40}{confirmed.optimism:+.3f}")
    return "\n".join(lines)


def _format_span(title: str, confirmed: Confirmed, key: str, *, sign: str = "") -> str:
    value, low, high = (getattr(confirmed, key + end) for end in ("", "_low", "_high"))
    return f"  {title:<40}{value:{sign}.3f}  {low:{sign}.3f} … {high:{sign}.3f}"


def _complete(candidate: Record, confirming: SweepContext) -> Record:
    """The candidate's trial on the sweep's own split, run to its end if the search did not (it pruned the preset).

    Raises:
        UnconfirmedError: If it does not complete.
    """
    if candidate.status == "completed":
        return candidate
    name = f"{candidate.name}-full"
    trial = run_fixed([Suggestion(name=name, parameters=candidate.parameters)], confirming)[name]
    if trial.status != "completed":
        raise UnconfirmedError(f"{trial.name}: {trial.status} {trial.reason}")
    return trial


def _find_preset(candidates: Sequence[Record]) -> int:
    return next((row for row, candidate in enumerate(candidates) if candidate.name == PRESET), 0)


def _score(record: Record) -> float:
    return np.nan if record.objective is None else record.objective


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
