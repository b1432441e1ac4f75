"""Keypoints and descriptors of every photograph, extracted once and kept in one Arrow file.

image cache → `LocalFeatures`: keypoints float32 (B, K, 2), descriptors float32 (B, K, D), counts int32 (N,).
Paper §5.1. Letters: N images, B rows asked for, K keypoints per image (fixed; unused ones zero), D descriptor length.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from kornia.feature import ALIKED

from reid_core.config import MatchConfig, UserError
from reid_core.images import DECODER, ImageCache, MapChunks, count_rows, local_map, write_arrow
from reid_core.weights import file_digest, find_weights, load_weights

ALIKED_URLS = (
    "https://huggingface.co/kornia/aliked/resolve/main/aliked-n16.pth",
    "https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth",
)
DESCRIPTOR_LENGTH = 128
# A unit vector times 4000, rounded to integers: any dot product of two such vectors stays below 2**24, so float32
# sums it exactly, in whatever order and batch size, and pair scores come out bit-identical everywhere.
DESCRIPTOR_SCALE = 4000
_FORMAT = 1  # part of the file's name: raise it whenever extraction changes
_CHUNK_IMAGES = 32
_BATCH_PIXELS = 2**20  # ALIKED needs about 2 kB of activations per pixel
logger = logging.getLogger(__name__)


class LocalFeatures:
    """Local features of N images, row by row as in the table they live in (memory-mapped, or in memory)."""

    def __init__(self, table: pa.Table) -> None:
        """Wrap a table with the columns and schema metadata that `build_features` and `from_arrays` write."""
        self.table = table
        self.image_px = int(table.schema.metadata[b"image_px"])
        self.num_keypoints = table.schema.field("keypoints").type.list_size // 2  # per image, unused ones included
        self.num_keypoints_N: np.ndarray = table["num_keypoints"].to_numpy()
        self._chunks = [
            {name: _view(batch[name]) for name in ("keypoints", "descriptors")} for batch in table.to_batches()
        ]
        self._starts = np.cumsum([0, *(len(chunk["keypoints"]) for chunk in self._chunks)])

    @classmethod
    def open(cls, path: Path) -> "LocalFeatures":
        """Memory-map a file written by `build_features`."""
        return cls(pa.ipc.open_file(pa.memory_map(str(path))).read_all())

    @classmethod
    def from_arrays(
        cls, num_keypoints_N: np.ndarray, keypoints_NK2: np.ndarray, descriptors_NKD: np.ndarray, *, image_px: int
    ) -> "LocalFeatures":
        """Features from arrays: positions (x, y) in pixels of the squashed image, unit-length descriptors."""
        return cls(_features_table(num_keypoints_N, keypoints_NK2, descriptors_NKD, image_px))

    @classmethod
    def concatenate(cls, parts: Iterable["LocalFeatures"]) -> "LocalFeatures":
        """Rows of several sets, one after the other, without copying.

        Raises:
            ValueError: If they differ in image size, keypoints per image or descriptor length.
        """
        tables = [part.table for part in parts]
        if any(not table.schema.equals(tables[0].schema, check_metadata=True) for table in tables):
            raise ValueError("local features of different settings cannot be joined")
        return cls(pa.concat_tables(tables))

    def __len__(self) -> int:
        return self.table.num_rows

    def select(self, rows: np.ndarray) -> "LocalFeatures":
        """The given rows, in that order, as a set of their own."""
        return LocalFeatures(self.table.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def keypoints(self, rows: np.ndarray) -> np.ndarray:
        """Positions (x, y) in pixels, strongest keypoint first, zero beyond the count; float32 (B, K, 2)."""
        return self._gather("keypoints", rows)

    def descriptor_codes(self, rows: np.ndarray) -> np.ndarray:
        """Descriptors as stored: int16 (B, K, D), `DESCRIPTOR_SCALE` times a unit vector, zero beyond the count."""
        return self._gather("descriptors", rows)

    def descriptors(self, rows: np.ndarray) -> np.ndarray:
        """Unit-length descriptors, zero beyond the count; float32 (B, K, D)."""
        codes = self.descriptor_codes(rows).astype(np.float32)
        length = np.linalg.norm(codes, axis=2, keepdims=True)
        return codes / np.maximum(length, 1)

    def _gather(self, column: str, rows: np.ndarray) -> np.ndarray:
        rows_B = np.asarray(rows, dtype=np.int64)
        if len(rows_B) and not 0 <= rows_B.min() <= rows_B.max() < len(self):
            raise IndexError(f"rows {rows_B.min()} … {rows_B.max()} of local features of {len(self)} images")
        field = self.table.schema.field(column).type
        shape = (self.num_keypoints, field.list_size // self.num_keypoints)
        found = np.empty((len(rows_B), *shape), dtype=field.value_type.to_pandas_dtype())
        chunk_B = np.searchsorted(self._starts, rows_B, side="right") - 1
        for position, (row, chunk) in enumerate(zip(rows_B, chunk_B, strict=True)):
            found[position] = self._chunks[chunk][column][row - self._starts[chunk]].reshape(shape)
        return found


def build_features(
    folder: Path,
    cache: ImageCache,
    config: MatchConfig,
    *,
    map_chunks: MapChunks = local_map,
) -> Path:
    """Extract the local features of every cached image, unless a file made with the same settings is there.

    Args:
        folder: Where the file is kept. Its name holds a digest of image contents, settings and weights.
        cache: Images; an unreadable one gets no keypoints.
        config: Matcher (which decides the extractor), keypoints per image and weights; its `image_px` is the cache's.
        map_chunks: Applies a function to chunks of row numbers and yields the results in order.

    Returns:
        Path of the Arrow file, for `LocalFeatures.open`.

    Raises:
        UserError: If the extractor's weights cannot be had, or the configuration has no matcher.
    """
    if config.matcher == "none":
        raise UserError("match.matcher=none uses no local features")
    extractor = config.matcher.split("-")[0]
    weights_digest = file_digest(aliked_file(config.weights)) if extractor == "aliked" else None
    settings = [_FORMAT, extractor, config.num_keypoints, weights_digest, DECODER, cache.image_px, cache.keys]
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()
    path = Path(folder) / f"features-{extractor}-{digest}.arrow"
    schema = _schema(cache.image_px, config.num_keypoints)
    if _is_complete(path, schema, len(cache)):
        return path
    chunks = [list(range(i, min(i + _CHUNK_IMAGES, len(cache)))) for i in range(0, len(cache), _CHUNK_IMAGES)]
    extract = partial(  # absolute paths: a worker process may have another working directory
        extract_chunk,
        cache_path=str(cache.path.resolve()),
        extractor=extractor,
        num_keypoints=config.num_keypoints,
        weights=config.weights and str(Path(config.weights).resolve()),
        weights_digest=weights_digest,
    )
    write_arrow(path, count_rows(map_chunks(extract, chunks), len(cache), f"{extractor} keypoints"), schema)
    return path


def extract_chunk(
    rows: list[int],
    *,
    cache_path: str,
    extractor: str,
    num_keypoints: int,
    weights: str | None,
    weights_digest: str | None,
) -> pa.Table:
    """Features of some rows of an image cache, as rows of the features file; runs in whatever process maps chunks."""
    cv2.setNumThreads(1)  # whoever maps the chunks already uses every core
    cache = ImageCache(Path(cache_path))
    readable = [i for i, row in enumerate(rows) if cache.error[row] is None]
    images = cache.pixels(np.array([rows[i] for i in readable], dtype=np.int64))
    found: Iterator[tuple[np.ndarray, np.ndarray]]
    if extractor == "sift":
        found = map(partial(_sift, num_keypoints=num_keypoints), images)
    else:
        found = _aliked(images, num_keypoints, weights, weights_digest)
    count_B = np.zeros(len(rows), dtype=np.int32)
    keypoints_BK2 = np.zeros((len(rows), num_keypoints, 2), dtype=np.float32)
    descriptors_BKD = np.zeros((len(rows), num_keypoints, DESCRIPTOR_LENGTH), dtype=np.float32)
    for i, (keypoints, descriptors) in zip(readable, found, strict=True):
        count_B[i] = len(keypoints)
        keypoints_BK2[i, : len(keypoints)] = keypoints
        descriptors_BKD[i, : len(keypoints)] = descriptors
    return _features_table(count_B, keypoints_BK2, descriptors_BKD, cache.image_px)


def aliked_file(folder: str | None) -> Path:
    """The weights file of the ALIKED extractor."""
    return find_weights(folder, "aliked-n16.pth", "aliked-n16.pth", ALIKED_URLS)


@lru_cache(maxsize=2)
def _aliked_model(weights: str | None, weights_digest: str | None, num_keypoints: int, device: str) -> ALIKED:
    path = aliked_file(weights)
    if file_digest(path) != weights_digest:
        raise UserError(f"{path} differs from the weights this run began with")
    # detection_threshold 0: simply the strongest maxima, so that dim photographs get keypoints as well (and a blank
    # one a dozen at its border).
    model = ALIKED("aliked-n16", max_num_keypoints=num_keypoints, detection_threshold=0)
    load_weights(model, path)
    return model.to(device).eval()


def _aliked(
    images_BHWC: np.ndarray, num_keypoints: int, weights: str | None, weights_digest: str | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _aliked_model(weights, weights_digest, num_keypoints, device)
    step = max(1, _BATCH_PIXELS // images_BHWC.shape[1] ** 2)
    for i in range(0, len(images_BHWC), step):
        with torch.inference_mode():
            batch = torch.from_numpy(images_BHWC[i : i + step]).to(device).permute(0, 3, 1, 2) / 255
            results = model(batch)
        for one in results:
            order = torch.argsort(one.keypoint_scores, descending=True, stable=True)
            yield one.keypoints[order].cpu().numpy(), one.descriptors[order].cpu().numpy()


def _sift(image_HWC: np.ndarray, num_keypoints: int) -> tuple[np.ndarray, np.ndarray]:
    """RootSIFT (Arandjelović and Zisserman 2012): Hellinger instead of Euclidean comparison of histograms.

    Half of OpenCV's contrast threshold: coats and skins without texture have too few keypoints otherwise.
    """
    gray = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT_create(contrastThreshold=0.02)  # type: ignore[attr-defined]
    points, histograms = sift.detectAndCompute(gray, None)
    if not points:
        return np.zeros((0, 2), np.float32), np.zeros((0, DESCRIPTOR_LENGTH), np.float32)
    rank = np.array([(-point.response, *point.pt, point.size, point.angle) for point in points])
    strongest = np.lexsort(rank.T[::-1])[:num_keypoints]  # equal responses: by position, size, angle
    histograms = histograms[strongest]
    return rank[strongest, 1:3], np.sqrt(histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1))


def _is_complete(path: Path, schema: pa.Schema, num_images: int) -> bool:
    try:
        table = LocalFeatures.open(path).table
        return table.num_rows == num_images and table.schema.equals(schema, check_metadata=True)
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException) as problem:
        logger.warning("%s is damaged and is built again: %s", path, problem)
        return False


def _schema(image_px: int, num_keypoints: int, length: int = DESCRIPTOR_LENGTH) -> pa.Schema:
    fields = {
        "num_keypoints": pa.int32(),
        "keypoints": pa.list_(pa.float32(), num_keypoints * 2),
        "descriptors": pa.list_(pa.int16(), num_keypoints * length),
    }
    return pa.schema(fields, metadata={"image_px": str(image_px)})


def _features_table(count_B: np.ndarray, keypoints_BK2: np.ndarray, descriptors_BKD: np.ndarray, px: int) -> pa.Table:
    schema = _schema(px, *descriptors_BKD.shape[1:])
    codes = np.rint(descriptors_BKD * DESCRIPTOR_SCALE).astype(np.int16)
    points, descriptors = (
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)
        for values, kind in ((keypoints_BK2.astype(np.float32), schema.types[1]), (codes, schema.types[2]))
    )
    return pa.table([pa.array(count_B, pa.int32()), points, descriptors], schema=schema)


def _view(lists: pa.FixedSizeListArray) -> np.ndarray:
    """View (rows, list size) of a fixed-size-list array, without copying."""
    return lists.flatten().to_numpy().reshape(len(lists), -1)
