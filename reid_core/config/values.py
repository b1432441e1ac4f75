"""Values of a configuration by dotted key: read, changed, checked against the types and limits of their fields.

`TrialConfig` + dotted values → `TrialConfig`, made once; a flat dictionary; a fingerprint. Standard library only.
"""

import dataclasses
import hashlib
import json
import sys
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from reid_core.config.parameters import TrialConfig
from reid_core.errors import UserError

# Keys that results of earlier versions do not know, with the value by which everything is as it was without them.
NEWER_KEYS: dict[str, Any] = {
    "model.block_groups": None,
    "model.checkpointing": "auto",
    "optim.accumulate": None,
}


def get(config: TrialConfig, key: str) -> Any:
    """Value at a dotted key, e.g. ``get(config, "optim.lr_head")``."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def flatten(config: TrialConfig) -> dict[str, Any]:
    """All values by dotted key, in the order of declaration; tuples as lists, as JSON has them.

    Example:
        >>> flatten(TrialConfig())["optim.batch_size"]
        32
    """
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        parts = value if isinstance(value, dict) else {"": value}
        for key, leaf in parts.items():
            flat[f"{name}.{key}".rstrip(".")] = list(leaf) if isinstance(leaf, tuple) else leaf
    return flat


def parse_value(value: Any) -> Any:
    """A value as a person types it: JSON where it is JSON (`1e-4`, `null`, `[0.5, 0.5, 0.5]`), else the text itself.

    Example:
        >>> parse_value("1e-4"), parse_value("none"), parse_value(3)
        (0.0001, 'none', 3)
    """
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):  # no JSON, a number of more digits than Python reads, or brackets without end
        return value


def override(config: TrialConfig, changes: dict[str, Any]) -> TrialConfig:
    """Replace values by dotted key, check their types and ranges, and construct once.

    Raises:
        UserError: If a key is unknown, or a value has the wrong type or lies outside its range.

    Example:
        >>> override(TrialConfig(), {"optim.lr_head": 1e-4}).optim.lr_head
        0.0001
        >>> override(TrialConfig(), {"optim.lr": 1e-4})
        Traceback (most recent call last):
        reid_core.errors.UserError: unknown key 'optim.lr'; 'optim' has: epochs, batch_size, lr_head, ...
    """
    top: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        checked = _checked(key, value)
        part, _, name = key.partition(".")
        if name:
            nested.setdefault(part, {})[name] = checked
        else:
            top[part] = checked
    for part, values in nested.items():
        top[part] = dataclasses.replace(getattr(config, part), **values)
    return dataclasses.replace(config, **top)


def fingerprint(config: TrialConfig) -> str:
    """Short hash of the canonical JSON of a configuration: equal configurations, equal fingerprints.

    A key of `NEWER_KEYS` counts only where it changes something: configurations keep the fingerprints that they had.
    """
    values = {key: value for key, value in flatten(config).items() if (key, value) not in NEWER_KEYS.items()}
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    # As `checksums.digest_of`, whose module needs more than the standard library.
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()


def _checked(key: str, value: Any) -> Any:
    part, dot, name = key.partition(".")
    hints = get_type_hints(TrialConfig)
    if dot:
        if not dataclasses.is_dataclass(hints.get(part)):
            raise UserError(f"unknown key {key!r:.200}; the parts are: {', '.join(hints)}")
        owner, hints = part, get_type_hints(hints[part])
        known = f"{owner!r} has: {', '.join(hints)}"
    else:
        name, known = part, f"known: {', '.join(hints)}"
    if name not in hints or dataclasses.is_dataclass(hints[name]):
        raise UserError(f"unknown key {key!r:.200}; {known}")
    return _coerce(key, value, hints[name])


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Check `value` against a type hint; whole numbers pass as floats, lists as tuples, nothing else is bent."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option) and not isinstance(value, bool):
                return value
        elif get_origin(option) is tuple:
            if isinstance(value, list | tuple) and len(value) == len(get_args(option)):
                return tuple(_coerce(key, item, kind) for item, kind in zip(value, get_args(option), strict=True))
        elif option is float:
            if isinstance(value, float) and value == value:
                return value
            if isinstance(value, int) and not isinstance(value, bool):
                if abs(value) > sys.float_info.max:
                    raise UserError(f"{key}: the number is too large")
                return float(value)
        elif isinstance(value, option) and isinstance(value, bool) == (option is bool):
            return value
    raise UserError(f"{key}={value!r:.200} has the wrong type; expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
