"""The flags that command lines share: data, result folder, configuration.

arguments → the configuration of a trial, whose file names are absolute.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import PRESETS, make_preset, shrink
from reid_core.config.values import fingerprint, override, parse_value
from reid_core.config.yaml_files import read_config
from reid_core.data.synthetic import SYNTHETIC
from reid_core.data.table.metadata import Reading
from reid_core.errors import UserError
from reid_core.files.weights_file import check_weights_file, is_folder

logger = logging.getLogger(__name__)


def add_data_flags(parser: argparse.ArgumentParser, *, may_be_uri: bool = False) -> None:
    """Flags of every command that trains, whatever it trains.

    Args:
        parser: Gets them.
        may_be_uri: Whether `--out` may name a storage; then its value is a text (`command.is_uri`), else a path.
    """
    parser.add_argument(
        "--data", required=True, help="folder with metadata.csv (AnimalCLEF25's layout), or 'synthetic'"
    )
    meaning = "folder for everything that is written"
    parser.add_argument(
        "--out",
        required=True,
        type=str if may_be_uri else Path,
        help=f"{meaning}, or the URI of one: s3://bucket/runs" if may_be_uri else meaning,
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="fix one key, e.g. optim.lr_head=1e-4; may be repeated; a fixed key is not searched",
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of split, batches, weights and search (default 0)")
    add_reading_flags(parser)


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `reading_of`."""
    parser.add_argument("--skip-missing", action="store_true", help="leave out metadata rows without a photograph")
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="allow photographs that are links to files outside the data folder (DVC, shared disks)",
    )


def reading_of(options: argparse.Namespace) -> Reading:
    """How the data folder is read."""
    return Reading(skip_missing=options.skip_missing, follow_links=options.follow_links)


def add_common_flags(
    parser: argparse.ArgumentParser,
    *,
    real: str = "megadescriptor",
    synthetic: str | None = "tiny",
    may_be_uri: bool = False,
) -> None:
    """Flags of every command that starts from one configuration.

    Args:
        parser: Gets them.
        real: Preset where none is named.
        synthetic: The same for the synthetic data; None: `real`, made small (`presets.shrink`).
        may_be_uri: As for `add_data_flags`.
    """
    add_data_flags(parser, may_be_uri=may_be_uri)
    parser.set_defaults(real_preset=real, synthetic_preset=synthetic)
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help=f"configuration to start from (default: {real}; for synthetic data {synthetic or real + ', small'})",
    )
    parser.add_argument(
        "--scale",
        choices=("full", "small"),
        help="small: a tiny backbone of the preset's family at 64 px, for a laptop's CPU",
    )
    parser.add_argument(
        "--config", type=Path, help="YAML of dotted keys, e.g. a former best.yaml, in place of a preset"
    )


def parse_fixed(settings: list[str]) -> dict[str, object]:
    """`--set` arguments as dotted key → value.

    Raises:
        UserError: If one is not KEY=VALUE.
    """
    fixed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting:.200}: expected KEY=VALUE, e.g. --set optim.lr_head=1e-4")
        fixed[key.strip()] = parse_value(value.strip())
    return fixed


def make_config(arguments: argparse.Namespace) -> TrialConfig:
    """`--preset` or `--config`, then `--scale`, then `--seed`, then `--set`; file names in it become absolute."""
    config = _start(arguments)
    if arguments.seed is not None:
        config = replace(config, seed=arguments.seed)
    fixed = parse_fixed(arguments.set)
    try:
        config = override(config, fixed)
    except UserError as error:
        raise UserError(f"--set: {error}") from error
    return with_absolute_files(config)


def with_absolute_files(config: TrialConfig) -> TrialConfig:
    """The same with every file and folder in it absolute, as processes elsewhere need them.

    Raises:
        UserError: If a weights file cannot be read.
    """
    absolute: dict[str, str | None] = {
        "model.weights": absolute_weights(config.model.weights),
        "fusion.second_weights": absolute_weights(config.fusion.second_weights, "fusion.second_weights"),
        "fusion.second_model": absolute_folder(config.fusion.second_model),
    }
    if config.match.weights is not None:
        absolute["match.weights"] = str(Path(config.match.weights).absolute())
    return override(config, absolute)


def absolute_folder(model: str | None) -> str | None:
    """A value of `fusion.second_model`, made absolute if it is a bundle's folder and no model's name."""
    return str(Path(model).absolute()) if model is not None and is_folder(model) else model


def _start(arguments: argparse.Namespace) -> TrialConfig:
    """The configuration that the other flags change."""
    scale = arguments.scale
    if arguments.config:
        if arguments.preset:
            raise UserError("--preset and --config both give a whole configuration; give one")
        return _scaled(read_config(arguments.config), scale)
    if arguments.preset or arguments.data != SYNTHETIC:
        return _scaled(make_preset(arguments.preset or arguments.real_preset), scale)
    if arguments.synthetic_preset:
        return _scaled(make_preset(arguments.synthetic_preset), scale)
    return _scaled(make_preset(arguments.real_preset), scale or "small")


def _scaled(config: TrialConfig, scale: str | None) -> TrialConfig:
    small = shrink(config)
    if scale != "small" or config.data.image_px <= small.data.image_px:  # what is small already stays as it is
        return config
    logger.info(
        "--scale small: %s at %d px in place of %s at %d px, learning rates for random weights; the paper's numbers "
        "cannot be expected of it",
        small.model.backbone,
        small.data.image_px,
        config.model.backbone,
        config.data.image_px,
    )
    return small


def absolute_weights(weights: str, key: str = "model.weights") -> str:
    """A value of a key for weights with its file, if it names one, made absolute and checked.

    Raises:
        UserError: If the file cannot be read.
    """
    if weights in ("pretrained", "random"):
        return weights
    return check_weights_file(str(Path(weights).absolute()), key)


def describe_config(config: TrialConfig) -> str:
    """One line by which configurations are distinguished."""
    return f"{config.model.backbone}, seed {config.seed}, configuration {fingerprint(config)}"
