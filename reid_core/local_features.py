"""Keypoints and descriptors of every photograph, extracted once per content and kept in Arrow files.

image cache → `LocalFeatures`: keypoints float32 (B, K, 2), descriptors float32 (B, K, D), counts int32 (N,).
Paper §5.1. Letters: N images, B rows asked for, K keypoints per image (fixed; unused ones zero), D descriptor length.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from kornia.feature import ALIKED

from reid_core.config import MatchConfig, UserError
from reid_core.feature_files import (
    DESCRIPTOR_LENGTH,
    FOUND,
    features_table,
    find_parts,
    locate,
    open_index,
    write_index,
    write_part,
)
from reid_core.images import DECODER, ImageCache, MapChunks, count_rows, local_map
from reid_core.weights import file_digest, find_weights, load_weights

ALIKED_URLS = (
    "https://huggingface.co/kornia/aliked/resolve/main/aliked-n16.pth",
    "https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth",
)
# A unit vector times 4000, rounded to integers: any dot product of two such vectors stays below 2**24, so float32
# sums it exactly, in whatever order and batch size, and pair scores come out bit-identical everywhere.
DESCRIPTOR_SCALE = 4000
FEATURES_VERSION = 3  # part of the folder's name: raise it whenever extraction changes
_BATCH_PIXELS = 2**20  # on a GPU; ALIKED needs about 2 kB of activations per pixel


@dataclass(frozen=True)
class Extractor:
    """What decides the features of given pixels."""

    name: str  # sift or aliked
    num_keypoints: int
    weights: str | None = None  # folder of ALIKED's weights, see `aliked_file`
    weights_digest: str | None = None  # whoever extracts must find the same weights

    @classmethod
    def of(cls, config: MatchConfig) -> "Extractor":
        """The extractor of a matcher.

        Raises:
            UserError: If its weights cannot be had.
        """
        name = config.matcher.split("-")[0]
        if name == "sift":
            return cls(name, config.num_keypoints)
        folder = config.weights and str(Path(config.weights).resolve())  # a worker may run in another folder
        return cls(name, config.num_keypoints, folder, file_digest(aliked_file(folder)))


class LocalFeatures:
    """Local features of N images: rows of a table (memory-mapped, or in memory)."""

    def __init__(self, table: pa.Table, row_N: np.ndarray | None = None) -> None:
        """Wrap a table.

        Args:
            table: Columns and schema metadata of `feature_files.features_schema`.
            row_N: Row of each image in the table, -1 for one without features; None: image i is row i.
        """
        self._table = table
        self._row_N = np.arange(table.num_rows) if row_N is None else row_N
        self._is_table = row_N is None
        self.image_px = int(table.schema.metadata[b"image_px"])
        self.num_keypoints = table.schema.field("keypoints").type.list_size // 2  # per image, unused ones included
        count_of_row = np.append(table["num_keypoints"].to_numpy(), np.int32(0))  # the last one is row -1
        self.num_keypoints_N: np.ndarray = count_of_row[self._row_N]
        batches = [batch for batch in table.to_batches() if batch.num_rows]
        self._chunks = [{name: _view(batch[name]) for name in ("keypoints", "descriptors")} for batch in batches]
        self._starts = np.cumsum([0, *(len(chunk["keypoints"]) for chunk in self._chunks)])

    @classmethod
    def open(cls, path: Path) -> "LocalFeatures":
        """Memory-map what `build_features` returned.

        Raises:
            UserError: If a file is missing or cut off.
        """
        return cls(*open_index(Path(path)))

    @classmethod
    def from_arrays(
        cls, num_keypoints_N: np.ndarray, keypoints_NK2: np.ndarray, descriptors_NKD: np.ndarray, *, image_px: int
    ) -> "LocalFeatures":
        """Features from arrays: positions (x, y) in pixels of the squashed image, unit-length descriptors."""
        return cls(features_table(num_keypoints_N, keypoints_NK2, _codes(descriptors_NKD), image_px))

    @classmethod
    def concatenate(cls, parts: Iterable["LocalFeatures"]) -> "LocalFeatures":
        """Images of several sets, one after the other.

        Raises:
            ValueError: If they differ in image size, keypoints per image or descriptor length.
        """
        tables = [part.table for part in parts]
        if any(not table.schema.equals(tables[0].schema, check_metadata=True) for table in tables):
            raise ValueError("local features of different settings cannot be joined")
        return cls(pa.concat_tables(tables))

    def __len__(self) -> int:
        return len(self._row_N)

    @property
    def table(self) -> pa.Table:
        """One row per image, in order; copied where the images lie scattered over files."""
        return self._table if self._is_table else self.select(np.arange(len(self)))._table

    def select(self, rows: np.ndarray) -> "LocalFeatures":
        """The given rows, in that order, as a set of their own, in memory."""
        rows_B = np.asarray(rows, dtype=np.int64)
        arrays = self.num_keypoints_N[rows_B], self.keypoints(rows_B), self.descriptor_codes(rows_B)
        return LocalFeatures(features_table(*arrays, self.image_px))

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
        field = self._table.schema.field(column).type
        shape = (self.num_keypoints, field.list_size // self.num_keypoints)
        found = np.zeros((len(rows_B), *shape), dtype=field.value_type.to_pandas_dtype())
        in_table_B = self._row_N[rows_B]
        chunk_B = np.searchsorted(self._starts, in_table_B, side="right") - 1  # -1 where there are no features
        order = np.argsort(chunk_B, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(chunk_B[order])) + 1):
            if len(at) and (chunk := chunk_B[at[0]]) >= 0:
                values = self._chunks[chunk][column][in_table_B[at] - self._starts[chunk]]
                found[at] = values.reshape(-1, *shape)
        return found


def build_features(
    folder: Path,
    cache: ImageCache,
    config: MatchConfig,
    *,
    map_chunks: MapChunks = local_map,
) -> Path:
    """Extract the local features of every cached image whose features no former call has kept.

    They are kept in parts, each written when it is done: a crash loses no more than the chunks that were under way.

    Args:
        folder: Where features are kept, in a subfolder named after the settings and weights.
        cache: Images; an unreadable one gets no keypoints.
        config: Matcher (which decides the extractor), keypoints per image and weights; its `image_px` is the cache's.
        map_chunks: Applies a function to chunks of row numbers and yields the results in order. Wherever the function
            runs, it must see `folder` and the cache.

    Returns:
        Path of the index of these images, for `LocalFeatures.open`.

    Raises:
        UserError: If the extractor's weights cannot be had, the configuration has no matcher, or the disk is full.
    """
    if config.matcher == "none":
        raise UserError("match.matcher=none uses no local features")
    extractor = Extractor.of(config)
    settings = [
        FEATURES_VERSION,
        extractor.name,
        extractor.num_keypoints,
        extractor.weights_digest,
        DECODER,
        cache.image_px,
    ]
    parts = Path(folder) / f"features-{extractor.name}-{_digest(settings)}"
    keys = [key if error is None else None for key, error in zip(cache.keys, cache.error, strict=True)]
    found = find_parts(parts)
    # absolute paths: a worker process may have another working directory
    extract = partial(
        extract_part, folder=str(parts.resolve()), cache_path=str(cache.path.resolve()), extractor=extractor
    )
    rows = _missing_rows(keys, found)
    if rows:
        tables = count_rows(map_chunks(extract, _in_chunks(rows)), len(rows), f"{extractor.name} keypoints")
        found = pa.concat_tables([found, *(table.cast(FOUND) for table in tables)])
    path = parts / f"index-{_digest(keys)}.arrow"
    write_index(path, locate(keys, found), image_px=cache.image_px, num_keypoints=config.num_keypoints)
    return path


def extract_part(rows: list[int], *, folder: str, cache_path: str, extractor: Extractor) -> pa.Table:
    """Extract the features of some rows of an image cache and keep them; runs in whatever process maps chunks.

    Returns:
        Where they are kept, see `feature_files.find_parts`.
    """
    cv2.setNumThreads(1)  # whoever maps the chunks already uses every core
    cache = ImageCache(Path(cache_path))
    features = extract_features(cache.pixels(rows), extractor)
    return write_part(Path(folder), [cache.keys[row] for row in rows], features)


def extract_features(images_BHWC: np.ndarray, extractor: Extractor) -> pa.Table:
    """Features of images (uint8, RGB, square), each the same whichever images it is extracted with.

    Returns:
        Table for `LocalFeatures`.
    """
    sift = extractor.name == "sift"
    num_images, image_px = images_BHWC.shape[:2]
    count_B = np.zeros(num_images, dtype=np.int32)
    keypoints_BK2 = np.zeros((num_images, extractor.num_keypoints, 2), dtype=np.float32)
    descriptors_BKD = np.zeros((num_images, extractor.num_keypoints, DESCRIPTOR_LENGTH), dtype=np.float32)
    found = _sift(images_BHWC, extractor.num_keypoints) if sift else _aliked(images_BHWC, extractor)
    for i, (keypoints, descriptors) in enumerate(found):
        count_B[i] = len(keypoints)
        keypoints_BK2[i, : len(keypoints)] = keypoints
        descriptors_BKD[i, : len(keypoints)] = descriptors
    return features_table(count_B, keypoints_BK2, _codes(descriptors_BKD), image_px)


def _missing_rows(keys: list[str | None], found: pa.Table) -> list[int]:
    """Rows to extract, one for each content that is nowhere yet."""
    seen, rows = {None, *found["key"].to_pylist()}, []
    for row, key in enumerate(keys):
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def _in_chunks(rows: list[int]) -> list[list[int]]:
    # Few enough images that a crash loses little, few enough files that a process can map them all.
    step = min(max(len(rows) // 256, 16), 128)
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _digest(values: list) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


def aliked_file(folder: str | None) -> Path:
    """The weights file of the ALIKED extractor."""
    return find_weights(folder, "aliked-n16.pth", "aliked-n16.pth", ALIKED_URLS)


@lru_cache(maxsize=2)
def _aliked_model(extractor: Extractor, device: str) -> ALIKED:
    path = aliked_file(extractor.weights)
    if file_digest(path) != extractor.weights_digest:
        raise UserError(f"{path} differs from the weights this run began with")
    # detection_threshold 0: simply the strongest maxima, so that dim photographs get keypoints as well (and a blank
    # one a dozen at its border).
    model = ALIKED("aliked-n16", max_num_keypoints=extractor.num_keypoints, detection_threshold=0)
    load_weights(model, path)
    return model.to(memory_format=torch.channels_last).to(device).eval()  # type: ignore[call-overload]


def _aliked(images_BHWC: np.ndarray, extractor: Extractor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _aliked_model(extractor, device)
    # One size for all batches: the kernels, and with them the last bits, change with it. A CPU gains nothing by more.
    step = 1 if device == "cpu" else max(1, _BATCH_PIXELS // images_BHWC.shape[1] ** 2)
    for i in range(0, len(images_BHWC), step):
        images = images_BHWC[i : i + step]
        fill = ((0, step - len(images)), (0, 0), (0, 0), (0, 0))
        with torch.inference_mode():
            # Channels last, as the photographs lie in memory: a quarter faster on a CPU.
            batch = torch.from_numpy(np.pad(images, fill)).to(device).permute(0, 3, 1, 2) / 255
            results = model(batch)[: len(images)]
        for one in results:
            order = torch.argsort(one.keypoint_scores, descending=True, stable=True)
            yield one.keypoints[order].cpu().numpy(), one.descriptors[order].cpu().numpy()


def _sift(images_BHWC: np.ndarray, num_keypoints: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """RootSIFT (Arandjelović and Zisserman 2012): Hellinger instead of Euclidean comparison of histograms.

    Half of OpenCV's contrast threshold: coats and skins without texture have too few keypoints otherwise.
    """
    # It keeps more where responses are equal at the limit; which of them count is decided below.
    sift = cv2.SIFT_create(nfeatures=num_keypoints, contrastThreshold=0.02)  # type: ignore[attr-defined]
    for image_HWC in images_BHWC:
        points, histograms = sift.detectAndCompute(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), None)
        if not points:
            yield np.zeros((0, 2), np.float32), np.zeros((0, DESCRIPTOR_LENGTH), np.float32)
            continue
        rank = np.array([(-point.response, *point.pt, point.size, point.angle) for point in points])
        strongest = np.lexsort(rank.T[::-1])[:num_keypoints]  # equal responses: by position, size, angle
        histograms = histograms[strongest]
        yield rank[strongest, 1:3], np.sqrt(histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1))


def _codes(descriptors_BKD: np.ndarray) -> np.ndarray:
    return np.rint(descriptors_BKD * DESCRIPTOR_SCALE).astype(np.int16)


def _view(lists: pa.FixedSizeListArray) -> np.ndarray:
    """View (rows, list size) of a fixed-size-list array, without copying."""
    return lists.flatten().to_numpy().reshape(len(lists), -1)
