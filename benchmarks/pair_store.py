"""How fast does the pair store answer, and how much memory does a pair take, against a Python dictionary?

    python benchmarks/pair_store.py [--pairs 10000000] [--peer-pairs 1000000]

Look-ups: pairs of image ids in, scores and states out, in batches of 100,000 known pairs in random order; the peer is a
dictionary keyed by tuples (smaller id, larger id), with fewer pairs. Both rates are medians over interleaved rounds.
Memory: largest bytes per stored pair in the second half of the filling, as Python and numpy count them (tracemalloc),
image ids and log buffers included. One thread; no network.
"""

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.matching.pairs.store import KNOWN, PairStore

BATCH_PAIRS = 100_000
NUM_IMAGES = 13_000  # AnimalCLEF25: 84 million unordered pairs
ROUNDS = 9
Pairs = tuple[np.ndarray, np.ndarray]


def draw_pairs(num_pairs: int) -> Pairs:
    """Distinct unordered pairs of images (P,) in random order: positions a < b."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, NUM_IMAGES**2, int(num_pairs * 2.4))
    drawn = np.unique(drawn[drawn // NUM_IMAGES < drawn % NUM_IMAGES])
    drawn = rng.permutation(drawn)[:num_pairs]
    assert len(drawn) == num_pairs, "fewer pairs than asked for"
    return drawn // NUM_IMAGES, drawn % NUM_IMAGES


def fill_store(pairs: Pairs, path: Path) -> tuple[PairStore, float]:
    """A store with these pairs, claimed and put batch by batch; its largest bytes per pair over the second half."""
    tracemalloc.start()
    store = PairStore(path, symmetric=True)
    ids = store.register([f"{number:032x}" for number in range(1, NUM_IMAGES + 1)])
    num_pairs, largest = len(pairs[0]), 0.0
    for start in range(0, num_pairs, BATCH_PAIRS):
        part = slice(start, start + BATCH_PAIRS)
        code_P = store.encode(ids[pairs[0][part]], ids[pairs[1][part]])
        store.claim(code_P, "benchmark")
        store.put(code_P, (pairs[0][part] % 97).astype(np.float32), "benchmark")
        stored = min(start + BATCH_PAIRS, num_pairs)
        if stored >= num_pairs / 2:
            largest = max(largest, tracemalloc.get_traced_memory()[0] / stored)
    tracemalloc.stop()
    return store, largest


def fill_dictionary(pairs: Pairs) -> tuple[dict[tuple[int, int], float], float]:
    """The peer with these pairs; bytes per pair."""
    tracemalloc.start()
    scores = {pair: float(pair[0] % 97) for pair in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)}
    size = tracemalloc.get_traced_memory()[0] / len(scores)
    tracemalloc.stop()
    return scores, size


def pairs_per_s(answer, pairs: Pairs, rng: np.random.Generator) -> float:
    """Rate of one batch; pairs are asked for in both orders."""
    asked = rng.integers(0, len(pairs[0]), BATCH_PAIRS)
    swap = rng.random(BATCH_PAIRS) < 0.5
    a, b = np.where(swap, pairs[1][asked], pairs[0][asked]), np.where(swap, pairs[0][asked], pairs[1][asked])
    start = time.perf_counter()
    score_P = answer(a, b)
    seconds = time.perf_counter() - start
    np.testing.assert_array_equal(score_P, pairs[0][asked] % 97)
    return BATCH_PAIRS / seconds


def compare_rates(store: PairStore, scores: dict, pairs: Pairs, peer_pairs: Pairs) -> tuple[float, float]:
    """Median look-ups per second of the store and of the dictionary, interleaved."""
    id_N = store.register([f"{number:032x}" for number in range(1, NUM_IMAGES + 1)])

    def ask_store(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        score_P, state_P = store.claim(store.encode(id_N[a], id_N[b]), "benchmark")
        assert (state_P == KNOWN).all()
        return score_P

    def ask_dictionary(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([scores[min(p), max(p)] for p in zip(a.tolist(), b.tolist(), strict=True)], dtype=np.float32)

    rng = np.random.default_rng(1)
    rates = [(pairs_per_s(ask_store, pairs, rng), pairs_per_s(ask_dictionary, peer_pairs, rng)) for _ in range(ROUNDS)]
    return statistics.median(r for r, _ in rates), statistics.median(r for _, r in rates)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000, help="pairs in the store")
    parser.add_argument("--peer-pairs", type=int, default=1_000_000, help="pairs in the dictionary, which is larger")
    args = parser.parse_args()
    pairs = draw_pairs(args.pairs)
    peer_pairs = pairs[0][: args.peer_pairs], pairs[1][: args.peer_pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.log"
        start = time.perf_counter()
        store, store_bytes = fill_store(pairs, path)
        print(
            f"{args.pairs:,} pairs claimed and put in {time.perf_counter() - start:.1f} s; now {store.nbytes:,} bytes"
        )
        scores, peer_bytes = fill_dictionary(peer_pairs)
        rate, peer_rate = compare_rates(store, scores, pairs, peer_pairs)
        store.close()
        start = time.perf_counter()
        stored = PairStore(path, symmetric=True).stats()["stored"]
        print(f"opened again in {time.perf_counter() - start:.1f} s: {stored:,} pairs, {path.stat().st_size:,} bytes")
    report("store_lookup_pairs_per_s", rate, peer_rate, bar=2_000_000, is_ok=rate >= 2_000_000)
    report("store_bytes_per_pair", store_bytes, peer_bytes, bar=24, is_ok=store_bytes <= 24)


def report(claim: str, value: float, peer: float, *, bar: float, is_ok: bool) -> None:
    """Print one line of the table of claims."""
    state = "ok" if is_ok else "short"
    print(f"RESULT {claim} value={value:.2f} peer={peer:.2f} ratio={value / peer:.3f} bar={bar} {state}")


if __name__ == "__main__":
    main()
