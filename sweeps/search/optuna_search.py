"""The searcher of a sweep: Ray's OptunaSearch with the journal as its memory.

journal → Optuna study → suggestions; results → journal and study.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from reid_core.metrics.epoch_report import SCORE
from sweeps.machines.limits import Limits
from sweeps.results.journal import Journal, Record
from sweeps.search.goals import Goals
from sweeps.search.journal_writer import ONE_GOAL, UNLIMITED, JournalWriter
from sweeps.search.priors import Prior
from sweeps.search.space import SearchSpace
from sweeps.search.suggestion import Suggestion

STUDY = "sweep"
TRIAL = "trial-"  # beginning of the names
PRESET = f"{TRIAL}0000"  # the base's own values
SOURCE = "source"  # Optuna user attribute: where a prior, or the point of a trial, comes from
PATIENCE = 10  # proposals in a row whose results are known
PATIENCE_LEFT_OUT = 100  # proposals in a row that no trial can have
DRAWS = 1000  # by chance, from a space too large to be counted
MEMORY = "gpu_memory_gb"  # Optuna constraint: what a worker's GPU lacks
NAME = "name"  # Optuna user attribute: the record that a re-enqueued trial continues
STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "infeasible": TrialState.FAIL,
}


class JournalSearch(OptunaSearch):
    """OptunaSearch for which a trial that a scheduler stopped is pruned, and which writes the journal.

    Ray's own calls such a trial COMPLETE with its early score; here only a trial whose own final report arrived is
    complete. `_ot_trials`, `_ot_study`, `_completed_trials` are private names of Ray 2.60 (a test guards them).
    """

    def __init__(
        self,
        space: SearchSpace,
        journal: Journal,
        limits: Limits = UNLIMITED,
        goals: Goals = ONE_GOAL,
        priors: Sequence[Prior] = (),
    ) -> None:
        """Rebuild the study.

        Args:
            space: Of the sweep; its base is the first trial.
            journal: What is known of the sweep's trials, and gets to be known.
            limits: End the sweep early.
            goals: What is maximised.
            priors: Results from elsewhere. Those with `is_tried` are the trials after the first.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._writer, self._goals, known = JournalWriter(journal, limits), goals, journal.read()
        self._ot_study: optuna.Study  # type: ignore[assignment]
        super().__init__(
            space.suggest,
            metric=[SCORE] * len(goals.directions),
            mode=["max"] * len(goals.directions),
            storage=optuna.storages.InMemoryStorage(),
            study_name=STUDY,
            # With the same seed the search would draw what another group has drawn, and what is tried first here.
            sampler=goals.make_sampler(space.base.seed, len(known) + len(priors)),
        )
        for prior in (prior for prior in priors if prior.values):
            self._ot_study.add_trial(
                create_trial(
                    values=prior.values,
                    params=prior.parameters,
                    distributions=space.distributions(prior.parameters),
                    user_attrs={SOURCE: prior.source},
                )
            )
        for record in known:
            self._remember(record, space.distributions(record.parameters))
        self._searched, self._random = space, random.Random(space.base.seed + len(known))
        # Name of the first trial of each configuration.
        self._tried = {space.identify(record.parameters): record.name for record in reversed(known)}
        self._next = 1 + max((int(record.name.removeprefix(TRIAL)) for record in known), default=-1)
        self._enqueue_first(space.base_point(), known, priors)

    def _enqueue_first(self, own: dict[str, Any], known: Sequence[Record], priors: Sequence[Prior]) -> None:
        """Enqueue the sweep's first trials as far as they have not begun: the base's own point, then the priors'."""
        tried = [(prior.source, prior.parameters) for prior in priors if prior.is_tried and prior.parameters != own]
        first = [("", own), *tried]
        if known and known[0].name != PRESET:  # its record was lost: what all are compared with runs again
            self._ot_study.enqueue_trial(own, user_attrs={NAME: PRESET, SOURCE: ""})
        for source, point in first[self._next :]:
            self._ot_study.enqueue_trial(point, user_attrs={SOURCE: source})

    def _remember(self, record: Record, known: dict[str, BaseDistribution]) -> None:
        """Put an ended trial into the study, and enqueue one that was interrupted."""
        attributes = {NAME: record.name, SOURCE: record.source}
        if not record.has_ended:
            self._ot_study.enqueue_trial(record.parameters, user_attrs=attributes)
            return
        self._ot_study.add_trial(
            create_trial(
                state=_state_of(record),
                constraints=_constraints_of(record),
                values=self._goals.values(record),
                params=record.parameters,
                distributions=known,
                intermediate_values={report["epoch"]: report[SCORE] for report in record.reports},
                user_attrs=attributes,
            )
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """Name and searched values of the next trial; it is in the journal before it starts.

        No configuration is trained twice; the search ends when all have been.
        """
        if self._writer.is_over():
            return Searcher.FINISHED
        parameters = self._propose(trial_id)
        if parameters is None:
            return Searcher.FINISHED
        attributes = self._ot_trials[trial_id].user_attrs
        name = attributes.get(NAME)
        if name is None:
            name, self._next = f"{TRIAL}{self._next:04d}", self._next + 1
        self._tried.setdefault(self._searched.identify(parameters), name)
        self._writer.begin(trial_id, Record(name, parameters, source=attributes.get(SOURCE, "")))
        return Suggestion(name=name, parameters=parameters).to_tune()

    def _propose(self, trial_id: str) -> dict[str, Any] | None:
        """Values that no trial has, or those of an interrupted one; None if there are no others.

        What Optuna proposes again is answered with the known result, and what no trial can have as a failure. A small
        space is soon so well known that its sampler proposes little else: then one of the others is taken by chance.
        """
        num_known, num_left_out = 0, 0
        while True:
            parameters = super().suggest(trial_id) or {}
            twin = self._tried.get(self._searched.identify(parameters))
            if NAME in self._ot_trials[trial_id].user_attrs:
                return parameters
            if twin is None and self._searched.allows(parameters):
                return parameters
            self._answer(self._ot_trials.pop(trial_id), self._writer.journal.find(twin) if twin else None)
            num_known, num_left_out = num_known + (twin is not None), num_left_out + (twin is None)
            if num_known == PATIENCE or num_left_out == PATIENCE_LEFT_OUT:
                num_known, num_left_out = 0, 0
                other = self._draw_untried()
                if other is None:
                    return None
                self._ot_study.enqueue_trial(other)

    def _answer(self, trial: optuna.Trial, known: Record | None) -> None:
        """Report a known result to Optuna.

        Nothing is known of what cannot be tried, of a trial that is running, and of one whose record was deleted.
        """
        values, state = None, TrialState.FAIL
        if known is not None and known.has_ended:
            values, state = self._goals.values(known), _state_of(known)
            _set_constraints(trial, known)
            for report in known.reports if not self._goals.groups else ():
                trial.report(report[SCORE], report["epoch"])
        self._ot_study.tell(trial, values, state=state)

    def _draw_untried(self) -> dict[str, Any] | None:
        """Values that no trial has, by chance; None if there are none, or hardly any can be left."""
        space = self._searched
        listed = space.all_configurations()
        if listed is not None:
            others = [values for values in listed if space.identify(values) not in self._tried]
            return self._random.choice(others) if others else None
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self._random.randrange(2**32)))
        drawn = (space.suggest(study.ask()) for _ in range(DRAWS))
        return next((v for v in drawn if space.allows(v) and space.identify(v) not in self._tried), None)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Write down an epoch's report; the final report is taken at completion."""
        is_new = self._writer.add_report(trial_id, result)
        if is_new and not self._goals.groups:  # Optuna takes no reports for several goals
            self._ot_trials[trial_id].report(result[SCORE], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Close the record; the trial ends for Optuna too, as COMPLETE, PRUNED or FAIL."""
        if trial_id in self._completed_trials:
            return
        self.on_trial_result(trial_id, result or {})  # the report that a trial is stopped at comes only here
        record = self._writer.end(trial_id, result or {}, error=error)
        self._completed_trials.add(trial_id)
        if record.has_ended:
            _set_constraints(self._ot_trials[trial_id], record)
            self._ot_study.tell(self._ot_trials[trial_id], self._goals.values(record), state=_state_of(record))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is its memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is its memory."""


def _state_of(record: Record) -> TrialState:
    """How a trial has ended for Optuna; one that no GPU holds as pruned: samplers learn nothing from a failed one."""
    return STATES[record.status] if record.over_gb is None else TrialState.PRUNED


def _constraints_of(record: Record) -> dict[str, float]:
    """Optuna's constraints of an ended trial: above 0 where it is violated. A sampler then keeps away from there."""
    return {} if record.over_gb is None else {MEMORY: record.over_gb}


def _set_constraints(trial: optuna.Trial, record: Record) -> None:
    for name, value in _constraints_of(record).items():
        trial.set_constraint(name, value)


def epoch_scores(records: Iterable[Record]) -> Iterable[tuple[str, int, float]]:
    """(name, epoch, score) of every report of the ended trials, for a scheduler that must remember them."""
    for record in records:
        if record.has_ended:
            yield from ((record.name, report["epoch"], report[SCORE]) for report in record.reports)
