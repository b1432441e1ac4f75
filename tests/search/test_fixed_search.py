"""Fixed trials on Ray Tune: all of them run, to their ends, once."""

import json
import math
import os
import signal
import threading
from dataclasses import asdict
from pathlib import Path

import ray.tune

from reid_core.config.presets import tiny
from reid_core.config.values import flatten, override
from reid_core.metrics.epoch_report import SCORE
from sweeps.machines.limits import Limits
from sweeps.machines.resources import Resources
from sweeps.results.journal import Journal, Record
from sweeps.search.suggestion import FAILED, FINAL, Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_fixed

EPOCHS = 2
BASE = override(tiny(), {"optim.epochs": EPOCHS})


def pretend(suggestion, *, context):
    """A trial that notes that it was driven, and reports its batch size as a score; small ones would be pruned."""
    config = context.configure(suggestion.parameters)
    log = Path(context.out) / f"{suggestion.name}.log"
    log.write_text(json.dumps([*json.loads(log.read_text() if log.exists() else "[]"), asdict(suggestion)]))
    score = config.optim.batch_size / 100
    same = {"loss": 0.1, "seconds": 0.0, "accuracy_validating": 0.0, "loss_validating": 1.0}
    reports = [{"epoch": epoch, SCORE: score, **same} for epoch in range(1, config.optim.epochs + 1)]
    for report in reports:
        ray.tune.report(report)
    final = {FINAL: True, "epoch": 0, SCORE: math.nan}
    if config.model.head == "mlp":
        ray.tune.report(final | {FAILED: "the loss is nan", "status": "failed"})
    else:
        found = {"objective": score, "metrics": {"geo_mean.cow": score}, "checkpoint_path": suggestion.name}
        ray.tune.report(final | found | {"history": reports})


def driven(out: Path) -> dict[str, int]:
    """How often each trial was driven."""
    return {path.stem: len(json.loads(path.read_text())) for path in sorted(out.glob("*.log"))}


def row(name, **values):
    changes = {key.replace("__", "."): value for key, value in values.items()}
    return Suggestion(name=name, parameters=flatten(override(BASE, changes)))


def test_every_row_runs_to_its_end_and_a_second_session_runs_only_what_is_left(local_ray, tmp_path):
    rows = [row("good", optim__batch_size=64), row("bad", model__head="mlp"), row("poor", optim__batch_size=2)]
    context = SweepContext(BASE, str(tmp_path), str(tmp_path / "cache"), Resources(concurrent=2, workers=1))
    journal = Journal(tmp_path / "trials")
    records = run_fixed(rows, context, drive=pretend)
    assert {name: record.status for name, record in records.items()} == {
        "good": "completed",
        "bad": "failed",
        "poor": "completed",  # nothing stops a fixed trial
    }
    assert [records[name].objective for name in ("good", "bad", "poor")] == [0.64, None, 0.02]
    assert [len(record.reports) for record in records.values()] == [EPOCHS] * 3
    assert records["good"].reports[0]["loss_validating"] == 1.0

    journal.write(Record("poor", rows[2].parameters, reports=records["poor"].reports[:1]))  # as if killed
    run_fixed(rows, context, drive=pretend)
    assert driven(tmp_path) == {"bad": 1, "good": 1, "poor": 2}
    assert json.loads((tmp_path / "good.log").read_text()) == [
        asdict(rows[0])
    ]  # values of any type arrive as they were given
    again = journal.by_name()
    assert again["good"] == records["good"]
    assert (again["poor"].status, len(again["poor"].reports)) == ("completed", EPOCHS)
    run_fixed(rows, context, drive=pretend)  # nothing is left, so no session starts
    assert len(list((tmp_path / "tune").glob("session-*"))) == 2


def train(suggestion, *, context):
    """A trial that goes on where its file says it was; "patient" is not through with an epoch, "killed" dies in one."""
    file = Path(context.out) / f"{suggestion.name}.epochs"
    reports = json.loads(file.read_text()) if file.exists() else []
    is_new = not reports
    for epoch in range(len(reports) + 1, EPOCHS + 1):
        reports.append({"epoch": epoch, "loss": 1.0, SCORE: 0.5, "seconds": 0.1})
        file.write_text(json.dumps(reports))
        ray.tune.report(reports[-1])
        if is_new and suggestion.name == "patient":
            threading.Event().wait(60)  # until the sweep ends
        if is_new and suggestion.name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    final = {"objective": 0.5, "metrics": {"objective": 0.5}, "checkpoint_path": "", "history": reports}
    ray.tune.report({FINAL: True, "epoch": 0, SCORE: math.nan, **final})


def test_a_spent_budget_ends_the_run_and_another_session_goes_on(local_ray, tmp_path):
    resources = Resources(concurrent=1, workers=1)
    context = SweepContext(BASE, str(tmp_path), str(tmp_path / "cache"), resources)
    journal = Journal(tmp_path / "trials")
    rows = [row("patient"), row("second")]
    nearly_none = Limits(resources=resources, max_hours=1e-9)
    run_fixed(rows, context, limits=nearly_none, drive=train)
    (first,) = journal.read()
    assert first.status == "running"
    assert len(first.reports) == 1
    assert "CPU-hours are spent" in nearly_none.reached(journal.read())
    run_fixed(rows, context, limits=nearly_none, drive=train)
    assert journal.read() == [first]  # the budget is that of all sessions

    run_fixed(rows, context, drive=train)
    again = journal.read()
    assert [record.status for record in again] == ["completed", "completed"]
    assert [report["epoch"] for report in again[0].reports] == list(range(1, EPOCHS + 1))
    assert again[0].seconds > first.seconds


def test_a_killed_driver_is_started_again_and_repeats_nothing(local_ray, tmp_path):
    context = SweepContext(BASE, str(tmp_path), str(tmp_path / "cache"), Resources(concurrent=1, workers=1))
    (record,) = run_fixed([row("killed")], context, drive=train).values()
    assert record.status == "completed"
    assert [report["epoch"] for report in record.reports] == list(range(1, EPOCHS + 1))
