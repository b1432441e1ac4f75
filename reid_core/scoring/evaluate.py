"""The chain from embeddings to metrics, on one page.

embeddings → shortlist → match scores → calibrated probabilities → answers → BAKS, BAUS, GEO_MEAN (paper §5, 6.0); or
a classifier's logits → answers (§4.2, §7.3). Calibrators and weights are fitted on `validating`, OpenMax on `training`,
thresholds on `thresholdSet`; all are only applied to anything else.
Shape letters: N images (rows of the cache), R some of them, Q queries, K identities of the classifier.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from reid_core.config.parameters import PredictConfig, ThresholdConfig, TrialConfig
from reid_core.data.animals import name_animals, positions_by_group
from reid_core.data.splits.parts import Parts
from reid_core.errors import UserError
from reid_core.matching.pairs.store import ScorePairs
from reid_core.metrics.geo_mean import Shares, compute_shares
from reid_core.metrics.summary import summarise
from reid_core.scoring.candidates import Candidates, add_second_model, find_candidates, match_candidates
from reid_core.scoring.decision import Answers, Decision, Outputs, calibrate, weigh_matchers
from reid_core.scoring.openmax import OpenMax, fit_openmax
from reid_core.scoring.thresholds import ScoredQueries, Threshold, choose_threshold, threshold_curve

MIN_SAMPLE = 200  # training images whose accuracy is reported; a tenth of them where that is more


class Decided(NamedTuple):
    """What `decide` has fitted, and what it is worth."""

    decision: Decision
    answers: Answers  # of `thresholdSet`
    metrics: dict[str, float]  # on `thresholdSet` (`summary.summarise`), with `threshold.<group>`


def gather_candidates(
    config: TrialConfig,
    parts: Parts,
    outputs: Outputs,
    query_Q: np.ndarray,
    score_pairs: ScorePairs | None,
    *,
    device: str = "cpu",
) -> Candidates:
    """Shortlist of each query from `training`, scored by all matchers if the rule asks for them.

    Raises:
        UserError: If `match.same_side` is on and the sides are not known.
    """
    if config.match.same_side and parts.sides_N6 is None:
        raise UserError("match.same_side=true needs the photographed sides: metadata.csv has no column orientation")
    found = find_candidates(
        outputs.embedding_ND,
        parts.group_N,
        query_Q,
        parts.rows("training"),
        shortlist_size=config.match.shortlist,
        sides_N6=parts.sides_N6 if config.match.same_side else None,
        device=device,
    )
    if config.predict.rule != "threshold":
        return found
    return match_candidates(add_second_model(found, outputs.second_ND), score_pairs)


def answer_queries(
    config: TrialConfig,
    decision: Decision,
    parts: Parts,
    outputs: Outputs,
    query_Q: np.ndarray,
    score_pairs: ScorePairs | None,
    *,
    device: str = "cpu",
) -> Answers:
    """Best identity of each query, from the networks' outputs on: the same chain for every part and every model."""
    candidates = gather_candidates(config, parts, outputs, query_Q, score_pairs, device=device)
    return decision.answer(candidates, outputs, parts.identity_N)


def decide(
    config: TrialConfig, parts: Parts, outputs: Outputs, score_pairs: ScorePairs | None, *, device: str = "cpu"
) -> Decided:
    """Fit what the rule needs, choose thresholds on `thresholdSet`, and score the latter (paper §5.2).

    Raises:
        UserError: If the rule needs a classifier and there is none, or `match.same_side` and there are no sides.
    """
    decision, fusion = Decision(config.predict, {}, {}, {}), config.fusion
    if config.predict.rule == "openmax":
        decision = replace(decision, openmax=_fit_openmax(config.predict, parts, outputs))
    elif config.predict.rule == "threshold" and fusion.calibration != "none":
        rows = parts.rows("validating")
        validating = gather_candidates(config, parts, outputs, rows, score_pairs, device=device)
        calibrators = calibrate(validating, parts.identity_N, fusion.calibration)
        fusion_weights = weigh_matchers(validating, parts.identity_N, calibrators, fusion.weights)
        decision = replace(decision, calibrators=calibrators, fusion_weights=fusion_weights)
    rows = parts.rows("thresholdSet")
    answers = answer_queries(config, decision, parts, outputs, rows, score_pairs, device=device)
    # For every group: a small one may have images in testSet but none here.
    chosen = choose_thresholds(answers, parts, groups=parts.group_N, config=config.threshold)
    decision = replace(decision, thresholds={group: choice.value for group, choice in chosen.items()})
    metrics = summarise(shares_of(answers, decision, parts))
    of_groups = {f"threshold.{group}": value for group, value in decision.thresholds.items()}
    return Decided(decision, answers, metrics | of_groups)


def _fit_openmax(config: PredictConfig, parts: Parts, outputs: Outputs) -> OpenMax:
    logit_NK, identity_K, group_K = outputs.classifier()
    position = {animal: k for k, animal in enumerate(name_animals(group_K, identity_K))}
    training = parts.rows("training")
    code_N = np.array([position.get(animal, -1) for animal in parts.animals(training)], dtype=int)
    return fit_openmax(logit_NK[training], code_N, group_K, config)


def choose_thresholds(
    answers: Answers, parts: Parts, *, groups: np.ndarray, config: ThresholdConfig
) -> dict[str, Threshold]:
    """The best threshold of each of `groups` on queries with known truth (`thresholdSet`).

    With `threshold.per=all` every group has the one that is best over all groups together, with its BAKS, BAUS and
    GEO_MEAN there. A group without known or without new queries (or without any) takes the value of that one too, or
    the middle of the range if it is undefined; its BAKS, BAUS and GEO_MEAN stay NaN. `threshold.fixed` is not chosen.
    """
    truth_Q, known_Q = parts.identity_N[answers.query_Q], parts.known(answers.query_Q)
    queries = ScoredQueries(
        score_Q=answers.score_Q,
        right_Q=answers.identity_Q == truth_Q,
        identity_Q=parts.animals(answers.query_Q),
        known_Q=known_Q,
    )

    def choose(chosen_Q: np.ndarray) -> Threshold:
        chosen = queries.select(chosen_Q)
        if config.fixed is None:
            return choose_threshold(chosen, smallest=config.smallest, largest=config.largest, search=config.search)
        curves = threshold_curve(chosen, np.array([config.fixed]))
        return Threshold(config.fixed, *(float(curve_1[0]) for curve_1 in curves))

    names = [str(group) for group in np.unique(groups.astype(str))]
    pooled = choose(np.ones(len(truth_Q), dtype=bool))
    if np.isnan(pooled.value):
        pooled = replace(pooled, value=(config.smallest + config.largest) / 2)
    if config.per == "all":
        return dict.fromkeys(names, pooled)
    chosen = {group: choose(answers.group_Q == group) for group in names}
    return {
        group: replace(threshold, value=pooled.value) if np.isnan(threshold.value) else threshold
        for group, threshold in chosen.items()
    }


def shares_of(answers: Answers, decision: Decision, parts: Parts) -> dict[str, Shares]:
    """`Shares` of each group under the decision's thresholds, in the sorted order of the groups."""
    answer_Q, truth_Q = answers.name(decision.thresholds), parts.identity_N[answers.query_Q]
    columns = (answer_Q, truth_Q, parts.known(answers.query_Q))
    return {
        group: compute_shares(*(column[rows] for column in columns))
        for group, rows in positions_by_group(answers.group_Q)
    }


def cosine_report(config: TrialConfig, parts: Parts, outputs: Outputs, *, device: str = "cpu") -> dict[str, float]:
    """What a trial reports per epoch: no local matching, no calibration.

    Returns:
        `geo_mean_cosine`: mean over groups of the best GEO_MEAN over cosine thresholds on `thresholdSet`, or, as the
        objective asks for it, the smallest;
        `accuracy_validating`: share of `validating` images whose most similar `training` image is the same animal;
        `accuracy_training`: the same of a fixed tenth of `training` (at least `MIN_SAMPLE`, at most all), an image
        being no candidate for itself and animals with a single training image left out (paper figure A.4).
    """
    gallery = parts.rows("training")
    by_cosine = Decision(PredictConfig(), {}, {}, {})

    def nearest(query_Q: np.ndarray) -> Answers:
        # Two: the most similar image to one of the gallery is itself.
        found = find_candidates(outputs.embedding_ND, parts.group_N, query_Q, gallery, shortlist_size=2, device=device)
        others_QB = np.where(found.gallery_QB == query_Q[:, None], np.nan, found.cosine_QB)
        return by_cosine.answer(replace(found, cosine_QB=others_QB), outputs, parts.identity_N)

    def accuracy(query_Q: np.ndarray) -> float:
        right_Q = nearest(query_Q).identity_Q == parts.identity_N[query_Q]
        return float(np.mean(right_Q)) if len(right_Q) else float("nan")

    answers = nearest(parts.rows("thresholdSet"))
    chosen = choose_thresholds(
        answers, parts, groups=answers.group_Q, config=ThresholdConfig(smallest=-1.0, largest=1.0)
    )
    values = [choice.geo_mean for choice in chosen.values() if not np.isnan(choice.geo_mean)]
    aggregate = np.min if config.threshold.objective == "worst_group" else np.mean
    return {
        "geo_mean_cosine": float(aggregate(values)) if values else float("nan"),
        "accuracy_validating": accuracy(parts.rows("validating")),
        "accuracy_training": accuracy(sample_training(parts)),
    }


def sample_training(parts: Parts) -> np.ndarray:
    """Rows of the training images whose accuracy is reported, ascending; the same in every epoch and trial."""
    training = parts.rows("training")
    _, index, count = np.unique(parts.animals(training), return_inverse=True, return_counts=True)
    training = training[count[index] > 1]
    size = min(len(training), max(MIN_SAMPLE, len(training) // 10))
    return np.sort(np.random.default_rng(0).choice(training, size, replace=False))
