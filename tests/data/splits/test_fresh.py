"""Fresh splits: testSet stays and is not looked at, the rest is divided anew by the rules of each strategy."""

from collections import Counter

import numpy as np
import pytest
from dated_herds import days_in, draw
from herds import SHAPES, members, rows_of, sizes_of

from reid_core.data.splits.assign import assign_parts
from reid_core.data.splits.fresh import AVAILABLE, resplit
from reid_core.data.splits.parts import Parts, is_known
from reid_core.data.splits.rule import SplitRule
from reid_core.errors import UserError

STRATEGIES = ["stratified", "paper", "time_proportion", "time_cutoff"]
STRATIFIED = SplitRule(strategy="stratified", seed=0)


def make(identity_N, group_N, date_N=None, *, strategy: str, seed: int = 0, whole_encounters: bool = False):
    """The first split, the identities without those of testSet, and a function of the number of a fresh split."""
    rule = SplitRule(strategy=strategy, seed=seed, whole_encounters=whole_encounters)
    part_N = assign_parts(identity_N, group_N, rule=rule, date_N=date_N)
    locked_N = np.where(part_N == "testSet", None, identity_N)
    parts = Parts(locked_N, group_N, part_N)
    return part_N, locked_N, lambda number: resplit(parts, number=number, rule=rule, date_N=date_N).part_N


@pytest.mark.parametrize("seed", range(4))
def test_stratified_sizes_worked_by_hand(seed: int):
    # 20 identities of 6. testSet has 3 of them and an image each of 12 others: 5 with 6 images and 12 with 5 are left.
    # One in each layer of 6, 6 and 5 identities is new: 5 + 5 + 6 images. 10 % of 120 images for each other part.
    identity_N, group_N = rows_of([6] * 20)
    part_N, _, fresh = make(identity_N, group_N, strategy="stratified", seed=seed)
    available_N = np.isin(part_N, AVAILABLE)
    for number in (1, 2, 3):
        sizes = sizes_of(fresh(number)[available_N], identity_N[available_N], group_N[available_N])
        assert sizes == {
            ("training", True): 90 - 16 - 24,
            ("validating", True): 12,
            ("thresholdSet", True): 12,
            ("thresholdSet", False): 16,
        }


@pytest.mark.parametrize("seed", range(4))
def test_paper_sizes_worked_by_hand(seed: int):
    # As in test_splits: 91 identities have 2 images left; 8 whole ones (16 < 18.2) and one of each other go.
    identity_N, group_N = rows_of([3] * 100)
    part_N, _, fresh = make(identity_N, group_N, strategy="paper", seed=seed)
    available_N = np.isin(part_N, AVAILABLE)
    assert sizes_of(fresh(1)[available_N], identity_N[available_N], group_N[available_N]) == {
        ("training", True): 83,
        ("thresholdSet", True): 83,
        ("thresholdSet", False): 16,
    }


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strategy", ["stratified", "paper"])
def test_what_any_fresh_split_promises(strategy: str, shape: str, seed: int):
    identity_N, group_N = rows_of(SHAPES[shape])
    part_N, locked_N, fresh = make(identity_N, group_N, strategy=strategy, seed=seed)
    is_test_N = part_N == "testSet"
    only_in_test = set(identity_N[is_test_N]) - set(identity_N[~is_test_N])
    for number in (1, 2):
        fresh_N = fresh(number)
        np.testing.assert_array_equal(fresh_N == "testSet", is_test_N)
        assert set(fresh_N[~is_test_N]) <= set(AVAILABLE)
        assert members(fresh_N, identity_N, "validating") <= members(fresh_N, identity_N, "training")
        assert not only_in_test & members(fresh_N, identity_N, *AVAILABLE)
        np.testing.assert_array_equal(fresh_N, fresh(number))
        rule = SplitRule(strategy=strategy, seed=seed)
        for other_N in (
            identity_N,
            np.where(is_test_N, identity_N[0], identity_N),
        ):  # what testSet shows does not matter
            other = resplit(Parts(other_N, group_N, part_N), number=number, rule=rule)
            np.testing.assert_array_equal(fresh_N, other.part_N)
        if strategy == "stratified":
            check_stratified(part_N, fresh_N, locked_N, group_N)


def check_stratified(part_N, fresh_N, locked_N, group_N):
    """As many new identities as before, no image of theirs elsewhere, and at least 2 training images of the others."""
    known_N, was_known_N = (is_known(parts, locked_N, group_N) for parts in (fresh_N, part_N))
    new = set(locked_N[~known_N & (fresh_N == "thresholdSet")])
    assert len(new) == len(set(locked_N[~was_known_N & (part_N == "thresholdSet")]))
    assert set(fresh_N[np.isin(locked_N, list(new))]) <= {"thresholdSet"}
    in_training, images = Counter(locked_N[fresh_N == "training"]), Counter(locked_N)
    assert all(count >= min(2, images[identity]) for identity, count in in_training.items())
    for part in ("validating", "thresholdSet"):
        known = (known_N & (fresh_N == part)).sum()
        assert known <= max(1, round(0.1 * len(part_N)))
        if len(part_N) > 500:
            assert known == pytest.approx((was_known_N & (part_N == part)).sum(), rel=0.15)


@pytest.mark.parametrize("strategy", STRATEGIES[:3])
def test_other_numbers_and_seeds_are_other_threshold_sets(strategy: str):
    identity_N, group_N, date_N = draw(0)
    sets = set()
    for seed in (0, 1):
        part_N, _, fresh = make(identity_N, group_N, date_N, strategy=strategy, seed=seed)
        sets |= {tuple(np.flatnonzero(parts == "thresholdSet")) for parts in (part_N, *map(fresh, range(1, 5)))}
    assert len(sets) == 10


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", ["time_proportion", "time_cutoff"])
def test_by_time_queries_stay_later_than_the_gallery(strategy: str, seed: int, caplog):
    identity_N, group_N, date_N = draw(seed)
    part_N, locked_N, fresh = make(identity_N, group_N, date_N, strategy=strategy, seed=seed)
    assert not caplog.records
    for number in (1, 2):
        fresh_N = fresh(number)
        np.testing.assert_array_equal(fresh_N == "testSet", part_N == "testSet")
        assert set(fresh_N) == set(part_N)
        new = set(locked_N[~is_known(fresh_N, locked_N, group_N)]) - {None}
        for identity, days in days_in(fresh_N, identity_N, date_N).items():
            assert not any(days[one] & days[two] for one in AVAILABLE for two in (*AVAILABLE, "testSet") if one != two)
            queries = days["validating"] | days["thresholdSet"] | days["testSet"]
            assert identity in new or not days["training"] or max(days["training"]) < min(queries, default="9")
        assert all(set(fresh_N[locked_N == identity]) == {"thresholdSet"} for identity in new)
    warning = f"data.split={strategy}, fresh split 2: thresholdSet holds the same images as in the first split: turtle"
    assert (warning in caplog.messages) == (strategy == "time_cutoff")


def test_proportion_worked_by_hand():
    # Left of 3 animals, none of them new: 18 days of 20, 3 of 4, 2 of 3, and undated images.
    identity_N = np.array(["a"] * 20 + ["b"] * 4 + ["c"] * 3 + ["a", "c"], dtype=object)
    date_N = [f"2020-01-{day:02d}" for day in [*range(1, 21), *range(1, 5), *range(1, 4)]] + [None, ""]
    _, _, fresh = make(identity_N, np.full(29, "cow"), date_N, strategy="time_proportion")
    fresh_N = fresh(1)
    assert fresh_N[:20].tolist() == ["training"] * 14 + ["validating"] * 2 + ["thresholdSet"] * 2 + ["testSet"] * 2
    assert fresh_N[20:24].tolist() == ["training", "validating", "thresholdSet", "testSet"]
    assert fresh_N[24:27].tolist() == ["training", "thresholdSet", "testSet"]
    assert fresh_N[27:].tolist() == ["training", "training"]


def test_proportion_changes_who_is_new_and_gives_those_who_were_new_a_gallery():
    identity_N, group_N, date_N = draw(2)
    part_N, locked_N, fresh = make(identity_N, group_N, date_N, strategy="time_proportion", seed=2)
    new = [set(locked_N[~is_known(parts, locked_N, group_N)]) - {None} for parts in (part_N, *map(fresh, range(1, 6)))]
    assert {len(identities) for identities in new} == {4}  # 7.5 % of 60
    assert len(set().union(*new)) > 12
    back = new[0] - new[1]
    assert {"training", "thresholdSet"} <= set(fresh(1)[np.isin(locked_N, list(back))])


def test_cutoff_draws_validating_anew():
    identity_N, group_N, date_N = draw(0)
    part_N, _, fresh = make(identity_N, group_N, date_N, strategy="time_cutoff")
    chosen = {tuple(np.flatnonzero(parts == "validating")) for parts in (part_N, fresh(1), fresh(2))}
    assert len(chosen) == 3
    assert all(0.1 <= len(rows) / len(part_N) < 0.1 + 4 / len(part_N) for rows in chosen)
    np.testing.assert_array_equal(fresh(1) == "thresholdSet", part_N == "thresholdSet")


@pytest.mark.parametrize("strategy", ["time_proportion", "time_cutoff"])
def test_a_group_that_was_stratified_for_want_of_dates_is_so_again(strategy: str, caplog):
    turtle, cow = draw(0), draw(1, "cow")
    identity_N, group_N, date_N = (
        np.concatenate(pair) for pair in zip(turtle, (*cow[:2], np.full(len(cow[2]), None)), strict=True)
    )
    part_N, _, fresh = make(identity_N, group_N, date_N, strategy=strategy)
    cow_N = group_N == "cow"
    stratified = resplit(Parts(identity_N[cow_N], group_N[cow_N], part_N[cow_N]), number=1, rule=STRATIFIED)
    np.testing.assert_array_equal(fresh(1)[cow_N], stratified.part_N)
    assert caplog.text.count("group cow: no photograph has a date; split as data.split=stratified") == 1


def test_a_group_in_which_only_the_new_animals_have_two_days_stays_stratified():
    turtle, pig = draw(0), rows_of([6] * 8, "pig")
    stratified_N = assign_parts(*pig, rule=STRATIFIED)
    is_new_N = ~is_known(stratified_N, *pig)
    date_N = np.where(is_new_N & (np.arange(48) % 2 == 0), "2020-02-01", "2020-01-01")
    identity_N, group_N, date_N = (np.concatenate(pair) for pair in zip(turtle, (*pig, date_N), strict=True))
    _, _, fresh = make(identity_N, group_N, date_N, strategy="time_proportion")
    again_N = resplit(Parts(*pig, stratified_N), number=4, rule=STRATIFIED).part_N
    np.testing.assert_array_equal(fresh(4)[group_N == "pig"], again_N)
    was_new = set(pig[0][is_new_N & (stratified_N == "thresholdSet")])
    assert was_new & members(again_N, pig[0], "training")  # one with two days, which could be split by time now


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whole_encounters_stay_whole(strategy: str):
    rng = np.random.default_rng(0)
    identity_N, group_N = rows_of([9, 12] * 20)
    date_N = np.array([f"2020-01-{day + 1:02d}" for day in rng.integers(8, size=len(group_N))])
    _, _, fresh = make(identity_N, group_N, date_N, strategy=strategy, whole_encounters=True)
    parts_of: dict[tuple, set[str]] = {}
    for identity, date, part in zip(identity_N, date_N, fresh(1), strict=True):
        parts_of.setdefault((identity, date), set()).add(part)
    assert {len(parts) for parts in parts_of.values()} == {1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_parts_stay_and_change_nothing(strategy: str):
    identity_N, group_N, date_N = draw(0)
    part_N, _, fresh = make(identity_N, group_N, date_N, strategy=strategy)
    others = (part_N, ["query", "unreadable"]), (identity_N, [None, identity_N[0]])
    columns = [
        np.insert(column.astype(object), [0, 50], values) for column, values in (*others, (date_N, "2030-01-01"))
    ]
    parts = Parts(columns[1], np.full(len(columns[0]), "turtle"), columns[0])
    fresh_N = resplit(parts, number=1, rule=SplitRule(strategy=strategy, seed=0), date_N=columns[2]).part_N
    assert fresh_N[[0, 51]].tolist() == ["query", "unreadable"]
    np.testing.assert_array_equal(np.delete(fresh_N, [0, 51]), fresh(1))


def test_a_groups_fresh_split_depends_on_that_group_alone():
    alone, others = rows_of(SHAPES["cows"], "cows"), rows_of(SHAPES["lynx"], "lynx")
    identity_N, group_N = (np.concatenate(columns) for columns in zip(others, alone, strict=True))
    _, _, together = make(identity_N, group_N, strategy="stratified", seed=5)
    _, _, fresh = make(*alone, strategy="stratified", seed=5)
    np.testing.assert_array_equal(together(3)[group_N == "cows"], fresh(3))


@pytest.mark.parametrize("number", [0, -1])
def test_fresh_splits_are_numbered_from_one(number: int):
    with pytest.raises(UserError, match=f"fresh split {number}: fresh splits are numbered from 1"):
        resplit(Parts(*map(np.array, (["ada"], ["cow"], ["training"]))), number=number, rule=STRATIFIED)
