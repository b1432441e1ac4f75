"""Nothing waits without a word: what is waited for and what is free, said after a minute; an end after a given time.

signs of progress + what the cluster is asked for and has free → lines in the log, `WaitedTooLongError` in the end.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import ray
from ray._private.worker import global_worker
from ray.autoscaler.v2.sdk import get_cluster_resource_state

from sweeps.machines.resources import DRIVER_SLOT
from sweeps.results.storage import CONTINUES, StorageError

QUIET_S = 60.0  # without progress, before the first line; the next come after twice the time each
LOOK_S = 5.0  # between two looks at the cluster
POLL_S = 1.0
SHOWN = ("CPU", "GPU", DRIVER_SLOT, "memory")  # of the resources that are asked for
Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class WaitedTooLongError(StorageError):
    """What is needed was not to be had for as long as `--give-up-after` allows."""


class Seen(NamedTuple):
    """A look at the cluster: what tasks, actors and groups of workers ask for and have not got, and what is free."""

    asked: tuple[str, ...]
    free: str


@dataclass
class Watch:
    """Watches over one thing that is waited for. `check` is called again and again, `progressed` when something moved.

    A trial that computes for hours is no reason to give up: the time counts only while something is asked for, nothing
    moves, and what is free stays the same.
    """

    what: Callable[[], str]  # what is waited for, in words
    patience_s: float | None = None  # None: for ever
    always: bool = False  # whether time counts though nothing is asked for: where every wait is one for others
    look: Callable[[], Seen] = field(default_factory=lambda: look_at_ray)
    clock: Callable[[], float] = time.monotonic
    gave_up: WaitedTooLongError | None = None  # the error, once it was raised

    def __post_init__(self) -> None:
        """Begin now."""
        self._seen: Seen | None = None
        self.progressed()

    def __deepcopy__(self, memo: dict) -> "Watch":
        """Itself: Ray Tune copies what it calls back."""
        return self

    def __reduce__(self) -> tuple:
        """Another process, or another session, has nothing to watch."""
        return _nothing_to_watch, ()

    def progressed(self) -> None:
        """Something moved: the time counts anew."""
        self._moved_s = self._stuck_s = self._looked_s = self.clock()
        self._next_line_s = QUIET_S

    def check(self) -> None:
        """Log what is waited for, if a line is due.

        Raises:
            WaitedTooLongError: If it has been waited for too long.
        """
        now_s = self.clock()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s, before = now_s, self._seen
        self._seen = seen = self._try_to_look()
        if not self.always and (not seen.asked or seen != before):
            self._stuck_s = now_s
        if now_s - self._moved_s >= self._next_line_s:
            self._next_line_s *= 2
            logger.warning("%s", self._describe(seen, now_s - self._moved_s))
        if self.patience_s is not None and now_s - self._stuck_s >= self.patience_s:
            waited = self._describe(seen, now_s - self._stuck_s)
            self.gave_up = WaitedTooLongError(
                f"--give-up-after: {waited}; {CONTINUES} where there are more CPUs or GPUs, or with lower "
                "--concurrent, --workers or --data-cpus"
            )
            raise self.gave_up

    def _try_to_look(self) -> Seen:
        try:
            return self.look()
        except Exception as error:  # a cluster that cannot be asked gives any
            return Seen((), f"unknown, the cluster does not answer ({error})")

    def _describe(self, seen: Seen, seconds: float) -> str:
        asked = f"not to be had: {', '.join(seen.asked)}" if seen.asked else "nothing asks for a CPU or GPU in vain"
        return f"waiting for {seconds:.0f} s: {self.what()}; {asked}; free: {seen.free}"


def _nothing_to_watch() -> Watch:
    return Watch(what=str)


def look_at_ray() -> Seen:
    """What waits for resources in this cluster, whoever asked, and what is free."""
    state = get_cluster_resource_state(global_worker.gcs_client)  # type: ignore[attr-defined]
    single = [(each.count, [each.request]) for each in state.pending_resource_requests]
    groups = [(1, list(each.requests)) for each in state.pending_gang_resource_requests]
    asked = sorted(
        f"{count} × {' + '.join(format_amounts(request.resources_bundle) for request in requests)}"
        for count, requests in single + groups
    )
    return Seen(tuple(asked), format_amounts({"CPU": 0.0, "GPU": 0.0} | ray.available_resources()))


def format_amounts(amounts: Any) -> str:
    """Resources in words.

    Example:
        >>> format_amounts({"GPU": 0.5, "CPU": 1.0, "node:127.0.0.1": 1.0})
        '1 CPU, 0.5 GPU'
    """
    shown = [f"{amounts[name]:g} {name}" for name in SHOWN if name in amounts and name != "memory"]
    shown += [f"{amounts[name] / 1e9:.1f} GB of memory" for name in SHOWN if name == "memory" and name in amounts]
    return ", ".join(shown) or "what no node has"


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Check a watch from another thread, as long as this one waits for something that it does not poll itself.

    If it gives up, `watch.gave_up` has the error: whoever is waited for looks there.
    """
    ended = threading.Event()

    def check() -> None:
        while not ended.wait(POLL_S):
            try:
                watch.check()
            except WaitedTooLongError:
                return

    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=LOOK_S)


def wait_for(ref: Any, what: str, *, patience_s: float | None) -> Any:
    """`ray.get` of one task, with a word while it waits.

    Raises:
        WaitedTooLongError: If it finds no place for too long; the task is cancelled.
    """
    watch = Watch(what=lambda: what, patience_s=patience_s)
    while not ray.wait([ref], timeout=POLL_S)[0]:
        try:
            watch.check()
        except WaitedTooLongError:
            ray.cancel(ref)
            raise
    return ray.get(ref)


def watched(items: Iterator[Item], watch: Watch) -> Iterator[Item]:
    """The same items, each waited for in another thread, so that this one can check the watch meanwhile.

    Nothing is fetched ahead.

    Raises:
        WaitedTooLongError: If one does not come for too long.
    """
    asked: SimpleQueue[bool] = SimpleQueue()
    given: SimpleQueue[tuple[list[Item], BaseException | None]] = SimpleQueue()

    def fetch() -> None:
        while asked.get():
            try:
                given.put(([next(items)], None))
            except StopIteration:
                given.put(([], None))
            except BaseException as error:
                given.put(([], error))
        getattr(items, "close", lambda: None)()

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            asked.put(True)
            item, error = _receive(given, watch)
            if error is not None:
                raise error
            if not item:
                return
            watch.progressed()
            yield item[0]
            watch.progressed()  # what the consumer took is not waited for
    finally:
        asked.put(False)
        thread.join(timeout=LOOK_S)  # what hangs may never end


def _receive(given: SimpleQueue, watch: Watch) -> Any:
    while True:
        try:
            return given.get(timeout=POLL_S)
        except Empty:
            watch.check()
