"""What all trials of a sweep share: the base configuration, folders, resources, the pair store.

name of a trial → its configuration, its folder, its checkpoints, here or in a storage.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem, LocalFileSystem
from ray.train import Checkpoint

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record
from sweeps.results.mirror import Mirror


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep share; paths that every node sees."""

    base: TrialConfig
    out: str  # result folder, or the working folder of one that is kept in a storage
    cache: str  # of the prepared data
    resources: Resources
    pair_store: Any = None  # handle of its actor; None: every trial scores all its pairs itself
    mirror: Mirror | None = None  # of `out`, or of a folder above it; None: no storage keeps the results
    pool: Any = None  # slots that stay for several runs (`slots.pool`); None: each run of Ray Tune opens its own

    def trial_folder(self, name: str) -> Path:
        """Where a trial keeps its configuration and environment, and without a storage its checkpoints."""
        return Path(self.out) / "trials" / name

    @property
    def filesystem(self) -> FileSystem:
        """Where checkpoints are."""
        return self.mirror.storage.filesystem if self.mirror else LocalFileSystem()

    def checkpoint_folder(self, name: str) -> str:
        """The folder of a trial's checkpoints, on `filesystem`."""
        folder = self.trial_folder(name)
        return self.mirror.at(folder) if self.mirror else str(folder)

    def checkpoint(self, record: Record) -> Checkpoint:
        """The checkpoint of a trial that has ended."""
        return Checkpoint(record.checkpoint, filesystem=self.filesystem)

    def push(self) -> None:
        """Send what changed in `out` to the storage, if there is one. Only the sweep's own command may."""
        if self.mirror:
            self.mirror.push()

    def check_storage(self) -> None:
        """Wait for a storage that is away.

        Raises:
            StorageError: If it stays away.
        """
        if self.mirror:
            self.mirror.storage.check()

    def configure(self, parameters: dict[str, Any]) -> TrialConfig:
        """The configuration of a trial from its searched values."""
        return override(self.base, parameters)
