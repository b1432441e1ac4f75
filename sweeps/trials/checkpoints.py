"""Checkpoints of one trial: how they are kept, and which of them to continue from.

trial folder → the newest checkpoint that is whole → trainer → the next checkpoint. Ray Train would remember them in a
file of its own, which a crash can leave cut off or pointing nowhere, and knows one folder for all trials of a slot. The
folders themselves, with their checksums, say all that is needed. They lie on any file system of `pyarrow.fs`.
"""

import logging
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, copy_files
from ray.train import Checkpoint

from reid_core.errors import UserError
from reid_core.files.checksums import CHECKSUMS, verify_checksums
from reid_core.training.trainer import CHECKPOINT, KEPT_CHECKPOINTS, Trainer, load_newest
from sweeps.results.storage import OBJECT_STORES

UNFINISHED = ".part"  # how the name of a checkpoint ends while it is written
logger = logging.getLogger(__name__)


def list_checkpoints(filesystem: FileSystem, folder: str) -> list[Checkpoint]:
    """Checkpoints of a trial, damaged ones too, newest first: their names hold the time."""
    paths = [each.path for each in _list_folders(filesystem, folder) if not each.base_name.endswith(UNFINISHED)]
    return [Checkpoint(path, filesystem=filesystem) for path in sorted(paths, reverse=True)]


class CheckpointWriter:
    """Writes a trial's checkpoints; the last `KEPT_CHECKPOINTS` stay."""

    def __init__(self, filesystem: FileSystem, folder: str) -> None:
        """Take over the checkpoints that are there (`clear_for_restart`)."""
        self._filesystem, self._folder = filesystem, folder
        self._kept = [checkpoint.path for checkpoint in reversed(list_checkpoints(filesystem, folder))]

    def save(self, trainer: Trainer) -> str:
        """Write a checkpoint; its path on the file system."""
        name = f"checkpoint_{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
        with tempfile.TemporaryDirectory() as made:
            trainer.save(Path(made))
            path = upload(self._filesystem, self._folder, Checkpoint.from_directory(made), name).path
        self._kept.append(path)
        while len(self._kept) > KEPT_CHECKPOINTS:
            _delete(self._filesystem, self._kept.pop(0))
        return path


def upload(filesystem: FileSystem, folder: str, checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Copy a checkpoint into the folder of its trial.

    It is written under another name and renamed. An object store renames no folders: there each file appears when it is
    whole, and the checksums, which make it a checkpoint, come last.

    Args:
        filesystem: Where it shall be.
        folder: Of the trial.
        checkpoint: Files of this machine.
        name: Of the folder it gets.
    """
    path = f"{folder}/{name}"
    written = path if filesystem.type_name in OBJECT_STORES else path + UNFINISHED
    filesystem.create_dir(written)
    for file in (*CHECKPOINT, CHECKSUMS):
        copy_files(
            posixpath.join(checkpoint.path, file),
            f"{written}/{file}",
            source_filesystem=checkpoint.filesystem,
            destination_filesystem=filesystem,
        )
    if written != path:
        filesystem.move(written, path)
    return Checkpoint(path, filesystem=filesystem)


def clear_for_restart(filesystem: FileSystem, folder: str) -> None:
    """Before a trial runs (again): remove checkpoints of no use.

    Only whole ones count: a process that is killed twice while it writes leaves two that are not.
    """
    useless = [each.path for each in _list_folders(filesystem, folder) if each.base_name.endswith(UNFINISHED)]
    num_whole = 0
    for checkpoint in list_checkpoints(filesystem, folder):
        if num_whole == KEPT_CHECKPOINTS:
            useless.append(checkpoint.path)
        else:
            num_whole += is_whole(checkpoint)
    for path in useless:
        _delete(filesystem, path)


@contextmanager
def fetch(checkpoint: Checkpoint) -> Iterator[Path]:
    """A checkpoint as a folder of this machine, as long as it is needed.

    Raises:
        UserError: If it is missing.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(checkpoint.as_directory())
        except FileNotFoundError as error:
            raise UserError(f"{checkpoint.path}: this checkpoint is missing") from error
        yield Path(folder)


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has all its files, and they are as they were written."""
    try:
        with fetch(checkpoint) as folder:
            verify_checksums(folder, CHECKPOINT)
    except UserError:
        return False
    return True


def continue_newest(trainer: Trainer, checkpoints: Iterable[Checkpoint]) -> bool:
    """`trainer.load_newest` wherever the checkpoints are: those after the first whole one are not fetched."""
    for checkpoint in checkpoints:
        try:
            with fetch(checkpoint) as folder:
                if load_newest(trainer, [folder]):
                    return True
        except UserError as error:
            logger.warning("%s; another checkpoint of the trial is tried", error)
    return False


def load_finished(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Load the checkpoint of a trial that has ended, or an older one of the same trial if that is damaged.

    Every checkpoint of a trial since its best epoch holds the best weights; its last two are from the same epoch.

    Raises:
        UserError: If no checkpoint of the trial is whole.
    """
    trial = posixpath.dirname(checkpoint.path)
    others = [each for each in list_checkpoints(checkpoint.filesystem, trial) if each.path != checkpoint.path]
    if not continue_newest(trainer, [checkpoint, *others]):
        raise UserError(f"{trial}: no checkpoint of this trial is whole")


def _delete(filesystem: FileSystem, path: str) -> None:
    with suppress(OSError):  # what cannot be deleted only takes room
        filesystem.delete_dir(path)


def _list_folders(filesystem: FileSystem, folder: str) -> list[FileInfo]:
    """Folders of checkpoints, unfinished ones too."""
    infos = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    return [each for each in infos if each.type == FileType.Directory and each.base_name.startswith("checkpoint_")]
