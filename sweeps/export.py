"""The end of a sweep: best.yaml, environment.json, result.json, and the result as text. No Ray, no torch at import."""

import json
from collections.abc import Sequence
from pathlib import Path

from reid_core.config import TrialConfig
from sweeps.journal import Record
from sweeps.report import format_failures, format_leaderboard


def write_best(out: Path, config: TrialConfig, *, num_unreadable: int) -> None:
    """Write the best configuration (`--config` reads it) and what it was found with."""
    from reid_core.bundle import write_config
    from reid_core.environment import describe_environment

    write_config(out / "best.yaml", config)
    about = describe_environment() | {"seed": config.seed, "unreadable_photographs": num_unreadable}
    (out / "environment.json").write_text(json.dumps(about, indent=1))


def write_result(out: Path, best: Record, metrics: dict[str, dict[str, float]]) -> None:
    """Write down which trial was scored on `testSet`, and how; the last thing a sweep writes."""
    part = out / "result.part"
    part.write_text(json.dumps({"trial": best.name, "metrics": metrics}, indent=1))
    part.replace(out / "result.json")


def read_result(out: Path, best: Record) -> dict[str, dict[str, float]] | None:
    """The metrics of a trial that was scored on `testSet` before; None if it was not: a trial is scored there once."""
    file = out / "result.json"
    written = json.loads(file.read_text()) if file.exists() else {}
    return written["metrics"] if written.get("trial") == best.name else None


def format_result(
    out: Path,
    records: Sequence[Record],
    best: Record,
    metrics: dict[str, dict[str, float]],
    *,
    num_unreadable: int,
) -> str:
    """Leaderboard, best configuration, its metrics with intervals on both sets, and where everything lies."""
    from reid_core.summary import format_metrics

    lines = ["", format_leaderboard(records), "", format_failures(records)]
    lines += [f"best configuration ({best.name})"]
    lines += [f"  {key}: {value}" for key, value in best.parameters.items()]
    lines += ["", format_metrics(metrics), ""]
    lines += ["thresholdSet chose the trial and the thresholds: its numbers are optimistic. testSet was used once."]
    if num_unreadable:
        lines += [f"{num_unreadable} unreadable photographs were left out."]
    for name, file in (
        ("trials", "trials.parquet"),
        ("best configuration", "best.yaml"),
        ("model", "best"),
        ("every answer", "predictions.parquet"),
    ):
        lines.append(f"{name:<20}{out / file}")
    return "\n".join(lines)
