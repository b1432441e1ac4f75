"""What Ray Tune reports of its trials, written into the journal.

reports by Tune's own trial id → `Record`s.
"""

import math
from typing import Any

from reid_core.metrics.epoch_report import FED, SCORE
from sweeps.machines.limits import Limits
from sweeps.results.journal import STEP, Journal, Record
from sweeps.search.goals import Goals
from sweeps.search.suggestion import EPOCH_ZERO, FAILED, FINAL, UNSCORED

REPORTED = ("epoch", "loss", "gradient_norm", "mean_cosine", "seconds", "peak_memory_gb", SCORE, *FED)
MEASURED = ("loss_", "accuracy_", "classifier_accuracy_")  # beginnings of what else may be in an epoch's report
UNLIMITED, ONE_GOAL = Limits(), Goals()


class JournalWriter:
    """Keeps the records of the trials that Tune runs, by Tune's own id of each, and writes them into the journal."""

    def __init__(self, journal: Journal, limits: Limits) -> None:
        self.journal, self.limits = journal, limits
        self.records: dict[str, Record] = {}
        self._counted_s: dict[str, float] = {}  # seconds of this session that the record has already

    def begin(self, trial_id: str, new: Record) -> None:
        """Write down that a trial starts, or goes on if the journal knows its name: before it runs."""
        record = self.records[trial_id] = self.journal.find(new.name) or new
        record.status, record.reason = "running", ""
        self._counted_s[trial_id] = 0.0
        self.journal.write(record)

    def add_report(self, trial_id: str, result: dict) -> bool:
        """Add an epoch's report; False for the final report and for an epoch that is known already."""
        record = self.records[trial_id]
        record.epoch_zero = _nested(result, EPOCH_ZERO) or record.epoch_zero
        if "loss" not in result or any(report["epoch"] == result["epoch"] for report in record.reports):
            return False
        record.reports.append(_report(result))
        record.step |= {key: result[key] for key in STEP if key in result}
        self._count_time(trial_id, result)
        self.journal.write(record)
        return True

    def end(self, trial_id: str, result: dict, *, error: bool) -> Record:
        """Close the record; one that the sweep's limits have ended stays "running", for a sweep with other limits."""
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
        """Add what has passed since the last report; Tune counts from its own start of the trial, its last one.

        A trial whose Tune process or slot was killed is started again, and its clock with it.
        """
        if "time_total_s" not in result:
            return
        total_s, counted_s = result["time_total_s"], self._counted_s[trial_id]
        self._counted_s[trial_id] = total_s
        self.limits.count(self.records[trial_id], total_s - counted_s if total_s >= counted_s else total_s)


def _close(record: Record, result: dict, *, error: bool) -> None:
    record.retries += int(result.get("retries", 0))
    record.step |= {key: result[key] for key in STEP if key in result}
    objective = result.get("objective")
    record.epoch_zero = _nested(result, EPOCH_ZERO) or record.epoch_zero
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
        # A trial that was killed between its checkpoint and our record of it knows more epochs than the journal.
        record.reports = [_report(report) for report in result["history"]]


def _report(result: dict) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key in REPORTED or key.startswith(MEASURED)}


def _metrics(result: dict) -> dict[str, float]:
    """The defined metrics of a final report."""
    return {key: value for key, value in _nested(result, "metrics").items() if not math.isnan(value)}


def _nested(result: dict, name: str) -> dict[str, Any]:
    """A nested dictionary of a report, which Tune flattens with slashes; empty if it is not there."""
    return {key.removeprefix(f"{name}/"): value for key, value in result.items() if key.startswith(f"{name}/")}
