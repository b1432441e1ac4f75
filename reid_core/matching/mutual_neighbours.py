"""Mutual nearest neighbours: keypoints of two photographs that choose each other.

two `LocalFeatures` and pairs of rows → number of mutual matches, float32 (P,); NaN where an image has no keypoints.
Paper §5.1. Letters: P pairs, A query and B gallery keypoints.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from reid_core.matching.blocks import STEP_KEYPOINTS, Block, PairedImages, Side, blocks_of_equal_shape, score_in_blocks
from reid_core.matching.feature_files import DESCRIPTOR_SCALE
from reid_core.matching.local_features import LocalFeatures

_SAME = DESCRIPTOR_SCALE**2  # dot product of a stored descriptor with itself


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

        def count_matches(query: Side, gallery: Side) -> torch.Tensor:
            return self._count_matches(query.codes_PKD.float() @ gallery.codes_PKD.float().transpose(1, 2))

        with _exact_products():
            return score_in_blocks(
                count_matches,
                self._make_blocks,
                PairedImages(query_features, query_P),
                PairedImages(gallery_features, gallery_P),
                device=self.device,
            )

    def _make_blocks(self, pairs: np.ndarray, count_P2: np.ndarray) -> Iterator[Block]:
        shape_P2 = -(-count_P2 // STEP_KEYPOINTS) * STEP_KEYPOINTS  # unused keypoints are zero and match nothing
        block_products = 2**18 if self.device == "cpu" else 2**25  # 1 MB stays in a core's cache; 128 MB fill a GPU
        return blocks_of_equal_shape(
            pairs, shape_P2, lambda a, b: self.block_pairs or max(1, block_products // (a * b))
        )

    def _count_matches(self, similarity_PAB: torch.Tensor) -> torch.Tensor:
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
