"""Laps add up to all the time there was, and what a timeline says is what was written; a clock of the test's own."""

from types import SimpleNamespace

import pytest

from sweeps.results import timeline
from sweeps.results.timeline import TIMELINE, Laps, describe_time, read_timeline, sum_timelines


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(timeline, "time", SimpleNamespace(time=lambda: now.s, monotonic=lambda: now.s - 900.0))
    return now


def test_every_second_belongs_to_a_part(clock, tmp_path):
    laps = Laps(ago_s=5.0)
    for part, seconds in (("training", 3.0), ("validation", 0.5), ("training", 2.0)):
        clock.s += seconds
        laps.lap(part)
    assert laps.seconds == {"training": 10.0, "validation": 0.5}
    laps.write(tmp_path)
    clock.s += 4.0
    laps.lap("training", tmp_path)
    assert read_timeline(tmp_path) == {"training": 14.0, "validation": 0.5}
    assert read_timeline(tmp_path, since_s=1000.0) == {"training": 4.0}  # the first line began at 995


def test_what_is_damaged_or_cannot_be_written_does_no_harm(clock, tmp_path):
    assert read_timeline(tmp_path) == {}
    laps = Laps()
    laps.lap("search", tmp_path / "nowhere")
    clock.s += 2.0
    laps.lap("search", tmp_path)
    with (tmp_path / TIMELINE).open("ab") as file:
        file.write(b'{"began_s": 1, "seconds": {"x": "y"}}\n[]\n{"seconds": {}}\n\xff{"began_s": 1, "sec')
    assert read_timeline(tmp_path) == {"search": 2.0}


def test_the_largest_parts_come_first_for_the_command_and_its_trials(clock, tmp_path):
    def spend(folder, **parts):
        folder.mkdir(parents=True, exist_ok=True)
        laps = Laps()
        for part, seconds in parts.items():
            clock.s += seconds
            laps.lap(part)
        laps.write(folder)

    spend(tmp_path / "trials" / "trial-0000", training=500.0)  # of a session before
    clock.s += 100.0
    began_s = clock.s
    spend(tmp_path, imports=4.0, search=10.0)
    spend(tmp_path / "groups" / "cow", confirmation=20.4)
    spend(tmp_path / "trials" / "trial-0001", training=3.0, validation=1.0)
    spend(tmp_path / "groups" / "cow" / "confirm" / "trials" / "trial-0001-run1", training=6.0)
    command, trials = sum_timelines(tmp_path, since_s=began_s)
    assert command == pytest.approx({"confirmation": 20.4, "search": 10.0, "imports": 4.0})
    assert trials == {"training": 9.0, "validation": 1.0}
    assert describe_time(tmp_path, age_s=clock.s - began_s) == (
        "44 s: confirmation 20 s, search 10 s, imports 4 s\n10 s of trials: training 90 %, validation 10 %"
    )
