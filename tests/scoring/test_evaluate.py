"""The chain from embeddings to metrics on hand-made worlds, and who may learn from whom."""

import dataclasses

import numpy as np
import pytest
from worlds import (
    CONFIG,
    answers_of,
    cosine_times_ten,
    decide_simply,
    make_world,
    plain_answers,
    random_world,
    two_groups,
)

from reid_core.config.parameters import FusionConfig, MatchConfig, PredictConfig, ThresholdConfig
from reid_core.config.values import override
from reid_core.data.animals import NEW
from reid_core.data.splits.parts import Parts
from reid_core.data.table.sides import parse_sides
from reid_core.errors import UserError
from reid_core.matching.pairs.store import ScorePairs
from reid_core.metrics.summary import summarise
from reid_core.scoring.calibration import POOLED, Calibrator, LogisticCalibrator
from reid_core.scoring.candidates import Candidates, find_candidates, match_candidates
from reid_core.scoring.decision import Answers, Decision, Outputs, calibrate, weigh_matchers
from reid_core.scoring.evaluate import (
    MIN_SAMPLE,
    choose_thresholds,
    cosine_report,
    decide,
    gather_candidates,
    shares_of,
)
from reid_core.scoring.openmax import fit_openmax

LINE = {POOLED: Calibrator((0, 1), (0, 1))}
COW = np.array(["cow"], dtype=object)


def test_fusion_is_the_mean_of_the_matchers_that_scored():
    nan = np.nan
    candidates = Candidates(
        np.array([0]), COW, np.array([[1, 2, 3, -1]]), np.array([[0.2, 0.4, nan, nan]]), np.array([[8, nan, 5, nan]])
    )
    calibrators = {"cosine": LINE, "match": {POOLED: Calibrator((0, 10), (0, 1))}}
    both = Decision(PredictConfig(), calibrators, {"cosine": 0.5, "match": 0.5}, {})
    np.testing.assert_allclose(both.probabilities(candidates), [[0.5, 0.4, 0.5, nan]], rtol=1e-6)
    one = Decision(PredictConfig(), {"cosine": LINE}, {"cosine": 1.0}, {})
    np.testing.assert_allclose(one.probabilities(candidates), [[0.2, 0.4, nan, nan]], rtol=1e-6)
    unequal = dataclasses.replace(both, fusion_weights={"cosine": 0.25, "match": 0.75})
    np.testing.assert_allclose(unequal.probabilities(candidates), [[0.65, 0.4, 0.5, nan]], rtol=1e-6)


def test_padding_is_no_candidate_even_if_nothing_can_be_calibrated():
    """With one class only the calibrator is a constant; a slot without gallery image must not get it."""
    candidates = Candidates(np.array([0]), COW, np.array([[-1, -1]]), np.full((1, 2), np.nan), np.full((1, 2), np.nan))
    decision = Decision(PredictConfig(), {"cosine": {POOLED: Calibrator((0.0,), (0.9,))}}, {"cosine": 1.0}, {})
    answers = decision.answer(candidates, Outputs(np.zeros((1, 2))), np.array(["ada"], dtype=object))
    assert answers.identity_Q.tolist() == [NEW]
    assert answers.score_Q.tolist() == [0]


def test_calibrators_see_shortlisted_pairs_only():
    parts, embedding_ND = two_groups()
    found = find_candidates(
        embedding_ND, parts.group_N, parts.rows("validating"), parts.rows("training"), shortlist_size=50
    )  # six gallery images per group: 44 slots are empty
    assert calibrate(found, parts.identity_N)["cosine"][POOLED].predict(np.array([0.0, 0.95])).tolist() == [0, 1]
    assert set(calibrate(found, parts.identity_N)) == {"cosine"}
    matched = match_candidates(found, cosine_times_ten(embedding_ND))
    assert calibrate(matched, parts.identity_N)["match"][POOLED].predict(np.array([0.0, 9.5])).tolist() == [0, 1]


@pytest.mark.parametrize("with_matcher", [False, True])
def test_decide_on_a_world_with_known_answer(with_matcher):
    parts, embedding_ND = two_groups()
    scorer = cosine_times_ten(embedding_ND) if with_matcher else None
    decision, metrics = decide_simply(parts, embedding_ND, scorer)
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
    decision, metrics = decide_simply(parts, embedding_ND, scorer)
    answers = answers_of(decision, parts, Outputs(embedding_ND), "thresholdSet", scorer)
    again = summarise(shares_of(answers, decision, parts))
    assert 0.2 < again["mean_of_groups"] < 1
    assert metrics == again | {f"threshold.{group}": value for group, value in decision.thresholds.items()}


def test_a_pair_that_was_not_scored_falls_back_to_cosine():
    parts, embedding_ND = two_groups()
    cosine_only, _ = decide_simply(parts, embedding_ND)
    unscored = set(parts.rows("thresholdSet").tolist())

    def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        always = cosine_times_ten(embedding_ND)(query_P, gallery_P)
        return np.where([query in unscored for query in query_P], np.nan, always)

    decision, metrics = decide_simply(parts, embedding_ND, score)
    assert "match" in decision.calibrators
    assert decision.thresholds == cosine_only.thresholds
    assert metrics["geo_mean.cow"] == 1


def test_a_matcher_that_scores_nothing_changes_nothing():
    parts, embedding_ND = random_world(3)
    without = decide_simply(parts, embedding_ND)
    nothing = decide_simply(parts, embedding_ND, lambda q, g: np.full(len(q), np.nan))
    assert nothing == without


def with_shuffled_truth(parts: Parts, part: str) -> Parts:
    identity_N, rows = parts.identity_N.copy(), parts.rows(part)
    identity_N[rows] = np.random.default_rng(0).permutation(identity_N[rows])
    return dataclasses.replace(parts, identity_N=identity_N)


@pytest.mark.parametrize("weights", ["equal", "fitted"])
def test_calibrators_learn_from_validating_only_and_thresholds_from_threshold_set_only(weights):
    parts, embedding_ND = random_world(4)
    scorer = noisy_matcher(parts)
    fusion = FusionConfig(weights=weights)

    def decided(shuffled: str | None) -> Decision:
        changed = with_shuffled_truth(parts, shuffled) if shuffled else parts
        return decide_simply(changed, embedding_ND, scorer, fusion=fusion)[0]

    assert decided("thresholdSet").calibrators == decided(None).calibrators
    assert decided("thresholdSet").fusion_weights == decided(None).fusion_weights
    assert decided("thresholdSet").thresholds != decided(None).thresholds
    assert decided("validating").calibrators != decided(None).calibrators
    assert (decided("validating").fusion_weights != decided(None).fusion_weights) == (weights == "fitted")
    assert decided("testSet") == decided(None)


def test_test_set_is_not_read():
    parts, embedding_ND = random_world(5)
    locked, blind_ND = parts.identity_N.copy(), embedding_ND.copy()
    locked[parts.rows("testSet")], blind_ND[parts.rows("testSet")] = None, np.nan
    sealed = dataclasses.replace(parts, identity_N=locked)
    scorer = cosine_times_ten(embedding_ND)
    assert decide_simply(sealed, blind_ND, scorer) == decide_simply(parts, embedding_ND, scorer)
    assert cosine_report(CONFIG, sealed, Outputs(blind_ND)) == cosine_report(CONFIG, parts, Outputs(embedding_ND))


def test_the_answers_that_chose_the_thresholds_come_with_the_decision():
    parts, embedding_ND = random_world(2)
    outputs, scorer = Outputs(embedding_ND), cosine_times_ten(embedding_ND)
    decision, answers, metrics = decide(CONFIG, parts, outputs, scorer)
    again = answers_of(decision, parts, outputs, "thresholdSet", scorer)
    for name in ("query_Q", "group_Q", "identity_Q", "score_Q"):
        assert getattr(answers, name).tolist() == getattr(again, name).tolist()
    assert summarise(shares_of(answers, decision, parts)).items() <= metrics.items()


def test_known_is_decided_within_the_group():
    parts, _ = make_world(
        [("cow", "ada", "training", 0, 1.0), ("pig", "ada", "testSet", 1, 1.0), ("cow", "ada", "testSet", 0, 0.9)]
    )
    assert parts.known(np.array([1, 2])).tolist() == [False, True]


def some_without_queries() -> tuple[Parts, np.ndarray]:
    """A known cow at 0.9 and a new one at 0.5; no new pig; no yak in thresholdSet at all."""
    rows = [("cow", "ada", "training", 0, 1.0), ("cow", "ada", "validating", 0, 0.95)]
    rows += [("cow", "bo", "training", 1, 1.0), ("cow", "ada", "thresholdSet", 0, 0.9)]
    rows += [("cow", "zoe", "thresholdSet", 0, 0.5)]
    rows += [("pig", "cy", "training", 6, 1.0), ("pig", "cy", "thresholdSet", 6, 0.9)]
    rows += [("yak", "di", "training", 9, 1.0), ("yak", "di", "testSet", 9, 0.9)]
    return make_world(rows)


def test_every_group_has_a_threshold_even_without_queries_to_choose_it_by():
    parts, embedding_ND = some_without_queries()
    decision, metrics = decide_simply(parts, embedding_ND)
    assert decision.thresholds["cow"] == pytest.approx((0.9 + 0.5) / 0.95 / 2, abs=1e-5)
    assert decision.thresholds["pig"] == decision.thresholds["yak"] == pytest.approx(decision.thresholds["cow"])
    assert np.isnan(metrics["geo_mean.pig"])
    assert metrics["mean_of_groups"] == metrics["geo_mean.cow"] == 1
    answers = answers_of(decision, parts, Outputs(embedding_ND), "testSet")
    assert answers.name(decision.thresholds).tolist() == ["di"]


def test_a_fixed_threshold_is_not_searched():
    parts, embedding_ND = some_without_queries()
    decision, metrics = decide_simply(parts, embedding_ND, threshold=ThresholdConfig(fixed=0.97))
    assert decision.thresholds == {"cow": 0.97, "pig": 0.97, "yak": 0.97}
    assert (metrics["baks.cow"], metrics["baus.cow"]) == (0, 1)
    chosen = choose_thresholds(
        answers_of(decision, parts, Outputs(embedding_ND), "thresholdSet"),
        parts,
        groups=np.array(["cow"]),
        config=ThresholdConfig(fixed=0.97),
    )
    assert (chosen["cow"].baks, chosen["cow"].baus) == (0, 1)


def two_scales() -> tuple[Parts, Answers]:
    """Answers of cows score about twice those of pigs."""
    rows = [(group, "ada", "training", axis, 1.0) for group, axis in (("cow", 0), ("pig", 6))]
    rows += [(g, name, "thresholdSet", 0, 1.0) for g in ("cow", "pig") for name in ("ada", "ada", "zoe", "yan")]
    parts, _ = make_world(rows)
    return parts, plain_answers(parts, "thresholdSet", ["ada"] * 8, [0.9, 0.8, 0.6, 0.5, 0.45, 0.4, 0.3, 0.25])


def test_one_threshold_for_all_is_the_best_over_the_pooled_queries():
    parts, answers = two_scales()

    def values(**settings: str) -> list[float]:
        chosen = choose_thresholds(answers, parts, groups=parts.group_N, config=ThresholdConfig(**settings))
        return [chosen["cow"].value, chosen["pig"].value]

    assert values() == pytest.approx([0.7, 0.35])
    # One for both: 0.35 names both cows and pigs, and calls 2 of 4 new ones new; 0.7 half of the known, all new ones.
    pooled = choose_thresholds(answers, parts, groups=parts.group_N, config=ThresholdConfig(per="all"))
    assert pooled["cow"] == pooled["pig"]
    assert pooled["cow"].value == pytest.approx(0.7)
    assert pooled["cow"].geo_mean == pytest.approx(np.sqrt(0.5))
    assert values(search="grid") == pytest.approx([0.7, 0.35])
    assert values(search="grid", per="all") == pytest.approx([0.7, 0.7])


def test_threshold_is_the_middle_of_the_range_where_nothing_is_defined():
    parts, _ = make_world([("cow", "ada", "training", 0, 1.0), ("cow", "ada", "thresholdSet", 0, 1.0)])
    answers = plain_answers(parts, "thresholdSet", ["ada"], [0.7])
    for per in ("group", "all"):
        config = ThresholdConfig(smallest=0.1, largest=0.5, per=per)
        chosen = choose_thresholds(answers, parts, groups=answers.group_Q, config=config)
        assert chosen["cow"].value == pytest.approx(0.3)
        assert np.isnan(chosen["cow"].geo_mean)


def test_cosine_report_by_hand():
    rows = [("cow", "ada", "training", 0, 1.0), ("cow", "bo", "training", 1, 1.0)]
    rows += [("cow", "ada", "validating", 0, 0.9), ("cow", "bo", "validating", 0, 0.3)]  # 1 of 2 right
    rows += [("cow", "ada", "thresholdSet", 0, 0.9), ("cow", "bo", "thresholdSet", 1, 0.2)]
    rows += [("cow", "yan", "thresholdSet", 0, 0.5), ("cow", "zoe", "thresholdSet", 1, 0.1)]
    rows += [("pig", "ada", "training", 6, 1.0), ("pig", "ada", "thresholdSet", 6, 0.9)]  # no new pig: undefined
    parts, embedding_ND = make_world(rows)
    report = cosine_report(CONFIG, parts, Outputs(embedding_ND))
    # Above 0.5: BAKS 1/2, BAUS 1. Between 0.1 and 0.2: BAKS 1, BAUS 1/2.
    assert report.pop("geo_mean_cosine") == pytest.approx(np.sqrt(1 / 2))
    assert report.pop("accuracy_validating") == 0.5
    assert np.isnan(report.pop("accuracy_training"))  # every animal has one training image
    assert report == {}


def test_the_epochs_of_a_sweep_for_the_worst_group_are_judged_by_it():
    rows = [("cow", "ada", "training", 0, 1.0), ("cow", "bo", "training", 1, 1.0)]
    rows += [("cow", "ada", "thresholdSet", 0, 0.9), ("cow", "bo", "thresholdSet", 1, 0.2)]
    rows += [("cow", "yan", "thresholdSet", 0, 0.5)]  # above 0.5: BAKS 1/2, BAUS 1
    rows += [("dog", "rex", "training", 2, 1.0), ("dog", "rex", "thresholdSet", 2, 0.9)]
    rows += [("dog", "max", "thresholdSet", 2, 0.1)]  # above 0.1: all right
    parts, embedding_ND = make_world(rows)
    outputs = Outputs(embedding_ND)
    assert cosine_report(CONFIG, parts, outputs)["geo_mean_cosine"] == pytest.approx((np.sqrt(1 / 2) + 1) / 2)
    worst = dataclasses.replace(CONFIG, threshold=ThresholdConfig(objective="worst_group"))
    assert cosine_report(worst, parts, outputs)["geo_mean_cosine"] == pytest.approx(np.sqrt(1 / 2))


def test_accuracy_on_training_images_leaves_out_the_image_itself_and_animals_with_one():
    rows = [("cow", "ada", "training", 0, 0.99), ("cow", "ada", "training", 0, 0.98)]  # each other's nearest
    rows += [("cow", "bo", "training", 1, 0.9), ("cow", "bo", "training", 0, 0.9)]  # the second looks like ada
    rows += [("cow", "cy", "training", 1, 0.95)]  # nearest to bo's first, and no other image
    rows += [("pig", "ada", "training", 0, 1.0)]  # another animal, of another group
    parts, embedding_ND = make_world(rows)
    assert cosine_report(CONFIG, parts, Outputs(embedding_ND))["accuracy_training"] == pytest.approx(2 / 4)


def test_accuracy_on_training_images_is_that_of_a_fixed_part():
    rows = [("cow", f"cow {k}", "training", k % 12, 1.0) for k in range(300) for _ in range(10)]
    parts, embedding_ND = make_world(rows)
    rng = np.random.default_rng(0)
    embedding_ND += 0.3 * rng.normal(size=embedding_ND.shape).astype(np.float32)
    embedding_ND /= np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    first, again = (cosine_report(CONFIG, parts, Outputs(embedding_ND))["accuracy_training"] for _ in range(2))
    assert first == again
    assert first * 300 == pytest.approx(round(first * 300))  # a tenth of 3,000
    half = make_world(rows[:1500])[0]
    accuracy = cosine_report(CONFIG, half, Outputs(embedding_ND[:1500]))["accuracy_training"]
    assert accuracy * MIN_SAMPLE == pytest.approx(round(accuracy * MIN_SAMPLE))


def noisy_matcher(parts: Parts, spread: float = 0.7) -> ScorePairs:
    """Scores 5 for pairs of the same animal and 0 for others, with noise that is a function of the pair."""

    def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        same_P = parts.animals(query_P) == parts.animals(gallery_P)
        return 5 * same_P + 5 * spread * np.sin(query_P * 12.9898 + gallery_P * 78.233)

    return score


def test_fitted_weights_prefer_the_matcher_that_knows():
    parts, embedding_ND = random_world(6)
    found = match_candidates(
        find_candidates(
            embedding_ND, parts.group_N, parts.rows("validating"), parts.rows("training"), shortlist_size=20
        ),
        noisy_matcher(parts, spread=0.1),
    )
    calibrators = calibrate(found, parts.identity_N)
    weights = weigh_matchers(found, parts.identity_N, calibrators, "fitted")
    assert weights["match"] > 0.95
    assert sum(weights.values()) == pytest.approx(1)
    assert weigh_matchers(found, parts.identity_N, calibrators, "equal") == {"cosine": 0.5, "match": 0.5}


def test_without_calibration_the_cosine_is_the_score():
    parts, embedding_ND = two_groups()
    decision, metrics = decide_simply(parts, embedding_ND, fusion=FusionConfig(calibration="none"))
    assert decision.calibrators == decision.fusion_weights == {}
    assert decision.thresholds["cow"] == pytest.approx((0.9 + 0.5) / 2)
    assert metrics["geo_mean.cow"] == 1
    answers = answers_of(decision, parts, Outputs(embedding_ND), "testSet")
    assert sorted(set(answers.score_Q.round(4))) == pytest.approx([0.5, 0.9])


def test_logistic_calibration_is_used_where_it_is_asked_for():
    parts, embedding_ND = random_world(7)
    scorer = noisy_matcher(parts)
    decision, _ = decide_simply(parts, embedding_ND, scorer, fusion=FusionConfig(calibration="logistic"))
    assert all(isinstance(fit, LogisticCalibrator) for fits in decision.calibrators.values() for fit in fits.values())
    assert set(decision.calibrators) == {"cosine", "match"}


def test_a_second_model_is_a_third_opinion():
    """The second model separates animals that the first one confuses, and the fusion takes its scores."""
    parts, embedding_ND = random_world(8)
    code_N = np.unique(parts.animals(np.arange(len(parts.identity_N))), return_inverse=True)[1]
    second_ND = np.eye(code_N.max() + 1, dtype=np.float32)[code_N]
    outputs = Outputs(embedding_ND, second_ND=second_ND)
    fitted = dataclasses.replace(CONFIG, fusion=FusionConfig(weights="fitted"))
    decision, _, metrics = decide(fitted, parts, outputs, None)
    assert decision.fusion_weights == {"cosine": pytest.approx(0, abs=1e-6), "second": pytest.approx(1)}
    _, alone = decide_simply(parts, embedding_ND)
    assert metrics["mean_of_groups"] > alone["mean_of_groups"]
    with pytest.raises(KeyError, match="second"):  # forgotten where it was fitted with one
        answers_of(decision, parts, Outputs(embedding_ND), "testSet")


@pytest.mark.parametrize("kind", ["mean", "mean_top", "vote"])
def test_the_kind_of_aggregation_reaches_the_answers(kind):
    """Query `zoe` is nearest to one image of ada, but bo's two are close behind."""
    rows = [("cow", "ada", "training", 0, 0.99), ("cow", "ada", "training", 5, 0.99)]
    rows += [("cow", "bo", "training", 0, 0.98), ("cow", "bo", "training", 0, 0.97)]
    rows += [("cow", "bo", "testSet", 0, 1.0)]
    parts, embedding_ND = make_world(rows)
    calibrators = {"cosine": LINE}
    for aggregate, expected in (("max", "ada"), (kind, "bo")):
        predict = PredictConfig(aggregate=aggregate, top_images=2, votes=3)
        decision = Decision(predict, calibrators, {"cosine": 1.0}, {})
        assert answers_of(decision, parts, Outputs(embedding_ND), "testSet").identity_Q.tolist() == [expected]


def test_only_images_of_the_same_side_are_candidates_where_it_is_asked_for():
    rows = [("cow", "ada", "training", 0, 1.0), ("cow", "bo", "training", 0, 0.8), ("cow", "ada", "testSet", 0, 0.9)]
    parts, embedding_ND = make_world(rows)
    outputs = Outputs(embedding_ND)
    same_side = override(CONFIG, {"match.same_side": True})
    for orientation, expected in ((["left", "right", "right"], [1]), (["left", "right", ""], [0, 1])):
        sided = dataclasses.replace(parts, sides_N6=parse_sides(orientation))
        found = gather_candidates(same_side, sided, outputs, np.array([2]), None)
        assert found.gallery_QB[found.gallery_QB >= 0].tolist() == expected
        ignored = gather_candidates(CONFIG, sided, outputs, np.array([2]), None)
        assert ignored.gallery_QB[0, :2].tolist() == [0, 1]
    with pytest.raises(UserError, match="orientation"):
        gather_candidates(same_side, parts, outputs, np.array([2]), None)


def classified_world() -> tuple[Parts, Outputs]:
    """Two cows and a pig with logits for each; yak has images but the classifier knows none.

    thresholdSet: ada is recognised with certainty, bo less so, the new zoe hardly; the pig is new, like none of them.
    """
    rows = [("cow", name, "training", k, 1.0) for k, name in enumerate(("ada", "ada", "ada", "bo", "bo", "bo"))]
    rows += [("pig", "ada", "training", 6, 1.0)] * 3 + [("yak", "di", "training", 9, 1.0)]
    rows += [("cow", "ada", "thresholdSet", 0, 0.9), ("cow", "bo", "thresholdSet", 1, 0.9)]
    rows += [("cow", "zoe", "thresholdSet", 0, 0.9), ("yak", "di", "thresholdSet", 9, 1.0)]
    parts, embedding_ND = make_world(rows)
    logits = [[9, 0, 0], [8, 0, 0], [7, 0, 0], [0, 9, 0], [0, 8, 0], [0, 7, 0], *[[0, 0, 9]] * 3, [9, 9, 9]]
    logits += [[8, 0, 99], [0, 2, 99], [0.4, 0, 99], [9, 0, 0]]  # a pig's logit says nothing about a cow
    names = {"class_identity_K": ["ada", "bo", "ada"], "class_group_K": ["cow", "cow", "pig"]}
    arrays = {name: np.array(values, dtype=object) for name, values in names.items()}
    return parts, Outputs(embedding_ND, np.array(logits, dtype=np.float32), **arrays)


def test_softmax_rule_by_hand():
    parts, outputs = classified_world()
    softmax = dataclasses.replace(CONFIG, predict=PredictConfig(rule="softmax"))
    decision, decided, metrics = decide(softmax, parts, outputs, forbidden)
    answers = answers_of(decision, parts, outputs, "thresholdSet")
    assert answers.identity_Q.tolist() == ["ada", "bo", "ada", NEW]  # the classifier knows no yak
    assert decided.identity_Q.tolist() == answers.identity_Q.tolist()
    assert decided.score_Q.tolist() == answers.score_Q.tolist()
    sure, less, hardly = (1 / (1 + np.exp(-gap)) for gap in (8, 2, 0.4))
    assert answers.score_Q == pytest.approx([sure, less, hardly, 0])
    assert decision.thresholds["cow"] == pytest.approx((less + hardly) / 2)
    assert answers.name(decision.thresholds).tolist() == ["ada", "bo", NEW, NEW]
    assert (metrics["baks.cow"], metrics["baus.cow"], metrics["baks.yak"]) == (1, 1, 0)
    assert answers.ranking.top()[1:] == [
        [("bo", pytest.approx(less)), ("ada", pytest.approx(1 - less))],
        [("ada", pytest.approx(hardly)), ("bo", pytest.approx(1 - hardly))],
        [],
    ]


def forbidden(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
    """A matcher that must not be asked."""
    raise AssertionError("the classifier's rules need no pairs")


def test_openmax_rule_answers_by_its_probabilities():
    parts, outputs = classified_world()
    predict = PredictConfig(rule="openmax", openmax_top=1)
    decision = decide(dataclasses.replace(CONFIG, predict=predict), parts, outputs, forbidden).decision
    training = np.arange(9)
    code_N = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    expected = fit_openmax(outputs.logit_NK[training], code_N, outputs.class_group_K, predict)
    assert decision.openmax == expected
    answers = answers_of(decision, parts, outputs, "thresholdSet")
    open_QK1 = expected.predict(outputs.logit_NK[answers.query_Q], answers.group_Q)
    assert answers.identity_Q.tolist() == ["ada", "bo", "ada", NEW]
    best_Q, unknown_Q = open_QK1[:, :-1].max(axis=1), open_QK1[:, -1]
    assert (unknown_Q > best_Q).tolist() == [False, True, True, True]  # bo and zoe are far from what was trained
    assert answers.score_Q == pytest.approx([best_Q[0], 0, 0, 0])
    assert answers.ranking.top()[0][0] == ("ada", pytest.approx(best_Q[0]))


def test_the_classifier_s_rules_do_not_read_the_test_set():
    parts, outputs = classified_world()
    more = dataclasses.replace(parts, part_N=np.append(parts.part_N[:-1], "testSet"))
    blind = outputs.logit_NK.copy()
    blind[-1] = np.nan
    for rule in ("softmax", "openmax"):
        config = dataclasses.replace(CONFIG, predict=PredictConfig(rule=rule))
        sealed = dataclasses.replace(outputs, logit_NK=blind)
        assert decide(config, more, sealed, None).decision == decide(config, more, outputs, None).decision


@pytest.mark.parametrize("rule", ["softmax", "openmax"])
def test_a_rule_that_needs_a_classifier_says_so(rule):
    parts, embedding_ND = two_groups()
    with pytest.raises(UserError, match="classifier"):
        decide_simply(parts, embedding_ND, predict=PredictConfig(rule=rule))


@pytest.mark.parametrize("kind", ["isotonic", "logistic"])
@pytest.mark.parametrize("kept", ["nothing", "one class", "one image"])
def test_a_calibration_set_that_says_nothing_ends_in_defined_answers(kind, kept):
    """Every pair then has Laplace's constant: the cosine decides who it is, and GEO_MEAN is a number."""
    parts, embedding_ND = two_groups()
    part_N, validating = parts.part_N.copy(), parts.rows("validating")
    part_N[validating[1 if kept == "one image" else 0 :]] = "unreadable"
    if kept == "one class":
        part_N[validating] = "validating"
        parts = dataclasses.replace(parts, identity_N=np.where(part_N == "validating", "nobody", parts.identity_N))
    match = MatchConfig(matcher="none", shortlist=1)
    fusion = FusionConfig(calibration=kind, weights="fitted")
    parts = dataclasses.replace(parts, part_N=part_N)
    decision, metrics = decide_simply(parts, embedding_ND, cosine_times_ten(embedding_ND), match=match, fusion=fusion)
    answers = answers_of(decision, parts, Outputs(embedding_ND), "testSet", cosine_times_ten(embedding_ND))
    assert len(set(answers.score_Q.tolist())) == 1
    cows, pigs = ["ada", "ada", "bo", "bo", "cy", "cy", "ada"], ["ada", "ada", "ada", "bo", "cy", "cy", "ada"]
    assert answers.identity_Q.tolist() == cows + pigs
    assert 0 <= metrics["mean_of_groups"] <= 1


def test_queries_and_gallery_of_another_array_are_answered_as_those_of_the_split():
    """As the exported model does: the queries first, without identities, and behind them the gallery."""
    parts, embedding_ND = random_world(9)
    scorer, settings = cosine_times_ten(embedding_ND), {"predict": PredictConfig(aggregate="vote")}
    decision, _ = decide_simply(parts, embedding_ND, scorer, **settings)
    rows = np.concatenate([parts.rows("testSet"), parts.rows("training")])
    num_queries = len(parts.rows("testSet"))
    identity_N, part_N = parts.identity_N[rows], np.full(len(rows), "training", dtype=object)
    identity_N[:num_queries], part_N[:num_queries] = None, "query"
    foreign = Parts(identity_N, parts.group_N[rows], part_N)
    outputs = Outputs(embedding_ND[rows])
    again = answers_of(decision, foreign, outputs, "query", cosine_times_ten(embedding_ND[rows]))
    expected = answers_of(decision, parts, Outputs(embedding_ND), "testSet", scorer)
    assert again.name(decision.thresholds).tolist() == expected.name(decision.thresholds).tolist()
    assert 0 < np.mean(expected.name(decision.thresholds) == NEW) < 1
    np.testing.assert_allclose(again.score_Q, expected.score_Q, atol=1e-6)
