"""What may be tried for a key, and how an Optuna trial suggests a value of it. No Ray, no torch.

candidates + base configuration + Optuna trial → one value by dotted key; the base's own value is always among them.
"""

import warnings
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from optuna.trial import BaseTrial

from reid_core.config.parameters import TrialConfig
from reid_core.config.ranges import Candidates, Choices, Range, annotations_of
from reid_core.config.values import flatten

Searched = tuple[tuple[str, Candidates], ...]  # of `--search`: keys, and what may be tried for them
LeftOut = tuple[tuple[str, tuple], ...]  # keys, and values of theirs that are not tried
# What is tried for a key unless the space or `--search` says otherwise: it stands beside the field.
DEFAULTS: dict[str, Candidates] = {
    f"{part}.{name}": candidates
    for part, kind in get_type_hints(TrialConfig).items()
    if is_dataclass(kind)
    for name, candidates in annotations_of(kind, (Choices, Range)).items()
}


class Suggester:
    """Lets an Optuna trial suggest values of the keys that are not fixed, and keeps them.

    Attributes:
        base: Configuration that the sweep starts from.
        values: What was suggested, by dotted key.
    """

    def __init__(
        self,
        trial: BaseTrial,
        base: TrialConfig,
        fixed: frozenset[str],
        searched: Searched,
    ) -> None:
        """Begin with the keys of `--search`, so that the conditions of a search space see their values."""
        self.base, self.values = base, dict[str, Any]()
        self._trial, self._own, self._fixed = trial, flatten(base), fixed
        for key, candidates in searched:
            self(key, candidates)

    def value(self, key: str) -> Any:
        """What the trial's configuration will have."""
        return self.values.get(key, self._own[key])

    def __call__(self, key: str, candidates: Candidates | None = None) -> None:
        """Suggest a value of a key, unless it is fixed or has one already.

        A base of 0 has no place on a logarithmic range: what it switches off stays off.

        Args:
            key: Dotted key of the configuration.
            candidates: What may be suggested; None: what stands beside the field (`DEFAULTS`).
        """
        own, candidates = self._own[key], candidates or DEFAULTS[key]
        is_off = isinstance(candidates, Range) and candidates.log and own == 0
        if key not in self._fixed and key not in self.values and not is_off:
            self.values[key] = _suggest(self._trial, key, candidates.including(own))


def _suggest(trial: BaseTrial, key: str, candidates: Candidates) -> Any:
    if isinstance(candidates, Choices):
        with warnings.catch_warnings():  # Optuna doubts lists (`data.mean`); in memory they are as good as numbers
            warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
            return trial.suggest_categorical(key, candidates.values)
    if isinstance(candidates.low, int) and isinstance(candidates.high, int):
        return trial.suggest_int(key, candidates.low, candidates.high, log=candidates.log)
    return trial.suggest_float(key, candidates.low, candidates.high, log=candidates.log)
