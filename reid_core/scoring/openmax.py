"""The classifier's answer with room for an unknown animal: softmax within the group, and OpenMax.

logits of training images → mean activations and Weibull tails; logits of queries → probabilities (paper §7.3).
Bendale and Boult, "Towards Open Set Deep Networks", CVPR 2016. The activation of an animal is its logit minus the
smallest logit of the group: the softmax stays the same, and an activation that is revised downwards does shrink
(of a negative logit, the product with a weight below 1 would be larger).
Where an identity has few images, a tail of 20 holds all of them, and then every second known animal lies far out in it:
such data need a short `predict.openmax_tail` and a small `predict.openmax_top`.
Shape letters: N images, Q queries, K identities of all groups, C identities of one group, S samples, T tail.
"""

import logging
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from scipy.special import softmax

from reid_core.config.parameters import PredictConfig
from reid_core.data.animals import positions_by_group

LARGEST_SHAPE = 1e4  # tails of a narrower spread (about 1 in 10,000) count as constant
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OpenMax:
    """What OpenMax learned from the correctly classified training images of each identity."""

    group_K: np.ndarray  # strings
    mean_KK: np.ndarray  # row: mean activations of an identity's images; 0 outside its group
    shape_K: np.ndarray  # of the Weibull distribution of its largest distances to that mean
    scale_K: np.ndarray  # inf: nothing is too far away
    covered_K: np.ndarray  # bool: has a correctly classified image
    num_top: int  # identities whose activations are revised

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything but the groups' names as numeric arrays, for safetensors."""
        arrays = {"mean": self.mean_KK, "shape": self.shape_K, "scale": self.scale_K, "covered": self.covered_K}
        return arrays | {"num_top": np.array([self.num_top])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], group_K: np.ndarray) -> "OpenMax":
        """What `to_arrays` gave, and the group of each identity."""
        return cls(
            group_K=group_K,
            mean_KK=arrays["mean"],
            shape_K=arrays["shape"],
            scale_K=arrays["scale"],
            covered_K=arrays["covered"],
            num_top=int(arrays["num_top"][0]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OpenMax):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        same = all(np.array_equal(mine[name], theirs[name]) for name in mine)
        return same and np.array_equal(self.group_K, other.group_K)

    def predict(self, logit_QK: np.ndarray, group_Q: np.ndarray) -> np.ndarray:
        """Probability of each identity and, in the last column, of an unknown animal; (Q, K + 1), rows sum to 1.

        Only the identities of the query's group compete; the others have probability 0. Identities without a
        correctly classified image get nothing either, and their softmax mass m goes to the unknown: p = (1 - m) times
        OpenMax over the others, plus m for the unknown. With no identity left, all is unknown.
        """
        probability_QK1 = np.zeros((len(logit_QK), len(self.group_K) + 1))
        for group, rows in positions_by_group(group_Q):
            columns = np.flatnonzero(self.group_K == group)
            covered = columns[self.covered_K[columns]]
            if len(covered) == 0:
                probability_QK1[rows, -1] = 1.0
                continue
            activation_QC = _activations(logit_QK[np.ix_(rows, columns)])
            lost_Q1 = softmax(activation_QC, axis=1)[:, ~self.covered_K[columns]].sum(axis=1, keepdims=True)
            probability_QC1 = (1 - lost_Q1) * self._open(activation_QC, columns, covered)
            probability_QK1[np.ix_(rows, covered)] = probability_QC1[:, :-1]
            probability_QK1[rows, -1] = probability_QC1[:, -1] + lost_Q1[:, 0]
        return probability_QK1

    def _open(self, activation_QC: np.ndarray, columns: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Algorithm 2 of the paper, over the covered identities of one group and the unknown."""
        far_QC = cdist(activation_QC, self.mean_KK[np.ix_(covered, columns)])
        cdf_QC = -np.expm1(-((far_QC / self.scale_K[covered]) ** self.shape_K[covered]))
        activation_QC = activation_QC[:, self.covered_K[columns]]
        # Ranks count from 0, as in the authors' code: with the printed formula's 1, a single top identity would not
        # be revised at all.
        rank_QC = np.argsort(np.argsort(-activation_QC, axis=1, kind="stable"), axis=1)
        num_top = min(self.num_top, len(covered))
        weight_QC = 1 - np.clip((num_top - rank_QC) / num_top, 0, None) * cdf_QC
        unknown_Q = (activation_QC * (1 - weight_QC)).sum(axis=1)
        return softmax(np.column_stack([activation_QC * weight_QC, unknown_Q]), axis=1)


def softmax_of_group(logit_QK: np.ndarray, group_Q: np.ndarray, group_K: np.ndarray) -> np.ndarray:
    """Softmax over the identities of each query's group; (Q, K), 0 for the others.

    Example:
        >>> softmax_of_group(np.array([[1.0, 1.0, 9.0]]), np.array(["cow"]), np.array(["cow", "cow", "pig"]))
        array([[0.5, 0.5, 0. ]])
    """
    probability_QK = np.zeros(logit_QK.shape)
    for group, rows in positions_by_group(group_Q):
        cells = np.ix_(rows, group_K == group)
        if (group_K == group).any():
            probability_QK[cells] = softmax(logit_QK[cells].astype(float), axis=1)
    return probability_QK


def fit_openmax(logit_NK: np.ndarray, code_N: np.ndarray, group_K: np.ndarray, config: PredictConfig) -> OpenMax:
    """Learn from the training images whose own identity has the largest logit of its group.

    An identity whose largest distances are constant, as those of one image or of two always are, takes a Weibull
    distribution fitted to the tails of the group's other identities; if all are constant, to all positive distances of
    the group; and if that cannot be fitted either, its activation is never revised.

    Args:
        logit_NK: Of the training images.
        code_N: Position of each image's identity among the K; -1 where the classifier has none (left out).
        group_K: Group of each identity; strings.
        config: Size of the tail, and number of identities that `predict` revises.

    Returns:
        The fitted model. In a group without a correctly classified image everything is unknown; a warning names it.
    """
    num_identities = len(group_K)
    mean_KK, covered_K = np.zeros((num_identities, num_identities)), np.zeros(num_identities, dtype=bool)
    shape_K, scale_K = np.ones(num_identities), np.full(num_identities, np.inf)
    for group, columns in positions_by_group(group_K):
        rows = np.flatnonzero(np.isin(code_N, columns))
        own_N = np.searchsorted(columns, code_N[rows])
        activation_NC = _activations(logit_NK[np.ix_(rows, columns)])
        correct_N = activation_NC.argmax(axis=1) == own_N
        if not correct_N.any():
            logger.warning("OpenMax: no training image of %s is classified correctly; all its queries are new", group)
            continue
        samples = {c: activation_NC[correct_N & (own_N == c)] for c in np.unique(own_N[correct_N]).tolist()}
        for c, activation_SC in samples.items():
            mean_KK[columns[c], columns] = activation_SC.mean(axis=0)
        covered = columns[list(samples)]
        covered_K[covered] = True
        far = [cdist(activation_SC, activation_SC.mean(axis=0)[None])[:, 0] for activation_SC in samples.values()]
        shape_K[covered], scale_K[covered] = _fit_tails(far, config.openmax_tail)
    return OpenMax(group_K, mean_KK, shape_K, scale_K, covered_K, config.openmax_top)


def _activations(logit_QC: np.ndarray) -> np.ndarray:
    return logit_QC.astype(float) - logit_QC.min(axis=1, keepdims=True)


def _fit_tails(far: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Weibull shape and scale per identity of a group, from the distances of its images to their mean."""
    tails = [np.sort(far_S)[-size:] for far_S in far]
    fits = [fit_weibull(tail_T) for tail_T in tails]
    pooled = [tail_T for tail_T, fit in zip(tails, fits, strict=True) if fit] or tails
    together = np.concatenate(pooled)
    fallback = fit_weibull(together[together > 0]) or (1.0, np.inf)
    shape_C, scale_C = zip(*(fit or fallback for fit in fits), strict=True)
    return np.array(shape_C), np.array(scale_C)


def fit_weibull(value_T: np.ndarray) -> tuple[float, float] | None:
    """Shape and scale of the most likely Weibull distribution from 0 on (`scipy.stats.weibull_min`, floc=0).

    By the one root of the likelihood's derivative after the shape: thirty times faster than scipy's search, and it
    cannot fail to converge.

    Args:
        value_T: ≥ 0.

    Returns:
        None if the values are (nearly) constant, or there are fewer than two.
    """
    if len(value_T) < 2 or value_T.max() <= 0:
        return None
    largest = value_T.max()
    ratio_T = np.clip(value_T / largest, 1e-9, None)  # powers of it stay finite, and so does the logarithm of 0
    log_T = np.log(ratio_T)

    def slope(shape: float) -> float:
        power_T = ratio_T**shape
        return float((power_T @ log_T) / power_T.sum() - 1 / shape - log_T.mean())

    if slope(LARGEST_SHAPE) <= 0:
        return None
    shape = float(brentq(slope, 1e-3, LARGEST_SHAPE))
    return shape, float(largest * np.mean(ratio_T**shape) ** (1 / shape))
