"""Hashes of contents, and checksums by which a file that was damaged on its way is not taken for what was written.

content, or file → a short hash that names it.
folder → SHA256SUMS in it, as `sha256sum` writes and checks it → the folder's files are whole, or the first that is not.
values → one JSON file with a checksum of its own → the same values, or that it is damaged.
A checksum finds accidents. It says nothing about who wrote the files: whoever changes one can write a new checksum.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reid_core.errors import UserError
from reid_core.files.atomic import replace_file
from reid_core.files.escape import escape_line

CHECKSUMS = "SHA256SUMS"
SEAL = "checksum"  # key of a sealed file, of all its other values
_LINE = re.compile(r"([0-9a-f]{64})  (\w[\w.-]*(?:/\w[\w.-]*)*)")  # no name that leads out of the folder


def digest_of(content: str | bytes, *, num_bytes: int = 8) -> str:
    """Short hash of a content, hexadecimal: equal contents, equal digests.

    Args:
        content: Text is taken as UTF-8.
        num_bytes: Of the hash, whose text is twice as long.

    Example:
        >>> digest_of("lynx") == digest_of(b"lynx"), len(digest_of("lynx", num_bytes=16))
        (True, 32)
    """
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=num_bytes).hexdigest()


def file_digest(file: Path, *, num_bytes: int = 8) -> str:
    """`digest_of` a file's content, which is not held in memory."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=num_bytes)).hexdigest()


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of some files of a folder, the last thing that is written into it.

    Args:
        folder: Gets the file SHA256SUMS, for `verify_checksums` and for `sha256sum --check SHA256SUMS`.
        names: Files, relative to the folder, with "/" between folders.
    """
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in sorted(names)]
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
        elif _sha256(file) != listed[name]:
            raise UserError(f"{file}: damaged or changed: its content does not fit its checksum in {CHECKSUMS}")


def write_sealed(file: Path, values: Mapping[str, Any]) -> None:
    """Write JSON with a checksum in it, in one step: a reader, or a crash, sees the old file or the new one.

    Args:
        file: Gets the values and, under `SEAL`, their checksum.
        values: What JSON can hold, without that key.

    Raises:
        UserError: If it cannot be written.
    """
    replace_file(file, json.dumps({**values, SEAL: _seal(values)}, indent=1).encode())


def read_sealed(file: Path) -> dict[str, Any]:
    """The values that `write_sealed` wrote.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop(SEAL) != _seal(values):
            raise ValueError("its content does not fit its checksum")
        return values
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    # A value that is not a mapping has no such key, or no such method.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: damaged or changed ({escape_line(str(error))})") from error


def _seal(values: Mapping[str, Any]) -> str:
    """Of the values as they will be read again: tuples become lists, numbers that are keys become text."""
    canonical = json.dumps(json.loads(json.dumps(values)), sort_keys=True, separators=(",", ":"))
    return digest_of(canonical)


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


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
