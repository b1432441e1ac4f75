"""Validation loss and accuracy by hand, and against loops."""

import math

import numpy as np
import pytest

from reid_core.training.validation import classifier_report, mean_cosine, nearest_triplet_loss


def test_classifier_report_by_hand():
    logit_NK = np.array([[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    report = classifier_report(logit_NK, np.array([0, 0, -1]), np.array([0, 1, 2]), "validating")
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))]  # the third was never seen: left out
    assert report["loss_validating"] == pytest.approx(np.mean(losses))
    assert report["classifier_accuracy_validating"] == 0.5


def test_the_largest_mean_cosine_is_that_of_all_pairs_of_one_group():
    angle_R = np.array([0.0, 0.3, 1.0, 2.0, 2.0, 2.0, 5.0])
    group_R = np.array(["cow", "cow", "cow", "pig", "pig", "pig", "owl"])
    embedding_RD = np.stack([np.cos(angle_R), np.sin(angle_R)], axis=1)
    assert mean_cosine(embedding_RD, group_R) == pytest.approx(1.0)  # of the pigs, whose embeddings are all alike
    of_cows = np.mean([np.cos(0.3), np.cos(1.0), np.cos(0.7)])
    assert mean_cosine(embedding_RD[[0, 1, 2, 6]], group_R[[0, 1, 2, 6]]) == pytest.approx(of_cows)
    assert math.isnan(mean_cosine(embedding_RD[5:], group_R[5:]))  # no group has two


def test_nobody_to_classify_is_undefined():
    report = classifier_report(np.zeros((2, 3)), np.array([-1, -1]), np.array([0, 1]), "validating")
    assert all(math.isnan(value) for value in report.values())


def slow_loss(embedding_ND, code_N, group_N, query_V, gallery_G, margin):
    losses = []
    for query in query_V:
        gallery = [row for row in gallery_G if group_N[row] == group_N[query]]
        cosines = {row: float(embedding_ND[row] @ embedding_ND[query]) for row in gallery}
        own = [cosine for row, cosine in cosines.items() if code_N[row] == code_N[query]]
        others = [cosine for row, cosine in cosines.items() if code_N[row] != code_N[query]]
        if own and others:
            losses.append(max(0.0, max(others) - max(own) + margin))
    return np.mean(losses) if losses else math.nan


@pytest.mark.parametrize("seed", range(5))
def test_triplet_loss_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    embedding_ND = rng.normal(size=(60, 4)).astype(np.float32)
    embedding_ND /= np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    group_N = np.array(["cow", "pig", "dog"], dtype=object)[rng.integers(0, 3, 60)]
    code_N = np.array([3 * {"cow": 0, "pig": 1, "dog": 2}[g] for g in group_N]) + rng.integers(0, 3, 60)
    code_N[group_N == "dog"] = 6  # a single dog: no negative
    query_V, gallery_G = np.arange(20), np.arange(20, 60)
    value = nearest_triplet_loss(embedding_ND, code_N, group_N, query_V, gallery_G, margin_cosine=0.3)
    assert value == pytest.approx(slow_loss(embedding_ND, code_N, group_N, query_V, gallery_G, 0.3), abs=1e-6)
    assert value > 0


def test_no_query_no_loss():
    nobody = np.array([], dtype=int)
    arguments = (np.eye(2, dtype="f"), np.array([0, 1]), np.array(["cow"] * 2, dtype=object), nobody, np.arange(2))
    assert math.isnan(nearest_triplet_loss(*arguments, margin_cosine=0.2))
