"""What is prepared once: parts that follow the configuration, the table on disk, and the codes of the animals."""

import csv
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from herds import split
from PIL import Image

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.splits.parts import Parts
from reid_core.data.table.metadata_file import write_rows
from reid_core.data.table.sides import parse_sides
from reid_core.data.test_set import record_use
from reid_core.errors import UserError
from reid_core.experiment.prepare import load_database, prepare, prepare_fresh_split, read_truth, split_database
from reid_core.experiment.prepared import Prepared, load_prepared

CONFIG = override(TrialConfig(), {"data.image_px": 16, "match.matcher": "none"})


def prepared_of(parts: Parts) -> Prepared:
    num = len(parts.part_N)
    ids = np.array([str(n) for n in range(num)], dtype=object)
    return Prepared("", "", None, ids, parts, np.full(num, None), np.full(num, None))


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


def test_the_table_keeps_dates_and_sides_of_every_row_and_no_identity_of_the_test_set(
    small_data, prepared_folder, tmp_path
):
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
    use = record_use(tmp_path, trial="a", config=CONFIG)
    assert read_truth(small_data, prepared, use=use).identity_N.tolist() == database["identity"].to_pylist()


def test_the_parts_follow_the_configuration(small_data, prepared_folder):
    database, prepared = load_database(small_data), load_prepared(prepared_folder)
    columns = [np.array(database[name].to_pylist(), dtype=object) for name in ("identity", "group")]
    dates = database["date"].to_pylist()
    stratified_N = split(*columns, strategy="stratified", seed=0)
    np.testing.assert_array_equal(prepared.parts.part_N, stratified_N)
    config = override(CONFIG, {"data.split": "time_cutoff", "data.cutoff_date": "2022-01-01", "seed": 5})
    part_N = split_database(database, [None] * len(database), config).part_N
    cutoff = {"strategy": "time_cutoff", "seed": 5, "cutoff_date": "2022-01-01"}
    np.testing.assert_array_equal(part_N, split(*columns, **cutoff, date_N=dates))
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


@pytest.fixture
def copied(small_data, tmp_path):
    """A data folder that may be damaged."""
    return shutil.copytree(small_data, tmp_path / "data")


def rename(root: Path, new_name_of: dict[str, str]) -> None:
    """Replace identities in metadata.csv."""
    text = (root / "metadata.csv").read_text()
    for old, new in new_name_of.items():
        text = text.replace(f",{old},", f",{new},")
    (root / "metadata.csv").write_text(text)


def test_an_unreadable_photograph_is_left_out(copied, tmp_path, caplog):
    row = load_database(copied).slice(3, 1).to_pylist()[0]
    (copied / row["path"]).write_bytes(b"no image")
    with caplog.at_level("INFO", logger="reid_core"):
        prepared = prepare(copied, tmp_path / "cache", CONFIG)
    assert prepared.num_unreadable == 1
    assert prepared.parts.part_N[3] == "unreadable"
    assert "query  unreadable" in caplog.text  # columns of the table of parts
    fresh = load_prepared(prepare_fresh_split(tmp_path / "cache", 1, CONFIG))
    assert fresh.parts.part_N[3] == "unreadable"


def test_a_folder_of_which_nothing_can_be_read_is_refused_for_that_reason(copied, tmp_path):
    for path in load_database(copied)["path"].to_pylist():
        (copied / path).write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(UserError, match=r"data: none of the \d+ photographs can be read: .* web page"):
        prepare(copied, tmp_path / "cache", CONFIG)


def test_truth_is_that_of_the_same_rows(copied, tmp_path, caplog):
    prepared = prepare(copied, tmp_path, CONFIG)
    use = record_use(tmp_path, trial="trial-0004", config=CONFIG)
    with caplog.at_level("INFO", logger="reid_core"):
        truth = read_truth(copied, prepared, use=use)
    assert "testSet: use 1, by trial-0004" in caplog.text
    in_test = truth.part_N == "testSet"
    hidden = sorted(set(truth.identity_N[in_test]) - set(truth.identity_N[~in_test]))
    rename(copied, {hidden[0]: "renamed"})  # nobody could see it
    assert "renamed" in read_truth(copied, prepared, use=use).identity_N
    rename(copied, {truth.identity_N[~in_test][0]: "renamed too"})
    with pytest.raises(UserError, match=r"metadata\.csv: its rows or identities are no longer those"):
        read_truth(copied, prepared, use=use)
    lines = (copied / "metadata.csv").read_text().splitlines(keepends=True)
    (copied / "metadata.csv").write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(UserError, match=r"metadata\.csv: its rows or identities are no longer those"):
        read_truth(copied, prepared, use=use)


def change_values(root: Path, column: str, value_of: dict[str, str]) -> list[str]:
    """Write other values into a column, by image_id; the image_ids in the order of the file."""
    with (root / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row[column] = value_of.get(row["image_id"], row[column])
    write_rows(root / "metadata.csv", rows)
    return [row["image_id"] for row in rows]


def test_findings_that_are_kept_tell_nothing_of_who_is_seen_in_the_test_set(copied, tmp_path, caplog):
    database = load_database(copied)
    ids, paths = database["image_id"].to_pylist(), database["path"].to_pylist()
    accented = {image_id: f"{name} é" for image_id, name in zip(ids, database["identity"].to_pylist(), strict=True)}
    change_values(copied, "identity", accented)
    parts = split_database(load_database(copied), [None] * len(ids), CONFIG)
    locked, seen = parts.rows("testSet").tolist(), parts.rows("training").tolist()
    blank, composed, copies, black = ([*seen[4 * k : 4 * k + 2], *locked[4 * k : 4 * k + 2]] for k in range(4))
    change_values(copied, "identity", {ids[row]: f" {accented[ids[row]]}" for row in blank})
    apart = {ids[row]: unicodedata.normalize("NFD", accented[ids[row]]) for row in composed}
    order = change_values(copied, "identity", apart)
    shutil.copy(copied / paths[copies[0]], copied / paths[copies[1]])
    shutil.copy(copied / paths[copies[2]], copied / paths[copies[3]])
    for row in black:
        Image.new("L", (20, 20), row % 3).save(copied / paths[row])
    prepared = prepare(copied, tmp_path / "cache", CONFIG)
    assert prepared.parts.part_N.tolist() == parts.part_N.tolist()
    kept = json.loads((tmp_path / "cache" / "prepared.json").read_text("utf-8"))["findings"]
    text = json.dumps(kept)

    def is_shown(text: str, row: int) -> bool:
        return any(
            each in text for each in (f"line {order.index(ids[row]) + 2}:", f"(image_id {ids[row]})", paths[row])
        )

    odd = [*blank, *composed, *copies, *black]
    assert all(is_shown(caplog.text, row) for row in odd)
    assert [row for row in odd if is_shown(text, row)] == [row for row in odd if row in seen]
    assert not any(is_shown(text, row) for row in locked)
    start = [each["count"] for each in kept if "blanks at an end" in each["what"] or "own; read as" in each["what"]]
    assert start == [4, 4]


def test_a_group_without_a_labelled_row_is_refused_by_name(copied, tmp_path):
    with pytest.raises(
        UserError, match=r"metadata\.csv: group 'Yaks' has no labelled row \(split=database\); '.*' have"
    ):
        prepare(copied, tmp_path, CONFIG, group="Yaks")


def test_a_fresh_split_shares_everything_but_the_parts(prepared_folder):
    first = load_prepared(prepared_folder)
    folders = [prepare_fresh_split(prepared_folder, number, CONFIG) for number in (1, 2)]
    assert [folder.relative_to(prepared_folder).as_posix() for folder in folders] == ["split-0001", "split-0002"]
    written = [(folders[0] / name).read_bytes() for name in ("parts.parquet", "prepared.json")]
    fresh, other = map(load_prepared, folders)
    assert (fresh.image_cache, fresh.match_cache, fresh.features) == (first.image_cache, first.match_cache, None)
    assert fresh.second == first.second
    np.testing.assert_array_equal(fresh.images.pixels([0, 5]), first.images.pixels([0, 5]))
    np.testing.assert_array_equal(fresh.sides_N6, first.sides_N6)
    for name in ("image_id_N", "date_N"):
        assert getattr(fresh, name).tolist() == getattr(first, name).tolist()
    assert fresh.parts.identity_N.tolist() == first.parts.identity_N.tolist()
    rows = [prepared.parts.rows("thresholdSet").tolist() for prepared in (first, fresh, other)]
    assert rows[0] != rows[1] != rows[2] != rows[0]
    locked = np.equal(first.parts.identity_N, None)
    assert [(p.parts.part_N == "testSet").tolist() for p in (fresh, other)] == [locked.tolist()] * 2
    prepare_fresh_split(prepared_folder, 1, CONFIG)
    assert [(folders[0] / name).read_bytes() for name in ("parts.parquet", "prepared.json")] == written
    assert {path.name for path in folders[0].iterdir()} == {"parts.parquet", "prepared.json"}


def test_a_fresh_split_follows_the_configuration(small_data, tmp_path, caplog):
    config = override(CONFIG, {"data.split": "time_cutoff", "data.cutoff_date": "2022-01-01", "seed": 5})
    first = prepare(small_data, tmp_path, config)
    fresh = load_prepared(prepare_fresh_split(tmp_path, 1, config))
    assert "data.split=time_cutoff, fresh split 1: thresholdSet holds the same images" in caplog.text
    assert fresh.parts.rows("validating").tolist() != first.parts.rows("validating").tolist()
    late = [bool(date) and date >= "2022" for date in fresh.date_N]
    assert not {"training", "validating"} & set(fresh.parts.part_N[late])


def test_a_fresh_split_without_known_and_new_queries_is_refused(prepared_folder, tmp_path):
    folder = shutil.copytree(prepared_folder, tmp_path / "cache")
    table = pq.read_table(folder / "parts.parquet")
    parts = load_prepared(folder).parts
    is_new = (parts.part_N == "thresholdSet") & ~parts.known(np.arange(len(parts.part_N)))
    column = pa.array(np.where(is_new, "unreadable", parts.part_N).tolist())
    pq.write_table(table.set_column(table.column_names.index("part"), "part", column), folder / "parts.parquet")
    with pytest.raises(UserError, match=r"cache/split-0003: no group has both known and new animals") as caught:
        prepare_fresh_split(folder, 3, CONFIG)
    assert "testSet has" not in str(caught.value)  # its identities are locked
    assert not (folder / "split-0003").exists()


def test_data_that_changed_since_the_folder_was_prepared_are_refused(small_data, tmp_path):
    root = Path(shutil.copytree(small_data, tmp_path / "data"))
    prepare(root, tmp_path / "cache", CONFIG)
    prepare(root, tmp_path / "cache", CONFIG)
    metadata = (root / "metadata.csv").read_text()
    row = next(line for line in metadata.splitlines() if ",database," in line)
    identity = row.split(",")[1]
    (root / "metadata.csv").write_text(metadata.replace(row, row.replace(f",{identity},", ",somebody else,", 1)))
    with pytest.raises(UserError, match=r"changed since .* was prepared from it: metadata\.csv; bring back"):
        prepare(root, tmp_path / "cache", CONFIG)
    (root / "metadata.csv").write_text(metadata)
    photograph = root / row.split(",")[2]
    photograph.write_bytes(photograph.read_bytes() + b"x")
    with pytest.raises(UserError, match="was prepared from it: photographs"):
        prepare(root, tmp_path / "cache", CONFIG)
