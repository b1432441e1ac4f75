"""Whether a trial's model, and the published weights that it needs, can be had; nothing large is loaded.

configuration → the model without weights, or why it cannot be had.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.splits.parts import Parts
from reid_core.experiment.prepared import SEEN
from reid_core.experiment.second_model import second_config
from reid_core.matching.extractors import Extractor
from reid_core.matching.lightglue import lightglue_file
from reid_core.model.frozen.activations import refuse_too_many
from reid_core.model.frozen.boundary import check_keepable, find_layout
from reid_core.model.hub import check_weights
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model, outline_model
from reid_core.training.step.memory import fit_to_memory, predict
from sweeps.machines.resources import Resources
from sweeps.stages.checks.data import check_training, pool_of_parts


def check_config(config: TrialConfig, parts: Parts, resources: Resources) -> ReidModel:
    """All that a trial with this configuration could fail at before its first step, but for its weights.

    Returns:
        The model, without weights (on torch's device "meta").

    Raises:
        UserError: If batches cannot be drawn, or the model cannot be made as asked.
    """
    check_training(config, parts, workers=resources.workers)
    return check_model(config, num_identities=_num_identities(parts))


def check_gpu_memory(config: TrialConfig, parts: Parts, resources: Resources) -> None:
    """Find out whether a step of the base fits into the GPU's memory, in whatever many parts; if that is known here.

    On a cluster each worker looks at its own GPU, and a trial that does not fit is recorded as infeasible.

    Raises:
        TooLargeError: If it does not.
    """
    place = Place(world_size=resources.workers, device=resources.device, memory_bytes=resources.gpu_bytes_per_worker)
    fit_to_memory(config, place, num_identities=_num_identities(parts))


def describe_gpu_memory(config: TrialConfig, parts: Parts, resources: Resources) -> str:
    """One line for `--plan`: what tensors of a worker take at the peak of a step, and of how much."""
    there = resources.gpu_bytes_per_worker
    place = Place(world_size=resources.workers, device=resources.device, memory_bytes=there)
    fitted = fit_to_memory(config, place, num_identities=_num_identities(parts))
    memory = predict(
        fitted, num_identities=_num_identities(parts), world_size=resources.workers, device=resources.device
    )
    at_a_time = -(-config.optim.batch_size // resources.workers // (fitted.optim.accumulate or 1))
    again = ", with gradient checkpointing" if fitted.model.checkpointing == "always" else ""
    limit = "" if there is None else f" of {there / 1e9:.1f} GB ({at_a_time} images at a time{again})"
    return f"a step takes {memory.tensors / 1e9:.2f} GB per worker{limit}, as predicted: {memory.describe()}"


def _num_identities(parts: Parts) -> int:
    return len(np.unique(parts.animals(parts.rows("training"))))


def check_model(config: TrialConfig, *, num_identities: int = 0) -> ReidModel:
    """Find out whether a model can be made, and its frozen stages' activations kept if they are to be.

    Args:
        config: Of the trial.
        num_identities: As in `outline_model`.

    Returns:
        The model, without weights (on torch's device "meta").

    Raises:
        UserError: If they cannot.
    """
    if config.model.keep_activations:
        check_keepable(config.model)
    return outline_model(config, num_identities=num_identities)


def check_activations(config: TrialConfig, parts: Parts, folder: Path, *, device: str) -> None:
    """Find out whether the frozen stages' activations can be kept, if they are to be, and have room on the disk.

    Those of other weights that are kept already count as these: which they are is not known without the weights.

    Args:
        config: Of the trials; only the model's weights do not count.
        parts: Of the data.
        folder: The prepared data, with what is kept.
        device: Of the trials' workers, "cuda" or "cpu"; the CPU is asked in its place.

    Raises:
        UserError: If the backbone cannot be cut, or there is no room.
    """
    if not config.model.keep_activations:
        return
    model = make_model(override(config, {"model.weights": "random"}))
    layout = find_layout(model, config, Place(device="cpu", precision="float32"))
    if Place(device=device, precision=config.optim.precision).uses_bfloat16:
        layout = replace(layout, kept="float16")  # or bfloat16, of the same size
    num_extra = len(pool_of_parts(config, parts).source_E) if config.data.variants is not None else 0
    num_images = int(np.isin(parts.part_N, SEEN).sum()) + num_extra
    held_bytes = sum(file.stat().st_size for file in folder.glob(f"activations-{config.data.image_px}-*/*.arrow"))
    num_new = max(0, num_images - held_bytes // layout.row_bytes)
    refuse_too_many(folder, num_images, num_new, row_bytes=layout.row_bytes, limit_gb=config.model.activations_gb)


def check_files(config: TrialConfig) -> None:
    """Find out whether the weights of the backbone and of the matcher can be had.

    Raises:
        UserError: If a file is missing or of another network, or the hub that has it does not answer.
    """
    check_weights(config.model, config.data.image_px)
    if config.match.matcher != "none":
        Extractor.of(config.match)
    if config.match.matcher == "aliked-lightglue":
        lightglue_file(config.match.weights)


def check_second_model(config: TrialConfig) -> None:
    """Find out whether the second model that a configuration names can be had.

    Raises:
        UserError: If it cannot.
    """
    settings = second_config(config)
    if not Path(config.fusion.second_model or "").is_dir():  # of a bundle the files were read and checked
        outline_model(settings)
        check_weights(settings.model, settings.data.image_px)
