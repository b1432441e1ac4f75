"""The working folder of a sweep whose results a storage keeps. No Ray, no torch.

`--out` URI → a folder of this machine with the results that the storage has (`pull`) → what changed in it is sent
(`push`). The storage is the truth, and loses at most what a killed process had no time to send; the folder is for what
needs real files. Checkpoints do not pass through it: Ray Train keeps them in the storage, where
`trials/checkpoints.py` finds them.
"""

import argparse
import logging
import posixpath
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from reid_core import command
from reid_core.errors import UserError
from reid_core.files.atomic import replace_file
from reid_core.files.checksums import CHECKSUMS, read_sealed, verify_checksums
from reid_core.metrics.result import RESULT
from sweeps.results.result_folder import FINISHED, FURTHER_TRIALS, GROUP_NAMES, GROUPS, SETTINGS, hold_out
from sweeps.results.storage import Storage, open_storage, show_uri, work_folder

MARK = ".storage"  # in a working folder: whose it is
LAST = (CHECKSUMS, RESULT, FINISHED)  # each says that what comes before it is whole
LEFT_OUT = {"cache", "data", "tune"}  # folders whose content a resumed sweep makes again
LEAST_GROWTH = 1.25  # of a log of pairs, until it is sent again: it grows all the time
LARGE_BYTES = 2**20
READERS = 16  # files fetched at a time
_SAFE_NAME = re.compile(r"\w[\w.+-]*(?:/\w[\w.+-]*)*")  # neither outside the folder nor hidden
_IN_A_RESULT_FOLDER = re.compile(rf"({GROUPS}/[^/]+/)?(({'|'.join(FURTHER_TRIALS)})/)?")  # a group may have any name
_UNFINISHED = re.compile(r".*\.(part|lock|tmp)")  # file or folder
Stamp = tuple[int, int]  # time of the last change in ns, size in bytes
logger = logging.getLogger(__name__)


def add_work_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of `open_out` beside `--out`."""
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="with a URI as --out: where the files are that must be real ones (image cache, keypoints); on a cluster "
        "a folder that every node sees (default: one in ~/.cache/reid-sweeps)",
    )


def open_out(options: argparse.Namespace) -> tuple[Path, "Mirror | None"]:
    """The result folder that `--out` names, and if that is a URI the mirror of it, with what the storage has.

    Raises:
        UserError: If one of them cannot be used, another process has the folder, or it is another storage's.
    """
    if not command.is_uri(options.out):
        check_no_work(options)
        return hold_out(command.make_out(Path(options.out))), None
    storage = open_storage(options.out)
    folder = command.make_out(options.work or work_folder(options.out), flag="--work")
    mirror = Mirror(storage=storage, folder=folder)
    mirror.claim()
    hold_out(folder)
    logger.info("results are kept in %s; working in %s", storage.uri, folder)
    mirror.pull()
    return folder, mirror


def check_no_work(options: argparse.Namespace) -> None:
    """Refuse --work where --out is a folder itself.

    Raises:
        UserError: If it is given.
    """
    if options.work is not None:
        raise UserError(f"--work {options.work}: is for an --out that is a URI, as s3://bucket/runs")


def check_work(folder: Path, uri: str) -> None:
    """Find out whether a folder, which need not exist, can be the working folder of a storage; nothing is written.

    Raises:
        UserError: If it holds anything else.
    """
    if folder.is_dir() and not is_marked(folder, uri) and any(not p.name.startswith(".") for p in folder.iterdir()):
        mine = show_uri(uri)
        raise UserError(f"--work {folder}: is not empty, and not the working folder of {mine}; choose another")


def is_marked(folder: Path, uri: str) -> bool:
    """Whether a folder is the working folder of a storage."""
    mark = folder / MARK
    return mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == show_uri(uri)


@contextmanager
def held_marks(options: argparse.Namespace, out: Path) -> Iterator[Path]:
    """A folder with the files that say whose `--out` is: it itself, or for a URI copies of what the storage has.

    Args:
        options: With `out`.
        out: The result folder or the working folder.

    Raises:
        UserError: If the storage cannot be used, or such a file in it is damaged.
    """
    if not command.is_uri(options.out):
        yield out
        return
    storage = open_storage(options.out)
    with tempfile.TemporaryDirectory() as scratch:
        for name in (SETTINGS, GROUP_NAMES):
            file, content = Path(scratch) / name, storage.read(name)
            if content is not None:
                file.write_bytes(content)
                try:
                    read_sealed(file)
                except UserError as error:
                    raise UserError(str(error).replace(str(file), f"{storage.uri}: {name}")) from error
        yield Path(scratch)


@contextmanager
def blame_storage(mirror: "Mirror | None") -> Iterator[None]:
    """Name a lost storage as the cause of whatever fails within because of it.

    Raises:
        StorageError: In place of another error, if the storage cannot be written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception:
        if mirror:
            mirror.storage.check()
        raise


@dataclass(kw_only=True)
class Mirror:
    """A working folder and its storage. One process at a time pulls and pushes: the command itself."""

    storage: Storage
    folder: Path
    sent: dict[str, Stamp] = field(default_factory=dict)  # by name: what the storage has of the folder

    def at(self, path: Path) -> str:
        """Where a file or folder of the working folder is on the storage's file system."""
        return self.storage.at(path.relative_to(self.folder).as_posix())

    def claim(self) -> None:
        """Mark the folder as the working folder of this storage; `pull` deletes what the storage does not have.

        Raises:
            UserError: If the folder holds anything else.
        """
        check_work(self.folder, self.storage.uri)
        replace_file(self.folder / MARK, show_uri(self.storage.uri).encode())

    def pull(self) -> None:
        """Make the results of the folder those of the storage; what is here already is not fetched again."""
        there = {name: size for name, size in self.storage.sizes().items() if is_result(name)}
        for name in self._list().keys() - there.keys():
            (self.folder / name).unlink()
        # A bundle's large files are compared with its checksums, which come first.
        for names in ([n for n in there if n.endswith(CHECKSUMS)], [n for n in there if not n.endswith(CHECKSUMS)]):
            with ThreadPoolExecutor(READERS) as pool:
                list(pool.map(self._fetch, names, [there[name] for name in names]))
        self.sent = {name: stamp for name, stamp in self._list().items() if stamp[1] == there.get(name)}

    def push(self, *, everything: bool = False) -> None:
        """Send what has changed since the last time; what says that other files are there comes after them (`LAST`).

        Args:
            everything: Logs of pairs too that have grown only a little.

        Raises:
            StorageError: If the storage cannot be written for long; what it has is what counts.
            UserError: If the folder is no longer there: nothing in the storage is deleted for that.
        """
        if not is_marked(self.folder, self.storage.uri):
            raise UserError(f"--work {self.folder}: is gone, or was replaced; what {self.storage.uri} has, it keeps")
        here = self._list()
        changed = [name for name, stamp in here.items() if self._is_new(name, stamp, everything=everything)]
        for name in sorted(changed, key=lambda name: (_rank(name), name)):
            with suppress(FileNotFoundError):  # by a trial that begins anew, just now
                self.storage.write(name, (self.folder / name).read_bytes())
                self.sent[name] = here[name]
        for name in self.sent.keys() - here.keys():
            self.storage.delete(name)
            del self.sent[name]

    def _is_new(self, name: str, stamp: Stamp, *, everything: bool) -> bool:
        before = self.sent.get(name)
        if before is None or everything or not name.endswith(".log"):
            return stamp != before
        return stamp[1] >= LEAST_GROWTH * before[1]

    def _fetch(self, name: str, size: int) -> None:
        file = self.folder / name
        if file.exists() and (_is_intact(file) or (name.endswith(".log") and file.stat().st_size >= size)):
            return  # a log of pairs is named by all that its scores depend on: the longer one knows more
        content = self.storage.read(name)
        if content is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, content)

    def _list(self) -> dict[str, Stamp]:
        """The results of the folder, by name."""
        return dict(_list_results(self.folder, self.folder))


def is_result(name: str) -> bool:
    """Whether a file of a result folder is kept in the storage, and by `Mirror`.

    Example:
        >>> is_result("trials/trial-0000.json"), is_result("groups/cache/best/model"), is_result("best/data/x")
        (True, True, True)
        >>> is_result("groups/cache/cache/parts.parquet"), is_result("trials/trial-0000/checkpoint_1/last.safetensors")
        (False, False)
        >>> is_result("../x"), is_result(".x"), is_result("best.part/model.safetensors")
        (False, False, False)
    """
    parts = name.split("/")
    if _IN_A_RESULT_FOLDER.sub("", name).split("/")[0] in LEFT_OUT:
        return False
    if any(part.startswith("checkpoint_") for part in parts):
        return False
    return _SAFE_NAME.fullmatch(name) is not None and not any(map(_UNFINISHED.fullmatch, parts))


def _list_results(root: Path, folder: Path) -> Iterator[tuple[str, Stamp]]:
    for path in folder.iterdir():
        name = path.relative_to(root).as_posix()
        with suppress(FileNotFoundError):  # what is replaced just now counts the next time
            if path.is_dir():
                yield from _list_results(root, path) if is_result(f"{name}/x") else ()
            elif is_result(name):
                about = path.stat()
                yield name, (about.st_mtime_ns, about.st_size)


def _rank(name: str) -> int:
    """When a file is sent: 0 is first."""
    return LAST.index(posixpath.basename(name)) + 1 if posixpath.basename(name) in LAST else 0


def _is_intact(file: Path) -> bool:
    """Whether a large file is the one that the checksums of its bundle name."""
    if file.stat().st_size < LARGE_BYTES:
        return False
    for folder in file.parents:
        if (folder / CHECKSUMS).exists():
            with suppress(UserError):
                verify_checksums(folder, [file.relative_to(folder).as_posix()])
                return True
            return False
    return False
