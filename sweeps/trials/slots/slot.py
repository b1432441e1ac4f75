"""A slot: one Ray Train run whose workers serve trial after trial, and the desk at which they get them.

resources → workers, started once, and again after some failures; trials → their reports.
"""

import asyncio
import logging
import math
import os
import secrets
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

from reid_core.metrics.epoch_report import SCORE
from sweeps.machines.resources import Resources
from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.driver import run_trial
from sweeps.trials.slots.desk import AbandonedError, Desk, Report, Task

CLOSE_S = 15.0  # for idle workers to go home
TIDY_S = 2.0  # for workers to leave a trial that has ended
FAILURES = FailureConfig(
    max_failures=0,  # whether another attempt can help is decided by `failures.judge`
    max_preemption_failures=-1,  # type: ignore[call-arg]  # for ever: a preempted node is no failure
    controller_failure_limit=3,  # type: ignore[call-arg]  # Ray's default is to retry for ever
)
logger = logging.getLogger(__name__)


class Slot:
    """Runs one trial at a time on workers that stay; lives in one process, as a Ray actor.

    What is lost with the process comes back with it: Ray starts it again, Ray Tune the trial, from its last checkpoint.
    """

    def __repr__(self) -> str:
        """What Ray's dashboard shows of this actor."""
        return self._name

    def __init__(self, number: int, resources: Resources, folder: str) -> None:
        """Nothing is started yet.

        Args:
            number: Of the slot.
            resources: Of a trial.
            folder: For what Ray Train writes; every node sees it.
        """
        self._name, self._resources, self._folder = f"slot-{number}", resources, folder
        self._desk = Desk(resources.workers)
        self._workers: asyncio.Task | None = None
        self._trial: asyncio.Task | None = None
        self._claim = ""  # of who has begun the trial, or taken it over

    async def start_workers(self) -> None:
        """Start the workers, unless they have been started."""
        if self._workers is None:
            name_cluster()
            self._workers = asyncio.create_task(self._keep_workers())

    async def begin(self, trial: str, claim: str, suggestion: Suggestion, context: SweepContext) -> bool:
        """Begin a trial, or go on with it if it is at hand; False if another one is.

        Args:
            trial: What tells it from all others, those of other stages and groups too.
            claim: Of who asks: only the last one to have begun a trial can abandon it.
            suggestion: What it is run with.
            context: What the trials share.
        """
        await self.start_workers()
        if self._desk.trial != trial or not self._desk.is_wanted:
            if not self._desk.is_free:
                return False
            await self._desk.begin(trial)
            self._trial = asyncio.create_task(self._run_trial(suggestion, context))
        self._claim = claim
        return True

    async def is_idle(self) -> bool:
        """Return when all workers wait for work."""
        await self.start_workers()
        return await self._desk.is_idle()

    async def do(self, what: str, task: Task) -> Report:
        """Let one worker do something while there is no trial; what `Task.run` returns.

        Args:
            what: It is, in words.
            task: What is done.

        Raises:
            Exception: If the workers were lost meanwhile.
        """
        await self.clear()
        await self.start_workers()
        await self._desk.begin(what)
        try:
            return await self._desk.work_on(task)
        finally:
            await self._desk.end(None)

    async def at_hand(self) -> str:
        """The trial at hand, or the last one."""
        return self._desk.trial

    async def abandon(self, claim: str) -> None:
        """Let go of the trial that was begun with this claim; when this returns, another one can begin."""
        if claim == self._claim:
            await self.clear()

    async def clear(self) -> None:
        """Let go of whatever is at hand."""
        if self._trial is not None:
            await self._desk.abandon(self._desk.trial)
            await self._trial

    async def close(self) -> None:
        """Send the workers home; those that are in the middle of an epoch are not waited for."""
        is_idle = self._desk.is_free and await self._desk.is_idle(timeout_s=TIDY_S)
        await self._desk.close()
        if self._workers is not None and is_idle:
            await asyncio.wait([self._workers], timeout=CLOSE_S)

    async def next(self, trial: str, position: int) -> Report:
        """See `Desk.next`; when the sweep ends before there is one, a report that says nothing."""
        return await self._desk.next(trial, position) or {"epoch": 0, SCORE: math.nan}

    async def new_group(self) -> int:
        """See `Desk.new_group`."""
        return await self._desk.new_group()

    async def take(self, group: int, after: int) -> tuple[int, Any]:
        """See `Desk.take`."""
        return await self._desk.take(group, after)

    async def report(self, number: int, report: Report, *, is_last: bool = False) -> bool:
        """See `Desk.report`."""
        return await self._desk.report(number, report, is_last=is_last)

    async def agree(self, number: int, rank: int) -> bool:
        """See `Desk.agree`."""
        return await self._desk.agree(number, rank)

    async def _run_trial(self, suggestion: Suggestion, context: SweepContext) -> None:
        final = None
        try:
            final = await run_trial(suggestion, context, self._desk)
        except AbandonedError:
            pass
        finally:
            await self._desk.end(final)

    async def _keep_workers(self) -> None:
        """Start the workers whenever there are none; after a failure without work, when there is some."""
        handle = ray.get_runtime_context().current_actor
        while self._desk.is_open:
            await self._desk.new_group()  # whatever these end of, it has nothing to do with those before
            try:
                trainer = make_torch_trainer(handle, self._name, self._resources, self._folder)
                await asyncio.to_thread(trainer.fit)
            except Exception as error:
                logger.warning("%s: its workers have ended: %s", self._name, error)
                if not self._desk.fail(error):
                    await self._desk.wait_for_work()


def name_cluster() -> None:
    """Give the processes of this slot the address of their Ray.

    The one that frees what lost workers held looks for a Ray on its machine; where two run, it ends with an error,
    and the next workers would wait for ever for what is never freed.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def serve_slot(slot: Any) -> None:
    """See `worker.serve`: only workers import what it needs, this process and Ray Train's controller do not."""
    from sweeps.trials.worker import serve

    serve(slot)


def make_torch_trainer(slot: Any, name: str, resources: Resources, folder: str) -> TorchTrainer:
    """A Ray Train run of a slot's workers. Its name is new: Ray Train would continue one that it knows."""
    gpus = resources.gpus_per_worker
    return TorchTrainer(
        partial(serve_slot, slot),  # `train_loop_config` would have to be a dictionary
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(name=f"{name}-{secrets.token_hex(4)}", storage_path=folder, failure_config=FAILURES),
    )
