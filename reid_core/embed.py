"""Embedding: model + images → embeddings of length 1, sharded over ranks.

cache rows → (N, D) float32, NaN in the rows that were not asked for (paper §5.1).
"""

from collections.abc import Callable

import numpy as np
import torch

from reid_core.images import ImageCache
from reid_core.model import ReidModel

# Every rank's array of rows → the concatenation over ranks, in the order of ranks; the identity for one process.
Gather = Callable[[np.ndarray], np.ndarray]


def alone(array: np.ndarray) -> np.ndarray:
    """The `Gather` of a single process."""
    return array


def autocast(device: str, precision: str) -> torch.autocast:
    """bfloat16 autocast where the trial asks for it; "auto" means on a GPU only."""
    kind = torch.device(device).type
    return torch.autocast(
        kind, torch.bfloat16, enabled=precision == "bfloat16" or (precision == "auto" and kind == "cuda")
    )


@torch.inference_mode()
def embed(
    model: ReidModel,
    cache: ImageCache,
    row_N: np.ndarray,
    *,
    device: str = "cpu",
    precision: str = "auto",
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    gather: Gather = alone,
) -> np.ndarray:
    """Embed some rows of the cache; every rank computes its share and gets all of them.

    Returns:
        Embeddings by row of the cache; shape (len(cache), D), float32, NaN where the row was not asked for.
    """
    model.eval()
    share = row_N[rank::world_size]
    blocks = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    with autocast(device, precision):
        parts = [_embed_block(model, cache.pixels(block), device) for block in blocks]
    width = len(_embed_block(model, cache.pixels(row_N[:1]), device)[0]) if not parts else parts[0].shape[1]
    mine = np.concatenate([np.empty((0, width), np.float32), *parts])
    embedding_ND = np.full((len(cache), width), np.nan, dtype=np.float32)
    embedding_ND[gather(share)] = gather(mine)
    return embedding_ND


def _embed_block(model: ReidModel, pixels_BHWC: np.ndarray, device: str) -> np.ndarray:
    pixels = torch.from_numpy(pixels_BHWC).to(device)
    return model(to_layout(model.normalise(pixels), device)).float().cpu().numpy()


def to_layout(images_BCHW: torch.Tensor, device: str) -> torch.Tensor:
    """Channels-last memory on a GPU, where convolutions are fastest in it."""
    return images_BCHW.contiguous(memory_format=torch.channels_last) if "cuda" in device else images_BCHW
