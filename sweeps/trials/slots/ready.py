"""What a worker does once for all ranks, before a trial begins: offline variants, the files of its folder.

suggestion, what the trials share → `WorkerSettings`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten
from reid_core.experiment.environment import describe_environment
from reid_core.experiment.prepared import load_prepared
from reid_core.experiment.training_setup import training_data_of
from reid_core.files.atomic import replace_file
from sweeps.search.suggestion import Suggestion
from sweeps.trials.checkpoints import clear_for_restart, list_checkpoints
from sweeps.trials.context import SweepContext
from sweeps.trials.settings import WorkerSettings


def ready_trial(suggestion: Suggestion, context: SweepContext) -> WorkerSettings:
    """Make its offline variants, and write what its folder holds beside checkpoints; what its workers get.

    Whether the model and the batches can be made every worker finds out by making them.

    Raises:
        UserError: If the configuration is none, or the variants cannot be made.
    """
    config = context.configure(suggestion.parameters)
    if config.data.variants is not None:
        training_data_of(config, load_prepared(Path(context.cache)), world_size=context.resources.workers)
    _describe_trial(context, suggestion.name, config)
    settings = make_settings(suggestion, config, context)
    clear_for_restart(settings.filesystem, settings.checkpoint_folder)
    return settings


def make_settings(suggestion: Suggestion, config: TrialConfig, context: SweepContext) -> WorkerSettings:
    """What the trial's workers get."""
    return WorkerSettings(
        config=config,
        name=suggestion.name,
        cache=context.cache,
        filesystem=context.filesystem,
        checkpoint_folder=context.checkpoint_folder(suggestion.name),
        folder=str(context.trial_folder(suggestion.name)),
        resources=context.resources,
        pair_store=context.pair_store,
        start=suggestion.start,
        only_train=suggestion.only_train,
    )


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
        json.dumps(_environment() | {"seed": config.seed}, indent=1), encoding="utf-8"
    )


@cache  # of a process: it asks git, and every package
def _environment() -> dict[str, Any]:
    return describe_environment()
