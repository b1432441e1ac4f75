"""Encounters: reading dates, and the rule that moves straddling encounters, worked by hand."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from reid_core.data.splits.encounters import keep_encounters_whole, read_days
from reid_core.data.table.dates import day_of

QUERY_PARTS = ["validating", "thresholdSet", "testSet"]
LETTERS = {"t": "training", "v": "validating", "h": "thresholdSet", "s": "testSet", "q": "query", "x": "unreadable"}


def keep(parts: str, days: str, identity: str = "ada") -> str:
    """Parts as letters, days as digits (. is undated), all of one animal → parts as letters."""
    part_N = np.array([LETTERS[letter] for letter in parts], dtype=object)
    date_N = [None if day == "." else f"2020-01-0{day}" for day in days]
    whole_N = keep_encounters_whole(part_N, [identity] * len(parts), ["cow"] * len(parts), date_N)
    letters = {part: letter for letter, part in LETTERS.items()}
    return "".join(letters[part] for part in whole_N)


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2020-12-31", "2020-12-31"),
        (" 2020-12-31 ", "2020-12-31"),
        ("2020-12-31 23:59:59", "2020-12-31"),
        ("2020-12-31T23:59:59.5+02:00", "2020-12-31"),  # the day where it was taken, not the day in UTC
        ("2020-12-31x", None),
        ("2020-13-01", None),
        ("2020-1-1", "2020-01-01"),
        ("20201231", "2020-12-31"),
        ("2020:12:31 08:15:00", "2020-12-31"),  # EXIF's
        ("2020/12/31", "2020-12-31"),
        ("2020", None),
        ("0000-00-00", None),
        ("31/12/2020", None),
        ("", None),
        (None, None),
    ],
)
def test_day_of(moment: str | None, day: str | None):
    assert day_of(moment) == day


def test_days_of_dates_as_they_are_written():
    day_N = read_days(["2020-01-01", "1.2.2020", None, "2020:01:02 03:04:05", ""], ["cow"] * 5)
    assert day_N.tolist() == ["2020-01-01", None, None, "2020-01-02", None]
    assert read_days(None, ["cow", "pig"]).tolist() == [None, None]
    assert read_days(day_N, ["cow"] * 5).tolist() == day_N.tolist()


@pytest.mark.parametrize(
    ("before", "days", "after"),
    [
        ("tttss", "11122", "tttss"),  # nothing straddles
        ("tttsts", "111222", "tttsss"),  # 3 are kept: the encounter moves
        ("ttts", "1122", "ttss"),  # 2 are kept
        ("tts", "122", "tss"),  # it has only one other image, which is kept
        ("ths", "111", "ttt"),  # nothing else in training: all of it stays
        ("tsts", "1111", "tttt"),
        ("ttshh", "12233", "ttthh"),  # it has other images than the one in training, so one is not enough
        ("ttthss", "112222", "ttssss"),  # testSet holds most of it
        ("tthhs", "11222", "tthhh"),  # no image of it is in training
        ("ths", "122", "thh"),  # a tie between equally large parts: the first of them
        ("thsh", "1223", "tssh"),  # a tie: testSet is smaller
        ("tthshs", "112233", "ttsshh"),  # thresholdSet got the later encounter, so testSet gets the next
        ("tthshhsssss", "11223334444", "tthhhhhssss"),  # day 3 left 5 images to testSet; thresholdSet has 4
        ("ttvtv", "11122", "tttvv"),  # validating is a query part too
        ("ttsttsts", "11122233", "tttsssss"),  # later encounters move first; the earliest then has to stay
        ("tsts", "1122", "sstt"),  # day 2 cannot move while day 1 keeps a single image in training
        ("ttss", "....", "ttss"),  # undated: every image is an encounter of its own
        ("tttqsx", "112222", "ttsqsx"),  # other parts neither move nor count
    ],
)
def test_the_rule_worked_by_hand(before: str, days: str, after: str):
    assert keep(before, days) == after


def test_new_animals_stay_new():
    assert keep("hhss", "1122") == "hhss"
    assert keep("hhs", "111") == "hhh"  # an animal of the paper's split that is new in both query sets


def test_equal_names_and_dates_of_two_groups_are_two_encounters():
    part_N = np.array(["training", "testSet"])
    whole_N = keep_encounters_whole(part_N, ["ada", "ada"], ["cow", "pig"], ["2020-01-01", "2020-01-01"])
    assert whole_N.tolist() == ["training", "testSet"]


def test_the_input_is_left_alone_and_unnamed_images_do_not_move():
    part_N = np.array(["training", "training", "training", "testSet", "testSet"])
    whole_N = keep_encounters_whole(part_N, ["ada"] * 4 + [None], ["cow"] * 5, ["2020-01-01"] * 2 + ["2021-01-01"] * 3)
    assert whole_N.tolist() == ["training", "training", "testSet", "testSet", "testSet"]
    assert part_N.tolist() == ["training", "training", "training", "testSet", "testSet"]


def test_a_group_without_dates_stays_as_it_is():
    part_N, date_N = np.array(["training", "testSet", "training", "testSet"]), ["2020-01-01", "2020-01-01", None, None]
    whole_N = keep_encounters_whole(part_N, ["ada", "ada", "bo", "bo"], ["cow", "cow", "pig", "pig"], date_N)
    assert len(set(whole_N[:2])) == 1
    assert whole_N[2:].tolist() == ["training", "testSet"]


@pytest.mark.parametrize("seed", range(5))
def test_what_holds_for_any_parts(seed: int):
    rng = np.random.default_rng(seed)
    num = 600
    group_N = rng.choice(["cow", "pig"], num).astype(object)
    identity_N = rng.choice([f"a{k}" for k in range(40)], num).astype(object)
    date_N = np.array([None if day == 6 else f"2020-01-1{day}" for day in rng.integers(7, size=num)], dtype=object)
    part_N = rng.choice(["training", *QUERY_PARTS], num, p=[0.7, 0.1, 0.1, 0.1])
    part_N[np.isin(identity_N, ["a1", "a2", "a3"])] = "testSet"
    whole_N = keep_encounters_whole(part_N, identity_N, group_N, date_N)
    found, before = defaultdict(set), defaultdict(set)
    for row in np.flatnonzero(date_N):
        found[group_N[row], identity_N[row], date_N[row]].add(whole_N[row])
        before[group_N[row], identity_N[row], date_N[row]].add(part_N[row])
    assert max(map(len, before.values())) >= 3
    for encounter, parts in found.items():
        assert len(parts) == 1
        assert parts <= before[encounter] | {"training"}
    undated = np.equal(date_N, None)
    np.testing.assert_array_equal(whole_N[undated], part_N[undated])
    animals = [*zip(group_N, identity_N, strict=True)]
    kept, had = (
        Counter(animal for animal, part in zip(animals, parts, strict=True) if part == "training")
        for parts in (whole_N, part_N)
    )
    assert set(kept) == set(had)  # known stays known, new stays new
    assert all(number >= min(2, had[animal]) for animal, number in kept.items())
    shuffled = rng.permutation(num)
    shuffled_N = keep_encounters_whole(part_N[shuffled], identity_N[shuffled], group_N[shuffled], date_N[shuffled])
    np.testing.assert_array_equal(shuffled_N, whole_N[shuffled])
