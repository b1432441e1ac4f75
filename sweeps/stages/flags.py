"""Flags of what follows a search, and of sweeps group by group. No Ray, no torch: `--help` comes at once.

flags → settings of the stages, or what is wrong with them.
"""

import argparse
from dataclasses import dataclass
from typing import Literal

from reid_core.config.parameters import TrialConfig
from reid_core.errors import UserError

LEAST_RUNS = 2  # one cannot both choose and report
Epochs = int | Literal["winner"]  # "winner": as many as the best trial had


@dataclass(frozen=True, kw_only=True)
class ConfirmSettings:
    """How a sweep confirms: how many configurations, and each how often."""

    num_best: int = 3  # the preset comes on top; 0: nothing is confirmed
    num_runs: int = 3

    @property
    def num_trials(self) -> int:
        """The largest number of further trials."""
        return (self.num_best + 1) * self.num_runs if self.num_best else 0


def add_group_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that names the groups of `divide_sweep`."""
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME",
        help="sweep the rows of this group alone, as OUT/groups/NAME; may be repeated, and all names every group: one "
        "sweep after the other with all the other flags, a budget being divided, each trying the best of those before "
        "it; OUT/best then routes each photograph to its group's model",
    )


def add_confirm_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `make_confirm_settings`."""
    parser.add_argument(
        "--confirm",
        type=int,
        default=3,
        metavar="K",
        help="after the search, run the K best configurations and the preset again with other seeds on fresh splits of "
        "availableSet, and choose by those runs (default 3; 0: the result is unconfirmed)",
    )
    parser.add_argument("--confirm-runs", type=int, default=3, metavar="S", help="runs of each (default 3)")


def make_confirm_settings(options: argparse.Namespace) -> ConfirmSettings:
    """What the flags ask for.

    Raises:
        UserError: If a number is negative, or there are fewer than two runs: one cannot both choose and report.
    """
    if options.confirm < 0:
        raise UserError(f"--confirm {options.confirm}: must not be negative; 0 switches confirmation off")
    if options.confirm_runs < LEAST_RUNS:
        raise UserError(
            f"--confirm-runs {options.confirm_runs}: must be at least {LEAST_RUNS}; --confirm 0 switches it off"
        )
    return ConfirmSettings(num_best=options.confirm, num_runs=options.confirm_runs)


def add_online_flag(parser: argparse.ArgumentParser) -> None:
    """`--then-online`."""
    parser.add_argument(
        "--then-online",
        nargs="?",
        const="winner",
        metavar="EPOCHS",
        help="after the search, train the best configuration on with online augmentation, for as many epochs as it had "
        "or for EPOCHS",
    )


def parse_epochs(text: str) -> int:
    """The number after `--then-online`.

    Raises:
        UserError: If it is not a whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--then-online {text}: expected a number of epochs, at least 1")
    return int(text)


def check_offline(base: TrialConfig, searched: set[str]) -> None:
    """Refuse a sweep in which every trial augments online already.

    Raises:
        UserError: If it does.
    """
    if base.data.variants is None and "data.variants" not in searched:
        raise UserError(
            "--then-online: data.variants=null augments online in the search already; "
            "search offline first, e.g. --set data.variants=5"
        )


def add_refit_flag(parser: argparse.ArgumentParser) -> None:
    """`--refit`."""
    parser.add_argument(
        "--refit",
        action="store_true",
        help="in the end, train the chosen configuration on all database images for its median best epoch, and export "
        "that model as OUT/refit",
    )
