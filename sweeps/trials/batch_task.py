"""What a task of Ray Data does: one plan row in, the pixels of its batch out.

A module of its own, because each of its processes imports it, and none needs a model or Ray Train.
"""

import json
from functools import lru_cache

import numpy as np

from reid_core.config.parameters import AugmentConfig
from reid_core.data.pixel_source import PixelSource
from reid_core.training.augment import Augmenter
from reid_core.training.pixels import make_pixels


@lru_cache(maxsize=2)  # not of all trials that a process serves
def _open_images(image_cache: str, variants: str | None) -> PixelSource:
    return PixelSource.open(image_cache, variants)


@lru_cache(maxsize=2)
def _open_augmenter(config: AugmentConfig) -> Augmenter:
    return Augmenter(config)


def make_batch(
    columns: dict[str, np.ndarray], *, seed: int, image_cache: str, variants: str | None, augment: AugmentConfig | None
) -> dict[str, np.ndarray]:
    """One plan row → one row with its pixels; runs in a Ray Data task."""
    row = {name: values[0] for name, values in columns.items()}
    augmenter = _open_augmenter(augment) if augment else None
    pixels_BHWC, error_B = make_pixels(row, seed, _open_images(image_cache, variants), augmenter)
    return {
        "pixels": pixels_BHWC[None],
        "rows": np.asarray(row["rows"])[None],
        "errors": np.array([json.dumps(error_B) if any(error_B) else ""]),
    }
