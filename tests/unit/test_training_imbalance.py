"""Class weights and resampling: what they change is a known factor in the odds, and it can be taken back."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss

from lifecycle.errors import LifecycleError
from lifecycle.training import imbalance, metrics


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(40_000, 3)).astype("float32")
    fraud = (matrix[:, 0] + matrix[:, 1] + rng.normal(size=40_000) > 4.2).astype("int8")
    fit, judged = (matrix[:20_000], fraud[:20_000]), (matrix[20_000:], fraud[20_000:])
    kinds = {"logistic_regression": {}, "gradient_boosting": {"max_iter": 40}}
    return imbalance.compare_recipes(fit, judged, ["a", "b", "c"], 1, kinds)


def test_every_recipe_inflates_the_scores_and_the_correction_mends_it(table):
    changed = table.drop(index="plain", level="recipe")
    assert (changed["expected_to_actual"] > 3).all()
    assert changed["corrected_expected_to_actual"].between(0.5, 1.7).all()
    assert (changed["corrected_brier"] < changed["brier"] / 1.5).all()
    assert (changed["corrected_calibration_error"] < changed["calibration_error"] / 4).all()


def test_no_recipe_ranks_logistic_regression_better_but_each_flags_more_at_one_half(table):
    linear = table.loc["logistic_regression"]
    assert np.ptp(linear["auc"]) < 0.01
    assert (linear["flagged"].drop("plain") > 1.5 * linear.loc["plain", "flagged"]).all()


def test_plain_scores_have_nothing_to_correct(table):
    plain = table.xs("plain", level="recipe")
    for name in ("brier", "calibration_error", "expected_to_actual"):
        assert (plain[name] == plain[f"corrected_{name}"]).all()


@pytest.mark.parametrize("recipe", imbalance.RECIPES)
def test_the_factor_is_how_much_the_odds_of_the_rows_grew(recipe):
    fraud = (np.random.default_rng(0).random(5_000) < 0.01).astype(int)
    rows, weight, factor = imbalance.apply_recipe(recipe, fraud, seed=2)
    weight = np.ones(len(rows)) if weight is None else weight
    odds = weight[fraud[rows] == 1].sum() / weight[fraud[rows] == 0].sum()
    assert odds == pytest.approx(factor * fraud.sum() / (5_000 - fraud.sum()))
    if recipe != "plain":
        assert odds == pytest.approx(1 / imbalance.HONEST_PER_FRAUD, rel=0.01)


def test_the_correction_keeps_the_order_and_undoes_the_factor():
    score = np.linspace(0, 1, 101)
    corrected = imbalance.correct_prior(score, 40.0)
    assert (np.diff(corrected) > 0).all()
    np.testing.assert_allclose(imbalance.correct_prior(corrected, 1 / 40), score, atol=1e-12)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(LifecycleError, match="no recipe 'smote'; the recipes are plain, class weights"):
        imbalance.apply_recipe("smote", np.array([0, 1]), 0)


def test_calibration_agrees_with_scikit_learn_and_a_count_by_hand():
    rng = np.random.default_rng(1)
    score = rng.random(1_000)
    fraud = (rng.random(1_000) < score / 2).astype(int)
    found = metrics.calibration_metrics(fraud, score, groups=1)
    assert found["brier"] == pytest.approx(brier_score_loss(fraud, score))
    assert found["calibration_error"] == pytest.approx(abs(score.mean() - fraud.mean()))
    assert found["expected_to_actual"] == pytest.approx(score.sum() / fraud.sum())
    halves = np.argsort(score).reshape(2, 500)
    by_hand = np.mean([abs(score[half].mean() - fraud[half].mean()) for half in halves])
    assert metrics.calibration_metrics(fraud, score, groups=2)["calibration_error"] == pytest.approx(by_hand)


def test_a_paired_interval_is_that_of_scipy_and_one_fold_has_none():
    differences = np.array([0.05, 0.07, 0.02, 0.06])
    found = metrics.paired_interval(differences)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert metrics.paired_interval([0.1]) == {"value": 0.1, "low": None, "high": None}
