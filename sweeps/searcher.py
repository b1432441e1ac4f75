"""The searchers: Ray's OptunaSearch with the journal as its memory, and one that runs a fixed list of trials.

journal → Optuna study → suggestions; results → journal and study.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from reid_core.config import TrialConfig, UserError
from reid_core.train import SCORE
from sweeps.goals import Goals
from sweeps.journal import Journal, Record
from sweeps.limits import Limits
from sweeps.priors import Prior
from sweeps.space import Space, base_point, distributions

STUDY = "sweep"
TRIAL = "trial-"  # beginning of the names
SOURCE = "source"  # Optuna user attribute: where a prior, or the point of a trial, comes from
NAME = "name"  # Optuna user attribute: the record that a re-enqueued trial continues
FINAL = "final"  # key of the driver's last report
UNSCORED = "unscored"  # key in the last report of a trial that only trains
FAILED = "failed"  # key of the reason, in the last report of a trial that failed
REPORTED = ("epoch", "loss", "seconds", SCORE)
MEASURED = ("loss_", "accuracy_", "classifier_accuracy_")  # beginnings of what else may be in an epoch's report
UNLIMITED, ONE_GOAL = Limits(), Goals()
STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "infeasible": TrialState.FAIL,
}


class Notes:
    """Writes into the journal what Tune tells of its trials, by Tune's own id of each."""

    def __init__(self, journal: Journal, limits: Limits) -> None:
        self.journal, self.limits = journal, limits
        self.records: dict[str, Record] = {}
        self._told_s: dict[str, float] = {}  # seconds of this session that the record has already

    def begin(self, trial_id: str, new: Record) -> None:
        """A trial starts, or goes on if the journal knows its name: it is in the journal before it runs."""
        earlier = {record.name: record for record in self.journal.read()}
        record = self.records[trial_id] = earlier.get(new.name, new)
        record.reason = ""
        self._told_s[trial_id] = 0.0
        self.journal.write(record)

    def note(self, trial_id: str, result: dict) -> bool:
        """Note an epoch's report; False for the final report and for an epoch that is known already."""
        record = self.records[trial_id]
        if "loss" not in result or any(report["epoch"] == result["epoch"] for report in record.reports):
            return False
        record.reports.append(_report(result))
        self._count_time(trial_id, result)
        self.journal.write(record)
        return True

    def end(self, trial_id: str, result: dict, *, error: bool) -> Record:
        """Close the record; one that the sweep's limits have ended stays open, for a sweep with other limits."""
        record = self.records[trial_id]
        self._count_time(trial_id, result)
        if error or result.get(FINAL) or not self.is_over():
            _close(record, result, error=error)
        self.journal.write(record)
        return record

    def is_over(self) -> bool:
        """Whether a limit has ended the sweep."""
        return self.limits.reached(self.journal.read()) is not None

    def _count_time(self, trial_id: str, result: dict) -> None:
        """Add what has passed since the last report; Tune counts from its own start of the trial."""
        record, total_s = self.records[trial_id], result.get("time_total_s", 0.0)
        more_s = max(0.0, total_s - self._told_s[trial_id])
        self._told_s[trial_id] = max(total_s, self._told_s[trial_id])
        self.limits.count(record, more_s)


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


class JournalSearch(OptunaSearch):
    """OptunaSearch that tells Optuna the truth about trials that a scheduler stopped, and writes the journal.

    Ray tells a stopped trial as COMPLETE with its early score; here only a trial whose own final report arrived is
    complete. `_ot_trials`, `_ot_study`, `_completed_trials` are private names of Ray 2.60 (a test guards them).
    """

    def __init__(
        self,
        space: Space,
        base: TrialConfig,
        fixed: frozenset[str],
        journal: Journal,
        limits: Limits = UNLIMITED,
        goals: Goals = ONE_GOAL,
        priors: Sequence[Prior] = (),
    ) -> None:
        """Rebuild the study.

        Args:
            space: Of the sweep; an importable function, bound arguments allowed.
            base: Of the sweep; its own values are the first trial.
            fixed: Dotted keys that are not searched.
            journal: What is known of the sweep's trials, and gets to be known.
            limits: End the sweep early.
            goals: What is maximised.
            priors: Results from elsewhere. Those with `is_tried` are the trials after the first.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._notes, self._goals, known = Notes(journal, limits), goals, journal.read()
        self._ot_study: optuna.Study  # type: ignore[assignment]
        super().__init__(
            partial(space, base=base, fixed=fixed),  # type: ignore[call-arg]
            metric=[SCORE] * len(goals.directions),
            mode=["max"] * len(goals.directions),
            storage=optuna.storages.InMemoryStorage(),
            study_name=STUDY,
            # With the same seed the search would draw what another group has drawn, and what is tried first here.
            sampler=goals.make_sampler(base.seed, len(known) + len(priors)),
        )
        for prior in (prior for prior in priors if prior.values):
            self._ot_study.add_trial(
                create_trial(
                    values=prior.values,
                    params=prior.parameters,
                    distributions=distributions(space, base, fixed, prior.parameters),
                    user_attrs={SOURCE: prior.source},
                )
            )
        for record in known:
            self._remember(record, distributions(space, base, fixed, record.parameters))
        self._next = 1 + max((int(record.name.removeprefix(TRIAL)) for record in known), default=-1)
        own = base_point(space, base, fixed)
        tried = [(prior.source, prior.parameters) for prior in priors if prior.is_tried and prior.parameters != own]
        first = [("", own), *tried]
        if known and known[0].name != f"{TRIAL}0000":  # its record was lost: what all are compared with runs again
            self._ot_study.enqueue_trial(own, user_attrs={NAME: f"{TRIAL}0000", SOURCE: ""})
        for source, point in first[self._next :]:
            self._ot_study.enqueue_trial(point, user_attrs={SOURCE: source})

    def _remember(self, record: Record, known: dict) -> None:
        """Put an ended trial into the study, and enqueue one that was interrupted."""
        attributes = {NAME: record.name, SOURCE: record.source}
        if record.status == "running":
            self._ot_study.enqueue_trial(record.parameters, user_attrs=attributes)
            return
        self._ot_study.add_trial(
            create_trial(
                state=STATES[record.status],
                values=self._goals.values(record),
                params=record.parameters,
                distributions=known,
                intermediate_values={report["epoch"]: report[SCORE] for report in record.reports},
                user_attrs=attributes,
            )
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """Name and searched values of the next trial; it is in the journal before it starts."""
        if self._notes.is_over():
            return Searcher.FINISHED
        parameters = super().suggest(trial_id) or {}
        attributes = self._ot_trials[trial_id].user_attrs
        name = attributes.get(NAME)
        if name is None:
            name, self._next = f"{TRIAL}{self._next:04d}", self._next + 1
        self._notes.begin(trial_id, Record(name, parameters, source=attributes.get(SOURCE, "")))
        return {"name": name, "parameters": parameters}

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Note an epoch's report; the final report is taken at completion."""
        if self._notes.note(trial_id, result) and not self._goals.groups:  # Optuna takes no reports for several goals
            self._ot_trials[trial_id].report(result[SCORE], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Tell Optuna COMPLETE, PRUNED or FAIL, and close the record."""
        if trial_id in self._completed_trials:
            return
        self.on_trial_result(trial_id, result or {})  # the report that a trial is stopped at comes only here
        record = self._notes.end(trial_id, result or {}, error=error)
        self._completed_trials.add(trial_id)
        if record.status in STATES:
            self._ot_study.tell(self._ot_trials[trial_id], self._goals.values(record), state=STATES[record.status])


def _close(record: Record, result: dict, *, error: bool) -> None:
    record.retries += int(result.get("retries", 0))
    objective = result.get("objective")
    if result.get(FINAL) and FAILED in result:
        record.status, record.reason = result["status"], result[FAILED]
    elif error:
        record.status, record.reason = "failed", "the trial's process ended (killed, or out of memory)"
    elif not result.get(FINAL):
        record.status = "pruned"
    elif result.get(UNSCORED):
        record.status, record.checkpoint = "completed", result["checkpoint_path"]
        record.reports = [_report(report) for report in result["history"]]
    elif objective is None or math.isnan(objective):
        record.status, record.reason = "failed", f"the objective is {objective}"
    else:
        record.status, record.checkpoint = "completed", result["checkpoint_path"]
        record.metrics = _metrics(result) | {"objective": objective}
        # A trial that was killed between its checkpoint and our note of it knows more epochs than the journal.
        record.reports = [_report(report) for report in result["history"]]


def _report(result: dict) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key in REPORTED or key.startswith(MEASURED)}


def _metrics(result: dict) -> dict[str, float]:
    """The defined metrics of a final report; Tune flattens its nested dictionaries with slashes."""
    found = {key.removeprefix("metrics/"): value for key, value in result.items() if key.startswith("metrics/")}
    return {key: value for key, value in found.items() if not math.isnan(value)}


def epoch_scores(records: Iterable[Record]) -> Iterable[tuple[str, int, float]]:
    """(name, epoch, score) of every report of the ended trials, for a scheduler that must remember them."""
    for record in records:
        if record.status != "running":
            yield from ((record.name, report["epoch"], report[SCORE]) for report in record.reports)
