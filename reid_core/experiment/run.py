"""One configuration from training to bundle: the composition that plain Python and every Ray worker share.

prepared data + configuration → trainer, reports, metrics, and (once, at the end) `testSet` metrics and the bundle.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.config.parameters import TrialConfig
from reid_core.data.pixel_source import PixelSource
from reid_core.data.splits.parts import Parts
from reid_core.experiment.prepared import Prepared
from reid_core.matching.matchers import make_matcher
from reid_core.matching.pairs.store import ScorePairs
from reid_core.model.embed import embed
from reid_core.model.frozen.boundary import build_activations
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.scoring.decision import Decision, Outputs
from reid_core.scoring.evaluate import cosine_report, decide, sample_training
from reid_core.training.batch_plan import Pool, make_plan, make_pool
from reid_core.training.batches import KeptBatch, Source, activation_batches, make_source
from reid_core.training.trainer import Evaluate, Trainer
from reid_core.training.validation import classifier_report, nearest_triplet_loss
from reid_core.training.variants import build_variants

SEEN = ("training", "validating", "thresholdSet")  # parts that a trial may look at


def pool_of(config: TrialConfig, prepared: Prepared) -> Pool:
    """Training images of each animal, oversampled; offline with the extra variants (`batch_plan.make_pool`)."""
    rows = prepared.parts.rows("training")
    return make_pool(config.data, prepared.parts.animals(rows), rows, len(prepared.images))


def plan_of(config: TrialConfig, prepared: Prepared, *, world_size: int = 1) -> pa.Table:
    """The batches of a trial on the prepared data (`batch_plan.make_plan`)."""
    rows, num_images = prepared.parts.rows("training"), len(prepared.images)
    return make_plan(config, prepared.parts.animals(rows), rows, world_size=world_size, num_images=num_images)


def source_of(config: TrialConfig, prepared: Prepared) -> Source:
    """Where the batches of a trial come from; offline variants are made now, unless they are there."""
    pool, folder = pool_of(config, prepared), Path(prepared.image_cache).parent
    return make_source(
        config,
        pool,
        image_cache=prepared.image_cache,
        variants=build_variants(folder, prepared.images, pool, config),
        code_N=prepared.codes(),
        sides_N6=prepared.sides_N6,
    )


def make_trainer(config: TrialConfig, prepared: Prepared, plan: pa.Table, place: Place) -> Trainer:
    """Model, loss and optimiser of a trial."""
    steps = len(plan) // (place.world_size * max(1, config.optim.epochs))
    model = make_model(config, num_identities=len(prepared.classes()[0]))
    return Trainer(config, model, place, steps_per_epoch=steps)


def keep_activations(config: TrialConfig, prepared: Prepared, trainer: Trainer, place: Place) -> Place:
    """The same place with the frozen stages' activations of every image that the trial looks at, if it keeps them.

    What another trial computed is there already. Offline the training images' variants are among them.
    """
    if not config.model.keep_activations:
        return place
    source = source_of(config, prepared)
    rows = [np.flatnonzero(np.isin(prepared.parts.part_N, SEEN))]
    if source.augment is None:
        rows += pool_of(config, prepared).rows_of.values()
    kept = build_activations(
        Path(prepared.image_cache).parent,
        PixelSource.open(source.image_cache, source.variants),
        np.concatenate(rows),
        trainer.model,
        config,
        place,
    )
    return replace(place, activations=kept)


def kept_batches(plan: pa.Table, source: Source, model: ReidModel, place: Place) -> Iterator[KeptBatch] | None:
    """Batches of kept activations; None where training needs pixels: nothing is kept, or each epoch's are new."""
    if place.activations is None or source.augment is not None:
        return None
    return activation_batches(plan, source, model, place)


def rest_of(plan: pa.Table, trainer: Trainer) -> pa.Table:
    """The plan's batches that the trainer has not seen yet."""
    return plan.filter(pa.compute.greater_equal(plan["epoch"], len(trainer.history)))


def outputs_of(
    config: TrialConfig, prepared: Prepared, model: ReidModel, place: Place, parts: tuple[str, ...] = SEEN
) -> Outputs:
    """What the networks say about the images of some parts."""
    row_N = np.flatnonzero(np.isin(prepared.parts.part_N, parts))
    embedding_ND, logit_NK = embed(model, prepared.images, row_N, place, sides_N6=prepared.sides_N6)
    second_ND = prepared.second_ND(config.fusion.second_model)
    if logit_NK is None:
        return Outputs(embedding_ND, second_ND=second_ND)
    return Outputs(embedding_ND, logit_NK, second_ND, *prepared.classes())


def epoch_evaluation(config: TrialConfig, prepared: Prepared, place: Place) -> Evaluate:
    """What a trial evaluates after each epoch: by the cosine alone, and on `validating` the loss."""
    parts, code_N = prepared.parts, prepared.codes()
    training, validating = parts.rows("training"), parts.rows("validating")

    def evaluate(model: ReidModel) -> dict[str, float]:
        outputs = outputs_of(config, prepared, model, place)
        worst = config.threshold.objective == "worst_group"
        report = cosine_report(parts, outputs, of_worst_group=worst, device=place.device)
        if outputs.logit_NK is not None:
            sample = sample_training(parts)
            of_training = classifier_report(outputs.logit_NK, code_N, sample, "training")
            del of_training["loss_training"]  # "loss" is the mean over the epoch's steps
            return report | classifier_report(outputs.logit_NK, code_N, validating, "validating") | of_training
        loss = nearest_triplet_loss(
            outputs.embedding_ND,
            code_N,
            parts.group_N,
            validating,
            training,
            margin_cosine=config.loss.margin_cosine,
            device=place.device,
        )
        return report | {"loss_validating": loss}

    return evaluate


def pair_scorer(config: TrialConfig, prepared: Prepared, place: Place) -> ScorePairs | None:
    """Local match scores of pairs of rows, each rank scoring its share; None without a matcher."""
    matcher = make_matcher(config.match, device=place.device)
    features = prepared.local_features
    if matcher is None or features is None:
        return None

    def match(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        return matcher.scores(features, query_P, features, gallery_P)

    def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        share = place.share(np.arange(len(query_P)))
        mine_P = place.share_pairs(query_P[share], gallery_P[share], match)
        score_P = np.full(len(query_P), np.nan, dtype=np.float32)
        score_P[place.gather(share)] = place.gather(mine_P)
        return score_P

    return score


def decide_trial(
    config: TrialConfig, parts: Parts, outputs: Outputs, scorer: ScorePairs | None, place: Place
) -> tuple[Decision, dict[str, float]]:
    """`evaluate.decide` with a trial's configuration."""
    return decide(
        parts,
        outputs,
        scorer,
        match=config.match,
        fusion=config.fusion,
        predict=config.predict,
        threshold=config.threshold,
        device=place.device,
    )


def evaluate_fully(
    config: TrialConfig, prepared: Prepared, model: ReidModel, place: Place
) -> tuple[Decision, dict[str, float]]:
    """The full chain on `thresholdSet`: the objective of a trial, and what was fitted for it."""
    outputs, scorer = outputs_of(config, prepared, model, place), pair_scorer(config, prepared, place)
    return decide_trial(config, prepared.parts, outputs, scorer, place)
