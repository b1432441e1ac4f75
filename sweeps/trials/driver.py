"""One trial, from its suggestion to its final report: what is done before and around its workers' part of it.

suggestion → checks, variants, files of the trial → work on a slot's desk, again after some failures → final report.
"""

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune.result import DONE

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten
from reid_core.errors import UserError
from reid_core.experiment.environment import describe_environment
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import training_data_of
from reid_core.files.atomic import replace_file
from reid_core.matching.matchers import SYMMETRIC, score_settings
from reid_core.matching.pairs.store import store_name
from reid_core.model.frozen.boundary import check_keepable
from reid_core.model.reid_model import outline_model
from reid_core.training.trainer import SCORE
from sweeps.machines.resources import Resources
from sweeps.results.journal import OVER_GB, STEP
from sweeps.results.storage import StorageError
from sweeps.search.journal_writer import FAILED, FINAL, UNSCORED
from sweeps.search.suggestion import Suggestion
from sweeps.trials.checkpoints import clear_for_restart, list_checkpoints
from sweeps.trials.context import SweepContext
from sweeps.trials.failures import describe_failure, judge
from sweeps.trials.pair_actor import release_pairs, start_pair_store
from sweeps.trials.settings import WorkerSettings
from sweeps.trials.slots.desk import AbandonedError, Desk, Report

FINAL_KEYS = ("metrics", "objective", "history", "checkpoint_path", FAILED, UNSCORED, "status", *STEP)
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
        settings = await asyncio.to_thread(ready_trial, suggestion, context)
        final = await train_until_it_ends(settings, context, desk)
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


def ready_trial(suggestion: Suggestion, context: SweepContext) -> WorkerSettings:
    """Check a trial, and write what its folder holds beside checkpoints; what its workers get.

    Raises:
        UserError: If it cannot be run.
    """
    config = context.configure(suggestion.parameters)
    check_model(config)
    # Fails now if its batches cannot be made; offline variants are made here once, not by every worker.
    training_data_of(config, load_prepared(Path(context.cache)), world_size=context.resources.workers)
    _describe_trial(context, suggestion.name, config)
    return make_settings(suggestion, config, context)


def make_settings(suggestion: Suggestion, config: TrialConfig, context: SweepContext) -> WorkerSettings:
    """What the trial's workers get."""
    return WorkerSettings(
        config=config,
        name=suggestion.name,
        cache=context.cache,
        filesystem=context.filesystem,
        checkpoint_folder=context.checkpoint_folder(suggestion.name),
        resources=context.resources,
        pair_store=context.pair_store,
        start=suggestion.start,
        only_train=suggestion.only_train,
    )


async def train_until_it_ends(settings: WorkerSettings, context: SweepContext, desk: Desk) -> dict[str, Any]:
    """Train; after a failure that may not come again, continue from the last checkpoint, up to `MAX_RETRIES` times.

    After a GPU's memory did not suffice, it is tried once more on new workers, in twice as many parts per step. A
    preempted node counts as no failure: Ray Train itself waits for another, and its workers take the trial again. A
    full disk or a lost storage is no trial's fault: this one is stopped, and the sweep ends (`Limits.reached`).

    Returns:
        What the final report holds; `retries` is how often training failed and was tried again.

    Raises:
        StorageError: If the storage is lost.
        AbandonedError: If the trial is not wanted any more.
    """
    await asyncio.to_thread(context.check_storage)
    for retries in range(MAX_RETRIES + 2):  # one of them for want of memory
        await asyncio.to_thread(clear_for_restart, settings.filesystem, settings.checkpoint_folder)
        try:
            last = await desk.work_on(replace(settings, retries=retries))
        except AbandonedError:
            raise
        except Exception as error:
            verdict, reason = judge(error), describe_failure(error)
            if verdict == "again":
                await asyncio.to_thread(context.check_storage)
                if retries < MAX_RETRIES + settings.halvings:
                    continue
            if verdict == "too large" and not settings.halvings:
                logger.warning("%s: %s; it is tried once more in smaller parts", settings.name, reason)
                settings = replace(settings, halvings=1)
                continue
            tried = f" (tried {retries + 1} times)" if retries else ""
            over = {OVER_GB: UNFORESEEN_GB} if verdict == "too large" else {}
            return {FAILED: reason + tried, "status": STATUS_OF[verdict], "retries": retries, **over}
        break
    return {**{key: last[key] for key in FINAL_KEYS if key in last}, "retries": retries}


def check_model(config: TrialConfig) -> None:
    """Find out before any worker is started whether the model can be made, and its activations kept if they are to be.

    Raises:
        UserError: If they cannot.
    """
    if config.model.keep_activations:
        check_keepable(config.model)
    outline_model(config)


def open_pair_store(config: TrialConfig, prepared: Prepared, folder: Path, resources: Resources) -> Any:
    """The pair store of a sweep whose trials score on a device, or None where nothing is matched."""
    if config.match.matcher == "none" or prepared.features is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    digest, symmetric = (
        store_name(score_settings(config.match, device=resources.device)),
        config.match.matcher in SYMMETRIC,
    )
    return start_pair_store(folder, digest, symmetric=symmetric, patience_s=resources.patience_s)


def _describe_trial(context: SweepContext, name: str, config: TrialConfig) -> None:
    folder = context.trial_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    described, file = json.dumps(flatten(config), indent=1), folder / "config.json"
    before = file.read_text(encoding="utf-8") if file.exists() else None
    if before not in (None, described):  # of a trial whose record was lost
        for checkpoint in list_checkpoints(context.filesystem, context.checkpoint_folder(name)):
            context.filesystem.delete_dir(checkpoint.path)
    if before != described:
        replace_file(file, described.encode())
    (folder / "environment.json").write_text(
        json.dumps(describe_environment() | {"seed": config.seed}, indent=1), encoding="utf-8"
    )
