"""Local matching of `gpu.py`: ALIKED's images per second, LightGlue's pairs per second in batches and pair by pair."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from kornia.feature import ALIKED, LightGlue

from benchmarks.gpu_rows import Machine, print_heading, print_row, result_line
from reid_core.config.parameters import MatchConfig
from reid_core.matching.extractors import Extractor, extract_features
from reid_core.matching.lightglue import LightGlueMatcher, load_lightglue
from reid_core.matching.local_features import LocalFeatures

BLOCKS = (1, 8, 32, 128)  # pairs in a batch
BATCHED_BAR = 1.5  # times as many pairs per second as one pair per call
SINGLE = "one pair per call"


def weights_folder(machine: Machine) -> str:
    """The published weights if there are any, else random ones, which cost as much."""
    if machine.weights is not None:
        return machine.weights
    folder = machine.folder / "weights"
    folder.mkdir(exist_ok=True)
    torch.save(ALIKED("aliked-n16").state_dict(), folder / "aliked-n16.pth")
    untrained = LightGlue(features=None, input_dim=128)  # type: ignore[arg-type]  # None downloads nothing
    torch.save(untrained.state_dict(), folder / "aliked_lightglue.pth")
    return str(folder)


def measure_extraction(machine: Machine, folder: str, num_images: int, image_px: int) -> None:
    """ALIKED on random pixels."""
    if not machine.has_time("ALIKED"):
        return
    print_heading(f"ALIKED at {image_px} px, 256 keypoints")
    extractor = Extractor.of(MatchConfig(weights=folder))
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, image_px, image_px, 3), dtype=np.uint8)
    extract_features(pixels[:8], extractor)
    memory_gb = machine.peak_gb(lambda: extract_features(pixels, extractor))
    seconds = machine.medians({"aliked": lambda: extract_features(pixels, extractor)})["aliked"]
    print_row("features, copied back to the CPU", seconds, num_images, memory_gb=memory_gb)


def random_features(num_images: int, num_keypoints: int) -> LocalFeatures:
    """Features in which every image has all keypoints, of 512 px."""
    rng = np.random.default_rng(0)
    descriptors_NKD = rng.normal(size=(num_images, num_keypoints, 128)).astype(np.float32)
    descriptors_NKD /= np.linalg.norm(descriptors_NKD, axis=2, keepdims=True)
    keypoints_NK2 = rng.uniform(0, 512, (num_images, num_keypoints, 2)).astype(np.float32)
    counts_N = np.full(num_images, num_keypoints, np.int32)
    return LocalFeatures.from_arrays(counts_N, keypoints_NK2, descriptors_NKD, image_px=512)


def measure_matching(machine: Machine, folder: str, num_pairs: int, num_keypoints: int = 256) -> None:
    """LightGlue in blocks of several sizes, and asked for one pair at a time."""
    if not machine.has_time("LightGlue"):
        return
    print_heading(f"LightGlue, {num_keypoints} keypoints, {num_pairs} pairs")
    model, features = load_lightglue(folder), random_features(64, num_keypoints)
    pairs_2P = np.random.default_rng(1).integers(0, len(features), (2, num_pairs))
    own = LightGlueMatcher(model, device=machine.device).block_pairs
    sizes = sorted({size for size in BLOCKS if size <= num_pairs} | {own})
    sides: dict[str, Callable[[], None]] = {
        f"blocks of {size}": partial(
            score, LightGlueMatcher(model, device=machine.device, block_pairs=size), features, pairs_2P
        )
        for size in sizes
    }
    memory_gb = {name: warm_and_weigh(machine, work) for name, work in sides.items()}
    some_2P = pairs_2P[:, :64]
    single = LightGlueMatcher(model, device=machine.device, block_pairs=1)
    sides[SINGLE] = partial(score_one_by_one, single, features, some_2P)
    seconds = machine.medians(sides)
    print_row(SINGLE, seconds[SINGLE], some_2P.shape[1], unit="pairs", batch=1)
    for size, (name, memory) in zip(sizes, memory_gb.items(), strict=True):
        what = f"{name}, as the project runs it" if size == own else name
        print_row(what, seconds[name], num_pairs, unit="pairs", batch=size, memory_gb=memory)
    batched = num_pairs / seconds[f"blocks of {own}"]
    print(result_line("lightglue_batched", batched, some_2P.shape[1] / seconds[SINGLE], bar=BATCHED_BAR))


def warm_and_weigh(machine: Machine, work: Callable[[], None]) -> float | None:
    """Most memory of some work, the second time."""
    work()
    return machine.peak_gb(work)


def score(matcher: LightGlueMatcher, features: LocalFeatures, pairs_2P: np.ndarray) -> None:
    """All pairs in one call."""
    matcher.scores(features, pairs_2P[0], features, pairs_2P[1])


def score_one_by_one(matcher: LightGlueMatcher, features: LocalFeatures, pairs_2P: np.ndarray) -> None:
    """A call, and a wait for the device, for each pair."""
    for p in range(pairs_2P.shape[1]):
        score(matcher, features, pairs_2P[:, p : p + 1])
