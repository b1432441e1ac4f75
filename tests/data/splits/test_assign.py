"""Splits: hand-worked sizes, and what must hold for every shape of group and every seed."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from herds import SHAPES, members, rows_of, sizes_of, split

from reid_core.data.splits.parts import is_known
from reid_core.errors import UserError
from reid_core.experiment.prepare import load_database


@pytest.mark.parametrize("seed", range(4))
def test_stratified_sizes_worked_by_hand(seed: int):
    # 20 identities of 6: 3 + 3 new (18 images each), 12 = 10 % of 120 for each other part, 84 - 36 stay
    identity_N, group_N = rows_of([6] * 20)
    assert sizes_of(split(identity_N, group_N, strategy="stratified", seed=seed), identity_N, group_N) == {
        ("training", True): 48,
        ("validating", True): 12,
        ("thresholdSet", True): 12,
        ("thresholdSet", False): 18,
        ("testSet", True): 12,
        ("testSet", False): 18,
    }
    # 5 identities of 4: one new in each query set; the other three keep 2 and give 2, of which 2 go to each part
    identity_N, group_N = rows_of([4] * 5)
    assert sizes_of(split(identity_N, group_N, strategy="stratified", seed=seed), identity_N, group_N) == {
        ("training", True): 6,
        ("validating", True): 2,
        ("thresholdSet", True): 2,
        ("thresholdSet", False): 4,
        ("testSet", True): 2,
        ("testSet", False): 4,
    }


@pytest.mark.parametrize("seed", range(4))
def test_paper_sizes_worked_by_hand(seed: int):
    # 100 identities of 3. testSet: 9 whole identities (27 < 30 images), one image of the other 91.
    # availableSet 91 x 2: 8 whole identities (16 < 18.2), one image of the other 83; 83 single images stay.
    # The 8 that are new in thresholdSet have one image each in testSet, where they are new as well.
    identity_N, group_N = rows_of([3] * 100)
    assert sizes_of(split(identity_N, group_N, strategy="paper", seed=seed), identity_N, group_N) == {
        ("training", True): 83,
        ("thresholdSet", True): 83,
        ("thresholdSet", False): 16,
        ("testSet", True): 83,
        ("testSet", False): 27 + 8,
    }


@pytest.mark.parametrize("seed", range(4))
def test_paper_leaves_one_query_per_known_identity_when_identities_are_small(seed: int):
    identity_N, group_N = rows_of([1, 2, 3, 5, 8, 10] * 40)
    part_N = split(identity_N, group_N, strategy="paper", seed=seed)
    known_N = is_known(part_N, identity_N, group_N)
    for part in ("thresholdSet", "testSet"):
        counts = Counter(identity_N[known_N & (part_N == part)])
        assert len(counts) > 100
        assert set(counts.values()) == {1}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strategy", ["stratified", "paper"])
def test_invariants_of_both_strategies(strategy: str, shape: str, seed: int):
    identity_N, group_N = rows_of(SHAPES[shape])
    part_N = split(identity_N, group_N, strategy=strategy, seed=seed)
    gallery = members(part_N, identity_N, "training")
    assert gallery
    assert "query" not in part_N
    assert members(part_N, identity_N, "validating") <= gallery
    known_N = is_known(part_N, identity_N, group_N)
    assert set(identity_N[known_N]) == gallery
    assert not np.isin(part_N[~known_N], ["training", "validating"]).any()
    np.testing.assert_array_equal(part_N, split(identity_N, group_N, strategy=strategy, seed=seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_invariants_of_stratified(shape: str, seed: int):
    identity_N, group_N = rows_of(SHAPES[shape])
    part_N = split(identity_N, group_N, strategy="stratified", seed=seed)
    known_N = is_known(part_N, identity_N, group_N)
    num_identities, num_images = len(SHAPES[shape]), len(identity_N)
    new = {part: set(identity_N[~known_N & (part_N == part)]) for part in ("thresholdSet", "testSet")}
    assert not new["thresholdSet"] & new["testSet"]
    at_least = 3 if num_identities >= 20 else 1 if num_identities >= 4 else 0
    for part, identities in new.items():
        assert len(identities) >= at_least, part
        assert len(identities) <= max(at_least, 0.075 * num_identities + 0.5)
        assert Counter(part_N[np.isin(identity_N, list(identities))]) in (
            {},
            {part: (~known_N & (part_N == part)).sum()},
        )
    in_training = Counter(identity_N[part_N == "training"])
    images = Counter(identity_N)
    for identity in members(part_N, identity_N, "training"):
        assert in_training[identity] >= min(2, images[identity])
    for part in ("validating", "thresholdSet", "testSet"):
        assert (known_N & (part_N == part)).sum() <= max(1, round(0.1 * num_images))


@pytest.mark.parametrize("seed", range(5))
def test_stratified_gives_ten_percent_where_it_can(seed: int):
    identity_N, group_N = rows_of(SHAPES["lynx"])
    part_N = split(identity_N, group_N, strategy="stratified", seed=seed)
    known_N = is_known(part_N, identity_N, group_N)
    for part in ("validating", "thresholdSet", "testSet"):
        assert (known_N & (part_N == part)).mean() == pytest.approx(0.1, abs=0.005)
        assert len(members(part_N[known_N], identity_N[known_N], part)) > 50
    assert "g071" in members(part_N, identity_N, "training")  # 353 images are not spent on one new animal


@pytest.mark.parametrize("seed", range(5))
def test_new_identities_have_few_and_many_images_in_both_query_sets(seed: int):
    identity_N, group_N = rows_of(SHAPES["salamanders"])
    part_N = split(identity_N, group_N, strategy="stratified", seed=seed)
    known_N = is_known(part_N, identity_N, group_N)
    for part in ("thresholdSet", "testSet"):
        counts = list(Counter(identity_N[~known_N & (part_N == part)]).values())
        assert len(counts) == 44  # 7.5 % of 587
        assert 0.4 < np.mean(np.array(counts) == 1) < 0.65  # 53 % of all have a single image
        assert max(counts) >= 6


def test_a_groups_stratified_parts_do_not_depend_on_other_groups():
    alone = rows_of(SHAPES["cows"], "cows")
    others = rows_of(SHAPES["lynx"], "lynx"), rows_of(SHAPES["five"], "a")
    identity_N, group_N = (np.concatenate(columns) for columns in zip(others[0], alone, others[1], strict=True))
    together_N = split(identity_N, group_N, strategy="stratified", seed=5)
    np.testing.assert_array_equal(together_N[group_N == "cows"], split(*alone, strategy="stratified", seed=5))


def test_groups_of_the_same_shape_are_split_differently():
    first, second = rows_of([20] * 38, "a"), rows_of([20] * 38, "b")
    assert (split(*first, strategy="stratified", seed=0) != split(*second, strategy="stratified", seed=0)).any()


@pytest.mark.parametrize("strategy", ["stratified", "paper"])
def test_another_seed_is_another_split_and_any_integer_is_a_seed(strategy: str):
    identity_N, group_N = rows_of(SHAPES["cows"])
    splits = {split(identity_N, group_N, strategy=strategy, seed=seed).tobytes() for seed in (-1, 0, 1, 2**70)}
    assert len(splits) == 4


@pytest.mark.parametrize("strategy", ["stratified", "paper"])
def test_the_order_of_rows_does_not_choose_identities(strategy: str):
    identity_N, group_N = rows_of(SHAPES["salamanders"])
    order = np.random.default_rng(0).permutation(len(identity_N))
    part_N = split(identity_N, group_N, strategy=strategy, seed=1)
    shuffled_N = split(identity_N[order], group_N[order], strategy=strategy, seed=1)
    assert Counter(zip(identity_N, part_N, strict=True)) == Counter(zip(identity_N[order], shuffled_N, strict=True))


@pytest.mark.parametrize("strategy", ["stratified", "paper"])
def test_queries_stay_queries_and_change_nothing(strategy: str):
    identity_N, group_N = rows_of(SHAPES["cows"])
    with_queries_N = np.insert(identity_N, [0, 100, 300], None)
    part_N = split(with_queries_N, np.full(len(with_queries_N), "g"), strategy=strategy, seed=0)
    is_query_N = np.equal(with_queries_N, None)
    assert set(part_N[is_query_N]) == {"query"}
    np.testing.assert_array_equal(part_N[~is_query_N], split(identity_N, group_N, strategy=strategy, seed=0))


@pytest.mark.parametrize("strategy", ["stratified", "paper"])
def test_the_same_name_in_two_groups_is_two_animals(strategy: str):
    identity_N = np.array(["ada"] * 2 + ["ada"], dtype=object)
    group_N = np.array(["cow", "cow", "pig"])
    part_N = np.array(["training", "training", "testSet"])
    assert is_known(part_N, identity_N, group_N).tolist() == [True, True, False]
    one_N = split(identity_N, group_N, strategy=strategy, seed=0)
    assert one_N[2] == "training"  # the only image of the pig


@pytest.mark.parametrize("strategy", ["stratified", "paper"])
def test_no_rows_and_only_queries(strategy: str):
    assert split([], [], strategy=strategy, seed=0).tolist() == []
    assert split([None], ["g"], strategy=strategy, seed=0).tolist() == ["query"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", ["stratified", "paper", "time_proportion", "time_cutoff"])
def test_whole_encounters_with_any_strategy(strategy: str, seed: int):
    both = zip(rows_of([9, 12] * 20, "a"), rows_of([6] * 30, "b"), strict=True)
    identity_N, group_N = (np.concatenate(columns) for columns in both)
    rng = np.random.default_rng(seed)
    date_N = np.array([None if day == 9 else f"2020-01-{day + 1:02d}" for day in rng.integers(10, size=len(group_N))])
    date_N[group_N == "b"] = None
    options = {"strategy": strategy, "seed": seed, "date_N": date_N}
    straddling = {}
    for whole in (False, True):
        part_N = split(identity_N, group_N, **options, whole_encounters=whole)
        encounters: dict[tuple, set[str]] = {}
        for identity, date, part in zip(identity_N, date_N, part_N, strict=True):
            if date:
                encounters.setdefault((identity, date), set()).add(str(part))
        straddling[whole] = sum(len(parts) > 1 for parts in encounters.values())
        assert members(part_N, identity_N, "validating") <= members(part_N, identity_N, "training")
    assert straddling[True] == 0
    assert (straddling[False] > 0) == (strategy in ("stratified", "paper"))
    apart_N = split(identity_N, group_N, **options)
    np.testing.assert_array_equal(is_known(part_N, identity_N, group_N), is_known(apart_N, identity_N, group_N))
    undated_N = np.equal(date_N, None)
    np.testing.assert_array_equal(part_N[undated_N], apart_N[undated_N])


def test_whole_encounters_without_dates_changes_nothing():
    identity_N, group_N = rows_of(SHAPES["five"])
    plain_N = split(identity_N, group_N, strategy="stratified", seed=0, date_N=["soon"] * 20)
    part_N = split(identity_N, group_N, strategy="stratified", seed=0, whole_encounters=True)
    np.testing.assert_array_equal(part_N, plain_N)


@pytest.mark.parametrize(
    ("strategy", "digest"),
    [
        ("stratified", "8ea8ded8c1d08603"),
        ("paper", "1b725e24406d73ed"),
        ("time_proportion", "e2319b9614994056"),
        ("time_cutoff", "227f1aebf1644e8a"),
    ],
)
def test_a_seed_gives_the_parts_that_it_has_always_given(small_data, strategy: str, digest: str):
    database = load_database(small_data)
    identity_N, group_N, date_N = (
        np.array(database[name].to_pylist(), dtype=object) for name in ("identity", "group", "date")
    )
    hashed = hashlib.blake2b(digest_size=8)
    for seed in range(3):
        hashed.update("\n".join(split(identity_N, group_N, strategy=strategy, seed=seed, date_N=date_N)).encode())
    assert hashed.hexdigest() == digest


def test_wrong_arguments():
    with pytest.raises(UserError, match=r"data\.split='random': expected one of stratified, paper, time_proportion"):
        split(["a"], ["g"], strategy="random", seed=0)
    with pytest.raises(ValueError, match="shorter"):
        split(["a", "b"], ["g"], strategy="paper", seed=0)
