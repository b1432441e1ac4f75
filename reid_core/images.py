"""The image cache: every photograph decoded and resized once, for every epoch of every trial.

paths of photographs → one memory-mapped Arrow file of uint8 pixels, one row per image in the order given.
Rows are keyed by the content of the file, so a changed photograph gives another cache.

Letters: B rows asked for, H W C height, width, channels.
"""

import contextlib
import functools
import hashlib
import io
import logging
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from tqdm import tqdm

from reid_core.config import UserError

MAX_PIXELS = 200_000_000  # a larger image is refused from its header: decoding it could take all memory
UNREADABLE_KEY = "0" * 32
CHUNK_IMAGES = 64  # 28 MB of pixels at 384 px
LEFTOVER_AGE_S = 3600
DECODER = "1"  # part of the file name; raise it when the same photograph gives other pixels than before

MapChunks = Callable[[Callable[[Any], pa.Table], Sequence[Any]], Iterator[pa.Table]]
logger = logging.getLogger(__name__)


def local_map(function: Callable[[Any], pa.Table], chunks: Sequence[Any]) -> Iterator[pa.Table]:
    """Apply a function to chunks in threads; results come in the order of the chunks, few are held at a time."""
    num_threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(num_threads)
    pending: deque = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(function, chunk))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def build_cache(
    folder: Path, root: Path, paths: list[str], image_px: int, *, map_chunks: MapChunks = local_map
) -> Path:
    """Write the image cache, or find the one that a former call wrote; images that cannot be read are logged.

    Args:
        folder: Where the cache is written; made if needed.
        root: Data folder.
        paths: Photographs, relative to `root`.
        image_px: Width and height in pixels of the squares that photographs are squashed to.
        map_chunks: Like `local_map`; its function is a partial of a module-level one and takes a list of paths.

    Returns:
        Path of the Arrow file: `key, error, pixels` (see `ImageCache`), one row per path.

    Raises:
        UserError: If the folder cannot be written, or the disk is full.
    """
    keys = _hash_files(root, paths)
    digest = hashlib.blake2b("\n".join([DECODER, *keys]).encode(), digest_size=8).hexdigest()
    path = folder / f"images-{image_px}-{digest}.arrow"
    if not is_intact(path, keys, image_px):
        decode = functools.partial(decode_chunk, root=str(root), image_px=image_px)
        chunks = [paths[start : start + CHUNK_IMAGES] for start in range(0, len(paths), CHUNK_IMAGES)]
        write_arrow(
            path, count_rows(map_chunks(decode, chunks), len(paths), f"images {image_px} px"), cache_schema(image_px)
        )
    _warn_of_unreadable(ImageCache(path), root, paths)
    return path


def cache_schema(image_px: int) -> pa.Schema:
    """Columns of the image cache: content key, error (null when readable), HWC RGB pixels."""
    pixels = pa.list_(pa.uint8(), image_px * image_px * 3)
    return pa.schema([("key", pa.string()), ("error", pa.string()), ("pixels", pixels)])


def decode_chunk(paths: list[str], *, root: str, image_px: int) -> pa.Table:
    """Decode photographs to rows of the cache; an unreadable one has zero pixels and the reason in `error`."""
    keys, errors = [], []
    pixels_BHWC = np.zeros((len(paths), image_px, image_px, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        key, error = UNREADABLE_KEY, None
        try:
            data = Path(root, path).read_bytes()
            key = hashlib.blake2b(data, digest_size=16).hexdigest()
            pixels_BHWC[row] = decode_image(data, image_px)
        # Damaged files make decoders raise nearly anything: OSError, ValueError, SyntaxError, struct.error, ...
        except Exception as reason:
            error = f"{type(reason).__name__}: {reason}"
        keys.append(key)
        errors.append(error)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(pixels_BHWC.reshape(-1)), image_px * image_px * 3)
    return pa.table([pa.array(keys, pa.string()), pa.array(errors, pa.string()), pixels], cache_schema(image_px))


def decode_image(data: bytes, image_px: int) -> np.ndarray:
    """Decode an image file's bytes to upright RGB, squashed to a square by bicubic resampling.

    Args:
        data: Content of an image file of any format and mode that Pillow reads.
        image_px: Width and height of the result in pixels.

    Returns:
        Pixels, uint8, shape (image_px, image_px, 3).

    Raises:
        ValueError: If the image is empty or has more than MAX_PIXELS pixels.
        Exception: Whatever Pillow raises for a damaged file.
    """
    if not data:
        raise ValueError("the file is empty")
    # Pillow refuses at twice this number and warns above it; its own default (89 million) would refuse panoramas.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
        return to_square(image, image_px)


def to_square(image: Image.Image, image_px: int) -> np.ndarray:
    """An opened photograph as the cache keeps it: upright RGB, squashed to a square by bicubic resampling.

    Returns:
        Pixels, uint8, shape (image_px, image_px, 3).
    """
    image.draft("RGB", (2 * image_px, 2 * image_px))  # JPEG only: decodes at 1/2, 1/4, 1/8, never below this size
    upright = _to_rgb(ImageOps.exif_transpose(image))
    return np.asarray(upright.resize((image_px, image_px), Image.Resampling.BICUBIC))


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bit scaled, not clipped; transparent pixels white, as viewers show them."""
    if image.mode.startswith("I"):  # 16-bit grayscale is I;16, or I in some formats
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
        peak = float(values.max())
        scale = 255 if peak <= 1 else min(1, 255 / peak)
        image = Image.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


class ImageCache:
    """A memory-mapped image cache; opening it reads no pixels.

    Attributes:
        path: The Arrow file.
        image_px: Width and height of every image in pixels.
        keys: Digest of each photograph's content, hexadecimal; UNREADABLE_KEY where it could not be opened.
        error: Why an image is all zeros, None where it was read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        table = reader.read_all()
        self.image_px = math.isqrt(table.schema.field("pixels").type.list_size // 3)
        self.keys: list[str] = table["key"].to_pylist()
        self.error: list[str | None] = table["error"].to_pylist()
        shape = (-1, self.image_px, self.image_px, 3)
        self._chunks = [c.flatten().to_numpy().reshape(shape) for c in table["pixels"].chunks if len(c)]
        self._starts = np.cumsum([0, *(len(c) for c in self._chunks)])

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple:
        return ImageCache, (self.path,)  # another process maps the file again instead of receiving its pixels

    def pixels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Copy the pixels of some rows; uint8, shape (B, image_px, image_px, 3), RGB.

        Raises:
            IndexError: If a row is negative or beyond the last.
        """
        rows_B = np.asarray(rows, dtype=np.int64)
        if len(rows_B) and not 0 <= rows_B.min() <= rows_B.max() < len(self):
            raise IndexError(f"rows {rows_B.min()} … {rows_B.max()} of an image cache of {len(self)}")
        pixels_BHWC = np.empty((len(rows_B), self.image_px, self.image_px, 3), dtype=np.uint8)
        chunk_B = np.searchsorted(self._starts, rows_B, side="right") - 1
        for position, (row, chunk) in enumerate(zip(rows_B, chunk_B, strict=True)):
            pixels_BHWC[position] = self._chunks[chunk][row - self._starts[chunk]]
        return pixels_BHWC


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


def _hash_files(root: Path, paths: list[str]) -> list[str]:
    def hash_file(path: str) -> str:
        try:
            with Path(root, path).open("rb") as file:
                return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError:
            return UNREADABLE_KEY

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(hash_file, paths))


def is_intact(path: Path, keys: list[str], image_px: int) -> bool:
    """Whether a file is a whole image cache with these content keys; a damaged one is told."""
    if not path.exists():
        return False
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if table.schema.equals(cache_schema(image_px)) and table["key"].to_pylist() == keys:
            return True
        problem: object = "other rows than expected"
    except (OSError, pa.ArrowException) as error:
        problem = error
    logger.warning("%s is damaged and is built again: %s", path, problem)
    return False


def count_rows(tables: Iterable[pa.Table], num_rows: int, what: str) -> Iterator[pa.Table]:
    """Pass tables on under a progress bar; a chunk that got lost on its way is an error, not a shorter file."""
    num_returned = 0
    with tqdm(total=num_rows, desc=what, unit="image", disable=None) as bar:
        for table in tables:
            num_returned += table.num_rows
            bar.update(table.num_rows)
            yield table
    if num_returned != num_rows:
        raise RuntimeError(f"{what}: {num_returned} of {num_rows} images came back")


def _warn_of_unreadable(cache: ImageCache, root: Path, paths: list[str]) -> None:
    unreadable = [f"{path} ({error})" for path, error in zip(paths, cache.error, strict=True) if error is not None]
    if unreadable:
        more = ", ..." if len(unreadable) > 3 else ""
        first = ", ".join(unreadable[:3])
        logger.warning("%s: %d of %d images cannot be read: %s%s", root, len(unreadable), len(paths), first, more)
