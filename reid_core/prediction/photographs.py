"""What a bundle's networks say about photographs: queries, or more of the gallery.

rows of photographs → pixels, embeddings, logits, local features; row i of each is row i of the table.
Letters: N photographs, D embedding, K identities of the classifier.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.table.sides import parse_sides
from reid_core.experiment.bundle.folder import Bundle
from reid_core.experiment.second_model import embed_second
from reid_core.matching.extraction import build_features
from reid_core.matching.local_features import LocalFeatures
from reid_core.model.embed import embed
from reid_core.model.place import local_place


@dataclass(frozen=True)
class Described:
    """N photographs as a bundle sees them; an unreadable one has zero pixels, and numbers that mean nothing."""

    images: ImageCache
    sides_N6: np.ndarray  # photographed sides (`sides.parse_sides`)
    embedding_ND: np.ndarray  # float32, rows of length 1
    logit_NK: np.ndarray | None  # None without a classifier
    second_ND: np.ndarray | None  # embeddings of the second model; None without one
    features: LocalFeatures | None  # None where the bundle matches nothing locally


def describe_photographs(bundle: Bundle, root: Path, rows: pa.Table, cache_folder: Path) -> Described:
    """Decode photographs and ask the networks of a bundle about them.

    Args:
        bundle: The exported model.
        root: Data folder.
        rows: Rows of `metadata.read_metadata`, at least one.
        cache_folder: Where decoded pixels and local features are kept.
    """
    config, place, paths = bundle.config, local_place(bundle.config), rows["path"].to_pylist()

    @cache
    def open_images(image_px: int) -> ImageCache:
        return ImageCache(build_cache(cache_folder, root, paths, image_px))

    images, features, every, second_ND = open_images(config.data.image_px), None, np.arange(len(rows)), None
    if bundle.features is not None and config.predict.rule == "threshold":
        features = LocalFeatures.open(build_features(cache_folder, open_images(config.match.image_px), config.match))
    sides_N6 = parse_sides(rows["orientation"].to_pylist())
    embedding_ND, logit_NK = embed(bundle.model.to(place.device), images, every, place, sides_N6=sides_N6)
    if bundle.second is not None:
        second = bundle.second
        second_ND = embed_second(second.config, second.model, open_images(second.config.data.image_px), every)
    return Described(images, sides_N6, embedding_ND, logit_NK, second_ND, features)
