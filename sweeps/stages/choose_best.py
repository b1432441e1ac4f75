"""Which configuration a sweep chooses: by its search, by the confirmation, and after training on with the best.

records of the search → `Found`, and how it was found as text.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid_core.errors import UserError
from sweeps.machines.limits import Limits
from sweeps.results.journal import Record
from sweeps.results.result_folder import TRIAL_TABLE
from sweeps.results.trial_table import best_record, describe_online, format_failures, write_trials
from sweeps.search.goals import Goals, format_front, pick
from sweeps.stages.confirm_best import Confirmation, UnconfirmedError, confirm_best, format_confirmation
from sweeps.stages.definition import Sweep
from sweeps.stages.run_search import count_left
from sweeps.stages.train_online import continue_online
from sweeps.trials.context import SweepContext

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a sweep has found."""

    records: list[Record]  # of the search, and of the training that went on with its best
    best: Record
    confirmation: Confirmation | None  # None: the result is unconfirmed
    unconfirmed: str  # why; empty if it is confirmed
    ended: str | None  # why the search ended before its last trial

    @property
    def is_trained_on(self) -> bool:
        """Whether the best trial is one that went on after the confirmation."""
        return self.confirmation is not None and self.best.name != self.confirmation.best.name

    @property
    def runs(self) -> list[Record]:
        """Trainings of the best configuration: those that confirmed it, else the one that found it."""
        return self.confirmation.winning_runs if self.confirmation else [self.best]

    def describe_confirmation(self) -> dict[str, Any]:
        """What result.json holds of it."""
        if self.confirmation is None:
            return {"status": "unconfirmed", "reason": self.unconfirmed}
        status = "trained on since" if self.is_trained_on else "confirmed"
        return {"status": status, **self.confirmation.describe()}


def choose_best(sweep: Sweep, context: SweepContext, records: list[Record], limits: Limits, goals: Goals) -> Found:
    """The best configuration by the search, by the confirmation if there is one, and trained on if that was asked for.

    Args:
        sweep: Its definition.
        context: Of its trials.
        records: Of the search.
        limits: Of the search and what comes after it.
        goals: What was maximised.

    Raises:
        UserError: If no trial completed; lists why.
    """
    table = Path(context.out) / TRIAL_TABLE
    write_trials(table, records, sweep.base)
    reason = why_ended(sweep, records, limits)
    best = pick(records, goals)
    if best is None:
        raise UserError(f"no trial was completed{f' ({reason})' if reason else ''}:\n{format_failures(records)}")
    confirmation, unconfirmed = None, ""
    try:
        confirmation = confirm_best(records, best, context, sweep.confirm, limits)
        best = confirmation.best
    except UnconfirmedError as error:
        unconfirmed = str(error)
        logger.warning("unconfirmed: %s", unconfirmed)
    online = continue_online(best, context, sweep.then_online) if sweep.then_online is not None else None
    if online is not None:
        logger.info("%s", describe_online(best, online))
        records = [*records, online]
        write_trials(table, records, sweep.base)
        best = best_record([best, online]) or best
    return Found(records=records, best=best, confirmation=confirmation, unconfirmed=unconfirmed, ended=reason)


def why_ended(sweep: Sweep, records: list[Record], limits: Limits) -> str | None:
    """Why the search ended before its last trial; None if it did not."""
    if sum(record.has_ended for record in records) >= sweep.num_trials:
        return None
    reason = sweep.search_limits(limits).reached(records)
    if reason is None and not count_left(sweep, records):
        number = sweep.space.num_configurations()
        reason = "the only configuration was tried" if number == 1 else f"all {number} configurations were tried"
    if reason:
        logger.warning("the search has ended: %s", reason)
    return reason


def describe_choice(found: Found, goals: Goals) -> list[str]:
    """How the best configuration was chosen, for people."""
    notes = [f"the search ended before --trials: {found.ended}"] if found.ended else []
    if goals.groups:
        notes.append(format_front(found.records, goals))
    if found.confirmation:
        notes.append(format_confirmation(found.confirmation))
        if found.is_trained_on:
            notes.append(f"{found.best.name} was trained on after the confirmation, which says nothing of it")
        return notes
    too_high = "the score of the best trial is the largest of many, and too high"
    return [*notes, f"unconfirmed ({found.unconfirmed}): {too_high}"]
