"""One step's loss and gradients: of all images of a rank at once, or part by part where memory is short.

images of a rank → loss of the global batch, gradients in the model; the same whatever the number of parts.

Part by part, a loss that is a mean over images is a mean over parts, weighted by their sizes. A triplet needs all
images at once, but only their embeddings: so these are computed without gradients first, then the loss and its gradient
at each embedding, and then each part again, through which that gradient is led (Gao et al. 2021, "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup"). Random numbers are the same both times; batch norms are
frozen.

Letters: B images, X shape of an input, D embedding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # features (B, D), identities (B,) → scalar


class Images(NamedTuple):
    """What a rank gets for a step, on its device."""

    input_BX: torch.Tensor  # pixels (B, H, W, 3), uint8, or what the frozen stages gave for them
    sides_B6: torch.Tensor  # float32, photographed sides
    identity_B: torch.Tensor  # int64 codes

    def divide(self, num_parts: int) -> list["Images"]:
        """In parts as equal as can be, none of them empty."""
        num_parts = min(num_parts, len(self.identity_B))
        return [Images(*part) for part in zip(*(torch.tensor_split(each, num_parts) for each in self), strict=True)]


class LossOfImages(nn.Module):
    """Model and loss as one module, so that DistributedDataParallel sees every trained parameter used."""

    def __init__(self, model: ReidModel, loss: Loss, place: Place) -> None:
        super().__init__()
        self.model, self.loss, self.place = model, loss, place

    def forward(self, images: Images, gradient_BD: torch.Tensor | None = None, *, kept: bool) -> torch.Tensor:
        """Scalar loss of this rank's images; its gradients in the model are those of the loss.

        Args:
            images: Pixels, or with `kept` activations at the boundary.
            gradient_BD: Of the loss at each embedding, where that is known: any scalar with this gradient is returned.
            kept: What `images` are.
        """
        feature_BD = self.features(images, kept=kept)
        if gradient_BD is not None:
            return (feature_BD * gradient_BD).sum()
        return self.loss(feature_BD, images.identity_B)

    def features(self, images: Images, *, kept: bool) -> torch.Tensor:
        """What the head gives; (B, D), float32."""
        with self.place.autocast():
            if kept:
                return self.model.features_from(images.input_BX, images.sides_B6)
            return self.model.features(self.model.images_from(images.input_BX), images.sides_B6)


def compute_gradients(
    wrapped: nn.Module, images: Images, *, kept: bool, num_parts: int, over_pairs: bool
) -> torch.Tensor:
    """Add the gradients of a step to those of the model; the loss, detached.

    Args:
        wrapped: A `LossOfImages`, perhaps in DistributedDataParallel: ranks exchange gradients once, in the last part.
        images: Of this rank.
        kept: As `LossOfImages.forward`.
        num_parts: In which the images are gone through.
        over_pairs: Whether the loss compares images with each other, and is no mean over them.
    """
    parts = images.divide(num_parts)
    if len(parts) == 1:
        loss = wrapped(images, kept=kept)
        loss.backward()
        return loss.detach()
    if over_pairs:
        return _over_pairs(wrapped, parts, kept=kept)
    losses = []
    for part, exchange in _with_exchange(wrapped, parts):
        with exchange:
            loss = wrapped(part, kept=kept) * (len(part.identity_B) / len(images.identity_B))
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _over_pairs(wrapped: nn.Module, parts: list[Images], *, kept: bool) -> torch.Tensor:
    inner: Any = getattr(wrapped, "module", wrapped)  # without DistributedDataParallel
    device, states, features = parts[0].input_BX.device, [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(device))
            features.append(inner.features(part, kept=kept))
    feature_BD = torch.cat(features).requires_grad_()
    loss = inner.loss(feature_BD, torch.cat([part.identity_B for part in parts]))
    (gradient_BD,) = torch.autograd.grad(loss, feature_BD)
    gradients = gradient_BD.split([len(part.identity_B) for part in parts])
    for (part, exchange), state, gradient in zip(_with_exchange(wrapped, parts), states, gradients, strict=True):
        _set_random_state(state, device)
        with exchange:
            wrapped(part, gradient, kept=kept).backward()
    return loss.detach()


def _with_exchange(wrapped: nn.Module, parts: list[Images]) -> Iterator[tuple[Images, AbstractContextManager]]:
    """Each part, and the context in which ranks exchange the gradients with the last one only."""
    no_sync = getattr(wrapped, "no_sync", nullcontext)
    for number, part in enumerate(parts, start=1):
        yield part, nullcontext() if number == len(parts) else no_sync()


def _random_state(device: torch.device) -> list[torch.Tensor]:
    """Of the CPU's generator, and of the GPU's, whose state the host keeps: nothing is waited for."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
