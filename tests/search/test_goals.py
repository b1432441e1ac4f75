"""What is maximised, and which trial is picked."""

import optuna
import pytest

from reid_core.config.presets import tiny
from sweeps.results.journal import Journal, Record
from sweeps.search.goals import Goals, find_front, format_front, pick
from sweeps.search.optuna_search import JournalSearch
from sweeps.search.space import SearchSpace, metric_space
from sweeps.search.suggestion import FINAL

BOTH = Goals(groups=("cow", "pig"))


def trial(number, cow, pig, objective=None):
    value = (cow + pig) / 2 if objective is None else objective
    metrics = {"geo_mean.cow": cow, "geo_mean.pig": pig, "objective": value}
    return Record(f"trial-{number:04d}", {}, "completed", metrics=metrics)


TRIALS = [
    trial(0, 0.5, 0.5),
    trial(1, 0.9, 0.2),
    trial(2, 0.4, 0.5),  # beaten by the first
    trial(3, 0.3, 0.9),
    Record("trial-0004", {}, "pruned"),
    trial(5, 0.5, 0.5),  # equal to the first: neither beats the other
]


def test_the_front_is_what_nothing_beats():
    slow = [
        one.name
        for one in TRIALS
        if one.objective is not None
        and not any(
            all(a >= b for a, b in zip(BOTH.values(other), BOTH.values(one), strict=True))
            and BOTH.values(other) != BOTH.values(one)
            for other in TRIALS
            if other.objective is not None
        )
    ]
    assert [record.name for record in find_front(TRIALS, BOTH)] == slow
    assert slow == ["trial-0000", "trial-0001", "trial-0003", "trial-0005"]
    assert find_front([], BOTH) == []


def test_the_objective_picks_of_the_front():
    assert pick(TRIALS, BOTH).name == "trial-0003"  # the best mean
    worst = [trial(number, cow, pig, min(cow, pig)) for number, cow, pig in ((0, 0.5, 0.5), (1, 0.9, 0.2))]
    assert pick(worst, BOTH).name == "trial-0000"
    assert pick(TRIALS[4:5], BOTH) is None
    assert pick(TRIALS, Goals()).name == "trial-0003"


def test_the_front_is_shown_best_first():
    lines = format_front(TRIALS, BOTH).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["trial-0003", "trial-0001", "trial-0000", "trial-0005"]
    assert lines[1].split()[1:] == ["0.300", "0.900", "0.6000"]
    metrics = {"objective": 0.6, "geo_mean.cow": 0.3, "geo_mean_low.cow": 0.1, "geo_mean_high.cow": 0.5}
    alone = Record("a", {}, "completed", metrics=metrics | {"geo_mean.pig": 0.9})
    (line,) = format_front([alone], BOTH).splitlines()[1:]
    assert line.split()[1:] == ["0.300", "0.100", "…", "0.500", "0.900", "0.6000"]


def test_a_group_that_is_undefined_counts_nothing():
    assert BOTH.values(Record("a", {}, "completed", metrics={"objective": 0.3, "geo_mean.cow": 0.3})) == [0.3, 0.0]
    assert Goals().values(Record("a", {}, "completed", metrics={"objective": 0.3})) == [0.3]
    assert Goals().values(Record("a", {}, "pruned")) is None


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_for_several_goals_gives_optuna_all_of_them_and_resumes(tmp_path, sampler):
    goals = Goals(groups=("cow", "pig"), sampler=sampler)
    search = JournalSearch(SearchSpace(metric_space, tiny()), Journal(tmp_path), goals=goals)
    for trial_id, cow in (("a", 0.4), ("b", 0.8)):
        search.suggest(trial_id)
        search.on_trial_result(trial_id, {"epoch": 1, "loss": 0.1, "geo_mean_cosine": 0.5})
        metrics = {"metrics/geo_mean.cow": cow, "metrics/geo_mean.pig": 0.5}
        done = {FINAL: True, "epoch": 0, "objective": 0.5, "checkpoint_path": "", "history": [], **metrics}
        search.on_trial_complete(trial_id, done)
    assert [trial.values for trial in search._ot_study.trials] == [[0.4, 0.5], [0.8, 0.5]]
    assert search._ot_study.directions == [optuna.study.StudyDirection.MAXIMIZE] * 2

    resumed = JournalSearch(SearchSpace(metric_space, tiny()), Journal(tmp_path), goals=goals)
    assert [trial.values for trial in resumed._ot_study.trials] == [[0.4, 0.5], [0.8, 0.5]]
    assert resumed.suggest("c")["name"] == "trial-0002"


def test_samplers_are_those_of_the_flag():
    assert isinstance(Goals().make_sampler(0, 0), optuna.samplers.TPESampler)
    assert isinstance(Goals(sampler="nsga2").make_sampler(0, 0), optuna.samplers.NSGAIISampler)
    assert isinstance(Goals(sampler="random").make_sampler(0, 0), optuna.samplers.RandomSampler)
