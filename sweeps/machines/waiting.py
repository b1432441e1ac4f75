"""Nothing waits without a word: what is waited for and what is free, said after a minute; an end after a given time.

signs of progress + looks at the cluster (`looking.Seen`) → lines in the log, `WaitedTooLongError` in the end.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import ray

from sweeps.machines.looking import Seen, look_at_ray
from sweeps.results.storage import CONTINUES, StorageError

QUIET_S = 60.0  # without progress, before the first line; the next come after twice the time each
LOOK_S = 5.0  # between two looks at the cluster, which cost it something; there is none while all goes well
POLL_S = 1.0
Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class WaitedTooLongError(StorageError):
    """What is needed was not to be had for as long as `--give-up-after` allows."""


@dataclass
class Watch:
    """Watches over one thing that is waited for. `check` is called again and again, `progressed` when something moved.

    A trial that computes for hours is no reason to give up: the time counts only while this sweep asks for something,
    always the same, and nothing of it computes. What is free does not matter: a neighbour's tasks come and go.
    """

    what: Callable[[], str]  # what is waited for, in words
    patience_s: float | None = None  # None: for ever
    always: bool = False  # whether time counts though nothing is asked for: where every wait is one for others
    look: Callable[[], Seen] = look_at_ray
    clock: Callable[[], float] = time.monotonic
    gave_up: WaitedTooLongError | None = None  # the error, once it was raised

    def __post_init__(self) -> None:
        """Begin now."""
        self._asked: tuple[str, ...] = ()
        self.progressed()

    def __deepcopy__(self, memo: dict) -> "Watch":
        """Itself: Ray Tune copies what it calls back."""
        return self

    def __reduce__(self) -> tuple:
        """Another process, or another session, has nothing to watch."""
        return _nothing_to_watch, ()

    def progressed(self) -> None:
        """Something moved: the time counts anew."""
        self._moved_s = self._stuck_s = self.clock()
        self._next_line_s = QUIET_S
        # Two looks before the first line, and before the end where that comes sooner.
        self._next_look_s = self._moved_s + max(LOOK_S, min(QUIET_S, self.patience_s or QUIET_S) - 2 * LOOK_S)

    def check(self) -> None:
        """Log what is waited for, if a line is due.

        Raises:
            WaitedTooLongError: If it has been waited for too long.
        """
        now_s = self.clock()
        if now_s < self._next_look_s:
            return
        self._next_look_s, asked_before = now_s + LOOK_S, self._asked
        seen = self._try_to_look()
        self._asked = seen.asked
        if not self.always and (not seen.asked or seen.is_at_work or seen.asked != asked_before):
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
            return Seen((), False, f"unknown, the cluster does not answer ({error})")

    def _describe(self, seen: Seen, seconds: float) -> str:
        asked = f"not to be had: {', '.join(seen.asked)}" if seen.asked else "nothing asks for a CPU or GPU in vain"
        return f"waiting for {seconds:.0f} s: {self._try_to_say()}; {asked}; free: {seen.free}"

    def _try_to_say(self) -> str:
        try:
            return self.what()
        except Exception as error:  # a record that is damaged, a disk that does not answer: no reason to be silent
            return f"what for is unknown ({error})"


def _nothing_to_watch() -> Watch:
    return Watch(what=str)


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
            except Exception:  # from then on everything would wait without a word
                logger.exception("a check of what is waited for failed; the next may not")

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
