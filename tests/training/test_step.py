"""A step in parts is the step of the whole batch: same loss, same gradients; so is one with gradient checkpointing."""

import numpy as np
import pytest
import torch
from torch import nn

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model
from reid_core.training.loss import make_loss
from reid_core.training.step.gradients import Images, LossOfImages, compute_gradients

PX, NUM_ANIMALS, NUM_IMAGES = 32, 5, 10
BASE = override(
    TrialConfig(),
    {
        "data.image_px": PX,
        "model.backbone": tiny().model.backbone,
        "model.weights": "random",
        "model.unfrozen_stages": 2,
        "model.head": "mlp",
        "model.head_hidden": 32,
        "model.embedding_dim": 16,
        "model.head_dropout": 0.0,
        "loss.miner": "all",
    },
)


def draw_images() -> Images:
    generator = torch.Generator().manual_seed(3)
    pixels_BHWC = torch.randint(0, 256, (NUM_IMAGES, PX, PX, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels_BHWC, torch.zeros(NUM_IMAGES, 6), torch.arange(NUM_IMAGES) % NUM_ANIMALS)


def make_step(config: TrialConfig) -> LossOfImages:
    model = make_model(config, num_identities=NUM_ANIMALS)
    if config.model.checkpointing == "always":
        model.checkpoint_stages()
    return LossOfImages(model, make_loss(config.loss, model.classifier), Place()).train()


def run(config: TrialConfig, num_parts: int = 1, seed: int = 7) -> tuple[float, torch.Tensor]:
    """Loss, and all gradients as one vector."""
    step = make_step(config)
    torch.manual_seed(seed)
    over_pairs = config.loss.name == "triplet"
    loss = compute_gradients(step, draw_images(), kept=False, num_parts=num_parts, over_pairs=over_pairs)
    return loss.item(), gradients_of(step)


def gradients_of(step: nn.Module) -> torch.Tensor:
    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    return torch.cat([parameter.grad.flatten() for parameter in trained])


@pytest.mark.parametrize("num_parts", [2, 3, NUM_IMAGES, 64])
@pytest.mark.parametrize("loss", ["triplet", "cross_entropy", "arcface"])
def test_parts_give_loss_and_gradients_of_the_whole(loss, num_parts):
    config = override(BASE, {"loss.name": loss, "loss.scale": 16.0})
    whole, gradients = run(config)
    in_parts, others = run(config, num_parts)
    assert whole > 0.05
    assert in_parts == pytest.approx(whole, abs=1e-5)
    torch.testing.assert_close(others, gradients, rtol=1e-3, atol=1e-5 * gradients.abs().max().item())


def test_triplets_reach_across_parts():
    """Each of two parts has one image of each animal: no pair of its own, and so nothing to learn."""
    step, (first, second) = make_step(BASE), draw_images().divide(2)
    assert [step(part, kept=False).item() for part in (first, second)] == [0, 0]
    assert run(BASE, 2)[0] > 0.05


def test_random_numbers_are_the_same_in_both_passes():
    """Against an oracle that keeps the graphs of all parts: dropout and stochastic depth draw once per part."""
    config = override(BASE, {"model.head_dropout": 0.5, "model.drop_path": 0.3})
    loss, gradients = run(config, 3)
    step = make_step(config)
    torch.manual_seed(7)
    feature_BD = torch.cat([step.features(part, kept=False) for part in draw_images().divide(3)])
    expected = step.loss(feature_BD, draw_images().identity_B)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradients, gradients_of(step), rtol=1e-3, atol=1e-5)


def test_images_are_divided_as_equally_as_can_be_and_none_is_lost():
    parts = draw_images().divide(3)
    assert [len(part.identity_B) for part in parts] == [4, 3, 3]
    assert torch.cat([part.input_BX for part in parts]).equal(draw_images().input_BX)


@pytest.mark.parametrize("backbone", [BASE.model.backbone, "efficientnet_b0", "dla34"])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(backbone):
    """timm cuts the first two into blocks; of DLA it knows none."""
    config = override(BASE, {"model.backbone": backbone, "model.head_dropout": 0.3, "model.unfrozen_stages": 2})
    sizes, gradients = zip(
        *(step_of(override(config, {"model.checkpointing": how})) for how in ("never", "always")), strict=True
    )
    assert sizes[1] < 0.8 * sizes[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def step_of(config: TrialConfig) -> tuple[int, torch.Tensor]:
    """Bytes that autograd keeps between the passes, weights excepted, and all gradients."""
    step, kept = make_step(config), {}
    weights = {parameter.untyped_storage()._cdata for parameter in step.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step(draw_images(), kept=False)
    loss.backward()
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights), gradients_of(step)


def test_evaluation_after_checkpointing_is_as_before():
    plain, checkpointed = (
        make_step(override(BASE, {"model.checkpointing": how})).model.eval() for how in ("never", "always")
    )
    images = plain.images_from(draw_images().input_BX)
    with torch.no_grad():
        assert torch.equal(checkpointed(images), plain(images))
        activation = checkpointed.frozen_features(images)
        assert torch.equal(checkpointed.features_from(activation), plain.features(images))


def test_the_cpu_gets_arrays_as_they_are():
    pixels, codes = np.arange(12, dtype=np.uint8).reshape(2, 2, 3), np.array([4, 2])
    sent = Place().send(pixels, codes)
    assert [tensor.numpy().tolist() for tensor in sent] == [pixels.tolist(), codes.tolist()]


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"),
    [("auto", "high", True), ("bfloat16", "high", True), ("tf32", "high", True), ("float32", "highest", False)],
)
def test_products_are_fast_within_a_step_only(precision, products, convolutions):
    """The settings can be made without a GPU; that it follows them cannot be seen here."""

    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with Place(device="cuda", precision=precision).fast_products():
        assert settings() == (products, convolutions)
    assert settings() == before
    with Place(precision=precision).fast_products():
        assert settings() == before
