"""One trial, from its suggestion to its final report: what is done around its workers' part of it. No torch.

suggestion → work on a slot's desk, again after some failures → final report.
"""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from reid_core.errors import UserError
from reid_core.metrics.epoch_report import SCORE
from sweeps.results.journal import OVER_GB, STEP
from sweeps.results.storage import StorageError
from sweeps.results.timeline import Laps
from sweeps.search.suggestion import EPOCH_ZERO, FAILED, FINAL, UNSCORED, Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.failures import describe_failure, judge
from sweeps.trials.pair_actor import release_pairs
from sweeps.trials.settings import WorkerSettings
from sweeps.trials.slots.desk import AbandonedError, Desk, Report, Task

DONE = "done"  # Ray Tune's key of a trial's last report
FINAL_KEYS = ("metrics", "objective", "history", "checkpoint_path", EPOCH_ZERO, FAILED, UNSCORED, "status", *STEP)
STATUS_OF = {  # by verdict
    "infeasible": "infeasible",
    "too large": "infeasible",
    "failed": "failed",
    "again": "failed",
    "stop": "stopped",
}
UNFORESEEN_GB = 1.0  # by how much a step was too large that ran out of memory: so much at least, for all that is known
MAX_RETRIES = 2  # of a trial whose worker was lost, say: it continues from its last epoch
logger = logging.getLogger(__name__)


async def run_trial(suggestion: Suggestion, context: SweepContext, desk: Desk) -> Report:
    """Run one trial on a slot's workers; the final report of its full evaluation, or of why it cannot succeed.

    Raises:
        AbandonedError: If it is not wanted any more.
    """
    context = replace(context, cache=suggestion.cache or context.cache)
    try:
        final = await train_until_it_ends(suggestion, context, desk)
    except AbandonedError:
        raise
    except StorageError as error:
        final = {FAILED: str(error), "status": STATUS_OF["stop"]}
    except UserError as error:
        final = {FAILED: str(error), "status": STATUS_OF["infeasible"]}
    except Exception as error:
        logger.exception("%s", suggestion.name)
        final = {FAILED: describe_failure(error), "status": STATUS_OF[judge(error)]}
    finally:
        if context.pair_store is not None:
            await asyncio.to_thread(release_pairs, context.pair_store, suggestion.name)
    # Epoch 0 is below every rung: the scheduler has nothing to decide on a final report.
    return {FINAL: True, DONE: True, "epoch": 0, SCORE: float("nan"), **final}


async def train_until_it_ends(suggestion: Suggestion, context: SweepContext, desk: Desk) -> dict[str, Any]:
    """Train; after a failure that may not come again, continue from the last checkpoint, up to `MAX_RETRIES` times.

    After a GPU's memory did not suffice, it is tried once more on new workers, in twice as many parts per step. A
    preempted node counts as no failure: Ray Train itself waits for another, and its workers take the trial again. A
    full disk or a lost storage is no trial's fault: this one is stopped, and the sweep ends (`Limits.reached`).

    Returns:
        What the final report holds; `retries` is how often training failed and was tried again.

    Raises:
        UserError: If it cannot be run; a `StorageError` if the storage is lost.
        AbandonedError: If the trial is not wanted any more.
    """
    halvings = 0
    await asyncio.to_thread(context.check_storage)
    for retries in range(MAX_RETRIES + 2):  # one of them for want of memory
        try:
            laps = Laps()
            settings = await desk.do(Task(ready, (suggestion, context)))
            laps.lap("start", Path(settings.folder))
            last = await desk.work_on(replace(settings, retries=retries, halvings=halvings))
        except (AbandonedError, UserError):
            raise
        except Exception as error:
            verdict, reason = judge(error), describe_failure(error)
            if verdict == "again":
                await asyncio.to_thread(context.check_storage)
                if retries < MAX_RETRIES + halvings:
                    continue
            if verdict == "too large" and not halvings:
                logger.warning("%s: %s; it is tried once more in smaller parts", suggestion.name, reason)
                halvings = 1
                continue
            tried = f" (tried {retries + 1} times)" if retries else ""
            over = {OVER_GB: UNFORESEEN_GB} if verdict == "too large" else {}
            return {FAILED: reason + tried, "status": STATUS_OF[verdict], "retries": retries, **over}
        break
    return {**{key: last[key] for key in FINAL_KEYS if key in last}, "retries": retries}


def ready(suggestion: Suggestion, context: SweepContext) -> WorkerSettings:
    """See `slots.ready.ready_trial`; a worker does it, which has torch in memory and all else that it takes."""
    from sweeps.trials.slots.ready import ready_trial

    return ready_trial(suggestion, context)
