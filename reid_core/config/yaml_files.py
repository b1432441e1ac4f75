"""Configurations as YAML files: best.yaml, the one in a bundle, and what people write for `--config`.

configuration ↔ file of dotted keys. Nothing in a file is executed; values are plain, so no alias can make them grow.
"""

from datetime import date
from pathlib import Path
from typing import Any

import yaml

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, override, parse_value
from reid_core.errors import UserError
from reid_core.files.escape import escape_line

MAX_BYTES = 1_000_000
SHOWN_LETTERS = 200
PLAIN = (str, int, float, date, type(None))  # a date is what YAML makes of one without quotation marks


def write_config(path: Path, config: TrialConfig) -> None:
    """Write a configuration as YAML, dotted keys; `read_config` and `--config` read it."""
    path.write_text(yaml.safe_dump(flatten(config), sort_keys=False), encoding="utf-8")


def read_config(path: Path) -> TrialConfig:
    """Read a configuration that `write_config` or a person wrote; keys that are missing keep their defaults.

    Raises:
        UserError: If the file cannot be read, is not a mapping, or has an unknown key or a wrong value.
    """
    values = _read_yaml(path)
    if not isinstance(values, dict) or not all(map(_is_plain, values.values())):
        raise UserError(f"{path}: expected `key: value` lines such as optim.lr_head: 0.0001")
    try:
        return override(TrialConfig(), {str(key): parse_value(value) for key, value in values.items()})
    except (ValueError, OverflowError, RecursionError) as error:  # UserError is a ValueError
        raise UserError(f"{path}: {escape_line(str(error))}") from error


def _read_yaml(path: Path) -> Any:
    try:
        fits = path.stat().st_size <= MAX_BYTES
        values = yaml.safe_load(path.read_text(encoding="utf-8")) if fits else None
    # A date that does not exist is a ValueError, deep nesting a RecursionError.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {escape_line(str(error))[:SHOWN_LETTERS]}") from error
    if not fits:
        raise UserError(f"{path}: more than {MAX_BYTES:,} bytes, too large for a configuration")
    return values


def _is_plain(value: Any) -> bool:
    """Whether a value is one that a configuration may have, or a list of such: nothing nested, nothing tagged."""
    return all(isinstance(part, PLAIN) for part in (value if isinstance(value, list) else [value]))
