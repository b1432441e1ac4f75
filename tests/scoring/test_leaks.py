"""Leak report: shares counted by hand, and against a slow count over all pairs."""

import numpy as np
import pytest

from reid_core.data.near_duplicates import GREY_PX, Fingerprints, make_fingerprints, near_duplicates
from reid_core.scoring.leaks import format_leaks, leak_report, read_leaks, write_leaks


def look(scenes: list[int | None]) -> Fingerprints:
    """Fingerprints of photographs of some scenes; a negative one is black, None is no photograph."""
    grey_NHW = np.zeros((len(scenes), GREY_PX, GREY_PX), dtype=np.uint8)
    for grey_HW, scene in zip(grey_NHW, scenes, strict=True):
        if scene is not None and scene >= 0:
            grey_HW[:] = np.random.default_rng(scene).integers(0, 256, (8, 8)).repeat(4, 0).repeat(4, 1)
    return make_fingerprints(grey_NHW, np.array([scene is None for scene in scenes]))


def test_shares_counted_by_hand():
    rows = [
        # part, identity, date, scene
        ("training", "ada", "2020-01-01", 0),
        ("training", "ada", "2020-02-01T10:00", 1),
        ("training", "bo", "2020-03-01", 2),
        ("thresholdSet", "ada", "2020-02-01", 0),  # same encounter, and near-duplicate
        ("thresholdSet", "bo", "2020-02-01", 3),  # another animal on that day
        ("thresholdSet", "cy", "2020-01-01", -1),  # black
        ("thresholdSet", "ada", None, 2),  # near-duplicate, of another animal
        ("testSet", "bo", "2020-03-01", 4),
        ("validating", "ada", "2020-01-01", 3),
        ("unreadable", "ada", "2020-01-01", None),
    ]
    part_N, identity_N, date_N = (np.array(column, dtype=object) for column in [*zip(*rows, strict=True)][:3])
    group_N = np.array(["cow"] * len(rows), dtype=object)
    table = leak_report(part_N, identity_N, group_N, date_N, look([row[3] for row in rows]))
    assert table.to_pylist() == [
        {"group": "cow", "part": "thresholdSet", "num_queries": 4, "same_encounter": 0.25, "near_duplicate": 2 / 3},
        {"group": "cow", "part": "testSet", "num_queries": 1, "same_encounter": 1.0, "near_duplicate": 0.0},
    ]
    assert format_leaks(table).splitlines() == [
        "shared with training  queries  same encounter  near duplicate",
        "cow thresholdSet            4          25.0 %          66.7 %",
        "cow testSet                 1         100.0 %           0.0 %",
    ]


def test_only_the_own_group_counts():
    part_N = np.array(["training", "testSet", "training", "testSet"])
    group_N, date_N = np.array(["cow", "pig", "pig", "cow"]), ["2020-01-01", "2020-01-01", "2021-01-01", "2020-05-05"]
    table = leak_report(part_N, np.array(["ada"] * 4), group_N, date_N, look([0, 0, 1, 1]))
    assert table["group"].to_pylist() == ["cow", "cow", "pig", "pig"]
    assert table["num_queries"].to_pylist() == [0, 1, 0, 1]
    assert table["same_encounter"].to_pylist() == [None, 0.0, None, 0.0]
    assert table["near_duplicate"].to_pylist() == [None, 0.0, None, 0.0]


def test_null_where_there_is_nothing_to_say():
    part_N, group_N = np.array(["training", "thresholdSet", "testSet"]), np.array(["cow"] * 3)
    identity_N, date_N = np.array(["ada", "ada", "ada"], dtype=object), ["2020-01-01"] * 3

    def report(identity_N=identity_N, date_N=date_N, scenes=(0, 0, -1)):
        table = leak_report(part_N, identity_N, group_N, date_N, look(list(scenes)))
        return table["same_encounter"].to_pylist(), table["near_duplicate"].to_pylist()

    assert report() == ([1.0, 1.0], [1.0, None])  # the query of testSet is black
    assert report(date_N=[None] * 3)[0] == [None, None]
    assert report(date_N=[None, "2020-01-01", "2020-01-01"])[0] == [None, None]
    assert report(date_N=["2020-01-01", None, "2020-01-01"])[0] == [None, 1.0]
    assert report(identity_N=np.array(["ada", "ada", None], dtype=object))[0] == [1.0, None]  # locked
    assert report(scenes=[-1, 0, 0])[1] == [None, None]  # nothing can be seen in the gallery
    assert report(scenes=[0, 0, None])[1] == [1.0, None]
    text = format_leaks(leak_report(part_N, identity_N, group_N, [None] * 3, look([0, 0, -1])))
    assert text.splitlines()[2].split() == ["cow", "testSet", "1", "-", "-"]


def test_shares_agree_with_a_slow_count():
    rng = np.random.default_rng(0)
    fingerprints = look([None if scene == 0 else int(scene) for scene in rng.integers(0, 40, 90)])
    part_N, group_N = rng.choice(["training", "thresholdSet", "testSet"], 90), rng.choice(["cow", "pig"], 90)
    identity_N, date_N = rng.choice(["ada", "bo"], 90), rng.choice(["2020-01-01", "2020-01-02", ""], 90)
    everyone, pairs = np.arange(90), set()
    for found in near_duplicates(fingerprints, everyone, everyone):
        pairs |= {(int(a), int(b)) for a, b in zip(*found, strict=True)}
    shares: list[float] = []
    for row in leak_report(part_N, identity_N, group_N, date_N, fingerprints).to_pylist():
        queries = [n for n in range(90) if group_N[n] == row["group"] and part_N[n] == row["part"]]
        gallery = [n for n in range(90) if group_N[n] == row["group"] and part_N[n] == "training"]
        met = [
            any(date_N[n] and (identity_N[n], date_N[n]) == (identity_N[g], date_N[g]) for g in gallery)
            for n in queries
        ]
        near = [any((n, g) in pairs for g in gallery) for n in queries if not fingerprints.unreadable_N[n]]
        assert row["same_encounter"] == pytest.approx(np.mean(met))
        shares.append(np.mean(near))
        assert row["near_duplicate"] == pytest.approx(np.mean(near))
    assert min(shares) < max(shares)


def test_a_written_report_is_read_again(tmp_path):
    part_N, group_N = np.array(["training", "testSet"]), np.array(["=cow", "=cow"])
    table = leak_report(part_N, np.array(["ada", "bo"]), group_N, [None, None], look([0, 1]))
    write_leaks(tmp_path / "leaks.csv", table)
    again = read_leaks(tmp_path / "leaks.csv")
    assert again.drop_columns("group").to_pylist() == table.drop_columns("group").to_pylist()
    assert again["group"].to_pylist() == ["'=cow"] * 2
