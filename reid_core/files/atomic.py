"""Files and folders that appear whole: a reader, or a crash, sees the old one or the new one, never a part.

content, or Arrow tables → a temporary file beside the place → renamed.
"""

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from reid_core.errors import UserError

LEFTOVER_AGE_S = 3600
FULL_DISK = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that there is no room.

    Its text decides: Arrow's errors and our own have no number, and of an exception in another process often nothing
    but a traceback arrives, as the text of another error.
    """
    if error is None:
        return False
    return any(full in str(error) for full in FULL_DISK) or is_full_disk(error.__cause__ or error.__context__)


def _remedy(error: BaseException) -> str:
    return "; make room there, then the same command continues" if is_full_disk(error) else ""


def write_arrow(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables to one Arrow file that appears under its name only when it is complete; several processes may.

    Raises:
        UserError: If the folder cannot be written, or the disk is full. Errors of `tables` pass unchanged.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with _naming_folder(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        sink = pa.OSFile(str(unfinished), "wb")
    try:
        writer = pa.ipc.new_file(sink, schema)
        for table in tables:
            with _naming_folder(path.parent):
                writer.write_table(table)
        with _naming_folder(path.parent):
            writer.close()
            sink.close()
            unfinished.replace(path)
    finally:
        sink.close()
        unfinished.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what killed calls of `write_arrow` left; one that is still running has written within the last hour.

    Args:
        folder: Of the file.
        name: Of the file, or a pattern for the names of several.
    """
    for leftover in folder.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE_S:
                leftover.unlink()


@contextlib.contextmanager
def _naming_folder(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot write the cache: {error}{_remedy(error)}") from error


@contextlib.contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """The place where a file is to be written, which replaces the file when it is whole.

    A reader, or a crash, sees the old file or the new one. An error leaves the old one, and nothing beside it.

    Raises:
        UserError: If it cannot be written.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        reason = error.strerror or error  # Arrow's have a text only
        raise UserError(f"{file}: cannot be written: {reason}{_remedy(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def replace_file(file: Path, content: bytes) -> None:
    """Write a file in one step (`new_file`).

    Raises:
        UserError: If it cannot be written.
    """
    with new_file(file) as part:
        part.write_bytes(content)


@contextlib.contextmanager
def new_folder(folder: Path, *, unless: Callable[[], bool] | None = None) -> Iterator[Path]:
    """An empty folder to fill, which replaces `folder` and all that it held when it is whole.

    An error leaves the old folder, and nothing beside it. Errors of what fills it pass unchanged, but for a full disk.

    Args:
        folder: Its parents are made if needed.
        unless: For a folder that several processes may write at once, each in a place of its own: whether the one that
            is there by now will do. Then it stays, and the new one is dropped.

    Raises:
        UserError: If no folder can be made there, or the disk is full.
    """
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part" if unless else f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}{_remedy(error)}") from error
    try:
        yield part
        if unless is None or not unless():
            _exchange(part, folder, unless)
    except Exception as error:
        if isinstance(error, UserError) or not is_full_disk(error):
            raise
        raise UserError(f"{folder}: cannot be written: {FULL_DISK[0]}{_remedy(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _exchange(part: Path, folder: Path, unless: Callable[[], bool] | None) -> None:
    """Give a folder the name of another one, which is removed only then."""
    old = part.with_name(f"{part.stem}.old.part")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    try:
        part.replace(folder)
    except OSError:
        if unless is None or not unless():  # otherwise another process was faster
            if old.exists():
                old.replace(folder)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
