"""A searcher that runs a given list of trials, for what no search chooses.

suggestions → Ray Tune's trials, in their order; results → journal.
"""

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from reid_core.errors import UserError
from reid_core.metrics.epoch_report import SCORE
from sweeps.machines.limits import Limits
from sweeps.results.journal import Journal, Record
from sweeps.search.journal_writer import UNLIMITED, JournalWriter
from sweeps.search.suggestion import Suggestion


class FixedSearch(Searcher):
    """Suggests given trials in their order, those that ended in an earlier session excepted; writes the journal."""

    def __init__(self, suggestions: Sequence[Suggestion], journal: Journal, limits: Limits = UNLIMITED) -> None:
        super().__init__(metric=SCORE, mode="max")
        known = journal.by_name()
        for suggestion in suggestions:
            _check_same(suggestion, known.get(suggestion.name))
        ended = {name for name, record in known.items() if record.has_ended}
        self.left = [suggestion for suggestion in suggestions if suggestion.name not in ended]
        self._writer = JournalWriter(journal, limits)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """The next trial."""
        if not self.left or self._writer.is_over():
            return Searcher.FINISHED
        suggestion = self.left.pop(0)
        self._writer.begin(trial_id, Record(suggestion.name, suggestion.parameters, start=suggestion.start))
        return suggestion.to_tune()

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Write down an epoch's report."""
        self._writer.add_report(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Close the record."""
        if self._writer.records[trial_id].status == "running":
            self._writer.add_report(trial_id, result or {})
            self._writer.end(trial_id, result or {}, error=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is its memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is its memory."""


def _check_same(suggestion: Suggestion, known: Record | None) -> None:
    if known and (known.parameters, known.start) != (suggestion.parameters, suggestion.start):
        before, now = known.parameters, suggestion.parameters
        different = [key for key in before | now if before.get(key) != now.get(key)] or ["start"]
        raise UserError(
            f"the result folder holds {known.name} with other values ({', '.join(different)}); choose another folder"
        )
