"""Confirmation by hand, against loops over runs, with failed runs, and over simulated sweeps."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from reid_core.errors import UserError
from reid_core.metrics.advice import advise, expected_noise
from reid_core.metrics.confirmation import confirm

NAN = float("nan")


def slow_folds(score_CR: np.ndarray) -> tuple[list[int], list[float]]:
    """For each run: who wins the others, and its score in this one."""
    winners, scores = [], []
    for run in range(score_CR.shape[1]):
        means = [np.mean([score for other, score in enumerate(row) if other != run]) for row in score_CR]
        winners.append(means.index(max(means)))
        scores.append(score_CR[winners[-1], run])
    return winners, scores


@pytest.mark.parametrize("seed", range(10))
def test_reported_score_comes_from_runs_that_did_not_choose(seed):
    score_CR = np.random.default_rng(seed).random((4, 3))
    winners, scores = slow_folds(score_CR)
    result = confirm(score_CR, preset=2)
    assert result.winner == score_CR.mean(axis=1).argmax()
    assert result.winner_without_R == tuple(winners)
    assert result.score == pytest.approx(np.mean(scores))
    assert result.chosen_mean == pytest.approx(score_CR.mean(axis=1).max())
    assert result.mean_C == pytest.approx(score_CR.mean(axis=1))
    if result.winner != 2:
        assert result.difference == pytest.approx(np.mean(scores) - score_CR[2].mean())


def test_intervals_by_hand():
    # Row 1 wins whichever run is left out, so both estimates are its mean, 0.8.
    result = confirm(np.array([[0.5, 0.6, 0.7], [0.7, 0.8, 0.9], [0.6, 0.5, 0.7]]), search_C=[0.5, 0.9, 0.8])
    assert (result.winner, result.winner_without_R) == (1, (1, 1, 1))
    assert result.score == pytest.approx(0.8)
    assert result.optimism == pytest.approx(0.1)
    # Less the means of rows and runs: (-1, 1, 0) / 30, the same, and (2, -2, 0) / 30: 12 / 900 on 4 degrees.
    runs, noise = 3 * np.var([0.6, 1.9 / 3, 2.3 / 3], ddof=1), 12 / 900 / 4
    difference = student.ppf(0.975, 4) * math.sqrt(2 * noise / 3)
    assert [result.difference_low, result.difference_high] == pytest.approx([0.2 - difference, 0.2 + difference])
    degrees = (runs + 2 * noise) ** 2 / (runs**2 / 2 + (2 * noise) ** 2 / 4)
    half_width = student.ppf(0.975, degrees) * math.sqrt((runs + 2 * noise) / 3 / 3)
    assert [result.score_low, result.score_high] == pytest.approx([0.8 - half_width, min(0.8 + half_width, 1)])


def test_what_moves_a_whole_run_chooses_nobody():
    score_CR = 0.3 + np.random.default_rng(0).random((4, 5)) / 10
    plain, moved = confirm(score_CR), confirm(score_CR + np.array([0, 0.2, -0.1, 0.3, 0.1]))
    assert moved.winner == plain.winner
    assert moved.score == pytest.approx(plain.score + 0.1)
    assert moved.difference == pytest.approx(plain.difference)
    assert moved.difference_low == pytest.approx(plain.difference_low)
    assert moved.score_high - moved.score_low > 1.5 * (plain.score_high - plain.score_low)


def test_order_of_configurations_and_runs_changes_only_their_numbers():
    score_CR = np.random.default_rng(1).random((4, 3))
    result, turned = confirm(score_CR, preset=0), confirm(score_CR[::-1, ::-1], preset=3)
    assert turned.winner == 3 - result.winner
    assert turned.winner_without_R == tuple(3 - winner for winner in result.winner_without_R[::-1])
    for name in ("score", "score_low", "score_high", "difference", "difference_low", "difference_high"):
        assert getattr(turned, name) == pytest.approx(getattr(result, name))


def test_a_preset_that_wins_differs_by_nothing_from_itself():
    result = confirm(np.array([[0.5, 0.4, 0.9], [0.6, 0.3, 0.2]]), search_C=[NAN, 0.9])
    assert result.winner == 0
    assert (result.difference, result.difference_low, result.difference_high) == (0, 0, 0)
    assert math.isnan(result.optimism)


def test_limits_stay_within_the_range_of_scores():
    result = confirm(np.array([[0.0, 0.9, 0.0], [1.0, 0.1, 1.0]]))
    assert (result.score_low, result.score_high) == (0, 1)
    assert (result.difference_low, result.difference_high) == (-1, 1)


def test_a_configuration_that_failed_once_is_not_confirmed():
    score_CR = np.array([[0.5, 0.4, 0.6], [0.9, NAN, 0.9], [0.6, 0.6, 0.7], [0.5, 0.5, 0.5]])
    result = confirm(score_CR)
    assert result.winner == 2
    assert math.isnan(result.mean_C[1])
    assert result.run_R == (0, 1, 2)
    without = confirm(score_CR[[0, 2, 3]])
    for name in ("score", "score_low", "difference", "difference_high"):
        assert getattr(result, name) == getattr(without, name)


def test_a_run_that_failed_for_most_is_left_out():
    score_CR = np.array([[0.5, NAN, 0.6, 0.5], [0.9, NAN, 0.8, 0.8], [0.6, 0.6, 0.7, 0.6]])
    result = confirm(score_CR)
    assert result.run_R == (0, 2, 3)
    without = confirm(score_CR[:, [0, 2, 3]])
    assert result.score == without.score == pytest.approx(2.5 / 3)
    assert (result.score_low, result.difference_high) == (without.score_low, without.difference_high)


def test_a_preset_that_failed_once_is_compared_over_the_runs_it_has():
    others_CR = np.array([[0.6, 0.7, 0.8], [0.5, 0.5, 0.5], [0.4, 0.6, 0.5]])
    result, whole = confirm(np.vstack([[0.5, NAN, 0.6], others_CR])), confirm(others_CR)
    assert (result.winner, result.score, result.run_R) == (1, whole.score, (0, 1, 2))
    assert result.difference == pytest.approx((0.1 + 0.2) / 2)
    missing = confirm(np.vstack([[NAN, NAN, NAN], others_CR]))
    assert missing.score == whole.score
    assert np.isnan([missing.difference, missing.difference_low]).all()


def test_a_lone_configuration_has_the_t_interval_of_its_runs():
    result = confirm(np.array([[0.5, NAN, 0.5, NAN], [NAN, NAN, NAN, NAN], [0.5, 0.6, 0.7, 0.6]]))
    assert (result.winner, result.score) == (2, pytest.approx(0.6))
    half_width = student.ppf(0.975, 3) * np.std([0.5, 0.6, 0.7, 0.6], ddof=1) / 2
    assert [result.score_low, result.score_high] == pytest.approx([0.6 - half_width, 0.6 + half_width])
    # Against the preset two runs, 0.0 and 0.2 better: the t-interval of two paired differences, cut off at -1 and 1.
    half_width = student.ppf(0.975, 1) * 0.1
    assert result.difference == pytest.approx(0.1)
    assert [result.difference_low, result.difference_high] == pytest.approx([max(-1, 0.1 - half_width), 1])


def test_a_single_run_reports_what_the_search_chose():
    result = confirm(np.array([[0.5], [0.6], [0.9]]), search_C=[0.6, 0.8, 0.7])
    assert (result.winner, result.score) == (1, 0.6)
    assert result.difference == pytest.approx(0.1)
    assert result.optimism == pytest.approx(0.2)
    assert np.isnan([result.score_low, result.score_high, result.difference_low]).all()


def test_what_cannot_be_confirmed_is_said():
    with pytest.raises(UserError, match="every run failed"):
        confirm(np.full((2, 3), NAN))
    with pytest.raises(UserError, match="2 runs are needed"):
        confirm(np.array([[0.5], [0.6]]))
    with pytest.raises(ValueError, match="do not fit"):
        confirm(np.ones((2, 3)), preset=2)
    with pytest.raises(ValueError, match="do not fit"):
        confirm(np.ones((2, 3)), search_C=[1.0])


@pytest.mark.parametrize("run_std", [0, 0.02])
def test_over_sweeps_the_score_is_unbiased_and_intervals_cover(run_std):
    rng = np.random.default_rng(2)
    errors, chosen_errors, covered, differences = [], [], [], []
    for _ in range(1500):
        true_C = 0.6 + 0.01 * rng.standard_normal(4)
        run_R, noise_CR = run_std * rng.standard_normal(3), 0.02 * rng.standard_normal((4, 3))
        result = confirm(true_C[:, None] + run_R + noise_CR)
        truth = true_C[result.winner]
        errors.append(result.score - truth)
        chosen_errors.append(result.chosen_mean - truth)
        covered.append(result.score_low <= truth <= result.score_high)
        if result.winner:
            differences.append(result.difference_low <= truth - true_C[0] <= result.difference_high)
    assert abs(np.mean(errors)) < 0.0025  # leaving a run out chooses a little worse
    assert np.mean(chosen_errors) > 0.006
    assert 0.93 < np.mean(covered) < 0.98
    assert 0.93 < np.mean(differences) < 0.98


def test_advice_equals_sweeps_simulated_one_by_one():
    advice = advise(num_trials=12, noise_std=0.04, spread_std=0.02, num_confirmed=2, num_runs=3)
    rng, raw, confirmed = np.random.default_rng(3), [], []
    for _ in range(4000):
        true_T = 0.02 * rng.standard_normal(12 + 9)
        seen_T = true_T + 0.04 * rng.standard_normal(21)
        raw.append(true_T[seen_T.argmax()])
        best = sorted(range(1, 12), key=lambda trial: seen_T[trial])[-2:]
        means = {trial: true_T[trial] + np.mean(0.04 * rng.standard_normal(3)) for trial in (0, *best)}
        confirmed.append(true_T[max(means, key=means.get)])
    assert advice.num_reruns == 9
    assert advice.raw == pytest.approx(np.mean(raw), abs=0.0015)
    assert advice.confirmed == pytest.approx(np.mean(confirmed), abs=0.0015)
    assert advice.gain == advice.confirmed - advice.raw


def test_best_of_50_equal_trials_looks_as_much_better_as_known():
    # Expected largest of 50 standard normal numbers: 2.249. FACTS: 0.11 for lynx.
    advice = advise(num_trials=47, noise_std=0.05, spread_std=0, num_confirmed=2, num_runs=1)
    assert advice.raw_optimism == pytest.approx(0.05 * 2.249, rel=0.02)
    assert advice.raw == advice.confirmed == 0


def test_advice_turns_where_noise_is_small_against_differences():
    gains = [advise(num_trials=50, noise_std=noise, spread_std=0.03).gain for noise in (0.0025, 0.02, 0.05)]
    assert gains[0] < 0 < gains[1] < gains[2]
    worse = advise(num_trials=50, noise_std=0.0025, spread_std=0.03).describe()
    assert "worse than the best score of 62 trials" in worse
    assert (
        "better than the best score of 62 trials" in advise(num_trials=50, noise_std=0.05, spread_std=0.03).describe()
    )


def test_advice_for_fewer_trials_than_are_confirmed():
    advice = advise(num_trials=2, noise_std=0.02, spread_std=0.03)
    assert advice.num_reruns == 6  # the preset and the other one
    assert 0.5 < advice.confirmed_best <= 1


def test_expected_noise_is_near_the_measured_standard_errors():
    measured = {(66, 5): 0.05, (139, 44): 0.03, (372, 33): 0.02}  # AnimalCLEF25's lynx, salamander, turtle
    for (num_known, num_new), error in measured.items():
        assert expected_noise([num_known], [num_new]) == pytest.approx(error, rel=0.35)
    known_G, new_G = zip(*measured, strict=True)
    assert expected_noise(known_G, new_G) == pytest.approx(np.linalg.norm(list(measured.values())) / 3, rel=0.2)
    one = expected_noise([20], [4])
    assert expected_noise([20, 20], [4, 4]) == pytest.approx(one / math.sqrt(2))
    assert expected_noise([20, 0, 9], [4, 3, 0]) == one  # undefined groups are left out
    assert math.isnan(expected_noise([0], [4]))


def test_the_gain_over_epoch_zero_is_paired_run_by_run():
    score_CR = np.array([[0.5, 0.6, 0.7], [0.7, 0.8, 0.9], [0.6, 0.5, 0.7]])  # row 1 wins whichever run is left out
    easy_R = np.array([0.0, 0.1, 0.2])  # what makes the split of a run easy helps the frozen backbone as well
    result = confirm(score_CR, epoch_zero_CR=np.tile(0.4 + easy_R, (3, 1)))
    assert result.gain == pytest.approx(0.3)
    assert result.score_high - result.score_low > 2 * (result.gain_high - result.gain_low)
    # gains less the means of rows and runs are the noise of the scores, and the runs' mean gains 0.2, 0.4/3, 0.5/3
    gain_CR = score_CR - (0.4 + easy_R)
    runs, noise = 3 * np.var(gain_CR.mean(axis=0), ddof=1), 12 / 900 / 4
    degrees = (runs + 2 * noise) ** 2 / (runs**2 / 2 + (2 * noise) ** 2 / 4)
    half_width = student.ppf(0.975, degrees) * math.sqrt((runs + 2 * noise) / 3 / 3)
    assert [result.gain_low, result.gain_high] == pytest.approx([0.3 - half_width, 0.3 + half_width])


def test_a_gain_is_reported_by_runs_that_did_not_choose():
    score_CR = np.random.default_rng(1).random((4, 3))
    epoch_zero_CR = np.random.default_rng(2).random((4, 3))
    winners, scores = slow_folds(score_CR)
    before = [epoch_zero_CR[winner, run] for run, winner in enumerate(winners)]
    result = confirm(score_CR, epoch_zero_CR=epoch_zero_CR)
    assert result.gain == pytest.approx(np.mean(scores) - np.mean(before))
    assert result.gain_low <= result.gain <= result.gain_high
    assert result.score == confirm(score_CR).score


def test_without_epoch_zero_there_is_no_gain():
    score_CR = np.array([[0.5, 0.6], [0.7, 0.8]])
    for missing in (None, np.full((2, 2), NAN)):
        assert math.isnan(confirm(score_CR, epoch_zero_CR=missing).gain)
    with pytest.raises(ValueError, match="epoch 0"):
        confirm(score_CR, epoch_zero_CR=np.zeros((2, 3)))
