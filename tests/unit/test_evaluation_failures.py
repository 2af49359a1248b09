"""Failures read one by one: what raised a score adds up to it, and each miss gets the remedy that would have helped."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from model_data import SETTINGS

from lifecycle.contracts import midnight
from lifecycle.evaluation import failures

NAMES = ["amount_to_mean_30d", "terminal_fraud_30d", "customer_count_24h", "hour"]
NOON = midnight("2025-09-10") + pd.Timedelta(hours=12)


def bend(matrix: np.ndarray) -> np.ndarray:
    """Return scores of a model in which amount and reports strengthen each other."""
    amount, reports, pace, _ = matrix.astype(float).T
    return 1 / (1 + np.exp(-(amount - 6 + 2 * reports + 0.5 * amount * reports - 0.3 * pace)))


MODEL = SimpleNamespace(predict=bend, features=NAMES, schema={"features": [{"name": name} for name in NAMES]})


def payment(number: int, **changes) -> dict:
    """Return an ordinary payment, let through and honest, with some things changed."""
    usual = {
        "transaction_id": number, "event_time": NOON + pd.Timedelta(minutes=number), "customer_id": number,
        "terminal_id": 100 + number, "amount": 50.0, "is_fraud": 0, "amount_to_mean_30d": 1.0,
        "terminal_fraud_30d": 0.0, "customer_count_24h": 1.0, "hour": 12.0, "score": 0.01, "mode": "",
    }  # fmt: skip
    return usual | changes


def read(rows: list[dict], reports: list[tuple[int, pd.Timestamp]] = (), known: bool = True) -> dict:
    """Read the failures of some payments beside twenty ordinary ones."""
    table = pd.DataFrame([payment(1000 + number) for number in range(20)] + rows)
    truth = table[["transaction_id", "is_fraud", "mode"]] if known else None
    test = table.drop(columns=["score", "mode"]).astype({"is_fraud": "Int8"})
    late = pd.DataFrame(list(reports), columns=["terminal_id", "known_at"])
    late["known_at"] = pd.to_datetime(late["known_at"], utc=True)
    return failures.read_failures(test, table["score"].to_numpy(), MODEL, 0.5, late, truth, SETTINGS)


def test_what_raised_a_score_adds_up_to_it():
    rng = np.random.default_rng(0)
    rows, baselines = rng.random((6, 4)) * 4, rng.random((5, 4))
    parts = failures.contributions(MODEL, rows, baselines, failures.signals_of(NAMES))
    odds = [np.log(one / (1 - one)) for one in (bend(rows), bend(baselines))]
    np.testing.assert_allclose(parts.sum(axis=1), odds[0] - odds[1].mean(), atol=1e-9)
    assert np.abs(parts[:, list(failures.signals_of(NAMES)).index("the time")]).max() < 1e-9


def test_two_signals_that_need_each_other_share_what_they_do():
    both = SimpleNamespace(predict=lambda m: 1 / (1 + np.exp(-m[:, 0] * m[:, 1])))
    parts = failures.contributions(both, np.array([[2.0, 3.0]]), np.zeros((1, 2)), {"a": [0], "b": [1]})
    np.testing.assert_allclose(parts, [[3.0, 3.0]])


@pytest.mark.parametrize(
    "remedy, rows, reports",
    [
        (failures.GAIN, [payment(1, is_fraud=1, score=0.3, amount=900.0, mode="large_amount")], []),
        (failures.BLOCK, [payment(1, is_fraud=1, mode="stolen_card", customer_id=7),
                          payment(0, score=0.9, customer_id=7)], []),
        (failures.REPORT, [payment(1, is_fraud=1, mode="skimming")], [(101, NOON + pd.Timedelta(days=3))]),
        (failures.LATE, [payment(1, is_fraud=1, mode="stolen_card", customer_id=7),
                         payment(9, score=0.9, customer_id=7)], []),
        (failures.SOURCE, [payment(1, is_fraud=1, mode="stolen_card")], []),
    ],
    ids=["by amount", "card alerted before", "report later", "card alerted after", "nothing"],
)  # fmt: skip
def test_a_miss_gets_what_would_have_stopped_it(remedy, rows, reports):
    (miss,) = read(rows, reports)["misses"]
    assert miss["remedy"] == remedy and miss["transaction_id"] == 1
    assert f"in truth {miss['mode'].replace('_', ' ')}" in miss["text"] and f"EUR {miss['amount']:,.2f}" in miss["text"]


@pytest.mark.parametrize("days", [-1, 20])
def test_a_report_that_came_before_or_much_later_is_no_remedy(days):
    rows = [payment(1, is_fraud=1, mode="skimming", terminal_fraud_30d=float(days < 0))]
    (miss,) = read(rows, [(101, NOON + pd.Timedelta(days=days))])["misses"]
    assert miss["remedy"] == failures.SOURCE


def test_misses_are_ordered_by_amount_and_all_are_counted():
    rows = [payment(number, is_fraud=1, amount=10.0 * number, mode="stolen_card") for number in range(1, 15)]
    found = read(rows)
    assert [miss["transaction_id"] for miss in found["misses"]] == list(range(14, 4, -1))
    assert found["reasons"]["misses"] == 14
    assert found["reasons"]["by_mode"] == [{"mode": "stolen_card", "number": 14, "amount": 1050.0}]


def test_a_false_alarm_names_what_raised_it_and_whether_it_was_one():
    rows = [
        payment(1, score=0.9, terminal_fraud_30d=6.0), payment(2, score=0.8, amount_to_mean_30d=9.0, mode="skimming"),
    ]  # fmt: skip
    first, second = read(rows)["false_alarms"]
    assert first["signal"] == "earlier reports" and first["text"].endswith("In truth the customer was honest.")
    assert second["signal"] == "the amount" and "that nobody had reported: the alert was right" in second["text"]
    reasons = read(rows)["reasons"]
    assert reasons["false_alarms"] == 2 and reasons["unreported"] == 1
    assert {one["signal"]: one["unreported"] for one in reasons["by_signal"]} == {"earlier reports": 0, "the amount": 1}


def test_without_a_known_truth_nothing_is_said_of_it():
    found = read([payment(1, is_fraud=1), payment(2, score=0.9)], known=False)
    assert "truth" not in found["misses"][0]["text"] and "The truth is not known" in found["false_alarms"][0]["text"]
    assert found["reasons"]["by_mode"] == [] and found["reasons"]["unreported"] == 0


def test_without_failures_there_is_nothing_to_read():
    found = read([])
    assert found["misses"] == found["false_alarms"] == [] and found["reasons"]["misses"] == 0
