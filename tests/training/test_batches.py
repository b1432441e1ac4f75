"""Batches: online, pixels are a function of the run's seed, the epoch and the position; offline they never change."""

import sys
import threading
from contextlib import suppress
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reid_core.config.parameters import AugmentConfig, TrialConfig
from reid_core.config.values import override
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.training.augment import Augmenter
from reid_core.training.batch_plan import make_plan, make_pool
from reid_core.training.batches import Batch, Source, local_batches, make_source
from reid_core.training.pixels import augmentation_seeds
from reid_core.training.variants import build_variants

PX = 32
IDENTITY_N = np.repeat(["ada", "bo", "cy", "di"], 4).astype(object)
CODE_N = np.repeat([10, 11, 12, 13], 4)
SIDES_N6 = np.eye(16, 6, dtype=np.float32)  # rows from 6 on show nothing that is known
STRONG = AugmentConfig(probability=1.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ImageCache:
    folder, rng = tmp_path_factory.mktemp("batches"), np.random.default_rng(0)
    for row in range(16):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((PX, PX), Image.Resampling.BICUBIC).save(folder / f"{row}.png")
    return ImageCache(build_cache(folder / "cache", folder, [f"{row}.png" for row in range(16)], PX))


def make_config(**changes) -> TrialConfig:
    given = {"optim.epochs": 2, "optim.batch_size": 8, "data.images_per_identity": 2, "seed": 3}
    strong = {"augment.probability": 1.0}
    return override(TrialConfig(), given | strong | {key.replace("__", "."): value for key, value in changes.items()})


def make(cache: ImageCache, config: TrialConfig, folder=None, world_size: int = 1) -> tuple[pa.Table, Source]:
    pool = make_pool(config.data, IDENTITY_N, np.arange(16), 16)
    plan = make_plan(config, pool, world_size=world_size)
    variants = build_variants(folder, cache, pool, config) if config.data.variants else None
    source = make_source(config, pool, image_cache=cache.path, variants=variants, code_N=CODE_N, sides_N6=SIDES_N6)
    return plan, source


def batches_of(cache: ImageCache, config: TrialConfig, *, rank: int = 0, world_size: int = 1) -> list[Batch]:
    plan, source = make(cache, config, world_size=world_size)
    return list(local_batches(plan, source, rank=rank))


def pixels_of(cache: ImageCache, config: TrialConfig, **where) -> list[np.ndarray]:
    return [batch.pixels_BHWC for batch in batches_of(cache, config, **where)]


def test_same_seed_same_pixels_other_seed_other_pixels(cache):
    plan, source = make(cache, make_config())
    first, again, other = (
        np.stack([batch.pixels_BHWC for batch in local_batches(plan, replace(source, seed=seed))]) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert (first != other).any(axis=(2, 3, 4)).all()  # every single image differs


def test_the_same_image_looks_different_in_another_epoch_and_at_another_position(cache):
    image = cache.pixels([5])
    augmenter = Augmenter(STRONG)
    seeds = [augmentation_seeds(3, epoch, position, 1) for epoch, position in ((0, 0), (1, 0), (0, 1), (0, 8))]
    looks = [augmenter(image, seed).pixels_BHWC.tobytes() for seed in seeds]
    assert len(set(looks)) == 4


@pytest.mark.parametrize("world_size", [2, 4])
def test_pixels_do_not_depend_on_the_number_of_workers(cache, world_size):
    alone = pixels_of(cache, make_config())
    parts = [pixels_of(cache, make_config(), rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(alone):
        assert np.array_equal(np.concatenate([part[step] for part in parts]), batch)


@pytest.mark.parametrize("variants", [None, 3], ids=["online", "offline"])
def test_pixels_depend_neither_on_threads_nor_on_where_a_run_is_taken_up_again(cache, tmp_path, variants):
    """Plans cut anywhere, in the middle of an epoch too, and made by any number of threads that switch all the time."""
    config = make_config(data__oversample_to=6, data__variants=variants)
    plan, source = make(cache, config, tmp_path)
    alone, rng = list(local_batches(plan, source, num_threads=1)), np.random.default_rng(0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for num_threads in (1, 2, 3, 7):
            done = int(rng.integers(0, len(plan)))
            rest = list(local_batches(plan.slice(done), source, num_threads=num_threads))
            assert len(rest) == len(alone) - done
            for one, other in zip(alone[done:], rest, strict=True):
                assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    finally:
        sys.setswitchinterval(interval)


def test_threads_make_batches_at_the_same_time_and_end_with_the_loop(cache, monkeypatch):
    plan, source = make(cache, make_config())
    together, before = threading.Barrier(2, timeout=60), threading.active_count()
    inner = Augmenter.__call__

    def wait_for_the_other(self, images, seed_B):
        with suppress(threading.BrokenBarrierError):
            together.wait()
        return inner(self, images, seed_B)

    monkeypatch.setattr(Augmenter, "__call__", wait_for_the_other)
    batches = local_batches(plan, source, num_threads=2)
    next(batches)
    together.abort()  # the last one to come might wait alone
    batches.close()
    assert not together.n_waiting
    assert threading.active_count() == before


def test_effects_are_drawn_independently_of_each_other():
    """Two effects with probability 1/2 each: none, one, the other and both are about equally frequent."""
    off = {"rotation_deg": 0.0, "clahe_clip": 1.0, "noise_std": 0.0, "erase_fraction": 0.3}
    augmenter = Augmenter(AugmentConfig(brightness=0.2, flip=True, **off))
    applied = []
    for seed in range(200):
        augmenter([np.full((32, 32, 3), 128, np.uint8)], np.array([seed]))
        effects = {type(effect).__name__: bool(effect.params) for effect in augmenter._pipeline.transforms}
        applied.append((effects["Affine"], effects["RandomBrightnessContrast"]))
    for kind in ((False, False), (False, True), (True, False), (True, True)):
        assert 25 < applied.count(kind) < 75  # five standard deviations around 50 would be 19 … 81


def fail_on(augmenter_class, monkeypatch, is_odd, error):
    inner = augmenter_class._one

    def one(self, image_HWC, seed):
        if is_odd(image_HWC):
            raise error
        return inner(self, image_HWC, seed)

    monkeypatch.setattr(augmenter_class, "_one", one)


@pytest.mark.parametrize("variants", [None, 3], ids=["online", "offline"])
def test_an_image_that_cannot_be_augmented_stays_as_it_is_and_is_named(cache, tmp_path, monkeypatch, variants):
    config = make_config(data__images_per_identity=None, data__oversample_to=6, data__variants=variants)
    expected = list(local_batches(*make(cache, config, tmp_path / "good")))
    odd = cache.pixels([5])[0]
    fail_on(Augmenter, monkeypatch, lambda image: np.array_equal(image, odd), ValueError("too\x1bodd"))
    plan, source = make(cache, config, tmp_path / "odd")
    source = replace(source, name_R=np.array([f"photo-{row}.png" for row in range(len(source.name_R))]))
    failed, name_of = set(), dict(enumerate(source.name_R))
    for row, batch, good in zip(plan.to_pylist(), local_batches(plan, source), expected, strict=True):
        failures = list(batch.failures)
        for number, mine, theirs in zip(row["rows"], batch.pixels_BHWC, good.pixels_BHWC, strict=True):
            if f"{name_of[number]}: ValueError: too\\x1bodd" in failures:
                assert np.array_equal(mine, odd)
                failed.add(number)
            else:
                assert np.array_equal(mine, theirs)
    # Online the photograph itself, in each of its repetitions; offline its two extra variants.
    assert failed == (
        {5} if variants is None else {row for row in name_of if row >= 16 and source_of(config, row) == 5}
    )


def source_of(config, row):
    return make_pool(config.data, IDENTITY_N, np.arange(16), 16).source_E[row - 16]


@pytest.mark.parametrize("result", [np.zeros((PX, PX), np.uint8), np.zeros((PX, PX, 3), np.float32)])
def test_an_effect_that_gives_no_such_image_is_a_failure_too(cache, monkeypatch, result):
    augmenter = Augmenter(STRONG)
    monkeypatch.setattr(augmenter, "_pipeline", type("Odd", (), {"set_random_state": lambda *_: None})())
    augmenter._pipeline.__class__.__call__ = lambda self, image: {"image": result}
    pixels_BHWC, (error,) = augmenter(cache.pixels([3]), np.array([1]))
    assert np.array_equal(pixels_BHWC, cache.pixels([3]))
    assert error == f"ValueError: it became {result.shape} of {result.dtype}"


@pytest.mark.parametrize("error", [MemoryError("full"), cv2.error("Insufficient memory")])
def test_lack_of_memory_is_no_fault_of_an_image(cache, monkeypatch, error):
    if isinstance(error, cv2.error):
        error.code = cv2.Error.StsNoMem
    fail_on(Augmenter, monkeypatch, lambda image: True, error)
    with pytest.raises(MemoryError):
        list(local_batches(*make(cache, make_config())))


def test_seeds_of_a_batch_are_those_of_its_parts():
    whole = augmentation_seeds(7, 2, 40, 6)
    assert whole.tolist() == [*augmentation_seeds(7, 2, 40, 2).tolist(), *augmentation_seeds(7, 2, 42, 4).tolist()]
    assert len(set(augmentation_seeds(0, 0, 0, 500).tolist())) == 500


def test_images_do_not_depend_on_their_batch_mates(cache):
    augmenter, seeds = Augmenter(STRONG), np.arange(16, dtype=np.uint32)
    together = augmenter(cache.pixels(range(16)), seeds).pixels_BHWC
    backwards = [Augmenter(STRONG)(cache.pixels([row]), seeds[row : row + 1]) for row in reversed(range(16))]
    assert np.array_equal(together, np.concatenate([one.pixels_BHWC for one in backwards[::-1]]))


def test_probability_zero_is_the_identity(cache):
    plan, source = make(cache, make_config(augment__probability=0.0))
    for row, batch in zip(plan.to_pylist(), local_batches(plan, source), strict=True):
        assert np.array_equal(batch.pixels_BHWC, cache.pixels(row["rows"]))


def test_identities_and_sides_belong_to_their_pixels(cache):
    plan, source = make(cache, make_config(augment__probability=0.0))
    for row, batch in zip(plan.to_pylist(), local_batches(plan, source), strict=True):
        assert batch.identity_B.tolist() == CODE_N[row["rows"]].tolist()
        assert batch.sides_B6.tolist() == SIDES_N6[row["rows"]].tolist()
        assert batch.sides_B6.dtype == np.float32
    assert sorted(batch.identity_B.tolist()) == [10, 10, 11, 11, 12, 12, 13, 13]


def looks_of(batches, plan: pa.Table) -> dict[int, list[set[bytes]]]:
    """Different pixels of each row of the plan, by epoch."""
    looks = {}
    for entry, batch in zip(plan.to_pylist(), batches, strict=True):
        for row, image in zip(entry["rows"], batch.pixels_BHWC, strict=True):
            looks.setdefault(row, [set(), set()])[entry["epoch"]].add(image.tobytes())
    return looks


def test_offline_pixels_stay_the_same_and_photographs_are_left_as_they_are(cache, tmp_path):
    config = make_config(data__images_per_identity=None, data__oversample_to=6, data__variants=3)
    plan, source = make(cache, config, tmp_path)  # 4 animals x (4 photographs + 2 variants): 3 whole batches
    assert sorted(row for entry in plan.to_pylist()[:3] for row in entry["rows"]) == list(range(24))
    looks = looks_of(local_batches(plan, source), plan)
    for row, (first_epoch, second_epoch) in looks.items():
        assert len(first_epoch) == 1
        assert first_epoch == second_epoch
        assert row >= 16 or first_epoch == {cache.pixels([row])[0].tobytes()}
    assert len(set.union(*(first_epoch for first_epoch, _ in looks.values()))) == 24


def test_online_pixels_differ_from_epoch_to_epoch(cache):
    config = make_config(data__images_per_identity=None, data__oversample_to=6)
    plan, source = make(cache, config)
    looks = looks_of(local_batches(plan, source), plan)
    assert len(looks) == 16
    for row, (first_epoch, second_epoch) in looks.items():
        assert not first_epoch & second_epoch
        assert cache.pixels([row])[0].tobytes() not in first_epoch | second_epoch
    assert sum(len(first_epoch) for first_epoch, _ in looks.values()) == 24  # repetitions differ within the epoch too


def test_offline_and_online_batches_show_the_same_identities_and_sides(cache, tmp_path):
    online, offline = (make_config(data__oversample_to=6, data__variants=variants) for variants in (None, 2))
    pairs = zip(local_batches(*make(cache, online)), local_batches(*make(cache, offline, tmp_path)), strict=True)
    for one, other in pairs:
        assert one.identity_B.tolist() == other.identity_B.tolist()
        assert one.sides_B6.tolist() == other.sides_B6.tolist()
        assert not np.array_equal(one.pixels_BHWC, other.pixels_BHWC)


def test_the_input_is_not_modified(cache):
    pixels_BHWC = cache.pixels(range(8))
    before = pixels_BHWC.copy()
    changed, _ = Augmenter(STRONG)(pixels_BHWC, np.arange(8))
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
        augmented = Augmenter(AugmentConfig())(cache.pixels(range(16)), np.arange(16) + 100 * seed)[0].astype(float)
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
    base, _ = Augmenter(AugmentConfig(probability=1.0, **off))(pixels_BHWC, np.arange(4))
    for name, value in on.items():
        changed, _ = Augmenter(AugmentConfig(probability=1.0, **off | {name: value}))(pixels_BHWC, np.arange(4))
        assert not np.array_equal(changed, base), name


def test_flip_mirrors_about_half_of_the_images(cache):
    pixels_BHWC = cache.pixels(np.zeros(100, dtype=int))
    flipped, _ = Augmenter(AugmentConfig(probability=0.0, flip=True))(pixels_BHWC, np.arange(100))
    mirrored = [np.array_equal(image, pixels_BHWC[0][:, ::-1]) for image in flipped]
    untouched = [np.array_equal(image, pixels_BHWC[0]) for image in flipped]
    assert np.sum(mirrored) + np.sum(untouched) == 100
    assert 30 < np.sum(mirrored) < 70
