"""What may be tried for a key, and the asking of an Optuna trial. No Ray, no torch.

candidates + base configuration + Optuna trial → one value by dotted key; the base's own value is always among them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from optuna.trial import BaseTrial

from reid_core.config.parameters import TrialConfig
from reid_core.config.ranges import Candidates, Choices, Range, annotations_of
from reid_core.config.values import flatten

Searched = tuple[tuple[str, Candidates], ...]  # of `--search`: keys, and what may be tried for them
# What is tried for a key unless the space or `--search` says otherwise: it stands beside the field.
DEFAULTS: dict[str, Candidates] = {
    f"{part}.{name}": candidates
    for part, kind in get_type_hints(TrialConfig).items()
    if is_dataclass(kind)
    for name, candidates in annotations_of(kind, (Choices, Range)).items()
}


def suggest(trial: BaseTrial, key: str, candidates: Candidates) -> Any:
    """The trial's value of a key."""
    if isinstance(candidates, Choices):
        with warnings.catch_warnings():  # Optuna doubts lists (`data.mean`); in memory they are as good as numbers
            warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
            return trial.suggest_categorical(key, candidates.values)
    if isinstance(candidates.low, int) and isinstance(candidates.high, int):
        return trial.suggest_int(key, candidates.low, candidates.high, log=candidates.log)
    return trial.suggest_float(key, candidates.low, candidates.high, log=candidates.log)


class Asker:
    """Asks a trial for the keys that are not fixed, and remembers the answers."""

    def __init__(self, trial: BaseTrial, base: TrialConfig, fixed: frozenset[str], searched: Sequence) -> None:
        self.trial, self.base, self.fixed = trial, flatten(base), fixed
        self.values: dict[str, Any] = {}
        for key, candidates in searched:  # first, so that the space's conditions see the answers
            self(key, candidates)

    def value(self, key: str) -> Any:
        """What the trial's configuration will have."""
        return self.values.get(key, self.base[key])

    def __call__(self, key: str, candidates: Candidates | None = None) -> None:
        """Ask for a key, of `DEFAULTS` unless told otherwise; not if it is fixed or was asked before.

        A base of 0 has no place on a logarithmic range: what it switches off stays off.
        """
        base, candidates = self.base[key], candidates or DEFAULTS[key]
        off = isinstance(candidates, Range) and candidates.log and base == 0
        if key not in self.fixed and key not in self.values and not off:
            self.values[key] = suggest(self.trial, key, candidates.including(base))
