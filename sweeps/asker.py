"""What may be tried for a key, and the asking of an Optuna trial. No Ray, no torch.

candidates + base configuration + Optuna trial → one value by dotted key; the base's own value is always among them.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from reid_core.config import TrialConfig, flatten


@dataclass(frozen=True)
class Choices:
    """One of a few values."""

    values: tuple

    def including(self, base: Any) -> "Choices":
        """The same with the base's value, last if it is a new one."""
        return self if base in self.values else Choices((*self.values, base))

    def suggest(self, trial: BaseTrial, key: str) -> Any:
        """The trial's value."""
        with warnings.catch_warnings():  # Optuna doubts lists (`data.mean`); in memory they are as good as numbers
            warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
            return trial.suggest_categorical(key, self.values)

    def __str__(self) -> str:
        return ",".join(value if isinstance(value, str) else json.dumps(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """A number between two others, both included; whole where both are `int`."""

    low: float
    high: float
    log: bool = False

    def including(self, base: float) -> "Range":
        """The same, stretched to hold the base's value; a logarithmic one moves to one decade around it.

        Example:
            >>> Range(0.1, 0.5).including(0.0), Range(1e-6, 1e-4, log=True).including(1e-2)
            (Range(low=0.0, high=0.5, log=False), Range(low=0.001, high=0.1, log=True))
        """
        if self.low <= base <= self.high:
            return self
        return Range(base / 10, base * 10, log=True) if self.log else self.stretched(base)

    def stretched(self, base: float) -> "Range":
        """The same with the base's value as a new end, if it lies outside."""
        return Range(min(self.low, base), max(self.high, base), self.log)

    def suggest(self, trial: BaseTrial, key: str) -> float:
        """The trial's value."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{'log:' if self.log else ''}{self.low!r}..{self.high!r}"


Candidates = Choices | Range
Searched = tuple[tuple[str, Candidates], ...]  # of `--search`: keys, and what may be tried for them

DEFAULTS: dict[str, Candidates] = {
    "data.images_per_identity": Choices((2, 4, 8)),
    "data.oversample_to": Choices((None, 5, 10)),
    "data.undersample_to": Choices((None, 10, 30)),
    "data.variants": Choices((None, 5)),  # online, and the paper's offline augmentation
    "augment.probability": Range(0.0, 0.8),
    "augment.rotation_deg": Range(0.0, 45.0),
    "augment.clahe_clip": Range(1.0, 8.0),
    "augment.blur_px": Choices((3, 5, 7)),
    "augment.brightness": Range(0.0, 0.5),
    "augment.noise_std": Range(0.0, 0.1),
    "augment.erase_fraction": Range(0.0, 0.4),
    "model.unfrozen_stages": Choices((0, 1, 2)),
    "model.head_hidden": Choices((512, 1024, 2048)),
    "model.head_dropout": Range(0.0, 0.5),
    "model.embedding_dim": Choices((256, 512, 1024)),
    "model.drop_path": Range(0.0, 0.3),
    "loss.margin_cosine": Range(0.05, 0.5),
    "loss.label_smoothing": Range(0.0, 0.2),
    "loss.margin_deg": Range(5.0, 45.0),
    "loss.scale": Choices((16.0, 32.0, 64.0)),
    "loss.sub_centers": Choices((2, 3, 5)),
    "optim.batch_size": Choices((16, 32, 64)),
    "optim.lr_head": Range(1e-5, 1e-3, log=True),
    "optim.lr_stages": Range(1e-6, 1e-4, log=True),
    "optim.lr_norm": Range(1e-6, 1e-4, log=True),
    "optim.weight_decay": Range(1e-3, 0.5, log=True),
    "optim.warmup_epochs": Choices((0.0, 1.0, 2.0)),
    "optim.head_only_epochs": Choices((0, 1, 2)),
    "optim.clip_norm": Choices((None, 0.5, 1.0, 5.0)),
    "match.shortlist": Choices((10, 20, 50, 100)),
    "predict.top_images": Choices((2, 3, 5)),
    "predict.votes": Choices((5, 10, 20)),
    "predict.openmax_tail": Choices((10, 20, 40)),
    "predict.openmax_top": Choices((3, 5, 10)),
}


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
            self.values[key] = candidates.including(base).suggest(self.trial, key)
