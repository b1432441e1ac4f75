"""What is said while nothing moves, and when it ends: by a clock of the test's own. No Ray."""

import copy
import logging
import pickle
import time

import pytest

from reid_core.errors import UserError
from sweeps.machines import waiting
from sweeps.machines.looking import Seen
from sweeps.machines.waiting import WaitedTooLongError, Watch, watched, watching

STARVED = Seen(("1 × 1 CPU",), False, "0.99 CPU, 0 GPU")
BUSY = Seen((), True, "0 CPU, 0 GPU")


class World:
    """A clock that stands until it is moved, and what a look at the cluster sees."""

    def __init__(self, seen: Seen = STARVED) -> None:
        self.now_s, self.seen = 0.0, seen

    def watch(self, **settings) -> Watch:
        return Watch(what=lambda: "the next batch", look=lambda: self.seen, clock=lambda: self.now_s, **settings)

    def pass_time(self, watch: Watch, seconds: int) -> None:
        """Seconds pass, each with a check."""
        for _ in range(seconds):
            self.now_s += 1
            watch.check()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.WARNING, logger=waiting.__name__)
    return caplog


def test_a_line_after_a_minute_says_what_is_waited_for_and_what_is_free(lines):
    world = World()
    watch = world.watch()
    world.pass_time(watch, 59)
    assert lines.messages == []
    world.pass_time(watch, 5)
    assert lines.messages == ["waiting for 60 s: the next batch; not to be had: 1 × 1 CPU; free: 0.99 CPU, 0 GPU"]
    world.pass_time(watch, 600)
    assert [line.split(":")[0] for line in lines.messages[1:]] == [f"waiting for {s} s" for s in (120, 240, 480)]


def test_progress_begins_anew(lines):
    world = World()
    watch = world.watch(patience_s=100)
    for _ in range(30):
        world.pass_time(watch, 55)
        watch.progressed()
    assert lines.messages == []
    with pytest.raises(WaitedTooLongError, match=r"--give-up-after: waiting for 100 s: the next batch; not to be had"):
        world.pass_time(watch, 101)
    assert watch.gave_up is not None
    assert world.now_s == 30 * 55 + 100


def test_only_time_in_which_something_is_asked_for_in_vain_counts(lines):
    world = World(BUSY)
    watch = world.watch(patience_s=300)
    world.pass_time(watch, 10_000)  # a long epoch
    assert "nothing asks for a CPU or GPU in vain" in lines.messages[0]
    world.seen = STARVED._replace(is_at_work=True)
    world.pass_time(watch, 10_000)  # a long epoch of one trial, while another finds no place
    for number in range(20):  # what is asked for is had after a while
        world.seen = STARVED._replace(asked=(f"{number + 1} × 1 CPU",))
        world.pass_time(watch, 200)
    always = World(BUSY)
    with pytest.raises(WaitedTooLongError):
        always.pass_time(always.watch(patience_s=300, always=True), 301)


def test_a_neighbour_whose_tasks_come_and_go_does_not_prolong_the_wait():
    world = World()
    watch = world.watch(patience_s=300)
    for free in range(349):  # from the first look on, after 50 s
        world.seen = STARVED._replace(free=f"{free} CPU")
        world.pass_time(watch, 1)
    with pytest.raises(WaitedTooLongError):
        world.pass_time(watch, 1)


def test_a_cluster_that_cannot_be_asked_is_no_error(lines):
    def fail():
        raise RuntimeError("lost")

    world = World()
    watch = Watch(what=lambda: "x", look=fail, clock=lambda: world.now_s, patience_s=70)
    world.pass_time(watch, 1000)
    assert "unknown, the cluster does not answer (lost)" in lines.messages[0]


def test_items_pass_through_and_what_they_raise():
    world = World()
    assert list(watched(iter(range(5)), world.watch())) == [0, 1, 2, 3, 4]
    closed = []

    def fail():
        try:
            yield 1
            raise OSError("broken")
        finally:
            closed.append(True)

    items = watched(fail(), world.watch())
    assert next(items) == 1
    with pytest.raises(OSError, match="broken"):
        next(items)
    half = watched(fail(), world.watch())
    next(half)
    half.close()
    assert closed == [True, True]


def test_an_item_that_does_not_come_ends_the_wait(monkeypatch):
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    monkeypatch.setattr(waiting, "LOOK_S", 0.01)

    def hang():
        yield 1
        time.sleep(1.0)

    watch = Watch(what=lambda: "it", look=lambda: STARVED, patience_s=0.1)
    items = watched(hang(), watch)
    assert next(items) == 1
    with pytest.raises(WaitedTooLongError, match="waiting for 0 s: it"):
        next(items)


def test_another_thread_keeps_the_error_for_whoever_waits(monkeypatch):
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    monkeypatch.setattr(waiting, "LOOK_S", 0.01)
    watch = Watch(what=lambda: "it", look=lambda: STARVED, patience_s=0.05)
    with watching(copy.deepcopy(watch)):
        deadline_s = time.monotonic() + 30
        while watch.gave_up is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert isinstance(watch.gave_up, WaitedTooLongError)
    assert pickle.loads(pickle.dumps(watch)).gave_up is None


def test_what_cannot_be_said_or_fails_once_does_not_end_the_watch(monkeypatch, lines):
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    monkeypatch.setattr(waiting, "LOOK_S", 0.0)
    times = iter(range(0, 10_000, 10))

    def clock():
        now_s = next(times)
        if now_s == 50:
            raise OSError("no clock")
        return float(now_s)

    def say():
        raise UserError("trial-0001.json: damaged")

    watch = Watch(what=say, look=lambda: STARVED, patience_s=150, clock=clock)
    with watching(watch):
        deadline_s = time.monotonic() + 30
        while watch.gave_up is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert any("the next may not" in line for line in lines.messages)
    assert any("what for is unknown (trial-0001.json: damaged)" in line for line in lines.messages)
    assert "what for is unknown" in str(watch.gave_up)
