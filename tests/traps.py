"""Workers that fall into a trap: at a given place of a given trial their process is killed, or an exception is raised.

The traps travel with the resources of the trials, which each worker unpickles.
"""

import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from sweeps.machines.resources import Resources


def die(*arguments: Any) -> None:
    """As by the kernel when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def break_gpu(*arguments: Any) -> None:
    """What torch raises when a kernel has failed: this process can use its GPU no more."""
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def always(*arguments: Any) -> bool:
    """At the first call."""
    return True


def in_second_epoch(trainer: Any, *arguments: Any) -> bool:
    """After one checkpoint."""
    return len(trainer.history) == 1


def of_best_weights(source: str, *arguments: Any) -> bool:
    """When another file of the checkpoint has been written."""
    return source.endswith("best.safetensors")


class Trap(NamedTuple):
    """What happens before a function is called."""

    module: str
    function: str
    when: Callable[..., bool]
    what: Callable[..., None]


TRAPS = {  # by the name of the trial that falls into it
    "first-batch": Trap("sweeps.trials.worker", "stream_batches", always, die),
    "epoch": Trap("reid_core.training.trainer", "Trainer._train_step", in_second_epoch, die),
    "checkpoint": Trap("sweeps.trials.checkpoints", "copy_files", of_best_weights, die),
    "evaluation": Trap("sweeps.trials.worker", "evaluate_fully", always, die),
    "broken-gpu": Trap("reid_core.training.trainer", "Trainer._train_step", in_second_epoch, break_gpu),
}
_at_hand = [""]  # the trial of this worker


@dataclass(frozen=True, kw_only=True)
class Trapped(Resources):
    """Resources of trials that fall into `TRAPS`, each once."""

    folder: str  # where the process that fell into a trap leaves its id, under the trap's name

    def __reduce__(self) -> tuple:
        return _unpickle, (asdict(self),)


def _unpickle(values: dict[str, Any]) -> Trapped:
    is_worker = psutil.Process().cmdline()[0].startswith("ray::RayTrainWorker")
    if is_worker and not _at_hand[0]:
        _at_hand[0] = "none yet"
        wrap("sweeps.trials.worker", "train_trial", lambda settings, *more: _at_hand.__setitem__(0, settings.name))
        for name, trap in TRAPS.items():
            wrap(trap.module, trap.function, _trigger(name, trap, Path(values["folder"])))
    return Trapped(**values)


def _trigger(name: str, trap: Trap, folder: Path) -> Callable[..., None]:
    def trigger(*arguments: Any) -> None:
        if _at_hand[0] == name and not (folder / name).exists() and trap.when(*arguments):
            (folder / name).write_text(str(os.getpid()))
            trap.what()

    return trigger


def wrap(module: str, path: str, before: Callable[..., None]) -> None:
    """Let something happen before each call of a function, or method, of a module."""
    *names, last = path.split(".")
    owner: Any = importlib.import_module(module)
    for name in names:
        owner = getattr(owner, name)
    function = getattr(owner, last)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        before(*arguments)
        return function(*arguments, **options)

    setattr(owner, last, wrapped)
