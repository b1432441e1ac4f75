"""The matchers by name, and what their scores depend on.

`MatchConfig` → a matcher: two `LocalFeatures` and pairs of rows → score float32 (P,), larger is more alike.
Paper §5.1. Letters: P pairs.
"""

from typing import Any, Protocol

import numpy as np
import torch

from reid_core.config.parameters import MatchConfig
from reid_core.data.image_cache import DECODER
from reid_core.files.checksums import file_digest
from reid_core.matching.extractors import Extractor
from reid_core.matching.lightglue import PRECISION, LightGlueMatcher, lightglue_file, load_lightglue
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.mutual_neighbours import MutualNearestNeighbours

SYMMETRIC = ("sift-mnn", "aliked-mnn")  # matchers whose score does not depend on which image is the query
SCORE_VERSION = 1  # raise it whenever a score of the same two photographs changes
# These separate same from different animals best on photographs of dogs, cows and pigs; with ALIKED the second nearest
# descriptor lies closer to the nearest.
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
        UserError: If LightGlue's published weights cannot be had.
    """
    if config.matcher == "none":
        return None
    if config.matcher == "aliked-lightglue":
        return LightGlueMatcher(load_lightglue(config.weights), device=device)
    return MutualNearestNeighbours(_LARGEST_RATIO[config.matcher], device=device)


def score_settings(config: MatchConfig, *, device: str = "cpu") -> dict[str, Any]:
    """All that a score depends on besides the two photographs: this names a store of scores.

    Args:
        config: The matcher and its settings.
        device: Where it scores: LightGlue's precision depends on it.

    Raises:
        UserError: If published weights that are part of it cannot be had.
    """
    settings = {
        "version": SCORE_VERSION,
        "matcher": config.matcher,
        "image_px": config.image_px,
        "decoder": DECODER,
        "extractor": Extractor.of(config).settings(),
    }
    if config.matcher == "aliked-lightglue":
        precision = str(PRECISION[torch.device(device).type])
        return settings | {"lightglue": file_digest(lightglue_file(config.weights)), "precision": precision}
    return settings | {"largest_ratio": _LARGEST_RATIO[config.matcher]}
