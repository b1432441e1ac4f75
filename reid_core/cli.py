"""What all command lines share: the flags that choose data and configuration, and how mistakes are told.

arguments → data folder, result folder, configuration.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reid_core.bundle import read_config
from reid_core.config import TrialConfig, UserError, fingerprint, override, parse_value
from reid_core.model import check_weights_file
from reid_core.prepare import SYNTHETIC
from reid_core.presets import PRESETS, make_preset
from reid_core.train import TrainingError

CLAIM = "configuration.txt"  # in OUT: whose result it holds


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that trains."""
    parser.add_argument(
        "--data", required=True, help="folder with metadata.csv (AnimalCLEF25's layout), or 'synthetic'"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for everything that is written")
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help="configuration to start from (default: tiny for synthetic data, else megadescriptor)",
    )
    parser.add_argument(
        "--config", type=Path, help="YAML of dotted keys, e.g. a former best.yaml, on top of the preset"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="fix one key, e.g. optim.lr_head=1e-4; may be repeated; a fixed key is not searched",
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of split, batches, weights and search (default 0)")
    parser.add_argument("--skip-missing", action="store_true", help="leave out metadata rows without a photograph")


def parse_fixed(settings: list[str]) -> dict[str, object]:
    """`--set` arguments as dotted key → value.

    Raises:
        UserError: If one is not KEY=VALUE.
    """
    fixed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: expected KEY=VALUE, e.g. --set optim.lr_head=1e-4")
        fixed[key.strip()] = parse_value(value.strip())
    return fixed


def make_config(arguments: argparse.Namespace) -> TrialConfig:
    """Preset, then `--config`, then `--seed`, then `--set`; file names in it become absolute."""
    if arguments.config:
        config = read_config(arguments.config)
        if arguments.preset:
            raise UserError("--preset and --config both give a whole configuration; give one")
    else:
        config = make_preset(arguments.preset or ("tiny" if arguments.data == SYNTHETIC else "megadescriptor"))
    if arguments.seed is not None:
        config = replace(config, seed=arguments.seed)
    try:
        config = override(config, parse_fixed(arguments.set))
    except UserError as error:
        raise UserError(f"--set: {error}") from error
    absolute = {}
    if config.model.weights not in ("pretrained", "random"):
        absolute["model.weights"] = check_weights_file(str(Path(config.model.weights).absolute()))
    if config.match.weights is not None:
        absolute["match.weights"] = str(Path(config.match.weights).absolute())
    return override(config, absolute)


def make_out(out: Path) -> Path:
    """Make the result folder and prove that it can be written.

    Raises:
        UserError: If it cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    return out.resolve()


def claim(out: Path, config: TrialConfig, data: str) -> None:
    """Mark a result folder as this configuration's on these data, to be continued by the same only.

    Raises:
        UserError: If it holds the result of another one, or of a sweep.
    """
    mark, identity = out / CLAIM, f"{fingerprint(config)} {data if data == SYNTHETIC else Path(data).resolve()}"
    if (out / "sweep.json").exists():
        raise UserError(f"--out {out} holds a sweep; choose another folder")
    if mark.exists() and mark.read_text().strip() != identity:
        raise UserError(
            f"--out {out} holds the result of another configuration, or of other data; choose another folder"
        )
    mark.write_text(identity + "\n")


def describe_config(config: TrialConfig) -> str:
    """One line that tells a configuration apart."""
    return f"{config.model.backbone}, seed {config.seed}, configuration {fingerprint(config)}"


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run a command; errors that explain themselves are printed without a traceback (status 2, in training 1)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.exit(main(None))
    except (UserError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
