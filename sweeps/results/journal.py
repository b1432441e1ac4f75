"""The journal of a sweep: one JSON file per trial, written as it goes, read again to resume. No Ray, no torch.

trials/trial-0007.json ↔ `Record`. It is the only memory of a sweep: searcher, leaderboard and trials.parquet are made
from it.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from reid_core.errors import UserError
from reid_core.files.atomic import replace_file
from reid_core.files.checksums import SEAL, digest_of
from sweeps.results.storage import CONTINUES

SETTLED_NS = (
    100_000_000  # since a file's last change: within a tick of the file system's clock another may look the same
)
# "stopped": it cannot go on until something outside the trial is mended, a full disk say; then it continues.
Status = Literal["running", "stopped", "completed", "pruned", "failed", "infeasible"]

# How a trial's steps are run where GPU memory is limited, and by how much it is too small where nothing helps
OVER_GB = "over_gb"
STEP = ("accumulate", "checkpointing", "predicted_memory_gb", OVER_GB)
NEWER = ("epoch_zero", "step")  # fields that earlier versions do not know; written where there is something in them


@dataclass
class Record:
    """What is known of one trial."""

    name: str  # "trial-0007"; names the trial's folder too
    parameters: dict[str, Any]  # by dotted key, what differs from the base: searched values, or a fixed row's
    status: Status = "running"
    reason: str = ""  # why it failed or was stopped
    reports: list[dict[str, Any]] = field(default_factory=list)  # one per epoch
    epoch_zero: dict[str, float] = field(default_factory=dict)  # the report of its frozen backbone; empty: not measured
    metrics: dict[str, float] = field(default_factory=dict)  # of the full evaluation; empty unless completed
    checkpoint: str = ""
    seconds: float = 0.0  # over all sessions
    cpu_hours: float = 0.0  # logical CPUs that it held × hours
    gpu_hours: float = 0.0
    retries: int = 0  # how often its training failed and was tried again
    step: dict[str, Any] = field(default_factory=dict)  # keys of `STEP`; empty where GPU memory is not limited
    source: str = ""  # where its values come from, if not from the base or the searcher
    start: str = ""  # checkpoint folder whose best weights it began with; empty: the configuration's own weights

    @property
    def objective(self) -> float | None:
        """What the searcher maximises; None unless the trial completed."""
        return self.metrics.get("objective")

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left to run."""
        return self.status not in ("running", "stopped")

    @property
    def over_gb(self) -> float | None:
        """Memory that a GPU would have to have more; None unless that is why it is infeasible."""
        return self.step.get(OVER_GB) if self.status == "infeasible" else None

    @property
    def has_failed(self) -> bool:
        """Whether it ended without anything to learn from it but the reason."""
        return self.status in ("failed", "infeasible")


class Journal:
    """The records of one sweep, by name. What it reads again and again costs only what has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, tuple[tuple[int, ...], Record]] = {}  # by file: its state when it was read

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: that is in the files."""
        return self.__dict__ | {"_known": {}}

    def read(self) -> list[Record]:
        """All records in the order of their names. They are not to be changed: others read them too.

        Raises:
            UserError: If a file is damaged; names it.
        """
        with os.scandir(self.folder) as entries:
            states = {entry.name: _state(entry.stat()) for entry in entries if entry.name.endswith(".json")}
        before, unknown = self._known, ((), None)
        read = {}
        for name in sorted(states):
            state, record = before.get(name, unknown)
            read[name] = record if record and state == states[name] else _read_record(self.folder / name)
        now_ns = time.time_ns()
        self._known = {name: (states[name], read[name]) for name in read if now_ns - states[name][0] > SETTLED_NS}
        return list(read.values())

    def by_name(self) -> dict[str, Record]:
        """All records by their names, in that order; raises as `read` does."""
        return {record.name: record for record in self.read()}

    def find(self, name: str) -> Record | None:
        """One record, if there is one, as the caller's own; raises as `read` does."""
        path = self.folder / f"{name}.json"
        return _read_record(path) if path.exists() else None

    def write(self, record: Record) -> None:
        """Replace a record in one step: a reader, or a crash, sees the old or the new one.

        Raises:
            UserError: If it cannot be written (the disk is full).
        """
        values = {key: value for key, value in asdict(record).items() if value or key not in NEWER}
        content = json.dumps(values | {SEAL: _digest(values)})
        try:
            replace_file(self.folder / f"{record.name}.json", content.encode())
        except UserError as error:
            raise UserError(f"{error}; once it can, {CONTINUES}") from error


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What a file has not in common with one that replaced it."""
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read_record(path: Path) -> Record:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop(SEAL) != _digest(values):
            raise ValueError("its content does not fit its checksum")
        if values["name"] != path.stem:
            raise ValueError(f"it is the record of {values['name']}")
        record = Record(**values)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: the record of this trial is damaged ({error}); delete the file; another trial takes its place"
        ) from error
    if record.status == "running" and record.reason:  # how earlier versions wrote down a stopped trial
        record.status = "stopped"
    return record


def _digest(values: dict[str, Any]) -> str:
    """Not the seal of `checksums.write_sealed`, which separates values in another way: earlier versions wrote this."""
    return digest_of(json.dumps(values, sort_keys=True))
