"""The boundary between frozen and trained stages: what lies before it is computed once per image and shared by trials.

model + pixels → `KeptActivations` of the images asked for; plan + those → batches of activations (DESIGN §6).
Kept and computed activations are equal to the last bit (same batch, same device), in float32 and in bfloat16; only
those that are float32 under bfloat16 autocast are kept as float16, whose rounding is an eighth of bfloat16's own.

Letters: U different images, B batch, X shape of one activation.
"""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import timm
import torch
from tqdm import tqdm

from reid_core.config.parameters import ModelConfig, TrialConfig
from reid_core.data.image_cache import DECODER
from reid_core.data.pixel_source import PixelSource, keys_of
from reid_core.errors import UserError
from reid_core.model.frozen.activations import KeptActivations, Layout
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel

MAKER = "3"  # part of the folder's name; raise it when the same model and pixels give other bytes than before
CHUNK_IMAGES = 64  # computed and written at a time; what a crash loses
logger = logging.getLogger(__name__)


def check_keepable(config: ModelConfig) -> None:
    """Find out without a model whether keeping activations is possible and pays.

    Raises:
        UserError: If not.
    """
    if config.orientation == "input":
        raise UserError(
            "model.keep_activations with model.orientation=input: the image is changed by a trained layer before the "
            "backbone, so no activation stays the same; use model.orientation=embedding"
        )
    if config.unfrozen_stages >= 2:
        raise UserError(
            f"model.keep_activations with model.unfrozen_stages={config.unfrozen_stages}: with two trained stages "
            "keeping activations saves only 1.07× of the training FLOPs; set model.unfrozen_stages to 0 or 1"
        )


@torch.inference_mode()
def find_layout(model: ReidModel, config: TrialConfig, place: Place) -> Layout:
    """Prove on two probe images that the backbone can be cut at the boundary, and see what comes out there.

    Args:
        model: On the place's device; left in eval mode.
        config: Of the trial.
        place: Where this is computed.

    Raises:
        UserError: If the backbone gives other features from the boundary on than as a whole.
    """
    model.eval()
    image_px = config.data.image_px
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (2, image_px, image_px, 3), dtype=np.uint8)
    images_BCHW = model.images_from(pixels_BHWC)
    refusal = f"model.keep_activations: model.backbone={config.model.backbone} cannot be cut at the boundary"
    if not model.frozen_modules():
        raise UserError(f"{refusal}: model.unfrozen_stages={config.model.unfrozen_stages} leaves nothing frozen")
    with place.autocast():
        try:
            model.halves().check()
            activation_BX = model.frozen_features(images_BCHW)
            feature_BD = model.features_from(activation_BX)
        except Exception as error:  # whatever a network raises that does more than hand one tensor on
            raise UserError(f"{refusal}: {error}; set model.keep_activations=false") from error
        if not torch.equal(feature_BD, model.features(images_BCHW)):
            raise UserError(f"{refusal}: it gives other features from there on; set model.keep_activations=false")
    return Layout.of(activation_BX, half=place.uses_bfloat16)


def build_activations(
    folder: Path,
    source: PixelSource,
    row_N: np.ndarray,
    model: ReidModel,
    config: TrialConfig,
    place: Place,
) -> KeptActivations:
    """Compute those activations of some images that are not kept yet, and open all of them.

    Every rank computes its share; trials that do so at once share the work, and at worst do some of it twice.

    Args:
        folder: Where the folder of this network is; every node must see it.
        source: Photographs and variants.
        row_N: Rows of `source` that are asked for.
        model: On the place's device; left in eval mode.
        config: Of the trial.
        place: Where this is computed; its `gather` waits for all ranks.

    Raises:
        UserError: If activations cannot be kept (`check_keepable`, `find_layout`), or there is no room for them.
    """
    check_keepable(config.model)
    layout = find_layout(model, config, place)
    name = f"activations-{config.data.image_px}-{_digest(model, config, layout, place)}"
    kept = KeptActivations(folder / name, layout)
    row_of = _different(source, row_N)
    keys = list(row_of)
    kept.check_room(keys, config.model.activations_gb, log=place.rank == 0)
    chunks = [keys[start : start + CHUNK_IMAGES] for start in range(0, len(keys), CHUNK_IMAGES)]
    bar = tqdm(place.share(chunks), desc="activations", unit="batch", disable=None)
    with torch.inference_mode(), place.autocast():
        try:
            for chunk in bar:
                _keep_missing(kept, {key: row_of[key] for key in chunk}, source, model)
        except UserError as error:  # the disk is full, though there seemed to be room
            logger.warning("the activations of some images are not kept, and are computed each time: %s", error)
    place.gather(np.array([place.rank]))
    kept.refresh()
    return kept


def _keep_missing(kept: KeptActivations, row_of: dict[str, int], source: PixelSource, model: ReidModel) -> None:
    """Compute and write one file of activations."""
    kept.refresh()  # another trial may have been here
    missing = [key for key in row_of if key not in kept]
    if missing:
        pixels_BHWC = source.pixels([row_of[key] for key in missing])
        kept.write(missing, model.frozen_features(model.images_from(pixels_BHWC)))


def _different(source: PixelSource, row_N: np.ndarray) -> dict[str, int]:
    """A row of each different image, in the order of the rows."""
    row_of: dict[str, int] = {}
    rows = np.unique(row_N).tolist()
    for row, key in zip(rows, keys_of(source, rows), strict=True):
        row_of.setdefault(key, row)
    return row_of


def _digest(model: ReidModel, config: TrialConfig, layout: Layout, place: Place) -> str:
    """Of all that an activation depends on besides the image: the frozen weights themselves, not where they come from.

    Processors round differently, and so may versions of the libraries.
    """
    recipe = {
        "maker": [MAKER, DECODER, torch.__version__, timm.__version__],
        "backbone": [config.model.backbone, len(model.frozen_modules()), config.data.image_px],
        "layout": [layout.shape, layout.order, layout.computed, layout.kept],
        "device": [torch.device(place.device).type, place.uses_bfloat16],
    }
    digest = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in model.state_dict().items():
        if name not in trained and name.startswith(("backbone.", "mean", "std")):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
