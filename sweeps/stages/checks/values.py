"""Which values of the searched keys no trial can have: on these data, with this backbone, for these workers.

search space → values to leave out, and a line about each; an error where `--search` asks for one.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from reid_core.config.parameters import DataConfig, TrialConfig
from reid_core.config.values import flatten, override
from reid_core.data.requested import check_sides
from reid_core.data.splits.parts import Parts
from reid_core.errors import UserError
from reid_core.model.hub import check_weights
from reid_core.training.batch_plan import Pool, check_batches
from sweeps.machines.resources import Resources
from sweeps.search.candidates import LeftOut, Range
from sweeps.search.space import SearchSpace
from sweeps.stages.checks.data import pool_of_parts
from sweeps.stages.checks.models import check_model

MOST_WHOLE_NUMBERS = 512  # of a range that are tried one by one
MOST_NAMED = 3  # of the left out numbers of a range
# Values that contradict no other key's: a group is judged as if the keys outside it had them.
AGREEABLE: dict[str, Any] = {
    "predict.rule": "threshold",
    "optim.head_only_epochs": 0,
    "fusion.calibration": "isotonic",
    "threshold.smallest": 0.0,
    "threshold.largest": 1.0,
}


class Group(NamedTuple):
    """Keys whose values decide together whether something can be had: every key that the check reads."""

    keys: tuple[str, ...]
    check: Callable[[TrialConfig], object]


Impossible = list[tuple[Any, str]]  # values of one key, and why no trial can have each


def find_left_out(space: SearchSpace, parts: Parts, resources: Resources) -> tuple[LeftOut, list[str]]:
    """Values of searched keys that are impossible whatever the other keys have.

    The base itself was checked before.

    Args:
        space: Of the sweep.
        parts: Of the data.
        resources: Of the trials.

    Returns:
        Values that the space is to leave out, and lines that say so.

    Raises:
        UserError: If `--search` names such a value, or a range in which there is no other but the base's.
    """
    candidates = {key: values_of(distribution) for key, distribution in space.all_distributions().items()}
    found: dict[str, Impossible] = {}
    for group in make_groups(space.base, parts, resources.workers):
        for key in group.keys:
            known = found.setdefault(key, [])
            new = impossible_values(space.base, group, candidates, key)
            known += [(value, reason) for value, reason in new if value not in [other for other, _ in known]]
    found = {key: values for key, values in found.items() if values}
    for key, asked in space.searched:
        is_range = isinstance(asked, Range)
        if key in found and not (is_range and len(found[key]) < len(candidates[key]) - 1):
            value, reason = found[key][0]
            raise UserError(f"--search {key}: no trial can have {key}={value}: {reason}")
    lines = [line for key, values in found.items() for line in describe_left_out(key, values)]
    return tuple((key, tuple(value for value, _ in values)) for key, values in found.items()), lines


def make_groups(base: TrialConfig, parts: Parts, workers: int) -> tuple[Group, ...]:
    """What is checked, each with all keys that it reads and that can be searched."""

    @cache
    def pool_of(data: DataConfig) -> Pool:
        return pool_of_parts(replace(base, data=data), parts)

    batch = ("optim.batch_size", "optim.epochs", "data.images_per_identity", "loss.name")
    pool = ("data.oversample_to", "data.undersample_to", "data.variants")
    model = ("model.unfrozen_stages", "model.backbone", "model.block_groups")
    return (
        Group(batch + pool, lambda config: check_batches(config, pool_of(config.data), world_size=workers)),
        Group((*model, "model.keep_activations", "model.orientation"), check_model),
        Group(("model.backbone", "model.weights"), lambda config: check_weights(config.model, config.data.image_px)),
        Group(("match.same_side", "model.orientation"), lambda config: check_sides(parts.sides_N6, config)),
        # What contradicts itself is refused before any check sees it.
        Group(("loss.name", "predict.rule"), lambda config: None),
        Group(("loss.name", "model.head", "optim.head_only_epochs"), lambda config: None),
        Group(("fusion.calibration", "fusion.second_model"), lambda config: None),
        Group(("threshold.smallest", "threshold.largest"), lambda config: None),
    )


def describe_left_out(key: str, impossible: Impossible) -> list[str]:
    """A line for each value; one for all of them where there are many, as of a range."""
    if len(impossible) <= MOST_NAMED:
        return [f"not searched: {key}={value}: {reason}" for value, reason in impossible]
    named = ", ".join(str(value) for value, _ in impossible[:MOST_NAMED])
    more = len(impossible) - MOST_NAMED
    return [f"not searched: {key}={named} and {more} other value(s): {impossible[0][1]}"]


def values_of(distribution: Any) -> tuple:
    """What a key can have, as far as it can be listed: choices, and whole numbers of a short range."""
    if hasattr(distribution, "choices"):
        return tuple(distribution.choices)
    low, high = distribution.low, distribution.high
    if isinstance(low, int) and isinstance(high, int) and high - low < MOST_WHOLE_NUMBERS:
        return tuple(range(low, high + 1))
    return ()


def impossible_values(
    base: TrialConfig, group: Group, candidates: dict[str, tuple], key: str
) -> Iterator[tuple[Any, str]]:
    """Values of one key that fail with whatever the group's other keys have, and why they fail beside the base."""
    own = flatten(base)
    others = {other: _base_first(candidates.get(other, ()), own[other]) for other in group.keys if other != key}
    for value in candidates.get(key, ()):
        if value == own[key]:
            continue
        first = ""
        for rest in itertools.product(*others.values()):
            reason = _why_not(base, group, {key: value, **dict(zip(others, rest, strict=True))})
            if reason is None:
                break
            first = first or reason
        else:
            yield value, first


def _base_first(values: tuple, own: Any) -> tuple:
    return (own, *(value for value in values if value != own))


def _why_not(base: TrialConfig, group: Group, values: dict[str, Any]) -> str | None:
    try:
        agreeable = {key: value for key, value in AGREEABLE.items() if key not in group.keys}
        group.check(override(base, agreeable | values))
    except UserError as error:
        return str(error)
    return None
