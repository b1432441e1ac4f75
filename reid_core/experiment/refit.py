"""The refitted model: the chosen configuration trained on every database image, once nothing is left to be measured.

truth → prepared data without query sets → (training elsewhere) → bundle with the evaluated model's decision.
"""

from dataclasses import replace
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from reid_core.config.parameters import PredictConfig
from reid_core.data.splits.parts import Parts
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import Bundle, read_bundle, write_bundle
from reid_core.experiment.evaluation import outputs_of
from reid_core.experiment.prepared import UNREADABLE, Prepared, load_prepared, save_prepared
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel

FOLDER = "refit"  # in the folder of the prepared data


def check_refittable(config: PredictConfig) -> None:
    """Refuse rules whose fit belongs to one classifier.

    Raises:
        UserError: If the classifier itself answers.
    """
    if config.rule != "threshold":
        raise UserError(
            f"--refit needs predict.rule=threshold: with {config.rule} the thresholds are of the classifier's own "
            "outputs, and a refitted classifier has others"
        )


def choose_epochs(histories: list[list[dict[str, Any]]]) -> int:
    """The median best epoch over several trainings of a configuration; the lower one of two middle ones; 0 for none.

    Args:
        histories: Reports per epoch of each training (`trainer.Trainer.fit`).

    Example:
        >>> reports = [[{"epoch": 1, SCORE: 0.3}, {"epoch": 2, SCORE: 0.5}, {"epoch": 3, SCORE: 0.5}], [], []]
        >>> choose_epochs(reports[:1]), choose_epochs(reports)
        (2, 0)
    """
    return median_low(
        [max(history, key=lambda report: report[SCORE])["epoch"] if history else 0 for history in histories]
    )


def prepare_refit(folder: Path, truth: Parts) -> Path:
    """Prepared data in which every readable image plays `training`; caches and features are shared, not copied.

    Args:
        folder: Of `prepare`.
        truth: From `prepare.read_truth`, after `testSet` was scored.

    Returns:
        A folder in `folder` for `load_prepared`.
    """
    prepared = load_prepared(folder)
    part_N = np.where(truth.part_N == UNREADABLE, UNREADABLE, "training").astype(object)
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    save_prepared(replace(prepared, parts=replace(truth, part_N=part_N)), target)
    return target


def export_refit(
    evaluated: Path, out: Path, prepared: Prepared, model: ReidModel, place: Place, *, epochs: int
) -> Bundle:
    """Write a bundle of a refitted model with the evaluated bundle's decision, metrics and gallery images.

    Args:
        evaluated: Bundle of the same configuration on the same images.
        out: Where the new bundle goes.
        prepared: Of `prepare_refit`.
        model: Trained on it.
        place: Of the one process that does this.
        epochs: For how long it was trained.

    Raises:
        UserError: If the evaluated bundle is damaged.
    """
    bundle = read_bundle(evaluated)
    embedding_ND = outputs_of(bundle.config, prepared, model, place, ("training",)).embedding_ND
    identity_K, group_K = prepared.classes() if bundle.class_identity_K is not None else (None, None)
    refitted = replace(
        bundle,
        model=model,
        embedding_GD=embedding_ND[prepared.parts.rows("training")],
        class_identity_K=identity_K,
        class_group_K=group_K,
        findings=prepared.findings,
        refitted_epochs=epochs,
    )
    write_bundle(out, refitted)
    return refitted
