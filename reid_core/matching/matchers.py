"""Local match score of pairs of photographs: mutual nearest neighbours, or LightGlue.

two `LocalFeatures` and pairs of rows → score float32 (P,), larger is more alike, NaN where an image has no keypoints.
Paper §5.1. Letters: P pairs, N images, K keypoints per image, D descriptor length, A query and B gallery keypoints.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from reid_core.config.parameters import MatchConfig
from reid_core.data.image_cache import DECODER
from reid_core.files.checksums import file_digest
from reid_core.matching.blocks import STEP_KEYPOINTS, Block, Side, blocks_of_equal_shape, score_in_blocks
from reid_core.matching.extractors import DESCRIPTOR_SCALE, Extractor
from reid_core.matching.lightglue import _PRECISION, LightGlueMatcher, lightglue_file, load_lightglue
from reid_core.matching.local_features import FEATURES_VERSION, LocalFeatures

_SAME = DESCRIPTOR_SCALE**2  # dot product of a stored descriptor with itself
SYMMETRIC = ("sift-mnn", "aliked-mnn")  # matchers whose score does not depend on which image is the query
SCORE_VERSION = 1  # raise it whenever a score of the same two photographs changes
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

        def count(query: Side, gallery: Side) -> torch.Tensor:
            return self._count(query.codes_PKD.float() @ gallery.codes_PKD.float().transpose(1, 2))

        with _exact_products():
            return score_in_blocks(
                count, self._make_blocks, query_features, query_P, gallery_features, gallery_P, self.device
            )

    def _make_blocks(self, pairs: np.ndarray, count_P2: np.ndarray) -> Iterator["Block"]:
        shape_P2 = -(-count_P2 // STEP_KEYPOINTS) * STEP_KEYPOINTS  # unused keypoints are zero and match nothing
        block_products = 2**18 if self.device == "cpu" else 2**25  # 1 MB stays in a core's cache; 128 MB fill a GPU
        return blocks_of_equal_shape(
            pairs, shape_P2, lambda a, b: self.block_pairs or max(1, block_products // (a * b))
        )

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


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """No TF32 or bfloat16 in products of float32, whatever the process has chosen for its models."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)
