"""What is measured on `validating` after each epoch: a loss, and the classifier's accuracy.

embeddings or logits of all images + identity codes → numbers for the report (paper §6.1.1, §6.2.1; figures 6.2, A.4).
Shape letters: N images, V validating images, G gallery, D embedding, K identities.
"""

import numpy as np
import torch
from torch import nn

from reid_core.data.animals import positions_by_group
from reid_core.scoring.shortlist import find_most_similar


def classifier_report(logit_NK: np.ndarray, code_N: np.ndarray, row_V: np.ndarray, name: str) -> dict[str, float]:
    """Cross-entropy and accuracy of a classifier on some images.

    An image whose identity the classifier never saw has no logit, and is left out of both.

    Args:
        logit_NK: By row of the image cache; scaled cosines without margin for ArcFace.
        code_N: Position of the image's identity among the logits; -1 where it has none.
        row_V: Rows of the images.
        name: Of the set, the end of the keys.

    Returns:
        `loss_<name>` in nats and `classifier_accuracy_<name>` in [0, 1]; NaN where no image is left.

    Example:
        >>> classifier_report(np.array([[0.0, 9.0], [9.0, 0.0]]), np.array([1, -1]), np.array([0, 1]), "validating")
        {'loss_validating': 0.000123..., 'classifier_accuracy_validating': 1.0}
    """
    row_V = row_V[code_N[row_V] >= 0]
    if not len(row_V):
        return {f"loss_{name}": float("nan"), f"classifier_accuracy_{name}": float("nan")}
    logit, code = torch.from_numpy(logit_NK[row_V]), torch.from_numpy(code_N[row_V])
    return {
        f"loss_{name}": float(nn.functional.cross_entropy(logit, code)),
        f"classifier_accuracy_{name}": float((logit.argmax(dim=1) == code).float().mean()),
    }


def mean_cosine(embedding_RD: np.ndarray, group_R: np.ndarray) -> float:
    """Mean cosine of two images of a group, over all pairs, in the group where it is largest; 1: all there are alike.

    The largest, because a group whose embeddings are all alike must not be hidden by one whose are not.

    Args:
        embedding_RD: Rows of length 1.
        group_R: Group of each image.

    Returns:
        In [-1, 1]; NaN where no group has two images.

    Example:
        >>> mean_cosine(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), np.array(["cow", "cow", "pig"]))
        0.6...
    """
    means = []
    for _, rows in positions_by_group(group_R):
        num = len(rows)
        if num > 1:
            total = float(np.square(embedding_RD[rows].sum(axis=0, dtype=np.float64)).sum())
            means.append((total - num) / (num * (num - 1)))
    return float(np.max(means)) if means else float("nan")


def nearest_triplet_loss(
    embedding_ND: np.ndarray,
    code_N: np.ndarray,
    group_N: np.ndarray,
    query_V: np.ndarray,
    gallery_G: np.ndarray,
    *,
    margin_cosine: float,
    device: str = "cpu",
) -> float:
    """Triplet loss of `validating` against `training`, one triplet per query.

    Its positive is the most similar gallery image of the same animal, its negative the most similar of another one of
    its group: the pair that decides whether the query is named rightly.

    Returns:
        Mean of `max(0, cos(negative) - cos(positive) + margin)` over the queries that have both; NaN if none has.
    """
    losses = []
    for group, positions in positions_by_group(group_N[query_V]):
        queries, gallery = query_V[positions], gallery_G[group_N[gallery_G] == group]
        # An animal's own images are at most this many, so one more candidate always shows another animal.
        own = int(np.bincount(code_N[gallery]).max(initial=0)) if len(gallery) else 0
        index_QB, cosine_QB = find_most_similar(embedding_ND[queries], embedding_ND[gallery], own + 1, device=device)
        negative = _largest(cosine_QB, (index_QB >= 0) & (code_N[gallery][index_QB] != code_N[queries][:, None]))
        positive = _own_largest(embedding_ND, code_N, queries, gallery)
        has_both = np.isfinite(negative) & np.isfinite(positive)
        losses.append(np.maximum(0, negative - positive + margin_cosine)[has_both])
    values = np.concatenate([np.empty(0), *losses])
    return float(np.mean(values)) if len(values) else float("nan")


def _largest(cosine_QB: np.ndarray, chosen_QB: np.ndarray) -> np.ndarray:
    return np.where(chosen_QB, cosine_QB, -np.inf).max(axis=1, initial=-np.inf)


def _own_largest(embedding_ND: np.ndarray, code_N: np.ndarray, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Largest cosine to a gallery image of the same animal; (Q,), NaN where it has none."""
    positive_Q = np.full(len(queries), np.nan)
    for q, row in enumerate(queries):
        own = gallery[code_N[gallery] == code_N[row]]
        if len(own):
            positive_Q[q] = (embedding_ND[own] @ embedding_ND[row]).max()
    return positive_Q
