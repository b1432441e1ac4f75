"""One configuration from training to bundle: the composition that plain Python and every Ray worker share.

prepared data + configuration → trainer, reports, metrics, and (once, at the end) `testSet` metrics and the bundle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from reid_core.bundle import Bundle, write_bundle
from reid_core.config import TrialConfig
from reid_core.embed import Gather, alone, embed
from reid_core.evaluate import (
    Answers,
    Decision,
    Parts,
    ScorePairs,
    cosine_report,
    decide,
    find_candidates,
    match_candidates,
    shares_of,
    summarise,
)
from reid_core.matching import make_matcher
from reid_core.model import ReidModel, make_model
from reid_core.plan import make_plan
from reid_core.prepare import Prepared, animal_names
from reid_core.train import Evaluate, Trainer


@dataclass(frozen=True)
class Place:
    """Where a process stands among the workers of its trial. The defaults are plain Python's."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    gather: Gather = alone
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model

    def embed(self, config: TrialConfig, model: ReidModel, prepared: Prepared, row_N: np.ndarray) -> np.ndarray:
        """`embed.embed` with this place's share of the work."""
        return embed(
            model,
            prepared.images,
            row_N,
            device=self.device,
            precision=config.optim.precision,
            rank=self.rank,
            world_size=self.world_size,
            gather=self.gather,
        )


def local_place() -> Place:
    """One process with the machine's GPU, if it has one."""
    return Place(device="cuda" if torch.cuda.is_available() else "cpu")


def plan_of(config: TrialConfig, prepared: Prepared, *, world_size: int = 1) -> pa.Table:
    """The batches of a trial on the prepared data (`plan.make_plan`)."""
    rows = prepared.parts.rows("training")
    return make_plan(config, animal_names(prepared.parts)[rows], rows, world_size=world_size)


def make_trainer(config: TrialConfig, plan: pa.Table, place: Place) -> Trainer:
    """Model, loss and optimiser of a trial."""
    steps = len(plan) // (place.world_size * max(1, config.optim.epochs))
    return Trainer(
        config,
        make_model(config),
        steps_per_epoch=steps,
        device=place.device,
        rank=place.rank,
        world_size=place.world_size,
        wrap=place.wrap,
    )


def rest_of(plan: pa.Table, trainer: Trainer) -> pa.Table:
    """The plan's batches that the trainer has not seen yet."""
    return plan.filter(pa.compute.greater_equal(plan["epoch"], len(trainer.history)))


def epoch_evaluation(config: TrialConfig, prepared: Prepared, place: Place) -> Evaluate:
    """What a trial evaluates after each epoch (`evaluate.cosine_report`)."""
    wanted = np.isin(prepared.parts.part_N, ["training", "validating", "thresholdSet"])

    def evaluate(model: ReidModel) -> dict[str, float]:
        embedding_ND = place.embed(config, model, prepared, np.flatnonzero(wanted))
        return cosine_report(prepared.parts, embedding_ND, device=place.device)

    return evaluate


def pair_scorer(config: TrialConfig, prepared: Prepared, place: Place) -> ScorePairs | None:
    """Local match scores of pairs of rows, each rank scoring its share; None without a matcher."""
    matcher = make_matcher(config.match, device=place.device)
    features = prepared.local_features
    if matcher is None or features is None:
        return None

    def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        share = np.arange(place.rank, len(query_P), place.world_size)
        mine_P = matcher.scores(features, query_P[share], features, gallery_P[share])
        score_P = np.full(len(query_P), np.nan, dtype=np.float32)
        score_P[place.gather(share)] = place.gather(mine_P)
        return score_P

    return score


def evaluate_fully(
    config: TrialConfig, prepared: Prepared, model: ReidModel, place: Place
) -> tuple[Decision, dict[str, float]]:
    """The full chain on `thresholdSet`: the objective of a trial, and what was fitted for it."""
    wanted = np.isin(prepared.parts.part_N, ["training", "validating", "thresholdSet"])
    embedding_ND = place.embed(config, model, prepared, np.flatnonzero(wanted))
    scorer = pair_scorer(config, prepared, place)
    return decide(
        prepared.parts, embedding_ND, scorer, match=config.match, threshold=config.threshold, device=place.device
    )


def finish(
    config: TrialConfig, prepared: Prepared, truth: Parts, model: ReidModel, out: Path, place: Place
) -> dict[str, dict[str, float]]:
    """Score `testSet` once and write the bundle (`out/best`) and every single answer (`out/predictions.parquet`).

    Args:
        config: The chosen configuration.
        prepared: The data its trials saw.
        truth: From `prepare.read_truth`: the same parts with the identities of `testSet`.
        model: With the chosen weights.
        out: Result folder.
        place: Of the one process that does this.

    Returns:
        Metrics (`evaluate.summarise`) on `thresholdSet`, which chose the thresholds, and on `testSet`, which did not.
    """
    everything = np.flatnonzero(truth.part_N != "unreadable")
    embedding_ND = place.embed(config, model, prepared, everything)
    scorer = pair_scorer(config, prepared, place)
    decision, threshold_metrics = decide(
        truth, embedding_ND, scorer, match=config.match, threshold=config.threshold, device=place.device
    )
    answers = {
        part: _answer_part(part, config, decision, truth, embedding_ND, scorer, place)
        for part in ("thresholdSet", "testSet")
    }
    tables = [_table_of_answers(part, given, decision, truth, prepared) for part, given in answers.items()]
    pq.write_table(pa.concat_tables(tables), out / "predictions.parquet")
    test_metrics = summarise(shares_of(answers["testSet"], decision, truth))
    metrics = {"thresholdSet": threshold_metrics, "testSet": test_metrics}
    bundle = Bundle(
        config=config,
        model=model,
        decision=decision,
        identity_G=truth.identity_N[everything],
        group_G=truth.group_N[everything],
        embedding_GD=embedding_ND[everything],
        features=prepared.local_features.select(everything) if prepared.local_features else None,
        metrics=metrics,
    )
    write_bundle(out / "best", bundle)
    return metrics


def _answer_part(
    part: str,
    config: TrialConfig,
    decision: Decision,
    truth: Parts,
    embedding_ND: np.ndarray,
    scorer: ScorePairs | None,
    place: Place,
) -> Answers:
    found = find_candidates(
        embedding_ND,
        truth.group_N,
        truth.rows(part),
        truth.rows("training"),
        size=config.match.shortlist,
        device=place.device,
    )
    return decision.answer(match_candidates(found, scorer), truth.identity_N)


def _table_of_answers(part: str, answers: Answers, decision: Decision, truth: Parts, prepared: Prepared) -> pa.Table:
    return pa.table(
        {
            "part": [part] * len(answers.query_Q),
            "image_id": list(prepared.image_id_N[answers.query_Q]),
            "group": list(answers.group_Q),
            "identity": list(truth.identity_N[answers.query_Q]),
            "known": truth.known(answers.query_Q),
            "answer": list(answers.name(decision.thresholds)),
            "candidate": list(answers.identity_Q),
            "probability": answers.score_Q.astype(np.float32),
        }
    )
