"""Whether a backbone takes images of a size, found out by running it without weights; and which sizes it does take.

configuration + image size → backbone and the trace of its forward pass, or the reason and the sizes that fit.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import timm
import torch
from torch import nn

from reid_core.config.parameters import ModelConfig
from reid_core.errors import UserError
from reid_core.model.backbone import architecture_of, make_backbone, outline_backbone
from reid_core.model.trace import BATCH_IMAGES, Trace, trace

LEAST_PX = 16  # of data.image_px
FAR_PX = 256  # how far from a size that does not fit others are looked for
STEPS_PX = {4: 32, 8: 64, 16: 128, 32: FAR_PX}  # multiples of 4 are tried up to 32 px away, and so on
logger = logging.getLogger(__name__)


def make_fitting(config: ModelConfig, image_px: int, *, cropped: bool = False) -> tuple[nn.Module, Trace]:
    """A backbone with its weights that takes images of a size, and the trace of its forward pass.

    Args:
        config: Of the model.
        image_px: The size.
        cropped: Whether patches may leave out pixels: a model that was trained so still answers as it did.

    Raises:
        UserError: If it cannot be made, does not take images of that size or leaves out some of their pixels (with
            the sizes that fit), or gives something else than one vector for each image.
    """
    try:
        backbone = make_backbone(config, image_px)
    except UserError as error:
        _check_outline(config, image_px, error)
        raise
    try:
        found = _fit(backbone, config, image_px, cropped=cropped)
    except _MisfitError as misfit:
        cfg = getattr(backbone, "pretrained_cfg", None) or {}
        raise _refusal(config, str(cfg.get("architecture") or architecture_of(config)), image_px, misfit) from misfit
    check_output(config, found)
    return backbone, found


def check_output(config: ModelConfig, found: Trace) -> None:
    """Refuse a network that does not give one vector for each image.

    Raises:
        UserError: If so, with what it gives.
    """
    output = found.output
    if isinstance(output, torch.Tensor) and output.dim() == 2 and len(output) == BATCH_IMAGES:
        return
    given = f"{list(output.shape[1:])} numbers" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    raise UserError(
        f"model.backbone={config.backbone} gives {given} for each image, where one vector is needed: it is a part of a "
        "larger model (an encoder without pooling); take an architecture that pools"
    )


class _MisfitError(Exception):
    """Why a size does not fit; `patch_px` divides the sizes that may fit."""

    def __init__(self, reason: str, patch_px: int = 0) -> None:
        super().__init__(reason)
        self.patch_px = patch_px


def _fit(backbone: nn.Module, config: ModelConfig, image_px: int, *, cropped: bool = False) -> Trace:
    """The trace of a backbone that takes images of a size.

    Raises:
        _MisfitError: If it does not.
    """
    try:
        found = trace(backbone, image_px)
    except Exception as error:  # whatever a network raises for a size: assertions, shapes that do not match
        raise _MisfitError(_first_line(error)) from error
    if found.lost_px and not cropped:
        reason = f"{found.lost_px} px at the right and lower edge fit in none of its patches of {found.patch_px} px"
        raise _MisfitError(reason, found.patch_px)
    if image_px % _largest_stride(backbone):
        _run(backbone, config, image_px)
    return found


def _largest_stride(backbone: nn.Module) -> int:
    """Whose multiples are whole numbers at every stride; 32 pixels where timm lists none."""
    return max((int(info["reduction"]) for info in getattr(backbone, "feature_info", None) or []), default=32)


def _run(backbone: nn.Module, config: ModelConfig, image_px: int) -> None:
    """Run a backbone on one image, and leave it in eval mode.

    A trace has no values, so it does not see an index that is out of range.

    Raises:
        _MisfitError: If there is one.
    """
    if any(parameter.is_meta for parameter in backbone.parameters()):
        with torch.device("cpu"):
            backbone = make_backbone(replace(config, weights="random"), image_px)
    try:
        with torch.inference_mode():
            backbone.eval()(torch.zeros(1, 3, image_px, image_px, device="cpu"))
    except Exception as error:  # IndexError, mostly
        raise _MisfitError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip() or f"its code raises {type(error).__name__}"


def _check_outline(config: ModelConfig, image_px: int, error: UserError) -> None:
    """Name the sizes that fit if a backbone could not be made because of the size, and not for its weights.

    Raises:
        UserError: If so.
    """
    architecture = architecture_of(config)
    if error.__cause__ is None or not timm.is_model(architecture):
        return
    try:
        outline_backbone(architecture, config, image_px)
    except Exception as cause:  # timm's assertions about sizes
        misfit = _MisfitError(_first_line(cause))
        if sizes_that_fit(architecture, config, image_px, misfit.patch_px):
            raise _refusal(config, architecture, image_px, misfit) from cause


def _refusal(config: ModelConfig, architecture: str, image_px: int, misfit: _MisfitError) -> UserError:
    sizes = [] if ":" in architecture else sizes_that_fit(architecture, config, image_px, misfit.patch_px)
    remedy = f"sizes near it that fit: {', '.join(map(str, sizes))}" if sizes else "no size near it fits either"
    return UserError(f"data.image_px={image_px} does not fit model.backbone={config.backbone}: {misfit}; {remedy}")


def sizes_that_fit(architecture: str, config: ModelConfig, image_px: int, patch_px: int = 0) -> list[int]:
    """The next smaller and the next larger size, in pixels, that an architecture takes without losing pixels.

    It is searched once in a process, with a message before: a large network needs up to a minute.

    Args:
        architecture: Of timm.
        config: For all else that the network is made with.
        image_px: A size that does not fit.
        patch_px: Only its multiples are tried; 0: those of `STEPS_PX`.

    Returns:
        None to two sizes.
    """
    # All that a network without weights is made of, so that trials which differ in more share the search.
    plain = ModelConfig(backbone=architecture, weights="random", drop_path=config.drop_path)
    return list(_search_sizes(plain, image_px, patch_px))


@cache
def _search_sizes(config: ModelConfig, image_px: int, patch_px: int) -> tuple[int, ...]:
    logger.info("looking for image sizes near %d px that %s takes", image_px, config.backbone)

    def fits(size_px: int) -> bool:
        try:
            _fit(outline_backbone(config.backbone, config, size_px), config, size_px)
        except Exception:  # whatever the architecture raises for a size that it does not take
            return False
        return True

    found = (_first(candidates, fits) for candidates in _candidates(image_px, patch_px))
    return tuple(size_px for size_px in found if size_px is not None)


def _first(candidates: Iterator[int], fits: Callable[[int], bool]) -> int | None:
    return next((size_px for size_px in candidates if fits(size_px)), None)


def _candidates(image_px: int, patch_px: int) -> tuple[Iterator[int], Iterator[int]]:
    """Sizes to try, those below `image_px` and those above, the nearest first.

    Example:
        >>> below, above = _candidates(64, 14)
        >>> list(below), list(above)[:2]
        ([56, 42, 28], [70, 84])
    """
    steps_px = {patch_px: FAR_PX} if patch_px else STEPS_PX
    sizes = {
        size_px
        for step_px, far_px in steps_px.items()
        for size_px in range(step_px, image_px + far_px + 1, step_px)
        if size_px >= max(LEAST_PX, image_px - far_px)
    }
    below = sorted((size_px for size_px in sizes if size_px < image_px), reverse=True)
    return iter(below), iter(sorted(size_px for size_px in sizes if size_px > image_px))
