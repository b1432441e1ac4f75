"""The backbone: a timm network without classifier, cut into stages that are frozen or trained as a whole.

architecture name + weights → network and its parts (paper §4.1.1).
"""

import copy
from itertools import pairwise
from typing import Any, NamedTuple

import timm
from timm.layers import set_fast_norm
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from reid_core.config.parameters import ModelConfig
from reid_core.errors import UserError
from reid_core.files.weights_file import check_weights_file

# The architecture behind a hub name, so that a local file or random weights need no hub.
HUB_ARCHITECTURES = {
    "hf-hub:BVRA/MegaDescriptor-L-384": "swin_large_patch4_window12_384",
    "hf-hub:BVRA/MegaDescriptor-L-224": "swin_large_patch4_window7_224",
    "hf-hub:BVRA/MegaDescriptor-B-224": "swin_base_patch4_window7_224",
    "hf-hub:BVRA/MegaDescriptor-S-224": "swin_small_patch4_window7_224",
    "hf-hub:BVRA/MegaDescriptor-T-224": "swin_tiny_patch4_window7_224",
}

set_fast_norm(False)


@register_model
def swin_micro_patch4_window4_64(pretrained: bool = False, **kwargs) -> nn.Module:
    """A four-stage Swin of 1.4 M parameters for 64 px: the family of MegaDescriptor at the size of a test."""
    sizes = {"patch_size": 4, "window_size": 4, "embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4)}
    return SwinTransformer(
        **{"img_size": 64, **sizes, **_untrained("swin_micro_patch4_window4_64", pretrained, kwargs)}
    )


@register_model
def convnext_micro_64(pretrained: bool = False, **kwargs) -> nn.Module:
    """A four-stage ConvNeXt of 0.3 M parameters for 64 px, small enough to learn from random weights in minutes."""
    sizes = {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128), "patch_size": 2, "kernel_sizes": 3, "conv_mlp": True}
    # Layer scale would hold the blocks near zero for longer than such a run lasts.
    return ConvNeXt(**{**sizes, "ls_init_value": None, **_untrained("convnext_micro_64", pretrained, kwargs)})


def _untrained(name: str, pretrained: bool, kwargs: dict) -> dict:
    """Arguments that an architecture of ours takes; timm's about pretrained weights are dropped."""
    if pretrained:
        raise UserError(f"{name} has no pretrained weights; set model.weights=random")
    return {key: value for key, value in kwargs.items() if not key.startswith("pretrained_") and key != "cache_dir"}


class Part(NamedTuple):
    """A part of the backbone that is frozen or trained as a whole."""

    name: str  # "stem", "stage 0" …, "norm"
    modules: list[nn.Module]
    parameters: list[nn.Parameter]


def _sequence(backbone: nn.Module, containers: set[str]) -> list[tuple[str, nn.Module]]:
    """Top-level modules in order, those in `containers` replaced by their children."""
    flat: list[tuple[str, nn.Module]] = []
    for name, module in backbone.named_children():
        children = [(f"{name}.{child}", block) for child, block in module.named_children()]
        flat += children if name in containers else [(name, module)]
    return flat


def find_parts(backbone: nn.Module) -> list[Part]:
    """Cut a timm backbone into stem, stages and final norm.

    A stage is all blocks at one stride, by timm's `feature_info`. What comes before the first is the stem; what comes
    after the last (a norm, or an EfficientNet's `conv_head` with its norm) counts as norm.

    Args:
        backbone: Made with ``num_classes=0``.

    Raises:
        UserError: If timm gives no `feature_info` for the model.
    """
    features = [(info["module"], info["reduction"]) for info in getattr(backbone, "feature_info", [])]
    containers = {name.split(".")[0] for name, _ in features if "." in name}
    if containers:  # a stem's activation is a feature to timm, but no stage
        features = [(name, stride) for name, stride in features if "." in name]
    modules = dict(backbone.named_modules())
    features = [(name, stride) for name, stride in features if list(modules[name].children())]
    if not features:
        raise UserError(f"model.backbone: timm names no stages for {type(backbone).__name__}")
    sequence = _sequence(backbone, containers)
    names = [name for name, _ in sequence]
    last_of_stride = {stride: names.index(name) for name, stride in features}
    first = min(i for i, name in enumerate(names) if name == features[0][0] or name.split(".")[0] in containers)
    bounds = [first, *(end + 1 for end in last_of_stride.values())]
    parts = [_part("stem", sequence[:first], backbone)]
    parts += [_part(f"stage {i}", sequence[a:b], backbone) for i, (a, b) in enumerate(pairwise(bounds))]
    parts.append(_part("norm", sequence[bounds[-1] :], backbone))
    return _with_loose_parameters(parts, backbone)


def _part(name: str, sequence: list[tuple[str, nn.Module]], backbone: nn.Module) -> Part:
    modules = [module for _, module in sequence]
    return Part(name, modules, [parameter for module in modules for parameter in module.parameters()])


def _with_loose_parameters(parts: list[Part], backbone: nn.Module) -> list[Part]:
    """Count parameters that belong to no module (a class token, a position embedding) to the stem."""
    loose = [parameter for _, parameter in backbone.named_parameters(recurse=False)]
    return [parts[0]._replace(parameters=loose + parts[0].parameters), *parts[1:]]


def skip_modules(network: nn.Module, skipped: list[nn.Module]) -> nn.Module:
    """The same network in which some modules pass their input on; all others are shared with it, not copied.

    Args:
        network: A backbone; left as it is.
        skipped: Of its children, or of their children; each takes one input.
    """
    rest = copy.copy(network)  # of the same class: the network runs its own code on what is left
    rest._modules = dict(network._modules)
    for name, child in network.named_children():
        if child in skipped:
            rest._modules[name] = nn.Identity()
        elif any(block in skipped for block in child.children()):
            rest._modules[name] = skip_modules(child, skipped)
    return rest


def make_backbone(config: ModelConfig, image_px: int) -> nn.Module:
    """The timm backbone without classifier, with its weights.

    Raises:
        UserError: If the name is unknown, the file cannot be used, or the hub cannot be reached.
    """
    name, overlay, pretrained = config.backbone, None, config.weights == "pretrained"
    if config.weights != "pretrained":
        name = HUB_ARCHITECTURES.get(name, name)
    if config.weights not in ("pretrained", "random"):
        overlay, pretrained = {"file": check_weights_file(config.weights)}, True
    try:
        optional = {"img_size": image_px, "drop_path_rate": config.drop_path}
        return _create(name, optional, pretrained=pretrained, pretrained_cfg_overlay=overlay, num_classes=0)
    except UserError:
        raise
    except Exception as error:  # timm, the hub and safetensors each have exceptions of their own
        raise UserError(
            f"model.backbone={config.backbone} with model.weights={config.weights} cannot be made at "
            f"data.image_px={image_px}: {error}. Without a network, give model.weights=FILE.safetensors or random."
        ) from error


def _create(name: str, optional: dict[str, Any], **kwargs) -> nn.Module:
    """`timm.create_model` with those optional arguments that the architecture takes.

    Transformers are built for one size, convolutional networks take any; VGG has no drop path. timm cannot be asked:
    its functions take any keyword, and `fixed_input_size` of a `pretrained_cfg` is set for networks without `img_size`
    (ResNet stems of vision transformers) and not set for others that have it (EVA, BYOB).
    """
    try:
        return timm.create_model(name, **optional, **kwargs)
    except TypeError as error:
        refused = {key for key in optional if f"unexpected keyword argument '{key}'" in str(error)}
        if not refused:
            raise
        if "drop_path_rate" in refused and optional["drop_path_rate"]:
            raise UserError(f"model.drop_path: {name} has none; set it to 0") from error
    return _create(name, {key: value for key, value in optional.items() if key not in refused}, **kwargs)
