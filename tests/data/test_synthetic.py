"""The drawn data set: layout, determinism, imbalance, known truth, and a folder that is either complete or absent."""

import collections
import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from reid_core.data import synthetic
from reid_core.data.animals import NEW
from reid_core.data.drawing import SPECIES, draw_animal
from reid_core.data.synthetic import write_synthetic
from reid_core.data.table.metadata import COLUMNS
from reid_core.errors import UserError

DATASETS = ("SpotsID", "StripesID", "ScalesID")
SMALL = 0.15  # 4 + 9 + 6 identities, 4 queries each


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "deep" / "set", scale=SMALL)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _num_images(rows: list[dict[str, str]], dataset: str) -> collections.Counter:
    return collections.Counter(row["identity"] for row in rows if row["identity"] and row["dataset"] == dataset)


def test_same_seed_same_bytes(folder, tmp_path):
    assert _bytes(write_synthetic(tmp_path / "again", scale=SMALL)) == _bytes(folder)


def test_another_seed_draws_other_animals(folder, tmp_path):
    first, other = _bytes(folder), _bytes(write_synthetic(tmp_path / "other", seed=1, scale=SMALL))
    shared = [name for name in first if name.endswith(".jpg") and name in other]
    assert len(shared) > 20
    assert all(first[name] != other[name] for name in shared)


def test_metadata_has_the_layout_of_animalclef(folder):
    rows = _rows(folder / "metadata.csv")
    assert tuple(rows[0]) == COLUMNS
    assert (folder / "metadata.csv").read_text().splitlines()[0] == (
        "image_id,identity,path,date,orientation,species,split,dataset"
    )
    assert [row["image_id"] for row in rows] == [str(i) for i in range(len(rows))]
    assert {row["dataset"] for row in rows} == set(DATASETS)
    assert {row["split"] for row in rows} == {"database", "query"}
    assert all(row["path"].startswith(f"images/{row['dataset']}/{row['split']}/") for row in rows)
    assert all(row["identity"].startswith(f"{row['dataset']}_") for row in rows if row["split"] == "database")


def test_dates_and_species_are_missing_as_in_the_real_data(folder):
    rows = _rows(folder / "metadata.csv")
    dates = {name: [row["date"] for row in rows if row["dataset"] == name] for name in DATASETS}
    assert set(dates["SpotsID"]) == {""}
    assert all(len(value) == len("2015-01-01") for value in dates["ScalesID"])
    assert {row["species"] for row in rows if row["dataset"] == "StripesID"} == {""}
    assert {row["orientation"] for row in rows} == {"left", "right", "top"}


def test_every_path_is_a_readable_image_and_no_other_file_exists(folder):
    rows = _rows(folder / "metadata.csv")
    for row in rows:
        image = cv2.imread(str(folder / row["path"]))
        assert image.shape == (128, 128, 3)
        assert image.std() > 10
    tables = {"metadata.csv", "sample_submission.csv", "truth.csv", "synthetic.json"}
    assert set(_bytes(folder)) == tables | {row["path"] for row in rows}


def test_queries_hide_their_identity_and_the_truth_knows_it(folder):
    rows = _rows(folder / "metadata.csv")
    queries = [row for row in rows if row["split"] == "query"]
    assert all(row["identity"] == "" for row in queries)
    assert all(row["identity"] for row in rows if row["split"] == "database")
    truth, sample = _rows(folder / "truth.csv"), _rows(folder / "sample_submission.csv")
    ids = [row["image_id"] for row in queries]
    assert [row["image_id"] for row in truth] == ids
    assert sample == [{"image_id": image_id, "identity": NEW} for image_id in ids]
    database = {row["identity"] for row in rows if row["split"] == "database"}
    for dataset in DATASETS:  # 4 queries each, a third rounded down of them new
        known = [row["identity"] in database for row in truth if row["identity"].startswith(f"{dataset}_")]
        assert sorted(known) == [False, True, True, True]


def test_full_size_is_unbalanced_with_singletons():
    rng = np.random.default_rng(0)
    plans = [synthetic._plan(rng, species, 1.0) for species in SPECIES]
    counts = [sorted(collections.Counter(animal for animal, split in plan if split == "database").values())
              for plan in plans]  # fmt: skip
    assert [len(count) for count in counts] == [30, 60, 40]
    assert [np.median(count) for count in counts] == [8, 2, 6]
    assert [count.count(1) for count in counts] == [1, 23, 2]
    assert [count[-1] for count in counts] == [30, 22, 30]
    assert sum(map(len, plans)) == 928


def test_small_size_keeps_the_imbalance(folder):
    rows = _rows(folder / "metadata.csv")
    stripes = sorted(_num_images(rows, "StripesID").values())
    assert len(stripes) == 9
    assert stripes.count(1) >= 3
    assert stripes[-1] >= 5
    assert len(_num_images(rows, "SpotsID")) == 4


def test_one_animal_keeps_its_coat_and_two_animals_differ():
    for species in SPECIES:
        first, second = (draw_animal(np.random.default_rng(seed), species) for seed in (0, 1))
        assert np.array_equal(first, draw_animal(np.random.default_rng(0), species))
        assert np.array_equal(first[..., 3], second[..., 3])  # the outline says nothing about the animal
        assert np.abs(first[..., :3] - second[..., :3]).mean() > 5


def test_a_complete_folder_is_reused_and_another_is_replaced(tmp_path):
    folder = write_synthetic(tmp_path / "set", scale=0.05)
    stamp = (folder / "metadata.csv").stat()
    assert write_synthetic(folder, scale=0.05) == folder
    assert (folder / "metadata.csv").stat() == stamp
    before = _bytes(folder)
    write_synthetic(folder, seed=3, scale=0.05)
    assert json.loads((folder / "synthetic.json").read_text())["seed"] == 3
    assert _bytes(folder) != before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_set_with_a_lost_image_is_drawn_again(tmp_path):
    folder = write_synthetic(tmp_path / "set", scale=0.05)
    before = _bytes(folder)
    (folder / _rows(folder / "metadata.csv")[0]["path"]).unlink()
    assert _bytes(write_synthetic(folder, scale=0.05)) == before


def test_the_set_of_a_faster_process_stays(tmp_path, monkeypatch):
    def draw_twice(root, seed, scale):
        monkeypatch.setattr(synthetic, "_write_files", write_files)
        stamps.append(write_synthetic(tmp_path / "set", seed=seed, scale=scale).stat())
        return write_files(root, seed, scale)

    write_files, stamps = synthetic._write_files, []
    monkeypatch.setattr(synthetic, "_write_files", draw_twice)
    assert write_synthetic(tmp_path / "set", scale=0.05).stat().st_ino == stamps[0].st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    calls = iter(range(5))

    def interrupt(*arguments, **options):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return photograph(*arguments, **options)

    photograph = synthetic.take_photograph
    monkeypatch.setattr(synthetic, "take_photograph", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", scale=0.05)
    assert next(calls, None) is None  # it did draw before it was stopped
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "metadata.csv").write_text("image_id,identity")
    for folder in (tmp_path / "mine", tmp_path / "real", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(UserError, match="holds something other"):
            write_synthetic(folder, scale=0.05)
    with pytest.raises(UserError, match="cannot be written"):
        write_synthetic(tmp_path / "mine" / "thesis.txt" / "set", scale=0.05)
    assert _bytes(tmp_path) == {"mine/thesis.txt": b"years of work", "real/metadata.csv": b"image_id,identity"}


def test_a_set_with_files_of_the_user_is_not_replaced(tmp_path):
    folder = write_synthetic(tmp_path / "set", scale=0.05)
    (folder / "notes.txt").write_text("mine")
    assert write_synthetic(folder, scale=0.05) == folder
    with pytest.raises(UserError, match="holds something other"):
        write_synthetic(folder, seed=1, scale=0.05)
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    assert (write_synthetic(tmp_path, scale=0.05) / "metadata.csv").is_file()


@pytest.mark.parametrize(("seed", "scale"), [(-1, 1.0), (0, 0.0), (0, -2.0), (0, float("nan")), (0, float("inf"))])
def test_bad_seed_or_scale_is_a_user_error(tmp_path, seed, scale):
    with pytest.raises(UserError, match=r"seed=.*scale="):
        write_synthetic(tmp_path / "set", seed=seed, scale=scale)
    assert list(tmp_path.iterdir()) == []


def test_command_line_writes_and_explains_mistakes(tmp_path, capsys):
    synthetic.main([str(tmp_path / "set"), "--seed", "2", "--scale", "0.05"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "set")
    assert json.loads((tmp_path / "set" / "synthetic.json").read_text())["seed"] == 2
    with pytest.raises(SystemExit) as stopped:
        synthetic.main([str(tmp_path / "bad"), "--scale", "0"])
    assert stopped.value.code == 2
    assert "scale=0.0" in capsys.readouterr().err
