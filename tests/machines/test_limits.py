"""When a sweep ends early, and what its trials have cost."""

import argparse
import time

import pytest

from reid_core.errors import UserError
from sweeps.machines.limits import Limits, add_limit_flags, make_limits, parse_time
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record

TWO_GPUS = Resources(workers=2, gpus_per_worker=1)


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_limit_flags(parser)
    return make_limits(parser.parse_args(arguments), TWO_GPUS)


def record(status, **values):
    return Record("trial-0000", {}, status=status, **values)


@pytest.mark.parametrize("text", ["", "8 hours", "-3h", "0", "h", "1e3"])
def test_what_is_not_a_time_is_refused_by_its_flag(text):
    with pytest.raises(UserError, match=rf"--time-budget {text}: expected a time such as 90m"):
        parse_time(text)


def test_negative_limits_are_refused_by_their_flags():
    for flag in ("--max-failures", "--max-gpu-hours"):
        with pytest.raises(UserError, match=f"{flag} -1"):
            parse(flag, "-1")


def test_nothing_ends_a_sweep_without_limits():
    assert Limits().reached([record("failed")] * 100 + [record("completed", gpu_hours=1e6)]) is None


def test_failures_end_a_sweep_and_pruned_trials_do_not_count():
    limits = parse("--max-failures", "2")
    assert limits.reached([record("pruned"), record("completed"), record("failed")]) is None
    assert "--max-failures 2: 2 trials" in limits.reached([record("infeasible"), record("failed")])
    assert parse().max_failures == 10
    assert parse("--max-failures", "0").max_failures is None


def test_a_search_leaves_a_third_of_the_budgets_to_its_confirmation():
    limits = parse("--time-budget", "90m", "--max-gpu-hours", "6", "--max-failures", "3")
    search = limits.search_share()
    assert (search.time_budget_s, search.max_hours, search.max_failures) == (3600.0, 4.0, 3)
    spent = [record("completed", gpu_hours=5.0)]
    assert search.reached(spent) is not None
    assert limits.reached(spent) is None
    assert Limits().search_share().reached(spent) is None


def test_time_is_that_of_this_session():
    limits = Limits(time_budget_s=60.0, started_s=time.monotonic() - 59)
    assert limits.reached([record("completed", seconds=1e6)]) is None
    assert Limits(time_budget_s=60.0, started_s=time.monotonic() - 61).reached([]) == "--time-budget: 60 s have passed"


def test_hours_are_of_gpus_where_there_are_any():
    trials = [record("completed", gpu_hours=1.5, cpu_hours=50.0), record("running", gpu_hours=0.6)]
    assert parse("--max-gpu-hours", "2").reached(trials) == "--max-gpu-hours 2: 2.1 GPU-hours are spent"
    assert parse("--max-gpu-hours", "2.2").reached(trials) is None
    on_cpus = Limits(max_hours=2.0)
    assert on_cpus.reached(trials) == "--max-gpu-hours 2: 50 CPU-hours are spent"


def test_time_is_counted_by_what_a_trial_holds():
    trial = record("running")
    for seconds in (900.0, 900.0):
        Limits(resources=Resources(workers=2, gpus_per_worker=1, data_cpus_per_worker=3)).count(trial, seconds)
    assert trial.seconds == 1800
    assert trial.gpu_hours == pytest.approx(0.5 * 2)
    assert trial.cpu_hours == pytest.approx(0.5 * (0.01 + 2 * (1 + 3)))


def test_a_trial_that_cannot_go_on_ends_the_sweep():
    assert "trial-0000 cannot go on: No space" in Limits().reached([record("stopped", reason="No space left")])
