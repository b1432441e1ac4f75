"""The text of a table's file: UTF-8, or UTF-16 as Excel's "Unicode text" has it; anything else is refused, not guessed.

file → text, and the name of its encoding.
"""

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from reid_core.errors import UserError
from reid_core.files.escape import escape_line

# UTF-32's mark begins with that of UTF-16. Only the codecs with a mark of their own take it off.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF8: "UTF-8-sig",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "a workbook (Excel, LibreOffice) or another ZIP file",
    b"\xd0\xcf\x11\xe0": "a workbook of an old Excel",
    b"\x1f\x8b": "compressed (gzip)",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"<!": "a web page",
    b"<html": "a web page",
}
_AROUND = 30  # bytes shown on either side of one that is not text
_LINE_END = re.compile(r"\r\n|\r|\n")


class Text(NamedTuple):
    """What a file says."""

    text: str  # without the mark of its encoding; line ends as they are
    encoding: str  # for people: "UTF-8", "UTF-16"


def read_text(file: Path) -> Text:
    """Read a table's file as text.

    Raises:
        UserError: If it cannot be read, is empty, is no text file, or is in another encoding; names the line, and what
            to do.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}{_name_alike(file)}") from error
    if not data:
        raise UserError(f"{file}: the file is empty")
    for beginning, kind in _OTHER_FILES.items():
        if data.lower().startswith(beginning.lower()):
            raise UserError(f"{file}: this is {kind}, not a table of text; save the table as 'CSV UTF-8'")
    encoding = _find_encoding(data)
    try:
        return Text(data.decode(encoding), encoding[:6].rstrip("-"))
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: {_describe_damage(data, error, encoding[:6].rstrip('-'))}") from error


def _find_encoding(data: bytes) -> str:
    """By the mark at the beginning; without one UTF-8, unless every second byte is 0, as in UTF-16 of Latin letters."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    beginning = data[:16]  # within the names of columns
    if len(beginning) > 1 and not any(beginning[1::2]):
        return "UTF-16-le"
    return "UTF-16-be" if len(beginning) > 1 and not any(beginning[::2]) else "UTF-8"


def _describe_damage(data: bytes, error: UnicodeDecodeError, encoding: str) -> str:
    """Line and surroundings of the first byte that is no text, and the remedy."""
    codec = "utf-8" if encoding == "UTF-8" else error.encoding
    before = data[: error.start].decode(codec, "replace")
    line = len(_LINE_END.findall(before)) + 1
    if encoding != "UTF-8":
        return f"line {line} is not {encoding} ({error.reason}); save the table as 'CSV UTF-8'"
    after = data[error.start : error.start + _AROUND].decode("utf-8", "backslashreplace")
    shown = escape_line(_LINE_END.split(before[-_AROUND:])[-1] + _LINE_END.split(after)[0])
    return (
        f"line {line} is not UTF-8: '{shown}'; save the table as 'CSV UTF-8' (Excel: Save As), or, if it comes from "
        "Windows, convert it: iconv -f WINDOWS-1252 -t UTF-8"
    )


def _name_alike(file: Path) -> str:
    """Files beside a missing one that may be meant: of another kind, or of other capitals."""
    if file.exists() or not file.parent.is_dir():
        return ""
    stem = file.stem.casefold()
    others = sorted(other.name for other in file.parent.iterdir() if other.name.casefold().startswith(stem))
    shown = escape_line(", ".join(others[:5]))
    return f"; there is {shown}: save it as {file.name}, 'CSV UTF-8'" if others else ""
