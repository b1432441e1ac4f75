"""OpenMax against a slow reference, the paper's remedy by hand, and what must hold for any logits."""

import logging
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.stats import weibull_min

from reid_core.config.parameters import PredictConfig
from reid_core.scoring.openmax import OpenMax, fit_openmax, fit_weibull, softmax_of_group

CONFIG = PredictConfig(openmax_tail=5, openmax_top=3)


def random_logits(seed: int, num_images: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training logits, codes, groups: five cows and three pigs, mixed; about one image in five is misclassified."""
    rng = np.random.default_rng(seed)
    group_K = np.array(["cow", "pig", "cow", "cow", "pig", "cow", "pig", "cow"], dtype=object)
    code_N = np.repeat(np.arange(8), num_images)
    logit_NK = rng.normal(0, 1.5, (len(code_N), 8))
    logit_NK[np.arange(len(code_N)), code_N] += 4
    return logit_NK, code_N, group_K


def slow_softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def slow_openmax(training, query: list[float], group: str, *, tail: int, top: int) -> list[float]:
    """One query by the two algorithms of Bendale and Boult and the paper's remedy; image by image, scipy's fit.

    For identities with at least three correctly classified images that differ, or none at all.
    """
    logit_NK, code_N, group_K = training
    members = [k for k in range(len(group_K)) if group_K[k] == group]

    def activations(logits) -> list[float]:
        own = [logits[k] for k in members]
        return [value - min(own) for value in own]

    correct: dict[int, list[list[float]]] = {k: [] for k in members}
    for logits, k in zip(logit_NK, code_N, strict=True):
        if k in members and logits[k] == max(logits[j] for j in members):
            correct[k].append(activations(logits))
    means, fits = {}, {}
    for k in members:
        if correct[k]:
            means[k] = [sum(column) / len(correct[k]) for column in zip(*correct[k], strict=True)]
            largest = sorted(math.dist(sample, means[k]) for sample in correct[k])[-tail:]
            fits[k] = weibull_min.fit(largest, floc=0)
    vector = dict(zip(members, activations(query), strict=True))
    best_first = sorted(means, key=lambda k: -vector[k])
    alpha = min(top, len(best_first))
    revised, unknown = {}, 0.0
    for rank, k in enumerate(best_first):
        shape, _, scale = fits[k]
        cdf = 1 - math.exp(-((math.dist(list(vector.values()), means[k]) / scale) ** shape))
        weight = 1 - max(alpha - rank, 0) / alpha * cdf
        revised[k] = vector[k] * weight
        unknown += vector[k] * (1 - weight)
    opened = slow_softmax([*revised.values(), unknown])
    plain = dict(zip(members, slow_softmax(list(vector.values())), strict=True))
    lost = sum(plain[k] for k in members if k not in means)
    probability = [0.0] * len(group_K) + [lost + (1 - lost) * opened[-1]]
    for k, value in zip(revised, opened[:-1], strict=True):
        probability[k] = (1 - lost) * value
    return probability


@pytest.mark.parametrize("top", [1, 3, 50])
@pytest.mark.parametrize("never_right", [(), (2, 4)])
def test_openmax_equals_the_slow_reference(top, never_right):
    logit_NK, code_N, group_K = training = random_logits(0)
    logit_NK[np.isin(code_N, never_right), :] -= 20 * np.isin(np.arange(8), never_right)
    model = fit_openmax(logit_NK, code_N, group_K, PredictConfig(openmax_tail=5, openmax_top=top))
    assert np.flatnonzero(~model.covered_K).tolist() == list(never_right)
    rng = np.random.default_rng(1)
    query_QK, group_Q = rng.normal(0, 3, (20, 8)), np.array(["cow", "pig"] * 10, dtype=object)
    probability = model.predict(query_QK, group_Q)
    for query, logits in enumerate(query_QK):
        expected = slow_openmax(training, list(logits), group_Q[query], tail=5, top=top)
        np.testing.assert_allclose(probability[query], expected, atol=2e-4)  # scipy's search stops near the optimum


def test_by_hand():
    """Two cows, three images each; the mean activations are (4, 0) and (0, 6), the largest distances 1 and 2."""
    logit_NK = np.array([[3, 0], [4, 0], [5, 0], [0, 4], [0, 6], [0, 8]], dtype=float)
    model = fit_openmax(logit_NK, np.repeat([0, 1], 3), np.array(["cow", "cow"]), PredictConfig(openmax_top=2))
    assert model.mean_KK.tolist() == [[4, 0], [0, 6]]
    model = OpenMax(model.group_K, model.mean_KK, np.array([1.0, 1.0]), np.array([1.0, 2.0]), model.covered_K, 2)
    probability = model.predict(np.array([[7.0, 2.0]]), np.array(["cow"]))  # activations (5, 0)
    weight = 1 - (1 - math.exp(-1))  # at distance 1; of the second, the activation of 0 stays 0
    powers = [math.exp(5 * weight), 1, math.exp(5 * (1 - weight))]
    np.testing.assert_allclose(probability, [[power / sum(powers) for power in powers]])


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_sum_to_one_and_only_the_own_group_competes(seed):
    logit_NK, code_N, group_K = random_logits(seed)
    logit_NK[code_N == 3, 3] -= 50
    model = fit_openmax(logit_NK, code_N, group_K, CONFIG)
    group_Q = np.array(["cow", "pig", "yak"] * 20, dtype=object)
    probability = model.predict(np.random.default_rng(seed).normal(0, 5, (60, 8)), group_Q)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert probability.min() >= 0
    assert (probability[:, :-1][group_K != group_Q[:, None]] == 0).all()
    assert (probability[:, 3] == 0).all()
    assert (probability[group_Q == "yak", -1] == 1).all()  # the classifier knows no yak


def test_adding_a_constant_to_the_logits_changes_nothing():
    logit_NK, code_N, group_K = random_logits(2)
    query_QK, group_Q = np.random.default_rng(0).normal(0, 3, (10, 8)), np.array(["cow"] * 10)
    one = fit_openmax(logit_NK, code_N, group_K, CONFIG).predict(query_QK, group_Q)
    shift_N1 = np.linspace(-30, 30, len(logit_NK))[:, None]
    other = fit_openmax(logit_NK + shift_N1, code_N, group_K, CONFIG).predict(query_QK - 12, group_Q)
    np.testing.assert_allclose(other, one, atol=1e-6)


def test_the_farther_from_all_known_animals_the_more_probably_unknown():
    logit_NK, code_N, group_K = random_logits(3)
    model = fit_openmax(logit_NK, code_N, group_K, PredictConfig(openmax_tail=5, openmax_top=1))
    mean_C = model.mean_KK[0]
    near, far = mean_C[None], mean_C[None] * 4
    unknown = [model.predict(query, np.array(["cow"]))[0, -1] for query in (near, far)]
    assert unknown[0] < 0.05
    assert unknown[1] > 0.95
    assert softmax_of_group(far, np.array(["cow"]), group_K)[0, 0] > 0.99  # softmax is the surer, the farther


def test_the_mass_of_an_identity_never_classified_rightly_goes_to_the_unknown():
    logit_NK, code_N, group_K = random_logits(4)
    logit_NK[code_N == 0, 0] -= 50
    model = fit_openmax(logit_NK, code_N, group_K, CONFIG)
    query = np.zeros((1, 8))
    query[0, 0] = 9  # the classifier is sure of the animal that it never named rightly
    probability = model.predict(query, np.array(["cow"]))
    assert softmax_of_group(query, np.array(["cow"]), group_K)[0, 0] > 0.99
    assert probability[0, 0] == 0
    assert probability[0, -1] > 0.99


def test_without_any_correct_image_everything_is_unknown_and_one_warning_names_the_group(caplog):
    logit_NK, code_N, group_K = random_logits(5)
    pigs = np.isin(code_N, np.flatnonzero(group_K == "pig"))
    logit_NK[pigs, code_N[pigs]] -= 50
    with caplog.at_level(logging.WARNING):
        model = fit_openmax(logit_NK, code_N, group_K, CONFIG)
    assert [record.getMessage() for record in caplog.records if "pig" in record.getMessage()] == [
        "OpenMax: no training image of pig is classified correctly; all its queries are new"
    ]
    assert len(caplog.records) == 1
    probability = model.predict(np.random.default_rng(0).normal(0, 5, (4, 8)), np.array(["pig"] * 4))
    assert (probability[:, -1] == 1).all()


def test_images_that_the_classifier_has_no_identity_for_are_left_out():
    logit_NK, code_N, group_K = random_logits(6)
    foreign = np.random.default_rng(0).normal(0, 9, (7, 8))
    both = fit_openmax(np.vstack([logit_NK, foreign]), np.append(code_N, [-1] * 7), group_K, CONFIG)
    assert both == fit_openmax(logit_NK, code_N, group_K, CONFIG)


def test_few_or_equal_images_take_the_tail_of_the_group():
    logit_NK, code_N, group_K = random_logits(7, num_images=9)
    logit_NK[np.arange(len(code_N)), code_N] += 20  # all are classified rightly
    kept = np.ones(len(code_N), dtype=bool)
    kept[np.flatnonzero(code_N == 0)[2:]] = False  # two images
    logit_NK[code_N == 2] = logit_NK[code_N == 2][0]  # nine times the same
    model = fit_openmax(logit_NK[kept], code_N[kept], group_K, CONFIG)
    own = [3, 5, 7]  # the other cows
    tails = []
    for k in own:
        cows = np.flatnonzero(group_K == "cow")
        sample = logit_NK[code_N == k][:, cows]
        sample = sample - sample.min(axis=1, keepdims=True)
        tails.append(np.sort(np.linalg.norm(sample - sample.mean(axis=0), axis=1))[-5:])
    pooled = fit_weibull(np.concatenate(tails))
    for k in (0, 2):
        assert (model.shape_K[k], model.scale_K[k]) == pytest.approx(pooled)
    for k, tail_T in zip(own, tails, strict=True):
        assert (model.shape_K[k], model.scale_K[k]) == pytest.approx(fit_weibull(tail_T))


def test_a_tail_of_two_is_an_identity_s_own():
    model = fit_openmax(*random_logits(7), PredictConfig(openmax_tail=2))
    assert len(np.unique(model.shape_K)) == 8


def test_identities_with_two_images_share_the_distances_of_their_group():
    """Both images of a cow lie on either side of their mean, at distances 1, 1 and 3, 3."""
    logit_NK = np.array([[9, 0], [11, 0], [0, 6], [0, 12]], dtype=float)
    model = fit_openmax(logit_NK, np.array([0, 0, 1, 1]), np.array(["cow", "cow"]), CONFIG)
    shape, scale = fit_weibull(np.array([1.0, 1.0, 3.0, 3.0]))
    assert model.shape_K == pytest.approx([shape, shape])
    assert model.scale_K == pytest.approx([scale, scale])


def test_a_group_of_singletons_is_never_revised():
    group_K = np.array(["cow"] * 3)
    model = fit_openmax(8 * np.eye(3), np.arange(3), group_K, CONFIG)
    assert model.covered_K.all()
    probability = model.predict(np.array([[6.0, 1.0, 0.0]]), np.array(["cow"]))
    powers = np.exp([6.0, 1.0, 0.0, 0.0])  # the unknown's activation stays 0
    np.testing.assert_allclose(probability[0], powers / powers.sum())


def test_the_model_is_the_same_after_safetensors(tmp_path):
    logit_NK, code_N, group_K = random_logits(8)
    logit_NK[code_N == 1, 1] -= 50
    model = fit_openmax(logit_NK, code_N, group_K, CONFIG)
    save_file(model.to_arrays(), tmp_path / "openmax.safetensors")
    again = OpenMax.from_arrays(load_file(tmp_path / "openmax.safetensors"), group_K)
    assert again == model
    assert again != fit_openmax(logit_NK, code_N, group_K, PredictConfig(openmax_tail=4))
    query_QK, group_Q = np.random.default_rng(0).normal(0, 3, (5, 8)), np.array(["cow", "pig"] * 2 + ["cow"])
    assert again.predict(query_QK, group_Q).tobytes() == model.predict(query_QK, group_Q).tobytes()


@pytest.mark.parametrize(("shape", "size"), [(0.6, 40), (2.0, 5), (9.0, 20), (60.0, 20)])
def test_weibull_fit_is_the_most_likely_one(shape, size):
    value_T = weibull_min.rvs(shape, scale=7, size=size, random_state=np.random.default_rng(0))
    best = fit_weibull(value_T)

    def likelihood(shape: float, scale: float) -> float:
        return float(weibull_min.logpdf(value_T, shape, scale=scale).sum())

    nearby = [(best[0] * a, best[1] * b) for a in (0.98, 1, 1.02) for b in (0.998, 1, 1.002) if (a, b) != (1, 1)]
    assert all(likelihood(*best) > likelihood(*other) for other in nearby)
    assert best == pytest.approx(np.array(weibull_min.fit(value_T, floc=0))[[0, 2]], rel=1e-3)


def test_weibull_fit_scales_with_the_unit():
    value_T = np.array([1.0, 2.0, 2.5, 4.0])
    (shape, scale), (again, larger) = fit_weibull(value_T), fit_weibull(1e30 * value_T)
    assert (again, larger) == pytest.approx((shape, 1e30 * scale))


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0, 2.0], [0.0, 0.0], [5.0, 5.0 + 1e-9, 5.0]])
def test_weibull_fit_of_constant_values_is_none(values):
    assert fit_weibull(np.array(values)) is None
