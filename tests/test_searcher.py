"""The searcher tells Optuna the truth and remembers through the journal. No Ray cluster is started."""

import math

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from reid_core.config import flatten
from reid_core.presets import tiny
from reid_core.train import SCORE
from sweeps.journal import Journal, Record
from sweeps.searcher import FAILED, FINAL, JournalSearch, epoch_scores
from sweeps.space import metric_space

NOTHING: frozenset[str] = frozenset()


def make_search(tmp_path, journal=None):
    return JournalSearch(metric_space, tiny(), NOTHING, journal or Journal(tmp_path / "trials"))


def report(epoch, score):
    return {"epoch": epoch, "loss": 0.1, "seconds": 1.0, SCORE: score, "accuracy_validating": 0.5}


def final(objective):
    metrics = {"metrics/geo_mean.cow": objective, "metrics/geo_mean.pig": math.nan}
    told = {"objective": objective, "checkpoint_path": "here", "history": [report(1, 0.4), report(2, 0.5)]}
    return {FINAL: True, "epoch": 0, "time_total_s": 7.0, **told, **metrics}


def states(search):
    return [trial.state for trial in search._ot_study.trials]


def test_the_private_names_that_we_rely_on_are_there():
    search = OptunaSearch(metric_space, metric="a", mode="max")
    assert {"_ot_trials", "_ot_study", "_completed_trials"} <= vars(search).keys()


def test_the_first_trial_is_the_base(tmp_path):
    suggestion = make_search(tmp_path).suggest("a")
    assert suggestion["name"] == "trial-0000"
    assert suggestion["parameters"].items() <= flatten(tiny()).items()


def test_a_stopped_trial_is_pruned_not_complete(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.4))
    # Tune gives the report at which it stops a trial to `on_trial_complete` only.
    search.on_trial_complete("a", report(2, 0.3) | {"time_total_s": 3.0})
    assert states(search) == [TrialState.PRUNED]
    assert search._ot_study.trials[0].intermediate_values == {1: 0.4, 2: 0.3}
    record = search._journal.read()[0]
    assert (record.status, len(record.reports), record.seconds) == ("pruned", 2, 3.0)


def test_a_final_report_completes_with_its_objective(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.4))
    search.on_trial_result("a", final(0.6))
    search.on_trial_complete("a", final(0.6))
    record = search._journal.read()[0]
    assert (record.status, record.objective, record.checkpoint, record.seconds) == ("completed", 0.6, "here", 7.0)
    assert record.metrics == {"geo_mean.cow": 0.6, "objective": 0.6}
    assert [r["epoch"] for r in record.reports] == [1, 2]  # the second was never reported to us, but was trained
    assert search._ot_study.best_value == 0.6


@pytest.mark.parametrize("objective", [None, math.nan])
def test_an_undefined_objective_fails_the_trial(tmp_path, objective):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_complete("a", final(0.5) | {"objective": objective})
    assert states(search) == [TrialState.FAIL]
    assert "objective" in search._journal.read()[0].reason


def test_failures_keep_their_reason_and_free_the_sampler(tmp_path):
    search = make_search(tmp_path)
    for trial_id in ("a", "b"):
        search.suggest(trial_id)
    search.on_trial_complete("a", {FINAL: True, FAILED: "the loss is nan", "status": "failed", "epoch": 0})
    search.on_trial_complete("b", None, error=True)
    first, second = search._journal.read()
    assert (first.status, first.reason) == ("failed", "the loss is nan")
    assert "process ended" in second.reason
    assert states(search) == [TrialState.FAIL, TrialState.FAIL]


def test_a_resumed_search_repeats_nothing_and_continues_what_was_interrupted(tmp_path):
    search = make_search(tmp_path)
    names = [search.suggest(trial_id)["name"] for trial_id in "abcd"]
    search.on_trial_result("c", report(1, 0.2))
    search.on_trial_complete("a", final(0.5))
    search.on_trial_complete("c", report(1, 0.2) | {"time_total_s": 2.0})

    resumed = make_search(tmp_path, Journal(tmp_path / "trials"))
    known = {TrialState.COMPLETE: 1, TrialState.PRUNED: 1, TrialState.WAITING: 2}
    assert {state: states(resumed).count(state) for state in set(states(resumed))} == known
    again = [resumed.suggest(trial_id) for trial_id in ("e", "f", "g")]
    assert [suggestion["name"] for suggestion in again] == ["trial-0001", "trial-0003", "trial-0004"]
    parameters = {record.name: record.parameters for record in search._journal.read()}
    assert again[0]["parameters"] == parameters["trial-0001"]
    assert again[2]["parameters"] not in [parameters[name] for name in names]  # a new point, not the first draws again
    assert names == ["trial-0000", "trial-0001", "trial-0002", "trial-0003"]


def test_a_continued_trial_keeps_its_reports_once(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.2))
    resumed = make_search(tmp_path, Journal(tmp_path / "trials"))
    resumed.suggest("b")
    resumed.on_trial_result("b", report(1, 0.2))
    resumed.on_trial_result("b", report(2, 0.3))
    assert [r["epoch"] for r in resumed._journal.read()[0].reports] == [1, 2]


def test_the_same_seed_suggests_the_same(tmp_path):
    def three(folder):
        search = make_search(folder)
        return [search.suggest(trial_id)["parameters"] for trial_id in "abc"]

    assert three(tmp_path / "x") == three(tmp_path / "y")


def test_the_sampler_learns_from_the_journal(tmp_path):
    """Completed trials say that a large margin is best; new suggestions lie higher than random ones would."""
    journal, rng = Journal(tmp_path / "trials"), optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=rng)
    for number in range(40):
        values = metric_space(study.ask(), tiny())
        score = values["loss.margin_cosine"]
        journal.write(Record(f"trial-{number:04d}", values, "completed", metrics={"objective": score}))
    search = make_search(tmp_path, journal)
    margins = [search.suggest(str(n))["parameters"]["loss.margin_cosine"] for n in range(10)]
    assert sum(margins) / 10 > 0.35  # the middle of the range is 0.275


def test_epoch_scores_leave_out_what_is_still_running():
    ended = Record("trial-0000", {}, "pruned", reports=[report(1, 0.1), report(2, 0.2)])
    running = Record("trial-0001", {}, "running", reports=[report(1, 0.3)])
    assert list(epoch_scores([ended, running])) == [("trial-0000", 1, 0.1), ("trial-0000", 2, 0.2)]
