"""Near duplicates by pixels: which copies are found, what else is, and how long 15,000 photographs take.

    python benchmarks/near_duplicates.py                          # drawn photographs: a minute
    REID_PHOTOS=PATH python benchmarks/near_duplicates.py         # 1,992 labelled photographs: two minutes

Each photograph is compared with copies of itself (that must be found) and with the photographs of all other animals of
its group (that must not). The peer is the hash alone, with the same limit. Pairs of different animals that are found
are listed: they may be one photograph under two names, which only a person can say. Pairs of one animal, such as
frames of a video, are counted.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.data import near_duplicates as module
from reid_core.data.animals import name_animals, positions_by_group
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.near_duplicates import Fingerprints, make_fingerprints, near_duplicates, take_fingerprints
from reid_core.data.synthetic import write_synthetic
from reid_core.experiment.prepare import load_database

IMAGE_PX = 128
MANY, MOST_SECONDS = 15_000, 20
Copy = Callable[[Image.Image], tuple[Image.Image, int]]  # the copy, and its JPEG quality


def crop(image: Image.Image, share: float) -> Image.Image:
    """Without a share of the width and height at each edge."""
    across, down = round(image.width * share), round(image.height * share)
    return image.crop((across, down, image.width - across, image.height - down))


def shrink(image: Image.Image) -> Image.Image:
    """Half the width and height."""
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)


COPIES: dict[str, Copy] = {
    "JPEG quality 60": lambda image: (image, 60),
    "half the size": lambda image: (shrink(image), 95),
    "15 % brighter": lambda image: (ImageEnhance.Brightness(image).enhance(1.15), 95),
    "15 % darker": lambda image: (ImageEnhance.Brightness(image).enhance(0.85), 95),
    "2 % cropped": lambda image: (crop(image, 0.02), 95),
    "all of these": lambda image: (ImageEnhance.Brightness(shrink(crop(image, 0.02))).enhance(1.15), 60),
    "5 % cropped": lambda image: (crop(image, 0.05), 95),  # not promised
}
PROMISED = [name for name in COPIES if name != "5 % cropped"]


def fingerprint_copies(root: Path, paths: list[str], copy: Copy) -> Fingerprints:
    """Fingerprints of a copy of each photograph."""
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(paths):
            with Image.open(root / path) as image:
                copied, quality = copy(image.convert("RGB"))
            buffer = io.BytesIO()
            copied.save(buffer, "JPEG", quality=quality)
            Path(folder, f"{number}.jpg").write_bytes(buffer.getvalue())
        names = [f"{number}.jpg" for number in range(len(paths))]
        return take_fingerprints(ImageCache(build_cache(Path(folder), Path(folder), names, IMAGE_PX)))


def are_near(one: Fingerprints, other: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Whether each photograph and its copy are near by the hash alone, and by hash and check."""
    by_hash = np.bitwise_count(one.hash_N ^ other.hash_N) <= module.MOST_BITS
    checked = np.einsum("nd,nd->n", one.copy_ND, other.copy_ND) >= module.LEAST_CORRELATION
    return by_hash, by_hash & checked & one.comparable_N & other.comparable_N


def pairs_of(fingerprints: Fingerprints, group_N: np.ndarray, least_correlation: float) -> np.ndarray:
    """Pairs of rows that are found within the groups; shape (P, 2)."""
    checked, module.LEAST_CORRELATION = module.LEAST_CORRELATION, least_correlation
    found = []
    for _, rows in positions_by_group(group_N):
        for first, second in near_duplicates(fingerprints, rows, rows):
            found.append(np.stack([rows[first], rows[second]], axis=1)[first < second])
    module.LEAST_CORRELATION = checked
    return np.concatenate(found)


def time_many() -> float:
    """Seconds for all pairs of one group of MANY photographs."""
    rng = np.random.default_rng(0)
    grey_NHW = rng.integers(0, 256, (MANY, 8, 8), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    start = time.perf_counter()
    fingerprints = make_fingerprints(grey_NHW, np.zeros(MANY, dtype=bool))
    sum(len(first) for first, _ in near_duplicates(fingerprints, np.arange(MANY), np.arange(MANY)))
    return time.perf_counter() - start


def report(claim: str, value: float, peer: float, bar: float, *, is_ok: bool) -> None:
    """The claim's line."""
    ratio = value / peer if peer else float("nan")
    print(
        f"RESULT {claim} value={value:.4g} peer={peer:.4g} ratio={ratio:.3f} bar={bar:g} {'ok' if is_ok else 'short'}"
    )


def compare(root: Path) -> None:
    """Print what is found of the copies and of the other photographs."""
    database = load_database(root)
    paths, group_N = database["path"].to_pylist(), np.array(database["group"].to_pylist())
    animal_N = name_animals(group_N, database["identity"].to_pylist())
    with tempfile.TemporaryDirectory() as folder:
        originals = take_fingerprints(ImageCache(build_cache(Path(folder), root, paths, IMAGE_PX)))
    shares = []
    for name, copy in COPIES.items():
        by_hash, checked = are_near(originals, fingerprint_copies(root, paths, copy))
        shares.append((by_hash.mean(), checked.mean()))
        print(f"{name:<16} found: {by_hash.mean():.2%} by the hash, {checked.mean():.2%} after the check", flush=True)
    numbers = []
    for least_correlation in (-1.0, module.LEAST_CORRELATION):
        pairs = pairs_of(originals, group_N, least_correlation)
        is_same = animal_N[pairs[:, 0]] == animal_N[pairs[:, 1]]
        numbers.append(int(np.sum(~is_same)))
        print(f"correlation {least_correlation}: {is_same.sum()} pairs of one animal, {numbers[-1]} of different ones")
    for one, other in pairs[~is_same]:
        print(f"  look at: {paths[one]} {paths[other]}")
    members = [animal_N[rows] for _, rows in positions_by_group(group_N)]
    num_pairs = sum(len(each) ** 2 - sum(np.unique(each, return_counts=True)[1] ** 2) for each in members) // 2
    promised = np.array(shares[: len(PROMISED)]).min(axis=0)
    report("copies_found", promised[1], promised[0], 0.98, is_ok=promised[1] >= 0.98)
    per_million = [1e6 * number / num_pairs for number in numbers]
    report("other_animals_found_per_million", per_million[1], per_million[0], 10, is_ok=per_million[1] <= 10)


def main() -> None:
    """Measure what is found, and how fast."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = os.environ.get("REID_PHOTOS")
        compare(Path(photos) if photos else write_synthetic(Path(folder) / "synthetic"))
    seconds = time_many()
    report("seconds_of_15000", seconds, MOST_SECONDS, MOST_SECONDS, is_ok=seconds <= MOST_SECONDS)


if __name__ == "__main__":
    main()
