"""A place for results beyond the folders of this machine: S3, or what else `pyarrow.fs` reaches. No Ray, no torch.

`--out` URI → `Storage`: files by name, each replaced in one step. `results/mirror.py` says what of a sweep lies there.
"""

import errno
import logging
import os
import posixpath
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from reid_core.errors import UserError
from reid_core.files.checksums import digest_of
from reid_core.files.escape import escape_line

CONTINUES = "the same command continues"
# Before each further attempt. The S3 client tries for some seconds each time where it is refused, for minutes where it
# gets no answer.
WAITS_S = (2.0, 8.0, 30.0, 60.0)
OBJECT_STORES = ("s3", "gcs", "abfs")  # there a file appears when it is whole; elsewhere it grows
SHOWN_OPTIONS = ("allow_delayed_open", "enable_tls", "endpoint_override", "region", "retry_limit_seconds", "scheme")
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
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class StorageError(UserError):
    """There is no room, or no way to the storage: no trial's fault, and the same command may succeed later."""


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
    """Where a sweep works for a storage unless --work names another folder: in the user's cache, one folder per URI."""
    return Path.home() / ".cache" / "reid-sweeps" / digest_of(show_uri(uri))


def open_storage(uri: str, *, waits_s: tuple[float, ...] = WAITS_S) -> "Storage":
    """The storage that a URI names; proves that it can be written.

    Args:
        uri: What `pyarrow.fs.FileSystem.from_uri` takes, e.g. s3://bucket/runs?endpoint_override=HOST:PORT&scheme=http.
        waits_s: Before each further attempt of what fails later; here it fails at once.

    Raises:
        UserError: If it is not a URI, it holds credentials, or the storage cannot be written; says why.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UserError(f"--out: not a URI: {error}") from error
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
    storage.check()
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

    def check(self) -> None:
        """Prove that it can be written."""
        name = f".writable-{uuid.uuid4().hex}"  # several processes may ask at once
        self.write(name, b"")
        self.delete(name)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""

        def read() -> bytes | None:
            try:
                with self.filesystem.open_input_file(self.at(name)) as source:
                    return source.read()
            except FileNotFoundError:
                return None

        return self._attempt(f"{name} cannot be read", read)

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self._attempt(f"{name} cannot be written", lambda: self._put(name, data))

    def list_files(self, folder: str = "") -> list[str]:
        """Names of all files in a folder and in the folders in it, sorted; none if it is not there."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Size in bytes of all files in a folder and in the folders in it, by name."""
        selector = FileSelector(self.at(folder), recursive=True, allow_not_found=True)
        infos = self._attempt(f"{folder or 'it'} cannot be listed", lambda: self.filesystem.get_file_info(selector))
        return {posixpath.relpath(info.path, self.path): info.size for info in infos if info.type == FileType.File}

    def delete(self, name: str) -> None:
        """Delete a file or a folder, if it is there."""

        def delete() -> None:
            kind = self.filesystem.get_file_info(self.at(name)).type
            if kind == FileType.Directory:
                self.filesystem.delete_dir(self.at(name))
            elif kind != FileType.NotFound:
                self.filesystem.delete_file(self.at(name))

        self._attempt(f"{name} cannot be deleted", delete)

    def _put(self, name: str, data: bytes) -> None:
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

    def _attempt(self, what: str, action: Callable[[], Result]) -> Result:
        for wait_s in (*self.waits_s, None):
            try:
                return action()
            except OSError as error:  # Arrow's too: most have no number, but a text
                reason, is_final = _judge(error)
                message = f"--out {self.uri}: {what}: {reason}"
                if wait_s is None or is_final:
                    raise StorageError(f"{message}; once that is mended, {CONTINUES}") from error
                logger.warning("%s; again in %g s", message, wait_s)
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
