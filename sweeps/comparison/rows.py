"""The rows of the comparison: a preset each, and what the command line may change of it.

`--rows`, `--set`, `--scale`, `--seed` → row → `TrialConfig` (paper table 6.2). No Ray.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reid_core import cli
from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset, shrink
from reid_core.config.values import flatten, get, override
from reid_core.errors import UserError
from sweeps.machines.flags import add_resource_flags
from sweeps.results.mirror import add_work_flag

BASELINE = "starter"
CLASSIFIERS = ("batch16", "batch32", "batch64", "batch64_warmup", "batch64_complex_head")
BATCH_SIZES = CLASSIFIERS[:3]
TABLE_62 = (*CLASSIFIERS, "metric", "efficientnet_b4")
ROWS = (BASELINE, *TABLE_62, "metric_512", "efficientnet_b4_frozen")
logger = logging.getLogger(__name__)


def make_parser(description: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_data_flags(parser, may_be_uri=True)
    add_work_flag(parser)
    parser.add_argument("--rows", default=",".join(ROWS), help="presets, separated by commas (default: %(default)s)")
    parser.add_argument(
        "--scale",
        choices=("full", "small"),
        default="full",
        help="small: tiny backbones of the same families at 64 px, for a laptop's CPU (default full)",
    )
    add_resource_flags(parser)
    return parser


def parse_rows(text: str) -> list[str]:
    """The rows to run, in the order of `ROWS`; the baseline is always among them.

    Raises:
        UserError: If a name is not that of a row.
    """
    asked = {BASELINE, *(name.strip() for name in text.split(",") if name.strip())}
    unknown = sorted(asked - set(ROWS))
    if unknown:
        raise UserError(f"--rows {','.join(unknown)}: no such row; choose from {', '.join(ROWS)}")
    return [name for name in ROWS if name in asked]


def own_keys(row: str) -> set[str]:
    """Keys whose value sets a row apart from most others; `--set` does not change them."""
    values = {name: flatten(make_preset(name)) for name in ROWS}
    usual = {key: Counter(repr(other[key]) for other in values.values()).most_common(1)[0][0] for key in values[row]}
    return {key for key, value in values[row].items() if repr(value) != usual[key]}


def configure_row(row: str, fixed: dict[str, Any], *, small: bool, seed: int | None) -> TrialConfig:
    """A row's preset, made small if asked for, with the `--set` keys that are not its own."""
    config = make_preset(row)
    config = shrink(config) if small else config
    kept = sorted(own_keys(row) & set(fixed))
    if kept:
        settings = ", ".join(f"{key}={get(config, key)}" for key in kept)
        logger.info("%s keeps %s, which sets it apart from the other rows", row, settings)
    values = {key: value for key, value in fixed.items() if key not in kept}
    if seed is not None:
        values["seed"] = seed
    return cli.with_absolute_files(override(config, values))


def choose_base(configs: Mapping[str, TrialConfig]) -> TrialConfig:
    """The configuration that the data are prepared for: one with a matcher, if any row has one."""
    return next((config for config in configs.values() if config.match.matcher != "none"), next(iter(configs.values())))


def describe_scale(configs: Mapping[str, TrialConfig], *, small: bool) -> str:
    """What a reader must know before the numbers."""
    if not small:
        return ""
    pairs = {(config.model.backbone, make_preset(row).model.backbone) for row, config in configs.items()}
    swaps = "; ".join(f"{tiny} for {full}" for tiny, full in sorted(pairs))
    return (
        f"--scale small: tiny backbones of the same families at 64 px ({swaps}), random weights, all stages trained, "
        "other learning rates, SIFT for ALIKED + LightGlue. The recipes are the paper's, the numbers cannot be."
    )
