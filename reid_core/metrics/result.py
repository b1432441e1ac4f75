"""result.json: what a trial reached on `testSet`, and what must be known of that. No Ray, no torch.

`Result` ↔ OUT/result.json, with the uses of `testSet` until then. It is written before anything of it is printed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reid_core.data.table.findings import Finding, findings_from_json, findings_to_json
from reid_core.data.test_set import describe_uses, read_uses
from reid_core.errors import UserError
from reid_core.files.checksums import read_sealed, write_sealed

RESULT = "result.json"  # in OUT: which trial was scored on `testSet`, and how

SINGLE = "single run"  # name of the only trial of `python -m reid_core`


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a trial that was scored on `testSet`."""

    metrics: dict[str, dict[str, float]]  # "thresholdSet", "testSet" → metrics (`summary.summarise`)
    trial: str = SINGLE  # its name
    # by set, what training added to the frozen backbone (`gain.summarise_gain`); earlier versions measured none
    gains: dict[str, dict[str, float]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()  # of data and training: what was dropped, changed, or looks wrong
    confirmation: dict[str, Any] | None = None  # of a sweep: what JSON can hold of it


def write_result(out: Path, result: Result) -> None:
    """Write OUT/result.json.

    Raises:
        UserError: If it cannot be written, or the log of uses is damaged.
    """
    uses = read_uses(out)
    values: dict[str, Any] = {"trial": result.trial, "metrics": result.metrics, "gains": result.gains}
    values["confirmation"] = result.confirmation
    values["findings"] = findings_to_json(result.findings)
    write_sealed(out / RESULT, {**values, "test_set_uses": len(uses), "test_set": describe_uses(uses)})


def read_result(out: Path, trial: str) -> Result | None:
    """The result of a trial that was scored on `testSet` before; None if it was not: a trial is scored there once.

    Raises:
        UserError: If the result is damaged; says what helps.
    """
    file = out / RESULT
    if not file.exists():
        return None
    try:
        written = read_sealed(file)
    except UserError as error:
        raise UserError(f"{error}; delete it, and the same command uses testSet once more") from error
    if written.get("trial") != trial:
        return None
    return Result(
        trial=trial,
        metrics=written["metrics"],
        gains=written.get("gains", {}),
        findings=findings_from_json(written.get("findings", [])),  # earlier versions wrote none
        confirmation=written["confirmation"],
    )
