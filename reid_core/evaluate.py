"""The chain from embeddings to metrics, on one page.

embeddings → shortlist → local match scores → calibrated probabilities → answers → BAKS, BAUS, GEO_MEAN (paper §5, 6.0).
Calibrators are fitted on `validating`, thresholds on `thresholdSet`; both are only applied to anything else.
Shape letters: N images (rows of the cache), Q queries, B shortlist, D embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from reid_core.calibration import Calibrator, fit_per_group, predict_per_group
from reid_core.config import MatchConfig, ThresholdConfig
from reid_core.identify import Threshold, best_identity, choose_threshold, name_queries, rank_candidates
from reid_core.metrics import (
    Shares,
    baks,
    baus,
    bootstrap_geo_mean,
    bootstrap_mean_of_groups,
    competition_mean,
    compute_shares,
    geo_mean,
    interval,
    mean_of_groups,
    pool,
)
from reid_core.similarity import shortlist
from reid_core.splits import is_known

# Rows of the query and of the gallery image of each pair → local match score, NaN where a pair cannot be scored.
ScorePairs = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidates:
    """The shortlisted gallery images of some queries, and what each matcher thinks of them."""

    query_Q: np.ndarray  # row of the query
    group_Q: np.ndarray
    gallery_QB: np.ndarray  # row of the gallery image; -1 where the group's gallery is smaller than B
    cosine_QB: np.ndarray  # in [-1, 1]; NaN where there is no gallery image
    match_QB: np.ndarray  # local match score; NaN where it was not scored


def find_candidates(
    embedding_ND: np.ndarray,
    group_N: np.ndarray,
    query_Q: np.ndarray,
    gallery_G: np.ndarray,
    *,
    size: int,
    device: str = "cpu",
) -> Candidates:
    """Shortlist each query's gallery images, within its group: a lynx is never compared with a turtle."""
    found_QB = np.full((len(query_Q), size), -1, dtype=np.int64)
    cosine_QB = np.full((len(query_Q), size), np.nan, dtype=np.float32)
    for group in np.unique(group_N[query_Q].astype(str)):
        queries = np.flatnonzero(group_N[query_Q] == group)
        gallery = gallery_G[group_N[gallery_G] == group]
        index, cosine = shortlist(embedding_ND[query_Q[queries]], embedding_ND[gallery], size, device=device)
        found_QB[queries] = np.where(index >= 0, np.append(gallery, -1)[index], -1)
        cosine_QB[queries] = cosine
    return Candidates(query_Q, group_N[query_Q], found_QB, cosine_QB, np.full_like(cosine_QB, np.nan))


def match_candidates(candidates: Candidates, score_pairs: ScorePairs | None) -> Candidates:
    """Score every shortlisted pair with the local matcher; unchanged without one."""
    if score_pairs is None:
        return candidates
    there_QB = candidates.gallery_QB >= 0
    query_P = np.broadcast_to(candidates.query_Q[:, None], there_QB.shape)[there_QB]
    match_QB = candidates.match_QB.copy()
    match_QB[there_QB] = score_pairs(query_P, candidates.gallery_QB[there_QB])
    return replace(candidates, match_QB=match_QB)


Calibrators = dict[str, dict[str, Calibrator]]  # "cosine" or "match" → group → calibrator


def calibrate(candidates: Candidates, identity_N: np.ndarray) -> Calibrators:
    """Fit a calibrator per matcher and group on queries with known truth (`validating` against `training`).

    Fitted on the shortlisted pairs, the only ones that it will be asked about.
    """
    there_QB = candidates.gallery_QB >= 0
    same_QB = identity_N[candidates.gallery_QB] == identity_N[candidates.query_Q][:, None]
    group_QB = np.broadcast_to(candidates.group_Q[:, None], there_QB.shape)
    same_P, group_P = same_QB[there_QB], group_QB[there_QB]
    calibrators = {"cosine": fit_per_group(candidates.cosine_QB[there_QB], same_P, group_P)}
    if not np.isnan(candidates.match_QB).all():
        calibrators["match"] = fit_per_group(candidates.match_QB[there_QB], same_P, group_P)
    return calibrators


def fuse(candidates: Candidates, calibrators: Calibrators) -> np.ndarray:
    """Mean of the calibrated probabilities of the matchers that scored the pair; (Q, B), NaN where none did."""
    scores = {"cosine": candidates.cosine_QB, "match": candidates.match_QB}
    probabilities = [predict_per_group(calibrators[name], scores[name], candidates.group_Q) for name in calibrators]
    count_QB = np.sum([~np.isnan(p) for p in probabilities], axis=0)
    total_QB = np.sum([np.nan_to_num(p) for p in probabilities], axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(count_QB > 0, total_QB / count_QB, np.nan).astype(np.float32)


@dataclass(frozen=True)
class Answers:
    """Best identity of each query and how probable it is, before any threshold."""

    query_Q: np.ndarray
    group_Q: np.ndarray
    identity_Q: np.ndarray
    score_Q: np.ndarray  # in [0, 1]

    def name(self, thresholds: dict[str, float]) -> np.ndarray:
        """Identity or `new_individual` per query, by the threshold of its group; shape (Q,)."""
        threshold_Q = np.array([thresholds[group] for group in self.group_Q])
        return name_queries(self.identity_Q, self.score_Q, threshold_Q)


def answer(candidates: Candidates, probability_QB: np.ndarray, identity_N: np.ndarray) -> Answers:
    """The most probable identity per query."""
    identity_QB = identity_N[candidates.gallery_QB]  # where there is no image, the score is NaN and the name unused
    identity_Q, score_Q = best_identity(probability_QB, candidates.cosine_QB, identity_QB)
    return Answers(candidates.query_Q, candidates.group_Q, identity_Q, score_Q)


def choose_thresholds(
    answers: Answers,
    truth_Q: np.ndarray,
    known_Q: np.ndarray,
    *,
    groups: np.ndarray,
    smallest: float,
    largest: float,
) -> dict[str, Threshold]:
    """The best threshold of each of `groups` on queries with known truth (`thresholdSet`).

    A group without known or without new queries (or without any) takes the value that is best over all groups
    together, or the middle of the range if that is undefined too; its BAKS, BAUS and GEO_MEAN stay NaN.
    """
    right_Q = answers.identity_Q == truth_Q

    animal_Q = np.array([f"{group}\0{name}" for group, name in zip(answers.group_Q, truth_Q, strict=True)], dtype=str)

    def choose(chosen_Q: np.ndarray) -> Threshold:
        return choose_threshold(
            answers.score_Q[chosen_Q],
            right_Q[chosen_Q],
            animal_Q[chosen_Q],
            known_Q[chosen_Q],
            smallest=smallest,
            largest=largest,
        )

    pooled = choose(np.ones(len(truth_Q), dtype=bool)).value
    fallback = (smallest + largest) / 2 if np.isnan(pooled) else pooled
    chosen = {str(group): choose(answers.group_Q == group) for group in np.unique(groups.astype(str))}
    return {
        group: replace(threshold, value=fallback) if np.isnan(threshold.value) else threshold
        for group, threshold in chosen.items()
    }


def summarise(shares_of_group: dict[str, Shares]) -> dict[str, float]:
    """All metrics by name, undefined ones NaN.

    Returns:
        `baks.<group>`, `baus.<group>`, `geo_mean.<group>` with `geo_mean_low.<group>`, `geo_mean_high.<group>` (95 %
        bootstrap interval over identities); `mean_of_groups` with its interval (the sweep's default objective);
        `pooled` (the paper's overall, table 6.2); `competition` (AnimalCLEF25's mean).
    """
    metrics: dict[str, float] = {}
    for index, (group, shares) in enumerate(shares_of_group.items()):
        metrics |= {f"baks.{group}": baks(shares), f"baus.{group}": baus(shares), f"geo_mean.{group}": geo_mean(shares)}
        low, high = interval(bootstrap_geo_mean(shares, seed=index))
        metrics |= {f"geo_mean_low.{group}": low, f"geo_mean_high.{group}": high}
    low, high = interval(bootstrap_mean_of_groups(shares_of_group))
    return metrics | {
        "mean_of_groups": mean_of_groups(shares_of_group),
        "mean_of_groups_low": low,
        "mean_of_groups_high": high,
        "pooled": geo_mean(pool(shares_of_group)),
        "competition": competition_mean(shares_of_group),
    }


@dataclass(frozen=True)
class Decision:
    """All that is fitted after training; applied as it is to test images and in the exported model."""

    calibrators: Calibrators
    thresholds: dict[str, float]

    def answer(self, candidates: Candidates, identity_N: np.ndarray) -> Answers:
        """Answers of some candidates by the fitted calibrators."""
        return answer(candidates, fuse(candidates, self.calibrators), identity_N)


@dataclass(frozen=True)
class Parts:
    """Who plays which part: arrays over the rows of the image cache."""

    identity_N: np.ndarray  # None where it is unknown or locked
    group_N: np.ndarray
    part_N: np.ndarray

    def rows(self, part: str) -> np.ndarray:
        """Rows of one part, ascending."""
        return np.flatnonzero(self.part_N == part)

    def known(self, query_Q: np.ndarray) -> np.ndarray:
        """Whether each query's true identity is in the gallery (`training`) of its group; shape (Q,), bool."""
        return is_known(self.part_N, self.identity_N, self.group_N)[query_Q]


def shares_of(answers: Answers, decision: Decision, parts: Parts) -> dict[str, Shares]:
    """`Shares` of each group under the decision's thresholds, in the sorted order of the groups."""
    answer_Q, truth_Q = answers.name(decision.thresholds), parts.identity_N[answers.query_Q]
    columns = (answer_Q, truth_Q, parts.known(answers.query_Q))
    return {
        str(group): compute_shares(*(column[answers.group_Q == group] for column in columns))
        for group in np.unique(answers.group_Q.astype(str))
    }


def decide(
    parts: Parts,
    embedding_ND: np.ndarray,
    score_pairs: ScorePairs | None,
    *,
    match: MatchConfig,
    threshold: ThresholdConfig,
    device: str = "cpu",
) -> tuple[Decision, dict[str, float]]:
    """Fit calibrators on `validating` and thresholds on `thresholdSet`, and score the latter (paper §5.2).

    Returns:
        The decision and the metrics on `thresholdSet` (`summarise`), with `threshold.<group>`.
    """

    def candidates_of(part: str) -> Candidates:
        found = find_candidates(
            embedding_ND, parts.group_N, parts.rows(part), parts.rows("training"), size=match.shortlist, device=device
        )
        return match_candidates(found, score_pairs)

    calibrators = calibrate(candidates_of("validating"), parts.identity_N)
    candidates = candidates_of("thresholdSet")
    answers = answer(candidates, fuse(candidates, calibrators), parts.identity_N)
    truth_Q, known_Q = parts.identity_N[answers.query_Q], parts.known(answers.query_Q)
    limits = {"smallest": threshold.smallest, "largest": threshold.largest}
    # For every group: a small one may have images in testSet but none here.
    chosen = choose_thresholds(answers, truth_Q, known_Q, groups=parts.group_N, **limits)
    decision = Decision(calibrators, {group: choice.value for group, choice in chosen.items()})
    metrics = summarise(shares_of(answers, decision, parts))
    return decision, metrics | {f"threshold.{group}": value for group, value in decision.thresholds.items()}


def cosine_report(parts: Parts, embedding_ND: np.ndarray, *, device: str = "cpu") -> dict[str, float]:
    """What a trial reports per epoch: no local matching, no calibration.

    Returns:
        `geo_mean_cosine`: mean over groups of the best GEO_MEAN over cosine thresholds on `thresholdSet`;
        `accuracy_validating`: share of `validating` images whose most similar `training` image is the same animal.
    """

    def nearest(part: str) -> Answers:
        found = find_candidates(
            embedding_ND, parts.group_N, parts.rows(part), parts.rows("training"), size=1, device=device
        )
        return answer(found, found.cosine_QB, parts.identity_N)

    answers = nearest("thresholdSet")
    truth_Q = parts.identity_N[answers.query_Q]
    known_Q = parts.known(answers.query_Q)
    chosen = choose_thresholds(answers, truth_Q, known_Q, groups=answers.group_Q, smallest=-1.0, largest=1.0)
    validating = nearest("validating")
    right = validating.identity_Q == parts.identity_N[validating.query_Q]
    values = np.array([choice.geo_mean for choice in chosen.values()])
    return {
        "geo_mean_cosine": float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan"),
        "accuracy_validating": float(np.mean(right)) if len(right) else float("nan"),
    }


def top_identities(
    candidates: Candidates, probability_QB: np.ndarray, identity_N: np.ndarray, count: int = 5
) -> list[list[tuple[str, float]]]:
    """The `count` most probable distinct identities of each query, best first, for a person to review."""
    order_QB = rank_candidates(probability_QB, candidates.cosine_QB)
    reviewed = []
    for query, order_B in enumerate(order_QB):
        best: dict[str, float] = {}
        for slot in order_B:
            if candidates.gallery_QB[query, slot] >= 0 and not np.isnan(probability_QB[query, slot]):
                best.setdefault(identity_N[candidates.gallery_QB[query, slot]], float(probability_QB[query, slot]))
        reviewed.append(list(best.items())[:count])
    return reviewed
