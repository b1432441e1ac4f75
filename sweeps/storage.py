"""A result folder that is no folder of this machine: S3, or whatever else `pyarrow.fs` reaches.

`--out` URI → `Storage`; files of a working folder ↔ objects below the URI. The objects are the truth. The working folder
is on every node what needs real files: the journal, Ray's sessions, memory-mapped caches.
"""

import errno
import fcntl
import hashlib
import json
import logging
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from reid_core.checksums import CHECKSUMS
from reid_core.config import UserError
from reid_core.escape import escape_line

WAITS_S = (2.0, 8.0, 30.0, 60.0)  # before each further attempt; the S3 client itself tries for about 6 s each time
CHUNK_BYTES = 2**26
OBJECT_STORES = ("s3", "gcs", "abfs")  # there an object appears when it is whole; elsewhere a file grows
SHOWN_OPTIONS = ("allow_delayed_open", "enable_tls", "endpoint_override", "region", "retry_limit_seconds", "scheme")
LEDGER = ".mirror.json"  # in a working folder: what of it the storage has
BUNDLE = "best"  # in a result folder
LOCAL = {"cache", "data", "tune"}  # folders that a sweep makes again
REASONS = (  # pattern of a file system's message, what it means, whether another attempt is useless
    (r"NO_SUCH_BUCKET|[Bb]ucket.*not found|ContainerNotFound", "there is no such bucket", True),
    (
        r"ACCESS_DENIED|PERMISSION_DENIED|Permission denied|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|"
        r"UNAUTHENTICATED|EXPIRED_TOKEN|HTTP status 40[13]",
        "access is denied; credentials are read from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), "
        "from ~/.aws/credentials or from the machine's role, and must allow to list, read, write and delete there",
        True,
    ),
    (r"NETWORK_CONNECTION|[Cc]ould not (connect|resolve)|timed? ?out", "it cannot be reached", False),
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_NAME = re.compile(r"\w[\w.+-]*(?:/\w[\w.+-]*)*")  # no name that leads out of the folder
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A folder on a file system of `pyarrow.fs`. Sent to another process it takes no credentials along.

    Names are relative to the folder, with "/" between folders. Every method tries again for a while, then raises
    UserError; what it replaces, it replaces in one step.
    """

    filesystem: FileSystem
    path: str  # of the folder, as the file system names it: "bucket/prefix"
    uri: str  # for people
    waits_s: tuple[float, ...] = WAITS_S

    def at(self, name: str) -> str:
        """The path of a file or folder, for Ray's `storage_path` and `Checkpoint`; "" is the folder itself."""
        return f"{self.path}/{name}" if name else self.path

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""

        def read() -> bytes | None:
            try:
                with self.filesystem.open_input_file(self.at(name)) as source:
                    return source.read()
            except FileNotFoundError:
                return None

        return self._attempt(f"{name} cannot be read", read)

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file."""
        self._attempt(f"{name} cannot be written", lambda: self._put(name, data))

    def upload(self, file: Path, name: str) -> None:
        """Write a file's content; it must not change meanwhile."""
        with pa.memory_map(str(file)) as content:
            self.write(name, content.read_buffer())

    def download(self, name: str, file: Path) -> None:
        """Fetch a file; its folder is made if needed."""
        part = file.with_name(f"{file.name}.part")

        def fetch() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self.filesystem.open_input_file(self.at(name)) as source:
                source.download(str(part), buffer_size=CHUNK_BYTES)
            part.replace(file)

        try:
            self._attempt(f"{name} cannot be fetched to {file}", fetch)
        finally:
            part.unlink(missing_ok=True)

    def list_files(self, folder: str = "") -> list[str]:
        """Names of all files in a folder and the folders in it; none if there is no such folder."""
        selector = FileSelector(self.at(folder), recursive=True, allow_not_found=True)
        infos = self._attempt(f"{folder or 'it'} cannot be listed", lambda: self.filesystem.get_file_info(selector))
        return sorted(posixpath.relpath(info.path, self.path) for info in infos if info.type == FileType.File)

    def delete(self, name: str) -> None:
        """Delete a file or folder, if it is there."""

        def delete() -> None:
            kind = self.filesystem.get_file_info(self.at(name)).type
            if kind == FileType.Directory:
                self.filesystem.delete_dir(self.at(name))
            elif kind != FileType.NotFound:
                self.filesystem.delete_file(self.at(name))

        self._attempt(f"{name} cannot be deleted", delete)

    def upload_folder(self, folder: Path, name: str) -> None:
        """Make a folder equal to a local one: changed files first, SHA256SUMS last, so that half of it is no folder.

        The local folder gets that file too. Digests of files older than it are taken from it.
        """
        mine, theirs = _digests(folder), self._read_digests(name)
        for each in (each for each in mine if mine[each] != theirs.get(each)):
            self.upload(folder / each, f"{name}/{each}")
        if mine != theirs:
            text = "".join(f"{digest}  {each}\n" for each, digest in sorted(mine.items()))
            _replace(folder / CHECKSUMS, text.encode())
            self.write(f"{name}/{CHECKSUMS}", text.encode())
        for each in theirs.keys() - mine.keys():
            self.delete(f"{name}/{each}")

    def download_folder(self, name: str, folder: Path) -> None:
        """Make a local folder hold what `upload_folder` wrote; what it has is not fetched, what else it has stays.

        Several processes of a node may ask for it: one fetches, the others wait. SHA256SUMS is written last.

        Raises:
            UserError: If the folder is not there, was not written to its end, or a content does not fit its digest.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock")):
            theirs, mine = self._read_digests(name), _digests(folder)
            if not theirs:
                raise UserError(f"{self.uri}: {name} was not written to its end: it has no {CHECKSUMS}")
            for each in (each for each in theirs if mine.get(each) != theirs[each]):
                self.download(f"{name}/{each}", folder / each)
                if _digest_file(folder / each) != theirs[each]:
                    (folder / each).unlink()
                    raise UserError(f"{self.uri}: {name}/{each} is damaged, or is being replaced: see {CHECKSUMS}")
            if any(mine.get(each) != digest for each, digest in theirs.items()) or not (folder / CHECKSUMS).exists():
                self.download(f"{name}/{CHECKSUMS}", folder / CHECKSUMS)

    def _put(self, name: str, data: bytes | pa.Buffer) -> None:
        if self.filesystem.type_name in OBJECT_STORES:
            # In one call: closing the stream publishes what it has, also on the way out of an exception.
            with self.filesystem.open_output_stream(self.at(name)) as target:
                target.write(data)
            return
        part = self.at(f"{name}.part")
        self.filesystem.create_dir(posixpath.dirname(part))
        with self.filesystem.open_output_stream(part) as target:
            target.write(data)
        self.filesystem.move(part, self.at(name))

    def _read_digests(self, name: str) -> dict[str, str]:
        return _parse_digests(f"{self.uri}: {name}/{CHECKSUMS}", self.read(f"{name}/{CHECKSUMS}") or b"")

    def _attempt(self, what: str, action: Callable[[], Result]) -> Result:
        for wait_s in (*self.waits_s, None):
            try:
                return action()
            except OSError as error:
                reason, is_final = _judge(error)
                if wait_s is None or is_final:
                    raise UserError(
                        f"--out {self.uri}: {what}: {reason}; once that is mended, the same command continues"
                    ) from error
                logger.warning("%s: %s: %s; again in %g s", self.uri, what, reason, wait_s)
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A working folder whose results a storage has too. One process writes at a time.

    What was written here and did not arrive is marked as pending until it does; `pull` sends it later.
    """

    storage: Storage
    folder: Path

    def write(self, file: Path, text: str) -> None:
        """Replace a file of the folder, here and then in the storage, each in one step.

        Raises:
            UserError: If it cannot be written here, or the storage cannot be reached; says where the file is safe.
        """
        with self._ledger() as ledger:
            ledger["pending"][self._name(file)] = True
        try:
            _replace(file, text.encode())
        except OSError as error:
            raise UserError(
                f"{file}: cannot be written: {error.strerror}; once it can, the same command continues"
            ) from error
        self.push(file)

    def push(self, *files: Path) -> None:
        """Send files of the folder that the storage does not have as they are now."""
        for file in files:
            name, data = self._name(file), file.read_bytes()
            with self._ledger() as ledger:
                if name not in ledger["pending"] and ledger["sent"].get(name) == _digest(data):
                    continue
                ledger["pending"][name] = True
            try:
                self.storage.write(name, data)
            except UserError as error:
                raise UserError(f"{error}; until then {file} is the newest") from error
            self._settle(name, data)

    def push_all(self) -> None:
        """Send all results, the bundle among them and result.json last; records are sent by `write` alone."""
        names = [file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file()]
        results = [name for name in names if _is_result(name) and not _is_record(name)]
        self.push(*(self.folder / name for name in sorted(results) if name != "result.json"))
        if (self.folder / BUNDLE).is_dir():
            self.storage.upload_folder(self.folder / BUNDLE, BUNDLE)
        self.push(*(self.folder / name for name in results if name == "result.json"))

    def pull(self) -> None:
        """Make the folder's results those of the storage; what is pending here and changed nowhere else is sent.

        Checkpoints and the bundle are not fetched. A file that was deleted in the storage is deleted here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in self.storage.list_files() if _is_result(name)]
        with ThreadPoolExecutor(16) as pool:
            content = dict(zip(there, pool.map(self.storage.read, there), strict=True))
        with self._ledger() as ledger:
            known = {*content, *ledger["sent"], *ledger["pending"]}
        for name in sorted(known):
            self._merge(name, content.get(name))

    def _merge(self, name: str, theirs: bytes | None) -> None:
        file = self.folder / name
        mine = file.read_bytes() if file.is_file() else None
        with self._ledger() as ledger:
            sent, is_pending = ledger["sent"].get(name), name in ledger["pending"]
        if is_pending and mine is not None and mine != theirs:
            if sent == (None if theirs is None else _digest(theirs)):
                return self.push(file)
            kept = file.replace(file.with_name(f"{file.name}.kept"))
            logger.warning("%s: changed here and in %s, which counts; the file is kept as %s", file, self.storage.uri, kept)
        if theirs is None:
            file.unlink(missing_ok=True)
        elif mine is None or not mine.startswith(theirs):  # a log that has grown here since is the newer one
            file.parent.mkdir(parents=True, exist_ok=True)
            _replace(file, theirs)
        self._settle(name, theirs)

    def _settle(self, name: str, data: bytes | None) -> None:
        """Note that the storage has this content."""
        with self._ledger() as ledger:
            ledger["pending"].pop(name, None)
            ledger["sent"] = {**ledger["sent"], name: _digest(data)} if data is not None else _without(ledger["sent"], name)

    @contextmanager
    def _ledger(self) -> Iterator[dict[str, dict[str, Any]]]:
        """`sent`: digest by name of what the storage has; `pending`: names of what it may not have."""
        file = self.folder / LEDGER
        with _locked(file.with_suffix(".lock")):
            before = file.read_text() if file.exists() else '{"sent": {}, "pending": {}}'
            ledger = json.loads(before)
            yield ledger
            after = json.dumps(ledger)
            if after != before:
                _replace(file, after.encode())

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()


def is_uri(text: str) -> bool:
    """Whether `--out` names a storage and no local folder.

    Example:
        >>> is_uri("s3://bucket/runs"), is_uri("runs/demo"), is_uri("/mnt/shared/runs")
        (True, False, False)
    """
    return _SCHEME.match(text) is not None


def show_uri(uri: str) -> str:
    """A URI as it may be printed, written and compared: without user, password and unknown options.

    Example:
        >>> show_uri("s3://KEY:SECRET@bucket/runs/?scheme=http&secret_key=abc&endpoint_override=127.0.0.1:9000")
        's3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http'
    """
    parts = urlsplit(uri)
    options = sorted((key, value) for key, value in parse_qsl(parts.query) if key in SHOWN_OPTIONS)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), urlencode(options, safe=":/"), ""))
