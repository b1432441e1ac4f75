"""What a trial trains with: batches, the trainer, and the frozen stages' activations if they are kept.

prepared data + configuration → `TrainingData`, trainer, place with activations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.config.parameters import TrialConfig
from reid_core.data.pixel_source import PixelSource
from reid_core.experiment.prepared import SEEN, Prepared
from reid_core.model.frozen.boundary import build_activations
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.training.batch_plan import Pool, make_plan, make_pool
from reid_core.training.batches import KeptBatch, Source, activation_batches, make_source
from reid_core.training.step.memory import fit_to_memory
from reid_core.training.trainer import Trainer
from reid_core.training.variants import build_variants


@dataclass(frozen=True)
class TrainingData:
    """What the batches of a trial are made of; made once in a process and handed on."""

    pool: Pool
    plan: pa.Table
    source: Source


def training_data_of(config: TrialConfig, prepared: Prepared, *, world_size: int = 1) -> TrainingData:
    """Pool, plan and source of a trial; offline variants are made now, unless they are there.

    Raises:
        UserError: If the batches cannot be drawn (`batch_plan.make_plan`).
    """
    pool = pool_of(config, prepared)
    plan = make_plan(config, pool, world_size=world_size)
    source = make_source(
        config,
        pool,
        image_cache=prepared.image_cache,
        variants=build_variants(Path(prepared.image_cache).parent, prepared.images, pool, config),
        code_N=prepared.codes(),
        sides_N6=prepared.sides_N6,
        name_N=prepared.name_N,
    )
    return TrainingData(pool, plan, source)


def pool_of(config: TrialConfig, prepared: Prepared) -> Pool:
    """Training images of each animal, oversampled; offline with the extra variants (`batch_plan.make_pool`)."""
    rows = prepared.parts.rows("training")
    return make_pool(config.data, prepared.parts.animals(rows), rows, len(prepared.images))


def plan_of(config: TrialConfig, prepared: Prepared, *, world_size: int = 1) -> pa.Table:
    """The batches of a trial on the prepared data (`batch_plan.make_plan`)."""
    return make_plan(config, pool_of(config, prepared), world_size=world_size)


def make_trainer(config: TrialConfig, prepared: Prepared, plan: pa.Table, place: Place) -> Trainer:
    """Model, loss and optimiser of a trial, whose steps fit into the place's memory.

    Raises:
        TooLargeError: If nothing makes them fit.
    """
    steps = len(plan) // (place.world_size * max(1, config.optim.epochs))
    num_identities = len(prepared.classes()[0])
    config = fit_to_memory(config, place, num_identities=num_identities)
    return Trainer(config, make_model(config, num_identities=num_identities), place, steps_per_epoch=steps)


def keep_activations(
    config: TrialConfig, prepared: Prepared, data: TrainingData, model: ReidModel, place: Place
) -> Place:
    """The same place with the frozen stages' activations of every image that the trial looks at, if it keeps them.

    What another trial computed is there already. Offline the training images' variants are among them.
    """
    if not config.model.keep_activations:
        return place
    rows = [np.flatnonzero(np.isin(prepared.parts.part_N, SEEN))]
    if data.source.augment is None:
        rows += data.pool.rows_of.values()
    images = PixelSource.open(data.source.image_cache, data.source.variants)
    folder = Path(prepared.image_cache).parent
    return replace(place, activations=build_activations(folder, images, np.concatenate(rows), model, config, place))


def kept_batches(plan: pa.Table, source: Source, model: ReidModel, place: Place) -> Iterator[KeptBatch] | None:
    """Batches of kept activations; None where training needs pixels: nothing is kept, or each epoch's are new."""
    if place.activations is None or source.augment is not None:
        return None
    return activation_batches(plan, source, model, place)


def rest_of(plan: pa.Table, trainer: Trainer) -> pa.Table:
    """The plan's batches that the trainer has not seen yet."""
    return plan.filter(pa.compute.greater_equal(plan["epoch"], len(trainer.history)))
