"""The file of a pair store: batches with a checksum each, appended; it survives a crash at any byte.

batches of image keys and of scored pairs (bytes) → an append-only file, and back.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from reid_core.errors import UserError
from reid_core.files.checksums import digest_of

MAGIC = b"REIDPAIR"
HEADER = struct.Struct("<8s?16sI")  # magic, whether symmetric, hash of the digest, checksum
BATCH_MAGIC = b"\xf1BAT"
BATCH = struct.Struct("<4s4sIII")  # magic, kind, id of the first key, bytes of payload, checksum
KEYS, PAIRS = b"KEYS", b"PAIR"
CHECKSUM_BYTES = 4
logger = logging.getLogger(__name__)


class PairLog:
    """An append-only file: a header, then batches. It is locked while it is open.

    Killing the process at any byte loses at most the batch that was being written; a power failure may lose what the
    system had not written yet.

    Attributes:
        path: The file.
        is_damaged: Whether `read` found damage.
    """

    def __init__(self, path: Path, *, symmetric: bool, digest: str, lock_wait_s: float = 0.0) -> None:
        """Open and lock the file; a new one gets its header.

        Args:
            path: The file; its folder is made if needed.
            symmetric: Whether the score of (a, b) is the score of (b, a); part of the header.
            digest: Digest of the matcher's settings; part of the header.
            lock_wait_s: How long to wait for a process that has the file open.

        Raises:
            UserError: If another process keeps the file open, it cannot be opened, or it has another header.
        """
        self.path = path
        self.is_damaged = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot open the pair store: {error}") from error
        try:
            self._begin(_make_header(symmetric, digest), self._lock(self._file, lock_wait_s))
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        """Unlock and close the file; nothing more is written."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _lock(self, file: int, wait_s: float) -> bytes:
        """Lock the file; its first bytes."""
        until = time.monotonic() + wait_s
        try:
            while not _try_lock(file, last=time.monotonic() >= until):
                time.sleep(0.1)
            return os.pread(file, HEADER.size, 0)
        except BlockingIOError as error:
            message = f"{self.path}: another sweep uses this pair store; wait for its end, or name another folder"
            raise UserError(message) from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot lock and read the pair store: {error}") from error

    def _begin(self, header: bytes, found: bytes) -> None:
        """Accept the header, write one into a new or damaged file, or refuse the file of something else."""
        if found == header:
            return
        is_intact = len(found) == HEADER.size and found.endswith(_checksum(found[:-CHECKSUM_BYTES]))
        if is_intact or not found.startswith(MAGIC[: len(found)]):
            raise UserError(
                f"{self.path}: this is not the pair store of this matcher with these settings; name another folder"
            )
        if found:
            logger.warning("%s: the pair store is damaged; all its pairs are computed again", self.path)
            self._cut(0)
        self._write(header)

    def read(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Intact batches: kind, id of the first key, payload. Damage at the end is cut off; other damage stays."""
        if self._file is None:
            return
        with mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) as data:
            position = end = HEADER.size
            while 0 <= position < len(data):
                batch = _read_batch(data, position)
                if batch:
                    yield batch
                    position = end = position + BATCH.size + len(batch[2])
                else:
                    self.is_damaged = True
                    position = data.find(BATCH_MAGIC, position + 1)
        if self.is_damaged:
            logger.warning("%s: damaged parts of the pair store are left out and computed again", self.path)
            self._cut(end)

    def append(self, kind: bytes, first_id: int, payload: bytes) -> None:
        """Write a batch; if that fails, warn and write no more."""
        start = BATCH.pack(BATCH_MAGIC, kind, first_id, len(payload), 0)[:-CHECKSUM_BYTES]
        self._write(start + _checksum(start + payload) + payload)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        end, left = os.fstat(self._file).st_size, memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            # Later batches may need the keys of this one, so none is written.
            logger.warning("%s: cannot be written (%s); new match scores stay in memory", self.path, error)
            self._cut(end)
            self.close()

    def _cut(self, end: int) -> None:
        with contextlib.suppress(OSError):  # what is damaged is found again, and does no harm
            os.ftruncate(self._file, end)  # type: ignore[arg-type]


def _try_lock(file: int, *, last: bool) -> bool:
    """Lock a file; False if another process has locked it, which is an error the last time."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if last:
            raise
        return False
    return True


def _make_header(symmetric: bool, digest: str) -> bytes:
    hashed = bytes.fromhex(digest_of(digest, num_bytes=16))
    start = HEADER.pack(MAGIC, symmetric, hashed, 0)[:-CHECKSUM_BYTES]
    return start + _checksum(start)


def _read_batch(data: mmap.mmap, position: int) -> tuple[bytes, int, bytes] | None:
    """Kind, id of the first key and payload of the batch at a position; None if there is no intact one."""
    start = data[position : position + BATCH.size]
    if len(start) < BATCH.size:
        return None
    magic, kind, first_id, num_bytes, _ = BATCH.unpack(start)
    payload = data[position + BATCH.size : position + BATCH.size + num_bytes]
    is_intact = start.endswith(_checksum(start[:-CHECKSUM_BYTES] + payload))
    return (kind, first_id, payload) if magic == BATCH_MAGIC and len(payload) == num_bytes and is_intact else None


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")
