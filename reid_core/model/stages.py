"""Stages: a backbone cut into parts that are frozen or trained as a whole (paper §4.1.1).

network + the order in which its modules run → stem, stage 0, stage 1 …, norm.

Where stages end is timm's `feature_info`; what belongs to them is seen from a forward pass (`trace`), because the order
in which a network registers its modules, and even their names in `feature_info`, are not always those that it runs.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from reid_core.config.parameters import TrialConfig
from reid_core.errors import UserError
from reid_core.model.trace import Trace

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
BLOCK_GROUPS = 4  # stages of a network whose blocks are all at one stride, such as a vision transformer
LEAST_SHARE = 0.5  # of the parameters: what blocks must hold to be the blocks of a network
WEIGHTS = (nn.Conv2d, nn.Linear)


class Part(NamedTuple):
    """A part of the backbone that is frozen or trained as a whole."""

    name: str  # "stem", "stage 0" …, "norm"
    modules: list[nn.Module]
    parameters: list[nn.Parameter]
    end: int = 0  # when the last of its blocks ends, in the time of the trace


class Cut(NamedTuple):
    """A backbone, what was seen of its forward pass on images of a size, and its parts."""

    backbone: nn.Module
    trace: Trace
    image_px: int
    parts: list[Part]


class _Feature(NamedTuple):
    name: str
    stride: int


def cut_backbone(backbone: nn.Module, trace: Trace, config: TrialConfig) -> Cut:
    """A trial's backbone, cut as its configuration says (`find_parts`)."""
    return Cut(backbone, trace, config.data.image_px, find_parts(backbone, trace, config.model.block_groups))


def find_parts(backbone: nn.Module, trace: Trace, block_groups: int | None = None) -> list[Part]:
    """Cut a backbone into stem, stages and norm; every parameter is in exactly one of them.

    A stage is all blocks at one stride; of a network whose blocks are all at one stride, it is a group of blocks. What
    runs before the first block is the stem. Of what runs after the last block, normalisation layers are the norm;
    anything else (an EfficientNet's `conv_head`, attention pooling) belongs to the last stage.

    Args:
        backbone: Made with ``num_classes=0``.
        trace: Of the backbone.
        block_groups: Stages of a network whose blocks are all at one stride; None: `BLOCK_GROUPS`.

    Raises:
        UserError: If no blocks are found, or `block_groups` does not fit them.
    """
    stems, features = _find_features(backbone, trace)
    strides = list(dict.fromkeys(feature.stride for feature in features))
    if len(strides) == 1 and len(features) > 1:
        ends = [_end_of(backbone, trace, group[-1].name) for group in _groups(features, block_groups)]
    elif block_groups is not None:
        raise UserError(
            f"model.block_groups={block_groups}: the stages of this backbone are its {len(strides)} strides, only a "
            "network whose blocks are all at one stride is cut into groups; set model.block_groups=null"
        )
    else:
        last_of_stride = {feature.stride: feature.name for feature in features}
        ends = [_end_of(backbone, trace, name) for name in last_of_stride.values()]
    start = _start_of(backbone, trace, stems, features[0].name)
    return _cut(backbone, trace, [start, *ends])


def _groups(features: list[_Feature], block_groups: int | None) -> list[list[_Feature]]:
    """Blocks in groups as equal as can be; where they do not divide, the first groups are larger."""
    num_groups = min(BLOCK_GROUPS, len(features)) if block_groups is None else block_groups
    if num_groups > len(features):
        raise UserError(f"model.block_groups={num_groups}: the backbone has {len(features)} blocks")
    size, larger = divmod(len(features), num_groups)
    ends = [size * group + min(group, larger) for group in range(num_groups + 1)]
    return [features[a:b] for a, b in pairwise(ends)]


def _find_features(backbone: nn.Module, trace: Trace) -> tuple[list[str], list[_Feature]]:
    """Modules of the stem, and the last block of each stage (or every block), in the order in which they run."""
    listed = [(str(info["module"]), int(info["reduction"])) for info in getattr(backbone, "feature_info", None) or []]
    names = [name for name, _ in listed if name and trace.last(name) is not None]
    features: dict[str, _Feature] = {}  # a module that is listed twice counts once, at its first stride
    for name, stride in listed:
        if name in names:
            whole = _whole_block(name, names)
            features.setdefault(whole, _Feature(whole, stride))
    found = sorted(features.values(), key=lambda feature: trace.last(feature.name) or 0)
    stems = [feature for feature in found if "stem" in feature.name]
    found = [feature for feature in found if feature not in stems]
    layers = 0  # a leading feature that is a single layer is the stem's, unless the whole network is listed by layers
    while layers < len(found) and _num_weights(backbone.get_submodule(found[layers].name)) <= 1:
        layers += 1
    if layers < len(found):
        stems, found = stems + found[:layers], found[layers:]
    return [feature.name for feature in stems], found or _features_of_blocks(backbone, trace)


def _whole_block(name: str, names: list[str]) -> str:
    """The outermost module around a feature that is around no other feature: a block is not cut in two."""
    parents = name.split(".")
    for depth in range(1, len(parents)):
        parent = ".".join(parents[:depth])
        if sum(other == parent or other.startswith(f"{parent}.") for other in dict.fromkeys(names)) == 1:
            return parent
    return name


def _num_weights(module: nn.Module) -> int:
    return sum(isinstance(layer, WEIGHTS) for layer in module.modules())


def _features_of_blocks(backbone: nn.Module, trace: Trace) -> list[_Feature]:
    """Where timm names no stages: the children of the list that holds most of the parameters.

    Equal ones are blocks at one stride; others are a stage each.
    """
    total = sum(parameter.numel() for parameter in backbone.parameters())
    for name, module in backbone.named_modules():
        children = [child for child, _ in module.named_children() if trace.last(f"{name}.{child}") is not None]
        if isinstance(module, CONTAINERS) and len(children) > 1:
            sizes = [sum(p.numel() for p in module.get_submodule(child).parameters()) for child in children]
            if sum(sizes) >= LEAST_SHARE * total:
                strides = [1] * len(children) if len(set(sizes)) == 1 else range(len(children))
                return [_Feature(f"{name}.{child}", i) for child, i in zip(children, strides, strict=True)]
    raise UserError(f"model.backbone: no blocks are found in {type(backbone).__name__}, so no stages can be frozen")


def _start_of(backbone: nn.Module, trace: Trace, stems: list[str], first: str) -> int:
    """When the first stage starts: with the first block of the list that `first` is in, and behind the stem."""
    parent = first.rpartition(".")[0]
    behind = [1 + (trace.last(name) or 0) for name in stems]
    if parent and isinstance(backbone.get_submodule(parent), CONTAINERS):
        behind.append(trace.first(parent) or 0)
    elif not stems:
        behind.append(trace.first(first) or 0)
    return max(behind)


def _end_of(backbone: nn.Module, trace: Trace, name: str) -> int:
    """When a stage ends; a norm that timm lists as the last feature is not its part."""
    if is_norm(backbone.get_submodule(name)):
        return (trace.first(name) or 0) - 1
    return trace.last(name) or 0


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer: of torch's kinds, or of timm's, which have it in their names.

    Example:
        >>> is_norm(nn.LayerNorm(3)), is_norm(nn.Sequential(nn.BatchNorm1d(3))), is_norm(nn.LayerNorm((), bias=False))
        (True, False, True)
    """
    own = len(list(module.parameters(recurse=False)))
    return "norm" in type(module).__name__.lower() and 0 < own == len(list(module.parameters()))


def _cut(backbone: nn.Module, trace: Trace, bounds: list[int]) -> list[Part]:
    """Parts by when their modules first run; `bounds` are the start of the first stage and the end of each."""
    names = ["stem", *(f"stage {i}" for i in range(len(bounds) - 1)), "norm"]
    ending = set(_ending_norms(backbone, trace, bounds[-1]))

    def part_of(name: str) -> int:
        if not ending.isdisjoint(_with_parents(name)):
            return len(names) - 1
        return min(bisect_right(bounds, _first_run(trace, name)), len(names) - 2)

    parameters: list[list[nn.Parameter]] = [[] for _ in names]
    for name, parameter in backbone.named_parameters():
        parameters[part_of(name.rpartition(".")[0])].append(parameter)
    modules: list[list[nn.Module]] = [[] for _ in names]
    for part, module in _whole_modules(backbone, "", part_of):
        modules[part].append(module)
    return [Part(*part) for part in zip(names, modules, parameters, [*bounds, bounds[-1]], strict=True)]


def _with_parents(name: str) -> list[str]:
    """Names of a module and of those around it, itself first; the network's own is "".

    Example:
        >>> _with_parents("layers.0.norm")
        ['layers.0.norm', 'layers.0', 'layers', '']
    """
    steps = name.split(".") if name else []
    return [".".join(steps[:depth]) for depth in range(len(steps), -1, -1)]


def _first_run(trace: Trace, name: str) -> int:
    """When a module first runs; one whose parameters another module uses runs with the module that it is in."""
    return next(time for time in map(trace.first, _with_parents(name)) if time is not None)


def _ending_norms(module: nn.Module, trace: Trace, end: int, prefix: str = "") -> Iterator[str]:
    """Names of the normalisation layers that run after `end` and are in no block.

    They are the network's own, those of its head and of lists, and those of what holds the blocks.
    """
    for name, child in module.named_children():
        first, last = _first_run(trace, prefix + name), trace.last(prefix + name) or 0
        if is_norm(child) and first > end:
            yield prefix + name
        elif isinstance(child, CONTAINERS) or (prefix + name).startswith("head") or first < end < last:
            yield from _ending_norms(child, trace, end, f"{prefix}{name}.")


def _whole_modules(module: nn.Module, prefix: str, part_of: Callable[[str], int]) -> Iterator[tuple[int, nn.Module]]:
    """The largest modules that are in one part as a whole, with its number."""
    for name, child in module.named_children():
        inside = {part_of(f"{prefix}{name}.{inner}".rstrip(".")) for inner, _ in child.named_modules()}
        if len(inside) == 1:
            yield inside.pop(), child
        else:
            yield from _whole_modules(child, f"{prefix}{name}.", part_of)
