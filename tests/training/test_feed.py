"""What an epoch's batches cost, over all ranks: times by a clock of our own, images that were not augmented by name."""

import numpy as np
import pytest

from reid_core.model.place import Place
from reid_core.training import feed as feed_module
from reid_core.training.batches import Batch
from reid_core.training.feed import Feed
from reid_core.training.training_findings import find_in_training


class Clock:
    """Stands still unless it is moved."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(feed_module, "time", clock)
    return clock


def slow_batches(clock: Clock, *failures: tuple[str, ...]):
    """Batches of 8 images that take 3 s each."""
    for of_batch in failures:
        clock.now += 3.0
        yield Batch(np.zeros((8, 2, 2, 3), np.uint8), np.zeros(8, np.int64), np.zeros((8, 6), np.float32), of_batch)


def train(feed: Feed, clock: Clock) -> int:
    """Steps of 1 s each."""
    steps = 0
    for _ in feed:
        clock.now += 1.0
        steps += 1
    return steps


def test_images_per_second_and_the_share_of_waiting_by_hand(clock):
    feed = Feed(slow_batches(clock, (), ()))
    assert train(feed, clock) == 2
    assert feed.measure(Place()) == {"images_per_s": 16 / 8, "data_wait_share": 6 / 8}


def test_ranks_add_their_images_and_the_slowest_decides_how_long_it_took(clock):
    feed = Feed(slow_batches(clock, (), ()))
    train(feed, clock)
    other = {
        np.dtype(float): np.array([[16.0, 10.0, 0.25]]),
        np.dtype(np.uint8): np.frombuffer(b'"b: odd"\n', np.uint8),
    }
    place = Place(world_size=2, gather=lambda mine: np.concatenate([mine, other[mine.dtype]]))
    assert feed.measure(place) == {
        "images_per_s": 32 / 10,
        "data_wait_share": (0.75 + 0.25) / 2,
        "not_augmented": 1,
        "not_augmented_examples": ["b: odd"],
    }


def test_images_that_were_not_augmented_become_a_finding(clock):
    names = tuple(f"{letter}.jpg: ValueError: odd\nline" for letter in "abcdefg")
    feed = Feed(slow_batches(clock, names, ("a.jpg: ValueError: odd\nline",)))
    train(feed, clock)
    report = {"epoch": 1, "loss": 0.3, "gradient_norm": 0.1, **feed.measure(Place())}
    assert report["not_augmented"] == 8
    (finding,) = find_in_training([report, report, {"epoch": 3, "loss": 0.3}])
    assert finding.count == 16
    assert finding.where == "training"
    assert finding.examples == names[:5]
    assert "16 times a photograph could not be augmented" in str(finding)
    assert "\n" not in str(finding)


def test_what_fails_while_it_is_waited_for_fails(clock):
    def broken():
        yield from slow_batches(clock, ())
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        train(Feed(broken()), clock)
