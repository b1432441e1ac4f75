"""The image cache: every photograph decoded and resized once, for every epoch of every trial.

paths of photographs → one memory-mapped Arrow file of uint8 pixels, one row per image in the order given.
Rows are keyed by the content of the file, so a changed photograph gives another cache.

Letters: B rows asked for, H W C height, width, channels.
"""

import functools
import logging
import math
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.data.chunks import CHUNK_IMAGES, MapChunks, count_rows, local_map
from reid_core.data.photographs import (
    UNREADABLE_KEY,
    content_key,
    file_key,
    has_more_frames,
    open_photograph,
    read_photograph,
    to_square,
)
from reid_core.errors import UserError
from reid_core.files.atomic import write_arrow
from reid_core.files.checksums import digest_of
from reid_core.files.escape import escape_line

SHOWN_LETTERS = 300  # of the reason why an image cannot be read
DECODER = "2"  # part of the file name; raise it when the same photograph gives other pixels than before

logger = logging.getLogger(__name__)


def build_cache(
    folder: Path, root: Path, paths: list[str], image_px: int, *, map_chunks: MapChunks = local_map
) -> Path:
    """Write the image cache, or find the one that a former call wrote.

    Nothing is said of images that cannot be read: `photograph_findings` has words for what the cache holds.

    Args:
        folder: Where the cache is written; made if needed.
        root: Data folder.
        paths: Photographs, relative to `root`.
        image_px: Width and height in pixels of the squares that photographs are squashed to.
        map_chunks: Like `local_map`; its function is a partial of a module-level one and takes a list of paths.

    Returns:
        Path of the Arrow file: `key, error, more_frames, pixels, checksum` (see `ImageCache`), one row per path.

    Raises:
        UserError: If the folder cannot be written, or the disk is full.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        keys = list(pool.map(lambda path: file_key(Path(root, path)), paths))
    name = digest_of("\n".join([DECODER, *keys]))
    path = folder / f"images-{image_px}-{name}.arrow"
    if not is_intact(path, keys, image_px):
        decode = functools.partial(decode_chunk, root=str(root), image_px=image_px)
        chunks = [paths[start : start + CHUNK_IMAGES] for start in range(0, len(paths), CHUNK_IMAGES)]
        write_cache(path, count_rows(map_chunks(decode, chunks), len(paths), f"images {image_px} px"), image_px)
    return path


def cache_schema(image_px: int) -> pa.Schema:
    """Columns of what fills an image cache: content key, error, more_frames (see `ImageCache`), HWC RGB pixels."""
    pixels = pa.list_(pa.uint8(), image_px * image_px * 3)
    return pa.schema({"key": pa.string(), "error": pa.string(), "more_frames": pa.bool_(), "pixels": pixels})


def decode_chunk(paths: list[str], *, root: str, image_px: int) -> pa.Table:
    """Decode photographs to rows of the cache; an unreadable one has zero pixels and the reason in `error`."""
    keys, errors, more_frames = [], [], []
    pixels_BHWC = np.zeros((len(paths), image_px, image_px, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        key, error, more = UNREADABLE_KEY, None, False
        try:
            data = read_photograph(Path(root, path))
            key = content_key(data)
            with open_photograph(data) as image:
                pixels_BHWC[row] = to_square(image, image_px)
                more = has_more_frames(image)
        # Damaged files make decoders raise nearly anything: OSError, ValueError, SyntaxError, struct.error, ...
        except Exception as reason:
            error = escape_line(f"{type(reason).__name__}: {reason}")[:SHOWN_LETTERS]
        keys.append(key)
        errors.append(error)
        more_frames.append(more)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(pixels_BHWC.reshape(-1)), image_px * image_px * 3)
    columns = [pa.array(keys, pa.string()), pa.array(errors, pa.string()), pa.array(more_frames, pa.bool_()), pixels]
    return pa.table(columns, cache_schema(image_px))


def decode_image(data: bytes, image_px: int) -> np.ndarray:
    """Decode an image file's bytes to upright RGB, squashed to a square by bicubic resampling.

    Args:
        data: Content of an image file of one of `photographs.FORMATS`, of any mode.
        image_px: Width and height of the result in pixels.

    Returns:
        Pixels, uint8, shape (image_px, image_px, 3).

    Raises:
        ValueError: If it is not such a file, or has more than `photographs.MAX_PIXELS` pixels.
        Exception: Whatever Pillow raises for a damaged file.
    """
    with open_photograph(data) as image:
        return to_square(image, image_px)


class ImageCache:
    """A memory-mapped image cache; opening it reads no pixels.

    Attributes:
        path: The Arrow file.
        image_px: Width and height of every image in pixels.
        keys: Digest of each photograph's content, hexadecimal; UNREADABLE_KEY where it could not be opened.
        error: Why an image is all zeros, None where it was read.
        more_frames: Whether the file holds other frames or pages than the one that was decoded; None: not asked.
    """

    def __init__(self, path: Path) -> None:
        """Map a file.

        Raises:
            UserError: If it is missing or damaged.
        """
        self.path = Path(path)
        table = _map(path)
        self.image_px = math.isqrt(table.schema.field("pixels").type.list_size // 3)
        self.keys: list[str] = table["key"].to_pylist()
        self.error: list[str | None] = table["error"].to_pylist()
        self.more_frames: list[bool | None] = table["more_frames"].to_pylist()
        shape = (-1, self.image_px, self.image_px, 3)
        self._chunks = [c.flatten().to_numpy().reshape(shape) for c in table["pixels"].chunks if len(c)]
        self._starts = np.cumsum([0, *(len(c) for c in self._chunks)]).tolist()

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple:
        return ImageCache, (self.path,)  # another process maps the file again instead of receiving its pixels

    def view(self, row: int) -> np.ndarray:
        """Pixels of one row where they lie in the file; uint8, shape (image_px, image_px, 3), RGB, read-only.

        Raises:
            IndexError: If the row is negative or beyond the last.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of an image cache of {len(self)}")
        chunk = bisect_right(self._starts, row) - 1
        return self._chunks[chunk][row - self._starts[chunk]]

    def pixels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Copy the pixels of some rows; uint8, shape (B, image_px, image_px, 3), RGB.

        Raises:
            IndexError: If a row is negative or beyond the last.
        """
        rows_B = np.asarray(rows, dtype=np.int64).tolist()
        pixels_BHWC = np.empty((len(rows_B), self.image_px, self.image_px, 3), dtype=np.uint8)
        for position, row in enumerate(rows_B):
            pixels_BHWC[position] = self.view(row)
        return pixels_BHWC


def write_cache(path: Path, tables: Iterable[pa.Table], image_px: int) -> None:
    """Write tables of `cache_schema` as an image cache, each row with its checksum; as `write_arrow`."""
    schema = _file_schema(image_px)
    write_arrow(path, (pa.table([*rows.columns, _checksums(rows)], schema) for rows in tables), schema)


def _file_schema(image_px: int) -> pa.Schema:
    return cache_schema(image_px).append(pa.field("checksum", pa.uint32()))


def _checksums(rows: pa.Table) -> pa.Array:
    """CRC-32 of each row's key, error, more_frames and pixels."""
    pixels_BP = rows["pixels"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
    columns = (rows[name].to_pylist() for name in ("key", "error", "more_frames"))
    texts = map(repr, zip(*columns, strict=True))
    starts = (zlib.crc32(text.encode()) for text in texts)
    return pa.array(map(zlib.crc32, pixels_BP, starts), pa.uint32())


def is_intact(path: Path, keys: list[str], image_px: int) -> bool:
    """Whether a file is a whole image cache with these content keys and every row as it was written; logs damage.

    Reads the whole file, as the photographs themselves are read to see whether they changed.
    """
    if not path.exists():
        return False
    try:
        table = _map(path)
        if table.schema == _file_schema(image_px) and table["key"].to_pylist() == keys and _fits_checksums(table):
            return True
        problem: object = "other rows than expected"
    except UserError as error:
        problem = error
    logger.warning("%s is damaged and is built again: %s", path, problem)
    return False


def _fits_checksums(table: pa.Table) -> bool:
    batches = [pa.Table.from_batches([batch]) for batch in table.to_batches()]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return all(pool.map(lambda batch: _checksums(batch).equals(batch["checksum"].chunk(0)), batches))


def _map(path: Path) -> pa.Table:
    """An image cache as a table; damaged offsets and lengths, which would lead anywhere in memory, are refused."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
        if table["key"].null_count or table["pixels"].null_count or "more_frames" not in table.column_names:
            raise pa.ArrowInvalid("a row without key or pixels, or a file of an earlier version")
        return table
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:  # a name that is not UTF-8 is a ValueError
        raise UserError(f"{path}: this image cache is missing or damaged; give the command again ({error})") from error
