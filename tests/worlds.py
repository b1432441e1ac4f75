"""Hand-made worlds: embeddings whose cosines are known, with the parts that their images play."""

from dataclasses import replace

import numpy as np

from reid_core.config.parameters import LossConfig, MatchConfig, TrialConfig
from reid_core.data.splits.parts import Parts
from reid_core.matching.pairs.store import ScorePairs
from reid_core.scoring.decision import Answers, Decision, Outputs
from reid_core.scoring.evaluate import answer_queries, decide
from reid_core.scoring.ranking import Ranking

# A loss with a classifier, so that every rule is allowed.
CONFIG = TrialConfig(match=MatchConfig(matcher="none", shortlist=4), loss=LossConfig(name="cross_entropy"))


def decide_simply(parts: Parts, embedding_ND: np.ndarray, score_pairs: ScorePairs | None = None, **changes):
    """Decision and metrics without a classifier or a second model; parts of the configuration may be replaced."""
    decided = decide(replace(CONFIG, **changes), parts, Outputs(embedding_ND), score_pairs)
    return decided.decision, decided.metrics


def answers_of(decision: Decision, parts: Parts, outputs: Outputs, part: str, score_pairs=None) -> Answers:
    """Answers of one part, as the final step and the exported model give them."""
    config = replace(CONFIG, predict=decision.predict)
    return answer_queries(config, decision, parts, outputs, parts.rows(part), score_pairs)


def plain_answers(parts: Parts, part: str, identity: list[str], score: list[float]) -> Answers:
    """Answers that were not taken from anything."""
    query_Q, identity_Q, score_Q = parts.rows(part), np.array(identity, dtype=object), np.array(score)
    return Answers(query_Q, parts.group_N[query_Q], identity_Q, score_Q, Ranking(identity_Q[:, None], score_Q[:, None]))


def embedding(axis: int, cosine: float, spare: int) -> np.ndarray:
    """A unit vector at `cosine` to an animal's axis; the rest points where no animal is."""
    vector_D = np.zeros(24, dtype=np.float32)
    vector_D[axis], vector_D[12 + spare] = cosine, np.sqrt(1 - cosine**2)
    return vector_D


def make_world(rows: list[tuple]) -> tuple[Parts, np.ndarray]:
    """(group, identity, part, axis, cosine) per image → parts and embeddings."""
    group, identity, part, axis, cosine = zip(*rows, strict=True)
    embedding_ND = np.stack([embedding(a, c, row % 12) for row, (a, c) in enumerate(zip(axis, cosine, strict=True))])
    return Parts(*(np.array(column, dtype=object) for column in (identity, group, part))), embedding_ND


def two_groups() -> tuple[Parts, np.ndarray]:
    """Cows are named perfectly; of the two queries of pig `bo` one looks like pig `ada`. New animals are at 0.5."""
    rows = []
    for group, first_axis in (("cow", 0), ("pig", 6)):
        for k, name in enumerate(("ada", "bo", "cy")):  # the same names in both groups are other animals
            axis = first_axis + k
            rows += [(group, name, "training", axis, 1.0)] * 2
            rows += [(group, name, "validating", axis, 0.95)] * 2
            mistaken = group == "pig" and name == "bo"
            rows += [(group, name, part, axis - mistaken, 0.9) for part in ("thresholdSet", "testSet")]
            rows += [(group, name, part, axis, 0.9) for part in ("thresholdSet", "testSet")]
        rows += [(group, f"new {part}", part, first_axis, 0.5) for part in ("thresholdSet", "testSet")]
    return make_world(rows)


def cosine_times_ten(embedding_ND: np.ndarray, seen: list[tuple[int, int]] | None = None):
    """A matcher whose score is a function of the pair; notes which pairs it was asked for."""

    def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        if seen is not None:
            seen.extend(zip(query_P.tolist(), gallery_P.tolist(), strict=True))
        return 10 * np.sum(embedding_ND[query_P] * embedding_ND[gallery_P], axis=1)

    return score


def random_world(seed: int, num_images: int = 300) -> tuple[Parts, np.ndarray]:
    """Three groups of twelve animals with noisy embeddings; every animal may be in every part."""
    rng = np.random.default_rng(seed)
    animal_N, group_N = rng.integers(0, 12, num_images), rng.integers(0, 3, num_images)
    part_N = rng.choice(["training", "validating", "thresholdSet", "testSet"], num_images, p=[0.5, 0.2, 0.2, 0.1])
    part_N[(part_N == "training") & (animal_N < 3)] = "thresholdSet"  # three animals per group are new
    centre_GKD = rng.normal(size=(3, 12, 24))
    embedding_ND = centre_GKD[group_N, animal_N] + 1.2 * rng.normal(size=(num_images, 24))
    embedding_ND /= np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    identity_N = np.array([f"animal {k}" for k in animal_N], dtype=object)
    group_N = np.array(["cow", "dog", "pig"], dtype=object)[group_N]
    return Parts(identity_N, group_N, part_N.astype(object)), embedding_ND.astype(np.float32)
