"""Pairs in blocks of equal shape: few enough images at a time for the device, few waits for it.

pairs of rows + a function that scores a block → score float32 (P,), NaN where an image has no keypoints.
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


class Side(NamedTuple):
    """One image of each pair of a block, on the device."""

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


class _Images:
    """Those images of a set that some pairs need, on the device, and which of them is in which pair."""

    def __init__(self, features: LocalFeatures, rows_P: np.ndarray, device: str) -> None:
        rows_N, index_P = np.unique(rows_P, return_inverse=True)
        self.codes_NKD = torch.from_numpy(features.descriptor_codes(rows_N)).to(device)
        self.keypoints_NK2 = torch.from_numpy(features.keypoints(rows_N)).to(device)
        self.index_P = torch.from_numpy(index_P).to(device)
        self.image_px = features.image_px

    def side(self, pairs: slice, used: int) -> Side:
        index = self.index_P[pairs]
        codes_PKD = self.codes_NKD[:, :used].index_select(0, index)
        return Side(codes_PKD, self.keypoints_NK2[:, :used].index_select(0, index), self.image_px)


class Block(NamedTuple):
    """Pairs of equal shape that are scored together."""

    pairs: np.ndarray
    used: tuple[int, int]  # keypoints of query and gallery image that take part


def score_in_blocks(
    count: Callable[[Side, Side], torch.Tensor],
    make_blocks: Callable[[np.ndarray, np.ndarray], Iterator[Block]],
    query_features: LocalFeatures,
    query_P: np.ndarray,
    gallery_features: LocalFeatures,
    gallery_P: np.ndarray,
    device: str,
) -> np.ndarray:
    """Apply `count` to all pairs in blocks; those with an image without keypoints stay NaN."""
    query_P, gallery_P = np.asarray(query_P, dtype=np.int64), np.asarray(gallery_P, dtype=np.int64)
    sides = (query_features, query_P), (gallery_features, gallery_P)
    count_P2 = np.stack([features.num_keypoints_N[rows_P] for features, rows_P in sides], axis=1).astype(np.int64)
    score_P = np.full(len(query_P), np.nan, dtype=np.float32)
    with torch.inference_mode():
        for load in _loads(np.flatnonzero(count_P2.min(axis=1) > 0), query_P, gallery_P, _max_images(query_features)):
            blocks = list(make_blocks(load, count_P2))
            pairs = np.concatenate([block.pairs for block in blocks])
            queries = _Images(query_features, query_P[pairs], device)
            gallery = _Images(gallery_features, gallery_P[pairs], device)
            found, start = [], 0
            for block in blocks:
                here = slice(start, start := start + len(block.pairs))
                found.append(count(queries.side(here, block.used[0]), gallery.side(here, block.used[1])))
            score_P[pairs] = torch.cat(found).cpu().numpy()  # the only wait for the device
    return score_P


def blocks_of_equal_shape(
    pairs: np.ndarray, shape_P2: np.ndarray, block_pairs: Callable[[int, int], int], *, fill: bool = False
) -> Iterator[Block]:
    """Blocks of equal shape; `fill` repeats the last pair of each shape until its block is full."""
    kind = shape_P2[pairs, 0] * 2**32 + shape_P2[pairs, 1]
    order = np.argsort(kind, kind="stable")
    for alike in np.split(pairs[order], np.flatnonzero(np.diff(kind[order])) + 1):
        used = int(shape_P2[alike[0], 0]), int(shape_P2[alike[0], 1])
        step = block_pairs(*used)
        all_ = np.pad(alike, (0, -len(alike) % step), "edge") if fill else alike
        yield from (Block(all_[start : start + step], used) for start in range(0, len(all_), step))


def _max_images(features: LocalFeatures) -> int:
    return _LOADED_BYTES // (2 * DESCRIPTOR_LENGTH * features.num_keypoints)


def _loads(pairs: np.ndarray, query_P: np.ndarray, gallery_P: np.ndarray, max_images: int) -> Iterator[np.ndarray]:
    """Halve pairs along the side that has more images, until those of each part fit on the device together."""
    num_images = [len(np.unique(rows_P[pairs])) for rows_P in (query_P, gallery_P)]
    if sum(num_images) > max_images and len(pairs) > 1:
        wider_P = query_P if num_images[0] > num_images[1] else gallery_P
        for half in np.array_split(pairs[np.argsort(wider_P[pairs], kind="stable")], 2):
            yield from _loads(half, query_P, gallery_P, max_images)
    elif len(pairs):
        yield pairs
