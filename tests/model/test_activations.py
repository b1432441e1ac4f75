"""Kept activations: the same answers as without, only what is missing is computed, nothing damaged is served."""

import dataclasses
import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from timm.models import register_model
from torch import nn

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.pixel_source import PixelSource, keys_of
from reid_core.errors import UserError
from reid_core.model.embed import embed
from reid_core.model.frozen import activations, boundary
from reid_core.model.frozen.activations import KeptActivations, Layout
from reid_core.model.frozen.boundary import build_activations, check_keepable, find_layout
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.training.batch_plan import make_plan, make_pool
from reid_core.training.batches import activation_batches, local_batches, make_source
from reid_core.training.variants import build_variants

PX, NUM_IMAGES = 32, 10
ROWS = np.arange(NUM_IMAGES)
CONFIG = override(
    TrialConfig(),
    {
        "data.image_px": PX,
        "data.variants": 3,
        "data.images_per_identity": 2,
        "augment.probability": 1.0,
        "model.backbone": "swin_micro_patch4_window4_64",
        "model.weights": "random",
        "model.unfrozen_stages": 1,
        "model.embedding_dim": 24,
        "optim.batch_size": 8,
        "optim.epochs": 2,
    },
)
BACKBONES = ["swin_micro_patch4_window4_64", "convnext_micro_64", "test_efficientnet", "mobilenetv2_100", "test_vit"]


def write_photographs(folder, changed: int | None = None) -> ImageCache:
    """Random photographs, the same at every call but for the changed one."""
    folder.mkdir(exist_ok=True)
    names = [f"{row}.png" for row in range(NUM_IMAGES)]
    for row, name in enumerate(names):
        rng = np.random.default_rng(row + 1000 * (row == changed))
        Image.fromarray(rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8)).save(folder / name)
    return ImageCache(build_cache(folder / "cache", folder, names, PX))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ImageCache:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def make(config: TrialConfig = CONFIG) -> ReidModel:
    return make_model(config).eval()


class Counter:
    """Counts the images that go through the frozen part of a model."""

    def __init__(self, model: ReidModel) -> None:
        self.images = 0
        model.frozen_modules()[0].register_forward_hook(self._count)

    def _count(self, module, arguments, output) -> None:
        self.images += len(output)  # a module that is skipped is not called


PROBE = 2 * 2  # images that `find_layout` sends through the frozen part: two, in parts and as a whole


def files_of(kept: KeptActivations) -> list:
    return sorted(kept.folder.glob("*.arrow"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_embeddings_are_the_same_to_the_last_bit(cache, tmp_path, backbone, precision):
    if (backbone, precision) == ("test_vit", "bfloat16"):
        pytest.skip("a transformer's residual stream is float32 under autocast, and is kept as float16")
    config = override(CONFIG, {"model.backbone": backbone, "optim.precision": precision})
    model, place = make(config), Place(precision=precision)
    kept = build_activations(tmp_path, PixelSource(cache), ROWS, model, config, place)
    counter = Counter(model)
    kept_ND, _ = embed(model, cache, ROWS, dataclasses.replace(place, activations=kept))
    assert counter.images == 0
    expected_ND, _ = embed(model, cache, ROWS, place)
    assert counter.images == NUM_IMAGES
    assert np.array_equal(kept_ND, expected_ND)
    assert len(np.unique(kept_ND, axis=0)) == NUM_IMAGES


def test_an_image_that_is_not_kept_is_computed(cache, tmp_path):
    model = make()
    kept = build_activations(tmp_path, PixelSource(cache), ROWS[:6], model, CONFIG, Place())
    counter = Counter(model)
    mixed_ND, _ = embed(model, cache, ROWS[::-1], Place(activations=kept))
    assert counter.images == 4
    np.testing.assert_allclose(mixed_ND, embed(model, cache, ROWS, Place())[0], atol=1e-6)


def test_only_what_is_missing_is_computed(cache, tmp_path):
    model = make()
    counter = Counter(model)
    build_activations(tmp_path, PixelSource(cache), ROWS[:6], model, CONFIG, Place())
    assert counter.images == 6 + PROBE
    kept = build_activations(tmp_path, PixelSource(cache), np.repeat(ROWS, 2), model, CONFIG, Place())
    assert counter.images == 10 + 2 * PROBE
    assert len(kept) == NUM_IMAGES


def test_a_changed_photograph_is_computed_alone(cache, tmp_path):
    model = make()
    build_activations(tmp_path / "kept", PixelSource(cache), ROWS, model, CONFIG, Place())
    changed = write_photographs(tmp_path / "changed", changed=3)
    counter = Counter(model)
    kept = build_activations(tmp_path / "kept", PixelSource(changed), ROWS, model, CONFIG, Place())
    assert counter.images == 1 + PROBE
    after_ND, _ = embed(model, changed, ROWS, Place(activations=kept))
    np.testing.assert_allclose(after_ND, embed(model, changed, ROWS, Place())[0], atol=1e-6)
    before_ND, _ = embed(model, cache, ROWS, Place(activations=kept))
    assert [row for row in ROWS if not np.array_equal(before_ND[row], after_ND[row])] == [3]


def test_what_an_activation_depends_on_is_kept_apart(cache, tmp_path):
    def folder_of(**changes) -> str:
        config = override(CONFIG, {key.replace("__", "."): value for key, value in changes.items()})
        place = Place(precision=config.optim.precision)
        return build_activations(tmp_path, PixelSource(cache), ROWS[:1], make(config), config, place).folder.name

    same = {
        folder_of(),
        folder_of(optim__lr_head=1e-3),
        folder_of(loss__name="arcface"),
        folder_of(model__drop_path=0.1),
    }
    assert len(same) == 1
    changes: list[dict] = [
        {"seed": 1},
        {"model__unfrozen_stages": 0},
        {"data__mean": 0.5},
        {"optim__precision": "bfloat16"},
    ]
    assert len(same | {folder_of(**change) for change in changes}) == 5


def test_after_a_crash_only_the_batch_at_work_is_lost(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(boundary, "CHUNK_IMAGES", 4)
    model = make()
    written = KeptActivations.write

    def die_at_the_second(self, keys, activation_BX):
        if files_of(self):
            monkeypatch.setattr(activations.pa.ipc, "new_file", None)  # after the file has been opened
        written(self, keys, activation_BX)

    monkeypatch.setattr(KeptActivations, "write", die_at_the_second)
    with pytest.raises(TypeError):
        build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place())
    monkeypatch.undo()
    counter = Counter(model)
    build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place())
    assert counter.images == 6 + PROBE


def test_a_half_written_file_is_computed_again(cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(boundary, "CHUNK_IMAGES", 4)
    model = make()
    path = files_of(build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place()))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    counter = Counter(model)
    kept = build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place())
    assert counter.images in (2 + PROBE, 4 + PROBE)  # one file: 4, 4 and 2 images
    assert "is damaged" in caplog.text
    assert len(kept) == NUM_IMAGES
    assert path.read_bytes() == whole


def test_a_damaged_row_is_never_served_and_is_built_again(cache, tmp_path, caplog):
    model = make()
    kept = build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place())
    path = files_of(kept)[0]
    row_3 = kept.layout.encode(kept.read([cache.keys[3]]).activation_BX).tobytes()
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(row_3) + 5] ^= 1
    path.write_bytes(damaged)
    expected_ND, _ = embed(model, cache, ROWS, Place())
    counter = Counter(model)
    found_ND, _ = embed(model, cache, ROWS, Place(activations=KeptActivations(kept.folder, kept.layout)))
    assert counter.images == 1
    np.testing.assert_allclose(found_ND, expected_ND, atol=1e-6)
    assert "checksum" in caplog.text
    build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place())
    assert counter.images == 1 + NUM_IMAGES + PROBE


def test_words_of_a_row_that_change_places_are_noticed(cache, tmp_path):
    model = make()
    kept = build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place())
    path = files_of(kept)[0]
    row_3 = kept.layout.encode(kept.read([cache.keys[3]]).activation_BX).tobytes()
    swapped = row_3[:8] + row_3[16:24] + row_3[8:16] + row_3[24:]
    assert swapped != row_3
    path.write_bytes(path.read_bytes().replace(row_3, swapped))
    held_B = KeptActivations(kept.folder, kept.layout).read(cache.keys).held_B
    assert np.flatnonzero(~held_B).tolist() == [3]


def test_ranks_share_the_work(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(boundary, "CHUNK_IMAGES", 3)
    model, waited = make(), []

    def gather(array):
        waited.append(array)
        return array

    counter = Counter(model)
    for rank, num_images in ((0, 3 + 3), (1, 3 + 1)):
        before = counter.images
        place = Place(rank=rank, world_size=2, gather=gather)
        kept = build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, place)
        assert counter.images - before == num_images + PROBE
    assert len(waited) == 2
    assert len(kept) == NUM_IMAGES


def test_the_room_on_disk_is_logged_beforehand_and_limited(cache, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    model = make()
    image_gb = 2 * 2 * 128 * 4 / 1e9  # at the boundary: 2 × 2 places, 128 channels, float32
    config = override(CONFIG, {"model.activations_gb": 10.5 * image_gb})
    with pytest.raises(UserError, match=r"model\.activations_gb=.*need 2\.05e-05 GB"):
        build_activations(
            tmp_path,
            PixelSource(cache),
            ROWS,
            model,
            override(config, {"model.activations_gb": 9.5 * image_gb}),
            Place(),
        )
    assert not list(tmp_path.iterdir())
    assert "activations of 10 images" in caplog.text
    usage = activations.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda path: usage._replace(free=int(9.5 * 2048)))
    with pytest.raises(UserError, match=r"need 2\.05e-05 GB more and 1\.95e-05 GB are free .*model\.activations_gb"):
        build_activations(tmp_path, PixelSource(cache), ROWS, model, config, Place())
    assert not list(tmp_path.iterdir())
    assert len(build_activations(tmp_path, PixelSource(cache), ROWS[:9], model, config, Place())) == 9
    assert "2.05e-05 GB of them new" in caplog.text
    assert "1.84e-05 GB of them new" in caplog.text


def test_a_disk_that_fills_up_only_costs_time(cache, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise UserError("No space left on device")

    monkeypatch.setattr(activations, "write_arrow", fail)
    model = make()
    kept = build_activations(tmp_path, PixelSource(cache), ROWS, model, CONFIG, Place())
    assert "No space left" in caplog.text
    assert np.array_equal(embed(model, cache, ROWS, Place(activations=kept))[0], embed(model, cache, ROWS, Place())[0])


def test_refusals_name_their_reason(tmp_path):
    model = override(CONFIG, {"model.unfrozen_stages": 2}).model
    with pytest.raises(UserError, match=r"unfrozen_stages=2.* saves only 1\.07× of the training FLOPs"):
        check_keepable(model)
    with pytest.raises(UserError, match=r"model\.keep_activations with model\.orientation=input"):
        check_keepable(override(CONFIG, {"model.orientation": "input"}).model)
    check_keepable(override(CONFIG, {"model.orientation": "embedding", "model.unfrozen_stages": 0}).model)


class Branches(nn.Module):
    """Three blocks; what comes behind the second needs more than what the second gives."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.feature_info = [{"module": f"blocks.{i}", "reduction": 2**i} for i in range(3)]
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(3))

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        first = self.blocks[0](images_BCHW)
        second = self.blocks[1](first)
        if self.kind == "called twice":
            second = self.blocks[1](second[..., 1:])
        behind = self.blocks[2](second)
        return (behind + first.mean() if self.kind == "skipped" else behind).mean(dim=(2, 3))


@register_model
def branch_skipped(pretrained: bool = False, **kwargs) -> nn.Module:
    return Branches("skipped")


@register_model
def branch_twice(pretrained: bool = False, **kwargs) -> nn.Module:
    return Branches("called twice")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("branch_skipped", "it gives other features from there on"),
        ("branch_twice", "gives outputs of several shapes"),
    ],
)
def test_a_backbone_that_carries_more_on_than_one_tensor_is_refused(name, message):
    config = override(CONFIG, {"model.backbone": name})
    with pytest.raises(UserError, match=rf"model\.backbone={name} cannot be cut at the boundary: .*{message}"):
        find_layout(make(config), config, Place())


def test_a_backbone_without_frozen_stages_keeps_nothing():
    config = override(CONFIG, {"model.unfrozen_stages": 4})
    with pytest.raises(UserError, match="leaves nothing frozen"):
        find_layout(make(config), config, Place())


def test_rows_of_bytes_keep_values_and_strides():
    activation_BX = torch.randn(3, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    for given in (activation_BX, activation_BX.contiguous(memory_format=torch.channels_last), activation_BX.bfloat16()):
        layout = Layout.of(given, half=True)
        exact = Layout.of(given, half=False)
        assert (layout.kept, exact.kept) == (
            ("float16", "float32") if given.dtype == torch.float32 else ("bfloat16",) * 2
        )
        back = exact.decode(exact.encode(given))
        assert torch.equal(back, given)
        assert back.stride() == given.stride()
        half = layout.decode(layout.encode(given)).to(given.dtype)
        assert float(((half - given) / given).abs().max()) <= 2**-11
    assert exact.row_bytes == 64  # 30 values of 2 bytes, filled up
    with pytest.raises(UserError, match=r"65504.*optim\.precision=float32"):
        Layout.of(activation_BX, half=True).encode(activation_BX * 1e6)


def test_training_batches_hold_the_activations_of_their_pixels(cache, tmp_path):
    identity_N = np.array(["ada", "bo", "cy", "di"], dtype=object)[ROWS % 4]
    pool = make_pool(CONFIG.data, identity_N, ROWS, NUM_IMAGES)
    variants = build_variants(tmp_path, cache, pool, CONFIG)
    source = make_source(
        CONFIG,
        pool,
        image_cache=cache.path,
        variants=variants,
        code_N=ROWS % 4,
        sides_N6=np.eye(6, dtype=np.float32)[ROWS % 6],
    )
    plan = make_plan(CONFIG, pool)
    images = PixelSource.open(str(cache.path), str(variants))
    rows = np.arange(NUM_IMAGES + len(pool.source_E))
    model = make()
    kept = build_activations(
        tmp_path, images, rows[:-1], model, CONFIG, Place()
    )  # the last is computed when it is needed
    assert len(kept) == len(set(keys_of(images, rows[:-1].tolist())))
    batches = list(activation_batches(plan, source, model, Place(activations=kept)))
    expected = list(local_batches(plan, source))
    assert any(max(row) >= NUM_IMAGES for row in plan["rows"].to_pylist())
    assert len(batches) == len(expected) > 2
    for batch, whole in zip(batches, expected, strict=True):
        assert np.array_equal(batch.identity_B, whole.identity_B)
        assert np.array_equal(batch.sides_B6, whole.sides_B6)
        assert batch.activation_BX.grad_fn is None
        feature_BD = model.features(model.normalise(torch.from_numpy(whole.pixels_BHWC)))
        torch.testing.assert_close(model.features_from(batch.activation_BX), feature_BD, atol=1e-5, rtol=0)


def test_online_augmentation_has_no_activations_to_train_from(cache, tmp_path):
    config = override(CONFIG, {"data.variants": None})
    pool = make_pool(config.data, ROWS.astype(str).astype(object), ROWS, NUM_IMAGES)
    source = make_source(
        config, pool, image_cache=cache.path, variants=None, code_N=ROWS, sides_N6=np.zeros((NUM_IMAGES, 6), np.float32)
    )
    model = make(config)
    kept = KeptActivations(tmp_path, find_layout(model, config, Place()))
    with pytest.raises(UserError, match=r"data\.variants"):
        next(activation_batches(pa.table({"rows": [[0]], "rank": [0]}), source, model, Place(activations=kept)))
