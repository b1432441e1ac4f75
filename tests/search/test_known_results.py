"""The searcher never trains what it has trained: a known result is reported to Optuna instead. No Ray is started."""

import random
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from reid_core.config.presets import tiny
from reid_core.config.values import flatten, override
from reid_core.metrics.epoch_report import SCORE
from sweeps.results.journal import Journal, Record
from sweeps.search.candidates import Choices, Range
from sweeps.search.goals import SAMPLERS, Goals
from sweeps.search.optuna_search import PATIENCE, PATIENCE_LEFT_OUT, JournalSearch
from sweeps.search.priors import Prior
from sweeps.search.space import MOST_COUNTED, SearchSpace, metric_space
from sweeps.search.suggestion import FAILED, FINAL


def aggregates(suggest):
    suggest("predict.aggregate", Choices(("max", "mean")))


def heads(suggest):
    """1 + 3 of the head, each with two batch sizes and one learning rate: 8 configurations."""
    suggest("optim.batch_size", Choices((16, 32)))
    suggest("model.head", Choices(("linear", "mlp")))
    if suggest.value("model.head") == "mlp":
        suggest("model.head_hidden", Choices((64, 128, 1024)))
    suggest("optim.lr_head", Range(tiny().optim.lr_head, tiny().optim.lr_head))


def epochs(suggest):
    suggest("optim.epochs", Range(1, 3))
    suggest("model.unfrozen_stages", Choices((0, 1)))


TWO, EIGHT = SearchSpace(aggregates, tiny()), SearchSpace(heads, override(tiny(), {"model.head": "linear"}))


def final(objective):
    history = [{"epoch": 1, "loss": 0.1, "seconds": 1.0, SCORE: objective}]
    return {FINAL: True, "epoch": 0, "objective": objective, "checkpoint_path": "", "history": history}


def states(search):
    return [trial.state for trial in search._ot_study.trials]


def run(search, most=50):
    """Complete what is suggested, one after the other; the parameters of all."""
    seen = []
    for number in range(most):
        suggestion = search.suggest(str(number))
        if suggestion == Searcher.FINISHED:
            break
        seen.append(suggestion["parameters"])
        search.on_trial_complete(str(number), final(0.1 + 0.01 * number))
    return seen


@pytest.mark.parametrize("space", [TWO, EIGHT, SearchSpace(epochs, override(tiny(), {"optim.epochs": 2}))])
def test_the_configurations_of_a_space_are_those_that_it_ever_draws(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {space.identify(space.suggest(study.ask())) for _ in range(150)}
    listed = [space.identify(values) for values in space.configurations()]
    assert sorted(listed) == sorted(drawn)
    assert space.num_configurations() == len(listed)
    assert space.identify({}) in listed  # the base is one of them


def test_a_space_without_end_or_of_too_many_is_not_counted():
    assert SearchSpace(metric_space, tiny()).num_configurations() is None
    many = SearchSpace(lambda suggest: suggest("optim.epochs", Range(1, MOST_COUNTED + 1)), tiny())
    assert many.num_configurations() is None
    assert SearchSpace(lambda suggest: None, tiny()).num_configurations() == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("space", [TWO, EIGHT])
def test_every_configuration_is_tried_once_and_then_the_search_ends(tmp_path, space, sampler):
    search = JournalSearch(space, Journal(tmp_path), goals=Goals(sampler=sampler))
    seen = run(search)
    assert sorted(map(space.identify, seen)) == sorted(map(space.identify, space.configurations()))
    assert search.suggest("late") == Searcher.FINISHED
    assert len(search._writer.journal.read()) == len(seen)
    assert {trial.state for trial in search._ot_study.trials} == {TrialState.COMPLETE}


def test_trials_at_the_same_time_are_different(tmp_path):
    search = JournalSearch(EIGHT, Journal(tmp_path))
    running = [search.suggest(str(number))["parameters"] for number in range(8)]
    assert len({EIGHT.identify(values) for values in running}) == 8
    assert search.suggest("late") == Searcher.FINISHED
    assert states(search).count(TrialState.RUNNING) == 8
    assert set(states(search)) == {TrialState.RUNNING, TrialState.FAIL}  # proposed again: nothing is known of it yet


def test_a_resumed_search_tries_what_is_left(tmp_path):
    first = run(JournalSearch(EIGHT, Journal(tmp_path)), most=5)
    second = run(JournalSearch(EIGHT, Journal(tmp_path)))
    assert (len(first), len(second)) == (5, 3)
    assert len({EIGHT.identify(values) for values in first + second}) == 8
    assert run(JournalSearch(EIGHT, Journal(tmp_path))) == []


def propose(search, parameters):
    """Make Optuna propose this next."""
    search._ot_study.enqueue_trial(parameters)


def test_optuna_gets_the_known_result_whatever_it_is(tmp_path):
    search = JournalSearch(SearchSpace(metric_space, tiny()), Journal(tmp_path))
    points = [search.suggest(trial_id)["parameters"] for trial_id in "abc"]
    search.on_trial_complete("a", final(0.6))
    search.on_trial_result("b", {"epoch": 1, "loss": 0.1, "seconds": 1.0, SCORE: 0.2})
    search.on_trial_complete("b", {"epoch": 2, "loss": 0.1, "seconds": 1.0, SCORE: 0.3})
    search.on_trial_complete("c", {FINAL: True, FAILED: "the loss is nan", "status": "failed", "epoch": 0})
    for point in points:
        propose(search, point)
    new = search.suggest("d")
    assert new["name"] == "trial-0003"
    assert new["parameters"] not in points
    complete, pruned, failed, again, pruned_again, failed_again, running = search._ot_study.trials
    assert (again.state, again.value, again.params) == (complete.state, 0.6, complete.params)
    assert (pruned_again.state, pruned_again.intermediate_values) == (TrialState.PRUNED, {1: 0.2, 2: 0.3})
    assert pruned_again.intermediate_values == pruned.intermediate_values
    assert failed_again.state == failed.state == TrialState.FAIL
    assert running.state == TrialState.RUNNING
    assert len(search._writer.journal.read()) == 4


def test_a_sampler_that_insists_on_what_is_known_is_overruled(tmp_path):
    space = SearchSpace(metric_space, tiny())
    search = JournalSearch(space, Journal(tmp_path))
    own = search.suggest("a")["parameters"]
    search.on_trial_complete("a", final(0.6))
    for _ in range(PATIENCE + 3):
        propose(search, own)
    other = search.suggest("b")["parameters"]
    assert space.identify(other) != space.identify(own)
    assert space.restrict(flatten(space.base) | other) == other  # it lies within the space


def test_results_of_several_goals_are_known_too(tmp_path):
    search = JournalSearch(TWO, Journal(tmp_path), goals=Goals(groups=("cow", "pig")))
    metrics = {"metrics/geo_mean.cow": 0.25, "metrics/geo_mean.pig": 0.5}
    for trial_id in "ab":
        search.suggest(trial_id)
        search.on_trial_complete(trial_id, final(0.4) | metrics)
    assert search.suggest("c") == Searcher.FINISHED
    assert len(states(search)) == 2 + PATIENCE
    assert {tuple(trial.values) for trial in search._ot_study.trials} == {(0.25, 0.5)}


def test_a_prior_that_is_tried_twice_is_tried_once(tmp_path):
    own = TWO.base_point()
    other = next(values for values in TWO.configurations() if values != own)
    priors = [Prior(source=source, parameters=other, values=[0.5], is_tried=True) for source in "xy"]
    search = JournalSearch(TWO, Journal(tmp_path), priors=priors)
    assert run(search) == [own, other]


def sizes(suggest):
    suggest("optim.batch_size", Choices((8, 16, 32, 64)))
    suggest("optim.lr_head")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_left_out_is_never_begun(tmp_path, sampler):
    few = replace(EIGHT, left_out=(("model.head_hidden", (64, 128)), ("optim.batch_size", (16,))))
    seen = run(JournalSearch(few, Journal(tmp_path / "few"), goals=Goals(sampler=sampler)))
    listed = [few.identify(values) for values in EIGHT.configurations() if few.allows(values)]
    assert sorted(map(few.identify, seen)) == sorted(listed)
    assert len(listed) == few.num_configurations() == 2
    many = SearchSpace(sizes, tiny(), left_out=(("optim.batch_size", (64, 8)),))
    seen = run(JournalSearch(many, Journal(tmp_path / "many"), goals=Goals(sampler=sampler)), most=13)
    assert {values["optim.batch_size"] for values in seen} == {16, 32}


def test_a_sampler_that_insists_on_what_is_left_out_is_overruled(tmp_path):
    space = SearchSpace(sizes, tiny(), left_out=(("optim.batch_size", (8,)),))
    search = JournalSearch(space, Journal(tmp_path))
    search.suggest("a")
    for number in range(PATIENCE_LEFT_OUT + 3):
        propose(search, {"optim.batch_size": 8, "optim.lr_head": 1e-3 + number * 1e-6})
    assert search.suggest("b")["parameters"]["optim.batch_size"] != 8
    assert states(search).count(TrialState.FAIL) == PATIENCE_LEFT_OUT + 3


def test_trials_and_priors_outside_what_is_left_out_now_are_remembered(tmp_path):
    """Batches of 64 that an earlier session, on other machines or of an earlier version, has tried."""
    space = SearchSpace(sizes, tiny(), left_out=(("optim.batch_size", (64,)),))
    journal = Journal(tmp_path)
    for number, status in enumerate(("completed", "infeasible", "running")):
        values = {"optim.batch_size": 64 if number else 16, "optim.lr_head": 1e-3 * (1 + number)}
        metrics = {"objective": 0.5} if status == "completed" else {}
        journal.write(Record(f"trial-000{number}", values, status, metrics=metrics))
    prior = Prior(source="x", parameters={"optim.batch_size": 64, "optim.lr_head": 2e-3}, values=[0.6], is_tried=True)
    search = JournalSearch(space, journal, priors=[prior])
    assert states(search) == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING]
    again, new = (search.suggest(trial_id) for trial_id in "ab")
    assert (again["name"], again["parameters"]["optim.batch_size"]) == ("trial-0002", 64)  # it ends as it can
    assert (new["name"], new["parameters"]["optim.batch_size"] != 64) == ("trial-0003", True)


def test_which_of_the_untried_is_taken_depends_on_the_seed_alone(tmp_path):
    random.seed(1)
    first = run(JournalSearch(EIGHT, Journal(tmp_path / "x")))
    random.seed(2)
    assert run(JournalSearch(EIGHT, Journal(tmp_path / "y"))) == first
