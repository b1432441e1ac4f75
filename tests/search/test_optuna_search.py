"""Optuna learns how each trial ended, and the journal is the searcher's memory. No Ray cluster is started."""

import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from reid_core.config.presets import tiny
from reid_core.config.values import flatten, override
from reid_core.errors import UserError
from reid_core.metrics.epoch_report import SCORE
from sweeps.machines.limits import Limits
from sweeps.machines.resources import Resources
from sweeps.results.journal import OVER_GB, Journal, Record
from sweeps.search.candidates import Choices
from sweeps.search.fixed_search import FixedSearch
from sweeps.search.goals import Goals
from sweeps.search.optuna_search import JournalSearch, epoch_scores
from sweeps.search.search_flag import parse_searched
from sweeps.search.space import SearchSpace, metric_space
from sweeps.search.suggestion import FAILED, FINAL, Suggestion
from sweeps.trials.tuning import reopen

SPACE = SearchSpace(metric_space, tiny())


def make_search(tmp_path, journal=None):
    return JournalSearch(SPACE, journal or Journal(tmp_path / "trials"))


def report(epoch, score):
    return {"epoch": epoch, "loss": 0.1, "seconds": 1.0, SCORE: score, "accuracy_validating": 0.5}


def final(objective):
    metrics = {"metrics/geo_mean.cow": objective, "metrics/geo_mean.pig": math.nan}
    ended = {"objective": objective, "checkpoint_path": "here", "history": [report(1, 0.4), report(2, 0.5)]}
    return {FINAL: True, "epoch": 0, "time_total_s": 7.0, **ended, **metrics}


def read(search):
    return search._writer.journal.read()


def states(search):
    return [trial.state for trial in search._ot_study.trials]


def test_the_private_names_that_we_rely_on_are_there():
    search = OptunaSearch(SPACE.suggest, metric="a", mode="max")
    assert {"_ot_trials", "_ot_study", "_completed_trials"} <= vars(search).keys()


def test_the_first_trial_is_the_base(tmp_path):
    suggestion = make_search(tmp_path).suggest("a")
    assert suggestion["name"] == "trial-0000"
    assert suggestion["parameters"].items() <= flatten(tiny()).items()


def test_a_trial_that_the_scheduler_stops_is_pruned_not_complete(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.4))
    # Tune gives the report at which it stops a trial to `on_trial_complete` only.
    search.on_trial_complete("a", report(2, 0.3) | {"time_total_s": 3.0})
    assert states(search) == [TrialState.PRUNED]
    assert search._ot_study.trials[0].intermediate_values == {1: 0.4, 2: 0.3}
    record = read(search)[0]
    assert (record.status, len(record.reports), record.seconds) == ("pruned", 2, 3.0)


def test_a_final_report_completes_with_its_objective(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.4))
    search.on_trial_result("a", final(0.6))
    search.on_trial_complete("a", final(0.6))
    record = read(search)[0]
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
    assert "objective" in read(search)[0].reason


def test_failures_keep_their_reason_and_free_the_sampler(tmp_path):
    search = make_search(tmp_path)
    for trial_id in ("a", "b"):
        search.suggest(trial_id)
    search.on_trial_complete("a", {FINAL: True, FAILED: "the loss is nan", "status": "failed", "epoch": 0})
    search.on_trial_complete("b", None, error=True)
    first, second = read(search)
    assert (first.status, first.reason) == ("failed", "the loss is nan")
    assert "process ended" in second.reason
    assert states(search) == [TrialState.FAIL, TrialState.FAIL]


def test_a_stopped_trial_ends_the_search_and_the_next_session_continues_it(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.2))
    search.on_trial_complete("a", {FINAL: True, FAILED: "No space left", "status": "stopped", "epoch": 0})
    (record,) = read(search)
    assert (record.status, record.reason, len(record.reports)) == ("stopped", "No space left", 1)
    assert states(search) == [TrialState.RUNNING]  # Optuna learns nothing from it
    assert search.suggest("b") == Searcher.FINISHED

    reopen(Journal(tmp_path / "trials"))
    resumed = make_search(tmp_path)
    assert resumed.suggest("c")["name"] == "trial-0000"
    assert (read(resumed)[0].status, read(resumed)[0].reason) == ("running", "")


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
    parameters = {record.name: record.parameters for record in read(search)}
    assert again[0]["parameters"] == parameters["trial-0001"]
    assert again[2]["parameters"] not in [parameters[name] for name in names]  # a new point, not the first draws again
    assert names == ["trial-0000", "trial-0001", "trial-0002", "trial-0003"]


def test_a_preset_whose_record_was_lost_runs_again_under_its_name(tmp_path):
    journal = Journal(tmp_path / "trials")
    journal.write(Record("trial-0001", SPACE.base_point() | {"optim.lr_head": 1e-3}, "pruned"))
    search = make_search(tmp_path, journal)
    first, second = (search.suggest(name) for name in "ab")
    assert (first["name"], first["parameters"]) == ("trial-0000", SPACE.base_point())
    assert second["name"] == "trial-0002"


def test_a_continued_trial_keeps_its_reports_once(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.2))
    resumed = make_search(tmp_path, Journal(tmp_path / "trials"))
    resumed.suggest("b")
    resumed.on_trial_result("b", report(1, 0.2))
    resumed.on_trial_result("b", report(2, 0.3))
    assert [r["epoch"] for r in read(resumed)[0].reports] == [1, 2]


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
        values = SPACE.suggest(study.ask())
        score = values["loss.margin_deg"]
        journal.write(Record(f"trial-{number:04d}", values, "completed", metrics={"objective": score}))
    search = make_search(tmp_path, journal)
    margins = [search.suggest(str(n))["parameters"]["loss.margin_deg"] for n in range(10)]
    assert sum(margins) / 10 > 30  # the middle of the range is 25


def test_epoch_scores_leave_out_what_is_still_running():
    ended = Record("trial-0000", {}, "pruned", reports=[report(1, 0.1), report(2, 0.2)])
    running = Record("trial-0001", {}, "running", reports=[report(1, 0.3)])
    assert list(epoch_scores([ended, running])) == [("trial-0000", 1, 0.1), ("trial-0000", 2, 0.2)]


def test_added_keys_reach_the_trials_and_are_remembered_with_whatever_values_they_have(tmp_path):
    """Lists, nothing and booleans come back from the journal as what they were; the model-based sampler copes."""
    base = tiny()
    wanted = ["data.mean=0.5,[0.4,0.5,0.6]", "data.undersample_to", "match.same_side", "optim.epochs=3..9"]
    space = SearchSpace(metric_space, base, searched=parse_searched(wanted, base))
    search = JournalSearch(space, Journal(tmp_path / "trials"))
    seen = []
    for number in range(25):  # TPE begins after ten
        seen.append(search.suggest(str(number))["parameters"])
        search.on_trial_complete(str(number), final(0.5 + 0.01 * seen[-1]["optim.epochs"]))
    assert seen[0].items() <= flatten(base).items()
    for key in ("data.mean", "data.undersample_to", "match.same_side"):
        assert len({str(values[key]) for values in seen}) > 1
    assert [record.parameters for record in read(search)] == seen
    for values in seen:
        assert flatten(override(base, values)) == flatten(base) | values
    resumed = JournalSearch(space, Journal(tmp_path / "trials"))
    assert [trial.params for trial in resumed._ot_study.trials] == seen


def test_an_epoch_s_report_keeps_every_measurement_and_nothing_of_tune_s(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    measured = report(1, 0.4) | {"loss_validating": 1.5, "classifier_accuracy_training_sample": 0.9}
    search.on_trial_result("a", measured | {"training_iteration": 1, "time_total_s": 3.0, "pid": 7})
    assert read(search)[0].reports == [measured]


ROWS = [
    Suggestion(name="batch16", parameters=flatten(tiny()) | {"optim.batch_size": 16}),
    Suggestion(name="metric", parameters={}),
    Suggestion(name="more", parameters={"optim.epochs": 2}, start="checkpoint of metric"),
]


def test_fixed_trials_come_in_their_order_and_end_in_the_journal(tmp_path):
    search = FixedSearch(ROWS, Journal(tmp_path))
    assert [Suggestion.from_tune(search.suggest(trial_id)) for trial_id in "abc"] == ROWS
    assert search.suggest("d") == FixedSearch.FINISHED
    search.on_trial_result("a", report(1, 0.4))
    search.on_trial_complete("a", final(0.6))
    search.on_trial_complete("a", final(0.1))  # Tune reports some ends twice
    search.on_trial_complete("c", {FINAL: True, FAILED: "the loss is nan", "status": "failed", "epoch": 0})
    batch16, metric, more = read(search)
    assert (batch16.status, batch16.objective, batch16.seconds) == ("completed", 0.6, 7.0)
    assert (metric.status, metric.start) == ("running", "")
    assert (more.status, more.reason, more.start) == ("failed", "the loss is nan", "checkpoint of metric")


def test_resumed_fixed_trials_skip_what_ended_and_refuse_what_changed(tmp_path):
    search = FixedSearch(ROWS, Journal(tmp_path))
    for trial_id in "abc":
        search.suggest(trial_id)
    search.on_trial_complete("a", final(0.6))
    search.on_trial_result("b", report(1, 0.2))
    resumed = FixedSearch(ROWS, Journal(tmp_path))
    assert [row.name for row in resumed.left] == ["metric", "more"]
    assert resumed.suggest("e")["name"] == "metric"
    resumed.on_trial_result("e", report(1, 0.2))  # reported again by Train
    assert len(read(resumed)[1].reports) == 1
    with pytest.raises(UserError, match=r"holds metric with other values \(optim\.epochs\)"):
        FixedSearch([replace(ROWS[1], parameters={"optim.epochs": 1})], Journal(tmp_path))
    with pytest.raises(UserError, match=r"holds more with other values \(start\)"):
        FixedSearch([replace(ROWS[2], start="elsewhere")], Journal(tmp_path))


def test_a_trial_that_a_limit_ended_stays_open_and_is_continued(tmp_path):
    journal, limits = Journal(tmp_path / "trials"), Limits(max_hours=1e-4)
    search = JournalSearch(SPACE, journal, limits)
    search.suggest("a")
    assert search.suggest("late") != Searcher.FINISHED
    search.on_trial_result("a", report(1, 0.2) | {"time_total_s": 3.0})
    search.on_trial_complete("a", report(1, 0.2) | {"time_total_s": 4.0})
    assert search.suggest("too late") == Searcher.FINISHED
    assert states(search) == [TrialState.RUNNING] * 2
    assert (journal.read()[0].status, journal.read()[0].seconds) == ("running", 4.0)

    resumed = JournalSearch(SPACE, journal, Limits())
    assert resumed.suggest("b")["name"] == "trial-0000"
    resumed.on_trial_result("b", report(2, 0.3) | {"time_total_s": 2.0})
    resumed.on_trial_complete("b", final(0.6) | {"time_total_s": 2.5})
    record = journal.read()[0]
    assert (record.status, record.objective, record.seconds) == ("completed", 0.6, 6.5)
    assert record.cpu_hours == pytest.approx(6.5 / 3600 * Resources().cpus_per_trial)


def test_the_time_of_a_trial_that_is_started_again_is_counted_on(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.2) | {"time_total_s": 100.0})
    # Its process was killed: the next one's clock begins at 0, and it repeats what the last one has reported.
    search.on_trial_result("a", report(1, 0.2) | {"time_total_s": 1.0})
    search.on_trial_result("a", report(2, 0.3) | {"time_total_s": 40.0})
    search.on_trial_complete("a", final(0.3) | {"time_total_s": 45.0})
    assert read(search)[0].seconds == 100.0 + 45.0


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("0.2", "0.9"), lambda text: "[]"])
def test_a_damaged_record_is_named(tmp_path, damage):
    search = make_search(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", report(1, 0.2))
    file = tmp_path / "trials" / "trial-0000.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(UserError, match=r"trial-0000\.json: the record of this trial is damaged .* delete the file"):
        Journal(tmp_path / "trials").read()


def test_a_full_disk_is_named_by_the_journal(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "trials")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"trial-0000\.json: cannot be written: No space left .* command continues"):
        journal.write(Record("trial-0000", {}))


def too_large(over_gb):
    return {FINAL: True, FAILED: "needs 40 GB", "status": "infeasible", OVER_GB: over_gb, "epoch": 0}


def test_what_no_gpu_holds_is_a_constraint_that_a_resumed_search_knows(tmp_path):
    search = make_search(tmp_path)
    for trial_id in "ab":
        search.suggest(trial_id)
    search.on_trial_complete("a", too_large(2.5))
    search.on_trial_complete("b", {FINAL: True, FAILED: "no such side", "status": "infeasible", "epoch": 0})
    record = read(search)[0]
    assert (record.status, record.reason, record.over_gb) == ("infeasible", "needs 40 GB", 2.5)
    assert read(search)[1].over_gb is None
    for known in (search, make_search(tmp_path, Journal(tmp_path / "trials"))):
        large, other = known._ot_study.trials
        # Samplers look at no failed trial; what is wrong otherwise teaches them nothing.
        assert (large.state, large.constraints) == (TrialState.PRUNED, {"gpu_memory_gb": 2.5})
        assert (other.state, other.constraints) == (TrialState.FAIL, {})


def test_an_optuna_told_twice_of_a_configuration_hears_of_its_memory_both_times(tmp_path):
    search = make_search(tmp_path)
    parameters = search.suggest("a")["parameters"]
    search.on_trial_complete("a", too_large(2.5))
    search._ot_study.enqueue_trial(parameters)
    search.suggest("b")
    assert [trial.constraints for trial in search._ot_study.trials[:2]] == [{"gpu_memory_gb": 2.5}] * 2


def num_too_large(tmp_path, sampler: str) -> int:
    """Of the last 20 of 40 trials, those whose batch is above 32, which no GPU holds."""
    space = SearchSpace(metric_space, tiny(), searched=(("optim.batch_size", Choices((16, 32, 64, 128))),))
    search, sizes = JournalSearch(space, Journal(tmp_path / "trials"), goals=Goals(sampler=sampler)), []
    for number in range(40):
        size = search.suggest(str(number))["parameters"]["optim.batch_size"]
        sizes.append(size)
        search.on_trial_complete(str(number), too_large(size / 32) if size > 32 else final(0.5))
    return sum(size > 32 for size in sizes[20:])


def test_a_search_keeps_away_from_what_no_gpu_holds(tmp_path):
    assert num_too_large(tmp_path / "tpe", "tpe") <= 3
    assert num_too_large(tmp_path / "random", "random") >= 6


def test_how_steps_are_run_is_in_the_record(tmp_path):
    search = make_search(tmp_path)
    search.suggest("a")
    about = {"accumulate": 2, "checkpointing": False, "predicted_memory_gb": 12.5}
    search.on_trial_result("a", report(1, 0.4) | about | {"peak_memory_gb": 11.0})
    search.on_trial_complete("a", final(0.6) | about)
    (record,) = read(search)
    assert record.step == about
    assert record.over_gb is None


def test_ray_tune_keeps_no_second_memory_of_the_search(tmp_path):
    """Tune saves its searcher again and again: a study that grows would be pickled each time."""
    search = make_search(tmp_path)
    search.suggest("a")
    saved = tmp_path / "tune"
    saved.mkdir()
    search.save_to_dir(str(saved), "session")
    assert list(saved.iterdir()) == []
