"""The model: a timm backbone cut into stages, and an embedding head.

normalised images (B, 3, H, W) → embeddings of length 1 (B, D) (paper §4.1.1, §4.1.4.2).
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from timm.layers import set_fast_norm
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from reid_core.config import ModelConfig, TrialConfig, UserError, override

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


def check_weights_file(path: str) -> str:
    """The path of a safetensors file, if it is one that can be read.

    Raises:
        UserError: If it is not.
    """
    try:
        with open(path, "rb"):  # noqa: PTH123
            pass
    except OSError as error:
        raise UserError(f"model.weights={path} cannot be read: {error.strerror}") from error
    if not path.endswith(".safetensors"):
        raise UserError(f"model.weights={path} is no .safetensors file; other formats can execute code when loaded")
    return path


def _create(name: str, optional: dict[str, Any], **kwargs) -> nn.Module:
    """`timm.create_model` with those optional arguments that the architecture takes.

    Transformers are built for one size, convolutional networks take any; VGG has no drop path.
    """
    optional = dict(optional)
    while True:
        try:
            return timm.create_model(name, **optional, **kwargs)
        except TypeError as error:
            refused = next((key for key in optional if key in str(error)), None)
            if refused is None:
                raise
            if refused == "drop_path_rate" and optional[refused]:
                raise UserError(f"model.drop_path: {name} has none; set it to 0") from error
            del optional[refused]


def make_head(config: ModelConfig, num_features: int) -> nn.Module:
    """Embedding head: identity, one linear map (the paper's), or a two-layer perceptron (head complexity)."""
    if config.head == "none":
        return nn.Identity()
    if config.head == "linear":
        head = nn.Linear(num_features, config.embedding_dim)
        nn.init.orthogonal_(head.weight)  # starts as a rotation: the pretrained geometry survives the first step
        nn.init.zeros_(head.bias)
        return head
    return nn.Sequential(
        nn.Linear(num_features, config.head_hidden),
        nn.LayerNorm(config.head_hidden),
        nn.GELU(),
        nn.Dropout(config.head_dropout),
        nn.Linear(config.head_hidden, config.embedding_dim),
    )


class ReidModel(nn.Module):
    """Backbone and head; knows which parts are trained and how its input is normalised."""

    def __init__(self, backbone: nn.Module, head: nn.Module, *, unfrozen_stages: int, mean: list, std: list) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self._parts = find_parts(backbone)
        num_stages = len(self._parts) - 2
        if unfrozen_stages > num_stages:
            raise UserError(f"model.unfrozen_stages={unfrozen_stages}: the backbone has {num_stages} stages")
        frozen_stages = num_stages - unfrozen_stages
        # The stem is trained only when every stage is.
        self._frozen = self._parts[: frozen_stages + 1] if frozen_stages else []
        for part in self._frozen:
            for parameter in part.parameters:
                parameter.requires_grad_(False)

    def normalise(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        """uint8 RGB (B, H, W, 3) → normalised float32 (B, 3, H, W)."""
        return (pixels_BHWC.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Embeddings of length 1; (B, D)."""
        return nn.functional.normalize(self.head(self.backbone(images_BCHW)).float(), dim=1)

    def train(self, mode: bool = True) -> "ReidModel":
        """Training mode for what is trained; frozen parts and every batch norm stay in eval mode.

        M-per-identity batches hold few animals, so their statistics would not be those of the data.
        """
        super().train(mode)
        for part in self._frozen:
            for module in part.modules:
                module.eval()
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def parts(self) -> list[Part]:
        """All parts in order, the head last."""
        return [*self._parts, Part("head", [self.head], list(self.head.parameters()))]

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """Copies of the trained parameters on the CPU: with the configuration, all that a checkpoint needs."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value.detach().cpu().clone() for name, value in self.state_dict().items() if name in trained}

    def load_trainable_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `trainable_state` gave.

        Raises:
            ValueError: If names differ from those of the trained parameters.
        """
        if state.keys() != self.trainable_state().keys():
            raise ValueError("the checkpoint's parameters are not those of this configuration")
        self.load_state_dict(state, strict=False)


def make_model(config: TrialConfig) -> ReidModel:
    """The model of a trial, its head initialised from the trial's seed."""
    torch.manual_seed(config.seed)
    backbone = make_backbone(config.model, config.data.image_px)
    num_features = int(getattr(backbone, "head_hidden_size", 0) or backbone.num_features)  # type: ignore[arg-type]
    pretrained = getattr(backbone, "pretrained_cfg", None) or {}
    mean = config.data.mean if config.data.mean is not None else pretrained.get("mean", (0.485, 0.456, 0.406))
    std = config.data.std if config.data.std is not None else pretrained.get("std", (0.229, 0.224, 0.225))
    return ReidModel(
        backbone,
        make_head(config.model, num_features),
        unfrozen_stages=config.model.unfrozen_stages,
        mean=np.broadcast_to(mean, 3).tolist(),
        std=np.broadcast_to(std, 3).tolist(),
    )


def describe_model(config: TrialConfig) -> str:
    """`describe_parts` of a configuration, without its weights: nothing is loaded or allocated.

    Returns:
        The table, or why it cannot be made (a hub name whose architecture only the hub knows).
    """
    try:
        with torch.device("meta"):
            return describe_parts(make_model(override(config, {"model.weights": "random"})))
    except UserError as error:
        return str(error)


def describe_parts(model: ReidModel) -> str:
    """A table of the parts: parameter tensors, parameters, and whether they are trained."""
    lines = [f"{'part':<10}{'tensors':>9}{'parameters':>14}  trained"]
    for part in model.parts():
        count = sum(parameter.numel() for parameter in part.parameters)
        trained = "yes" if any(parameter.requires_grad for parameter in part.parameters) else "no"
        lines.append(f"{part.name:<10}{len(part.parameters):>9}{count:>14,}  {trained}")
    return "\n".join(lines)
