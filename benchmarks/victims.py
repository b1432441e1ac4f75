"""A sweep in its own processes, and which of them can be killed; for kills.py and its test.

command → `Session`; kind of victim → process ids that were killed. Never a process that the session did not start.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from sweeps.trials.pair_actor import PairActor
from sweeps.trials.slots.slot import Slot

TITLES = {  # beginnings of the names that Ray gives its processes
    "worker": "ray::RayTrainWorker",
    "data": "ray::MapBatches",
    "store": f"ray::{PairActor.__name__}",
    "trial driver": "ray::ResourceTrainable",  # what Ray Tune makes of `TrialOnSlot`
    "controller": "ray::TrainController",
    "slot": f"ray::{Slot.__name__}",
}
CHECKPOINT_FILES = 4  # weights, best weights, state, checksums
POLL_S = 0.001  # a half-written checkpoint lasts some milliseconds
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a command whose cluster is dead waits for it, else for a minute
}


class Session:
    """One run of a sweep's command, and all processes that it has had."""

    def __init__(self, command: list[str], folder: Path, log: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment | ENVIRONMENT,
                start_new_session=True,
            )
        self._driver = psutil.Process(self.process.pid)
        self._known: dict[int, psutil.Process] = {self._driver.pid: self._driver}

    def is_over(self) -> bool:
        """Whether the command has ended."""
        return self.process.poll() is not None

    def processes(self) -> list[psutil.Process]:
        """All that run now: the command and what it has started."""
        with suppress(psutil.NoSuchProcess):  # what it has left behind is known from before
            self._known |= {child.pid: child for child in self._driver.children(recursive=True)}
        return [process for process in self._known.values() if _is_alive(process)]

    def named(self, kind: str) -> list[psutil.Process]:
        """Its processes of a kind, by their titles."""
        return [process for process in self.processes() if _is_named(process, kind)]

    def cluster(self) -> list[psutil.Process]:
        """The servers of its local Ray: raylet and gcs."""
        return [each for each in self.processes() if _command(each).split(" ")[0].endswith(("/raylet", "/gcs_server"))]

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def wait(self, deadline_s: float) -> int | None:
        """Exit status; None if it has not ended by then."""
        try:
            return self.process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Kill what is left of it."""
        for process in self.processes():
            _send(process, signal.SIGKILL)
        self.process.wait()


def kill(session: Session, kind: str, out: Path, *, is_late: Callable[[], bool]) -> bool:
    """Kill a victim of a kind as soon as there is one.

    Args:
        session: Whose.
        kind: "everything", "command", "cluster", "interrupt", "checkpoint", or a key of `TITLES`.
        out: Result folder of the sweep.
        is_late: No longer to wait for a victim.

    Returns:
        Whether there was one.
    """
    if kind == "checkpoint":
        return _kill_writers(session, out, is_late)
    while not session.is_over() and not is_late():
        running = session.processes()  # so that all it has started is known, whoever dies
        if kind == "interrupt":
            os.killpg(session.process.pid, signal.SIGINT)
            return True
        if kind in TITLES:
            if any(_stop_and_kill([each], lambda each=each: _is_named(each, kind)) for each in session.named(kind)[:1]):
                return True
        elif victims := {"everything": running, "command": running[:1], "cluster": session.cluster()}[kind]:
            for process in victims:
                _send(process, signal.SIGKILL)
            return True
        time.sleep(POLL_S)
    return False


def shared_memory() -> set[str]:
    """Segments of shared memory and semaphores of this machine that no process holds."""
    there = {str(path) for path in Path("/dev/shm").iterdir() if path.is_file()}
    return there - {path for process in psutil.process_iter() for path in _held_files(process)} if there else there


def _held_files(process: psutil.Process) -> set[str]:
    try:
        opened = {file.path for file in process.open_files()}
        return opened | {each.path for each in process.memory_maps() if each.path.startswith("/dev/shm/")}
    except (psutil.Error, OSError):
        return set()


def half_written(out: Path) -> set[Path]:
    """Checkpoint folders of trials that lack some of their files."""
    folders = (out / "trials").glob("trial-*/checkpoint_*/")
    return {folder for folder in folders if sum(1 for _ in folder.iterdir()) < CHECKPOINT_FILES}


def _kill_writers(session: Session, out: Path, is_late: Callable[[], bool]) -> bool:
    """Kill all Train workers (it is one of them that writes) while a new checkpoint is not complete."""
    before, workers, looked_s = half_written(out), session.named("worker"), time.monotonic()
    while not session.is_over() and not is_late():
        if time.monotonic() > looked_s + 1:
            workers, looked_s = session.named("worker"), time.monotonic()
        if half_written(out) - before and _stop_and_kill(workers, lambda: bool(half_written(out) - before)):
            return True
        time.sleep(POLL_S)
    return False


def _stop_and_kill(processes: list[psutil.Process], is_right: Callable[[], bool]) -> bool:
    """Stop them, look whether it is still the moment, and kill them or let them go on."""
    for process in processes:
        _send(process, signal.SIGSTOP)
    hit = bool(processes) and is_right()
    for process in processes:
        _send(process, signal.SIGKILL if hit else signal.SIGCONT)
    return hit


def _send(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)  # psutil looks first whether the id is still this process's


def _is_named(process: psutil.Process, kind: str) -> bool:
    return _command(process).startswith(TITLES[kind])


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
