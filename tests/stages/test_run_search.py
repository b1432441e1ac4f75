"""ASHA's rungs: never after the first epoch, and what earlier sessions filled counts."""

from types import SimpleNamespace

import pytest

from reid_core.metrics.epoch_report import SCORE
from sweeps.results.journal import Record
from sweeps.stages.run_search import first_rung, make_scheduler


def judge(scheduler, name, *scores):
    """What ASHA says of each epoch of a trial."""
    (bracket,) = scheduler._brackets
    return [bracket.on_result(SimpleNamespace(trial_id=name), epoch, score) for epoch, score in enumerate(scores, 1)]


@pytest.mark.parametrize("epochs", range(3, 40))
def test_at_least_two_epochs_are_run_before_a_trial_is_stopped(epochs):
    assert 2 <= first_rung(epochs) < epochs
    scheduler = make_scheduler(epochs, [])
    judge(scheduler, "good", *[0.9] * epochs)
    actions = judge(scheduler, "poor", *[0.1] * epochs)
    assert actions.index("STOP") + 1 == first_rung(epochs)


def test_short_trials_are_not_stopped():
    assert [make_scheduler(epochs, []) for epochs in (0, 1, 2)] == [None] * 3


def test_rungs_of_six_epochs_by_hand():
    """Rungs at 2 and 4: of each, the better half so far goes on."""
    scheduler = make_scheduler(6, [])
    assert judge(scheduler, "a", 0.1, 0.5, 0.5, 0.6, 0.1, 0.1) == ["CONTINUE"] * 6  # alone in its rungs
    assert judge(scheduler, "b", 0.9, 0.4) == ["CONTINUE", "STOP"]  # below the median 0.45 at 2, though best at 1
    assert judge(scheduler, "c", 0.0, 0.7, 0.7, 0.5) == ["CONTINUE"] * 3 + ["STOP"]  # below 0.55 at 4
    assert judge(scheduler, "d", 0.0, 0.5, 0.0, 0.9) == ["CONTINUE"] * 4  # 0.5 is the median of 0.5, 0.4, 0.7, 0.5


def test_rungs_that_an_earlier_session_filled_count_and_epoch_zero_does_not():
    reports = [{"epoch": epoch, SCORE: score} for epoch, score in ((1, 0.1), (2, 0.8))]
    before = [Record("trial-0000", {}, "pruned", reports=reports, epoch_zero={SCORE: 0.99})]
    assert judge(make_scheduler(6, before), "trial-0001", 0.9, 0.7)[-1] == "STOP"
    assert judge(make_scheduler(6, before), "trial-0001", 0.9, 0.8)[-1] == "CONTINUE"
