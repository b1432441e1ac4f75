"""A trial that is to be run: searcher → `Suggestion` → driver → reports. No Ray, no torch."""

from dataclasses import asdict, dataclass
from typing import Any

# Keys of reports
FINAL = "final"  # marks the driver's last one
UNSCORED = "unscored"  # in the last one of a trial that only trains
FAILED = "failed"  # the reason, in the last one of a trial that failed or was stopped
EPOCH_ZERO = "epoch_zero"  # report of the frozen backbone, in every one of a trial that is scored
REPEATED = "repeated"  # marks an epoch that a resumed trial trained in an earlier session


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What a trial is run with."""

    name: str  # of the trial
    parameters: dict[str, Any]  # by dotted key; they go on top of the sweep's base
    cache: str | None = None  # folder of the prepared data; None: the sweep's
    start: str = ""  # checkpoint of another trial whose best weights it begins with
    only_train: int | None = None  # epochs of the schedule, after which nothing is measured: there is no query set

    def to_tune(self) -> dict[str, Any]:
        """As the configuration of a Ray Tune trial, which must be a dictionary."""
        return asdict(self)

    @classmethod
    def from_tune(cls, config: dict[str, Any]) -> "Suggestion":
        """What `to_tune` made."""
        return cls(**config)
