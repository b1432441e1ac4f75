"""What a person sees of a running sweep: a bar over trials, a line per epoch and per ended trial."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from tqdm import tqdm

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten
from reid_core.metrics.epoch_report import SCORE
from sweeps.results.journal import Journal, Record
from sweeps.results.result_folder import TRIAL_TABLE
from sweeps.results.trial_table import best_record, write_trials
from sweeps.search.suggestion import EPOCH_ZERO, REPEATED, Suggestion

SHOWN = ("loss", "loss_validating", "classifier_accuracy_validating", "accuracy_validating", SCORE)  # of an epoch
TABLE_PAUSE = 20  # times what writing the table took, until it is written again


class Progress(Callback):
    """Shows how a sweep goes, and keeps trials.parquet.

    The table has all that the journal has, as long as to write it costs less than a twentieth of the time. Where
    hundreds of trials end within seconds it is behind until the next report, or the end.
    """

    def __init__(self, num_trials: int, base: TrialConfig, journal: Journal, out: Path) -> None:
        self.num_trials, self.base, self.journal, self.out = num_trials, base, journal, out
        self.bar: tqdm | None = None
        self._is_behind, self._next_table_s = False, 0.0

    def __getstate__(self) -> dict:
        return self.__dict__ | {"bar": None}  # Tune pickles its callbacks now and then

    def _update(self) -> None:
        """Show what has ended, in the bar and in trials.parquet."""
        records = self.journal.read()
        self._is_behind = True
        self._keep_table(records)
        if self.bar is None:
            self.bar = tqdm(total=self.num_trials, desc="trials", unit="trial", disable=None)
        self.bar.n = sum(record.has_ended for record in records)
        best = best_record(records)
        self.bar.set_postfix_str(f"best {best.objective:.4f} ({best.name})" if best else "none completed yet")

    def _keep_table(self, records: Sequence[Record]) -> None:
        began_s = time.monotonic()
        if began_s < self._next_table_s:
            return
        write_trials(self.out / TRIAL_TABLE, records, self.base)
        ended_s = time.monotonic()
        self._is_behind, self._next_table_s = False, ended_s + TABLE_PAUSE * (ended_s - began_s)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial was given to its workers."""
        if self.bar is None:
            self._update()
        base = flatten(self.base)
        values = "  ".join(
            f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in Suggestion.from_tune(trial.config).parameters.items()
            if value != base[key]  # a fixed row may give every key
        )
        tqdm.write(f"{name_of(trial)} started: {values or 'the base itself'}")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """An epoch was reported."""
        if self._is_behind and time.monotonic() >= self._next_table_s:
            self._keep_table(self.journal.read())
        if "loss" in result and REPEATED not in result:
            values = "  ".join(f"{key} {result[key]:.4f}" for key in SHOWN if key in result)
            before = result.get(EPOCH_ZERO, {}).get(SCORE)
            gain = "" if before is None else f" ({result[SCORE] - before:+.4f})"  # over the frozen backbone
            tqdm.write(f"{name_of(trial)} epoch {result['epoch']}: {values}{gain}{_describe_feed(result)}")

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial ended, was stopped, or failed; the searcher has written its record before."""
        self._update()
        ended = self._record(trial)
        outcome = f"objective {ended.objective:.4f}" if ended.objective is not None else ended.reason
        tqdm.write(f"{ended.name} {ended.status} after {len(ended.reports)} epochs  {outcome}")
        num_alone = ended.metrics.get("pairs_scored", 0) - ended.metrics.get("pairs_misses", 0)
        if num_alone:
            tqdm.write(f"{ended.name}: the pair store was lost; {num_alone:.0f} pairs were scored without it")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial's process ended with an error that it could not report itself: Tune knows more than the searcher."""
        record = self._record(trial)
        last_line = str(trial.get_error() or "").strip().splitlines()[-1:]
        record.reason = " ".join([record.reason, *last_line])
        self.journal.write(record)
        self.on_trial_complete(iteration, trials, trial)

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        """All trials have ended, or the run has."""
        self._next_table_s = 0.0
        self._keep_table(self.journal.read())

    def _record(self, trial: Any) -> Record:
        record = self.journal.find(name_of(trial))
        assert record is not None, f"{name_of(trial)} has begun, and so is in the journal"
        return record


def _describe_feed(result: dict) -> str:
    if "images_per_s" not in result:
        return ""
    return f"  {result['images_per_s']:.3g} images/s, {result['data_wait_share']:.0%} of the time waiting for data"


def name_of(trial: Any) -> str:
    """Of a Ray Tune trial our own name, that of its record."""
    return Suggestion.from_tune(trial.config).name
