"""From images to scores: what the networks say about the images of a trial, and what the answers are worth.

prepared data + model → outputs, scored pairs → report of an epoch, or the full chain's decision, answers and metrics.
"""

import numpy as np

from reid_core.config.parameters import MatchConfig, TrialConfig
from reid_core.experiment.prepared import SEEN, Prepared
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.matchers import make_matcher
from reid_core.matching.pairs.store import ScorePairs
from reid_core.model.embed import embed
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel
from reid_core.scoring.decision import Outputs
from reid_core.scoring.evaluate import Decided, cosine_report, decide, sample_training
from reid_core.training.trainer import Evaluate
from reid_core.training.validation import classifier_report, mean_cosine, nearest_triplet_loss


def outputs_of(
    config: TrialConfig, prepared: Prepared, model: ReidModel, place: Place, parts: tuple[str, ...] = SEEN
) -> Outputs:
    """What the networks say about the images of some parts."""
    row_R = np.flatnonzero(np.isin(prepared.parts.part_N, parts))
    embedding_ND, logit_NK = embed(model, prepared.images, row_R, place, sides_N6=prepared.sides_N6)
    second_ND = prepared.second_ND(config.fusion.second_model)
    if logit_NK is None:
        return Outputs(embedding_ND, second_ND=second_ND)
    return Outputs(embedding_ND, logit_NK, second_ND, *prepared.classes())


def pair_scorer(
    config: MatchConfig, features: LocalFeatures | None, place: Place, *, gallery: LocalFeatures | None = None
) -> ScorePairs | None:
    """Local match scores of pairs of rows, each rank scoring its share; None without a matcher or features.

    Args:
        config: Of the matcher.
        features: Of the queries, and of the gallery if that is not given.
        place: Where this is computed.
        gallery: Of the gallery images, whose rows then follow behind those of the queries.
    """
    matcher = make_matcher(config, device=place.device)
    if matcher is None or features is None:
        return None
    gallery_features, first = (features, 0) if gallery is None else (gallery, len(features))

    def match(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        return matcher.scores(features, query_P, gallery_features, gallery_P - first)

    def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        share = place.share(np.arange(len(query_P)))
        mine_P = place.share_pairs(query_P[share], gallery_P[share], match)
        score_P = np.full(len(query_P), np.nan, dtype=np.float32)
        score_P[place.gather(share)] = place.gather(mine_P)
        return score_P

    return score


def epoch_evaluation(config: TrialConfig, prepared: Prepared, place: Place) -> Evaluate:
    """What a trial evaluates after each epoch (`report_outputs`)."""
    return lambda model: report_outputs(config, prepared, outputs_of(config, prepared, model, place), place)


def report_outputs(config: TrialConfig, prepared: Prepared, outputs: Outputs, place: Place) -> dict[str, float]:
    """The report of an epoch: by the cosine alone, on `validating` the loss, and `mean_cosine`."""
    parts, code_N = prepared.parts, prepared.codes()
    seen, validating = np.flatnonzero(np.isin(parts.part_N, SEEN)), parts.rows("validating")
    report = cosine_report(config, parts, outputs, device=place.device)
    report |= {"mean_cosine": mean_cosine(outputs.embedding_ND[seen], parts.group_N[seen])}
    if outputs.logit_NK is not None:
        of_training = classifier_report(outputs.logit_NK, code_N, sample_training(parts), "training")
        del of_training["loss_training"]  # "loss" is the mean over the epoch's steps
        return report | classifier_report(outputs.logit_NK, code_N, validating, "validating") | of_training
    loss = nearest_triplet_loss(
        outputs.embedding_ND,
        code_N,
        parts.group_N,
        validating,
        parts.rows("training"),
        margin_cosine=config.loss.margin_cosine,
        device=place.device,
    )
    return report | {"loss_validating": loss}


def evaluate_fully(config: TrialConfig, prepared: Prepared, model: ReidModel, place: Place) -> Decided:
    """The full chain on `thresholdSet`: the objective of a trial, and what was fitted for it."""
    return decide_outputs(config, prepared, outputs_of(config, prepared, model, place), place)


def decide_outputs(config: TrialConfig, prepared: Prepared, outputs: Outputs, place: Place) -> Decided:
    """`evaluate_fully` from the networks' outputs on."""
    score_pairs = pair_scorer(config.match, prepared.local_features, place)
    return decide(config, prepared.parts, outputs, score_pairs, device=place.device)
