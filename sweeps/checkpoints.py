"""Checkpoints of one trial: which of them to continue from.

trial folder → the newest checkpoint that is whole → trainer. Ray Train writes a folder per report and remembers them in
a file of its own, which a crash can leave cut off or pointing nowhere, and then no run of that name starts again. The
folders themselves, with their checksums, say all that is needed.
"""

import logging
import shutil
from pathlib import Path

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME as SNAPSHOT

from reid_core.checksums import verify_checksums
from reid_core.config import UserError
from reid_core.train import CHECKPOINT, KEPT_CHECKPOINTS, Trainer, load_newest

logger = logging.getLogger(__name__)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a trial, whole or not, newest first: their names hold the time."""
    return sorted(folder.glob("checkpoint_*/"), reverse=True)


def clear_for_restart(folder: Path) -> None:
    """Before Ray Train runs a trial (again): remove Ray's memory of the last run, and checkpoints that are too old.

    Only whole ones count: a process that is killed twice while it writes leaves two that are none.
    """
    (folder / SNAPSHOT).unlink(missing_ok=True)
    num_whole = 0
    for checkpoint in list_checkpoints(folder):
        if num_whole == KEPT_CHECKPOINTS:
            shutil.rmtree(checkpoint, ignore_errors=True)
        else:
            num_whole += is_whole(checkpoint)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all its files, and they are as they were written."""
    try:
        verify_checksums(checkpoint, CHECKPOINT)
    except UserError:
        return False
    return True


def load_finished(trainer: Trainer, checkpoint: Path) -> None:
    """Load the checkpoint of a trial that has ended, or an older one of the same trial if that is damaged.

    Every checkpoint of a trial since its best epoch holds the best weights; its last two are from the same epoch.

    Raises:
        UserError: If no checkpoint of the trial is whole.
    """
    try:
        trainer.load(checkpoint)
    except UserError as error:
        logger.warning("%s; another checkpoint of the trial is tried", error)
        if not load_newest(trainer, list_checkpoints(checkpoint.parent)):
            raise UserError(f"{checkpoint.parent}: no checkpoint of this trial is whole; {error}") from error
