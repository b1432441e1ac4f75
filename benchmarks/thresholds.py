"""Thresholds, metrics and 95 % intervals of 2,000 queries in three groups, against a loop over a data frame.

    python benchmarks/thresholds.py                                     # 10 seconds
    python benchmarks/thresholds.py --peer-resamples 2000 --repeats 1   # nothing of the peer scaled: a minute

Ours: `choose_threshold` on the paper's grid, `compute_shares`, `summarise` (intervals in closed form). The peer
does the same the usual way, in pandas: for each of 19 thresholds a `groupby` over identities, then a bootstrap that
builds and groups a resampled frame per resample. Its resamples are measured on few and scaled linearly to 2,000.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.data.animals import NEW
from reid_core.metrics.geo_mean import Shares, compute_shares
from reid_core.metrics.summary import summarise
from reid_core.scoring.thresholds import GRID, ScoredQueries, Threshold, choose_threshold, name_queries, threshold_curve

RESAMPLES = 2000  # of the peer
IDENTITIES = {"lynx": 60, "salamander": 400, "turtle": 250}  # AnimalCLEF25's groups: few and many animals
METRICS = ("baks", "baus", "geo_mean")


def make_queries(num_queries: int, seed: int) -> dict[str, pd.DataFrame]:
    """Best candidate, its score, true identity and knownness of each group's queries."""
    rng = np.random.default_rng(seed)
    frames = {}
    for group, num_identities in IDENTITIES.items():
        animal_Q = rng.integers(0, num_identities, size=round(num_queries / len(IDENTITIES)))
        known_Q = animal_Q % 7 > 0
        identity_Q = np.array([f"{group}_{animal:04d}" for animal in animal_Q], dtype=object)
        wrong_Q = np.array([f"{group}_{animal:04d}" for animal in (animal_Q + 1) % num_identities], dtype=object)
        best_Q = np.where(known_Q & (rng.random(len(animal_Q)) < 0.75), identity_Q, wrong_Q)
        score_Q = np.where(best_Q == identity_Q, rng.beta(5, 2, len(animal_Q)), rng.beta(2, 4, len(animal_Q)))
        frames[group] = pd.DataFrame({"identity": identity_Q, "known": known_Q, "best": best_Q, "score": score_Q})
    return frames


def columns(frame: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """best_Q, score_Q, identity_Q, known_Q."""
    return tuple(frame[name].to_numpy() for name in ("best", "score", "identity", "known"))


def choose_all(queries: dict[str, tuple[np.ndarray, ...]], search: str) -> dict[str, Threshold]:
    """Ours: the threshold of each group."""
    return {
        group: choose_threshold(
            ScoredQueries(score_Q, best_Q == identity_Q, identity_Q, known_Q), smallest=0, largest=1, search=search
        )
        for group, (best_Q, score_Q, identity_Q, known_Q) in queries.items()
    }


def share_all(queries: dict[str, tuple[np.ndarray, ...]], chosen: dict[str, Threshold]) -> dict[str, Shares]:
    """Ours: the shares of each group at its threshold."""
    return {
        group: compute_shares(
            name_queries(best_Q, score_Q, np.full(len(best_Q), chosen[group].value)), identity_Q, known_Q
        )
        for group, (best_Q, score_Q, identity_Q, known_Q) in queries.items()
    }


def mark_right(frame: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The peer's frame with a column `right` at one threshold."""
    answer = frame["best"].where(frame["score"] >= threshold, NEW)
    return frame.assign(right=np.where(frame["known"], answer == frame["identity"], answer == NEW).astype(float))


def evaluate_frame(frame: pd.DataFrame) -> np.ndarray:
    """The peer's BAKS, BAUS, GEO_MEAN."""
    share = frame.groupby(["known", "identity"], observed=True)["right"].mean().groupby("known").mean()
    return np.array([share[True], share[False], np.sqrt(share[True] * share[False])])


def loop_over_thresholds(frames: dict[str, pd.DataFrame]) -> dict[str, list[float]]:
    """The peer's GEO_MEAN of each group at each threshold of the grid."""
    return {
        group: [evaluate_frame(mark_right(frame, threshold))[2] for threshold in GRID]
        for group, frame in frames.items()
    }


def resample_frame(frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """The peer's metrics of one resample: as many known and new animals, with replacement, with all their queries."""
    parts = []
    for known in (True, False):
        part = frame[frame["known"] == known]
        animals = part["identity"].unique()
        drawn = pd.DataFrame({"identity": rng.choice(animals, size=len(animals))}).rename_axis("copy").reset_index()
        parts.append(drawn.merge(part, on="identity").drop(columns="identity").rename(columns={"copy": "identity"}))
    return evaluate_frame(pd.concat(parts))


def loop_over_resamples(frames: dict[str, pd.DataFrame], num_resamples: int, seed: int) -> dict[str, np.ndarray]:
    """The peer's metrics per group and pooled, each (R, 3)."""
    rng = np.random.default_rng(seed)
    frames = frames | {"pooled": pd.concat(frames.values())}
    return {
        name: np.array([resample_frame(frame, rng) for _ in range(num_resamples)]) for name, frame in frames.items()
    }


def loop_over_shares(frames: dict[str, pd.DataFrame], num_resamples: int, seed: int) -> None:
    """A better peer, for comparison: groups once, then resamples the shares, one resample at a time."""
    rng = np.random.default_rng(seed)
    for frame in (*frames.values(), pd.concat(frames.values())):
        share = frame.groupby(["known", "identity"], observed=True)["right"].mean()
        for _ in range(num_resamples):
            for known in (True, False):
                share[known].sample(frac=1, replace=True, random_state=rng).mean()


def timed(function: Callable, *given, **named):
    """Result and seconds."""
    start = time.perf_counter()
    result = function(*given, **named)
    return result, time.perf_counter() - start


def check_grid(
    queries: dict[str, tuple[np.ndarray, ...]],
    chosen: dict[str, Threshold],
    curve_of_group: dict[str, list[float]],
    frames: dict[str, pd.DataFrame],
) -> None:
    """Both sides have the same curve, the same best value, and the same metrics at the chosen threshold."""
    for group, (best_Q, score_Q, identity_Q, known_Q) in queries.items():
        scored = ScoredQueries(score_Q, best_Q == identity_Q, identity_Q, known_Q)
        geo_T = threshold_curve(scored, np.array(GRID))[2]
        np.testing.assert_allclose(curve_of_group[group], geo_T, atol=1e-9)
        peer = evaluate_frame(mark_right(frames[group], chosen[group].value))
        np.testing.assert_allclose(peer, [getattr(chosen[group], name) for name in METRICS], atol=1e-9)
        assert abs(peer[2] - max(curve_of_group[group])) < 1e-9, group
        print(f"{group}: threshold {chosen[group].value:.2f}, GEO_MEAN {peer[2]:.4f}: equal on both sides")


def compare_intervals(metrics: dict[str, float], peer: dict[str, np.ndarray]) -> None:
    """Print both sides' intervals of GEO_MEAN; ours is wider where a group has few identities."""
    for name, draws_R3 in peer.items():
        key, end = ("pooled", "") if name == "pooled" else ("geo_mean", f".{name}")
        ours = f"{metrics[f'{key}_low{end}']:.3f} … {metrics[f'{key}_high{end}']:.3f}"
        low, high = np.quantile(draws_R3[:, 2], [0.025, 0.975])
        print(f"95 % interval of {name}: ours {ours}, peer {low:.3f} … {high:.3f} ({len(draws_R3)} resamples)")


def main() -> None:
    """Measure both sides in turn and print the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-resamples", type=int, default=40, help="measured in each repeat, scaled to 2,000")
    options = parser.parse_args()
    frames = make_queries(options.queries, seed=0)
    queries = {group: columns(frame) for group, frame in frames.items()}
    scale = RESAMPLES / options.peer_resamples
    seconds: dict[str, list[float]] = {}
    peer_draws = []

    def measure(name: str, function: Callable, *given, **named):
        result, spent = timed(function, *given, **named)
        seconds.setdefault(name, []).append(spent)
        return result

    for repeat in range(options.repeats):
        chosen = measure("thresholds, grid", choose_all, queries, "grid")
        exact = measure("thresholds, exact", choose_all, queries, "exact")
        shares = measure("shares", share_all, queries, chosen)
        metrics = measure("intervals", summarise, shares)
        curves = measure("peer: thresholds", loop_over_thresholds, frames)
        right = {group: mark_right(frame, chosen[group].value) for group, frame in frames.items()}
        peer_draws.append(measure("peer: intervals", loop_over_resamples, right, options.peer_resamples, repeat))
        measure("peer: intervals, grouped once", loop_over_shares, right, options.peer_resamples, repeat)
    check_grid(queries, chosen, curves, frames)
    for group, threshold in exact.items():
        print(f"{group}: exact threshold {threshold.value:.3f}, GEO_MEAN {threshold.geo_mean:.4f}")
    compare_intervals(metrics, {name: np.concatenate([draws[name] for draws in peer_draws]) for name in peer_draws[0]})
    report({name: statistics.median(values) for name, values in seconds.items()}, scale, options.peer_resamples)


def report(median: dict[str, float], scale: float, peer_resamples: int) -> None:
    """Print the parts and the claims."""
    for name, spent in median.items():
        print(f"{name}: {spent:.4f} s" + (f" for {peer_resamples} resamples" if "peer: intervals" in name else ""))
    ours = median["thresholds, grid"] + median["shares"] + median["intervals"]
    peer = median["peer: thresholds"] + scale * median["peer: intervals"]
    better = median["peer: thresholds"] + scale * median["peer: intervals, grouped once"]
    print(f"against a peer that groups once and resamples the shares: {better:.2f} s, {better / ours:.0f} times ours")
    ratio, spent = peer / ours, median["intervals"]
    print(f"peer's intervals: {peer_resamples} resamples measured, scaled linearly to {RESAMPLES}")
    print(
        f"RESULT thresholds_metrics_intervals value={ours:.4f} peer={peer:.2f} ratio={ratio:.0f} bar=100 "
        f"{'ok' if ratio >= 100 else 'short'}"
    )
    peer_spent = scale * median["peer: intervals"]
    print(
        f"RESULT intervals_seconds value={spent:.4f} peer={peer_spent:.2f} ratio={peer_spent / spent:.0f} bar=1 "
        f"{'ok' if spent < 1 else 'short'}"
    )


if __name__ == "__main__":
    main()
