"""Slots are opened once, kept from run to run, and end when they were let go; without Ray."""

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeps.machines.resources import Resources
from sweeps.trials.slots import pool as pools
from sweeps.trials.slots.pool import Pool, keep_slots

OUT = Path("out")


class Handle:
    """Of an actor; notes what is called."""

    def __init__(self, calls, number):
        self._calls, self._number = calls, number

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *args: self._calls.append((method, self._number)))


@pytest.fixture
def calls(monkeypatch):
    made = []
    actor = SimpleNamespace(
        options=lambda **options: SimpleNamespace(remote=lambda number, *args: Handle(made, number))
    )
    fake = SimpleNamespace(
        remote=lambda cls: actor,
        wait=lambda refs, **options: None,
        kill=lambda slot: made.append(("kill", slot._number)),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "0" * 56),
    )
    monkeypatch.setattr(pools, "ray", fake)
    return made


def test_no_more_slots_are_opened_than_there_are_trials_and_none_twice(calls):
    three = Resources(concurrent=3)
    with keep_slots(three, OUT) as pool:
        assert len(pool.provide(2)) == 2
        with keep_slots(three, OUT / "other", pool=pool) as same:
            assert len(same.provide(9)) == 3
        assert [call for call in calls if call[0] != "start_workers"] == []
    assert calls == [
        ("start_workers", 0),
        ("start_workers", 1),
        ("start_workers", 2),
        *[("close", n) for n in range(3)],
    ] + [("kill", n) for n in range(3)]


def test_slots_that_were_let_go_end_before_the_next_run_opens_others(calls):
    with keep_slots(Resources(), OUT) as pool:
        pool.provide(5)
        pool.let_go()
        pool.clear()
        assert calls[-1] == ("kill", 0)
        pool.provide(5)
        assert calls[-1] == ("start_workers", 0)
    assert [call for call in calls if call[0] == "kill"] == [("kill", 0)] * 2


def test_a_pool_stays_where_it_is(calls):
    pool = Pool(Resources(), OUT)
    assert len(pool.provide(1)) == 1
    assert copy.deepcopy(pool) is pool
    assert pickle.loads(pickle.dumps(pool)) is None
