"""The desk of a slot: the one trial at hand, its reports, and whether it is still wanted.

trial → workers; their reports → whoever asks for them, one after the other. Plain asyncio in one event loop, no Ray.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from reid_core.errors import UserError

VERDICT_S = 60.0  # how long workers wait to hear whether a trial goes on: less than an epoch that nobody wants
AGREE_S = 10.0  # how long one rank that gave up waits for the others to give up as well

Report = dict[str, Any]


class AbandonedError(Exception):
    """The trial is not wanted any more."""


class Task(NamedTuple):
    """What one of the workers does alone, once, while the others wait for their next work."""

    function: Callable[..., Any]
    arguments: tuple = ()
    options: Mapping[str, Any] = {}

    def run(self) -> Report:
        """What the function returns or what is wrong, for `result_of`; any other exception passes."""
        try:
            return {"value": self.function(*self.arguments, **self.options)}
        except UserError as error:
            return {"error": error}

    @staticmethod
    def result_of(outcome: Report) -> Any:
        """What the function returned.

        Raises:
            UserError: That the function raised.
        """
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]


class Desk:
    """Holds one trial at a time. Ray Tune's side calls `next` and `abandon`, the workers `take`, `report` and `agree`.

    What workers of an attempt that is over still send does no harm: each attempt has a number. Nor does what is left of
    workers that others have taken the place of: each group of workers has one, too.
    """

    def __init__(self, num_workers: int, *, verdict_s: float = VERDICT_S, agree_s: float = AGREE_S) -> None:
        self.trial = ""  # at hand, or the last one
        self.is_free = True  # whether another trial can begin
        self.is_open = True
        self.is_wanted = False  # whether the trial is; it stays so at its end
        self._num_workers, self._verdict_s, self._agree_s = num_workers, verdict_s, agree_s
        self._reports: list[Report] = []  # of the trial
        self._num_asked = 0  # reports that were asked for: all before the last of them have been judged
        self._number, self._work = 0, None  # the attempt, and what the workers get; None: nothing is to be done
        self._outcome: asyncio.Future[Report] | None = None  # of the attempt
        self._group = 0  # the workers, from the first ones on
        self._taken: tuple[int, Any] = 0, None  # the group's last attempt, and what it got for it; 0: it has had none
        self._num_idle = 0  # workers of the group that wait for work
        self._gave_up: set[int] = set()  # ranks of the group, in its last attempt
        self._changed = asyncio.Condition()

    async def begin(self, trial: str) -> None:
        """A trial comes to the desk, which is free."""
        assert self.is_free, f"{self.trial} is at hand"
        self.trial, self.is_free, self.is_wanted = trial, False, True
        self._reports, self._num_asked = [], 0
        await self._notify()

    async def work_on(self, work: Any) -> Report:
        """Give the workers what they need for the trial, and wait for their last report.

        Raises:
            AbandonedError: If the trial is not wanted any more.
            Exception: What `fail` was called with.
        """
        if not self.is_wanted:
            raise AbandonedError(self.trial)
        self._number, self._work = self._number + 1, work
        self._outcome = asyncio.get_running_loop().create_future()
        self._hand_out()
        await self._notify()
        try:
            return await self._outcome
        finally:
            self._work = None

    async def do(self, task: Task) -> Any:
        """Let one worker do something, as a part of the trial at hand; what its function returns.

        Raises:
            UserError: That the function raised.
            AbandonedError: If the trial is not wanted any more.
            Exception: What `fail` was called with.
        """
        return Task.result_of(await self.work_on(task))

    async def end(self, final: Report | None) -> None:
        """The trial has ended, with a report that comes after those of the workers; None if nobody waits for it."""
        if final is not None:
            self._reports.append(final)
        self.is_free = True
        await self._notify()

    async def new_group(self) -> int:
        """Other workers come, in the place of all before; the number of their group."""
        self._group = group = self._group + 1
        self._taken, self._num_idle = (0, None), 0
        await self._notify()
        return group

    def fail(self, error: Exception) -> bool:
        """The workers are gone, and the attempt failed with them, unless they were still at work on one that is over.

        Returns:
            Whether there is, or was, something to be done.
        """
        if self._work is None or self._outcome is None or self._outcome.done():
            return False
        if self._taken[0] in (0, self._number):
            self._outcome.set_exception(error)
        return True

    async def wait_for_work(self) -> None:
        """Return when there is something to be done, or the desk is closed."""
        await self._wait(lambda: self._work is not None or not self.is_open)

    async def is_idle(self, *, timeout_s: float | None = None) -> bool:
        """Whether all workers wait for work, or will soon."""
        await self._wait(lambda: self._num_idle == self._num_workers, timeout_s=timeout_s)
        return self._num_idle == self._num_workers

    async def close(self) -> None:
        """Send the workers home, and let go of who waits for a report."""
        self.is_open = False
        await self._notify()

    async def next(self, trial: str, position: int) -> Report | None:
        """The trial's report number `position`, from 0. Who asks for it wants the trial to go on after those before.

        Returns:
            None if there will be none because the desk was closed.

        Raises:
            LookupError: If the trial is not at hand, or was abandoned: this desk was lost and is a new one, say.
        """
        if trial == self.trial:
            self._num_asked = max(self._num_asked, position + 1)
            await self._notify()
        await self._wait(lambda: self._is_lost(trial) or not self.is_open or len(self._reports) > position)
        if self._is_lost(trial):
            raise LookupError(f"{trial} is not at hand, but {self.trial or 'nothing'}")
        return self._reports[position] if len(self._reports) > position else None

    def _is_lost(self, trial: str) -> bool:
        return trial != self.trial or not self.is_wanted

    async def abandon(self, trial: str) -> None:
        """The trial is not wanted any more, if it is the one at hand."""
        if trial != self.trial or self.is_free:
            return
        self.is_wanted = False
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(AbandonedError(trial))
        await self._notify()

    async def take(self, group: int, after: int) -> tuple[int, Any]:
        """The next attempt and what it needs; None: there is no more work. Called by every worker.

        It is handed out when all of them wait for it, and so the same to all.

        Args:
            group: Of the worker, from `new_group`.
            after: Attempt that the worker has behind it; 0: none.
        """
        if group != self._group:
            return after, None
        self._num_idle += 1
        self._hand_out()
        await self._notify()
        await self._wait(lambda: not self.is_open or group != self._group or self._taken[0] > after)
        return self._taken if self.is_open and group == self._group else (after, None)

    def _hand_out(self) -> None:
        is_new = self._work is not None and self._number > self._taken[0]
        if is_new and self._num_idle == self._num_workers:
            self._taken, self._num_idle, self._gave_up = (self._number, self._work), 0, set()

    async def report(self, number: int, report: Report, *, is_last: bool = False) -> bool:
        """A report of the workers, in an attempt; whether the trial goes on, which is known when it was judged."""
        if number != self._number or self._outcome is None or self._outcome.done():
            return False
        if is_last:
            self._outcome.set_result(report)
            return True
        self._reports.append(report)
        num_reports = len(self._reports)
        await self._notify()
        await self._wait(
            lambda: not self.is_wanted or self._num_asked > num_reports or not self.is_open, timeout_s=self._verdict_s
        )
        return self.is_wanted and self.is_open and number == self._number

    async def agree(self, number: int, rank: int) -> bool:
        """A worker gives up an attempt with an error that the others should have as well; whether they do.

        It need not be wanted any more. Who waited in vain has not given up: for the others, too, it was not all ranks.
        """
        if number != self._taken[0]:
            return False
        gave_up = self._gave_up
        gave_up.add(rank)
        await self._notify()
        await self._wait(lambda: len(gave_up) == self._num_workers, timeout_s=self._agree_s)
        if len(gave_up) < self._num_workers:
            gave_up.discard(rank)
            return False
        return True

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, is_so: Callable[[], bool], *, timeout_s: float | None = None) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(is_so), timeout_s)
            except TimeoutError:
                return
