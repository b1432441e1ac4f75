"""Does confirmation report honestly and choose well, and do the 95 % intervals cover? Simulations, one core.

    python benchmarks/selection.py                       # 40 seconds
    python benchmarks/selection.py --repetitions 200     # coarser, seconds

1. A sweep of 50 trials, the preset among them, whose true scores have a standard deviation of 0.03. The noise of a
   score is that of the mean of three groups with standard errors 0.05, 0.03 and 0.02: 0.0205. Equal total cost:
   confirmation re-runs the preset and the 3 best in 3 runs (50 + 12), the raw maximum has 62 trials. "best": how often
   the truly best of a side's own trials is chosen; "true": mean true score of the chosen, counted from the mean
   configuration; "of mean": the bias if the mean of the runs that chose were reported.
   A part of the noise variance is common to all trials of a split. It selects nothing, but every search score is off
   by the same amount, and only fresh splits average it. The claims are about the first two rows: none, and half of it.
2. Where confirmation chooses worse than the raw maximum at equal cost: little noise, large differences.
3. Intervals over identities with 3 to 5 new identities per species: plain percentile bootstrap against `metrics`. The
   rates of the animals follow Beta distributions, each has 1 to 6 images.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.metrics.advice import advise
from reid_core.metrics.confirmation import confirm
from reid_core.metrics.geo_mean import Shares
from reid_core.metrics.intervals import bootstrap, estimate_geo_mean, estimate_mean, estimate_share, interval

# Letters: C configurations, R runs, T trials, K identities, M simulated samples, B resamples.
NUM_TRIALS, SPREAD, MEAN_SCORE = 50, 0.03, 0.6
NOISE = float(np.linalg.norm([0.05, 0.03, 0.02]) / 3)  # lynx, salamander, turtle
RESAMPLES = 1000
BAND = (0.93, 0.97)
# Known identities of a group of which the stratified split makes 3, 4 and 5 new ones in a query set.
KNOWN_OF_NEW = {3: 25, 4: 40, 5: 55}
LYNX, OTHERS = 65, ((139, 44), (372, 33))  # AnimalCLEF25: known lynxes; known and new salamanders and turtles


class Sweep(NamedTuple):
    """One simulated sweep, all numbers about what each side chose."""

    raw_error: float  # reported - true
    raw_true: float  # - mean configuration
    raw_best: bool
    raw_covered: bool
    error: float
    chosen_error: float  # had the mean of the runs that chose been reported
    true: float
    best: bool
    covered: bool
    difference_covered: float  # NaN where the preset won: 0 without an interval
    width: float


def simulate_sweep(rng: np.random.Generator, common: float, num_confirmed: int, num_runs: int) -> Sweep:
    """Search, raw maximum at equal cost, and confirmation; `common`: share of the noise variance common to a split."""
    num_all = NUM_TRIALS + (num_confirmed + 1) * num_runs
    split_std, noise_std = NOISE * np.sqrt(common), NOISE * np.sqrt(1 - common)
    true_T = MEAN_SCORE + SPREAD * rng.standard_normal(num_all)
    seen_T = true_T + split_std * rng.standard_normal() + noise_std * rng.standard_normal(num_all)
    raw = int(seen_T.argmax())
    rerun_C = np.append(0, 1 + np.argsort(-seen_T[1:NUM_TRIALS])[:num_confirmed])
    noise_CR = noise_std * rng.standard_normal((len(rerun_C), num_runs)) + split_std * rng.standard_normal(num_runs)
    result = confirm(true_T[rerun_C, None] + noise_CR, search_C=seen_T[rerun_C])
    chosen = rerun_C[result.winner]
    gain = true_T[chosen] - true_T[0]
    return Sweep(
        raw_error=seen_T[raw] - true_T[raw],
        raw_true=true_T[raw] - MEAN_SCORE,
        raw_best=raw == true_T.argmax(),
        raw_covered=abs(seen_T[raw] - true_T[raw]) <= 1.96 * NOISE,
        error=result.score - true_T[chosen],
        chosen_error=result.chosen_mean - true_T[chosen],
        true=true_T[chosen] - MEAN_SCORE,
        best=chosen == true_T[:NUM_TRIALS].argmax(),
        covered=result.score_low <= true_T[chosen] <= result.score_high,
        difference_covered=result.difference_low <= gain <= result.difference_high if chosen else np.nan,
        width=result.score_high - result.score_low,
    )


def simulate_sweeps(repetitions: int, common: float, num_confirmed: int = 3, num_runs: int = 3) -> Sweep:
    """Means over `repetitions`, printed as one line."""
    rng = np.random.default_rng(0)
    rows = [simulate_sweep(rng, common, num_confirmed, num_runs) for _ in range(repetitions)]
    mean = Sweep(*np.nanmean(np.array(rows, dtype=float), axis=0).tolist())
    print(
        f"{common:6.1f} {num_confirmed:4d} {num_runs:4d}  | {mean.raw_error:+8.4f} {mean.raw_true:7.4f}"
        f" {mean.raw_best:6.3f} {mean.raw_covered:8.3f}  | {mean.error:+8.4f} {mean.chosen_error:+8.4f}"
        f" {mean.true:7.4f} {mean.best:6.3f} {mean.covered:8.3f} {mean.difference_covered:8.3f} {mean.width:7.3f}"
    )
    return mean


def print_sweeps(repetitions: int) -> list[Sweep]:
    """Part 1; the two rows of the claim."""
    print(f"{NUM_TRIALS} trials, true standard deviation {SPREAD}, noise {NOISE:.4f}, {repetitions} sweeps per row")
    print("common    k runs  |           raw maximum             |                    confirmation")
    print(
        "                  |     bias    true   best  covered  |     bias  of mean    true   best  covered"
        "    diff.   width"
    )
    claim = [simulate_sweeps(repetitions, common) for common in (0.0, 0.5)]
    for common, num_confirmed, num_runs in ((0.9, 3, 3), (0.0, 3, 2), (0.0, 3, 5), (0.0, 1, 3), (0.0, 5, 3)):
        simulate_sweeps(repetitions, common, num_confirmed, num_runs)
    return claim


def print_advice() -> None:
    """Part 2."""
    noises, spreads = (0.0025, 0.005, 0.01, NOISE, 0.05), (0.005, 0.01, 0.03, 0.06)
    print("\nHow much better confirmation (3 and the preset, 3 runs) chooses than the raw maximum of 62 trials:")
    print("noise \\ spread" + "".join(f"{spread:>9}" for spread in spreads))
    for noise in noises:
        gains = [advise(num_trials=NUM_TRIALS, noise_std=noise, spread_std=spread).gain for spread in spreads]
        print(f"{noise:14.4f}" + "".join(f"{gain:+9.4f}" for gain in gains))


def draw_shares(rng: np.random.Generator, num_identities: int, mean: float, size: float, samples: int) -> np.ndarray:
    """Shares of identities whose rates are Beta with this mean and size a + b; (K, M)."""
    shape = num_identities, samples
    images_KM = rng.integers(1, 7, shape)
    return rng.binomial(images_KM, rng.beta(mean * size, (1 - mean) * size, shape)) / images_KM


def plain_draws(share_KM: np.ndarray, seed: int) -> np.ndarray:
    """The plain bootstrap; (B, M)."""
    num_identities = len(share_KM)
    count_BK = np.random.default_rng([seed, num_identities]).multinomial(
        num_identities, np.full(num_identities, 1 / num_identities), size=RESAMPLES
    )
    return count_BK @ share_KM / num_identities


def covered(draws_BM: np.ndarray, truth: float) -> float:
    """How often the percentile interval holds the truth."""
    low_M, high_M = np.quantile(draws_BM, [0.025, 0.975], axis=0)
    return float(np.mean((low_M <= truth) & (truth <= high_M)))


def populations() -> Iterator[tuple[float, float, float]]:
    """Mean BAKS, mean BAUS, size of the Beta distribution (1: an animal is always or never right)."""
    return product((0.3, 0.6, 0.9), (0.6, 0.8, 0.9, 0.95), (1.0, 4.0))


def cover_baus(rng: np.random.Generator, num_new: int, population: tuple, samples: int) -> tuple[float, float]:
    """Coverage of BAUS: plain, ours."""
    _, mean, size = population
    share_KM = draw_shares(rng, num_new, mean, size, samples)
    ours = [estimate_share(share_K) for share_K in share_KM.T]
    return covered(plain_draws(share_KM, 0), mean), float(np.mean([low <= mean <= high for _, low, high in ours]))


def cover_groups(
    rng: np.random.Generator, sizes: list[tuple[int, int]], population: tuple, samples: int
) -> tuple[float, float]:
    """Coverage of the mean GEO_MEAN of groups with these known and new identities: plain, ours."""
    baks, baus, size = population
    plain_BM, parts_M = np.zeros((RESAMPLES, samples)), [[] for _ in range(samples)]
    for index, (num_known, num_new) in enumerate(sizes):
        known_KM, new_KM = (
            draw_shares(rng, number, mean, size, samples) for number, mean in ((num_known, baks), (num_new, baus))
        )
        plain_BM += np.sqrt(plain_draws(known_KM, 2 * index) * plain_draws(new_KM, 2 * index + 1)) / len(sizes)
        for parts, known_K, new_K in zip(parts_M, known_KM.T, new_KM.T, strict=True):
            parts.append(estimate_geo_mean(estimate_share(known_K), estimate_share(new_K)))
    truth = float(np.sqrt(baks * baus))
    ours = [estimate_mean(parts, len(sizes)) for parts in parts_M]
    return covered(plain_BM, truth), float(np.mean([low <= truth <= high for _, low, high in ours]))


def draw_pair(
    rng: np.random.Generator, num_identities: int, mean: float, size: float, samples: int
) -> list[np.ndarray]:
    """Shares of the same animals by two equally good models that agree on half of them; each (K, M)."""
    shared_KM, *own = (draw_shares(rng, num_identities, mean, size, samples) for _ in range(3))
    same_KM = rng.random(shared_KM.shape) < 0.5
    return [np.where(same_KM, shared_KM, own_KM) for own_KM in own]


def cover_pairs(rng: np.random.Generator, num_new: int, population: tuple, samples: int) -> tuple[float, float]:
    """Coverage of the difference, 0, in GEO_MEAN of two equally good models on the same animals: plain, ours."""
    baks, baus, size = population
    known, new = (
        draw_pair(rng, KNOWN_OF_NEW[num_new], baks, size, samples),
        draw_pair(rng, num_new, baus, size, samples),
    )
    plain = [
        np.sqrt(plain_draws(known_KM, 0) * plain_draws(new_KM, 1)) for known_KM, new_KM in zip(known, new, strict=True)
    ]
    hits = []
    for sample in range(samples):
        one, other = (Shares(known[model][:, sample], new[model][:, sample]) for model in (0, 1))
        low, high = interval(
            bootstrap(one, resamples=RESAMPLES).geo_mean() - bootstrap(other, resamples=RESAMPLES).geo_mean()
        )
        hits.append(low <= 0 <= high)
    return covered(plain[0] - plain[1], 0), float(np.mean(hits))


def print_coverage(samples: int) -> dict[str, tuple[float, float]]:
    """Part 3; mean coverage over populations and 3 to 5 new identities of each metric: plain, ours."""
    metrics: dict[str, Callable[..., tuple[float, float]]] = {
        "baus": cover_baus,
        "geo_mean": lambda rng, new, *rest: cover_groups(rng, [(KNOWN_OF_NEW[new], new)], *rest),
        "mean_of_lynx_and_two_large": lambda rng, new, *rest: cover_groups(rng, [(LYNX, new), *OTHERS], *rest),
        "mean_of_three_small": lambda rng, new, *rest: cover_groups(rng, 3 * [(KNOWN_OF_NEW[new], new)], *rest),
        "paired_difference": cover_pairs,
    }
    print(f"\nCoverage of 95 % intervals, {samples} samples of each of {len(list(populations()))} populations:")
    print("metric                      new identities   plain (least)    ours (least … most)")
    totals = {}
    for name, cover in metrics.items():
        means = []
        for num_new in KNOWN_OF_NEW:
            rng = np.random.default_rng(num_new)
            values = np.array([cover(rng, num_new, population, samples) for population in populations()])
            plain, ours = values.T
            means.append(values.mean(axis=0))
            print(
                f"{name:30} {num_new:11d}   {plain.mean():.3f} ({plain.min():.3f})   {ours.mean():.3f}"
                f" ({ours.min():.3f} … {ours.max():.3f})"
            )
        totals[name] = tuple(np.mean(means, axis=0).tolist())
    return totals


def print_result(claim: str, value: float, peer: float, ratio: float, bar: str, *, reached: bool) -> None:
    """One claim."""
    print(
        f"RESULT {claim} value={value:.4f} peer={peer:.4f} ratio={ratio:.2f} bar={bar} {'ok' if reached else 'short'}"
    )


def print_band(claim: str, value: float, peer: float) -> None:
    """One claim about coverage."""
    low, high = BAND
    print_result(claim, value, peer, value / peer, f"{low}..{high}", reached=low <= value <= high)


def main() -> None:
    """Simulate and print the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000, help="simulated sweeps")
    parser.add_argument("--samples", type=int, default=300, help="simulated query sets of each population")
    options = parser.parse_args()
    claim = print_sweeps(options.repetitions)
    print_advice()
    coverages = print_coverage(options.samples)
    worst = max(claim, key=lambda sweep: abs(sweep.error))
    bias, raw = abs(worst.error), worst.raw_error
    print_result("selection_bias", bias, raw, raw / bias, "0.005", reached=bias <= 0.005)
    first = claim[0]
    print_result(
        "selection_truly_best",
        first.best,
        first.raw_best,
        first.best / first.raw_best,
        "1",
        reached=first.best > first.raw_best,
    )
    ours = [coverage for sweep in claim for coverage in (sweep.covered, sweep.difference_covered)]
    print_band("interval_coverage_simulation", max(ours, key=lambda value: abs(value - 0.95)), first.raw_covered)
    for name, (plain, value) in coverages.items():
        print_band(f"interval_coverage_few_identities_{name}", value, plain)


if __name__ == "__main__":
    main()
