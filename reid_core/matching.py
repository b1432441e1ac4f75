"""Local match score of pairs of photographs: mutual nearest neighbours, or LightGlue.

two `LocalFeatures` and pairs of rows → score float32 (P,), larger is more alike, NaN where an image has no keypoints.
Paper §5.1. Letters: P pairs, K keypoints per image, D descriptor length, A query and B gallery keypoints.
"""

import re
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from kornia.feature import LightGlue

from reid_core.config import MatchConfig
from reid_core.local_features import DESCRIPTOR_SCALE, LocalFeatures
from reid_core.weights import find_weights, load_weights

LIGHTGLUE_URLS = (
    "https://huggingface.co/kornia/lightglue/resolve/main/aliked_lightglue.pth",
    "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/aliked_lightglue.pth",
)
_SAME = DESCRIPTOR_SCALE**2  # dot product of a stored descriptor with itself
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


class MutualNearestNeighbours:
    """Counts pairs of keypoints that are each other's nearest neighbour, and clearly nearer than the second nearest.

    Both sides must pass, so a score does not depend on which image is the query. Stored descriptors are whole numbers
    whose dot products float32 holds exactly, so it does not depend on batch size, order or device either.
    """

    def __init__(self, largest_ratio: float, *, device: str = "cpu", block_pairs: int = 32) -> None:
        """Set the rule.

        Args:
            largest_ratio: Bound of distance to the nearest / distance to the second nearest descriptor, in (0, 1).
                Where there is no second, a descriptor at right angles stands in for it.
            device: Where the products are computed.
            block_pairs: Pairs at a time; bounds memory, changes no score.
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

        def count(query_B: np.ndarray, gallery_B: np.ndarray) -> torch.Tensor:
            query_PAD = _each(query_features.descriptor_codes, query_B, self.device)
            gallery_PBD = _each(gallery_features.descriptor_codes, gallery_B, self.device)
            return self._count(query_PAD.float() @ gallery_PBD.float().transpose(1, 2))

        shape_P2 = np.zeros((len(query_P), 2), dtype=np.int64)  # unused keypoints are zero: no pair needs its own shape
        return _in_blocks(count, query_features, query_P, gallery_features, gallery_P, shape_P2, self.block_pairs)

    def _count(self, similarity_PAB: torch.Tensor) -> torch.Tensor:
        match_PAB = torch.ones_like(similarity_PAB, dtype=torch.bool)
        for dim in (1, 2):
            best = similarity_PAB.amax(dim, keepdim=True)
            # The squared distance of unit vectors is 2 - 2 * similarity. Only the nearest may reach this similarity.
            enough = _SAME - (_SAME - best).clamp(min=0) / self.largest_ratio**2
            reaches_PAB = similarity_PAB >= enough
            match_PAB &= reaches_PAB & (reaches_PAB.sum(dim, keepdim=True) == 1) & (enough > 0)
        return match_PAB.sum(dim=(1, 2))


class LightGlueMatcher:
    """Counts LightGlue's matches with confidence above 0.5.

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

        def count(query_B: np.ndarray, gallery_B: np.ndarray) -> torch.Tensor:
            # The kernels, and with them the last bits, change with the batch size: repeat a pair to fill the block.
            fill = (0, self.block_pairs - len(query_B))
            sides = {
                "image0": self._side(query_features, np.pad(query_B, fill, "edge")),
                "image1": self._side(gallery_features, np.pad(gallery_B, fill, "edge")),
            }
            return (self.model(sides)["matching_scores0"] > 0.5).sum(dim=1)[: len(query_B)]

        shape_P2 = np.stack([_used(query_features, query_P), _used(gallery_features, gallery_P)], axis=1)
        return _in_blocks(count, query_features, query_P, gallery_features, gallery_P, shape_P2, self.block_pairs)

    def _side(self, features: LocalFeatures, rows: np.ndarray) -> dict[str, torch.Tensor]:
        used = _used(features, rows[:1])[0]
        return {
            "keypoints": _each(features.keypoints, rows, self.device)[:, :used],
            "descriptors": _each(features.descriptors, rows, self.device)[:, :used],
            "image_size": torch.full((len(rows), 2), float(features.image_px), device=self.device),
        }


def load_lightglue(folder: str | None) -> LightGlue:
    """LightGlue with its ALIKED weights, without early exit and pruning: those make a pair depend on its batch.

    Raises:
        UserError: If the weights cannot be had or are of another network.
    """
    path = find_weights(folder, "aliked_lightglue.pth", "aliked_lightglue_v0-1_arxiv-pth", LIGHTGLUE_URLS)
    settings = {"input_dim": 128, "depth_confidence": -1, "width_confidence": -1}
    model = LightGlue(features=None, **settings)  # type: ignore[arg-type]  # documented: None downloads nothing
    # the released file has the names of the first version of the network
    load_weights(model, path, rename=lambda key: re.sub(r"^(self|cross)_attn\.(\d+)", r"transformers.\2.\1_attn", key))
    return model.eval()


def _in_blocks(
    count: Callable[[np.ndarray, np.ndarray], torch.Tensor],
    query_features: LocalFeatures,
    query_P: np.ndarray,
    gallery_features: LocalFeatures,
    gallery_P: np.ndarray,
    shape_P2: np.ndarray,
    block_pairs: int,
) -> np.ndarray:
    """Apply `count` to blocks of pairs of one shape; pairs with an image without keypoints stay NaN."""
    query_P, gallery_P = np.asarray(query_P, dtype=np.int64), np.asarray(gallery_P, dtype=np.int64)
    score_P = np.full(len(query_P), np.nan, dtype=np.float32)
    has_both_P = (query_features.num_keypoints_N[query_P] > 0) & (gallery_features.num_keypoints_N[gallery_P] > 0)
    with torch.inference_mode():
        for block in _blocks(np.flatnonzero(has_both_P), shape_P2, block_pairs):
            score_P[block] = count(query_P[block], gallery_P[block]).cpu().numpy()
    return score_P


def _blocks(pairs: np.ndarray, shape_P2: np.ndarray, block_pairs: int) -> Iterator[np.ndarray]:
    _, kind = np.unique(shape_P2[pairs], axis=0, return_inverse=True)
    for k in range(kind.max(initial=-1) + 1):
        alike = pairs[kind == k]
        yield from (alike[i : i + block_pairs] for i in range(0, len(alike), block_pairs))


def _used(features: LocalFeatures, rows: np.ndarray) -> np.ndarray:
    count = features.num_keypoints_N[rows]
    return np.where(count > 32, count // 32 * 32, count)


def _each(read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, device: str) -> torch.Tensor:
    """Read every image once, however many pairs of the block it is in."""
    unique, inverse = np.unique(rows, return_inverse=True)
    return torch.from_numpy(read(unique)).to(device)[torch.from_numpy(inverse).to(device)]
