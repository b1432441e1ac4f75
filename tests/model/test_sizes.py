"""Image sizes: those that a backbone does not take, or of which it drops pixels, are refused with the next that fit."""

from dataclasses import replace

import pytest
import torch

from reid_core.config.parameters import ModelConfig, TrialConfig
from reid_core.config.values import override
from reid_core.errors import UserError
from reid_core.model.reid_model import make_model, outline_model
from reid_core.model.sizes import make_fitting, sizes_that_fit

LOST = "px at the right and lower edge fit in none of its patches of"


def outline(name: str, image_px: int, **changes) -> None:
    settings = {"model.backbone": name, "data.image_px": image_px, "model.unfrozen_stages": 0}
    outline_model(override(TrialConfig(), settings | {key.replace("__", "."): value for key, value in changes.items()}))


@pytest.mark.parametrize(
    ("name", "image_px", "reason", "sizes"),
    [
        ("vit_small_patch14_dinov2", 64, f"8 {LOST} 14 px", "56, 70"),
        ("test_vit", 225, "should be divisible by patch size (16)", "224, 240"),
        ("test_convnext", 70, f"2 {LOST} 4 px", "68, 72"),
        pytest.param("tnt_s_patch16_224", 70, f"6 {LOST} 16 px", "64, 80", marks=pytest.mark.slow),
        pytest.param("mvitv2_tiny", 65, "out of bounds", "64, 96", marks=pytest.mark.slow),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_those_that_do(name, image_px, reason, sizes):
    with pytest.raises(UserError, match=rf"data\.image_px={image_px} does not fit model\.backbone={name}: .*") as error:
        outline(name, image_px)
    assert reason in str(error.value)
    assert str(error.value).endswith(f"sizes near it that fit: {sizes}")
    for size_px in map(int, sizes.split(", ")):
        outline(name, size_px)


@pytest.mark.parametrize("image_px", [56, 64, 65, 100])
def test_networks_that_take_any_size_still_do(image_px):
    """Overlapping convolutions and padded windows see every pixel."""
    for name in ("resnet10t", "test_efficientnet"):
        outline(name, image_px)


def test_pixels_that_no_patch_holds_are_those_that_change_nothing():
    """The slow oracle of `lost_px`: the gradient of the features with respect to the image."""
    with pytest.raises(UserError, match="1 px at the right"):
        outline("test_convnext", 33)
    model = make_model(
        override(TrialConfig(), {"model.backbone": "test_convnext", "model.weights": "random", "data.image_px": 36})
    ).eval()
    for image_px, lost_px in ((36, 0), (33, 1), (35, 3)):
        images = torch.randn(1, 3, image_px, image_px, requires_grad=True)
        feature_BF = model.backbone(images)
        (feature_BF * torch.randn(feature_BF.shape)).sum().backward()
        seen = (images.grad != 0).any(dim=(0, 1, 2))
        assert int((~seen).sum()) == lost_px
        assert not seen[image_px - lost_px :].any()


def test_what_gives_no_vector_is_refused():
    with pytest.raises(UserError, match=r"gives \[2048, 16, 16\] numbers for each image, where one vector is needed"):
        outline("mobilenetv5_300m_enc", 64)


def test_an_unknown_name_is_not_taken_for_a_size(caplog):
    caplog.set_level("INFO")
    with pytest.raises(UserError, match=r"model\.backbone=no_such_net with model\.weights=random cannot be made"):
        make_fitting(ModelConfig(backbone="no_such_net", weights="random"), 64)
    assert not caplog.records


def test_no_size_near_it():
    config = ModelConfig(backbone="vit_tiny_patch16_224", weights="random")
    assert sizes_that_fit("vit_tiny_patch16_224", config, 17, patch_px=16) == [16, 32]
    assert sizes_that_fit("no_such_net", config, 64) == []


def test_sizes_are_searched_once_and_said_before(caplog):
    config = ModelConfig(backbone="test_convnext", weights="random")
    caplog.set_level("INFO")
    first = sizes_that_fit("test_convnext", config, 71, patch_px=4)
    assert first == sizes_that_fit("test_convnext", replace(config, head="mlp"), 71, patch_px=4) == [68, 72]
    assert [record.message for record in caplog.records] == [
        "looking for image sizes near 71 px that test_convnext takes"
    ]
