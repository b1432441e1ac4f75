"""What sharing match scores saves a sweep: the recorded shortlists of 20 trials on real photographs, replayed.

    REID_PHOTOS=PATH python benchmarks/shared_matching.py            # shortlists: benchmarks/record_shortlists.py

Trial by trial both sides score the same shortlists with the same matcher: one scores them all, the other asks the pair
store first. Then two Ray tasks ask for all of them at the same time, and the scored pairs are counted.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from record_shortlists import RECORD, base_config

from reid_core.config.parameters import MatchConfig
from reid_core.data.image_cache import ImageCache
from reid_core.experiment.prepare import load_database, prepare
from reid_core.experiment.prepared import Prepared
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.matchers import SYMMETRIC, make_matcher, score_settings
from reid_core.matching.pairs.store import YOURS, PairStore, store_name

Pairs = tuple[np.ndarray, np.ndarray]  # rows of queries and of gallery images


def read_trials() -> list[Pairs]:
    """Pairs that each recorded trial asks for."""
    record = np.load(RECORD)
    query_Q, trials = record["query_Q"].astype(int), []
    for gallery_QB in record["gallery_TQB"].astype(int):
        there_QB = gallery_QB >= 0
        query_QB = np.broadcast_to(query_Q[:, None], there_QB.shape)
        trials.append((query_QB[there_QB], gallery_QB[there_QB]))
    return trials


def describe_overlap(trials: list[Pairs], num_images: int) -> str:
    """How many of the pairs that trials ask for are different ones."""
    codes = [query_P * num_images + gallery_P for query_P, gallery_P in trials]
    asked, distinct = sum(map(len, codes)), len(np.unique(np.concatenate(codes)))
    seen, new = np.empty(0, int), []
    for code_P in codes:
        new.append(np.mean(~np.isin(code_P, seen)))
        seen = np.union1d(seen, code_P)
    shares = ", ".join(f"{share:.0%}" for share in new)
    return f"{len(trials)} trials ask for {asked} pairs, {distinct} of them distinct; new in each trial: {shares}"


def replay(
    trials: list[Pairs], prepared: Prepared, config: MatchConfig
) -> tuple[list[float], list[float], list[float]]:
    """Seconds per trial: scoring everything, asking the store first, asking the store again."""
    matcher, features = make_matcher(config), prepared.local_features
    assert matcher is not None
    assert features is not None
    store = PairStore(None, symmetric=config.matcher in SYMMETRIC, digest=store_name(score_settings(config)))
    ids_N = store.register(ImageCache(Path(prepared.match_cache)).keys)

    def ask(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        code_P = store.encode(ids_N[query_P], ids_N[gallery_P])
        score_P, state_P = store.claim(code_P, "benchmark")
        mine = np.flatnonzero(state_P == YOURS)
        if len(mine):
            store.put(code_P[mine], matcher.scores(features, query_P[mine], features, gallery_P[mine]), "benchmark")
            score_P, _ = store.claim(code_P, "benchmark")
        return score_P

    alone, shared, again = [], [], []
    for query_P, gallery_P in trials:
        seconds, scores = [], []
        for way in (lambda q, g: matcher.scores(features, q, features, g), ask, ask):
            started = time.perf_counter()
            scores.append(way(query_P, gallery_P))
            seconds.append(time.perf_counter() - started)
        assert scores[0].tobytes() == scores[1].tobytes() == scores[2].tobytes(), "a shared score differs"
        for times, value in zip((alone, shared, again), seconds, strict=True):
            times.append(value)
    return alone, shared, again


def score_every(handle, owner: str, trials: list[Pairs], keys: list[str], features: str, config: MatchConfig) -> int:
    """Ask the store for the pairs of every trial; the pairs that were scored here. Runs as a Ray task."""
    from sweeps.trials.shared_scorer import SharedScorer

    matcher, local = make_matcher(config), LocalFeatures.open(Path(features))
    assert matcher is not None
    scorer = SharedScorer(handle, keys, owner)
    for query_P, gallery_P in trials:
        scorer(query_P, gallery_P, lambda q, g: matcher.scores(local, q, local, g))
    return scorer.counts.scored


def count_scored(trials: list[Pairs], prepared: Prepared, config: MatchConfig) -> tuple[int, int]:
    """Pairs that two concurrent Ray tasks scored, each asking for every trial's, and distinct pairs asked for."""
    import ray

    from sweeps.trials.pair_actor import start_pair_store

    folders = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
    ray.init(
        num_cpus=2,
        log_to_driver=False,
        logging_level="error",
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": folders}},
    )
    keys = ImageCache(Path(prepared.match_cache)).keys
    with tempfile.TemporaryDirectory() as folder:
        symmetric = config.matcher in SYMMETRIC
        handle = start_pair_store(Path(folder), store_name(score_settings(config)), symmetric=symmetric)
        task, known = ray.remote(num_cpus=1)(score_every), (ray.put(keys), prepared.features, config)
        orders = [ray.put(trials), ray.put(trials[::-1])]
        tasks = [task.remote(handle, f"trial-{k}", order, *known) for k, order in enumerate(orders)]
        scored = sum(ray.get(tasks))
        ray.shutdown()
    ids_N = PairStore(None, symmetric=True).register(keys)
    codes = [np.sort(np.stack([ids_N[q], ids_N[g]]), axis=0) for q, g in trials]
    return scored, np.unique(np.concatenate(codes, axis=1), axis=1).shape[1]


def plot_cost(alone: list[float], shared: list[float], path: Path) -> None:
    """How the matching time of a sweep grows with its trials, with and without sharing."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes, trials = FigureCanvasAgg(figure).figure.subplots(), np.arange(1, len(alone) + 1)
    axes.plot(trials, np.cumsum(alone), "k--s", markersize=3, label="every trial scores its own pairs")
    axes.plot(trials, np.cumsum(shared), "k-o", markersize=3, label="each pair scored once")
    axes.set(xlabel="trials", ylabel="matching time (s)", title="558 queries × 20 gallery images, SIFT, one thread")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(path, dpi=120)


def result(claim: str, value: float, peer: float, ratio: float, bar: float, *, ok: bool) -> None:
    """One line per claim."""
    verdict = "ok" if ok else "short"
    print(f"RESULT {claim} value={value:.4g} peer={peer:.4g} ratio={ratio:.4g} bar={bar:g} {verdict}", flush=True)


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("REID_PHOTOS", "../shared/photos")))
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-cache"), help="where prepared data are kept")
    parser.add_argument("--plot", type=Path, help="draw how the cost grows with the number of trials")
    options = parser.parse_args()
    if not RECORD.exists() or not options.data.is_dir():
        print(f"nothing is replayed: {RECORD.name} (make bench-long) and photographs (REID_PHOTOS) are needed")
        return
    config, trials = base_config(Path("unused"), 1), read_trials()
    prepared = prepare(options.data.resolve(), options.cache, config)
    print(describe_overlap(trials, len(load_database(options.data.resolve()))))
    alone, shared, again = replay(trials, prepared, config.match)
    result(
        "sweep_matching_time",
        sum(shared),
        sum(alone),
        sum(shared) / sum(alone),
        0.25,
        ok=sum(shared) <= 0.25 * sum(alone),
    )
    if options.plot:
        plot_cost(alone, shared, options.plot)
    first, second = shared[0], float(np.median(again))
    result("same_shortlist_again", second, first, first / second, 50, ok=first >= 50 * second)
    scored, distinct = count_scored(trials, prepared, config.match)
    result("pairs_scored_per_distinct", scored, distinct, scored / distinct, 1, ok=scored == distinct)


if __name__ == "__main__":
    main()
