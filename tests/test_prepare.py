"""What is prepared once: parts that follow the configuration, the table on disk, and the codes of the animals."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reid_core.config import TrialConfig, UserError, override
from reid_core.evaluate import Parts
from reid_core.prepare import Prepared, load_database, load_prepared, prepare, read_truth, split_database
from reid_core.sides import parse_sides
from reid_core.splits import assign_parts

CONFIG = override(TrialConfig(), {"data.image_px": 16, "match.matcher": "none"})


def prepared_of(parts: Parts) -> Prepared:
    num = len(parts.part_N)
    ids = np.array([str(n) for n in range(num)], dtype=object)
    return Prepared("", "", None, ids, parts, np.full(num, None), np.zeros((num, 6), dtype=np.float32))


def test_codes_and_classes_worked_by_hand():
    rows = [
        ("pig", "ada", "training"),
        ("cow", "cy", "training"),
        ("cow", "ada", "training"),
        ("cow", "ada", "validating"),
        ("cow", "bo", "thresholdSet"),  # new
        ("cow", "cy", "thresholdSet"),
        ("cow", None, "testSet"),  # locked
        ("cow", "cy", "training"),
        ("pig", "di", "unreadable"),
    ]
    group_N, identity_N, part_N = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    prepared = prepared_of(Parts(identity_N, group_N, part_N))
    assert prepared.codes().tolist() == [2, 1, 0, 0, -1, 1, -1, 1, -1]
    identity_K, group_K = prepared.classes()
    assert [*zip(group_K, identity_K, strict=True)] == [("cow", "ada"), ("cow", "cy"), ("pig", "ada")]


def test_codes_where_nothing_is_trained_on():
    prepared = prepared_of(Parts(np.array(["a", None], object), np.array(["cow"] * 2), np.array(["testSet"] * 2)))
    assert prepared.codes().tolist() == [-1, -1]
    assert [len(column) for column in prepared.classes()] == [0, 0]


@pytest.fixture(scope="module")
def prepared_folder(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(small_data, folder, CONFIG)
    return folder


def test_the_table_keeps_dates_and_sides_of_every_row_and_no_identity_of_the_test_set(small_data, prepared_folder):
    database, prepared = load_database(small_data), load_prepared(prepared_folder)
    assert prepared.image_id_N.tolist() == database["image_id"].to_pylist()
    assert prepared.date_N.tolist() == database["date"].to_pylist()
    assert None in prepared.date_N
    orientations = database["orientation"].to_pylist()
    assert set(orientations) == {"left", "right", "top"}
    np.testing.assert_array_equal(prepared.sides_N6, parse_sides(orientations))
    assert prepared.sides_N6.dtype == np.float32
    assert prepared.sides_N6[:, 2].sum() == orientations.count("top")
    table = pq.read_table(prepared_folder / "parts.parquet")
    locked = [part == "testSet" for part in table["part"].to_pylist()]
    assert any(locked)
    assert [identity is None for identity in table["identity"].to_pylist()] == locked
    assert read_truth(small_data, prepared).identity_N.tolist() == database["identity"].to_pylist()


def test_the_parts_follow_the_configuration(small_data, prepared_folder):
    database, prepared = load_database(small_data), load_prepared(prepared_folder)
    columns = [np.array(database[name].to_pylist(), dtype=object) for name in ("identity", "group")]
    dates = database["date"].to_pylist()
    stratified_N = assign_parts(*columns, strategy="stratified", seed=0)
    np.testing.assert_array_equal(prepared.parts.part_N, stratified_N)
    config = override(CONFIG, {"data.split": "time_cutoff", "data.cutoff_date": "2022-01-01", "seed": 5})
    part_N = split_database(database, [None] * len(database), config).part_N
    cutoff = {"strategy": "time_cutoff", "seed": 5, "cutoff_date": "2022-01-01"}
    np.testing.assert_array_equal(part_N, assign_parts(*columns, **cutoff, date_N=dates))
    late = [bool(date) and date >= "2022" for date in dates]
    assert not {"training", "validating"} & set(part_N[late])
    with pytest.raises(UserError, match=r"data\.cutoff_date='2022'"):
        split_database(database, [None] * len(database), override(config, {"data.cutoff_date": "2022"}))


def test_whole_encounters_leaves_unreadable_photographs_out():
    rows = [("ada", "2020-01-01")] * 8 + [("ada", "2020-02-01")] * 8
    columns = {"identity": [row[0] for row in rows], "group": ["cow"] * 16, "date": [row[1] for row in rows]}
    columns["orientation"] = [""] * 16
    errors = [None] * 15 + ["cannot be decoded"]
    apart, whole = (
        split_database(pa.table(columns), errors, override(CONFIG, {"data.whole_encounters": choice})).part_N
        for choice in (False, True)
    )
    assert apart[15] == whole[15] == "unreadable"
    assert len(set(apart[:8])) > 1 or len(set(apart[8:15])) > 1
    assert len(set(whole[:8])) == len(set(whole[8:15])) == 1
    assert "training" in whole
