"""A searcher that runs a given list of trials, for what no search chooses.

suggestions → Ray Tune's trials, in their order; results → journal.
"""

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from reid_core.errors import UserError
from reid_core.training.trainer import SCORE
from sweeps.machines.limits import Limits
from sweeps.results.journal import Journal, Record
from sweeps.search.notes import UNLIMITED, Notes


class FixedSearch(Searcher):
    """Suggests given trials in their order, those that ended in an earlier session excepted; writes the journal.

    A suggestion has `name`, `parameters` (any keys), and `start` if the trial begins with another one's best weights.
    """

    def __init__(self, suggestions: Sequence[dict[str, Any]], journal: Journal, limits: Limits = UNLIMITED) -> None:
        super().__init__(metric=SCORE, mode="max")
        known = {record.name: record for record in journal.read()}
        for suggestion in suggestions:
            _check_same(suggestion, known.get(suggestion["name"]))
        ended = {name for name, record in known.items() if record.status != "running"}
        self.left = [suggestion for suggestion in suggestions if suggestion["name"] not in ended]
        self._notes = Notes(journal, limits)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """The next trial."""
        if not self.left or self._notes.is_over():
            return Searcher.FINISHED
        suggestion = self.left.pop(0)
        new = Record(suggestion["name"], suggestion["parameters"], start=suggestion.get("start", ""))
        self._notes.begin(trial_id, new)
        return suggestion

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Note an epoch's report."""
        self._notes.note(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Close the record."""
        if self._notes.records[trial_id].status == "running":
            self._notes.note(trial_id, result or {})
            self._notes.end(trial_id, result or {}, error=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is its memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is its memory."""


def _check_same(suggestion: dict[str, Any], known: Record | None) -> None:
    if known and (known.parameters, known.start) != (suggestion["parameters"], suggestion.get("start", "")):
        before, now = known.parameters, suggestion["parameters"]
        different = [key for key in before | now if before.get(key) != now.get(key)] or ["start"]
        raise UserError(
            f"the result folder holds {known.name} with other values ({', '.join(different)}); choose another folder"
        )
