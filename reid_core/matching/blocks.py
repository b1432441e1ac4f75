"""Scoring pairs in blocks of equal shape: few enough images at a time for the device, and few waits for it.

pairs of images + a function that counts the matches of a block → score float32 (P,), NaN where one has no keypoints.
Letters: P pairs, N images, K keypoints per image, D descriptor length.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from reid_core.matching.feature_files import DESCRIPTOR_LENGTH
from reid_core.matching.local_features import LocalFeatures

STEP_KEYPOINTS = 32  # pairs are grouped by their numbers of keypoints in steps of this many
_LOADED_BYTES = 2**30  # of descriptors that are on the device at a time


class PairedImages(NamedTuple):
    """A set of images, and which of them each pair has on this side."""

    features: LocalFeatures
    row_P: np.ndarray  # row in `features`


class Side(NamedTuple):
    """The query image, or the gallery image, of each pair of a block, on the device."""

    codes_PKD: torch.Tensor  # int16, as stored
    keypoints_PK2: torch.Tensor
    image_px: int

    def descriptors_PKD(self) -> torch.Tensor:
        """Unit-length descriptors; a sum of whole numbers below 2**24 has no rounding that a batch could change."""
        codes_PKD = self.codes_PKD.float()
        return codes_PKD / codes_PKD.square().sum(dim=2, keepdim=True).sqrt().clamp(min=1)

    def centred_PK2(self) -> torch.Tensor:
        """Positions from -1 to 1."""
        return (self.keypoints_PK2 - self.image_px / 2) / (self.image_px / 2)


class _LoadedImages:
    """The images that some pairs have on one side, on the device; each once."""

    def __init__(self, features: LocalFeatures, row_P: np.ndarray, device: str) -> None:
        rows_N, index_P = np.unique(row_P, return_inverse=True)
        self.codes_NKD = torch.from_numpy(features.descriptor_codes(rows_N)).to(device)
        self.keypoints_NK2 = torch.from_numpy(features.keypoints(rows_N)).to(device)
        self.index_P = torch.from_numpy(index_P).to(device)
        self.image_px = features.image_px

    def side(self, pairs: slice, used: int) -> Side:
        """Of some of the pairs, with the strongest `used` keypoints of each image."""
        index = self.index_P[pairs]
        codes_PKD = self.codes_NKD[:, :used].index_select(0, index)
        return Side(codes_PKD, self.keypoints_NK2[:, :used].index_select(0, index), self.image_px)


class Block(NamedTuple):
    """Pairs of equal shape that are scored together."""

    pairs: np.ndarray  # positions
    used: tuple[int, int]  # keypoints of query and gallery image that take part


def score_in_blocks(
    count_matches: Callable[[Side, Side], torch.Tensor],
    make_blocks: Callable[[np.ndarray, np.ndarray], Iterator[Block]],
    queries: PairedImages,
    gallery: PairedImages,
    *,
    device: str,
) -> np.ndarray:
    """Score all pairs in blocks; those with an image without keypoints stay NaN.

    Args:
        count_matches: Of a block, from its query and its gallery images; float (number of pairs,).
        make_blocks: Positions of some pairs, and the numbers of keypoints (P, 2) of all → blocks with these pairs.
        queries: Query image of each pair.
        gallery: Gallery image of each pair; features of the same settings.
        device: Where the images are loaded and scored.
    """
    sides = [side._replace(row_P=np.asarray(side.row_P, dtype=np.int64)) for side in (queries, gallery)]
    count_P2 = np.stack([side.features.num_keypoints_N[side.row_P] for side in sides], axis=1).astype(np.int64)
    score_P = np.full(len(count_P2), np.nan, dtype=np.float32)
    max_images = _LOADED_BYTES // (2 * DESCRIPTOR_LENGTH * queries.features.num_keypoints)
    with torch.inference_mode():
        for load in _loads(np.flatnonzero(count_P2.min(axis=1) > 0), sides[0].row_P, sides[1].row_P, max_images):
            blocks = list(make_blocks(load, count_P2))
            pairs = np.concatenate([block.pairs for block in blocks])
            loaded = [_LoadedImages(side.features, side.row_P[pairs], device) for side in sides]
            found, start = [], 0
            for block in blocks:
                here = slice(start, start := start + len(block.pairs))
                block_sides = [images.side(here, used) for images, used in zip(loaded, block.used, strict=True)]
                found.append(count_matches(*block_sides))
            score_P[pairs] = torch.cat(found).cpu().numpy()  # the only wait for the device
    return score_P


def blocks_of_equal_shape(
    pairs: np.ndarray, shape_P2: np.ndarray, block_pairs: Callable[[int, int], int], *, fill: bool = False
) -> Iterator[Block]:
    """Pairs as blocks of equal shape.

    Args:
        pairs: Positions of the pairs.
        shape_P2: Of all pairs, how many keypoints of the query and of the gallery image take part.
        block_pairs: Numbers of keypoints of both images → pairs in a block, at most.
        fill: Repeat the last pair of each shape until its block is full.
    """
    kind = shape_P2[pairs, 0] * 2**32 + shape_P2[pairs, 1]
    order = np.argsort(kind, kind="stable")
    for alike in np.split(pairs[order], np.flatnonzero(np.diff(kind[order])) + 1):
        used = int(shape_P2[alike[0], 0]), int(shape_P2[alike[0], 1])
        step = block_pairs(*used)
        filled = np.pad(alike, (0, -len(alike) % step), "edge") if fill else alike
        yield from (Block(filled[start : start + step], used) for start in range(0, len(filled), step))


def _loads(pairs: np.ndarray, query_P: np.ndarray, gallery_P: np.ndarray, max_images: int) -> Iterator[np.ndarray]:
    """Halve pairs along the side that has more images, until those of each part fit on the device together."""
    num_images = [len(np.unique(rows_P[pairs])) for rows_P in (query_P, gallery_P)]
    if sum(num_images) > max_images and len(pairs) > 1:
        wider_P = query_P if num_images[0] > num_images[1] else gallery_P
        for half in np.array_split(pairs[np.argsort(wider_P[pairs], kind="stable")], 2):
            yield from _loads(half, query_P, gallery_P, max_images)
    elif len(pairs):
        yield pairs
