"""Near duplicates: photographs that look almost the same, found by their pixels and by no model.

image cache → `Fingerprints`: a perceptual hash and a small grey copy of each photograph → pairs of rows.

Two photographs are near duplicates if few bits of their hashes differ and their copies agree: the hash finds candidates
in a fraction of a second, the copy decides. Re-encoding, scaling, another brightness and a crop of 2 % at each edge are
seen through; benchmarks/near_duplicates.py measures that. pHash: Zauner, *Implementation and Benchmarking of Perceptual
Image Hash Functions* (2010), bit for bit that of the library ImageHash at a sixth of its time.

Letters: N images, A and B rows of both sides, P pairs, D pixels of the small copy.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from PIL import Image

from reid_core.data.chunks import CHUNK_IMAGES, map_ahead
from reid_core.data.image_cache import ImageCache

GREY_PX = 32  # what the hash is computed from
HASH_PX = 8  # frequencies in each direction, the lowest; one bit each
COPY_PX = 16
MOST_BITS = 12  # of 64 that may differ
LEAST_CORRELATION = 0.9  # of the small copies, whatever their brightness and contrast
LEAST_CONTRAST = 2.0  # standard deviation of 256 grey levels: with less, a photograph is black, or of one colour
BLOCK_ROWS = 256  # that are compared with all others at a time: 60 MB for 15,000 images


@dataclass(frozen=True)
class Fingerprints:
    """What photographs look like. Row i is row i of the image cache."""

    hash_N: np.ndarray  # uint64
    copy_ND: np.ndarray  # float32; mean 0 and length 1, so that a product is a correlation
    uniform_N: np.ndarray  # bool: nothing can be seen, so it is a near duplicate of nothing
    unreadable_N: np.ndarray  # bool: the same

    @property
    def comparable_N(self) -> np.ndarray:
        """Whether there is something to compare; bool."""
        return ~(self.uniform_N | self.unreadable_N)


def take_fingerprints(images: ImageCache) -> Fingerprints:
    """Fingerprints of every photograph; nearly the same whatever the size of the cache's squares."""
    starts, num_threads = range(0, len(images), CHUNK_IMAGES), os.cpu_count() or 1
    blocks = map_ahead(lambda start: _grey(images, start), starts, num_threads=num_threads, num_ahead=num_threads)
    empty = np.empty((0, GREY_PX, GREY_PX), np.uint8)
    return make_fingerprints(np.concatenate([empty, *blocks]), np.array([error is not None for error in images.error]))


def _grey(images: ImageCache, start: int) -> np.ndarray:
    """A chunk of photographs in grey, shrunk to (GREY_PX, GREY_PX); uint8."""
    pixels_BHWC = images.pixels(range(start, min(start + CHUNK_IMAGES, len(images))))
    grey = [Image.fromarray(pixels).convert("L") for pixels in pixels_BHWC]
    return np.stack([np.asarray(image.resize((GREY_PX, GREY_PX), Image.Resampling.BOX)) for image in grey])


def make_fingerprints(grey_NHW: np.ndarray, unreadable_N: np.ndarray) -> Fingerprints:
    """Fingerprints of photographs in grey.

    Args:
        grey_NHW: uint8, shape (N, GREY_PX, GREY_PX).
        unreadable_N: Those that are no photographs; bool.
    """
    num, times = len(grey_NHW), GREY_PX // COPY_PX
    lowest_NF = scipy.fft.dctn(grey_NHW.astype(np.float32), axes=(1, 2))[:, :HASH_PX, :HASH_PX].reshape(num, HASH_PX**2)
    bits_NF = lowest_NF > np.median(lowest_NF, axis=1, keepdims=True)
    copy_NHW = grey_NHW.reshape(num, COPY_PX, times, COPY_PX, times).mean(axis=(2, 4), dtype=np.float32)
    copy_ND = copy_NHW.reshape(num, COPY_PX**2)
    copy_ND -= copy_ND.mean(axis=1, keepdims=True)
    copy_ND /= np.maximum(np.linalg.norm(copy_ND, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return Fingerprints(
        hash_N=np.packbits(bits_NF, axis=1).view(np.uint64).reshape(num),
        copy_ND=copy_ND,
        uniform_N=(grey_NHW.std(axis=(1, 2)) < LEAST_CONTRAST) & ~unreadable_N.astype(bool),
        unreadable_N=unreadable_N.astype(bool),
    )


def near_duplicates(
    fingerprints: Fingerprints, row_A: np.ndarray, row_B: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of near duplicates, block by block, so that memory does not grow with their number.

    Yields:
        Positions in `row_A` and in `row_B`, each of shape (P,). A row that is on both sides is paired with itself.
    """
    row_A, row_B = np.asarray(row_A, dtype=np.int64), np.asarray(row_B, dtype=np.int64)
    for start in range(0, len(row_A), BLOCK_ROWS):
        block = row_A[start : start + BLOCK_ROWS]
        bits_AB = np.bitwise_count(fingerprints.hash_N[block][:, None] ^ fingerprints.hash_N[row_B])
        near_AB = (bits_AB <= MOST_BITS) & np.logical_and.outer(
            fingerprints.comparable_N[block], fingerprints.comparable_N[row_B]
        )
        rows, columns = (np.flatnonzero(near_AB.any(axis=axis)) for axis in (1, 0))
        correlation = fingerprints.copy_ND[block[rows]] @ fingerprints.copy_ND[row_B[columns]].T
        near_AB[np.ix_(rows, columns)] &= correlation >= LEAST_CORRELATION
        found_A, found_B = np.nonzero(near_AB)
        yield found_A + start, found_B


def have_near_duplicate(fingerprints: Fingerprints, row_A: np.ndarray, row_B: np.ndarray) -> np.ndarray:
    """Whether each of some rows has a near duplicate among others; shape (A,), bool."""
    has_A = np.zeros(len(row_A), dtype=bool)
    for found_A, _ in near_duplicates(fingerprints, row_A, row_B):
        has_A[found_A] = True
    return has_A
