"""Batches: pixels are a function of the run's seed, the epoch and the position, and of nothing else."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reid_core.augment import Augmenter
from reid_core.batches import augmentation_seeds, local_batches
from reid_core.config import AugmentConfig, TrialConfig, override
from reid_core.images import ImageCache, build_cache
from reid_core.plan import make_plan

PX = 32
IDENTITY_N = np.repeat(["ada", "bo", "cy", "di"], 4).astype(object)
CODE_N = np.repeat([10, 11, 12, 13], 4)
STRONG = AugmentConfig(probability=1.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ImageCache:
    folder, rng = tmp_path_factory.mktemp("batches"), np.random.default_rng(0)
    for row in range(16):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((PX, PX), Image.Resampling.BICUBIC).save(folder / f"{row}.png")
    return ImageCache(build_cache(folder / "cache", folder, [f"{row}.png" for row in range(16)], PX))


def make(world_size: int = 1, seed: int = 3) -> pa.Table:
    changes = {"optim.epochs": 2, "optim.batch_size": 8, "data.images_per_identity": 2, "seed": seed}
    return make_plan(override(TrialConfig(), changes), IDENTITY_N, np.arange(16), world_size=world_size)


def pixels_of(cache: ImageCache, config: AugmentConfig, *, seed: int = 3, rank: int = 0, world_size: int = 1) -> list:
    plan = make(world_size)
    batches = local_batches(plan, seed=seed, config=config, cache=cache, code_N=CODE_N, rank=rank)
    return [batch.pixels_BHWC for batch in batches]


def test_same_seed_same_pixels_other_seed_other_pixels(cache):
    first, again, other = (np.stack(pixels_of(cache, STRONG, seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert (first != other).any(axis=(2, 3, 4)).all()  # every single image differs


def test_the_same_image_looks_different_in_another_epoch_and_at_another_position(cache):
    image = cache.pixels([5])
    augmenter = Augmenter(STRONG)
    seeds = [augmentation_seeds(3, epoch, position, 1) for epoch, position in ((0, 0), (1, 0), (0, 1), (0, 8))]
    looks = [augmenter(image, seed).tobytes() for seed in seeds]
    assert len(set(looks)) == 4


@pytest.mark.parametrize("world_size", [2, 4])
def test_pixels_do_not_depend_on_the_number_of_workers(cache, world_size):
    alone = pixels_of(cache, STRONG)
    parts = [pixels_of(cache, STRONG, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(alone):
        assert np.array_equal(np.concatenate([part[step] for part in parts]), batch)


def test_seeds_of_a_batch_are_those_of_its_parts():
    whole = augmentation_seeds(7, 2, 40, 6)
    assert whole.tolist() == [*augmentation_seeds(7, 2, 40, 2).tolist(), *augmentation_seeds(7, 2, 42, 4).tolist()]
    assert len(set(augmentation_seeds(0, 0, 0, 500).tolist())) == 500


def test_images_do_not_depend_on_their_batch_mates(cache):
    augmenter, seeds = Augmenter(STRONG), np.arange(16, dtype=np.uint32)
    together = augmenter(cache.pixels(range(16)), seeds)
    backwards = [Augmenter(STRONG)(cache.pixels([row]), seeds[row : row + 1])[0] for row in reversed(range(16))]
    assert np.array_equal(together, np.stack(backwards[::-1]))


def test_probability_zero_is_the_identity(cache):
    plan = make()
    batches = local_batches(plan, seed=3, config=AugmentConfig(probability=0.0), cache=cache, code_N=CODE_N)
    for row, batch in zip(plan.to_pylist(), batches, strict=True):
        assert np.array_equal(batch.pixels_BHWC, cache.pixels(row["rows"]))


def test_identities_belong_to_their_pixels(cache):
    plan = make()
    batches = local_batches(plan, seed=3, config=STRONG, cache=cache, code_N=CODE_N)
    codes = [batch.identity_B.tolist() for batch in batches]
    assert codes == [CODE_N[row["rows"]].tolist() for row in plan.to_pylist()]
    assert sorted(codes[0]) == [10, 10, 11, 11, 12, 12, 13, 13]


def test_the_input_is_not_modified(cache):
    pixels_BHWC = cache.pixels(range(8))
    before = pixels_BHWC.copy()
    changed = Augmenter(STRONG)(pixels_BHWC, np.arange(8))
    assert np.array_equal(pixels_BHWC, before)
    assert changed.dtype == np.uint8
    assert changed.shape == before.shape
    assert not np.array_equal(changed, before)


def test_augmentation_keeps_an_image_recognisable(cache):
    """Each augmented image is still nearest to its own original, for nearly all images and seeds."""
    originals = cache.pixels(range(16)).astype(float).reshape(16, -1)
    originals -= originals.mean(axis=1, keepdims=True)
    hits = []
    for seed in range(6):
        augmented = Augmenter(AugmentConfig())(cache.pixels(range(16)), np.arange(16) + 100 * seed).astype(float)
        augmented = augmented.reshape(16, -1) - augmented.reshape(16, -1).mean(axis=1, keepdims=True)
        distance = ((augmented[:, None] - originals[None]) ** 2).sum(axis=2)
        hits.append(distance.argmin(axis=1) == np.arange(16))
    assert np.mean(hits) > 0.8


def test_each_strength_matters(cache):
    pixels_BHWC = cache.pixels(range(4)).repeat(4, axis=1).repeat(4, axis=2)  # CLAHE's tiles need more than 64 px
    off = {"rotation_deg": 0.0, "clahe_clip": 1.0, "blur_px": 3, "brightness": 0.0, "noise_std": 0.0}
    off["erase_fraction"] = 0.0
    on = {"rotation_deg": 20.0, "clahe_clip": 8.0, "blur_px": 9, "brightness": 0.2, "noise_std": 0.04}
    on["erase_fraction"] = 0.2
    base = Augmenter(AugmentConfig(probability=1.0, **off))(pixels_BHWC, np.arange(4))
    for name, value in on.items():
        changed = Augmenter(AugmentConfig(probability=1.0, **off | {name: value}))(pixels_BHWC, np.arange(4))
        assert not np.array_equal(changed, base), name


def test_flip_mirrors_about_half_of_the_images(cache):
    pixels_BHWC = cache.pixels(np.zeros(100, dtype=int))
    flipped = Augmenter(AugmentConfig(probability=0.0, flip=True))(pixels_BHWC, np.arange(100))
    mirrored = [np.array_equal(image, pixels_BHWC[0][:, ::-1]) for image in flipped]
    untouched = [np.array_equal(image, pixels_BHWC[0]) for image in flipped]
    assert np.sum(mirrored) + np.sum(untouched) == 100
    assert 30 < np.sum(mirrored) < 70
