"""The files that the table's paths mean: as they stand, or under the one other spelling that the disk has.

data folder, path → the file's path in that folder, and what it is; findings.
"""

import re
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from reid_core.data.photographs import extensions
from reid_core.data.table.columns import strip_blanks
from reid_core.data.table.findings import SHOWN, SHOWN_LETTERS, Finding, make_finding, tell_rows

State = Literal["file", "folder", "missing", "outside"]
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


def is_absolute(path: str) -> bool:
    """Whether a path begins at a root or at a drive, as Linux or Windows has them."""
    return bool(_ABSOLUTE.match(strip_blanks(path)))


def leads_up(path: str) -> bool:
    """Whether a folder of a path is "..", whichever sign divides folders."""
    return ".." in map(strip_blanks, re.split(r"[/\\]", path))


@dataclass
class PhotographFiles:
    """Looks for photographs in a data folder; every folder in it is resolved once, and listed once at most.

    Resolving 15,000 paths would take seconds: it is one lstat a path that is there.
    """

    root: Path
    follow_links: bool = False  # take what lies outside, behind a link
    _inside: dict[str, bool] = field(default_factory=dict)
    _names: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # of each folder, by what `_fold` leaves
    _stems: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # of photographs, without their extension

    def __post_init__(self) -> None:
        self.root = self.root.resolve()

    def state(self, path: str) -> State:
        """What lies at a path.

        Args:
            path: Relative, without "..".
        """
        folder, full = path.rpartition("/")[0], self.root / path
        try:
            if folder not in self._inside:
                self._inside[folder] = self.follow_links or self._is_inside(full.parent)
            if not self._inside[folder]:
                return "outside"
            mode = full.lstat().st_mode
            if stat.S_ISLNK(mode):
                if not self.follow_links and not self._is_inside(full):
                    return "outside"
                mode = full.stat().st_mode
            return "file" if stat.S_ISREG(mode) else "folder"
        except (OSError, ValueError):  # ValueError: a character that no file name has
            return "missing"

    def find_alike(self, path: str) -> list[str]:
        """Files that a path may mean: the same but for capitals, blanks, forms of accents, and a missing extension.

        Args:
            path: Of which `state` says "missing".

        Returns:
            Paths below the root, at most one of which can be meant; none within folders that lead out of it.
        """
        places, name = self._find_places(path)
        named = [place + other for place in places for other in self._list(place).get(_fold(name), [])]
        if not named:
            named = [place + other for place in places for other in self._stems.get(place, {}).get(_fold(name), [])]
        return named

    def find_other_formats(self, path: str) -> list[str]:
        """Photographs that have a path's name with another extension; never taken for it."""
        places, name = self._find_places(path)
        stem = _fold(PurePosixPath(name).stem)
        return [place + other for place in places if self._list(place) for other in self._stems[place].get(stem, [])]

    def _find_places(self, path: str) -> tuple[list[str], str]:
        """Folders, ending in "/", that may be meant by those of a path, and its last part."""
        *folders, name = path.split("/")
        places = [""]
        for part in folders:
            places = [place + other + "/" for place in places for other in self._list(place).get(_fold(part), [])]
        return places, name

    def _list(self, place: str) -> dict[str, list[str]]:
        """Names in a folder of the data folder; none if it is outside, or no folder."""
        if place not in self._names:
            self._names[place], self._stems[place] = {}, {}
            for name in self._read_folder(place):
                self._names[place].setdefault(_fold(name), []).append(name)
                if PurePosixPath(name).suffix.lower() in extensions():
                    self._stems[place].setdefault(_fold(PurePosixPath(name).stem), []).append(name)
        return self._names[place]

    def _read_folder(self, place: str) -> list[str]:
        folder = self.root / place
        try:
            may_look = self.follow_links or self._is_inside(folder)
            return sorted(entry.name for entry in folder.iterdir()) if may_look else []
        except OSError:
            return []

    def _is_inside(self, path: Path) -> bool:
        """Whether a path lies below the root once every symbolic link in it is followed."""
        try:
            return path.resolve().is_relative_to(self.root)
        except RuntimeError as error:  # links in a circle; from Python 3.13 on, opening it raises
            raise OSError(str(error)) from error


def _fold(name: str) -> str:
    """What Windows and macOS do not distinguish in a file's name, nor a person who reads it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", strip_blanks(name)).casefold())


class Found(NamedTuple):
    """What a path of the table means."""

    path: str  # of a file below the data folder, or as it stands where there is none
    state: State
    meant: list[str]  # where it is missing: files that may be meant

    def describe(self) -> str:
        """For an error: the path, and the files that may be meant."""
        return f"{self.path!r:.{SHOWN_LETTERS}}" + (
            f" (there is {' or '.join(map(repr, self.meant[:3]))})" if self.meant else ""
        )


def find_file(files: PhotographFiles, path: str) -> Found:
    """The file that a path means, under the spelling that the disk has.

    Args:
        files: Of the data folder.
        path: Neither absolute nor with "..".
    """
    read = _normal(path)
    state = files.state(read)
    if state == "missing" and "\\" in path:
        read = _normal(path.replace("\\", "/"))
        state = files.state(read)
    if state != "missing":
        return Found(read, state, [])
    alike = files.find_alike(read)
    if len(alike) == 1 and files.state(alike[0]) != "missing":
        return Found(alike[0], files.state(alike[0]), [])
    return Found(path, "missing", alike or files.find_other_formats(read))


def describe_changes(
    where: str, paths: Sequence[str], found_N: Sequence[Found], line_N: Sequence[int], id_N: Sequence[str]
) -> list[Finding]:
    """Paths that were read otherwise than they stand: a finding for each kind; folders may have animals' names."""
    changed: dict[str, list[int]] = {}
    for row, (path, found) in enumerate(zip(paths, found_N, strict=True)):
        if found.path != path:
            changed.setdefault(_describe_change(path, found.path), []).append(row)
    findings = []
    for what, rows in changed.items():
        shown = [f"line {line_N[row]}: {_compare(paths[row], found_N[row].path)}" for row in rows[:SHOWN]]
        tells = tell_rows(id_N, rows)
        findings.append(make_finding(where, f"{len(rows)} path(s) {what}", shown, len(rows), tells=tells))
    return findings


def _normal(path: str) -> str:
    """Without "./" and "//"."""
    return "/".join(part for part in path.split("/") if part not in ("", ".")) or path


def _compare(path: str, read: str) -> str:
    """Both spellings; by codes, where they are the same to the eye."""
    spell = ascii if unicodedata.normalize("NFC", path) == unicodedata.normalize("NFC", read) else repr
    return f"{spell(path)} is {spell(read)}"


def _describe_change(path: str, read: str) -> str:
    r"""In what a path was read otherwise: a finding for each kind."""
    if read == _normal(path):
        return "with ./ or //, read without"
    slashed = _normal(path.replace("\\", "/"))
    if read == slashed:
        return "with \\ between folders, read as /"
    if [*map(_fold, read.split("/"))] == [*map(_fold, slashed.split("/"))]:
        return "found under another spelling: blanks, capitals, or the form of accents"
    return "found with the extension that the table leaves out"
