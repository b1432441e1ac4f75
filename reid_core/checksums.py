"""Checksums of the files of a folder, so that what was damaged on its way is not taken for what was written.

folder → SHA256SUMS in it, as `sha256sum` writes and checks it → the folder's files are whole, or the first that is not.
A checksum finds accidents. It says nothing about who wrote the files: whoever changes one can write a new checksum.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from reid_core.config import UserError

CHECKSUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\w[\w.-]*(?:/\w[\w.-]*)*)")  # no name that leads out of the folder


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of some files of a folder, the last thing that is written into it.

    Args:
        folder: Gets the file SHA256SUMS, for `verify_checksums` and for `sha256sum --check SHA256SUMS`.
        names: Files, relative to the folder, with "/" between folders.
    """
    lines = [f"{_digest(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path, names: Iterable[str]) -> None:
    """Prove that the files that are about to be read are those that were written.

    Args:
        folder: Of `write_checksums`.
        names: Every file that will be read if it is there. Each must be listed and whole, or neither listed nor there.

    Raises:
        UserError: If SHA256SUMS or a listed file is missing, a file is there that is not listed, or a content is not
            the one that was written; names the file.
    """
    listed = _read_checksums(folder)
    for name in names:
        file = folder / name
        if name not in listed:
            if file.exists():
                raise UserError(f"{file}: it is not listed in {folder / CHECKSUMS}: it was added later")
        elif not file.is_file():
            raise UserError(f"{file}: it is listed in {CHECKSUMS} and is missing")
        elif _digest(file) != listed[name]:
            raise UserError(f"{file}: damaged or changed: its content does not fit its checksum in {CHECKSUMS}")


def _read_checksums(folder: Path) -> dict[str, str]:
    """Digest by name."""
    file = folder / CHECKSUMS
    try:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the checksums of this folder cannot be read: {error}") from error
    found = [_LINE.fullmatch(line) for line in lines]
    if None in found:
        line = found.index(None) + 1
        raise UserError(f"{file}: damaged in line {line}: expected a SHA-256 digest, two spaces and a file name")
    return {match[2]: match[1] for match in found if match}


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
