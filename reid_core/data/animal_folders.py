"""Photographs in folders, one folder per animal, as rows of metadata.csv.

folder → the photographs in it, and what was left out → rows, whose identity, group and split follow from the folders.

PHOTOS/ada/1.jpg             animal ada; the group is given, or named as PHOTOS
PHOTOS/lynx/ada/1.jpg        animal ada of the group lynx, where all animals' folders lie in those of groups
PHOTOS/1.jpg                 a query: it is not known which animal it shows
PHOTOS/unknown/1.jpg         the same, and PHOTOS/lynx/unknown/1.jpg: `unknown` is a folder of queries
"""

import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from reid_core.data.animals import NEW, spell_name
from reid_core.data.photographs import extensions, read_date
from reid_core.data.table.columns import COLUMNS, strip_blanks
from reid_core.data.table.dates import day_of
from reid_core.data.table.metadata_file import Row
from reid_core.data.table.values import CONTROL
from reid_core.errors import UserError

QUERY_FOLDERS = ("unknown", "query", "queries")
# Reasons why files are left out.
LINK = "links, which are not followed (--follow-links follows them)"
NOWHERE = "links that lead nowhere"
ALREADY = "folders whose photographs were found already, by another name"
AROUND = "links to a folder that holds the one that is read"
HIDDEN = "hidden: their names begin with a dot"
OTHER = "files of other formats"
NAME = "names that metadata.csv cannot hold"


@dataclass(frozen=True)
class Found:
    """What a folder holds; names are relative to it, with "/" between folders, and sorted."""

    photographs: list[PurePosixPath] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # by reason


def find_photographs(root: Path, *, follow_links: bool = False) -> Found:
    """Find the photographs in a folder and those in it, by the ends of their names; hidden ones are left out.

    Args:
        root: Where they are.
        follow_links: Whether links in it are followed; if not, nothing outside of it is found. A folder is read once,
            by its own name rather than by that of a link to it.

    Raises:
        UserError: If a folder cannot be read.
    """
    search = _Search(root, {root.resolve()}, follow_links=follow_links)
    search.walk(root)
    while search.links:  # after all that is no link
        link = search.links.popleft()
        if search.enters(link):
            search.walk(link)
    search.found.photographs.sort()
    return search.found


@dataclass
class _Search:
    """What a search for photographs has found so far."""

    root: Path
    entered: set[Path]  # folders, without links in their names
    follow_links: bool
    links: deque[Path] = field(default_factory=deque)  # to folders, which are to be followed
    found: Found = field(default_factory=Found)

    def walk(self, start: Path) -> None:
        """Look at a folder, and at those in it that are no links."""
        for place, folders, files in os.walk(start, onerror=_refuse):
            here = Path(place)
            shown = [here / name for name in sorted(folders) if not self._is_hidden(here / name)]
            folders[:] = [folder.name for folder in shown if not self._is_link(folder) and self.enters(folder)]
            for file in (here / name for name in sorted(files)):
                self._take(file)

    def enters(self, folder: Path) -> bool:
        """Whether a folder is one to look at: neither looked at before, nor one that holds the first."""
        place = folder.resolve()
        if place in self.entered or self.root.resolve().is_relative_to(place):
            self._leave_out(ALREADY if place in self.entered else AROUND, folder)
            return False
        self.entered.add(place)
        return True

    def _is_hidden(self, folder: Path) -> bool:
        if folder.name.startswith("."):
            self._leave_out(HIDDEN, folder)
        return folder.name.startswith(".")

    def _is_link(self, folder: Path) -> bool:
        """Whether a folder is a link, which is followed later if links are."""
        if not folder.is_symlink():
            return False
        if self.follow_links:
            self.links.append(folder)
        else:
            self._leave_out(LINK, folder)
        return True

    def _take(self, file: Path) -> None:
        path = PurePosixPath(file.relative_to(self.root))
        if path.name.startswith("."):  # "._1.jpg" is what macOS notes about 1.jpg, and no photograph
            if path.suffix.lower() in extensions() and not path.name.startswith("._"):
                self._leave_out(HIDDEN, file)
            return
        reason = _unfit(file, path, follow_links=self.follow_links)
        if reason is None:
            self.found.photographs.append(path)
        else:
            self._leave_out(reason, file)

    def _leave_out(self, reason: str, path: Path) -> None:
        self.found.left_out.setdefault(reason, []).append(path.relative_to(self.root).as_posix())


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: this folder cannot be read: {error.strerror}") from error


def _unfit(file: Path, path: PurePosixPath, *, follow_links: bool) -> str | None:
    """Why a file is left out."""
    try:
        mode = (file.stat if follow_links else file.lstat)().st_mode
    except OSError:
        return NOWHERE
    if stat.S_ISLNK(mode):
        return LINK
    if not stat.S_ISREG(mode) or path.suffix.lower() not in extensions():
        return OTHER
    return None if is_storable(str(path)) else NAME


def is_storable(name: str) -> bool:
    """Whether metadata.csv can hold a name: it is UTF-8, and has no character that moves the cursor."""
    is_text = not any("\ud800" <= sign <= "\udfff" for sign in name)  # Python's signs for bytes that are not UTF-8
    return is_text and not re.search(CONTROL, name)


def make_rows(
    root: Path,
    photographs: Sequence[PurePosixPath],
    *,
    group: str | None = None,
    query_folders: Collection[str] = QUERY_FOLDERS,
) -> list[Row]:
    """Rows of metadata.csv; image_id is the path, so that a photograph keeps its own when others come and go.

    Args:
        root: Folder of the photographs.
        photographs: Paths in it.
        group: Species group of all of them, whose animals are then the first level of folders, whatever lies in those;
            None: the first level are groups if animals' folders lie in it, else the group is named as `root`.
        query_folders: Names of folders with photographs of unknown animals, in any mixture of capitals.

    Raises:
        UserError: If it is not clear which folders are animals, or what group a query belongs to, or if an animal is
            called `NEW`; names a photograph, and the remedy.
    """
    queries = frozenset(map(fold_name, query_folders))
    tree = _Tree(root, queries, _find_groups(root, photographs, queries) if group is None else None)
    placed = [tree.place(path, group or _normal(root.resolve().name)) for path in photographs]
    return [_make_row(root, path, *place) for path, place in zip(photographs, placed, strict=True)]


def make_query_rows(root: Path, photographs: Sequence[PurePosixPath], group: str) -> list[Row]:
    """Rows as of `make_rows` for photographs that are all to be named, whatever folders they lie in."""
    return [_make_row(root, path, group, "") for path in photographs]


def _make_row(root: Path, path: PurePosixPath, group: str, identity: str) -> Row:
    values = (
        str(path),
        identity,
        str(path),
        _read_day(root / path),
        "",
        "",
        "database" if identity else "query",
        group,
    )
    return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class _Tree:
    """What the levels of folders are."""

    root: Path
    queries: frozenset[str]
    groups: frozenset[str] | None  # the first level; None: the first level are animals

    def place(self, path: PurePosixPath, group: str) -> tuple[str, str]:
        """Group and identity of a photograph; the identity is "" for a query."""
        folders = [_normal(name) for name in path.parent.parts]
        if self.groups is not None and folders and folders[0] in self.groups:
            group, *folders = folders
        elif self.groups is not None:
            return self._group_of_query(path, folders), ""
        if not folders or fold_name(folders[0]) in self.queries:
            return group, ""
        if not strip_blanks(folders[0]):
            raise UserError(f"{self.root / path}: the name of its folder is nothing but blanks; rename the folder")
        if folders[0] == NEW:
            raise UserError(
                f"{self.root / path}: no animal can be called {NEW}, the answer for an unknown one; rename its folder, "
                f"or, if the photographs in it are to be named, give --queries {NEW}"
            )
        return group, folders[0]

    def _group_of_query(self, path: PurePosixPath, folders: list[str]) -> str:
        """Of a query that lies in no group's folder."""
        groups = sorted(self.groups or ())
        inside = [name for name in folders[1:2] if name in groups]
        if not inside and len(groups) > 1:
            raise UserError(
                f"{self.root / path}: it is not clear to which group ({', '.join(groups)}) this photograph belongs; "
                f"move it into a folder such as {self.root / groups[0] / QUERY_FOLDERS[0]}"
            )
        return (inside or groups)[0]


def _find_groups(root: Path, photographs: Sequence[PurePosixPath], queries: frozenset[str]) -> frozenset[str] | None:
    """Names of the first level of folders if animals' folders lie in it, else None."""
    placed = [path for path in photographs if len(path.parts) > 1 and fold_name(path.parts[0]) not in queries]
    flat, nested = ([path for path in placed if (len(path.parts) > 2) == is_deep] for is_deep in (False, True))
    if flat and nested:
        raise UserError(
            f"{root}: it is not clear which folders are animals: {flat[0]} lies one folder deep, {nested[0]} lies "
            f"{len(nested[0].parts) - 1} deep. If each folder in {root} is an animal, give --group NAME, the name of "
            f"their species. If each is a species, move {flat[0]} into the folder of its animal, or into "
            f"{flat[0].parent / QUERY_FOLDERS[0]} if that is unknown"
        )
    if not placed:
        raise UserError(
            f"{root}: there is no folder of an animal. If all photographs are queries, which a model is to name, give "
            "--group NAME, the species group that the model was trained on"
        )
    return frozenset(_normal(path.parts[0]) for path in nested) or None


def _normal(name: str) -> str:
    """Without blanks at the ends, and one spelling of accents: macOS writes them as letters of their own."""
    return spell_name(name) or unicodedata.normalize("NFC", name)


def fold_name(name: str) -> str:
    """A folder's name for comparisons: without capitals, and in one spelling of accents."""
    return _normal(name).casefold()


def _read_day(file: Path) -> str:
    """Day of a photograph as YYYY-MM-DD; "" where it has none, or a camera wrote 0000."""
    return day_of(read_date(file)) or ""
