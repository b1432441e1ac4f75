"""Two networks of our own for 64 px, small enough for a laptop's CPU; one of them comes with weights.

name of timm's registry → network, in `weights/` its pretrained weights (16 bit) with their provenance beside them.
`benchmarks/pretrain_tiny.py` made them, from drawn animals that no data set of this project shows.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from reid_core.errors import UserError

WEIGHTS = Path(__file__).with_name("weights")
PRETRAINED = "convnext_micro_64"
# timm finds weights by this name (`register_model`); no classifier is in the file.
default_cfgs = generate_default_cfgs(
    {
        f"{PRETRAINED}.drawn": {
            "file": str(WEIGHTS / f"{PRETRAINED}.safetensors"),
            "num_classes": 0,
            "input_size": (3, 64, 64),
            "license": "apache-2.0",
        }
    }
)


@register_model
def swin_micro_patch4_window4_64(pretrained: bool = False, **kwargs) -> nn.Module:
    """A four-stage Swin of 1.4 M parameters for 64 px: the family of MegaDescriptor at the size of a test."""
    sizes = {"patch_size": 4, "window_size": 4, "embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4)}
    return _build(SwinTransformer, "swin_micro_patch4_window4_64", pretrained, {"img_size": 64, **sizes, **kwargs})


@register_model
def convnext_micro_64(pretrained: bool = False, **kwargs) -> nn.Module:
    """A four-stage ConvNeXt of 0.3 M parameters for 64 px, the preset `tiny`'s."""
    sizes = {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128), "patch_size": 2, "kernel_sizes": 3, "conv_mlp": True}
    # Layer scale would hold the blocks near zero for longer than a training from random weights lasts here.
    return _build(ConvNeXt, PRETRAINED, pretrained, {**sizes, "ls_init_value": None, **kwargs})


def _build(network: type[nn.Module], name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """By timm's builder; weights of ours are loaded only if they are whole, those of a given file as they are."""
    if pretrained and not (kwargs.get("pretrained_cfg_overlay") or {}).get("file"):
        check_embedded(name)
    return build_model_with_cfg(network, name, pretrained, **kwargs)


def has_weights(name: str) -> bool:
    """Whether a network has weights in this package; any name may be asked, also with timm's tag behind a dot."""
    return name.partition(".")[0] == PRETRAINED


def check_embedded(name: str) -> None:
    """Prove that the weights of one of these networks are here as they were made.

    Raises:
        UserError: If it has none, or they are missing or damaged.
    """
    if not has_weights(name):
        raise UserError(f"{name} has no pretrained weights; set model.weights=random")
    file, remedy = WEIGHTS / f"{PRETRAINED}.safetensors", "install the package again, or set model.weights=random"
    try:
        whole = hashlib.sha256(file.read_bytes()).hexdigest() == read_provenance()["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: its weights or their provenance cannot be read: {error}; {remedy}") from error
    if not whole:
        raise UserError(f"{file}: damaged or changed: its content does not fit its checksum; {remedy}")


def read_provenance() -> dict[str, Any]:
    """How the weights were made: script, data, training, versions, what they are worth, and their checksum.

    Raises:
        OSError: If the file is missing.
        ValueError: If it is no JSON.
    """
    return json.loads((WEIGHTS / f"{PRETRAINED}.json").read_text(encoding="utf-8"))
