"""Epoch 0: what a trial's backbone is worth as it is, without a head and without training.

prepared data + configuration → features of the frozen backbone → the report of an epoch, the full chain's answers, and
what a trained model adds to them. Each is made by the first trial that needs it, and kept in the folder of the caches.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.splits.parts import Parts
from reid_core.data.table.findings import Finding
from reid_core.errors import UserError
from reid_core.experiment.evaluation import decide_outputs, pair_scorer, report_outputs
from reid_core.experiment.kept_embeddings import find_embeddings, keep_embeddings
from reid_core.experiment.made_once import make_once
from reid_core.experiment.prepared import SEEN, UNREADABLE, Prepared
from reid_core.experiment.second_model import BARE, identify_backbone
from reid_core.files.checksums import digest_of, read_sealed, write_sealed
from reid_core.metrics.epoch_report import SCORE
from reid_core.metrics.gain import summarise_gain
from reid_core.metrics.geo_mean import Shares
from reid_core.model.embed import embed
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model
from reid_core.scoring.decision import Answers, Decision, Outputs
from reid_core.scoring.evaluate import Decided, answer_queries, decide, shares_of
from reid_core.training.training_findings import WHERE

MAKER = "1"  # part of every name; raise it when the same settings and photographs give other numbers than before
SharesOfGroup = Mapping[str, Shares]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenAnswers:
    """How the frozen backbone answers, with a decision of its own."""

    decision: Decision
    answers: dict[str, Answers]  # of "thresholdSet" and "testSet"

    def name(self, part: str) -> np.ndarray:
        """Identity or `new_individual` for each query of one of the sets, in the order of its rows."""
        return self.answers[part].name(self.decision.thresholds)

    def shares(self, part: str, truth: Parts) -> SharesOfGroup:
        """Shares right on one of the sets, group by group."""
        return shares_of(self.answers[part], self.decision, truth)


def freeze(config: TrialConfig) -> TrialConfig:
    """The configuration of epoch 0: the backbone on its own, and the trial's settings of matching and decision.

    Where the trial's classifier answers, its frozen backbone has none, and answers by similarity.
    """
    return override(config, BARE | {"model.keep_activations": False})


def report_epoch_zero(config: TrialConfig, prepared: Prepared, place: Place) -> dict[str, float]:
    """What an epoch reports (`evaluation.report_outputs`), of the frozen backbone; on every rank the same.

    Args:
        config: Of the trial.
        prepared: Its data.
        place: Where this is computed, if no trial has done it before.
    """
    frozen = freeze(config)
    depends = [config.threshold.objective, config.loss.margin_cosine]
    file = _file("report", frozen, prepared, depends)
    report: dict[str, float] = _once(
        file, place, lambda: report_outputs(frozen, prepared, frozen_outputs(config, prepared, place), place)
    )
    if config.loss.name != "triplet":  # a classifier's loss is another quantity
        del report["loss_validating"]
    return report


def gain_over_epoch_zero(config: TrialConfig, prepared: Prepared, decided: Decided, place: Place) -> dict[str, float]:
    """What a trained model adds to its frozen backbone on `thresholdSet` (`gain.summarise_gain`).

    Args:
        config: Of the trial.
        prepared: Its data.
        decided: The full chain with the trained model (`evaluation.evaluate_fully`).
        place: As in `report_epoch_zero`.
    """
    mine = shares_of(decided.answers, decided.decision, prepared.parts)
    return summarise_gain(mine, answer_epoch_zero(config, prepared, place), config.threshold.objective)


def answer_epoch_zero(config: TrialConfig, prepared: Prepared, place: Place) -> SharesOfGroup:
    """Shares right on `thresholdSet` of the full chain with the frozen backbone, group by group."""
    frozen = freeze(config)

    def answer() -> dict[str, Any]:
        decided = decide_outputs(frozen, prepared, frozen_outputs(config, prepared, place), place)
        shares = shares_of(decided.answers, decided.decision, prepared.parts)
        return {group: [share_K.tolist() for share_K in of_group] for group, of_group in shares.items()}

    parts = (frozen.match, frozen.fusion, frozen.predict, frozen.threshold)
    depends = [*(asdict(part) for part in parts), prepared.second.get(frozen.fusion.second_model or "")]
    kept = _once(_file("answers", frozen, prepared, depends), place, answer)
    return {group: Shares(*(np.array(share_K, dtype=float) for share_K in both)) for group, both in kept.items()}


def answer_both_sets(config: TrialConfig, prepared: Prepared, truth: Parts, place: Place) -> FrozenAnswers:
    """The full chain with the frozen backbone on `thresholdSet` and `testSet`: part of the one use of `testSet`.

    Args:
        config: The chosen configuration.
        prepared: The data its trials saw.
        truth: From `prepare.read_truth`.
        place: Of the one process that does this.
    """
    frozen, outputs = freeze(config), frozen_outputs(config, prepared, place)
    score_pairs = pair_scorer(frozen.match, prepared.local_features, place)
    decision, answers, _ = decide(frozen, truth, outputs, score_pairs, device=place.device)
    rows = truth.rows("testSet")
    of_test = answer_queries(frozen, decision, truth, outputs, rows, score_pairs, device=place.device)
    return FrozenAnswers(decision, {"thresholdSet": answers, "testSet": of_test})


def find_no_gain(history: Sequence[Mapping[str, Any]], report: Mapping[str, float]) -> tuple[Finding, ...]:
    """A finding if no epoch was better than epoch 0 by what chooses the epoch.

    Args:
        history: Reports of the epochs (`trainer.Trainer.fit`).
        report: Of epoch 0.

    Example:
        >>> print(*find_no_gain([{"epoch": 1, SCORE: 0.5}, {"epoch": 2, SCORE: 0.625}], {SCORE: 0.75}))
        training: fine-tuning added nothing by the cosine alone: the frozen backbone is as good as the best epoch or \
better: GEO_MEAN 0.750 at epoch 0, 0.625 at epoch 2
        >>> find_no_gain([{"epoch": 1, SCORE: 0.5}], {SCORE: 0.25})
        ()
    """
    if not history:
        return ()
    best = max(history, key=lambda each: each[SCORE])
    if not report[SCORE] >= best[SCORE]:
        return ()
    what = (
        "fine-tuning added nothing by the cosine alone: the frozen backbone is as good as the best epoch or better: "
        f"GEO_MEAN {report[SCORE]:.3f} at epoch 0, {best[SCORE]:.3f} at epoch {best['epoch']}"
    )
    return (Finding(WHERE, what, 1),)


def frozen_outputs(config: TrialConfig, prepared: Prepared, place: Place) -> Outputs:
    """Features of the frozen backbone for every readable photograph, rows of length 1."""
    kept = _cache(prepared) / f"frozen-{_digest_features(freeze(config), prepared)}"
    embedding_ND = make_once(kept, place, lambda: _read(kept), lambda: _embed(config, prepared, place, kept))
    return Outputs(embedding_ND, second_ND=prepared.second_ND(config.fusion.second_model))


def _read(kept: Path) -> np.ndarray | None:
    file = find_embeddings(kept)
    return None if file is None else np.load(file, mmap_mode="r", allow_pickle=False)


def _embed(config: TrialConfig, prepared: Prepared, place: Place, kept: Path) -> np.ndarray:
    """All ranks embed, the first one writes."""
    frozen, readable = freeze(config), np.flatnonzero(prepared.parts.part_N != UNREADABLE)
    model = make_model(frozen).to(place.device)
    embedding_ND, _ = embed(model, prepared.images, readable, replace(place, activations=None))
    _write(place, kept, lambda: keep_embeddings(kept, embedding_ND))
    return embedding_ND


def _once(file: Path, place: Place, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """JSON values that all trials share."""

    def read() -> dict[str, Any] | None:
        if not file.exists():
            return None
        try:
            return read_sealed(file)
        except UserError as error:
            logger.warning("%s; epoch 0 is computed again", error)
            file.unlink(missing_ok=True)
            return None

    def make_and_write() -> dict[str, Any]:
        values = make()
        _write(place, file, lambda: write_sealed(file, values))
        return values

    return make_once(file, place, read, make_and_write)


def _write(place: Place, file: Path, write: Callable[[], Any]) -> None:
    """Write on the first rank; a full disk costs the other trials time, and this one nothing."""
    if place.rank:
        return
    try:
        write()
    except UserError as error:
        logger.warning("%s; every trial computes epoch 0 for itself", error)


def _cache(prepared: Prepared) -> Path:
    """Where fresh splits keep their files too."""
    return Path(prepared.image_cache).parent


def _file(what: str, frozen: TrialConfig, prepared: Prepared, depends: list) -> Path:
    """Named after all that its content depends on: features, split, and what else is given."""
    parts = prepared.parts
    seen = np.isin(parts.part_N, SEEN)
    columns = (np.flatnonzero(seen), parts.identity_N[seen], parts.group_N[seen], parts.part_N[seen])
    split = [*(column.tolist() for column in columns), prepared.sides_N6[seen].tolist()]
    digest = digest_of(json.dumps([_digest_features(frozen, prepared), split, depends]))
    return _cache(prepared) / f"epoch0-{what}-{digest}.json"


def _digest_features(frozen: TrialConfig, prepared: Prepared) -> str:
    readable = (prepared.parts.part_N != UNREADABLE).tolist()
    recipe = [MAKER, identify_backbone(frozen), frozen.optim.precision, prepared.images.keys, readable]
    return digest_of(json.dumps(recipe))
