"""Offline augmentation: the extra images of a pool, made once, in a file of the image cache's own format.

rows of photographs + variant numbers + seed → Arrow file of uint8 pixels, one row per extra image (paper §3.3).

Letters: E extra images, B rows asked for, H W C height, width, channels.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.config.parameters import AugmentConfig, TrialConfig
from reid_core.data.chunks import CHUNK_IMAGES, MapChunks, count_rows, local_map
from reid_core.data.image_cache import DECODER, ImageCache, cache_schema, is_intact, write_cache
from reid_core.files.checksums import digest_of
from reid_core.training.augment import Augmenter
from reid_core.training.batch_plan import Pool

MAKER = "2"  # part of every key; raise it when the same seed gives other pixels than before


def build_variants(
    folder: Path, cache: ImageCache, pool: Pool, config: TrialConfig, *, map_chunks: MapChunks = local_map
) -> Path | None:
    """Augment the extra images of a pool once, or find the file that a former call wrote.

    It is named after its content: equal photographs, augmentation, seed and variants give the same file.

    Args:
        folder: Where the file is written; made if needed.
        cache: The photographs.
        pool: From `batch_plan.make_pool`, with the number of photographs in `cache`.
        config: Of the trial; `seed` and `augment` are used.
        map_chunks: How the work is spread, as in `image_cache.build_cache`.

    Returns:
        Path of an Arrow file that `ImageCache` opens, row e being extra variant e; None if the pool has none.

    Raises:
        UserError: If the folder cannot be written, or the disk is full.
    """
    num_extra = len(pool.source_E)
    if not num_extra:
        return None
    keys = variant_keys(cache, pool, config)
    digest = digest_of("\n".join(keys))
    path = folder / f"variants-{cache.image_px}-{digest}.arrow"
    if not is_intact(path, keys, cache.image_px):
        augment = functools.partial(
            augment_chunk,
            cache=cache,
            config=config.augment,
            keys=keys,
            source_E=pool.source_E,
            seed_E=variant_seeds(config.seed, pool),
        )
        chunks = [range(start, min(start + CHUNK_IMAGES, num_extra)) for start in range(0, num_extra, CHUNK_IMAGES)]
        tables = count_rows(map_chunks(augment, chunks), num_extra, "augmented variants")
        write_cache(path, tables, cache.image_px)
    return path


def variant_seeds(seed: int, pool: Pool) -> np.ndarray:
    """One seed per extra image, a function of (run seed, photograph's row, variant) only; shape (E,), uint32."""
    pairs = zip(pool.source_E.tolist(), pool.variant_E.tolist(), strict=True)
    # With a spawn key these seeds are never those of the images of a batch (`pixels.augmentation_seeds`).
    sequences = [np.random.SeedSequence([seed, *pair], spawn_key=(2,)) for pair in pairs]
    return np.array([sequence.generate_state(1)[0] for sequence in sequences], dtype=np.uint32)


def variant_keys(cache: ImageCache, pool: Pool, config: TrialConfig) -> list[str]:
    """Digest of everything that the pixels of each extra image depend on."""
    augment = json.dumps(dataclasses.asdict(config.augment), sort_keys=True)
    recipes = zip(pool.source_E.tolist(), variant_seeds(config.seed, pool).tolist(), strict=True)
    texts = ["\0".join([MAKER, DECODER, cache.keys[row], str(seed), augment]) for row, seed in recipes]
    return [digest_of(text, num_bytes=16) for text in texts]


def augment_chunk(
    extras: Sequence[int],
    *,
    cache: ImageCache,
    config: AugmentConfig,
    keys: list[str],
    source_E: np.ndarray,
    seed_E: np.ndarray,
) -> pa.Table:
    """Make some of the extra images; rows of an image cache, `error` being why one is its photograph itself.

    A chunk has its own pipeline: chunks run in threads.
    """
    chosen = np.asarray(extras)
    pixels_BHWC, error_B = Augmenter(config)([cache.view(row) for row in source_E[chosen].tolist()], seed_E[chosen])
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(pixels_BHWC.reshape(-1)), cache.image_px * cache.image_px * 3)
    keys_B, more_frames = pa.array([keys[e] for e in extras], pa.string()), pa.nulls(len(chosen), pa.bool_())
    columns = [keys_B, pa.array(error_B, pa.string()), more_frames, pixels]
    return pa.table(columns, schema=cache_schema(cache.image_px))
