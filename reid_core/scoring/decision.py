"""What is fitted after training, and how it answers.

scored candidates with known truth → calibrators and fusion weights; candidates or logits of queries → best identities
(paper §4.2, §5, §7.3).
Shape letters: N images (rows of the cache), Q queries, B shortlist, D embedding, K identities of the classifier,
M matchers, P pairs.
"""

from dataclasses import dataclass, replace

import numpy as np

from reid_core.config.parameters import PredictConfig
from reid_core.errors import UserError
from reid_core.scoring.calibration import AnyCalibrator, fit_per_group, predict_per_group
from reid_core.scoring.candidates import Candidates
from reid_core.scoring.fusion import fit_fusion_weights, fuse
from reid_core.scoring.openmax import OpenMax, softmax_of_group
from reid_core.scoring.ranking import Ranking, rank_identities
from reid_core.scoring.thresholds import name_queries

Calibrators = dict[str, dict[str, AnyCalibrator]]  # "cosine", "match" or "second" → group → calibrator


@dataclass(frozen=True)
class Outputs:
    """What the networks say about every image; NaN in the rows that were not asked for."""

    embedding_ND: np.ndarray  # rows of length 1
    logit_NK: np.ndarray | None = None  # of the classifier
    second_ND: np.ndarray | None = None  # embeddings of a second global model, rows of length 1
    class_identity_K: np.ndarray | None = None  # whom each logit stands for, and that animal's group; strings
    class_group_K: np.ndarray | None = None

    def classifier(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits, identities and groups of the classifier.

        Raises:
            UserError: If there is none.
        """
        if self.logit_NK is None or self.class_identity_K is None or self.class_group_K is None:
            raise UserError("predict.rule=softmax and openmax need a classifier: set loss.name to one that trains it")
        return self.logit_NK, self.class_identity_K, self.class_group_K


@dataclass(frozen=True)
class Answers:
    """Best identity of each query and how probable it is, before any threshold."""

    query_Q: np.ndarray
    group_Q: np.ndarray
    identity_Q: np.ndarray
    score_Q: np.ndarray  # in [0, 1]; in [-1, 1] if the cosine is not calibrated
    ranking: Ranking  # all that was weighed, for a person to review

    def name(self, thresholds: dict[str, float]) -> np.ndarray:
        """Identity or `new_individual` per query, by the threshold of its group; shape (Q,)."""
        threshold_Q = np.array([thresholds[group] for group in self.group_Q])
        return name_queries(self.identity_Q, self.score_Q, threshold_Q)


@dataclass(frozen=True)
class Decision:
    """All that is fitted after training; applied as it is to test images and in the exported model."""

    predict: PredictConfig
    calibrators: Calibrators  # empty: the cosine itself is the score
    fusion_weights: dict[str, float]  # by matcher, as the calibrators
    thresholds: dict[str, float]  # by group
    openmax: OpenMax | None = None

    def answer(self, candidates: Candidates, outputs: Outputs, identity_N: np.ndarray) -> Answers:
        """Best identity of each query: by its candidates or, if the rule is not "threshold", by its logits.

        Args:
            candidates: Of the queries, from `evaluate.gather_candidates`.
            outputs: Only the logits are read, and only if the rule asks for them.
            identity_N: Identity of each gallery image; rows as in `outputs`.
        """
        if self.predict.rule != "threshold":
            return self._ask_classifier(candidates.query_Q, candidates.group_Q, outputs)
        # Where there is no image, the probability is NaN and the name unused.
        identity_QB = identity_N[candidates.gallery_QB]
        ranking = rank_identities(self.probabilities(candidates), candidates.cosine_QB, identity_QB, self.predict)
        return Answers(candidates.query_Q, candidates.group_Q, *ranking.best(), ranking)

    def probabilities(self, candidates: Candidates) -> np.ndarray:
        """Weighted mean of the calibrated scores of the matchers that scored the pair; (Q, B), NaN where none did."""
        if not self.calibrators:
            return candidates.cosine_QB
        probabilities = calibrated(candidates, self.calibrators)
        return fuse(list(probabilities.values()), [self.fusion_weights[name] for name in probabilities])

    def _ask_classifier(self, query_Q: np.ndarray, group_Q: np.ndarray, outputs: Outputs) -> Answers:
        """Most probable identity of the query's group; its score is 0 where an unknown animal is more probable."""
        logit_NK, identity_K, group_K = outputs.classifier()
        logit_QK, unknown_Q = logit_NK[query_Q], np.zeros(len(query_Q))
        if self.openmax is None:
            probability_QK = softmax_of_group(logit_QK, group_Q, group_K)
        else:
            open_QK1 = self.openmax.predict(logit_QK, group_Q)
            probability_QK, unknown_Q = open_QK1[:, :-1], open_QK1[:, -1]
        probability_QK = np.where(group_K == group_Q[:, None], probability_QK, np.nan)
        identity_QK = np.broadcast_to(identity_K, probability_QK.shape)
        # Every identity is there once: nothing to aggregate. Ties go to the larger logit.
        ranking = rank_identities(probability_QK, logit_QK, identity_QK, replace(self.predict, aggregate="max"))
        identity_Q, score_Q = ranking.best()
        return Answers(query_Q, group_Q, identity_Q, np.where(unknown_Q > score_Q, 0.0, score_Q), ranking)


def calibrate(candidates: Candidates, identity_N: np.ndarray, kind: str = "isotonic") -> Calibrators:
    """Fit a calibrator per matcher and group on queries with known truth (`validating` against `training`).

    Fitted on the shortlisted pairs, the only ones that it will be asked about. A matcher that scored no pair has none.
    """
    there_QB, same_P, group_P = _pairs(candidates, identity_N)
    return {
        name: fit_per_group(score_QB[there_QB], same_P, group_P, kind)
        for name, score_QB in candidates.scores().items()
        if name == "cosine" or not np.isnan(score_QB).all()
    }


def calibrated(candidates: Candidates, calibrators: Calibrators) -> dict[str, np.ndarray]:
    """Probability (Q, B) of each pair by each matcher that has a calibrator; NaN where it did not score the pair."""
    scores = candidates.scores()
    return {name: predict_per_group(fits, scores[name], candidates.group_Q) for name, fits in calibrators.items()}


def weigh_matchers(
    candidates: Candidates, identity_N: np.ndarray, calibrators: Calibrators, kind: str
) -> dict[str, float]:
    """Weight of each matcher in the fusion: "equal" ones, or "fitted" on the pairs that they were calibrated with."""
    if kind == "equal":
        return dict.fromkeys(calibrators, 1 / len(calibrators))
    there_QB, same_P, _ = _pairs(candidates, identity_N)
    probability_PM = np.stack([p_QB[there_QB] for p_QB in calibrated(candidates, calibrators).values()], axis=1)
    return dict(zip(calibrators, fit_fusion_weights(probability_PM, same_P).tolist(), strict=True))


def _pairs(candidates: Candidates, identity_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which slots hold a gallery image; of these, whether it shows the query's animal, and the group."""
    there_QB = candidates.gallery_QB >= 0
    same_QB = identity_N[candidates.gallery_QB] == identity_N[candidates.query_Q][:, None]
    group_QB = np.broadcast_to(candidates.group_Q[:, None], there_QB.shape)
    return there_QB, same_QB[there_QB], group_QB[there_QB]
