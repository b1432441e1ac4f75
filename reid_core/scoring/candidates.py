"""Which gallery images a query is compared with, and what each matcher thinks of them.

embeddings, groups, photographed sides → shortlist of each query with the scores of its pairs (paper §5.1, §7.2).
Shape letters: N images (rows of the cache), Q queries, G gallery, B shortlist, D embedding, P pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from reid_core.data.animals import positions_by_group
from reid_core.data.table.sides import compatible
from reid_core.matching.pairs.store import ScorePairs
from reid_core.scoring.shortlist import find_most_similar


@dataclass(frozen=True)
class Candidates:
    """The shortlisted gallery images of some queries, and what each matcher thinks of them."""

    query_Q: np.ndarray  # row of the query
    group_Q: np.ndarray
    gallery_QB: np.ndarray  # row of the gallery image; -1 where there are fewer than B to choose from
    cosine_QB: np.ndarray  # in [-1, 1]; NaN where there is no gallery image
    match_QB: np.ndarray  # local match score; NaN where it was not scored
    second_QB: np.ndarray | None = None  # cosine of the second global model, as `cosine_QB`; None without one

    def scores(self) -> dict[str, np.ndarray]:
        """Scores (Q, B) by matcher: "cosine", "match" and, with a second model, "second"."""
        scores = {"cosine": self.cosine_QB, "match": self.match_QB}
        return scores if self.second_QB is None else scores | {"second": self.second_QB}


def find_candidates(
    embedding_ND: np.ndarray,
    group_N: np.ndarray,
    query_Q: np.ndarray,
    gallery_G: np.ndarray,
    *,
    shortlist_size: int,
    sides_N6: np.ndarray | None = None,
    device: str = "cpu",
) -> Candidates:
    """Shortlist each query's gallery images, within its group: a lynx is never compared with a turtle.

    Args:
        embedding_ND: Rows of length 1; only those of queries and gallery are read.
        group_N: Group of each image.
        query_Q: Rows of the queries.
        gallery_G: Rows of the gallery images.
        shortlist_size: B, gallery images per query.
        sides_N6: Photographed sides (`sides.parse_sides`); only compatible images are then candidates. None: all are.
        device: Where the products are computed.
    """
    found_QB = np.full((len(query_Q), shortlist_size), -1, dtype=np.int64)
    cosine_QB = np.full((len(query_Q), shortlist_size), np.nan, dtype=np.float32)
    for queries, gallery in _comparable(group_N, query_Q, gallery_G, sides_N6):
        index, cosine = find_most_similar(
            embedding_ND[query_Q[queries]], embedding_ND[gallery], shortlist_size, device=device
        )
        found_QB[queries] = np.where(index >= 0, np.append(gallery, -1)[index], -1)
        cosine_QB[queries] = cosine
    return Candidates(query_Q, group_N[query_Q], found_QB, cosine_QB, np.full_like(cosine_QB, np.nan))


def _comparable(
    group_N: np.ndarray, query_Q: np.ndarray, gallery_G: np.ndarray, sides_N6: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of queries that share their candidates, and the rows of these; every query once."""
    for group, queries in positions_by_group(group_N[query_Q]):
        gallery = gallery_G[group_N[gallery_G] == group]
        if sides_N6 is None:
            yield queries, gallery
            continue
        patterns_S6, index = np.unique(sides_N6[query_Q[queries]], axis=0, return_inverse=True)
        for s, pattern_6 in enumerate(patterns_S6):
            yield queries[index.ravel() == s], gallery[compatible(pattern_6[None], sides_N6[gallery])[0]]


def match_candidates(candidates: Candidates, score_pairs: ScorePairs | None) -> Candidates:
    """Score every shortlisted pair with the local matcher; unchanged without one."""
    if score_pairs is None:
        return candidates
    there_QB = candidates.gallery_QB >= 0
    query_P = np.broadcast_to(candidates.query_Q[:, None], there_QB.shape)[there_QB]
    match_QB = candidates.match_QB.copy()
    match_QB[there_QB] = score_pairs(query_P, candidates.gallery_QB[there_QB])
    return replace(candidates, match_QB=match_QB)


def add_second_model(candidates: Candidates, second_ND: np.ndarray | None) -> Candidates:
    """Score every shortlisted pair with a second global model's embeddings; unchanged without one.

    Slot by slot, because the embeddings of all pairs would need B times the memory of those of all queries.
    """
    if second_ND is None:
        return candidates
    query_QD = second_ND[candidates.query_Q]
    cosine_BQ = [np.einsum("qd,qd->q", query_QD, second_ND[gallery_Q]) for gallery_Q in candidates.gallery_QB.T]
    second_QB = np.where(candidates.gallery_QB >= 0, np.stack(cosine_BQ, axis=1), np.nan)
    return replace(candidates, second_QB=second_QB.astype(np.float32))
