"""Write docs/configuration.md from the dataclasses of the configuration: `python docs/make_configuration.py`.

fields, their annotations and the comments beside them → one table per part. A test compares the file with this.
"""

import inspect
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, only docs/ is on the path

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import PRESETS, make_preset
from reid_core.config.ranges import INFINITE, Between, Choices, Range, annotations_of
from sweeps.search.search_flag import NOT_SEARCHED
from sweeps.search.space import SearchSpace, SpaceFunction, classification_space, efficientnet_space, metric_space

FILE = Path(__file__).with_name("configuration.md")
SPACES: dict[str, tuple[SpaceFunction, str]] = {
    "metric.py": (metric_space, "megadescriptor"),
    "classification.py": (classification_space, "batch32"),
    "efficientnet.py": (efficientnet_space, "efficientnet_b4"),
    "efficientnet.py --attempt frozen": (efficientnet_space, "efficientnet_b4_frozen"),
}
INTRODUCTION = """\
# Configuration

<!-- Written by docs/make_configuration.py (make docs) from reid_core/config/parameters.py: edit that one. -->

Every key below can be fixed with `--set KEY=VALUE` and stands in `best.yaml`. Values are written as JSON
(`--set optim.lr_head=1e-4`, `--set data.variants=null`, `--set 'data.mean=[0.5, 0.5, 0.5]'`) or as plain text
(`--set loss.name=arcface`). An unknown key, a wrong type and a value outside its limits are refused by name.

`--search KEY` adds a key to the search. The column *a search tries* shows what it then tries by default; other values
are given as `KEY=A,B`, `KEY=LOW..HIGH` or `KEY=log:LOW..HIGH`, and *name the values* marks keys that need them. Keys
that can never be searched are [listed with the reason](#keys-that-cannot-be-searched).

The defaults are those of the preset `megadescriptor`. The other [presets](#presets) change some of them.
"""


def make_page() -> str:
    """The whole page as Markdown."""
    hints = get_type_hints(TrialConfig)
    own = [name for name in hints if name not in _parts()]
    top = ["## seed", "", *_table("", TrialConfig, own)]
    parts = [line for name in _parts() for line in _section(name, hints[name])]
    return "\n".join([INTRODUCTION, *top, *parts, *_spaces(), *_not_searched(), *_presets()]).rstrip() + "\n"


def _parts() -> list[str]:
    return [name for name, hint in get_type_hints(TrialConfig).items() if is_dataclass(hint)]


def _section(name: str, part: type) -> Iterator[str]:
    yield from ("", f"## {name}", "", inspect.cleandoc(part.__doc__ or ""), "")
    yield from _table(f"{name}.", part, [field.name for field in fields(part)])


def _table(prefix: str, part: type, names: list[str]) -> Iterator[str]:
    yield "| key | meaning | values | default | a search tries |"
    yield "|---|---|---|---|---|"
    hints, meanings = get_type_hints(part), comments_of(part)
    default = {field.name: field.default for field in fields(part)}
    limits = annotations_of(part, Between)
    candidates = annotations_of(part, Choices) | annotations_of(part, Range)
    for name in names:
        key = prefix + name
        cells = (
            f"`{key}`",
            re.sub(r"\bnull\b", "`null`", meanings.get(name, "")),
            ", ".join(filter(None, (_kind(hints[name]), _limits(limits.get(name))))),
            _value(default[name]),
            _tried(key, hints[name], candidates.get(name)),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def comments_of(part: type) -> dict[str, str]:
    """The comment of each field: the lines above it and the one behind it, as one text."""
    found: dict[str, str] = {}
    waiting: list[str] = []  # comments whose field has not come yet
    name, comment = "", ""
    for token in tokenize.generate_tokens(StringIO(inspect.getsource(part)).readline):
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#"):
            waiting.append(token.string.lstrip("# "))
        elif token.type == tokenize.COMMENT:
            comment = token.string.lstrip("# ")
        elif token.type == tokenize.NAME and not name:
            name = token.string
        elif token.type == tokenize.NEWLINE:
            if text := " ".join([*waiting, comment]).strip():
                found[name] = text
            waiting, name, comment = [], "", ""
    return {field.name: found[field.name] for field in fields(part) if field.name in found}


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_kind(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return f"{len(get_args(hint))} {_kind(get_args(hint)[0])}s"
    names = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", type(None): "`null`"}
    return names[hint]


def _value(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _limits(limits: Between | None) -> str:
    if limits is None:
        return ""
    low, high = (f"{number:,}" if isinstance(number, int) else f"{number:g}" for number in (limits.low, limits.high))
    return f"from {low}" if limits.high == INFINITE else f"{low} … {high}"


def _tried(key: str, hint: Any, candidates: Choices | Range | None) -> str:
    if key in NOT_SEARCHED:
        return "never"
    if isinstance(candidates, Range):
        return f"{candidates.low:g} … {candidates.high:g}" + (" (log)" if candidates.log else "")
    if candidates is not None:
        return ", ".join(map(_value, candidates.values))
    return "every choice" if get_origin(hint) is Literal or hint is bool else "name the values"


def _spaces() -> Iterator[str]:
    yield from ("", "## What each script searches", "")
    yield "Without any `--search`, and with the script's own preset. The first trial is always the preset itself. A key"
    yield "that depends on another one (as `model.head_hidden` on `model.head=mlp`) is asked for only where it matters."
    for script, (space, preset) in SPACES.items():
        text = SearchSpace(space, make_preset(preset)).describe()
        yield from ("", f"`python sweeps/{script}` (preset `{preset}`):", "", "```", text, "```")


def _not_searched() -> Iterator[str]:
    yield from ("", "## Keys that cannot be searched", "", "| key | reason |", "|---|---|")
    yield from (f"| `{key}` | {reason} |" for key, reason in NOT_SEARCHED.items())


def _presets() -> Iterator[str]:
    yield from (
        "",
        "## Presets",
        "",
        "`--preset NAME`; [presets.py](../reid_core/config/presets.py) holds their values.",
        "",
    )
    yield from ("| preset | what it is |", "|---|---|")
    for name, function in PRESETS.items():
        yield f"| `{name}` | {' '.join(inspect.cleandoc(function.__doc__ or '').split())} |"


if __name__ == "__main__":
    FILE.write_text(make_page(), encoding="utf-8")
    print(FILE)
