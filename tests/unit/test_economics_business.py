"""What a business asks of a model: cost, return, break-even, analysts, patience; each held against a count by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle import economics
from lifecycle.economics import business
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings

SETTINGS = Settings(
    prediction_cost=0.5, operation_cost=10.0, development_cost=100.0, horizon_months=2, analyst_hour=10.0
)
MONTH = business.DAYS_IN_MONTH


@pytest.fixture
def frame() -> pd.DataFrame:
    """Four payments of two customers on two days."""
    return pd.DataFrame({
        "event_time": pd.to_datetime(["2025-10-01", "2025-10-01", "2025-10-02", "2025-10-02"], utc=True),
        "customer_id": [7, 8, 7, 8],
        "amount": [100.0, 30.0, 10.0, 500.0],
        "is_fraud": [1, 0, 0, 1],
    })  # fmt: skip


FLAGGED = [1, 1, 0, 0]


def test_the_totals_of_customers_add_up_to_the_bill(frame):
    totals = business.customer_totals(frame, FLAGGED, SETTINGS)
    bill = economics.summarize_money(frame["is_fraud"], frame["amount"], FLAGGED, SETTINGS)
    assert totals.index.tolist() == [7, 8]
    assert totals["cost_with"].tolist() == [5.0, 527.0]
    assert totals["cost_without"].sum() - totals["cost_with"].sum() == bill["savings"]
    assert totals["false_declines"].tolist() == totals["bothered"].tolist() == [0, 1]


def test_the_return_counts_development_operation_and_predictions(frame):
    totals = business.customer_totals(frame, [1, 0, 0, 1], SETTINGS)
    # One day: 640 lost without a model, 10 for two reviews; 4 predictions and the operation come on top.
    found = business.business_metrics(totals, 1, SETTINGS)
    assert found["cost_per_decision"][0] == pytest.approx((10 + 2 + 10 / MONTH) / 4)
    earned = 630 * MONTH - (2 * MONTH + 10)
    assert found["earned"][0] == pytest.approx(earned)
    assert found["break_even_months"][0] == pytest.approx(100 / earned)
    invested = 100 + 2 * (2 * MONTH + 10)
    assert found["roi"][0] == pytest.approx((2 * 630 * MONTH - invested) / invested)
    assert found["false_declines"][0] == found["bothered"][0] == 0


def test_a_model_that_earns_nothing_never_breaks_even(frame):
    found = business.business_metrics(business.customer_totals(frame, [0, 1, 1, 0], SETTINGS), 30, SETTINGS)
    assert found["break_even_months"][0] == np.inf and found["roi"][0] < -1
    assert found["false_declines"][0] == pytest.approx(1000 * 2 / 2 * MONTH / 30)


def test_a_customer_drawn_twice_counts_twice(frame):
    totals = business.customer_totals(frame, FLAGGED, SETTINGS)
    once = business.business_metrics(totals, 30, SETTINGS)
    drawn = business.business_metrics(totals, 30, SETTINGS, np.array([[1, 1], [2, 0], [0, 2]]))
    for name, value in once.items():
        assert drawn[name][0] == pytest.approx(value[0]), name
    assert drawn["bothered"].tolist() == [0.5, 0, 1]
    assert drawn["savings"][1] > drawn["savings"][0] > drawn["savings"][2]


def test_the_gain_is_the_expected_difference_of_the_two_decisions():
    score, amount = np.array([0.0, 0.3, 1.0]), np.array([10.0, 50.0, 900.0])
    gains = {
        fraud: economics.decision_costs(fraud, amount, [0] * 3, SETTINGS)
        - economics.decision_costs(fraud, amount, [1] * 3, SETTINGS)
        for fraud in ((0, 0, 0), (1, 1, 1))
    }
    expected = (1 - score) * gains[0, 0, 0] + score * gains[1, 1, 1]
    np.testing.assert_allclose(business.expected_gain(score, amount, SETTINGS), expected)


scored = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.5, 0.9])), min_size=1, max_size=30).filter(
    lambda rows: any(fraud for fraud, _ in rows)
)


@given(scored)
def test_no_other_threshold_has_a_better_f1(rows):
    fraud, score = map(np.array, zip(*rows, strict=True))
    tried = {cut: 2 * fraud[score >= cut].sum() / ((score >= cut).sum() + fraud.sum()) for cut in np.unique(score)}
    threshold, f1 = business.f1_threshold(fraud, score)
    assert f1 == pytest.approx(max(tried.values())) and tried[threshold] == pytest.approx(f1)


@given(scored, st.floats(0.05, 1.0))
def test_the_threshold_for_a_recall_is_the_highest_that_reaches_it(rows, recall):
    fraud, score = map(np.array, zip(*rows, strict=True))
    threshold = business.recall_threshold(fraud, score, recall)
    assert fraud[score >= threshold].sum() / fraud.sum() >= recall - 1e-6
    assert fraud[score > threshold].sum() / fraud.sum() < recall


def test_a_team_checks_its_most_urgent_alerts_of_each_day(frame):
    day = frame["event_time"].dt.floor("D")
    kept = business.within_capacity(day, [0.2, 0.9, 0.4, 0.3], [1, 0, 1, 1], 1)
    assert kept.tolist() == [True, False, True, False]
    saved = business.savings_by_capacity(frame, frame["amount"], [1] * 4, [0, 1, 2], SETTINGS)
    assert saved.tolist() == [0.0, (115 + 515) / 2, (115 - 7 + 515 - 7) / 2]
    assert business.value_of_an_hour(frame, frame["amount"], [1] * 4, 0, SETTINGS) == saved[2]


def test_late_answers_and_prices_have_a_limit():
    limit = business.break_even_against(1000, 900, 50)
    assert 1000 * (1 - limit["late_share"]) == pytest.approx(900)
    assert 1000 - 50 * limit["price"] == pytest.approx(900)
    assert business.break_even_against(800, 900, 50) == {"late_share": 0.0, "price": 0.0}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: business.f1_threshold([0, 0], [0.1, 0.2]), "no fraud"),
        (lambda: business.recall_threshold([1], [0.5], 0), "recall to reach is 0"),
        (lambda: business.within_capacity([1], [0.5], [1], -1), "cannot check -1"),
        (lambda: business.break_even_against(1, 1, 0), "0 predictions"),
        (lambda: business.business_metrics(pd.DataFrame(), 3, SETTINGS), "0 customers"),
        (lambda: Settings(analyst_hour=-1), "analyst_hour is -1"),
        (lambda: Settings(development_cost=float("nan")), "development_cost is nan"),
        (lambda: Settings(horizon_months=0), "horizon_months is 0"),
        (lambda: Settings(decision_timeout=0.0), "decision_timeout is 0.0"),
        (lambda: Settings(busy_share=1.0), "busy_share is 1.0"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_a_sentence(wrong, says):
    with pytest.raises(LifecycleError, match=says):
        wrong()


def test_flagging_what_is_worthwhile_is_the_cheapest_decision_for_known_probabilities():
    rng = np.random.default_rng(0)
    score, amount = rng.random(2_000) ** 4, rng.lognormal(3, 1, 2_000)
    flag = score * SETTINGS.review_cost + (1 - score) * (SETTINGS.review_cost + SETTINGS.friction_cost)
    worthwhile = business.expected_gain(score, amount, SETTINGS) > 0
    np.testing.assert_array_equal(worthwhile, flag < score * (amount + SETTINGS.chargeback_fee))
