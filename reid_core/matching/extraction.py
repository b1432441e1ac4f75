"""Local features of every image of a cache, extracted once per content and kept in files.

image cache → keypoints and descriptors in parts → path of an index for `LocalFeatures.open`. Paper §5.1.
"""

import json
from functools import partial
from pathlib import Path

import cv2
import pyarrow as pa

from reid_core.config.parameters import MatchConfig
from reid_core.data.chunks import MapChunks, count_rows, local_map
from reid_core.data.image_cache import DECODER, ImageCache
from reid_core.errors import UserError
from reid_core.files.checksums import digest_of
from reid_core.matching.extractors import Extractor, extract_features
from reid_core.matching.feature_files import FOUND, find_parts, locate, write_index, write_part


def build_features(folder: Path, cache: ImageCache, config: MatchConfig, *, map_chunks: MapChunks = local_map) -> Path:
    """Extract the local features of every cached image whose features no former call has kept.

    They are kept in parts, each written when it is done: a crash loses no more than the chunks that were under way.

    Args:
        folder: Where features are kept, in a subfolder named after the extractor's settings and published weights.
        cache: Images; an unreadable one gets no keypoints.
        config: Matcher (which decides the extractor), keypoints per image, folder of published weights; its `image_px`
            is the cache's.
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
    settings = [*extractor.settings(), DECODER, cache.image_px]
    parts = Path(folder) / f"features-{extractor.name}-{digest_of(json.dumps(settings))}"
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
    path = parts / f"index-{digest_of(json.dumps(keys))}.arrow"
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
