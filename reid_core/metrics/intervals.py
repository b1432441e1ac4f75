"""Confidence intervals over identities, for one model and for the difference of two.

share right per identity → estimate with its 95 % interval, or resamples (paper §6.0).
Letters: K identities, R resamples, G groups.

A species may have five new identities, and the plain percentile bootstrap is too narrow for so few. Two questions
have two bootstraps (`benchmarks/selection.py` measures both):
* One model: `estimate_share`, then `estimate_geo_mean` and `estimate_mean`. No resample leaves the range of its data,
  and three shares of 1 have none, so two half identities are added: one all right, one all wrong.
* Two models on the same queries: `bootstrap*`, then `interval` of the difference. The half identities would cancel
  there, so the resamples are drawn and widened.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from reid_core.metrics.geo_mean import Shares

LEVEL = 0.95  # of every interval
DRAWS_HELD = 2**22  # drawn identities held at once: at most 48 MB with their shares


class Estimate(NamedTuple):
    """A metric with its 95 % interval; `low` <= `value` <= `high`, NaN where undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(np.nan, np.nan, np.nan)


def estimate_share(share_K: np.ndarray) -> Estimate:
    """Mean share over identities with its 95 % interval, by the Bayesian bootstrap with a prior.

    A resample weighs the identities by Dirichlet draws (Rubin 1981, Annals of Statistics 9:130): 1 for each identity
    and 1/2 for each of two prior ones, of which one is all right and one all wrong (Muliere and Secchi 1996). The mean
    and the variance of all resamples are known, so none is drawn: the limits are those of the Beta distribution that
    has both. If every share is 0 or 1 it is exact, and is Jeffreys' interval of a proportion, whose coverage is near
    the stated one in the smallest samples (Brown, Cai and DasGupta 2001, Statistical Science 16:101).

    Args:
        share_K: Share of right answers of each identity; shape (K,), in [0, 1].

    Returns:
        The plain mean, and an interval that contains it; undefined without identities.

    Example:
        >>> [round(number, 3) for number in estimate_share(np.ones(3))]  # a rate of 1/2 does so one time in eight
        [1.0, 0.464, 1.0]
        >>> [round(number, 3) for number in estimate_share(np.array([0.5]))]  # Beta(2.5, 2.5)
        [0.5, 0.123, 0.877]
    """
    total = len(share_K) + 1
    if total == 1:
        return UNDEFINED
    value, mean = float(np.mean(share_K)), (np.sum(share_K) + 0.5) / total
    squares = np.sum((share_K - mean) ** 2) + (mean**2 + (1 - mean) ** 2) / 2
    size = mean * (1 - mean) / (squares / total / (total + 1)) - 1  # a + b of Beta(a, b); at least `total`
    low, high = betaincinv(mean * size, (1 - mean) * size, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))


def estimate_geo_mean(known: Estimate, new: Estimate) -> Estimate:
    """GEO_MEAN with its 95 % interval, from BAKS (`known`) and BAUS (`new`) with theirs.

    The logarithm of GEO_MEAN is the mean of two independent logarithms; the distances of its limits are recovered from
    theirs as in `estimate_mean`.

    Example:
        >>> estimate_geo_mean(Estimate(1.0, 0.25, 1.0), Estimate(0.25, 0.25, 1.0))  # 0.5 · 4 ** (±1 / 2)
        Estimate(value=0.5, low=0.25, high=1.0)
    """
    value = float(np.sqrt(known.value * new.value))
    if np.isnan(value):
        return UNDEFINED
    if value == 0:  # no logarithm: as far as both limits together reach
        return Estimate(0.0, 0.0, float(np.sqrt(known.high * new.high)))
    below = np.hypot(np.log(known.value / known.low), np.log(new.value / new.low)) / 2
    above = np.hypot(np.log(known.high / known.value), np.log(new.high / new.value)) / 2
    return Estimate(value, float(value * np.exp(-below)), float(value * np.exp(above)))


def estimate_mean(estimates: Sequence[Estimate], num_groups: int) -> Estimate:
    """Sum of independent GEO_MEANs over `num_groups` with its 95 % interval; undefined without estimates.

    The distance of each limit from the value is the root of the summed squares of the groups' distances (MOVER; Zou and
    Donner 2008, Statistics in Medicine 27:1693). Averaging draws would not do: the half identities pull every group to
    the middle, and what is little beside the spread of one group is much beside that of a mean. So is the bias of a
    root: GEO_MEAN of few identities is on average too low by half the variance of its logarithm (Jensen, second order).
    The upper limit is raised until the bias left is as small beside the mean's spread as it is in a group.

    Example:
        >>> [round(number, 3) for number in estimate_mean([Estimate(0.5, 0.4, 0.6), Estimate(0.8, 0.5, 0.9)], 2)]
        [0.65, 0.492, 0.722]
    """
    if not estimates:
        return UNDEFINED
    value_G, low_G, high_G = np.array(estimates).T
    value = np.sum(value_G) / num_groups
    below, above = np.linalg.norm(value_G - low_G) / num_groups, np.linalg.norm(high_G - value_G) / num_groups
    above += np.sum(_bias_of_root(value_G, low_G, high_G)) * (1 - len(value_G) ** -0.5) / num_groups
    return Estimate(float(value), float(value - below), min(float(value + above), len(value_G) / num_groups))


def _bias_of_root(value_G: np.ndarray, low_G: np.ndarray, high_G: np.ndarray) -> np.ndarray:
    """Half the variance of the logarithm, as the limits imply it; 0 for a lower limit of 0, which has none."""
    positive_G = low_G > 0
    ratio_G = np.divide(high_G, low_G, out=np.ones(len(low_G)), where=positive_G)
    return value_G * (np.log(ratio_G) / (2 * ndtri((1 + LEVEL) / 2))) ** 2 / 2


def bootstrap_means(share_K: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Mean share under resampling of identities with replacement, to compare models in pairs; shape (R,), in [0, 1].

    The same seed and number of identities draw the same identities: two models scored on the same queries are
    thereby compared in pairs. Deviations from the mean are widened by t / z · sqrt(K / (K - 1)), t and z the 0.975
    quantiles of Student's (K - 1 degrees of freedom) and the normal distribution: the reasoning of the expanded
    percentile interval (Hesterberg 2015, The American Statistician 69:371), applied to the draws because the levels it
    asks for lie beyond the extremes that 3 or 4 identities have. One identity has no deviation to widen.
    """
    num_identities = len(share_K)
    if num_identities == 0:
        return np.full(resamples, np.nan)
    rng = np.random.default_rng([seed, num_identities])
    mean, mean_R = np.mean(share_K), np.empty(resamples)
    block = max(1, DRAWS_HELD // num_identities)
    for start in range(0, resamples, block):
        shape = len(mean_R[start : start + block]), num_identities
        mean_R[start : start + block] = share_K[rng.integers(num_identities, size=shape, dtype=np.int32)].mean(axis=1)
    return np.clip(mean + _widening(num_identities) * (mean_R - mean), 0, 1)


def _widening(num_identities: int) -> float:
    if num_identities == 1:
        return 1.0
    degrees, quantile = num_identities - 1, (1 + LEVEL) / 2
    return float(stdtrit(degrees, quantile) / ndtri(quantile) * np.sqrt(num_identities / degrees))


class Draws(NamedTuple):
    """BAKS and BAUS under resampling, each (R,); NaN where undefined."""

    baks_R: np.ndarray
    baus_R: np.ndarray

    def geo_mean(self) -> np.ndarray:
        """GEO_MEAN of each resample; (R,)."""
        return np.sqrt(self.baks_R * self.baus_R)


def bootstrap(shares: Shares, *, resamples: int = 2000, seed: int = 0) -> Draws:
    """BAKS and BAUS under resampling of known and of new identities."""
    return Draws(
        bootstrap_means(shares.known_K, resamples=resamples, seed=2 * seed),
        bootstrap_means(shares.new_K, resamples=resamples, seed=2 * seed + 1),
    )


def bootstrap_groups(shares_of_group: Mapping[str, Shares], *, resamples: int = 2000) -> dict[str, Draws]:
    """`bootstrap` of each group, with the seed of its position."""
    return {
        group: bootstrap(shares, resamples=resamples, seed=index)
        for index, (group, shares) in enumerate(shares_of_group.items())
    }


def bootstrap_mean_of_groups(shares_of_group: Mapping[str, Shares], *, resamples: int = 2000) -> np.ndarray:
    """`mean_of_groups` under resampling within each group; shape (R,)."""
    draws = [draws.geo_mean() for draws in bootstrap_groups(shares_of_group, resamples=resamples).values()]
    defined = [geo_R for geo_R in draws if not np.isnan(geo_R).any()]  # a defined GEO_MEAN is so in every resample
    return np.mean(defined, axis=0) if defined else np.full(resamples, np.nan)


def interval(draws_R: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of bootstrap draws; (NaN, NaN) where they are undefined."""
    low, high = np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
