"""Features and matching of one cold evaluation, ours against the peers' way; and the matching alone.

    python benchmarks/cold_evaluation.py                                       # drawn photographs and SIFT: a minute
    REID_PHOTOS=PATH python benchmarks/cold_evaluation.py --images 400
    python benchmarks/cold_evaluation.py --matcher aliked-mnn --weights PATH --images 100

One evaluation asks for the shortlists of the calibration queries (`validating`) and of the queries (`thresholdSet`),
both in `training`. The peers' way is that of wildlife-tools' WildFusion without its optional cache: each of the four
sets is decoded and extracted when it is asked for (`training` twice), image by image while one worker decodes the
next, and pairs are matched one per call. It is given the same pairs, although WildFusion calibrates on every pair of
the two sets: what that would add is printed, and counts in no claim.

Ours extracts with a thread per core and matches in two shards of one thread each, as under two workers of Ray Train.
The peer extracts with two threads inside OpenCV or torch, and matches with one: a second gains it an eighth on an idle
machine and costs it a multiple on a busy one. `matching_only` has one thread on both sides. The sides take turns,
medians count, and both must find the same scores. On a busy machine ours, which needs both cores, loses more.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.config.parameters import MatchConfig, TrialConfig
from reid_core.data.image_cache import ImageCache, build_cache, decode_image
from reid_core.data.synthetic import write_synthetic
from reid_core.experiment.prepare import load_database, split_database
from reid_core.matching.extraction import build_features
from reid_core.matching.extractors import Extractor, extract_features
from reid_core.matching.feature_files import DESCRIPTOR_SCALE
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.matchers import Matcher, make_matcher
from reid_core.matching.mutual_neighbours import MutualNearestNeighbours

NUM_THREADS = 2
SHORTLIST = 20
QUERY_SETS = ("validating", "thresholdSet")
BARS = {"cold_evaluation": 3.0, "matching_only": 1.0}

Side = Callable[[], list[np.ndarray]]


class Sets:
    """Photographs of one evaluation and the pairs that it asks for."""

    def __init__(self, root: Path, num_images: int) -> None:
        database = load_database(root)
        parts = split_database(database, [None] * len(database), TrialConfig())
        used = np.flatnonzero(np.isin(parts.part_N, ("training", *QUERY_SETS)))
        used = np.sort(np.random.default_rng(0).permutation(used)[:num_images])
        self.root = root
        self.paths = [database["path"][int(row)].as_py() for row in used]
        self.part_N, self.group_N = parts.part_N[used], parts.group_N[used]
        self.pairs = {part: self._shortlist(part) for part in QUERY_SETS}

    def rows(self, part: str) -> np.ndarray:
        """Images of a part."""
        return np.flatnonzero(self.part_N == part)

    def _shortlist(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """The most similar photographs of the same group, by the cosine of their pixels at 16 px; not timed."""
        small_ND = np.stack([decode_image((self.root / path).read_bytes(), 16).ravel() for path in self.paths]) / 255.0
        small_ND -= small_ND.mean(axis=1, keepdims=True)
        small_ND /= np.linalg.norm(small_ND, axis=1, keepdims=True) + 1e-9
        query_Q, gallery_G = self.rows(part), self.rows("training")
        similarity_QG = small_ND[query_Q] @ small_ND[gallery_G].T
        similarity_QG[self.group_N[query_Q][:, None] != self.group_N[gallery_G]] = -np.inf
        best_QB = np.argsort(-similarity_QG, axis=1)[:, :SHORTLIST]
        keep_QB = np.isfinite(np.take_along_axis(similarity_QG, best_QB, axis=1))
        return np.repeat(query_Q, keep_QB.sum(axis=1)), gallery_G[best_QB[keep_QB]]


def evaluate(sets: Sets, config: MatchConfig) -> list[np.ndarray]:
    """Ours: from the photographs to the scores of both shortlists, with empty caches."""
    torch.set_num_threads(1)  # as in a Ray Data task and in a trial
    with tempfile.TemporaryDirectory() as folder:
        cache = ImageCache(build_cache(Path(folder), sets.root, sets.paths, config.image_px))
        features = LocalFeatures.open(build_features(Path(folder), cache, config))
        matcher = make_matcher(config)
        assert matcher is not None
        return [score_in_shards(matcher, features, *pairs) for pairs in sets.pairs.values()]


def score_in_shards(
    matcher: Matcher, features: LocalFeatures, query_P: np.ndarray, gallery_P: np.ndarray
) -> np.ndarray:
    """Scores of pairs, each worker its share."""

    def score(shard_P: np.ndarray) -> np.ndarray:
        return matcher.scores(features, query_P[shard_P], features, gallery_P[shard_P])

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return np.concatenate(list(pool.map(score, np.array_split(np.arange(len(query_P)), NUM_THREADS))))


def evaluate_as_peers(sets: Sets, config: MatchConfig, extractor: Extractor, ratio: float) -> list[np.ndarray]:
    """The peers: four passes over photographs, then one pair per call."""
    found = []
    for part, (query_P, gallery_P) in sets.pairs.items():
        query = dict(zip(sets.rows(part), extract_each(sets, part, config, extractor), strict=True))
        gallery = dict(zip(sets.rows("training"), extract_each(sets, "training", config, extractor), strict=True))
        found.append(match_each([query[i] for i in query_P], [gallery[i] for i in gallery_P], ratio))
    return found


def extract_each(sets: Sets, part: str, config: MatchConfig, extractor: Extractor) -> list[torch.Tensor]:
    """Descriptors of each image of a part, by the product's own extractor."""
    torch.set_num_threads(NUM_THREADS)
    cv2.setNumThreads(NUM_THREADS)
    paths = [sets.root / sets.paths[row] for row in sets.rows(part)]
    with ThreadPoolExecutor(1) as loader:
        images = loader.map(lambda path: decode_image(path.read_bytes(), config.image_px), paths)
        return [descriptors_of(LocalFeatures(extract_features(image[None], extractor)), 0) for image in images]


def descriptors_of(features: LocalFeatures, row: int) -> torch.Tensor:
    """Descriptors in use of one image; float32 (keypoints, D)."""
    codes_KD = features.descriptor_codes(np.array([row]))[0, : features.num_keypoints_N[row]]
    return torch.from_numpy(codes_KD).float() / DESCRIPTOR_SCALE


def match_each(query: list[torch.Tensor], gallery: list[torch.Tensor], ratio: float) -> np.ndarray:
    """Scores of pairs, one after the other."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        return np.array([match_one(one, other, ratio) for one, other in zip(query, gallery, strict=True)])


def match_one(query_AD: torch.Tensor, gallery_BD: torch.Tensor, ratio: float) -> float:
    """Mutual nearest neighbours that pass the ratio test from both sides, as the textbook has it."""
    if not len(query_AD) or not len(gallery_BD):
        return np.nan
    similarity_AB = query_AD @ gallery_BD.T
    nearest_A, passes_A = nearest(similarity_AB, ratio)
    nearest_B, passes_B = nearest(similarity_AB.T, ratio)
    mutual_A = nearest_B[nearest_A] == torch.arange(len(nearest_A))
    return (mutual_A & passes_A & passes_B[nearest_A]).sum().item()


def nearest(similarity_AB: torch.Tensor, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest neighbour of each row, and whether it is clearly nearer than the second nearest or a right angle."""
    if similarity_AB.shape[1] == 1:
        similarity_AB = torch.nn.functional.pad(similarity_AB, (0, 1))
    top = similarity_AB.topk(2, dim=1)
    square_A2 = (1 - top.values.clamp(min=0)).clamp(min=0)
    return top.indices[:, 0], square_A2[:, 0] < ratio**2 * square_A2[:, 1]


def measure(ours: Side, peer: Side, repeats: int, *, tolerance: float = 0.0) -> dict[str, float]:
    """Median seconds of both sides, which take turns; they must find the same scores, but for a share of them."""
    for one, other in zip(ours(), peer(), strict=True):  # and both are warm
        assert np.mean(one != other) <= tolerance, f"{np.mean(one != other):.1%} of the scores differ"
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        for name, side in (("ours", ours), ("peer", peer)):
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"  {name}: " + " ".join(f"{value:.2f}" for value in values) + " s", flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(claim: str, median: dict[str, float]) -> None:
    """The claim's line."""
    ratio = median["peer"] / median["ours"]
    verdict = "ok" if ratio >= BARS[claim] else "short"
    print(
        f"RESULT {claim} value={median['ours']:.3f} peer={median['peer']:.3f} ratio={ratio:.2f} "
        f"bar={BARS[claim]:.2f} {verdict}",
        flush=True,
    )


def main() -> None:
    """Measure both claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matcher", choices=["sift-mnn", "aliked-mnn"], default="sift-mnn")
    parser.add_argument("--weights", help="folder of ALIKED's weights")
    parser.add_argument("--images", type=int, default=600, help="photographs that take part, at most")
    parser.add_argument("--image-px", type=int, default=256 if "REID_PHOTOS" in os.environ else 128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config = MatchConfig(matcher=options.matcher, weights=options.weights, image_px=options.image_px)
    with tempfile.TemporaryDirectory() as folder:
        photos = os.environ.get("REID_PHOTOS")
        sets = Sets(Path(photos) if photos else write_synthetic(Path(folder) / "synthetic"), options.images)
        cache = ImageCache(build_cache(Path(folder), sets.root, sets.paths, config.image_px))
        features = LocalFeatures.open(build_features(Path(folder), cache, config))
        compare(sets, config, features, options.repeats)


def compare(sets: Sets, config: MatchConfig, features: LocalFeatures, repeats: int) -> None:
    """Time both sides of both claims."""
    matcher = make_matcher(config)
    assert isinstance(matcher, MutualNearestNeighbours)
    extractor, ratio = Extractor.of(config), matcher.largest_ratio
    query_P, gallery_P = (np.concatenate(rows) for rows in zip(*sets.pairs.values(), strict=True))
    descriptors = [descriptors_of(features, row) for row in range(len(features))]
    query, gallery = ([descriptors[row] for row in rows] for rows in (query_P, gallery_P))
    counts = ", ".join(f"{len(sets.rows(part))} {part}" for part in ("training", *QUERY_SETS))
    print(
        f"{config.matcher} at {config.image_px} px, {NUM_THREADS} threads: {counts}; {len(query_P)} pairs", flush=True
    )

    # The last bits of ALIKED's descriptors change with torch's number of threads.
    cold = measure(
        lambda: evaluate(sets, config),
        lambda: evaluate_as_peers(sets, config, extractor, ratio),
        repeats,
        tolerance=0.0 if config.matcher == "sift-mnn" else 0.1,
    )
    matching = measure(
        lambda: [matcher.scores(features, query_P, features, gallery_P)],
        lambda: [match_each(query, gallery, ratio)],
        2 * repeats + 1,
    )
    num_more = len(sets.rows("validating")) * len(sets.rows("training")) - len(sets.pairs["validating"][0])
    whole = cold["peer"] + matching["peer"] / len(query_P) * num_more
    times = whole / cold["ours"]
    print(f"calibrating on all pairs, {num_more} more, the peer takes {whole:.1f} s: {times:.1f} times ours")
    report("matching_only", matching)
    report("cold_evaluation", cold)


if __name__ == "__main__":
    main()
