"""One folder per animal becomes a data folder: what the folders mean, what is left out, what is never overwritten."""

import csv
import os
import shlex
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from reid_core.__main__ import main as run
from reid_core.data.animal_folders import ALREADY, AROUND, HIDDEN, find_photographs
from reid_core.data.animals import NEW
from reid_core.data.photographs import extensions
from reid_core.data.table.metadata import COLUMNS, Reading, load_metadata
from reid_core.errors import UserError
from reid_core.folders import main

FLAT = ("ada/1.jpg", "ada/2.jpg", "bo/1.jpg")
NESTED = ("lynx/ada/1.jpg", "lynx/bo/1.jpg", "newt/ada/1.jpg")


@pytest.fixture
def photos(tmp_path):
    """A folder for photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str, taken: str | None = None) -> None:
    """Write small photographs, with an EXIF date if there is one."""
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(folder / name, exif=exif.tobytes())


def rows_of(folder: Path, *flags: str) -> list[dict[str, str]]:
    """What the command writes, as it stands in the file; `load_metadata` accepts it too."""
    assert main([str(folder), *flags]) == 0
    needs = "database" if "database" in (folder / "metadata.csv").read_text() else "query"
    table = load_metadata(folder, needs=needs)
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert table["path"].to_pylist() == [row["path"] for row in rows]
    assert table["identity"].to_pylist() == [row["identity"] or None for row in rows]
    return rows


def places(rows: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """Path, group and identity of each row."""
    assert all((row["split"] == "query") == (row["identity"] == "") for row in rows)
    return [(row["path"], row["dataset"], row["identity"]) for row in rows]


def test_the_table_has_the_layout_of_animalclef(photos):
    put(photos, *FLAT, "unknown/9.jpg")
    rows_of(photos)
    assert (photos / "metadata.csv").read_text() == (
        f"{','.join(COLUMNS)}\n"
        "ada/1.jpg,ada,ada/1.jpg,,,,database,photos\n"
        "ada/2.jpg,ada,ada/2.jpg,,,,database,photos\n"
        "bo/1.jpg,bo,bo/1.jpg,,,,database,photos\n"
        "unknown/9.jpg,,unknown/9.jpg,,,,query,photos\n"
    )
    assert sorted(path.name for path in photos.iterdir()) == ["ada", "bo", "metadata.csv", "unknown"]


def test_folders_of_animals(photos):
    put(photos, *FLAT, "new.jpg", "Query/7.jpg", "unknown/june/8.jpg")
    assert places(rows_of(photos)) == [
        ("Query/7.jpg", "photos", ""),
        ("ada/1.jpg", "photos", "ada"),
        ("ada/2.jpg", "photos", "ada"),
        ("bo/1.jpg", "photos", "bo"),
        ("new.jpg", "photos", ""),
        ("unknown/june/8.jpg", "photos", ""),
    ]


def test_folders_of_species_hold_folders_of_animals(photos):
    put(photos, *NESTED, "lynx/ada/june/2.jpg", "newt/unknown/9.jpg", "unknown/lynx/8.jpg")
    assert places(rows_of(photos)) == [
        ("lynx/ada/1.jpg", "lynx", "ada"),
        ("lynx/ada/june/2.jpg", "lynx", "ada"),
        ("lynx/bo/1.jpg", "lynx", "bo"),
        ("newt/ada/1.jpg", "newt", "ada"),
        ("newt/unknown/9.jpg", "newt", ""),
        ("unknown/lynx/8.jpg", "lynx", ""),
    ]


def test_queries_without_a_group_belong_to_the_only_one(photos):
    put(photos, "lynx/ada/1.jpg", "lynx/bo/1.jpg", "8.jpg", "unknown/9.jpg")
    assert {group for _, group, _ in places(rows_of(photos))} == {"lynx"}


def test_with_a_group_the_first_level_are_the_animals_whatever_lies_in_them(photos):
    put(photos, "ada/1.jpg", "ada/june/2.jpg", "ada/unknown/3.jpg", "bo/left/old/1.jpg", "unknown/9.jpg")
    assert places(rows_of(photos, "--group", "Lynx lynx")) == [
        ("ada/1.jpg", "Lynx lynx", "ada"),
        ("ada/june/2.jpg", "Lynx lynx", "ada"),
        ("ada/unknown/3.jpg", "Lynx lynx", "ada"),
        ("bo/left/old/1.jpg", "Lynx lynx", "bo"),
        ("unknown/9.jpg", "Lynx lynx", ""),
    ]


def test_another_name_for_the_folder_of_queries(photos):
    put(photos, *FLAT, "unknown/1.jpg", "A\u030akes/1.jpg")
    named = {path: identity for path, _, identity in places(rows_of(photos, "--queries", "åkes/"))}
    assert named["A\u030akes/1.jpg"] == ""
    assert named["unknown/1.jpg"] == "unknown"  # an animal now


def test_queries_alone_need_a_group_and_lead_to_predict(photos, capsys):
    put(photos, "1.jpg", "unknown/2.jpg")
    with pytest.raises(UserError, match=r"there is no folder of an animal.*give --group NAME, the species group that"):
        main([str(photos)])
    assert places(rows_of(photos, "--group", "lynx")) == [("1.jpg", "lynx", ""), ("unknown/2.jpg", "lynx", "")]
    assert f"next: python -m reid_core.predict BUNDLE --data {photos} --out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("taken", "day"),
    [
        ("2015:07:02 23:59:59", "2015-07-02"),
        ("2015:07:02", "2015-07-02"),
        ("0000:00:00 00:00:00", ""),  # a camera whose clock was never set
        ("2015:02:30 10:00:00", ""),
        ("July 2015", ""),
        (None, ""),
    ],
)
def test_the_date_is_that_of_the_photograph(photos, taken, day, capsys):
    put(photos, "ada/1.jpg", "ada/2.tif", "ada/3.webp", taken=taken)
    assert [row["date"] for row in rows_of(photos)] == [day] * 3
    noticed = f"dates that cannot be read as such, left empty: 3 (ada/1.jpg: {taken}, ada/2.tif: {taken}, "
    assert (noticed in capsys.readouterr().out) == (taken is not None and not day)


def test_a_damaged_photograph_is_listed_without_a_date(photos):
    put(photos, *FLAT)
    (photos / "ada" / "1.jpg").write_bytes(b"no photograph")
    (photos / "ada" / "2.jpg").write_bytes(b"")
    assert [row["date"] for row in rows_of(photos)] == [""] * 3


def test_photographs_are_found_by_the_end_of_their_names_in_any_case(photos):
    assert {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"} <= extensions()
    assert not {".eps", ".pdf", ".mp4", ".txt", ""} & extensions()
    for name in ("ada/1.JPG", "ada/2.Jpeg", "ada/3.PNG", "ada/4.tiff"):
        put(photos, name)
    assert [row["path"] for row in rows_of(photos)] == ["ada/1.JPG", "ada/2.Jpeg", "ada/3.PNG", "ada/4.tiff"]


def test_what_is_left_out_is_counted_and_named(photos, capsys):
    put(photos, *FLAT)
    for name in ("ada/1.xmp", "ada/1.cr2", "bo/notes.txt", "films/a.mp4", "metadata.csv.bak"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_text("")
    os.mkfifo(photos / "ada" / "pipe.jpg")
    put(photos, "bo/two\nlines.jpg")
    rows_of(photos)
    out = capsys.readouterr().out
    assert "left out, files of other formats: 6 (metadata.csv.bak, ada/1.cr2, ada/1.xmp, ...)\n" in out
    assert "left out, names that metadata.csv cannot hold: 1 (bo/two\\nlines.jpg)\n" in out
    main([str(photos)])  # metadata.csv itself is not left out
    assert capsys.readouterr().out == out


def test_a_name_that_is_no_utf8_is_left_out(photos, capsys):
    put(photos, *FLAT)
    (photos / "ada" / "2.jpg").rename(photos / "ada" / os.fsdecode(b"\xff.jpg"))
    assert [row["path"] for row in rows_of(photos)] == ["ada/1.jpg", "bo/1.jpg"]
    assert "names that metadata.csv cannot hold: 1 (ada/\\udcff.jpg)" in capsys.readouterr().out


def test_hidden_photographs_and_folders_are_left_out_and_named(photos, capsys):
    put(photos, *FLAT)
    put(photos, ".thumbnails/1.jpg", "ada/.hidden.jpg", "ada/._1.jpg")
    (photos / ".DS_Store").write_text("")
    assert len(rows_of(photos)) == 3
    out = capsys.readouterr().out
    assert "left out, hidden: their names begin with a dot: 2 (.thumbnails, ada/.hidden.jpg)\n" in out
    assert out.count("left out") == 1


def test_links_are_not_followed(photos, capsys):
    put(photos, *FLAT)
    put(photos.parent, "elsewhere/cy/1.jpg")
    (photos / "cy").symlink_to(photos.parent / "elsewhere" / "cy")
    (photos / "ada" / "3.jpg").symlink_to(photos.parent / "elsewhere" / "cy" / "1.jpg")
    (photos / "bo" / "round").symlink_to(photos)
    assert [row["path"] for row in rows_of(photos)] == list(FLAT)
    assert "left out, links, which are not followed (--follow-links follows them): 3 (cy, ada/3.jpg, bo/round)" in (
        capsys.readouterr().out
    )


def test_links_are_followed_where_that_is_asked_for_and_lead_nowhere_twice(photos, capsys):
    put(photos, *FLAT)
    elsewhere = photos.parent / "elsewhere"
    put(elsewhere, "cy/1.jpg", "cy/2.jpg")
    (photos / "cy").symlink_to(elsewhere / "cy")
    (photos / "ada" / "3.jpg").symlink_to(elsewhere / "cy" / "1.jpg")
    (photos / "bo" / "round").symlink_to(photos)
    (photos / "bo" / "gone.jpg").symlink_to(photos / "nowhere")
    (elsewhere / "cy" / "up").symlink_to(elsewhere)
    (elsewhere / "cy" / "again").symlink_to(photos)
    assert main([str(photos), "--follow-links"]) == 0
    out = capsys.readouterr().out
    assert load_metadata(photos, Reading(follow_links=True))["path"].to_pylist() == [
        *FLAT[:2], "ada/3.jpg", "bo/1.jpg", "cy/1.jpg", "cy/2.jpg",
    ]  # fmt: skip
    assert "left out, links that lead nowhere: 1 (bo/gone.jpg)\n" in out
    assert "left out, folders whose photographs were found already, by another name: 3 (bo/round, cy/again, " in out
    assert f"--data {photos} --follow-links --out" in out


def follow(photos: Path) -> tuple[list[str], dict[str, list[str]]]:
    found = find_photographs(photos, follow_links=True)
    return list(map(str, found.photographs)), found.left_out


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("b", "a")])
def test_a_link_to_a_folder_within_that_of_another_link_costs_no_photograph(photos, one, other):
    store = photos.parent / "store"
    put(store, "2021/x.jpg", "y.jpg")
    photos.mkdir(exist_ok=True)
    (photos / one).symlink_to(store / "2021")
    (photos / other).symlink_to(store)
    found, left_out = follow(photos)
    again = "b/2021" if one == "a" else "b"
    assert found == ([f"{one}/x.jpg", f"{other}/y.jpg"] if one == "a" else ["a/2021/x.jpg", "a/y.jpg"])
    assert left_out == {ALREADY: [again]}


def test_a_link_to_a_hidden_folder_within_is_followed_and_one_to_a_folder_around_is_not(photos):
    put(photos, "ada/1.jpg", ".store/2.jpg")
    put(photos.parent, "other/3.jpg")
    (photos / "a").symlink_to(photos / ".store")
    (photos / "b").symlink_to(photos.parent)
    (photos / "0").symlink_to(photos / "ada")  # the folder's own name counts, in whatever order
    found, left_out = follow(photos)
    assert found == ["a/2.jpg", "ada/1.jpg"]
    assert left_out == {HIDDEN: [".store"], ALREADY: ["0"], AROUND: ["b"]}


def test_the_folder_itself_may_be_a_link(photos):
    put(photos, *FLAT)
    link = photos.parent / "link"
    link.symlink_to(photos)
    assert len(rows_of(link)) == 3


def test_names_of_any_kind(photos, capsys):
    names = ("Ída, the elder/Foto 1, süd.jpg", 'say "hi"/=1+1.jpg', " 鹿 /-.jpg", "A\u030ake/1.jpg", "NA/null.jpg")
    put(photos, *names)
    rows = rows_of(photos)
    assert {row["image_id"] for row in rows} == {row["path"] for row in rows} == set(names)
    identities = {row["path"]: row["identity"] for row in rows}
    assert identities[names[0]] == "Ída, the elder"
    assert identities[names[1]] == 'say "hi"'
    assert identities[names[2]] == "鹿"
    assert "names of folders read without blanks at their ends: 1 (' 鹿 ')" in capsys.readouterr().out
    assert identities[names[3]] == "Åke"  # as everybody but macOS spells it
    assert identities[names[4]] == "NA"


def test_an_equal_table_stays_as_it_is(photos):
    put(photos, *FLAT)
    rows_of(photos)
    file = photos / "metadata.csv"
    edited = file.read_text().replace("ada/1.jpg,,,,", "ada/1.jpg,2015-07-02,left,Lynx lynx,")
    file.write_text(edited)
    before = file.stat().st_mtime_ns
    rows_of(photos)
    assert (file.read_text(), file.stat().st_mtime_ns) == (edited, before)


def test_a_table_that_grows_keeps_its_ids_and_what_a_person_filled_in(photos):
    put(photos, *FLAT)
    before = rows_of(photos)
    file = photos / "metadata.csv"
    file.write_text(file.read_text().replace("ada/1.jpg,,,,", "ada/1.jpg,2015-07-02,left,,"))
    put(photos, "aaron/1.jpg", taken="2020:01:01 00:00:00")
    edited = file.read_text()
    with pytest.raises(UserError, match=r"metadata\.csv: exists and does not describe this folder \(3 images, the f"):
        main([str(photos)])
    assert file.read_text() == edited
    after = rows_of(photos, "--overwrite")
    kept = {"date": "2015-07-02", "orientation": "left"}
    assert after[0]["image_id"] == "aaron/1.jpg"
    assert after[1:] == [before[0] | kept, *before[1:]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("filename,identity\na.jpg,ada\n", r"it lacks column\(s\) image_id, path, split, dataset"),
        (f"{','.join(COLUMNS)}\n7,ada,ada/1.jpg,,,,database,photos\n", "1 images, the folder has 3"),
        ("a", "0 images"),
    ],
)
def test_another_table_is_not_overwritten_unless_asked(photos, content, problem):
    put(photos, *FLAT)
    (photos / "metadata.csv").write_text(content)
    with pytest.raises(UserError, match=rf"metadata\.csv: exists and does not .*{problem}.*--overwrite.*move it away"):
        main([str(photos)])
    assert (photos / "metadata.csv").read_text() == content
    assert len(rows_of(photos, "--overwrite")) == 3


def test_a_table_that_cannot_be_read_stays(photos):
    put(photos, *FLAT)
    (photos / "metadata.csv").write_bytes(b"\xff\xfe\x00")
    for flags in ([], ["--overwrite"]):
        with pytest.raises(UserError, match=r"metadata\.csv: exists and cannot be read: .*; move it away"):
            main([str(photos), *flags])
    assert (photos / "metadata.csv").read_bytes() == b"\xff\xfe\x00"


@pytest.mark.parametrize(
    ("names", "flags", "problem"),
    [
        ((), [], r"no photographs in it \(\.apng .*\.jpg"),
        (FLAT[:2], ["--queries", "nowhere"], "--queries nowhere: .* has no folder of this name with photographs"),
        (FLAT, ["--group", " "], "--group ' ': give --group NAME"),
        (FLAT, ["--group", "a\nb"], "--group 'a.nb': give --group NAME"),
        (
            (*FLAT, "cy/june/1.jpg"),
            [],
            r"not clear which folders are animals: ada/1\.jpg lies one folder deep, cy/june/1\.jpg lies 2 deep.*"
            r"--group NAME.*move ada/1\.jpg into the folder of its animal, or into ada/unknown",
        ),
        ((*NESTED, "1.jpg"), [], r"/1\.jpg: it is not clear to which group \(lynx, newt\).*photos/lynx/unknown"),
        ((*NESTED, "unknown/pig/1.jpg"), [], r"unknown/pig/1\.jpg: it is not clear to which group"),
        ((" \u2007/1.jpg",), [], "the name of its folder is nothing but blanks; rename the folder"),
        ((f"{NEW}/1.jpg",), [], rf"{NEW}/1\.jpg: no animal can be called {NEW}.*rename its folder.*--queries {NEW}"),
    ],
)
def test_what_is_not_clear_is_refused_before_anything_is_written(photos, names, flags, problem):
    put(photos, *names)
    with pytest.raises(UserError, match=problem):
        main([str(photos), *flags])
    assert not (photos / "metadata.csv").exists()


def test_the_ways_out_that_the_messages_name(photos):
    put(photos, *FLAT, "cy/june/1.jpg", f"{NEW}/1.jpg")
    rows = rows_of(photos, "--group", "lynx", "--queries", NEW)
    assert places(rows)[-1] == (f"{NEW}/1.jpg", "lynx", "")


def test_no_folder_and_no_right_to_write(photos, monkeypatch):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        main([str(photos / "nowhere")])
    put(photos, *FLAT)
    (photos / "metadata.csv.part").mkdir()  # a file cannot be written there
    with pytest.raises(UserError, match=r"metadata\.csv: cannot be written: Is a directory"):
        main([str(photos)])
    assert not (photos / "metadata.csv").exists()

    def unreadable(root, onerror):
        onerror(PermissionError(13, "Permission denied", str(root / "ada")))

    monkeypatch.setattr(os, "walk", unreadable)
    with pytest.raises(UserError, match="ada: this folder cannot be read: Permission denied"):
        main([str(photos)])


def test_the_summary(photos, capsys):
    put(photos, *NESTED, "lynx/bo/2.jpg", "newt/unknown/1.jpg")
    assert main([str(photos)]) == 0
    assert capsys.readouterr().out == (
        "4 photographs of 3 animals, 1 query\n"
        "group lynx: 2 animals, 1 of them with a single photograph\n"
        "group newt: 1 animal, 1 of them with a single photograph\n"
        "several groups have an animal of the same name, as ada: these are different animals. If the first level of "
        "folders are the animals, give --group NAME\n"
        f"written: {photos / 'metadata.csv'}\n"
        f"next: python -m reid_core --data {photos} --out runs/first\n"
    )


def test_from_folders_to_a_trained_model_and_its_answers(small_data, tmp_path, capsys):
    """Drawn photographs, one folder per animal: the command that the summary names trains on them."""
    photos = tmp_path / "my photos"
    with (small_data / "metadata.csv").open(newline="", encoding="utf-8") as file:
        drawn = list(csv.DictReader(file))
    for row in drawn:
        target = photos / row["dataset"] / (row["identity"] or "unknown") / Path(row["path"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(small_data / row["path"])
    rows = rows_of(photos)
    assert {(Path(row["path"]).name, row["identity"], row["dataset"], row["split"]) for row in rows} == {
        (Path(row["path"]).name, row["identity"], row["dataset"], row["split"]) for row in drawn
    }
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    python, _, module, *arguments = shlex.split(line.removeprefix("next: "))
    assert (python, module, arguments[:2]) == ("python", "reid_core", ["--data", str(photos)])
    small = ["--preset", "tiny", "--set", "optim.epochs=1", "--set", "match.matcher=none"]
    assert run([*arguments[:2], "--out", str(tmp_path / "out"), *small]) == 0
    assert "GEO_MEAN" in capsys.readouterr().out
    assert (tmp_path / "out" / "best" / "model.safetensors").is_file()
