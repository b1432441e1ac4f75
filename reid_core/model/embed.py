"""Embedding: model + images → embeddings of length 1, sharded over ranks.

cache rows → (N, D) float32 and a classifier's logits (N, K); NaN in the rows that were not asked for (paper §5.1).
Letters: N images of the cache, R rows asked for, B batch, D embedding, K identities, E both, X shape of one activation.
"""

from collections.abc import Callable

import numpy as np
import torch

from reid_core.data.image_cache import ImageCache
from reid_core.model.frozen.activations import Read
from reid_core.model.heads import NUM_SIDES
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel

BATCH_IMAGES = 64


def embed(
    model: ReidModel,
    cache: ImageCache,
    row_R: np.ndarray,
    place: Place,
    *,
    sides_N6: np.ndarray | None = None,
    batch_size: int = BATCH_IMAGES,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed some rows of the cache; every rank computes its share and gets all of them.

    Args:
        model: On the place's device, in any mode; left in eval mode.
        cache: Pixels by row.
        row_R: Rows that are asked for.
        place: Where this is computed. Images whose activations it holds start at the boundary.
        sides_N6: Photographed sides by row of the cache (`sides.parse_sides`); None: unknown.
        batch_size: Images at a time.

    Returns:
        embedding_ND: by row of the cache; shape (len(cache), D), float32, NaN where the row was not asked for.
        logit_NK: of the model's classifier, in the same way; None if it has none.
    """
    both_RE = embed_rows(model, cache, row_R, place, sides_N6=sides_N6, batch_size=batch_size)
    both_NE = np.full((len(cache), both_RE.shape[1]), np.nan, dtype=np.float32)
    both_NE[row_R] = both_RE
    if model.classifier is None:
        return both_NE, None
    size = both_NE.shape[1] - model.num_identities
    return np.ascontiguousarray(both_NE[:, :size]), np.ascontiguousarray(both_NE[:, size:])


@torch.inference_mode()
def embed_rows(
    model: ReidModel,
    cache: ImageCache,
    row_R: np.ndarray,
    place: Place,
    *,
    sides_N6: np.ndarray | None = None,
    batch_size: int = BATCH_IMAGES,
) -> np.ndarray:
    """`embed` without the rows that were not asked for: embeddings and, behind them, logits; (R, E), float32."""
    model.eval()
    sides_N6 = np.zeros((len(cache), NUM_SIDES), np.float32) if sides_N6 is None else sides_N6
    share = place.share(np.arange(len(row_R)))
    blocks = [row_R[share[start : start + batch_size]] for start in range(0, len(share), batch_size)]
    with place.autocast():
        # A rank without a share still has to know how wide the others' arrays are.
        parts = [_embed_block(model, cache, block, sides_N6[block], place) for block in blocks or [row_R[:1]]]
    mine = np.concatenate(parts)[: len(share)]
    both_RE = np.empty((len(row_R), mine.shape[1]), dtype=np.float32)
    both_RE[place.gather(share)] = place.gather(mine)
    return both_RE


def _embed_block(
    model: ReidModel, cache: ImageCache, row_B: np.ndarray, sides_B6: np.ndarray, place: Place
) -> np.ndarray:
    """One batch, from the boundary on if its activations are kept; (B, E)."""
    sides = torch.from_numpy(sides_B6).to(place.device)
    if place.activations is None:
        feature_BD = model.features(model.images_from(cache.pixels(row_B)), sides)
    else:
        read = place.activations.read([cache.keys[row] for row in row_B])
        feature_BD = model.features_from(complete(model, read, row_B, cache.pixels, place), sides)
    both = [torch.nn.functional.normalize(feature_BD, dim=1)]
    if model.classifier is not None:
        both.append(model.classifier(feature_BD).float())
    return torch.cat(both, dim=1).cpu().numpy()


def complete(
    model: ReidModel, read: Read, row_B: np.ndarray, pixels_of: Callable[[np.ndarray], np.ndarray], place: Place
) -> torch.Tensor:
    """Activations as the model takes them, on its device; those that were not held are computed from pixels.

    Args:
        model: Whose frozen part computes them.
        read: From `KeptActivations.read`.
        row_B: Rows of these images.
        pixels_of: Rows → pixels (B, H, W, 3).
        place: Where the model is.
    """
    activation_BX = read.activation_BX.to(place.device, non_blocking=True).to(read.computed)
    missing = np.flatnonzero(~read.held_B)
    if len(missing):
        computed = model.frozen_features(model.images_from(pixels_of(row_B[missing])))
        activation_BX[torch.from_numpy(missing).to(place.device)] = computed
    return activation_BX
