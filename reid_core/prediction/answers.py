"""The answer for every query: the name of an animal of the gallery, or `new_individual`.

bundle + photographs → `Prediction` per query, with the most probable animals and what makes it worth less than others.
A routing bundle (`experiment/bundle/routing.py`) has a model for each group; a query is answered by its group's.
Letters: Q queries, G gallery photographs, N both, the gallery behind the queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.data.animals import NEW
from reid_core.data.image_cache import ImageCache
from reid_core.data.splits.parts import Parts
from reid_core.experiment.bundle.folder import Bundle
from reid_core.experiment.evaluation import pair_scorer
from reid_core.model.place import local_place
from reid_core.prediction.photographs import Described, describe_photographs
from reid_core.scoring.decision import Answers, Outputs
from reid_core.scoring.evaluate import answer_queries

NUM_CANDIDATES = 5
# Notes.
NO_MODEL = "there is no model for this group"
NO_GALLERY = "the gallery has no image of this group (and side) to compare with"
NO_KEYPOINTS = "no keypoints: not matched locally"
SAME_FILE = "the same file as a gallery photograph of"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Prediction:
    """The answer for one query, with what a person needs to review it."""

    image_id: str
    group: str
    identity: str
    note: str  # why the answer is worth less than others; "" if it is not
    candidates: list[tuple[str, float]]  # most probable identities with their probabilities, best first


def predict(bundle: Bundle, root: Path, queries: pa.Table, cache_folder: Path) -> list[Prediction]:
    """Answer every query row; none is lost.

    Args:
        bundle: The exported model.
        root: Data folder.
        queries: Rows of `metadata.read_metadata`.
        cache_folder: Where decoded pixels and local features are kept.
    """
    return name_described(bundle, queries, describe_photographs(bundle, root, queries, cache_folder))


def name_described(bundle: Bundle, queries: pa.Table, described: Described) -> list[Prediction]:
    """`predict` for photographs that the same bundle, or one with a smaller gallery, has described."""
    config, place = bundle.config, local_place(bundle.config)
    parts, outputs = _join_parts(bundle, queries, described), _join_outputs(bundle, described)
    score_pairs = pair_scorer(config.match, described.features, place, gallery=bundle.features)
    rows = parts.rows("query")
    answers = answer_queries(config, bundle.decision, parts, outputs, rows, score_pairs, device=place.device)
    return _name(bundle, queries, answers, _notes(bundle, described, answers))


def answer_new(queries: pa.Table) -> list[Prediction]:
    """The answer for queries of groups that have no model."""
    ids, groups = queries["image_id"].to_pylist(), queries["group"].to_pylist()
    return [Prediction(image_id, group, NEW, NO_MODEL, []) for image_id, group in zip(ids, groups, strict=True)]


def _join_parts(bundle: Bundle, queries: pa.Table, described: Described) -> Parts:
    """The queries and, behind them, the bundle's gallery, which plays the part of `training`."""
    num_queries, num_gallery = len(queries), len(bundle.group_G)
    return Parts(
        np.concatenate([np.full(num_queries, None, dtype=object), bundle.identity_G]),
        np.concatenate([np.array(queries["group"].to_pylist(), dtype=object), bundle.group_G]),
        np.array(["query"] * num_queries + ["training"] * num_gallery, dtype=object),
        np.concatenate([described.sides_N6, bundle.sides_G6]),
    )


def _join_outputs(bundle: Bundle, described: Described) -> Outputs:
    """Outputs of the queries, with the gallery's embeddings behind them; the gallery needs no logits."""
    second_ND = None
    if bundle.second is not None and described.second_ND is not None:
        second_ND = np.concatenate([described.second_ND, bundle.second.embedding_GD])
    return Outputs(
        np.concatenate([described.embedding_ND, bundle.embedding_GD]),
        described.logit_NK,
        second_ND,
        bundle.class_identity_K,
        bundle.class_group_K,
    )


def _notes(bundle: Bundle, described: Described, answers: Answers) -> list[str]:
    copies = _find_copies(bundle, described.images, answers.group_Q)
    keypoints_Q = None if described.features is None else described.features.num_keypoints_N
    notes = []
    for query, error in enumerate(described.images.error):
        if error is not None:
            notes.append(f"{UNREADABLE}: {error}")
        elif np.isnan(answers.ranking.score_QB[query]).all():
            notes.append(NO_GALLERY)
        elif copies[query]:
            notes.append(f"{SAME_FILE} {copies[query]}")
        elif keypoints_Q is not None and keypoints_Q[query] == 0:
            notes.append(NO_KEYPOINTS)
        else:
            notes.append("")
    return notes


def _find_copies(bundle: Bundle, images: ImageCache, group_Q: np.ndarray) -> list[str]:
    """Of whom the gallery holds the very file that a query is; "" of nobody."""
    if bundle.key_G is None:
        return [""] * len(images)
    owner = dict(zip(zip(bundle.group_G, bundle.key_G, strict=True), bundle.identity_G, strict=True))
    return [owner.get(photograph, "") for photograph in zip(group_Q, images.keys, strict=True)]


def _name(bundle: Bundle, queries: pa.Table, answers: Answers, notes: Sequence[str]) -> list[Prediction]:
    # A group without gallery images has no threshold; it is never reached, for the score there is 0.
    thresholds = dict.fromkeys(answers.group_Q, 1.0) | bundle.decision.thresholds
    answer_Q, top = answers.name(thresholds), answers.ranking.top(NUM_CANDIDATES)
    predictions = []
    for query, image_id in enumerate(queries["image_id"].to_pylist()):
        unreadable = notes[query].startswith(UNREADABLE)
        identity = NEW if unreadable else str(answer_Q[query])
        predictions.append(
            Prediction(image_id, str(answers.group_Q[query]), identity, notes[query], [] if unreadable else top[query])
        )
    return predictions
