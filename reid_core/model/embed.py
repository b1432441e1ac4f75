"""Embedding: model + images → embeddings of length 1, sharded over ranks.

cache rows → (N, D) float32 and a classifier's logits (N, K); NaN in the rows that were not asked for (paper §5.1).
"""

from collections.abc import Callable

import numpy as np
import torch

from reid_core.data.image_cache import ImageCache
from reid_core.model.frozen.activations import KeptActivations, Read
from reid_core.model.heads import NUM_SIDES
from reid_core.model.reid_model import ReidModel

# Every rank's array of rows → the concatenation over ranks, in the order of ranks; the identity for one process.
Gather = Callable[[np.ndarray], np.ndarray]


def alone(array: np.ndarray) -> np.ndarray:
    """The `Gather` of a single process."""
    return array


def uses_bfloat16(device: str, precision: str) -> bool:
    """Whether a trial computes in bfloat16; "auto" means on a GPU only."""
    return precision == "bfloat16" or (precision == "auto" and torch.device(device).type == "cuda")


def autocast(device: str, precision: str) -> torch.autocast:
    """bfloat16 autocast where the trial asks for it (`uses_bfloat16`)."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=uses_bfloat16(device, precision))


@torch.inference_mode()
def embed(
    model: ReidModel,
    cache: ImageCache,
    row_N: np.ndarray,
    *,
    sides_N6: np.ndarray | None = None,
    device: str = "cpu",
    precision: str = "auto",
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    gather: Gather = alone,
    activations: KeptActivations | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed some rows of the cache; every rank computes its share and gets all of them.

    Args:
        model: In any mode; left in eval mode.
        cache: Pixels by row.
        row_N: Rows that are asked for.
        sides_N6: Photographed sides by row of the cache (`sides.parse_sides`); None: unknown.
        device: Where the model is.
        precision: See `autocast`.
        batch_size: Images at a time.
        rank: Whose share.
        world_size: Number of ranks.
        gather: Over the ranks.
        activations: Of this model (`boundary.build_activations`); images that it holds start at the boundary.

    Returns:
        embedding_ND: by row of the cache; shape (len(cache), D), float32, NaN where the row was not asked for.
        logit_NK: of the model's classifier, in the same way; None if it has none.
    """
    model.eval()
    sides_N6 = np.zeros((len(cache), NUM_SIDES), np.float32) if sides_N6 is None else sides_N6
    share = row_N[rank::world_size]
    blocks = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    with autocast(device, precision):
        # A rank without a share still has to know how wide the others' arrays are.
        blocks = blocks or [row_N[:1]]
        if activations is None:
            parts = [embed_block(model, cache.pixels(block), sides_N6[block], device) for block in blocks]
        else:
            parts = [_embed_kept(model, cache, block, sides_N6[block], device, activations) for block in blocks]
    mine = np.concatenate(parts)[: len(share)]
    every_NE = np.full((len(cache), mine.shape[1]), np.nan, dtype=np.float32)
    every_NE[gather(share)] = gather(mine)
    if model.classifier is None:
        return every_NE, None
    size = mine.shape[1] - model.num_identities
    return np.ascontiguousarray(every_NE[:, :size]), np.ascontiguousarray(every_NE[:, size:])


def embed_block(model: ReidModel, pixels_BHWC: np.ndarray, sides_B6: np.ndarray, device: str) -> np.ndarray:
    """Embeddings and, behind them, a classifier's logits; (B, D) or (B, D + K), float32."""
    images_BCHW, sides = images_of(model, pixels_BHWC, device), torch.from_numpy(sides_B6).to(device)
    return _answers(model, model.features(images_BCHW, sides))


def _embed_kept(
    model: ReidModel,
    cache: ImageCache,
    row_B: np.ndarray,
    sides_B6: np.ndarray,
    device: str,
    activations: KeptActivations,
) -> np.ndarray:
    """`embed_block` from the boundary on."""
    read = activations.read([cache.keys[row] for row in row_B])
    activation_BX = complete(model, read, row_B, cache.pixels, device)
    return _answers(model, model.features_from(activation_BX, torch.from_numpy(sides_B6).to(device)))


def complete(
    model: ReidModel, read: Read, row_B: np.ndarray, pixels_of: Callable[[np.ndarray], np.ndarray], device: str
) -> torch.Tensor:
    """Activations as the model takes them, on its device; those that were not held are computed from pixels.

    Args:
        model: Whose frozen part computes them.
        read: From `KeptActivations.read`.
        row_B: Rows of these images.
        pixels_of: Rows → pixels (B, H, W, 3).
        device: Where the model is.
    """
    activation_BX = read.activation_BX.to(device, non_blocking=True).to(read.computed)
    missing = np.flatnonzero(~read.held_B)
    if len(missing):
        computed = model.frozen_features(images_of(model, pixels_of(row_B[missing]), device))
        activation_BX[torch.from_numpy(missing).to(device)] = computed
    return activation_BX


def images_of(model: ReidModel, pixels_BHWC: np.ndarray, device: str) -> torch.Tensor:
    """Pixels as the model takes them, on its device; (B, 3, H, W)."""
    return to_layout(model.normalise(torch.from_numpy(pixels_BHWC).to(device)), device)


def _answers(model: ReidModel, feature_BD: torch.Tensor) -> np.ndarray:
    both = [torch.nn.functional.normalize(feature_BD, dim=1)]
    if model.classifier is not None:
        both.append(model.classifier(feature_BD).float())
    return torch.cat(both, dim=1).cpu().numpy()


def to_layout(images_BCHW: torch.Tensor, device: str) -> torch.Tensor:
    """Channels-last memory on a GPU, where convolutions are fastest in it."""
    return images_BCHW.contiguous(memory_format=torch.channels_last) if "cuda" in device else images_BCHW
