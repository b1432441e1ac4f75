"""A network run in two halves: up to a boundary, and from what came out there to the end.

Both halves are the network's own code. Up to the boundary it runs as always and is stopped there; from there on, every
module that has run before answers at once, the last one with the activation and the others with zeros of its shape.
So a network need not be a chain of its modules: position embeddings, rotary tables and reshapes between stages run
as they are. That nothing but the activation is carried on has to be proved (`boundary.find_layout`).

Letters: B batch, X shape of one activation.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from reid_core.errors import UserError
from reid_core.model.trace import BATCH_IMAGES, Call, Trace, map_tensors


class _ReachedError(Exception):
    """Carries the activation out of the network."""

    def __init__(self, activation_BX: torch.Tensor) -> None:
        super().__init__("the boundary is reached")
        self.activation_BX = activation_BX


class _StandIn(nn.Module):
    """Takes the place of a module and has its attributes; its parameters and hooks stay with the module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["stands_for"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stands_for"], name)


class _Stop(_StandIn):
    def forward(self, *arguments, **named) -> None:
        raise _ReachedError(self.stands_for(*arguments, **named))


class _Answer(_StandIn):
    def __init__(self, module: nn.Module, output: Any) -> None:
        super().__init__(module)
        self.__dict__["answer"] = output

    def forward(self, *arguments, **named) -> Any:
        return self.answer


class Halves:
    """A network cut at the end of a module.

    Attributes:
        boundary: Name of the module whose output is the activation.
    """

    def __init__(self, network: nn.Module, trace: Trace, end: int, image_px: int) -> None:
        """Find the boundary and what has run before it.

        Args:
            network: Whose modules the halves share.
            trace: Of the network at `image_px`.
            end: When the boundary is reached, in the time of the trace.
            image_px: Of the images.
        """
        self._network, self._trace, self._image_px = network, trace, image_px
        ends = {call.end: name for name, calls in trace.calls.items() for call in calls if call.end <= end}
        self.boundary = ends[max(ends)]
        self._before = list(_finished(network, "", trace, end))

    def check(self) -> None:
        """Find out from the trace whether the network can be cut here.

        Raises:
            UserError: If more than one tensor would have to be carried on.
        """
        for name in self._before:
            first, *others = self._trace.calls[name]
            if any(_shapes(call.output) != _shapes(first.output) for call in others):
                raise UserError(f"{name} gives outputs of several shapes")
        calls = self._trace.calls[self.boundary]
        if len(calls) > 1 or not isinstance(calls[0].output, torch.Tensor):
            raise UserError(f"{self.boundary} does not give one tensor")

    def until(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The activation at the boundary; (B, X)."""
        stop: dict[str, nn.Module] = {self.boundary: _Stop(self._network.get_submodule(self.boundary))}
        try:
            replaced(self._network, stop)(images_BCHW)
        except _ReachedError as reached:
            return reached.activation_BX
        raise UserError(f"{self.boundary} has not run")

    def onwards(self, activation_BX: torch.Tensor) -> torch.Tensor:
        """What the network gives for images with this activation; (B, F)."""
        answers: dict[str, nn.Module] = {}
        for name in self._before:
            module = self._network.get_submodule(name)
            if name == self.boundary:
                answers[name] = _Answer(module, activation_BX)
            else:
                answers[name] = _Answer(module, _zeros(self._trace.calls[name][0], activation_BX))
        images_BCHW = activation_BX.new_zeros((), dtype=torch.float32)
        return replaced(self._network, answers)(
            images_BCHW.expand(len(activation_BX), 3, self._image_px, self._image_px)
        )


def _finished(module: nn.Module, prefix: str, trace: Trace, end: int) -> Iterator[str]:
    """Names of the largest modules that run, and never after `end`."""
    for name, child in module.named_children():
        first, last = trace.first(prefix + name), trace.last(prefix + name)
        if first is None or last is None or first > end:
            continue
        if last <= end and prefix + name in trace.calls:
            yield prefix + name
        else:
            yield from _finished(child, f"{prefix}{name}.", trace, end)


def _shapes(output: Any) -> Any:
    return map_tensors(lambda tensor: tensor.shape, output)  # type: ignore[arg-type, return-value]


def _zeros(call: Call, activation_BX: torch.Tensor) -> Any:
    """An output like that of a call, of zeros that take no memory, for as many images as there are activations."""

    def zeros(tensor: torch.Tensor) -> torch.Tensor:
        factor, rest = divmod(tensor.shape[0] if tensor.dim() else 0, BATCH_IMAGES)
        size = [factor * len(activation_BX), *tensor.shape[1:]] if factor and not rest else list(tensor.shape)
        return torch.zeros((), dtype=tensor.dtype, device=activation_BX.device).expand(size)

    return map_tensors(zeros, call.output)


def replaced(network: nn.Module, others: dict[str, nn.Module]) -> nn.Module:
    """The same network with other modules in some places; all the rest is shared with it, not copied.

    Args:
        network: Left as it is.
        others: By name of the module whose place they take.
    """
    new = copy.copy(network)  # of the same class: the network runs its own code
    new._modules = dict(network._modules)
    for name, child in network.named_children():
        inside = {key.removeprefix(f"{name}."): other for key, other in others.items() if key.startswith(f"{name}.")}
        if name in others:
            new._modules[name] = others[name]
        elif inside:
            new._modules[name] = replaced(child, inside)
    return new
