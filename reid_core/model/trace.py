"""One forward pass of a network without weights or pixels: which module runs when, and what it gives.

network + image size → the calls of its modules, on torch's meta device: nothing is computed, only shapes.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

BATCH_IMAGES = 2  # of a trace: more than one, so that the batch is not taken for a dimension of size 1


class Call(NamedTuple):
    """One call of a module; times are counted in starts and ends of calls, so no two are the same."""

    start: int
    end: int
    output: Any


class Trace(NamedTuple):
    """What was seen of one forward pass.

    Attributes:
        calls: By name of the module, in order; the network's own name is "". A module that never ran has none.
        output: Of the network.
        lost_px: Pixels at the right and lower edge that no patch holds.
        patch_px: Side of such a patch; 1 if no pixel is lost.
    """

    calls: dict[str, list[Call]]
    output: Any
    lost_px: int
    patch_px: int

    def first(self, name: str) -> int | None:
        """When a module or the first one within it starts; None if none of them runs."""
        return min((call.start for call in self._within(name)), default=None)

    def last(self, name: str) -> int | None:
        """When a module or the last one within it ends; None if none of them runs."""
        return max((call.end for call in self._within(name)), default=None)

    def _within(self, name: str) -> Iterator[Call]:
        if self.calls.get(name):
            yield from self.calls[name]
            return
        for other, calls in self.calls.items():
            if other.startswith(f"{name}."):
                yield from calls


def trace(network: nn.Module, image_px: int) -> Trace:
    """Run a network on images of one size, in eval mode, on the meta device.

    Args:
        network: Takes images (B, 3, H, W); on any device, left as it is.
        image_px: H and W.

    Raises:
        Exception: Whatever the network raises for images of that size.
    """
    recorder = _Recorder(image_px)
    outline = _without_values(network).eval()
    recorder.listen_to(outline)
    with torch.no_grad():
        output = outline(torch.empty(BATCH_IMAGES, 3, image_px, image_px, device="meta"))
    return Trace(recorder.calls, output, recorder.lost_px, recorder.patch_px)


def _without_values(network: nn.Module) -> nn.Module:
    """A copy on the meta device, in which what was shared still is."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        tensors = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                memo[id(tensor)] = torch.empty_like(tensor, device="meta")
            if isinstance(tensor, nn.Parameter):
                memo[id(tensor)] = nn.Parameter(memo[id(tensor)], requires_grad=False)
    return copy.deepcopy(network, memo)


class _Recorder:
    """Hooks that write down every call."""

    def __init__(self, image_px: int) -> None:
        self._image_px = image_px
        self.calls: dict[str, list[Call]] = {}
        self.lost_px, self.patch_px = 0, 1
        self._time = 0
        self._open: list[int] = []

    def listen_to(self, network: nn.Module) -> None:
        for name, module in network.named_modules():
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(partial(self._end, name))

    def _start(self, module: nn.Module, arguments: tuple) -> None:
        self._time += 1
        self._open.append(self._time)
        if isinstance(module, nn.Conv2d | nn.Unfold) and arguments:
            self._look_at_patches(module, arguments[0])

    def _end(self, name: str, module: nn.Module, arguments: tuple, output: Any) -> None:
        self._time += 1
        self.calls.setdefault(name, []).append(Call(self._open.pop(), self._time, output))

    def _look_at_patches(self, layer: nn.Conv2d | nn.Unfold, images_BCHW: torch.Tensor) -> None:
        """See whether patches that lie side by side cover the whole image.

        Deeper convolutions lose no pixel: what they leave out at the edge has been mixed with what they take.
        """
        is_first = isinstance(layer, nn.Unfold) or images_BCHW.shape[1] == 3
        stride = _pair(layer.stride)[0]
        if is_first and _pair(layer.kernel_size) == _pair(layer.stride) and images_BCHW.shape[-1] % stride:
            self.patch_px = stride * round(self._image_px / images_BCHW.shape[-1])
            self.lost_px = self._image_px % self.patch_px


def _pair(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def map_tensors(change: Callable[[torch.Tensor], torch.Tensor], output: Any) -> Any:
    """What a module gave, with every tensor changed; lists and tuples keep their kind, other values stay.

    Example:
        >>> map_tensors(lambda tensor: tensor + 1, (torch.tensor(1), [7]))
        (tensor(2), [7])
    """
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, list | tuple):
        return type(output)(map_tensors(change, value) for value in output)
    return output
