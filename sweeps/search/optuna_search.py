"""The searchers: Ray's OptunaSearch with the journal as its memory, and one that runs a fixed list of trials.

journal → Optuna study → suggestions; results → journal and study.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from reid_core.config.parameters import TrialConfig
from reid_core.training.trainer import SCORE
from sweeps.machines.limits import Limits
from sweeps.results.journal import Journal, Record
from sweeps.search.goals import Goals
from sweeps.search.notes import ONE_GOAL, UNLIMITED, Notes
from sweeps.search.priors import Prior
from sweeps.search.space import Space, base_point, distributions

STUDY = "sweep"
TRIAL = "trial-"  # beginning of the names
SOURCE = "source"  # Optuna user attribute: where a prior, or the point of a trial, comes from
NAME = "name"  # Optuna user attribute: the record that a re-enqueued trial continues
STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "infeasible": TrialState.FAIL,
}


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


def epoch_scores(records: Iterable[Record]) -> Iterable[tuple[str, int, float]]:
    """(name, epoch, score) of every report of the ended trials, for a scheduler that must remember them."""
    for record in records:
        if record.status != "running":
            yield from ((record.name, report["epoch"], report[SCORE]) for report in record.reports)
