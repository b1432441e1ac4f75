"""Paths of the table: which file each means, and what is said where none or several can be meant."""

import unicodedata
from pathlib import Path

import pytest
from tables import put, to_text, with_values

from reid_core.data.table.metadata import Reading, read_metadata
from reid_core.data.table.photograph_files import PhotographFiles
from reid_core.errors import UserError

NFC, NFD = (unicodedata.normalize(form, "images/Ída é/Küken 1.jpg") for form in ("NFC", "NFD"))


def read(root: Path, path: str, *files: str) -> tuple[list[str | None], list[str]]:
    """What a path is read as where these files exist, and the findings; relative to the data folder."""
    rows, findings = read_metadata(put(root, to_text(with_values("path", [path])), files))
    return rows["path"].to_pylist(), [str(finding).removeprefix("metadata.csv: ") for finding in findings]


def message_of(root: Path, path: str, *files: str) -> str:
    with pytest.raises(UserError) as caught:
        read(root, path, *files)
    assert str(caught.value).isprintable()
    return str(caught.value)


SPELLING = "found under another spelling: blanks, capitals, or the form of accents"
CHANGES = [
    ("images\\a.jpg", "images/a.jpg", "with \\ between folders, read as /"),
    (".\\images\\a.jpg", "images/a.jpg", "with \\ between folders, read as /"),
    ("./images//a.jpg", "images/a.jpg", "with ./ or //, read without"),
    ("images/a.JPG", "images/a.jpg", SPELLING),
    ("images/A.jpg", "images/a.jpg", SPELLING),
    ("Images/a.jpg", "images/a.jpg", SPELLING),
    ("IMAGES\\A.JPG", "images/a.jpg", SPELLING),
    ("images/a.jpg ", "images/a.jpg", SPELLING),
    (" images/a.jpg", "images/a.jpg", SPELLING),
    ("images /a.jpg", "images/a.jpg", SPELLING),
    ("images/a.jpg", "images/a.jpg ", SPELLING),
    (NFC, NFD, SPELLING),
    (NFD, NFC, SPELLING),
    ("images/a", "images/a.jpg", "found with the extension that the table leaves out"),
    ("images\\A", "images/a.JPG", "found with the extension that the table leaves out"),
    ("DSC.0001", "DSC.0001.png", "found with the extension that the table leaves out"),
]


@pytest.mark.parametrize(("path", "file", "what"), CHANGES)
def test_a_photograph_under_another_spelling_is_found_and_reported(tmp_path, path, file, what):
    spell = ascii if path in (NFC, NFD) else repr  # by codes, where both look the same
    assert read(tmp_path, path, file, "images/z.jpg") == (
        [file],
        [f"1 path(s) {what}: line 2: {spell(path)} is {spell(file)}"],
    )


@pytest.mark.parametrize("path", ["images/a.jpg", "a b/ c .jpg", "a\\b.jpg", "x/..a/b..jpg", "ä.jpg", "A.JPG", "-"])
def test_a_path_that_is_there_is_taken_as_it_stands(tmp_path, path):
    assert read(tmp_path, path, path, path.upper() + "x") == ([path], [])


@pytest.mark.parametrize(
    ("path", "files", "shown"),
    [
        ("images/a.JPG", ["images/a.jpg", "images/A.jpg"], "(there is 'images/A.jpg' or 'images/a.jpg')"),
        ("images/a", ["images/a.jpg", "images/a.png"], "(there is 'images/a.jpg' or 'images/a.png')"),
        ("Images/a.jpg", ["images/a.jpg", "IMAGES/a.jpg"], "(there is 'IMAGES/a.jpg' or 'images/a.jpg')"),
        ("images/a.png", ["images/a.jpg"], "'images/a.png' (there is 'images/a.jpg')"),
        ("images/a", ["images/a.txt"], "line 2: 'images/a'"),
        ("images/a1.jpg", ["images/a.jpg"], "line 2: 'images/a1.jpg'"),
    ],
)
def test_what_could_be_several_files_or_another_one_is_not_guessed(tmp_path, path, files, shown):
    message = message_of(tmp_path, path, *files)
    assert "photograph not found" in message
    assert message.endswith(shown)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("C:\\photos\\a.jpg", "path is absolute"),
        ("c:/photos/a.jpg", "path is absolute"),
        ("\\\\server\\a.jpg", "path is absolute"),
        (" /a.jpg", "path is absolute"),
        ("..\\a.jpg", "path has .."),
        ("images\\..\\..\\a.jpg", "path has .."),
        ("images/ .. /a.jpg", "path has .."),
    ],
)
def test_no_way_of_writing_leads_out(tmp_path, path, problem):
    assert problem in message_of(tmp_path, path, "a.jpg")


def test_links_that_lead_out_are_not_searched_unless_they_may_be_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.jpg").touch()
    root = tmp_path / "data"
    root.mkdir()
    (root / "images").symlink_to("../store")
    (root / "b.jpg").symlink_to("../store/a.jpg")
    for path in ("images/a.jpg", "images\\a.jpg", "images/a.JPG", "Images/a", "b.jpg", "B.JPG", "b"):
        put(root, to_text(with_values("path", [path])), ())
        with pytest.raises(UserError) as caught:
            read_metadata(root)
        assert "leads out of" in str(caught.value) or "photograph not found" in str(caught.value)
        assert "a.jpg'" not in str(caught.value).replace("'images/a.jpg'", "")  # no name of what lies outside
        found = read_metadata(root, Reading(follow_links=True)).rows["path"].to_pylist()
        assert found == ["b.jpg" if path.lower().startswith("b") else "images/a.jpg"]


def test_folders_are_listed_once_and_only_for_what_is_missing(tmp_path, monkeypatch):
    paths = [f"images/{number}.jpg" for number in range(200)]
    listed = []
    monkeypatch.setattr(PhotographFiles, "_read_folder", lambda self, place: listed.append(place) or real(self, place))
    put(tmp_path, to_text(with_values("path", paths)), paths)
    read_metadata(tmp_path)
    assert listed == []
    put(tmp_path, to_text(with_values("path", [path.upper() for path in paths])), ())
    assert read_metadata(tmp_path).rows["path"].to_pylist() == paths
    assert sorted(listed) == ["", "images/"]


real = PhotographFiles._read_folder


def test_rows_whose_photograph_is_missing_may_be_left_out_and_others_are_still_found(tmp_path):
    put(tmp_path, to_text(with_values("path", ["images/A.jpg", "images/x.jpg"])), ["images/a.jpg"])
    rows, findings = read_metadata(tmp_path, Reading(skip_missing=True))
    assert rows["path"].to_pylist() == ["images/a.jpg"]
    assert [finding.count for finding in findings] == [1, 1]
    assert findings[1].what == "1 row(s) left out, photograph not found"
    assert findings[1].examples == ("line 3: 'images/x.jpg'",)
