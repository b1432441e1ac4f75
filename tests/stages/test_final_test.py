"""The use of `testSet` and its result: written down one after the other, and once. No Ray is started."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from reid_core.config.presets import tiny
from reid_core.data.table.findings import make_finding
from reid_core.data.table.metadata import STRICT
from reid_core.data.test_set import read_uses
from reid_core.metrics.epoch_report import SCORE
from reid_core.metrics.result import Result, read_result
from sweeps.machines.resources import Resources
from sweeps.machines.waiting import WaitedTooLongError
from sweeps.results.journal import Record
from sweeps.stages import final_test, refit_best
from sweeps.stages.final_test import score_test_set
from sweeps.trials.context import SweepContext

BEST = Record("trial-0003", {"optim.lr_head": 1e-4}, "completed")
FOUND = Result(
    trial=BEST.name,
    metrics={"testSet": {"pooled": 0.5}},
    findings=(make_finding("metadata.csv", "1 empty row left out", ["line 3"]),),
)


@pytest.fixture
def here(monkeypatch):
    """Ray's tasks run in this process, and what they give is what the test says; a list of what was asked for."""
    asked = []

    def finish(best, context, root, *, use, reading):
        asked.append(use.number)
        if use.number == 1:
            raise MemoryError
        return FOUND

    monkeypatch.setattr(final_test, "finish_best", finish)
    monkeypatch.setattr(final_test, "hold_worker", here_at_once)
    return asked


@contextmanager
def here_at_once(what, context, *, num_gpus):
    """A place in this process."""
    yield SimpleNamespace(run=lambda function, *args, **options: function(*args, **options))


@contextmanager
def nowhere(what, context, *, num_gpus=0.0):
    """There is no place for anything."""
    raise WaitedTooLongError(what)
    yield


def test_a_result_is_there_before_anybody_prints_it_and_is_not_asked_for_again(here, tmp_path):
    context = SweepContext(tiny(), str(tmp_path), str(tmp_path / "cache"), Resources())
    with pytest.raises(MemoryError):
        score_test_set(BEST, context, tmp_path, reading=STRICT)
    assert (len(read_uses(tmp_path)), read_result(tmp_path, BEST.name)) == (1, None)  # what was begun was a use
    for _ in range(3):
        assert score_test_set(BEST, context, tmp_path, reading=STRICT) == FOUND
        assert read_result(tmp_path, BEST.name) == FOUND
    assert here == [1, 2]
    assert len(read_uses(tmp_path)) == 2


def test_without_a_place_to_run_test_set_is_not_used(monkeypatch, tmp_path):
    context = SweepContext(tiny(), str(tmp_path), str(tmp_path / "cache"), Resources())
    for stage in (final_test, refit_best):
        monkeypatch.setattr(stage, "hold_worker", nowhere)
    with pytest.raises(WaitedTooLongError, match="trial-0003 is scored on testSet"):
        score_test_set(BEST, context, tmp_path, reading=STRICT)
    runs = [replace(BEST, reports=[{"epoch": 1, SCORE: 0.5}])]
    with pytest.raises(WaitedTooLongError, match="the data of the refit"):
        refit_best.refit_best(BEST, runs, context, tmp_path, reading=STRICT)
    assert read_uses(tmp_path) == []
