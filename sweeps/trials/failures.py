"""Why a trial failed, and whether another attempt can help. No torch.

exception of a training run → its causes on the workers → one line, and what becomes of the trial.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from reid_core.errors import UserError
from reid_core.files.atomic import FULL_DISK, is_full_disk
from sweeps.machines.waiting import WaitedTooLongError
from sweeps.results.storage import CONTINUES, StorageError

# Another attempt would end in the same way: the configuration cannot be run here, or the program has a fault.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)
LONGEST_REASON = 500  # characters
Verdict = Literal["infeasible", "too large", "failed", "again", "stop"]


def find_causes(error: BaseException) -> list[BaseException]:
    """The workers' own exceptions, or what is known instead of them."""
    found = list(getattr(error, "worker_failures", {}).values()) or [
        getattr(error, "controller_failure", None) or error
    ]
    return [_unwrap(cause) for cause in found]


def describe_failure(error: BaseException) -> str:
    """One line: the last of the first cause."""
    cause = find_causes(error)[0]
    last_line = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
    return last_line[:LONGEST_REASON]


def judge(error: BaseException) -> Verdict:
    """What becomes of a trial whose training ended with this.

    Returns:
        "infeasible" if its configuration is wrong, "too large" if a GPU's memory did not suffice, "failed" if the
        program raised what it would raise again, "again" for all that another attempt may survive: a worker that was
        lost, a broken connection, a file that could not be read. "stop" if the disk is full, or CPUs were not to be
        had: no trial can go on until that is mended.
    """
    causes = find_causes(error)
    if any(is_full_disk(cause) or isinstance(cause, WaitedTooLongError) for cause in causes):
        return "stop"
    if any(_is_gpu_memory(cause) for cause in causes):
        return "too large"
    if any(isinstance(cause, UserError) for cause in causes):
        return "infeasible"
    # Where one rank fails by itself, the others fail with it for want of an answer: any fault decides.
    return "failed" if any(isinstance(cause, FAULTS) for cause in causes) else "again"


@contextmanager
def continue_when_freed() -> Iterator[None]:
    """Explain that the disk of this machine is full, and that the sweep can go on later, whatever failed because of it.

    Raises:
        StorageError: In place of another error that it caused; with its text, if that is for people and says so.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        says_so = isinstance(error, UserError) and any(full in str(error) for full in FULL_DISK)
        message = str(error) if says_so else "no space is left on the device"
        raise StorageError(message if CONTINUES in message else f"{message}; once there is, {CONTINUES}") from error


def find_user_error(error: BaseException | None) -> UserError | None:
    """An error of ours, if an error is one or was caused by one."""
    if error is None or isinstance(error, UserError):
        return error
    return find_user_error(error.__cause__ or error.__context__)


def _unwrap(error: Any) -> BaseException:
    for name in ("_base_exc", "cause", "__cause__"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return inner
    return error


def _is_gpu_memory(cause: BaseException) -> bool:
    """By its text: torch has several types for it. Ray's error of that text is about a node, and others may fill it."""
    return "out of memory" in str(cause).lower() and not type(cause).__module__.startswith("ray")
