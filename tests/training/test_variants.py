"""Offline augmentation: made once, each extra image a function of its photograph, its variant and the run's seed."""

import numpy as np
import pytest
from PIL import Image

from reid_core.config.parameters import DataConfig, TrialConfig
from reid_core.config.values import override
from reid_core.data.chunks import local_map
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.pixel_source import PixelSource
from reid_core.training.augment import Augmenter
from reid_core.training.batch_plan import Pool, make_pool
from reid_core.training.variants import build_variants, variant_seeds

PX = 24
IDENTITY_N = np.array(["ada", "ada", "bo", "cy", "cy", "cy"], dtype=object)
CONFIG = override(TrialConfig(), {"seed": 7, "augment.probability": 1.0, "data.variants": 4})


def write_photographs(folder, seed: int) -> ImageCache:
    rng = np.random.default_rng(seed)
    for row in range(6):
        Image.fromarray(rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    return ImageCache(build_cache(folder / "cache", folder, [f"{row}.png" for row in range(6)], PX))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ImageCache:
    return write_photographs(tmp_path_factory.mktemp("photographs"), 0)


def pool_of(oversample_to: int = 5) -> Pool:
    data = DataConfig(oversample_to=oversample_to, variants=CONFIG.data.variants)
    return make_pool(data, IDENTITY_N, np.arange(6), 6)


def refuse(*arguments):
    raise AssertionError("the variants were made again")


def test_each_variant_is_its_photograph_augmented_with_its_own_seed(cache, tmp_path):
    pool = pool_of()
    path = build_variants(tmp_path, cache, pool, CONFIG)
    pixels = PixelSource.open(str(cache.path), str(path)).pixels(range(6 + len(pool.source_E)))
    assert np.array_equal(pixels[:6], cache.pixels(range(6)))
    for source, seed, made in zip(pool.source_E, variant_seeds(7, pool), pixels[6:], strict=True):
        expected = Augmenter(CONFIG.augment)(cache.pixels([source]), np.array([seed])).pixels_BHWC[0]
        assert np.array_equal(made, expected)
    assert len({image.tobytes() for image in pixels}) == 6 + 3 + 3 + 2  # bo has 4 different ones for 5 places


def test_rows_of_both_files_mix_in_any_order(cache, tmp_path):
    source = PixelSource(cache, ImageCache(build_variants(tmp_path, cache, pool_of(), CONFIG)))
    everything, mixed = source.pixels(range(14)), [13, 0, 6, 5, 13, 7]
    assert np.array_equal(source.pixels(mixed), everything[mixed])
    assert source.pixels([]).shape == (0, PX, PX, 3)
    for wrong in (14, -1):
        with pytest.raises(IndexError):
            source.pixels([6, wrong])
    with pytest.raises(IndexError):
        PixelSource(cache).pixels([6])


def test_a_variant_does_not_depend_on_the_other_ones(cache, tmp_path, monkeypatch):
    few, many = pool_of(4), pool_of(9)
    monkeypatch.setattr("reid_core.training.variants.CHUNK_IMAGES", 3)
    in_few, in_many = (
        dict(
            zip(
                zip(pool.source_E.tolist(), pool.variant_E.tolist(), strict=True),
                ImageCache(build_variants(tmp_path, cache, pool, CONFIG)).pixels(range(len(pool.source_E))),
                strict=True,
            )
        )
        for pool in (few, many)
    )
    assert len(in_few) == 6
    assert len(in_many) == 15
    assert all(np.array_equal(image, in_many[pair]) for pair, image in in_few.items())


def test_variants_are_made_once(cache, tmp_path):
    path = build_variants(tmp_path, cache, pool_of(), CONFIG)
    assert build_variants(tmp_path, cache, pool_of(), CONFIG, map_chunks=refuse) == path
    unrelated = override(CONFIG, {"optim.batch_size": 64, "optim.epochs": 3, "model.backbone": "other"})
    assert build_variants(tmp_path, cache, pool_of(), unrelated, map_chunks=refuse) == path
    assert list(tmp_path.iterdir()) == [path]  # nothing unfinished stays behind


def test_whatever_changes_the_pixels_changes_the_name(cache, tmp_path):
    other_photographs = write_photographs(tmp_path, 1)
    paths = [
        build_variants(tmp_path / "variants", cache, pool_of(), CONFIG),
        build_variants(tmp_path / "variants", cache, pool_of(), override(CONFIG, {"seed": 8})),
        build_variants(tmp_path / "variants", cache, pool_of(), override(CONFIG, {"augment.blur_px": 7})),
        build_variants(tmp_path / "variants", cache, pool_of(6), CONFIG),
        build_variants(tmp_path / "variants", other_photographs, pool_of(), CONFIG),
    ]
    assert len(set(paths)) == 5
    first, reseeded = (ImageCache(path).pixels(range(8)) for path in paths[:2])
    assert (first != reseeded).any(axis=(1, 2, 3)).all()


def test_a_pool_without_extra_images_needs_no_file(cache, tmp_path):
    online = make_pool(DataConfig(oversample_to=5), IDENTITY_N, np.arange(6), 6)
    for pool in (online, pool_of(1)):
        assert build_variants(tmp_path / "never", cache, pool, CONFIG, map_chunks=refuse) is None
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_file_is_made_again(cache, tmp_path, caplog, damage):
    path = build_variants(tmp_path, cache, pool_of(), CONFIG)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert build_variants(tmp_path, cache, pool_of(), CONFIG) == path
    assert path.read_bytes() == before
    assert f"{path} is damaged" in caplog.text


def test_a_killed_build_leaves_no_file_under_the_name(cache, tmp_path):
    def killed(function, chunks):
        yield from list(local_map(function, chunks))[:-1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_variants(tmp_path, cache, pool_of(), CONFIG, map_chunks=killed)
    assert list(tmp_path.glob("variants*")) == []
    assert ImageCache(build_variants(tmp_path, cache, pool_of(), CONFIG)).keys


def test_seeds_differ_between_photographs_variants_and_runs():
    pool = pool_of(9)
    seeds = np.concatenate([variant_seeds(run, pool) for run in range(20)])
    assert len(set(seeds.tolist())) == len(seeds)
