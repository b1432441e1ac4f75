"""Checksums of a folder: what `sha256sum` says of it, and every way in which a file can be another one."""

import hashlib
import json
import math
import subprocess
from pathlib import Path

import pytest

from reid_core.errors import UserError
from reid_core.files.checksums import CHECKSUMS, read_sealed, verify_checksums, write_checksums, write_sealed

NAMES = ("a.json", "deep/b.bin", "last.safetensors")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([number]) * 1000)
    write_checksums(tmp_path, NAMES)
    return tmp_path


def message_of(folder: Path, *more: str) -> str:
    with pytest.raises(UserError) as caught:
        verify_checksums(folder, (*NAMES, *more))
    return str(caught.value)


def test_a_folder_as_it_was_written_is_accepted_also_by_sha256sum(folder):
    verify_checksums(folder, NAMES)
    assert (folder / CHECKSUMS).read_text().splitlines()[1] == (
        f"{hashlib.sha256(bytes([1]) * 1000).hexdigest()}  deep/b.bin"
    )
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", CHECKSUMS], cwd=folder, check=True)


def test_every_changed_bit_is_found(folder):
    file = folder / "deep" / "b.bin"
    data = file.read_bytes()
    for position in (0, 500, 999):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            file.write_bytes(changed)
            assert (
                message_of(folder)
                == f"{file}: damaged or changed: its content does not fit its checksum in {CHECKSUMS}"
            )


def test_missing_added_and_swapped_files_are_named(folder):
    assert verify_checksums(folder, [*NAMES, "never.there"]) is None
    (folder / "added.json").write_text("{}")
    assert message_of(folder, "added.json").startswith(f"{folder / 'added.json'}: it is not listed")
    verify_checksums(folder, NAMES)  # what nobody will read does no harm
    (folder / "a.json").rename(folder / "kept")
    assert message_of(folder) == f"{folder / 'a.json'}: it is listed in {CHECKSUMS} and is missing"
    (folder / "last.safetensors").rename(folder / "a.json")
    (folder / "kept").rename(folder / "last.safetensors")
    assert message_of(folder).startswith(f"{folder / 'a.json'}: damaged or changed")


def test_only_the_files_that_will_be_read_are_looked_at(folder):
    (folder / "a.json").write_bytes(b"")
    verify_checksums(folder, NAMES[1:])


def test_no_mutation_of_the_list_itself_lets_another_content_through(folder):
    """Every bit of it: the digests then differ, a file is no longer listed, or a line cannot be read."""
    file, digest = folder / CHECKSUMS, (folder / CHECKSUMS).read_bytes()
    for position in range(len(digest) - 1):  # the last byte ends the last line
        for bit in (position % 8,):
            changed = bytearray(digest)
            changed[position] ^= 1 << bit
            file.write_bytes(changed)
            assert str(folder) in message_of(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged in line 1"),
        ("nothing\n", "damaged in line 1"),
        (f"{'0' * 64}  ../outside\n", "damaged in line 1"),
        (f"{'0' * 64}  /etc/passwd\n", "damaged in line 1"),
        (f"{'0' * 64}  deep/../../outside\n", "damaged in line 1"),
        (f"{'0' * 64}  a.json\n{'0' * 63}  deep/b.bin\n", "damaged in line 2"),
    ],
)
def test_a_file_that_is_not_a_list_of_checksums_is_an_error_that_names_the_line(folder, text, message):
    (folder / CHECKSUMS).write_text(text)
    assert message in message_of(folder)


def test_a_list_that_is_missing_or_not_text_is_named(folder):
    (folder / CHECKSUMS).write_bytes(b"\xff\xfe")
    assert f"{CHECKSUMS}: the checksums of this folder cannot be read" in message_of(folder)
    (folder / CHECKSUMS).unlink()
    assert f"{CHECKSUMS}: the checksums of this folder cannot be read" in message_of(folder)


def test_sealed_values_come_back_and_may_be_written_otherwise(tmp_path):
    values = {"b": [1, 2.5, None, "é"], "a": {"x": math.inf}, "c": (1, 2), "d": {10: 1, 9: 2}}
    write_sealed(tmp_path / "x.json", values)
    assert read_sealed(tmp_path / "x.json") == {**values, "c": [1, 2], "d": {"10": 1, "9": 2}}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    written = json.loads((tmp_path / "x.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps(dict(reversed(written.items()))))  # the same values in another order
    assert read_sealed(tmp_path / "x.json") == {**values, "c": [1, 2], "d": {"10": 1, "9": 2}}


def test_no_flipped_bit_of_a_sealed_file_gives_other_values(tmp_path):
    file, values = tmp_path / "x.json", {"trial": "trial-0003", "metrics": {"mean": 0.125, "low": None}}
    write_sealed(file, values)
    content, messages = file.read_bytes(), []
    for position in range(len(content)):
        for bit in (0, 2, 5):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            file.write_bytes(changed)
            try:
                assert read_sealed(file) == values
            except UserError as error:
                messages.append(str(error))
    assert len(messages) > 0.9 * 3 * len(content)
    assert all(message.startswith(f"{file}: damaged or changed") for message in messages)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"checksum": 1}', "[" * 100_000, "\x1b"])
def test_what_is_not_a_sealed_file_is_an_error(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json: damaged or changed") as caught:
        read_sealed(tmp_path / "x.json")
    assert str(caught.value).isprintable()


def test_a_sealed_file_that_cannot_be_read_or_written_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"x\.json: cannot be read: No such file"):
        read_sealed(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"x\.json: cannot be written: No such file"):
        write_sealed(tmp_path / "gone" / "x.json", {})
