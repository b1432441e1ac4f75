"""What is noticed in training, from the numbers of its epochs."""

import math

import pytest

from reid_core.training.training_findings import find_in_model, find_in_training

GOOD = {"loss": 0.2, "mean_cosine": 0.4, "gradient_norm": 0.1, "loss_spread": 0.05}


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        ([], []),
        ([{}], []),
        (
            [{}, {"mean_cosine": 0.99901}, {}, {"mean_cosine": 1.0}],
            ["all embeddings of a group are alike after epoch 2, 4:"],
        ),
        ([{"mean_cosine": 0.999}, {"mean_cosine": math.nan}, {"mean_cosine": None}], []),
        ([{"gradient_norm": 0.0}, {"gradient_norm": 1e-9}], ["nothing was learned in epoch 1, 2:"]),
        ([{"gradient_norm": 1e-7}], []),
        ([{"loss_spread": 0.0}], ["the loss was the same in every step of epoch 1:"]),
        ([{"loss_spread": 1e-7}, {"loss_spread": 3e-7}], ["the loss was the same in every step of epoch 1:"]),
        ([{"loss_spread": 0.0, "gradient_norm": 0.0}], ["nothing was learned in epoch 1:"]),  # not twice
        ([{"loss": 0.0, "loss_spread": 0.0, "gradient_norm": 0.0}], ["nothing was learned in epoch 1:"]),
    ],
)
def test_by_value(reports, said):
    findings = find_in_training([{"epoch": epoch, **GOOD, **report} for epoch, report in enumerate(reports, 1)])
    starts = [f"training: {start}" for start in said]
    assert [str(finding)[: len(start)] for finding, start in zip(findings, starts, strict=True)] == starts
    assert all(finding.count == str(finding).split(":")[1].count(",") + 1 for finding in findings)


@pytest.mark.parametrize(("mean_cosine", "num"), [(1.0, 1), (0.99901, 1), (0.999, 0), (math.nan, 0), (-1.0, 0)])
def test_the_chosen_model(mean_cosine, num):
    assert len(find_in_model(mean_cosine)) == num


def test_reports_of_an_earlier_version_are_not_judged():
    assert find_in_training([{"epoch": 1, "loss": 0.2, "geo_mean_cosine": 0.5}]) == ()
