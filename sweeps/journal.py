"""The journal of a sweep: one JSON file per trial, written as it goes, read again to resume. No Ray, no torch.

FOLDER/trial-0007.json ↔ `Record`. It is the only memory of a sweep: searcher, leaderboard and trials.parquet are made
from it.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["running", "completed", "pruned", "failed", "infeasible"]


@dataclass
class Record:
    """What is known of one trial."""

    name: str  # "trial-0007"; names the trial's folder too
    parameters: dict[str, Any]  # by dotted key, what differs from the base: searched values, or a fixed row's
    status: Status = "running"
    reason: str = ""  # why it failed
    reports: list[dict[str, Any]] = field(default_factory=list)  # one per epoch
    metrics: dict[str, float] = field(default_factory=dict)  # of the full evaluation; empty unless completed
    checkpoint: str = ""
    seconds: float = 0.0
    start: str = ""  # checkpoint folder whose best weights it began with; empty: the configuration's own weights

    @property
    def objective(self) -> float | None:
        """What the searcher maximises; None unless the trial completed."""
        return self.metrics.get("objective")


class Journal:
    """The records of one sweep, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> list[Record]:
        """All records in the order of their names."""
        return [Record(**json.loads(path.read_text())) for path in sorted(self.folder.glob("*.json"))]

    def write(self, record: Record) -> None:
        """Replace a record in one step: a reader, or a crash, sees the old or the new one."""
        path = self.folder / f"{record.name}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(record)))
        part.replace(path)
