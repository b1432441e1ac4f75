"""Local match score of pairs of photographs: mutual nearest neighbours, or LightGlue.

two `LocalFeatures` and pairs of rows → score float32 (P,), larger is more alike, NaN where an image has no keypoints.
Paper §5.1. Letters: P pairs, N images, K keypoints per image, D descriptor length, A query and B gallery keypoints.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from kornia.feature import LightGlue

from reid_core.config import MatchConfig
from reid_core.images import DECODER
from reid_core.local_features import (
    DESCRIPTOR_LENGTH,
    DESCRIPTOR_SCALE,
    FEATURES_VERSION,
    Extractor,
    LocalFeatures,
)
from reid_core.weights import file_digest, find_weights, load_weights

LIGHTGLUE_URLS = (
    "https://huggingface.co/kornia/lightglue/resolve/main/aliked_lightglue.pth",
    "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/aliked_lightglue.pth",
)
_SAME = DESCRIPTOR_SCALE**2  # dot product of a stored descriptor with itself
SYMMETRIC = ("sift-mnn", "aliked-mnn")  # matchers whose score does not depend on which image is the query
SCORE_VERSION = 1  # raise it whenever a score of the same two photographs changes
_PRECISION = {"cpu": torch.float32, "cuda": torch.float16}  # of LightGlue
_STEP_KEYPOINTS = 32  # pairs are grouped by their numbers of keypoints in steps of this many
_LOADED_BYTES = 2**30  # of descriptors that are on the device at a time
# What told same from different best on dogs, cows and pigs; ALIKED's second nearest lie closer to the nearest.
_LARGEST_RATIO = {"sift-mnn": 0.75, "aliked-mnn": 0.925}


class Matcher(Protocol):
    """Scores pairs of photographs by their local features."""

    def scores(
        self,
        query_features: LocalFeatures,
        query_P: np.ndarray,
        gallery_features: LocalFeatures,
        gallery_P: np.ndarray,
    ) -> np.ndarray:
        """Score pairs.

        Args:
            query_features: Features of the query images; may be the same object as `gallery_features`.
            query_P: Row of each pair's query in `query_features`; shape (P,).
            gallery_features: Features of the gallery images, extracted with the same settings.
            gallery_P: Row of each pair's gallery image in `gallery_features`; shape (P,).

        Returns:
            Number of matching keypoints, float32 (P,); NaN where either image has no keypoints: not scored. A pair's
            score depends on nothing but its two images.
        """


def make_matcher(config: MatchConfig, *, device: str = "cpu") -> Matcher | None:
    """The matcher that a configuration names, or None for `none`.

    Raises:
        UserError: If LightGlue's weights cannot be had.
    """
    if config.matcher == "none":
        return None
    if config.matcher == "aliked-lightglue":
        return LightGlueMatcher(load_lightglue(config.weights), device=device)
    return MutualNearestNeighbours(_LARGEST_RATIO[config.matcher], device=device)


def score_settings(config: MatchConfig, *, device: str = "cpu") -> dict[str, Any]:
    """All that a score depends on beside the two photographs: what names a store of scores.

    Args:
        config: The matcher and its settings.
        device: Where it scores: LightGlue's precision depends on it.

    Raises:
        UserError: If weights that are part of it cannot be had.
    """
    extractor = Extractor.of(config)
    settings = {
        "version": SCORE_VERSION,
        "matcher": config.matcher,
        "image_px": config.image_px,
        "decoder": DECODER,
        "extractor": [FEATURES_VERSION, extractor.name, extractor.num_keypoints, extractor.weights_digest],
    }
    if config.matcher == "aliked-lightglue":
        precision = str(_PRECISION[torch.device(device).type])
        return settings | {"lightglue": file_digest(lightglue_file(config.weights)), "precision": precision}
    return settings | {"largest_ratio": _LARGEST_RATIO[config.matcher]}


class MutualNearestNeighbours:
    """Counts pairs of keypoints that are each other's nearest neighbour, and clearly nearer than the second nearest.

    Both sides must pass, so a score does not depend on which image is the query. Stored descriptors are whole numbers
    whose dot products float32 holds exactly, so it does not depend on batch size, order or device either.
    """

    def __init__(self, largest_ratio: float, *, device: str = "cpu", block_pairs: int | None = None) -> None:
        """Set the rule.

        Args:
            largest_ratio: Bound of distance to the nearest / distance to the second nearest descriptor, in (0, 1).
                Where there is no second, a descriptor at right angles stands in for it.
            device: Where the products are computed.
            block_pairs: Pairs at a time, None for what suits the device; bounds memory, changes no score.
        """
        self.largest_ratio = largest_ratio
        self.device = device
        self.block_pairs = block_pairs

    def scores(
        self,
        query_features: LocalFeatures,
        query_P: np.ndarray,
        gallery_features: LocalFeatures,
        gallery_P: np.ndarray,
    ) -> np.ndarray:
        """See `Matcher.scores`."""

        def count(query: _Side, gallery: _Side) -> torch.Tensor:
            return self._count(query.codes_PKD.float() @ gallery.codes_PKD.float().transpose(1, 2))

        with _exact_products():
            return _score(count, self._make_blocks, query_features, query_P, gallery_features, gallery_P, self.device)

    def _make_blocks(self, pairs: np.ndarray, count_P2: np.ndarray) -> Iterator["_Block"]:
        shape_P2 = -(-count_P2 // _STEP_KEYPOINTS) * _STEP_KEYPOINTS  # unused keypoints are zero and match nothing
        block_products = 2**18 if self.device == "cpu" else 2**25  # 1 MB stays in a core's cache; 128 MB fill a GPU
        return _of_equal_shape(pairs, shape_P2, lambda a, b: self.block_pairs or max(1, block_products // (a * b)))

    def _count(self, similarity_PAB: torch.Tensor) -> torch.Tensor:
        # In float32 throughout: on a CPU, comparing into booleans and summing those takes five times as long.
        reaches, alone = [], []
        for dim in (1, 2):
            best = similarity_PAB.amax(dim, keepdim=True)
            # The squared distance of unit vectors is 2 - 2 * similarity. Only the nearest may reach this similarity.
            # Times the inverse: dividing by a number is rounded differently on a GPU.
            enough = _SAME - (_SAME - best).clamp(min=0) * self.largest_ratio**-2
            reaches_PAB = torch.ge(similarity_PAB, enough, out=torch.empty_like(similarity_PAB))
            alone.append(((reaches_PAB.sum(dim, keepdim=True) == 1) & (enough > 0)).float())
            reaches.append(reaches_PAB)
        both_PAB = reaches[0].mul_(reaches[1])
        return (alone[1].transpose(1, 2) @ both_PAB @ alone[0].transpose(1, 2)).flatten()


class LightGlueMatcher:
    """Counts LightGlue's matches with confidence above 0.5; float16 on a GPU.

    LightGlue has no mask for unused keypoints, so a batch holds pairs of equal counts only. To have few different
    counts, an image with more than 32 keypoints takes part with the strongest 32, 64, 96, ... of them.
    """

    def __init__(self, model: LightGlue, *, device: str = "cpu", block_pairs: int | None = None) -> None:
        """Hold the network; `block_pairs` defaults to one on a CPU, where larger batches gain nothing, else 32."""
        self.model = model.to(device)
        self.device = device
        self.block_pairs = block_pairs or (1 if device == "cpu" else 32)

    def scores(
        self,
        query_features: LocalFeatures,
        query_P: np.ndarray,
        gallery_features: LocalFeatures,
        gallery_P: np.ndarray,
    ) -> np.ndarray:
        """See `Matcher.scores`."""
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype=_PRECISION[kind], enabled=kind == "cuda"):
            return _score(
                self._count, self._make_blocks, query_features, query_P, gallery_features, gallery_P, self.device
            )

    def _make_blocks(self, pairs: np.ndarray, count_P2: np.ndarray) -> Iterator["_Block"]:
        many = count_P2 > _STEP_KEYPOINTS
        shape_P2 = np.where(many, count_P2 // _STEP_KEYPOINTS * _STEP_KEYPOINTS, count_P2)
        # The kernels, and with them the last bits, change with the batch size: every block is full.
        return _of_equal_shape(pairs, shape_P2, lambda *_: self.block_pairs, fill=True)

    def _count(self, query: "_Side", gallery: "_Side") -> torch.Tensor:
        """The network's own layers without its checks and lists of matches, which wait for the device pair by pair."""
        descriptors = [self.model.input_proj(side.descriptors_PKD()) for side in (query, gallery)]
        positions = [self.model.posenc(side.centred_PK2()) for side in (query, gallery)]
        for layer in self.model.transformers:
            descriptors = layer(*descriptors, *positions)
        log_confidence_PAB, _ = self.model.log_assignment[-1](*descriptors)  # and one row and column for "no match"
        # A confidence is at most the smaller of two shares, of its row and of its column: above half is mutual.
        return (log_confidence_PAB[:, :-1, :-1].exp() > 0.5).sum(dim=(1, 2)).float()


def lightglue_file(folder: str | None) -> Path:
    """The weights file of LightGlue for ALIKED."""
    return find_weights(folder, "aliked_lightglue.pth", "aliked_lightglue_v0-1_arxiv-pth", LIGHTGLUE_URLS)


def load_lightglue(folder: str | None) -> LightGlue:
    """LightGlue with its ALIKED weights, without early exit and pruning: those make a pair depend on its batch.

    Raises:
        UserError: If the weights cannot be had or are of another network.
    """
    path = lightglue_file(folder)
    settings = {"input_dim": 128, "depth_confidence": -1, "width_confidence": -1}
    model = LightGlue(features=None, **settings)  # type: ignore[arg-type]  # documented: None downloads nothing
    # the released file has the names of the first version of the network
    load_weights(model, path, rename=lambda key: re.sub(r"^(self|cross)_attn\.(\d+)", r"transformers.\2.\1_attn", key))
    return model.eval()


class _Side(NamedTuple):
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

    def side(self, pairs: slice, used: int) -> _Side:
        index = self.index_P[pairs]
        codes_PKD = self.codes_NKD[:, :used].index_select(0, index)
        return _Side(codes_PKD, self.keypoints_NK2[:, :used].index_select(0, index), self.image_px)


class _Block(NamedTuple):
    """Pairs of equal shape that are scored together."""

    pairs: np.ndarray
    used: tuple[int, int]  # keypoints of query and gallery image that take part


def _score(
    count: Callable[[_Side, _Side], torch.Tensor],
    make_blocks: Callable[[np.ndarray, np.ndarray], Iterator[_Block]],
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


def _of_equal_shape(
    pairs: np.ndarray, shape_P2: np.ndarray, block_pairs: Callable[[int, int], int], *, fill: bool = False
) -> Iterator[_Block]:
    """Blocks of equal shape; `fill` repeats the last pair of each shape until its block is full."""
    kind = shape_P2[pairs, 0] * 2**32 + shape_P2[pairs, 1]
    order = np.argsort(kind, kind="stable")
    for alike in np.split(pairs[order], np.flatnonzero(np.diff(kind[order])) + 1):
        used = int(shape_P2[alike[0], 0]), int(shape_P2[alike[0], 1])
        step = block_pairs(*used)
        all_ = np.pad(alike, (0, -len(alike) % step), "edge") if fill else alike
        yield from (_Block(all_[start : start + step], used) for start in range(0, len(all_), step))


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


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """No TF32 or bfloat16 in products of float32, whatever the process has chosen for its models."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)
