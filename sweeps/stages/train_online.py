"""`--then-online`: the best configuration is trained on with a new augmentation in every epoch (paper §7.1).

best record → one more trial, which begins with its weights → that trial's record.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from reid_core.config.parameters import TrialConfig
from reid_core.errors import UserError
from sweeps.results.journal import Record
from sweeps.results.result_folder import ONLINE, open_journal
from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_fixed

Epochs = int | Literal["winner"]  # "winner": as many as the best trial had
logger = logging.getLogger(__name__)


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


def continue_online(best: Record, context: SweepContext, epochs: Epochs) -> Record | None:
    """Train the best trial on, in a folder and a journal of its own; a trial that ended before is not repeated.

    Args:
        best: Completed trial of the search.
        context: Of the search.
        epochs: Of the additional training.

    Returns:
        The record of the additional training; None if the best trial was augmented online itself.
    """
    config = context.configure(best.parameters)
    if config.data.variants is None:
        logger.info("%s was augmented online already: nothing is left for --then-online", best.name)
        return None
    more = config.optim.epochs if epochs == "winner" else epochs
    parameters = best.parameters | {"data.variants": None, "optim.epochs": more}
    out = Path(context.out) / ONLINE
    name = _name(open_journal(out).read(), parameters, best.checkpoint)
    suggestion = Suggestion(name=name, parameters=parameters, start=best.checkpoint)
    return run_fixed([suggestion], replace(context, out=str(out)))[name]


def _name(before: Sequence[Record], parameters: dict[str, Any], start: str) -> str:
    """The name of the trial that did just this before, or a new one: a sweep that grew may have another winner."""
    same = [record.name for record in before if (record.parameters, record.start) == (parameters, start)]
    return same[0] if same else f"online-{len(before):04d}"
