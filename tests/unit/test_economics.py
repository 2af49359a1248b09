"""Money: what decisions cost, and the threshold that saves the most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lifecycle import economics
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings

SETTINGS = Settings()

payments = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.int8, n, elements=st.integers(0, 1)),
        arrays(np.float64, n, elements=st.floats(0.01, 1e5)),
        arrays(np.float64, n, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])),
    )
)


def test_each_of_the_four_outcomes_has_its_price():
    costs = economics.decision_costs([1, 1, 0, 0], [50, 50, 50, 50], [0, 1, 0, 1], SETTINGS)
    assert costs.tolist() == [70, 5, 0, 7]


def test_flagging_nothing_saves_nothing():
    assert economics.savings([1, 0, 1], [10, 20, 30], [0, 0, 0], SETTINGS) == 0


@given(payments)
def test_the_curve_is_what_one_gets_by_trying_each_threshold(case):
    is_fraud, amount, score = case
    thresholds, saved = economics.savings_curve(is_fraud, amount, score, SETTINGS)
    tried = [economics.savings(is_fraud, amount, score >= t, SETTINGS) for t in thresholds]
    np.testing.assert_allclose(saved, tried, atol=1e-6)
    assert (np.diff(thresholds) < 0).all()


@given(payments)
def test_no_threshold_saves_more_than_the_best_one_or_than_perfection(case):
    is_fraud, amount, score = case
    threshold, saved = economics.best_threshold(is_fraud, amount, score, SETTINGS)
    for other in (0.0, 0.05, 0.2, 0.3, 0.6, 0.95, 1.0, 1.1):
        assert economics.savings(is_fraud, amount, score >= other, SETTINGS) <= saved + 1e-6
    bill = economics.summarize_money(is_fraud, amount, score >= threshold, SETTINGS)
    assert bill["savings"] == pytest.approx(saved, abs=1e-6)
    assert bill["savings"] <= bill["savings_if_perfect"] + 1e-6
    assert saved >= 0


@given(payments)
def test_savings_are_the_difference_of_the_two_bills(case):
    is_fraud, amount, score = case
    bill = economics.summarize_money(is_fraud, amount, score >= 0.5, SETTINGS)
    assert bill["savings"] == pytest.approx(bill["cost_without"] - bill["cost_with"])
    assert bill["savings"] == pytest.approx(economics.savings(is_fraud, amount, score >= 0.5, SETTINGS), abs=1e-6)


def test_a_missing_label_is_refused_with_its_count():
    with pytest.raises(LifecycleError, match="is_fraud is missing in 1 of 2 rows"):
        economics.savings([1, np.nan], [1, 2], [0, 0], SETTINGS)


def test_columns_of_different_length_are_refused():
    with pytest.raises(LifecycleError, match="different numbers of rows"):
        economics.decision_costs([1, 0], [1, 2, 3], [0, 0], SETTINGS)
