"""Leak report: shares counted by hand, and against a slow count over all pairs."""

import numpy as np
import pytest

from reid_core.scoring import shortlist
from reid_core.scoring.leaks import format_leaks, leak_report


def test_shares_counted_by_hand():
    rows = [
        # part, identity, date, angle of the embedding in degrees
        ("training", "ada", "2020-01-01", 0),
        ("training", "ada", "2020-02-01T10:00", 90),
        ("training", "bo", "2020-03-01", 180),
        ("thresholdSet", "ada", "2020-02-01", 5),  # same encounter, and cos 5° = 0.996
        ("thresholdSet", "bo", "2020-02-01", 10),  # another animal on that day; cos 10° = 0.985
        ("thresholdSet", "cy", "2020-01-01", 45),
        ("thresholdSet", "ada", None, 91),  # near-duplicate
        ("testSet", "bo", "2020-03-01", 200),
        ("validating", "ada", "2020-01-01", 0),
        ("unreadable", "ada", "2020-01-01", 0),
    ]
    part_N, identity_N, date_N = (np.array(column, dtype=object) for column in [*zip(*rows, strict=True)][:3])
    angle_N = np.deg2rad([row[3] for row in rows])
    embedding_N2 = 7 * np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)  # any length
    group_N = np.array(["cow"] * len(rows), dtype=object)
    table = leak_report(part_N, identity_N, group_N, date_N, embedding_N2)
    assert table.to_pylist() == [
        {"group": "cow", "part": "thresholdSet", "num_queries": 4, "same_encounter": 0.25, "near_duplicate": 0.5},
        {"group": "cow", "part": "testSet", "num_queries": 1, "same_encounter": 1.0, "near_duplicate": 0.0},
    ]
    assert leak_report(part_N, identity_N, group_N, date_N, embedding_N2, near_duplicate=0.98)[4][0].as_py() == 0.75
    assert format_leaks(table).splitlines() == [
        "shared with training  queries  same encounter  near duplicate",
        "cow thresholdSet            4          25.0 %          50.0 %",
        "cow testSet                 1         100.0 %           0.0 %",
    ]


def test_only_the_own_group_counts():
    part_N = np.array(["training", "testSet", "training", "testSet"])
    group_N, date_N = np.array(["cow", "pig", "pig", "cow"]), ["2020-01-01", "2020-01-01", "2021-01-01", "2020-05-05"]
    table = leak_report(part_N, np.array(["ada"] * 4), group_N, date_N, np.eye(2, dtype="f")[[0, 0, 1, 1]])
    assert table["group"].to_pylist() == ["cow", "cow", "pig", "pig"]
    assert table["num_queries"].to_pylist() == [0, 1, 0, 1]
    assert table["same_encounter"].to_pylist() == [None, 0.0, None, 0.0]
    assert table["near_duplicate"].to_pylist() == [None, 0.0, None, 0.0]


def test_null_where_there_is_nothing_to_say():
    part_N, group_N = np.array(["training", "thresholdSet", "testSet"]), np.array(["cow"] * 3)
    identity_N, date_N = np.array(["ada", "ada", "ada"], dtype=object), ["2020-01-01"] * 3
    embedding_N2 = np.array([[1, 0], [1, 0], [np.nan, 0]], dtype=np.float32)

    def report(identity_N=identity_N, date_N=date_N, embedding_N2=embedding_N2):
        table = leak_report(part_N, identity_N, group_N, date_N, embedding_N2, near_duplicate=1.0)
        return table["same_encounter"].to_pylist(), table["near_duplicate"].to_pylist()

    assert report() == ([1.0, 1.0], [1.0, None])  # the query of testSet has no embedding
    assert report(date_N=[None] * 3)[0] == [None, None]
    assert report(date_N=[None, "2020-01-01", "2020-01-01"])[0] == [None, None]
    assert report(date_N=["2020-01-01", None, "2020-01-01"])[0] == [None, 1.0]
    assert report(identity_N=np.array(["ada", "ada", None], dtype=object))[0] == [1.0, None]  # locked
    assert report(embedding_N2=embedding_N2[[2, 0, 1]])[1] == [None, None]  # no gallery image has an embedding
    text = format_leaks(leak_report(part_N, identity_N, group_N, [None] * 3, embedding_N2))
    assert text.splitlines()[2].split() == ["cow", "testSet", "1", "-", "-"]


def test_near_duplicates_agree_with_a_slow_count_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    embedding_N3 = rng.normal(size=(90, 3))
    embedding_N3[rng.random(90) < 0.1] = np.nan
    part_N, group_N = rng.choice(["training", "thresholdSet", "testSet"], 90), rng.choice(["cow", "pig"], 90)
    identity_N, date_N = rng.choice(["ada", "bo"], 90), rng.choice(["2020-01-01", "2020-01-02", ""], 90)
    monkeypatch.setattr(shortlist, "BLOCK_ELEMENTS", 40)
    table = leak_report(part_N, identity_N, group_N, date_N, embedding_N3, near_duplicate=0.97)
    shares: list[float] = []
    for row in table.to_pylist():
        queries = [n for n in range(90) if group_N[n] == row["group"] and part_N[n] == row["part"]]
        gallery = [n for n in range(90) if group_N[n] == row["group"] and part_N[n] == "training"]
        met = [
            any(date_N[n] and (identity_N[n], date_N[n]) == (identity_N[g], date_N[g]) for g in gallery)
            for n in queries
        ]
        cosines = [[_cosine(embedding_N3[n], embedding_N3[g]) for g in gallery] for n in queries]
        near = [np.nanmax(cosine) >= 0.97 for cosine in cosines if not np.isnan(cosine).all()]
        assert row["same_encounter"] == pytest.approx(np.mean(met))
        shares.append(np.mean(near))
        assert row["near_duplicate"] == pytest.approx(np.mean(near))
    assert min(shares) < max(shares)


def _cosine(first_D: np.ndarray, second_D: np.ndarray) -> float:
    return float(first_D @ second_D / np.sqrt((first_D @ first_D) * (second_D @ second_D)))
