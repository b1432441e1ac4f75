"""`--search KEY[=SPEC]`: a key of the configuration becomes a searched one by naming it. No Ray, no torch.

arguments + base configuration → keys and their candidates, checked against the configuration's types and ranges.
"""

import argparse
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, get, override, parse_value
from reid_core.errors import UserError
from sweeps.search.candidates import DEFAULTS, Candidates, Choices, Range, Searched

_SPLIT = "another split is another measuring stick: its numbers cannot be compared; run one sweep per split"
_STICK = "it is the measuring stick of the trials: numbers taken with another one cannot be compared"
_ONCE = "it is prepared once per sweep, before the first trial; run one sweep per value"
_SAME = "it changes how a step is computed, not what comes out: there is nothing to be compared"
NOT_SEARCHED = {
    "seed": _SPLIT,
    "data.split": _SPLIT,
    "data.cutoff_date": _SPLIT,
    "data.whole_encounters": _SPLIT,
    "data.image_px": _ONCE,
    "model.activations_gb": "it limits the disk: whatever its value, there is nothing to be compared",
    "model.checkpointing": _SAME,
    "optim.accumulate": _SAME,
    "match.matcher": _ONCE,
    "match.weights": _ONCE,
    "match.image_px": _ONCE,
    "match.num_keypoints": _ONCE,
    "fusion.second_weights": _ONCE,
    "threshold.objective": _STICK,
    "threshold.fixed": _STICK,
}
# Goes with every single value of a searchable key. Pairs that contradict each other are a trial's own affair.
_AGREEABLE = override(
    TrialConfig(),
    {"loss.name": "cross_entropy", "match.matcher": "none", "threshold.smallest": 0, "threshold.largest": 1},
)


def add_search_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of `parse_searched`."""
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="KEY[=SPEC]",
        help="search one more key, or other values of a searched one: KEY (every choice, or the default candidates), "
        "KEY=a,b,c, KEY=low..high or KEY=log:low..high, e.g. predict.aggregate or match.shortlist=10,50,150; "
        "may be repeated",
    )


def parse_searched(settings: list[str], base: TrialConfig, fixed: frozenset[str] = frozenset()) -> Searched:
    """`--search` arguments as keys and candidates.

    Args:
        settings: Each `KEY` (every choice, or the default candidates), `KEY=a,b,c`, `KEY=low..high` or
            `KEY=log:low..high`.
        base: Configuration that the sweep starts from; its own values are included.
        fixed: Keys of `--set`.

    Raises:
        UserError: If a key is unknown, fixed, given twice or cannot be searched, or a value is not one of its.

    Example:
        >>> parse_searched(["fusion.weights", "match.shortlist=10,50", "optim.epochs=10..40"], TrialConfig())
        (('fusion.weights', Choices(values=('equal', 'fitted'))), ('match.shortlist', Choices(values=(10, 50, 20))),
         ('optim.epochs', Range(low=10, high=40, log=False)))
    """
    searched: dict[str, Candidates] = {}
    for setting in settings:
        key, equals, spec = (part.strip() for part in setting.partition("="))
        if key in searched:
            raise UserError(f"--search {key}: given twice")
        if key in fixed:
            raise UserError(f"--search {key}: --set fixes it; give one of the two")
        _check_key(key, base)
        searched[key] = _parse_spec(key, spec, base) if equals else _whole(key, base)
    return tuple(searched.items())


def _check_key(key: str, base: TrialConfig) -> None:
    if key not in flatten(base):
        try:
            override(base, {key: None})
        except UserError as error:
            raise UserError(f"--search: {error}") from error
    if key in NOT_SEARCHED:
        raise UserError(f"--search {key}: cannot be searched: {NOT_SEARCHED[key]}")


def _whole(key: str, base: TrialConfig) -> Candidates:
    """What `--search KEY` means: every choice, both booleans, or the default candidates."""
    hint = _hint(key)
    if get_origin(hint) is Literal:
        return Choices(get_args(hint))
    if hint is bool:
        return Choices((False, True))
    if key not in DEFAULTS:
        example = "LOW..HIGH" if _is_number(hint) else "A,B"
        raise UserError(f"--search {key}: no default is known; say what to try: --search {key}={example}")
    return _with_base(key, DEFAULTS[key], base)


def _parse_spec(key: str, spec: str, base: TrialConfig) -> Candidates:
    span = re.fullmatch(r"(log:)?([^,]+?)\.\.([^,]+)", spec)
    if span and _is_number(_hint(key)):
        log, low, high = bool(span[1]), _number(key, span[2]), _number(key, span[3])
        if low >= high or (log and low <= 0):
            raise UserError(f"--search {key}={spec}: expected LOW..HIGH with LOW < HIGH (and above 0 after log:)")
        return _with_base(key, Range(low, high, log), base)
    values: list[Any] = []
    for value in _split(spec):
        checked = _checked(key, value)
        if checked not in values:
            values.append(checked)
    if len(values) < 2:
        raise UserError(f"--search {key}={spec}: one value only; --set {key}=VALUE fixes a key")
    return _with_base(key, Choices(tuple(values)), base)


def _with_base(key: str, candidates: Candidates, base: TrialConfig) -> Candidates:
    own = flatten(base)[key]
    if isinstance(candidates, Choices):
        return candidates.including(own)
    if own is None or (candidates.log and own == 0):
        why = "null is in no range" if own is None else "0 is on no logarithmic range"
        raise UserError(
            f"--search {key}: the first trial is the base, {key}={'null' if own is None else own}, and {why}; "
            f"list values instead: --search {key}=A,B"
        )
    return candidates.stretched(own)


def _split(spec: str) -> Sequence[Any]:
    """Values between commas; a list in brackets is one value."""
    listed = parse_value(f"[{spec}]")
    return listed if isinstance(listed, list) else [parse_value(part.strip()) for part in spec.split(",")]


def _number(key: str, text: str) -> float:
    value = _checked(key, parse_value(text.strip()))
    if value is None or not math.isfinite(value):
        raise UserError(f"--search {key}: {text} is not a number that a range can end at")
    return value


def _checked(key: str, value: Any) -> Any:
    try:
        return flatten(override(_AGREEABLE, {key: value}))[key]
    except UserError as error:
        raise UserError(f"--search: {error}") from error


def _hint(key: str) -> Any:
    part, _, name = key.rpartition(".")
    return get_type_hints(type(get(_AGREEABLE, part)))[name]


def _is_number(hint: Any) -> bool:
    return bool({int, float} & {hint, *get_args(hint)})


def choices_of(searched: Searched, key: str) -> tuple:
    """The listed values of a searched key; none if it is not searched."""
    return next((candidates.values for name, candidates in searched if name == key), ())  # type: ignore[union-attr]


def describe_searched(searched: Searched) -> dict[str, str]:
    """The candidates as one would type them, by key."""
    return {key: str(candidates) for key, candidates in searched}
