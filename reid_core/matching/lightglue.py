"""LightGlue: a network that matches the keypoints of two photographs.

two `LocalFeatures` and pairs of rows → number of confident matches, float32 (P,); NaN where an image has no keypoints.
Paper §5.1. Letters: P pairs, A query and B gallery keypoints.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from kornia.feature import LightGlue

from reid_core.matching.blocks import STEP_KEYPOINTS, Block, PairedImages, Side, blocks_of_equal_shape, score_in_blocks
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.published_weights import fill_network, find_published_weights

LIGHTGLUE_URLS = (
    "https://huggingface.co/kornia/lightglue/resolve/main/aliked_lightglue.pth",
    "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/aliked_lightglue.pth",
)
PRECISION = {"cpu": torch.float32, "cuda": torch.float16}  # by type of device; part of what names a store of scores


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
        with torch.autocast(kind, dtype=PRECISION[kind], enabled=kind == "cuda"):
            return score_in_blocks(
                self._count_matches,
                self._make_blocks,
                PairedImages(query_features, query_P),
                PairedImages(gallery_features, gallery_P),
                device=self.device,
            )

    def _make_blocks(self, pairs: np.ndarray, count_P2: np.ndarray) -> Iterator[Block]:
        many = count_P2 > STEP_KEYPOINTS
        shape_P2 = np.where(many, count_P2 // STEP_KEYPOINTS * STEP_KEYPOINTS, count_P2)
        # The kernels, and with them the last bits, change with the batch size: every block is full.
        return blocks_of_equal_shape(pairs, shape_P2, lambda *_: self.block_pairs, fill=True)

    def _count_matches(self, query: Side, gallery: Side) -> torch.Tensor:
        """The network's own layers without its checks and lists of matches, which wait for the device pair by pair."""
        descriptors = [self.model.input_proj(side.descriptors_PKD()) for side in (query, gallery)]
        positions = [self.model.posenc(side.centred_PK2()) for side in (query, gallery)]
        for layer in self.model.transformers:
            descriptors = layer(*descriptors, *positions)
        log_confidence_PAB, _ = self.model.log_assignment[-1](*descriptors)  # and one row and column for "no match"
        # A confidence is at most the smaller of two shares, of its row and of its column: above half is mutual.
        return (log_confidence_PAB[:, :-1, :-1].exp() > 0.5).sum(dim=(1, 2)).float()


def lightglue_file(folder: str | None) -> Path:
    """The published weights of LightGlue for ALIKED.

    Raises:
        UserError: If they cannot be had.
    """
    return find_published_weights(folder, "aliked_lightglue.pth", "aliked_lightglue_v0-1_arxiv-pth", LIGHTGLUE_URLS)


def load_lightglue(folder: str | None) -> LightGlue:
    """LightGlue with its ALIKED weights, without early exit and pruning: those make a pair depend on its batch.

    Raises:
        UserError: If the weights cannot be had or are of another network.
    """
    path = lightglue_file(folder)
    settings = {"input_dim": 128, "depth_confidence": -1, "width_confidence": -1}
    model = LightGlue(features=None, **settings)  # type: ignore[arg-type]  # documented: None downloads nothing
    # the released file has the names of the first version of the network
    fill_network(model, path, rename=lambda key: re.sub(r"^(self|cross)_attn\.(\d+)", r"transformers.\2.\1_attn", key))
    return model.eval()
