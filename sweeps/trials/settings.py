"""What a trial's driver sends to its workers."""

from dataclasses import dataclass
from typing import Any

from pyarrow.fs import FileSystem

from reid_core.config.parameters import TrialConfig
from sweeps.machines.resources import Resources


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What each worker of a trial gets; Ray pickles it."""

    config: TrialConfig
    name: str  # of the trial
    cache: str  # folder of the prepared data
    filesystem: FileSystem  # where the checkpoints are
    checkpoint_folder: str  # on `filesystem`
    folder: str  # of what else the trial keeps; every node sees it
    resources: Resources  # of the trial
    pair_store: Any = None  # handle of its actor; None: every pair is scored here
    start: str = ""  # checkpoint of another trial whose best weights this one begins with
    only_train: int | None = None  # train for so many epochs of the schedule and measure nothing
    halvings: int = 0  # how often it ran out of a GPU's memory: each time a step is divided into twice as many parts
    retries: int = 0  # how often training failed before; in every report, because a pruned trial makes no final one
