"""Splits by capture date: hand-worked cases, what must hold for any dates, and the ways back to `stratified`."""

from collections import Counter

import numpy as np
import pytest
from dated_herds import days_in, draw
from herds import split

from reid_core.data.splits.assign import stratified_instead
from reid_core.data.splits.by_time import choose_cutoff
from reid_core.data.splits.parts import is_known
from reid_core.data.splits.rule import SplitRule
from reid_core.errors import UserError

STRATEGIES = ["time_proportion", "time_cutoff"]
PARTS = ["training", "validating", "thresholdSet", "testSet"]  # in the order of time


def test_proportion_worked_by_hand():
    # No animal is new among three. 20 days give 2 to each query part, 4 give 1 each, 3 none to validating.
    identity_N = np.array(["a"] * 20 + ["b"] * 4 + ["c"] * 3 + ["a", "c"], dtype=object)
    date_N = [f"2020-01-{day:02d}" for day in [*range(1, 21), *range(1, 5), *range(1, 4)]] + [None, ""]
    part_N = split(identity_N, ["cow"] * 29, strategy="time_proportion", seed=0, date_N=date_N)
    assert part_N[:20].tolist() == ["training"] * 14 + ["validating"] * 2 + ["thresholdSet"] * 2 + ["testSet"] * 2
    assert part_N[20:24].tolist() == ["training", "validating", "thresholdSet", "testSet"]
    assert part_N[24:27].tolist() == ["training", "thresholdSet", "testSet"]
    assert part_N[27:].tolist() == ["training", "training"]  # undated


@pytest.mark.parametrize("seed", range(4))
def test_the_later_of_two_days_goes_to_either_query_set_equally_often(seed: int):
    identity_N = np.repeat([f"a{k:02d}" for k in range(40)], 2)
    date_N = np.tile(["2020-05-01", "2020-04-01"], 40)  # the later comes first
    part_N = split(identity_N, ["cow"] * 80, strategy="time_proportion", seed=seed, date_N=date_N)
    known_N = is_known(part_N, identity_N, ["cow"] * 80)
    assert known_N.sum() == 68  # 3 + 3 of 40 are new
    assert set(part_N[known_N & (date_N == "2020-04-01")]) == {"training"}
    assert Counter(part_N[known_N & (date_N == "2020-05-01")]) == {"thresholdSet": 17, "testSet": 17}


@pytest.mark.parametrize("seed", range(3))
def test_proportion_takes_the_latest_days_and_the_new_identities_of_stratified(seed: int):
    identity_N, group_N, date_N = draw(seed)
    part_N = split(identity_N, group_N, strategy="time_proportion", seed=seed, date_N=date_N)
    stratified_N = split(identity_N, group_N, strategy="stratified", seed=seed)
    new_N = ~is_known(stratified_N, identity_N, group_N)
    np.testing.assert_array_equal(new_N, ~is_known(part_N, identity_N, group_N))
    np.testing.assert_array_equal(part_N[new_N], stratified_N[new_N])
    assert set(part_N[~new_N & np.equal(date_N, None)]) == {"training"}
    for days in days_in(part_N[~new_N], identity_N[~new_N], date_N[~new_N]).values():
        ordered = [day for part in PARTS for day in sorted(days[part])]
        assert ordered == sorted(ordered)
        num, given = len(ordered), [len(days[part]) for part in PARTS[1:]]
        assert days["training"]
        if num > 3:
            assert given == [max(1, round(0.1 * num))] * 3
        else:
            assert (given[0], sum(given)) == (0, num - 1)


def test_cutoff_worked_by_hand():
    # From 2021 on: a1 … a4 have been seen before (two days later on), n1 … n4 have not. b has a single day.
    rows = [(f"a{k}", day) for k in range(1, 5) for day in ("2019-01-01", "2020-01-01", "2021-01-01", "2022-01-01")]
    rows += [(f"n{k}", day) for k in range(1, 5) for day in ("2021-01-01", None)]
    rows += [("b", "2020-12-31"), ("b", None), ("c", None)]
    identity_N, date_N = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    group_N = ["cow"] * len(rows)
    part_N = split(identity_N, group_N, strategy="time_cutoff", seed=3, date_N=date_N, cutoff_date="2021-01-01")
    known_N = is_known(part_N, identity_N, group_N)
    assert set(identity_N[~known_N]) == {"n1", "n2", "n3", "n4"}
    assert Counter(part_N[~known_N]) == {"thresholdSet": 4, "testSet": 4}
    assert all(len(set(part_N[identity_N == f"n{k}"])) == 1 for k in range(1, 5))
    late_N = np.array([bool(date) and date >= "2021" for date in date_N])
    assert Counter(part_N[known_N & late_N]) == {"thresholdSet": 4, "testSet": 4}
    # 10 % of 27 images are 3: the latest earlier day of three of the four animals that have two such days
    assert Counter(part_N[known_N & ~late_N]) == {"validating": 3, "training": 8}
    assert set(date_N[part_N == "validating"]) == {"2020-01-01"}


@pytest.mark.parametrize("cutoff", [None, "2014-06-01", "2018-01-01"])
@pytest.mark.parametrize("seed", range(3))
def test_cutoff_invariants(seed: int, cutoff: str | None):
    identity_N, group_N, date_N = draw(seed)
    part_N = split(identity_N, group_N, strategy="time_cutoff", seed=seed, date_N=date_N, cutoff_date=cutoff)
    dated_N = ~np.equal(date_N, None)
    is_query_N = np.isin(part_N, PARTS[2:])
    first = min(date_N[dated_N & is_query_N])[:10]
    assert max(date_N[dated_N & ~is_query_N]) < first
    if cutoff:
        assert first >= cutoff
    else:
        assert (dated_N & is_query_N).sum() / dated_N.sum() == pytest.approx(0.2, abs=0.02)
    known_N = is_known(part_N, identity_N, group_N)
    early = set(identity_N[dated_N & ~is_query_N])
    assert {name for name in identity_N[known_N] if name in set(identity_N[dated_N])} == early
    for kind_N in (known_N, ~known_N):
        sizes = Counter(part_N[kind_N & is_query_N])
        if sum(sizes.values()) > 20:
            assert sizes["thresholdSet"] == pytest.approx(sizes["testSet"], rel=0.5)
    assert 0.1 <= np.mean(part_N == "validating") < 0.1 + 4 / len(part_N)
    for days in days_in(part_N, identity_N, date_N).values():
        if days["validating"]:
            assert len(days["validating"]) == 1
            assert max(days["training"]) < min(days["validating"])


def test_cutoff_nearest_to_a_fifth():
    days = ["2020-01-01"] * 70 + ["2020-02-01"] * 12 + ["2020-03-01"] * 18
    assert choose_cutoff(days) == "2020-03-01"  # 18 % are nearer than 30 %
    assert choose_cutoff(["2020-01-01"] * 76 + ["2020-02-01"] * 13 + ["2020-03-01"] * 11) == "2020-02-01"
    assert choose_cutoff(["2020-01-01", "2020-02-01", "2020-02-01"]) == "2020-02-01"  # never the earliest


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_both_promise(strategy: str, seed: int):
    identity_N, group_N, date_N = draw(seed)
    part_N = split(identity_N, group_N, strategy=strategy, seed=seed, date_N=date_N)
    assert set(part_N) == set(PARTS)
    for days in days_in(part_N, identity_N, date_N).values():
        assert not any(days[first] & days[second] for first in PARTS for second in PARTS if first < second)
        queries = days["validating"] | days["thresholdSet"] | days["testSet"]
        assert not (days["training"] and queries) or max(days["training"]) < min(queries)
    known_N = is_known(part_N, identity_N, group_N)
    assert set(identity_N[part_N == "validating"]) <= set(identity_N[part_N == "training"])
    for identity in set(identity_N[~known_N]):
        assert len(set(part_N[identity_N == identity])) == 1
    order = np.random.default_rng(seed).permutation(len(identity_N))
    shuffled_N = split(identity_N[order], group_N[order], strategy=strategy, seed=seed, date_N=date_N[order])
    by_day = {(*key, part) for *key, part in zip(identity_N, date_N, part_N, strict=True)}
    assert {(*key, part) for *key, part in zip(identity_N[order], date_N[order], shuffled_N, strict=True)} == by_day
    again_N = split(identity_N, group_N, strategy=strategy, seed=seed, date_N=date_N)
    np.testing.assert_array_equal(part_N, again_N)
    other_N = split(identity_N, group_N, strategy=strategy, seed=seed + 1, date_N=date_N)
    assert (part_N != other_N).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_groups_parts_depend_on_that_group_alone(strategy: str):
    alone, other = draw(1, "turtle"), draw(2, "newt", 30)
    together = [np.concatenate(columns) for columns in zip(other, alone, strict=True)]
    part_N = split(*together[:2], strategy=strategy, seed=4, date_N=together[2])
    alone_N = split(*alone[:2], strategy=strategy, seed=4, date_N=alone[2])
    np.testing.assert_array_equal(part_N[together[1] == "turtle"], alone_N)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_queries_of_the_data_set_change_nothing(strategy: str):
    identity_N, group_N, date_N = draw(0)
    with_queries = [np.insert(column, [0, 50], value) for column, value in ((identity_N, None), (date_N, "2030-01-01"))]
    part_N = split(
        with_queries[0], np.full(len(with_queries[0]), "turtle"), strategy=strategy, seed=0, date_N=with_queries[1]
    )
    assert part_N[[0, 51]].tolist() == ["query", "query"]
    alone_N = split(identity_N, group_N, strategy=strategy, seed=0, date_N=date_N)
    np.testing.assert_array_equal(np.delete(part_N, [0, 51]), alone_N)


def reasons(identity_N, group_N, *, date_N=None, **settings) -> dict[str, str]:
    """`stratified_instead` by the rule of some settings."""
    return stratified_instead(identity_N, group_N, rule=SplitRule(**settings), date_N=date_N)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_group_that_its_dates_cannot_split_is_stratified_and_named(strategy: str):
    turtle, cow, pig = draw(0), draw(1, "cow"), draw(2, "pig")
    groups = [turtle, (*cow[:2], np.full(len(cow[2]), None)), (*pig[:2], np.full(len(pig[2]), "2020-01-01"))]
    identity_N, group_N, date_N = (np.concatenate(columns) for columns in zip(*groups, strict=True))
    part_N = split(identity_N, group_N, strategy=strategy, seed=0, date_N=date_N)
    stratified_N = split(identity_N, group_N, strategy="stratified", seed=0)
    for group in ("cow", "pig"):
        np.testing.assert_array_equal(part_N[group_N == group], stratified_N[group_N == group])
    assert (part_N != stratified_N)[group_N == "turtle"].any()
    assert reasons(identity_N, group_N, strategy=strategy, seed=0, date_N=date_N) == {
        "cow": "no photograph has a date",
        "pig": "all dated photographs are of one date, 2020-01-01",
    }
    assert reasons(identity_N, group_N, strategy="stratified", seed=0, date_N=date_N) == {}


def test_proportion_needs_an_animal_with_two_days():
    turtle = draw(0)
    identity_N = np.concatenate([turtle[0], np.repeat(["p1", "p2"], 6)])
    date_N = np.concatenate([turtle[2], np.repeat(["2020-01-01", "2020-01-02"], 6)])
    group_N = np.concatenate([turtle[1], np.full(12, "pig")])
    rule = {"strategy": "time_proportion", "seed": 0, "date_N": date_N}
    part_N = split(identity_N, group_N, **rule)
    reason = "no animal that stays known was photographed on two dates"
    assert reasons(identity_N, group_N, **rule) == {"pig": reason}
    assert {"thresholdSet", "testSet"} <= set(part_N[group_N == "pig"])  # as stratified gives them


def test_a_group_outside_the_cutoff_is_stratified_and_named():
    identity_N, group_N, date_N = (np.concatenate(pair) for pair in zip(draw(0), draw(1, "cow"), strict=True))
    date_N[group_N == "cow"] = np.where(np.arange((group_N == "cow").sum()) % 2, "1999-01-01", "1999-02-01")
    early = {"strategy": "time_cutoff", "seed": 0, "date_N": date_N, "cutoff_date": "2015-01-01"}
    part_N = split(identity_N, group_N, **early)
    stratified_N = split(identity_N, group_N, strategy="stratified", seed=0)
    np.testing.assert_array_equal(part_N[group_N == "cow"], stratified_N[group_N == "cow"])
    reason = "no photograph is dated on or after data.cutoff_date=2015-01-01"
    assert reasons(identity_N, group_N, **early) == {"cow": reason}
    reason = "no photograph is dated before data.cutoff_date=1999-02-01"
    assert reasons(identity_N, group_N, **early | {"cutoff_date": "1999-02-01"}) == {"turtle": reason}
    with pytest.raises(UserError, match=r"cow: no photograph is dated before data\.cutoff_date=1999-01-01; turtle: no"):
        split(identity_N, group_N, **early | {"cutoff_date": "1999-01-01"})  # the earliest day of all


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_group_with_dates_is_an_error(strategy: str):
    identity_N, group_N = ["a", "a", "b", "b"], ["cow", "cow", "pig", "pig"]
    with pytest.raises(UserError, match=rf"data\.split={strategy}: no group.*cow: no photo.*pig: .*=stratified"):
        split(identity_N, group_N, strategy=strategy, seed=0)
    with pytest.raises(UserError, match=r"cow: all dated photographs are of one date, 2020-01-01"):
        split(identity_N, group_N, strategy=strategy, seed=0, date_N=["2020-01-01", "2020-01-01", "", "May"])
    assert split([], [], strategy=strategy, seed=0, date_N=[]).tolist() == []
    assert split([None], ["cow"], strategy=strategy, seed=0).tolist() == ["query"]


@pytest.mark.parametrize("cutoff", ["2020", "1.1.2020", "2020-02-30", "2020-01-01T00:00", "", "soon"])
def test_a_cutoff_that_is_not_a_date(cutoff: str):
    identity_N, group_N, date_N = draw(0)
    with pytest.raises(UserError, match=r"data\.cutoff_date=.* is not a date; expected YYYY-MM-DD"):
        split(identity_N, group_N, strategy="time_cutoff", seed=0, date_N=date_N, cutoff_date=cutoff)


def test_dates_that_are_not_iso_are_undated():
    identity_N, group_N, date_N = draw(0)
    wrong_N = date_N.copy()
    wrong_N[[3, 7]] = "7/5/2015"
    undated_N = date_N.copy()
    undated_N[[3, 7]] = None
    part_N = split(identity_N, group_N, strategy="time_proportion", seed=0, date_N=wrong_N)
    expected_N = split(identity_N, group_N, strategy="time_proportion", seed=0, date_N=undated_N)
    np.testing.assert_array_equal(part_N, expected_N)
