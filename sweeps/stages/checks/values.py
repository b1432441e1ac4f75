"""Which values of the searched keys no trial can have: on these data, with this backbone, for these workers.

search space → values to leave out, and a line about each; an error where `--search` asks for one.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, override
from reid_core.data.requested import check_sides
from reid_core.data.splits.parts import Parts
from reid_core.errors import UserError
from reid_core.model.hub import check_weights
from sweeps.machines.resources import Resources
from sweeps.search.candidates import LeftOut
from sweeps.search.space import SearchSpace
from sweeps.stages.checks.data import check_training
from sweeps.trials.driver import check_model

MOST_WHOLE_NUMBERS = 512  # of a range that are tried one by one


class Group(NamedTuple):
    """Keys whose values decide together whether something can be had."""

    keys: tuple[str, ...]
    check: Callable[[TrialConfig], None]


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
        UserError: If `--search` names such a value.
    """
    groups = (
        Group(
            ("optim.batch_size", "data.images_per_identity", "data.oversample_to", "data.undersample_to", "loss.name"),
            lambda config: check_training(config, parts, workers=resources.workers),
        ),
        Group(("model.unfrozen_stages", "model.backbone", "model.keep_activations"), check_model),
        Group(("model.backbone", "model.weights"), lambda config: check_weights(config.model, config.data.image_px)),
        Group(("match.same_side", "model.orientation"), lambda config: check_sides(parts.sides_N6, config)),
    )
    candidates = {key: values_of(distribution) for key, distribution in space.all_distributions().items()}
    asked, left_out, lines = {key for key, _ in space.searched}, dict[str, tuple](), list[str]()
    for group in groups:
        for key in group.keys:
            for value, reason in impossible_values(space.base, group, candidates, key):
                if key in asked:
                    raise UserError(f"--search {key}: no trial can have {key}={value}: {reason}")
                left_out[key] = (*left_out.get(key, ()), value)
                lines.append(f"not searched: {key}={value}: {reason}")
    return tuple(left_out.items()), lines


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
        group.check(override(base, values))
    except UserError as error:
        return str(error)
    return None
