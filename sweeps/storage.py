"""A result folder that is no folder of this machine: S3, or whatever else `pyarrow.fs` reaches. No Ray, no torch.

`--out` URI → `Storage`; files of a working folder ↔ objects below the URI (`Mirror`). The objects are the truth; the
working folder, on every node, is for what needs real files: the journal, Ray's sessions, memory-mapped caches.
"""

import errno
import fcntl
import hashlib
import logging
import os
import posixpath
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from reid_core.checksums import CHECKSUMS, read_sealed, write_sealed
from reid_core.config import UserError
from reid_core.escape import escape_line

WAITS_S = (2.0, 8.0, 30.0, 60.0)  # before each further attempt; the S3 client tries for some seconds each time
CHUNK_BYTES = 2**26
OBJECT_STORES = ("s3", "gcs", "abfs")  # there a file appears when it is whole; elsewhere it grows
SHOWN_OPTIONS = ("allow_delayed_open", "enable_tls", "endpoint_override", "region", "retry_limit_seconds", "scheme")
LEDGER = ".mirror.json"  # in a working folder: what of it the storage has
RESULT = "result.json"  # in a result folder: the last thing that a sweep writes
LEFT_OUT = {"cache", "data", "tune"}  # folders in it that a resumed sweep makes again
REASONS = (  # pattern of a message, what it means, whether another attempt is useless
    (r"NO_SUCH_BUCKET|[Bb]ucket.*not found|ContainerNotFound", "there is no such bucket", True),
    (
        r"ACCESS_DENIED|PERMISSION_DENIED|Permission denied|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|"
        r"UNAUTHENTICATED|EXPIRED_TOKEN|HTTP status 40[13]",
        "access is denied (for S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's "
        "role must allow to list, read, write and delete there)",
        True,
    ),
    (r"NETWORK_CONNECTION|[Cc]ould not (connect|resolve)|[Tt]imed? ?out", "it cannot be reached", False),
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
SAFE_NAME = re.compile(r"\w[\w.+-]*(?:/\w[\w.+-]*)*")  # none that leads out of the folder
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
UNFINISHED = re.compile(r".*\.(part|lock|kept|sha256)")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class StorageError(UserError):
    """The storage cannot be used now: no trial's fault, and the same command may succeed later."""


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


def work_folder(uri: str) -> Path:
    """Where a node works for a storage unless it is told: in the user's cache, one folder per URI."""
    digest = hashlib.blake2b(show_uri(uri).encode(), digest_size=8).hexdigest()
    return Path.home() / ".cache" / "reid-sweeps" / digest


def open_storage(uri: str, *, waits_s: tuple[float, ...] = WAITS_S) -> "Storage":
    """The storage that a URI names; proves that it can be written.

    Args:
        uri: What `pyarrow.fs.FileSystem.from_uri` takes, e.g. s3://bucket/runs?endpoint_override=HOST:PORT&scheme=http.
        waits_s: Before each further attempt of what fails later; here it fails at once.

    Raises:
        UserError: If the URI holds credentials or is none, or the storage cannot be written; says why.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UserError(f"--out: no URI: {error}") from error
    user, _, host = parts.netloc.rpartition("@")
    # A secret key with a "/" in it ends the host part early; what follows the colon of a host is a port.
    if ":" in user or re.search(r":(?!\d+$)", host.rpartition("]")[2]) or (parts.scheme == "s3" and user):
        raise UserError(
            "--out: credentials do not belong in a URI, which is shown and logged; it may have been seen already. "
            "Give them in the environment: for S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    used, shown = uri, show_uri(uri)
    if parts.scheme == "s3" and "allow_delayed_open" not in parts.query:
        used += ("&" if parts.query else "?") + "allow_delayed_open=true"  # a small file is one request, not three
    try:
        filesystem, path = FileSystem.from_uri(used)
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        reason = _judge(error)[0].replace(used, shown)
        raise UserError(f"--out {shown}: {reason}") from error
    if not path.rstrip("/"):
        raise UserError(f"--out {shown}: it names no bucket or folder")
    storage = Storage(filesystem=filesystem, path=path.rstrip("/"), uri=shown, waits_s=())
    storage.write(".writable", b"")
    storage.delete(".writable")
    return replace(storage, waits_s=waits_s)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A folder on a file system of `pyarrow.fs`. Sent to another process it takes no credentials along.

    Names are relative to the folder, with "/" between folders. Every method tries again for a while and then raises
    `StorageError`; what it replaces, it replaces in one step.
    """

    filesystem: FileSystem
    path: str  # of the folder, as the file system names it: "bucket/prefix"
    uri: str  # for people
    waits_s: tuple[float, ...] = WAITS_S

    def at(self, name: str) -> str:
        """The path of a file or folder on the file system, as Ray's `storage_path` and `Checkpoint` want it."""
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
        """Write the content of a local file, which must not change meanwhile."""
        with pa.memory_map(str(file)) as content:
            self.write(name, content.read_buffer())

    def download(self, name: str, file: Path) -> None:
        """Fetch a file; the local folder is made if needed."""
        part = file.with_name(f"{file.name}.part")

        def fetch() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Not `source.download`: it writes in a thread of its own, and an error there (a full disk) is lost.
            with self.filesystem.open_input_file(self.at(name)) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
            part.replace(file)

        try:
            self._attempt(f"{name} cannot be fetched as {file}", fetch)
        finally:
            part.unlink(missing_ok=True)

    def list_files(self, folder: str = "") -> list[str]:
        """Names of all files in a folder and in the folders in it; none if it is not there."""
        selector = FileSelector(self.at(folder), recursive=True, allow_not_found=True)
        infos = self._attempt(f"{folder or 'it'} cannot be listed", lambda: self.filesystem.get_file_info(selector))
        return sorted(posixpath.relpath(info.path, self.path) for info in infos if info.type == FileType.File)

    def delete(self, name: str) -> None:
        """Delete a file or a folder, if it is there."""

        def delete() -> None:
            kind = self.filesystem.get_file_info(self.at(name)).type
            if kind == FileType.Directory:
                self.filesystem.delete_dir(self.at(name))
            elif kind != FileType.NotFound:
                self.filesystem.delete_file(self.at(name))

        self._attempt(f"{name} cannot be deleted", delete)

    def upload_folder(self, folder: Path, name: str) -> None:
        """Make a folder equal to a local one: what differs first, then its checksums, beside it as NAME.sha256.

        The local folder gets that file too, as .NAME.sha256; what is older is taken to be as it says.
        """
        with lock_file(folder.with_name(f".{folder.name}.lock")):
            mine, theirs = _digest_folder(folder), self._read_digests(name)
            for each in sorted(mine, key=lambda each: (each.endswith(CHECKSUMS), each)):  # a bundle's: after the rest
                if mine[each] != theirs.get(each):
                    self.upload(folder / each, f"{name}/{each}")
            if mine != theirs:
                replace_file(_listing(folder), _format_digests(mine))
                self.write(f"{name}.sha256", _format_digests(mine))
            for each in theirs.keys() - mine.keys():
                self.delete(f"{name}/{each}")

    def download_folder(self, name: str, folder: Path) -> None:
        """Make a local folder hold what `upload_folder` wrote; what it has is not fetched, what else it has stays.

        Of several processes of a node that ask for it one fetches, and the others wait. A folder with a SHA256SUMS of
        its own, as Ray uploads a checkpoint, will do too.

        Raises:
            UserError: If the folder is not there or not whole, or a content does not fit its checksum.
        """
        make_folder(folder)
        with lock_file(folder.with_name(f".{folder.name}.lock")):
            theirs, mine = self._read_digests(name), _digest_folder(folder)
            if not theirs:
                raise UserError(f"{self.uri}: {name} is not there, or was not written to its end: no checksums")
            missing = [each for each in theirs if mine.get(each) != theirs[each]]
            for each in missing:
                self.download(f"{name}/{each}", folder / each)
                if _digest_file(folder / each) != theirs[each]:
                    (folder / each).unlink()
                    raise UserError(f"{self.uri}: {name}/{each} does not fit its checksum: damaged, or just replaced")
            if missing or not _listing(folder).exists():
                replace_file(_listing(folder), _format_digests(theirs))

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
        beside = self.read(f"{name}.sha256")
        if beside is not None:
            return _parse_digests(beside)
        inside = self.read(f"{name}/{CHECKSUMS}")
        return {} if inside is None else {**_parse_digests(inside), CHECKSUMS: hashlib.sha256(inside).hexdigest()}

    def _attempt(self, what: str, action: Callable[[], Result]) -> Result:
        for wait_s in (*self.waits_s, None):
            try:
                return action()
            except OSError as error:  # Arrow's too: most have no number, but a text
                reason, is_final = _judge(error)
                told = f"--out {self.uri}: {what}: {reason}"
                if wait_s is None or is_final:
                    raise StorageError(f"{told}; once that is mended, the same command continues") from error
                logger.warning("%s; again in %g s", told, wait_s)
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


def _judge(error: BaseException) -> tuple[str, bool]:
    """What a failure means, in words for people, and whether another attempt is useless."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return os.strerror(number), True
    text = (str(error).splitlines() or [type(error).__name__])[0]
    for pattern, reason, is_final in REASONS:
        if re.search(pattern, text):
            return reason, is_final
    return escape_line(text), isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))


def digest_of(data: bytes | None) -> str | None:
    """SHA-256 of a content, None of no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def _digest_file(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _listing(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.sha256")


def _digest_folder(folder: Path) -> dict[str, str]:
    """Digest of every file by name."""
    listing = _listing(folder)
    listed = _parse_digests(listing.read_bytes()) if listing.exists() else {}
    listed_ns = listing.stat().st_mtime_ns if listing.exists() else 0
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and SAFE_NAME.fullmatch(name) and not UNFINISHED.fullmatch(name):
            is_older = file.stat().st_mtime_ns < listed_ns
            found[name] = (listed.get(name) if is_older else None) or _digest_file(file)
    return found


def _format_digests(digests: dict[str, str]) -> bytes:
    """As `sha256sum` writes them, and checks them from within the folder."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def _parse_digests(text: bytes) -> dict[str, str]:
    """Digest by name, of the lines that name a file below the folder."""
    found = map(_LINE.fullmatch, text.decode(errors="replace").splitlines())
    return {match[2]: match[1] for match in found if match and SAFE_NAME.fullmatch(match[2])}


def replace_file(file: Path, data: bytes) -> None:
    """Write a local file in one step.

    Raises:
        UserError: If it cannot be written.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written: {error.strerror}; once it can, the same command continues"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a local folder, if it is not there.

    Raises:
        UserError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}; --work names another, of every node") from error


@contextmanager
def lock_file(file: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds a file."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A working folder whose results a storage has too. One process at a time writes there.

    What was written here and may not have arrived is noted as pending, and `pull` sends it later.
    """

    storage: Storage
    folder: Path

    def name(self, file: Path) -> str:
        """What a file or folder of the working folder is called in the storage."""
        return file.relative_to(self.folder).as_posix()

    def fetch(self, folder: Path) -> Path:
        """A folder of the working folder (cache, checkpoint) as the storage has it; see `Storage.download_folder`."""
        self.storage.download_folder(self.name(folder), folder)
        return folder

    def write(self, file: Path, text: str) -> None:
        """Replace a file of the folder, here and then in the storage, each in one step.

        Raises:
            UserError: If it cannot be written here, or not there; says where the newest is.
        """
        self._note(file, pending=True)
        replace_file(file, text.encode())
        self.push(file)

    def push(self, file: Path) -> None:
        """Send a file of the folder, unless the storage has it as it is now."""
        data, (sent, is_pending) = file.read_bytes(), self._look(file)
        if sent == digest_of(data) and not is_pending:
            return
        self._note(file, pending=True)
        try:
            self.storage.write(self.name(file), data)
        except StorageError as error:
            raise StorageError(f"{error}; until then the newest is {file}") from error
        self._note(file, pending=False, sent=digest_of(data))

    def push_all(self) -> None:
        """Send all results that the storage has not as they are now: whole bundles first, result.json last."""
        names = [self.name(file) for file in sorted(self.folder.rglob("*")) if file.is_file()]
        bundles = {posixpath.dirname(name) for name in names if name.endswith(f"/{CHECKSUMS}") and _is_result(name)}
        for bundle in sorted(bundles):
            self.storage.upload_folder(self.folder / bundle, bundle)
        results = [name for name in names if _is_result(name) and not _is_below(name, bundles)]
        for name in sorted(results, key=lambda name: name == RESULT):
            self.push(self.folder / name)

    def pull(self) -> None:
        """Make the folder's results those of the storage, after sending what is pending and was changed here only.

        Checkpoints and bundles are not fetched. What was deleted in the storage is deleted here.
        """
        make_folder(self.folder)
        names = self.storage.list_files()
        bundles = {name.removesuffix(".sha256") for name in names if name.endswith(".sha256")}
        there = [name for name in names if _is_result(name) and not _is_below(name, bundles)]
        with ThreadPoolExecutor(16) as pool:
            content = dict(zip(there, pool.map(self.storage.read, there), strict=True))
        with self._ledger() as ledger:
            known = sorted({*content, *ledger["sent"], *ledger["pending"]})
        for name in known:
            self._merge(self.folder / name, content.get(name))

    def _merge(self, file: Path, theirs: bytes | None) -> None:
        mine = file.read_bytes() if file.is_file() else None
        sent, is_pending = self._look(file)
        if is_pending and mine is not None and mine != theirs:
            if sent == digest_of(theirs):
                return self.push(file)
            kept = file.replace(file.with_name(f"{file.name}.kept"))
            logger.warning("%s: changed here and in %s, which counts; mine is now %s", file, self.storage.uri, kept)
            mine = None
        has_grown = file.suffix == ".log" and (mine or b"").startswith(theirs or b"")  # here, since it was sent
        if theirs is not None and not (mine == theirs or has_grown):
            make_folder(file.parent)
            replace_file(file, theirs)
        elif theirs is None and sent is not None:
            file.unlink(missing_ok=True)
        return self._note(file, pending=False, sent=digest_of(theirs))

    def _look(self, file: Path) -> tuple[str | None, bool]:
        """Digest of what the storage has, as far as is known here, and whether a newer one is pending."""
        with self._ledger() as ledger:
            return ledger["sent"].get(self.name(file)), self.name(file) in ledger["pending"]

    def _note(self, file: Path, *, pending: bool, sent: str | None = None) -> None:
        name = self.name(file)
        with self._ledger() as ledger:
            ledger["pending"] = sorted({*ledger["pending"], name} if pending else {*ledger["pending"]} - {name})
            if not pending:
                ledger["sent"] = {**ledger["sent"], name: sent}

    @contextmanager
    def _ledger(self) -> Iterator[dict[str, Any]]:
        """`sent`: digest by name; `pending`: names. A damaged one is forgotten: the storage's files count then."""
        file = self.folder / LEDGER
        with lock_file(file.with_suffix(".lock")):
            try:
                ledger = read_sealed(file)
            except UserError:
                ledger = {"sent": {}, "pending": []}
            before = {**ledger}
            yield ledger
            if ledger != before:
                write_sealed(file, ledger)


def _is_result(name: str) -> bool:
    """Whether a file of a result folder is kept in the storage by `Mirror`; Ray keeps checkpoints there itself."""
    parts = name.split("/")
    if LEFT_OUT & set(parts) or any(part.startswith("checkpoint_") for part in parts):
        return False
    return SAFE_NAME.fullmatch(name) is not None and not UNFINISHED.fullmatch(name)


def _is_below(name: str, folders: set[str]) -> bool:
    return any(str(parent) in folders for parent in PurePosixPath(name).parents)
