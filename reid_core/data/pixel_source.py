"""Pixels of photographs and of their augmented variants under one numbering.

rows → uint8 pixels (B, H, W, 3), and the content key of each row.

Letters: B rows asked for, H W C height, width, channels.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from reid_core.data.image_cache import ImageCache


class PixelSource:
    """Pixels of photographs and of their extra variants under one numbering: that of a `Pool`."""

    def __init__(self, cache: ImageCache, variants: ImageCache | None = None) -> None:
        self.cache, self.variants = cache, variants

    @classmethod
    def open(cls, image_cache: str, variants: str | None) -> "PixelSource":
        """Map both files; reads no pixels."""
        return cls(ImageCache(Path(image_cache)), ImageCache(Path(variants)) if variants else None)

    def views(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Pixels of some rows where they lie, read-only; numbered as in `pixels`.

        Raises:
            IndexError: If a row is negative or beyond the last.
        """
        num_images = len(self.cache)
        extra = self.variants
        return [
            self.cache.view(row) if extra is None or row < num_images else extra.view(row - num_images)
            for row in np.asarray(rows, dtype=np.int64).tolist()
        ]

    def errors(self, rows: Sequence[int] | np.ndarray) -> list[str | None]:
        """Why a variant is its photograph itself, and None for all that could be augmented."""
        num_images = len(self.cache)
        extra = self.variants.error if self.variants is not None else []
        return [extra[row - num_images] if row >= num_images else None for row in np.asarray(rows).tolist()]

    def pixels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Copy the pixels of some rows, as `ImageCache.pixels`; rows from `len(cache)` on are extra variants.

        Raises:
            IndexError: If a row is negative or beyond the last.
        """
        rows_B = np.asarray(rows, dtype=np.int64)
        extra_B = rows_B >= len(self.cache)
        if self.variants is None or not extra_B.any():
            return self.cache.pixels(rows_B)
        pixels_BHWC = np.empty((len(rows_B), self.cache.image_px, self.cache.image_px, 3), dtype=np.uint8)
        pixels_BHWC[~extra_B] = self.cache.pixels(rows_B[~extra_B])
        pixels_BHWC[extra_B] = self.variants.pixels(rows_B[extra_B] - len(self.cache))
        return pixels_BHWC


def keys_of(source: PixelSource, rows: Iterable[int]) -> list[str]:
    """Digest of the content of each row's image, photograph or variant."""
    num_images = len(source.cache)
    extra = source.variants.keys if source.variants is not None else []
    return [source.cache.keys[row] if row < num_images else extra[row - num_images] for row in rows]
