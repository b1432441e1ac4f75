"""Files that appear whole: a reader, or a crash, sees the old file or the new one, never a part.

content, or Arrow tables → a temporary file beside the place → renamed.
"""

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from reid_core.errors import UserError

LEFTOVER_AGE_S = 3600


def write_arrow(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables to one Arrow file that appears under its name only when it is complete.

    Raises:
        UserError: If the folder cannot be written, or the disk is full. Errors of `tables` pass unchanged.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with _naming_folder(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
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


def _remove_leftovers(path: Path) -> None:
    """Remove what killed builds of this file left; one that is still running has written within the last hour."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE_S:
                leftover.unlink()


@contextlib.contextmanager
def _naming_folder(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot write the cache: {error}") from error


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
        raise UserError(f"{file}: cannot be written: {error.strerror}") from error
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
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which replaces `folder` and all that it held when it is whole."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
