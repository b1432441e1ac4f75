"""The chain from embeddings to metrics on hand-made worlds, and who may learn from whom."""

import dataclasses

import numpy as np
import pytest

from reid_core.calibration import POOLED, Calibrator
from reid_core.config import MatchConfig, ThresholdConfig
from reid_core.evaluate import (
    Answers,
    Candidates,
    Parts,
    answer,
    calibrate,
    choose_thresholds,
    cosine_report,
    decide,
    find_candidates,
    fuse,
    match_candidates,
    shares_of,
    summarise,
    top_identities,
)
from reid_core.metrics import NEW

MATCH = MatchConfig(matcher="none", shortlist=4)
THRESHOLD = ThresholdConfig()


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


def test_candidates_are_the_most_similar_training_images_of_the_own_group():
    parts, embedding_ND = random_world(0)
    queries = parts.rows("thresholdSet")
    found = find_candidates(embedding_ND, parts.group_N, queries, parts.rows("training"), size=6)
    for query, gallery_B, cosine_B in zip(queries, found.gallery_QB, found.cosine_QB, strict=True):
        own = np.flatnonzero((parts.part_N == "training") & (parts.group_N == parts.group_N[query]))
        cosine_G = embedding_ND[own] @ embedding_ND[query]
        assert gallery_B.tolist() == own[np.argsort(-cosine_G)[:6]].tolist()
        np.testing.assert_allclose(cosine_B, np.sort(cosine_G)[::-1][:6], atol=1e-6)


def test_groups_never_mix_even_where_the_other_group_is_nearer():
    parts, embedding_ND = make_world(
        [
            ("cow", "ada", "training", 0, 1.0),
            ("pig", "bo", "training", 1, 1.0),
            ("cow", "ada", "testSet", 1, 0.99),
            ("yak", "cy", "testSet", 0, 0.99),  # a group without gallery
        ]
    )
    found = find_candidates(embedding_ND, parts.group_N, np.array([2, 3]), np.array([0, 1]), size=2)
    assert found.gallery_QB.tolist() == [[0, -1], [-1, -1]]
    assert found.cosine_QB[0, 0] == 0


def test_each_shortlisted_pair_is_scored_once_and_in_its_place():
    parts, embedding_ND = random_world(1)
    queries, seen = parts.rows("validating"), []
    found = find_candidates(embedding_ND, parts.group_N, queries, parts.rows("training"), size=70)
    assert (found.gallery_QB < 0).any()  # some groups have fewer than 70 training images
    matched = match_candidates(found, cosine_times_ten(embedding_ND, seen))
    assert len(seen) == len(set(seen)) == np.sum(found.gallery_QB >= 0)
    np.testing.assert_allclose(matched.match_QB, 10 * found.cosine_QB, rtol=1e-5, atol=1e-5)
    assert np.isnan(found.match_QB).all()  # the caller's object is not changed


def test_fusion_is_the_mean_of_the_matchers_that_scored():
    nan = np.nan
    candidates = Candidates(
        np.array([0]),
        np.array(["cow"], dtype=object),
        np.array([[1, 2, 3, -1]]),
        np.array([[0.2, 0.4, nan, nan]]),
        np.array([[8, nan, 5, nan]]),
    )
    calibrators = {"cosine": {POOLED: Calibrator((0, 1), (0, 1))}, "match": {POOLED: Calibrator((0, 10), (0, 1))}}
    np.testing.assert_allclose(fuse(candidates, calibrators), [[0.5, 0.4, 0.5, nan]], rtol=1e-6)
    np.testing.assert_allclose(fuse(candidates, {"cosine": calibrators["cosine"]}), [[0.2, 0.4, nan, nan]], rtol=1e-6)


def test_padding_is_no_candidate_even_if_nothing_can_be_calibrated():
    """With one class only the calibrator is a constant; a slot without gallery image must not get it."""
    candidates = Candidates(
        np.array([0]),
        np.array(["cow"], dtype=object),
        np.array([[-1, -1]]),
        np.full((1, 2), np.nan),
        np.full((1, 2), np.nan),
    )
    probability_QB = fuse(candidates, {"cosine": {POOLED: Calibrator((0.0,), (0.9,))}})
    answers = answer(candidates, probability_QB, np.array(["ada"], dtype=object))
    assert answers.identity_Q.tolist() == [NEW]
    assert answers.score_Q.tolist() == [0]


def test_calibrators_see_shortlisted_pairs_only():
    parts, embedding_ND = two_groups()
    found = find_candidates(
        embedding_ND, parts.group_N, parts.rows("validating"), parts.rows("training"), size=50
    )  # six gallery images per group: 44 slots are empty
    assert calibrate(found, parts.identity_N)["cosine"][POOLED].predict(np.array([0.0, 0.95])).tolist() == [0, 1]
    assert set(calibrate(found, parts.identity_N)) == {"cosine"}
    matched = match_candidates(found, cosine_times_ten(embedding_ND))
    assert calibrate(matched, parts.identity_N)["match"][POOLED].predict(np.array([0.0, 9.5])).tolist() == [0, 1]


@pytest.mark.parametrize("with_matcher", [False, True])
def test_decide_on_a_world_with_known_answer(with_matcher):
    parts, embedding_ND = two_groups()
    scorer = cosine_times_ten(embedding_ND) if with_matcher else None
    decision, metrics = decide(parts, embedding_ND, scorer, match=MATCH, threshold=THRESHOLD)
    assert set(decision.calibrators) == ({"cosine", "match"} if with_matcher else {"cosine"})
    # Calibrated linearly from 0 → 0 to 0.95 → 1: known queries at 0.9/0.95, new ones at 0.5/0.95.
    assert decision.thresholds["cow"] == pytest.approx((0.9 + 0.5) / 0.95 / 2, abs=1e-5)
    assert [metrics[f"{name}.cow"] for name in ("baks", "baus", "geo_mean")] == [1, 1, 1]
    assert metrics["baks.pig"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert metrics["baus.pig"] == 1
    assert metrics["mean_of_groups"] == pytest.approx((1 + np.sqrt(5 / 6)) / 2)
    assert metrics["pooled"] == pytest.approx(np.sqrt((1 + 1 + 1 + 1 + 1 / 2 + 1) / 6))
    assert {key for key in metrics if key.startswith("threshold.")} == {"threshold.cow", "threshold.pig"}


def test_the_decision_gives_the_same_metrics_when_applied_again():
    parts, embedding_ND = random_world(2)
    scorer = cosine_times_ten(embedding_ND)
    decision, metrics = decide(parts, embedding_ND, scorer, match=MATCH, threshold=THRESHOLD)
    found = find_candidates(embedding_ND, parts.group_N, parts.rows("thresholdSet"), parts.rows("training"), size=4)
    answers = decision.answer(match_candidates(found, scorer), parts.identity_N)
    again = summarise(shares_of(answers, decision, parts))
    assert 0.2 < again["mean_of_groups"] < 1
    assert metrics == again | {f"threshold.{group}": value for group, value in decision.thresholds.items()}


def test_a_pair_that_was_not_scored_falls_back_to_cosine():
    parts, embedding_ND = two_groups()
    cosine_only, _ = decide(parts, embedding_ND, None, match=MATCH, threshold=THRESHOLD)
    unscored = set(parts.rows("thresholdSet").tolist())

    def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        always = cosine_times_ten(embedding_ND)(query_P, gallery_P)
        return np.where([query in unscored for query in query_P], np.nan, always)

    decision, metrics = decide(parts, embedding_ND, score, match=MATCH, threshold=THRESHOLD)
    assert "match" in decision.calibrators
    assert decision.thresholds == cosine_only.thresholds
    assert metrics["geo_mean.cow"] == 1


def test_a_matcher_that_scores_nothing_changes_nothing():
    parts, embedding_ND = random_world(3)
    without = decide(parts, embedding_ND, None, match=MATCH, threshold=THRESHOLD)
    nothing = decide(parts, embedding_ND, lambda q, g: np.full(len(q), np.nan), match=MATCH, threshold=THRESHOLD)
    assert nothing == without


def with_shuffled_truth(parts: Parts, part: str) -> Parts:
    identity_N, rows = parts.identity_N.copy(), parts.rows(part)
    identity_N[rows] = np.random.default_rng(0).permutation(identity_N[rows])
    return dataclasses.replace(parts, identity_N=identity_N)


def test_calibrators_learn_from_validating_only_and_thresholds_from_threshold_set_only():
    parts, embedding_ND = random_world(4)
    scorer = cosine_times_ten(embedding_ND)

    def decided(shuffled: str | None):
        changed = with_shuffled_truth(parts, shuffled) if shuffled else parts
        return decide(changed, embedding_ND, scorer, match=MATCH, threshold=THRESHOLD)[0]

    assert decided("thresholdSet").calibrators == decided(None).calibrators
    assert decided("thresholdSet").thresholds != decided(None).thresholds
    assert decided("validating").calibrators != decided(None).calibrators
    assert decided("testSet") == decided(None)


def test_test_set_is_not_read():
    parts, embedding_ND = random_world(5)
    locked, blind_ND = parts.identity_N.copy(), embedding_ND.copy()
    locked[parts.rows("testSet")], blind_ND[parts.rows("testSet")] = None, np.nan
    sealed = dataclasses.replace(parts, identity_N=locked)
    scorer = cosine_times_ten(embedding_ND)
    assert decide(sealed, blind_ND, scorer, match=MATCH, threshold=THRESHOLD) == decide(
        parts, embedding_ND, scorer, match=MATCH, threshold=THRESHOLD
    )
    assert cosine_report(sealed, blind_ND) == cosine_report(parts, embedding_ND)


def test_known_is_told_per_group():
    parts, _ = make_world(
        [("cow", "ada", "training", 0, 1.0), ("pig", "ada", "testSet", 1, 1.0), ("cow", "ada", "testSet", 0, 0.9)]
    )
    assert parts.known(np.array([1, 2])).tolist() == [False, True]


def test_every_group_has_a_threshold_even_without_queries_to_choose_it_by():
    rows = [("cow", "ada", "training", 0, 1.0), ("cow", "ada", "validating", 0, 0.95)]
    rows += [("cow", "bo", "training", 1, 1.0), ("cow", "ada", "thresholdSet", 0, 0.9)]
    rows += [("cow", "zoe", "thresholdSet", 0, 0.5)]
    rows += [("pig", "cy", "training", 6, 1.0), ("pig", "cy", "thresholdSet", 6, 0.9)]  # no new pig
    rows += [("yak", "di", "training", 9, 1.0), ("yak", "di", "testSet", 9, 0.9)]  # no yak in thresholdSet at all
    parts, embedding_ND = make_world(rows)
    decision, metrics = decide(parts, embedding_ND, None, match=MATCH, threshold=THRESHOLD)
    assert decision.thresholds["cow"] == pytest.approx((0.9 + 0.5) / 0.95 / 2, abs=1e-5)
    assert decision.thresholds["pig"] == decision.thresholds["yak"] == pytest.approx(decision.thresholds["cow"])
    assert np.isnan(metrics["geo_mean.pig"])
    assert metrics["mean_of_groups"] == metrics["geo_mean.cow"] == 1
    found = find_candidates(embedding_ND, parts.group_N, parts.rows("testSet"), parts.rows("training"), size=2)
    answers = decision.answer(found, parts.identity_N)
    assert answers.name(decision.thresholds).tolist() == ["di"]


def test_threshold_is_the_middle_of_the_range_where_nothing_is_defined():
    answers = Answers(np.array([0]), np.array(["cow"], dtype=object), np.array(["ada"], dtype=object), np.array([0.7]))
    chosen = choose_thresholds(
        answers,
        np.array(["ada"], dtype=object),
        np.array([True]),
        groups=answers.group_Q,
        smallest=0.1,
        largest=0.5,
    )
    assert chosen["cow"].value == pytest.approx(0.3)
    assert np.isnan(chosen["cow"].geo_mean)


def test_cosine_report_by_hand():
    rows = [("cow", "ada", "training", 0, 1.0), ("cow", "bo", "training", 1, 1.0)]
    rows += [("cow", "ada", "validating", 0, 0.9), ("cow", "bo", "validating", 0, 0.3)]  # 1 of 2 right
    rows += [("cow", "ada", "thresholdSet", 0, 0.9), ("cow", "bo", "thresholdSet", 1, 0.2)]
    rows += [("cow", "yan", "thresholdSet", 0, 0.5), ("cow", "zoe", "thresholdSet", 1, 0.1)]
    rows += [("pig", "ada", "training", 6, 1.0), ("pig", "ada", "thresholdSet", 6, 0.9)]  # no new pig: undefined
    parts, embedding_ND = make_world(rows)
    report = cosine_report(parts, embedding_ND)
    # Above 0.5: BAKS 1/2, BAUS 1. Between 0.1 and 0.2: BAKS 1, BAUS 1/2.
    assert report == {"geo_mean_cosine": pytest.approx(np.sqrt(1 / 2)), "accuracy_validating": 0.5}


def test_reviewed_identities_are_distinct_and_best_first():
    candidates = Candidates(
        np.array([0, 1]),
        np.array(["cow", "cow"], dtype=object),
        np.array([[2, 3, 4, 5], [2, -1, -1, -1]]),
        np.array([[0.9, 0.8, 0.7, 0.6], [0.9, np.nan, np.nan, np.nan]]),
        np.full((2, 4), np.nan),
    )
    identity_N = np.array([None, None, "ada", "bo", "ada", "cy"], dtype=object)
    probability_QB = np.array([[0.25, 0.5, 0.75, 0.5], [np.nan] * 4])
    best, unscored = top_identities(candidates, probability_QB, identity_N, 2)
    assert best == [("ada", 0.75), ("bo", 0.5)]  # bo and cy tie; bo has the larger cosine
    assert unscored == []
