"""Near duplicates: what is seen through and what is not, and the search against a slow comparison of all pairs."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from reid_core.data import near_duplicates as module
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.near_duplicates import (
    GREY_PX,
    LEAST_CORRELATION,
    MOST_BITS,
    Fingerprints,
    have_near_duplicate,
    make_fingerprints,
    near_duplicates,
    take_fingerprints,
)


def draw(seed: int) -> Image.Image:
    """A scene of soft patches, 240 × 160."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((240, 160), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


COPIES = {
    "another encoding": lambda image: encode(image, "JPEG", quality=60),
    "half the size": lambda image: encode(image.resize((120, 80), Image.Resampling.LANCZOS)),
    "brighter": lambda image: encode(ImageEnhance.Brightness(image).enhance(1.15)),
    "darker": lambda image: encode(ImageEnhance.Brightness(image).enhance(0.85)),
    "cropped": lambda image: encode(image.crop((5, 3, 235, 157))),
    "grey": lambda image: encode(image.convert("L")),
}


def open_cache(folder, contents: list[bytes], image_px: int) -> ImageCache:
    for number, content in enumerate(contents):
        (folder / f"{number}.png").write_bytes(content)
    return ImageCache(build_cache(folder / "cache", folder, [f"{n}.png" for n in range(len(contents))], image_px))


def pairs_of(fingerprints: Fingerprints, row_A: np.ndarray, row_B: np.ndarray) -> set[tuple[int, int]]:
    return {
        (int(row_A[a]), int(row_B[b]))
        for found in near_duplicates(fingerprints, row_A, row_B)
        for a, b in zip(*found, strict=True)
    }


@pytest.mark.parametrize("image_px", [32, 100])
def test_copies_are_found_and_other_scenes_are_not(tmp_path, image_px):
    originals, names = [draw(seed) for seed in range(8)], list(COPIES)
    contents = [encode(image) for image in originals]
    contents += [COPIES[name](image) for name in names for image in originals]
    fingerprints = take_fingerprints(open_cache(tmp_path, contents, image_px))
    everyone = np.arange(len(contents))
    expected = {(a, b) for a in everyone for b in everyone if a % 8 == b % 8}
    assert pairs_of(fingerprints, everyone, everyone) == expected


def test_what_shows_nothing_is_a_duplicate_of_nothing(tmp_path):
    rng = np.random.default_rng(0)
    night = rng.normal(3, 1, (160, 240, 3)).clip(0, 255).astype(np.uint8)  # noise of a sensor
    images = [Image.new("L", (90, 60)), Image.new("L", (90, 60), 3), Image.fromarray(night), draw(0)]
    contents = [encode(image) for image in images] + [b"no photograph"]
    fingerprints = take_fingerprints(open_cache(tmp_path, contents, 64))
    assert fingerprints.uniform_N.tolist() == [True, True, True, False, False]
    assert fingerprints.unreadable_N.tolist() == [False, False, False, False, True]
    assert pairs_of(fingerprints, np.arange(5), np.arange(5)) == {(3, 3)}
    assert have_near_duplicate(fingerprints, np.arange(5), np.array([3])).tolist() == [False] * 3 + [True, False]


def test_the_hash_is_that_of_its_definition():
    """Signs of the 8 × 8 lowest frequencies of a cosine transform about their median, each summed by hand."""
    grey_HW = np.random.default_rng(1).integers(0, 256, (GREY_PX, GREY_PX), dtype=np.uint8)
    wave_FH = np.array(
        [[math.cos(math.pi * f * (2 * h + 1) / (2 * GREY_PX)) for h in range(GREY_PX)] for f in range(8)]
    )
    lowest_F = (wave_FH @ grey_HW @ wave_FH.T).ravel()
    bits = "".join("1" if value > np.median(lowest_F) else "0" for value in lowest_F)
    fingerprints = make_fingerprints(grey_HW[None], np.array([False]))
    assert int(bits, 2).to_bytes(8, "big") == fingerprints.hash_N.tobytes()


def test_the_search_agrees_with_a_slow_one_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(2)
    scenes = rng.integers(0, 256, (12, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    grey_NHW = scenes[rng.integers(0, 12, 70)] + rng.normal(size=(70, GREY_PX, GREY_PX)) * rng.choice(
        [5, 90], (70, 1, 1)
    )
    grey_NHW[rng.random(70) < 0.1] = 7
    unreadable_N = rng.random(70) < 0.1
    fingerprints = make_fingerprints(grey_NHW.clip(0, 255).astype(np.uint8), unreadable_N)
    row_A, row_B = rng.permutation(70)[:40], rng.permutation(70)[:50]

    def is_near(a: int, b: int) -> bool:
        seen = not (fingerprints.uniform_N | unreadable_N)[[a, b]].any()
        bits = (int(fingerprints.hash_N[a]) ^ int(fingerprints.hash_N[b])).bit_count()
        return seen and bits <= MOST_BITS and fingerprints.copy_ND[a] @ fingerprints.copy_ND[b] >= LEAST_CORRELATION

    expected = {(int(a), int(b)) for a in row_A for b in row_B if is_near(a, b)}
    for rows in (1, 7, 256):
        monkeypatch.setattr(module, "BLOCK_ROWS", rows)
        assert pairs_of(fingerprints, row_A, row_B) == expected
    has_A = have_near_duplicate(fingerprints, row_A, row_B)
    assert has_A.tolist() == [any((a, b) in expected for b in row_B) for a in row_A]
    assert 0 < has_A.sum() < 40


def test_none_at_all():
    fingerprints = make_fingerprints(np.empty((0, GREY_PX, GREY_PX), np.uint8), np.empty(0, bool))
    assert have_near_duplicate(fingerprints, np.empty(0, int), np.empty(0, int)).tolist() == []
