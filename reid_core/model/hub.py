"""Whether the weights of a backbone can be had, before they are loaded.

backbone name + `model.weights` → nothing, or an error. Those of our own networks are in the package (`micro`).
"""

import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from reid_core.config.parameters import ModelConfig
from reid_core.errors import UserError
from reid_core.model.backbone import make_backbone
from reid_core.model.micro import check_embedded, has_weights

HUB = "hf-hub:"
FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository, as timm looks for them
ANSWER_S = 30.0


def check_weights(config: ModelConfig, image_px: int) -> None:
    """Find out whether the weights are there, here or where they would be fetched from; only a given file is loaded.

    Raises:
        UserError: If not.
    """
    if config.weights == "random":
        return
    if config.weights != "pretrained":
        make_backbone(config, image_px)
        return
    if has_weights(config.backbone):
        check_embedded(config.backbone)
        return
    try:
        _find_published(config.backbone)
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"model.weights=pretrained: the weights of model.backbone={config.backbone} cannot be had: {reason}. "
            "Without a network, give model.weights=FILE.safetensors or random."
        ) from error


def _find_published(backbone: str) -> None:
    """Raises an error of the hub or the network, or ValueError, if there are none."""
    if backbone.startswith(HUB):
        repository, _, revision = backbone.removeprefix(HUB).partition("@")
        _find_in_repository(repository, ("config.json",), revision or None)
        _find_in_repository(repository, FILES, revision or None)
        return
    published = timm.models.get_pretrained_cfg(backbone)
    if published is not None and published.hf_hub_id:
        named = getattr(published, "hf_hub_filename", None)
        _find_in_repository(published.hf_hub_id, (named,) if named else FILES)
    elif published is not None and published.url:
        _find_address(str(published.url))
    else:
        raise ValueError(f"{backbone} has no pretrained weights; set model.weights=random")


def _find_in_repository(repository: str, names: tuple[str, ...], revision: str | None = None) -> None:
    """Look for the first of these files that a repository of the Hugging Face hub has, in the cache or there."""
    for name in names:
        try:
            hf_hub_download(repository, name, revision=revision, dry_run=True)
            return
        except LocalEntryNotFoundError:  # no answer: it is not known what the repository has
            raise
        except EntryNotFoundError:
            if name == names[-1]:
                raise


def _find_address(url: str) -> None:
    """As timm and torch fetch it: from torch hub's cache, else from its address."""
    if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name).is_file():
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_S):
            return
