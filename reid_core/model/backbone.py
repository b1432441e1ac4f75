"""The backbone: a timm network without classifier.

architecture name + weights → network (paper §4.1.1).
"""

from typing import Any

import timm
import torch
from timm.layers import set_fast_norm
from torch import nn

from reid_core.config.parameters import ModelConfig
from reid_core.errors import UserError
from reid_core.files.weights_file import check_weights_file

# Importing it puts its networks into timm's registry.
from reid_core.model import micro  # noqa: F401

# The architecture behind a hub name, so that a local file or random weights need no hub.
HUB_ARCHITECTURES = {
    "hf-hub:BVRA/MegaDescriptor-L-384": "swin_large_patch4_window12_384",
    "hf-hub:BVRA/MegaDescriptor-L-224": "swin_large_patch4_window7_224",
    "hf-hub:BVRA/MegaDescriptor-B-224": "swin_base_patch4_window7_224",
    "hf-hub:BVRA/MegaDescriptor-S-224": "swin_small_patch4_window7_224",
    "hf-hub:BVRA/MegaDescriptor-T-224": "swin_tiny_patch4_window7_224",
}

set_fast_norm(False)


def architecture_of(config: ModelConfig) -> str:
    """The name of timm's function behind `model.backbone`; a hub name where only the hub knows it."""
    return HUB_ARCHITECTURES.get(config.backbone, config.backbone)


def make_backbone(config: ModelConfig, image_px: int) -> nn.Module:
    """The timm backbone without classifier, with its weights.

    Raises:
        UserError: If the name is unknown, the file cannot be used, or the hub cannot be reached.
    """
    name, overlay, pretrained = config.backbone, None, config.weights == "pretrained"
    if config.weights != "pretrained":
        name = architecture_of(config)
    if config.weights not in ("pretrained", "random"):
        overlay, pretrained = {"file": check_weights_file(config.weights)}, True
    try:
        return _create(name, _optional(config, image_px), pretrained=pretrained, pretrained_cfg_overlay=overlay)
    except UserError:
        raise
    except Exception as error:  # timm, the hub and safetensors each have exceptions of their own
        raise UserError(
            f"model.backbone={config.backbone} with model.weights={config.weights} cannot be made at "
            f"data.image_px={image_px}: {error}. Without a network, give model.weights=FILE.safetensors or random."
        ) from error


def outline_backbone(architecture: str, config: ModelConfig, image_px: int) -> nn.Module:
    """The backbone without weights, on the meta device: nothing is loaded or allocated.

    Raises:
        Exception: Whatever timm raises for an architecture and a size.
    """
    with torch.device("meta"):
        return _create(architecture, _optional(config, image_px), pretrained=False)


def _optional(config: ModelConfig, image_px: int) -> dict[str, Any]:
    return {"img_size": image_px, "drop_path_rate": config.drop_path}


def _create(name: str, optional: dict[str, Any], **kwargs) -> nn.Module:
    """`timm.create_model` with those optional arguments that the architecture takes.

    Transformers are built for one size, convolutional networks take any; VGG has no drop path. timm cannot be asked:
    its functions take any keyword, and `fixed_input_size` of a `pretrained_cfg` is set for networks without `img_size`
    (ResNet stems of vision transformers) and not set for others that have it (EVA, BYOB).
    """
    try:
        return timm.create_model(name, num_classes=0, **optional, **kwargs)
    except TypeError as error:
        # Python names one argument and timm's check all: "unexpected keyword argument(s): ['img_size', …]".
        refused = {key for key in optional if "unexpected keyword argument" in str(error) and f"'{key}'" in str(error)}
        if not refused:
            raise
        if "drop_path_rate" in refused and optional["drop_path_rate"]:
            raise UserError(f"model.drop_path: {name} has none; set it to 0") from error
    return _create(name, {key: value for key, value in optional.items() if key not in refused}, **kwargs)
