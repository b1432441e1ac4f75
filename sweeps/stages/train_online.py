"""`--then-online`: the best configuration is trained on with a new augmentation in every epoch (paper §7.1).

best record → one more trial, which begins with its weights → that trial's record.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeps.results.journal import Record
from sweeps.results.result_folder import ONLINE, open_journal
from sweeps.search.suggestion import Suggestion
from sweeps.stages.flags import Epochs
from sweeps.trials.context import SweepContext
from sweeps.trials.tuning import run_fixed

logger = logging.getLogger(__name__)


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
