"""Files and folders that appear whole: the old one or the new one, and nothing beside it."""

from pathlib import Path

import pytest

from reid_core.errors import UserError
from reid_core.files.atomic import new_file, new_folder, replace_file


def fill(folder: Path, content: str, **options) -> None:
    """Write a folder with one file."""
    with new_folder(folder, **options) as part:
        (part / "a.txt").write_text(content)


def texts(root: Path) -> dict[str, str]:
    """Content of every file below a folder, by its name."""
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_file_is_replaced_and_an_error_leaves_the_old_one(tmp_path):
    replace_file(tmp_path / "a.txt", b"old")
    with pytest.raises(TypeError), new_file(tmp_path / "a.txt") as part:
        part.write_text("half") + "not a number"
    assert texts(tmp_path) == {"a.txt": "old"}
    replace_file(tmp_path / "a.txt", b"new")
    assert texts(tmp_path) == {"a.txt": "new"}


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/a\.txt: cannot be written: No such file or directory"):
        replace_file(tmp_path / "nowhere" / "a.txt", b"")


@pytest.mark.parametrize("options", [{}, {"unless": lambda: False}])
def test_a_folder_replaces_the_old_one_and_all_that_it_held(tmp_path, options):
    folder = tmp_path / "deep" / "set"
    fill(folder, "old", **options)
    (folder / "more.txt").touch()
    fill(folder, "new", **options)
    assert texts(tmp_path) == {"deep/set/a.txt": "new"}


@pytest.mark.parametrize("options", [{}, {"unless": lambda: False}])
def test_an_error_leaves_the_old_folder(tmp_path, options):
    fill(tmp_path / "set", "old")
    with pytest.raises(TypeError), new_folder(tmp_path / "set", **options) as part:
        (part / "a.txt").write_text("half") + "not a number"
    assert texts(tmp_path) == {"set/a.txt": "old"}


def test_what_a_killed_process_left_is_not_part_of_the_folder(tmp_path):
    (tmp_path / "set.part").mkdir()
    (tmp_path / "set.part" / "half.txt").touch()
    fill(tmp_path / "set", "new")
    assert texts(tmp_path) == {"set/a.txt": "new"}


def test_a_folder_that_another_process_has_written_meanwhile_stays(tmp_path):
    fill(tmp_path / "set", "theirs")
    fill(tmp_path / "set", "mine", unless=lambda: True)
    assert texts(tmp_path) == {"set/a.txt": "theirs"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/set: cannot be written: Not a directory"):
        fill(tmp_path / "file" / "set", "new")


@pytest.mark.parametrize("there", [{}, {"set/a.txt": "old"}])
def test_a_folder_that_cannot_take_the_place_leaves_what_was_there(tmp_path, monkeypatch, there):
    def refuse(self, target):
        if self.name == "set.part":
            raise OSError(39, "Directory not empty")
        return replace(self, target)

    if there:
        fill(tmp_path / "set", "old")
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="not empty"):
        fill(tmp_path / "set", "new")
    assert texts(tmp_path) == there


def test_an_error_without_a_number_is_shown_by_its_text(tmp_path):
    with pytest.raises(UserError, match=r"a\.txt: cannot be written: the disk is odd"), new_file(tmp_path / "a.txt"):
        raise OSError("the disk is odd")
