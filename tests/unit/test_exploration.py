"""Exploration: each planted defect is found, and a clean table is left alone."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle import exploration
from lifecycle.errors import ContractError

ROWS = 4_000


def clean_payments(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    seconds = np.sort(random.uniform(0, 90 * 86_400, ROWS))
    return pd.DataFrame(
        {
            "transaction_id": np.arange(ROWS),
            "event_time": (pd.Timestamp("2025-07-01", tz="UTC") + pd.to_timedelta(seconds, "s")).as_unit("us"),
            "customer_id": random.integers(0, 200, ROWS),
            "terminal_id": random.integers(0, 300, ROWS),
            "amount": np.exp(random.normal(3, 0.8, ROWS)).round(2) + 0.01,
            "channel": pd.Categorical(random.choice(["pos", "online"], ROWS)),
            "merchant_category": pd.Categorical(random.choice(["fuel", "food", "books"], ROWS)),
        }
    )


def label_history(payments: pd.DataFrame, rate: float = 0.02, delay_days: float = 4.0) -> pd.DataFrame:
    is_fraud = (np.random.default_rng(1).random(len(payments)) < rate).astype("int8")
    delay = pd.to_timedelta(np.where(is_fraud == 1, delay_days, 7.0), "D")
    known_at = (payments["event_time"] + delay).dt.as_unit("us")
    return pd.DataFrame({"transaction_id": payments["transaction_id"], "is_fraud": is_fraud, "known_at": known_at})


def findings(payments: pd.DataFrame, **others: pd.DataFrame) -> set[tuple[str, str]]:
    report = exploration.explore(payments, label_history(payments), others=others)
    json.dumps(report, allow_nan=False)
    return {(finding["check"], finding["column"]) for finding in report["findings"]}


def test_a_clean_table_has_no_severe_findings() -> None:
    payments = clean_payments()
    report = exploration.explore(payments, label_history(payments, rate=0.05))
    assert [f for f in report["findings"] if f["severity"] in ("high", "medium") or f["kind"] == "defect"] == []


@pytest.mark.parametrize("mask", ["0000", "n/a", "???", "Unknown", "9999"])
def test_a_word_for_nothing_is_found(mask: str) -> None:
    payments = clean_payments()
    payments["merchant_category"] = payments["merchant_category"].astype(object).mask(payments.index % 50 == 0, mask)
    assert ("disguised missing", "transactions.merchant_category") in findings(payments)


def test_a_lonely_extreme_is_found_in_numbers_and_dates() -> None:
    random = np.random.default_rng(2)
    sensors = pd.DataFrame({"temperature": random.normal(20, 5, 3_000)})
    sensors.loc[::100, "temperature"] = -999.0
    birth = pd.Timestamp("1940-01-01", tz="UTC") + pd.to_timedelta(random.integers(0, 24_000, 3_000), "D")
    customers = pd.DataFrame({"birth_date": birth.as_unit("us")})
    customers.loc[::100, "birth_date"] = pd.Timestamp("1900-01-01", tz="UTC")
    found = findings(clean_payments(), telemetry=sensors, customers=customers)
    assert {("disguised missing", "telemetry.temperature"), ("disguised missing", "customers.birth_date")} <= found


def test_counts_and_skewed_amounts_are_no_disguise() -> None:
    random = np.random.default_rng(3)
    table = pd.DataFrame({"events": random.poisson(0.2, 5_000), "amount": np.exp(random.normal(3, 1.5, 5_000))})
    assert not [place for check, place in findings(clean_payments(), table=table) if check == "disguised missing"]


def test_open_gaps_repeats_and_constants_are_found() -> None:
    payments = clean_payments()
    payments.loc[::20, "channel"] = None
    payments["currency"] = "EUR"
    repeated = payments.iloc[:40].assign(transaction_id=np.arange(ROWS, ROWS + 40))
    found = findings(pd.concat([payments, repeated], ignore_index=True))
    assert {
        ("missing", "transactions.channel"),
        ("constant", "transactions.currency"),
        ("duplicates", "transactions"),
    } <= found


def test_imbalance_and_late_labels_are_found() -> None:
    payments = clean_payments()
    report = exploration.explore(payments, label_history(payments, rate=0.005, delay_days=12))
    assert {"classes", "label delay"} <= {finding["check"] for finding in report["findings"]}
    assert report["maturity"]["known_after_7_days"] == 0


def test_what_became_known_later_is_not_seen() -> None:
    payments = clean_payments()
    labels = label_history(payments, rate=0.05)
    early = exploration.explore(payments, labels, pd.Timestamp("2025-08-01", tz="UTC"))["classes"]
    assert early["fraud"] == int(((labels["known_at"] <= "2025-08-01") & (labels["is_fraud"] == 1)).sum())
    assert early["unknown"] > 0


def test_a_table_that_breaks_the_contract_is_refused() -> None:
    payments = clean_payments().drop(columns="amount")
    with pytest.raises(ContractError, match="'amount' is missing"):
        exploration.explore(payments, label_history(payments))


def test_robust_z_is_not_moved_by_outliers() -> None:
    values = np.random.default_rng(4).normal(0, 1, 1_001)
    spoiled = np.append(values, [1e6] * 50)
    assert np.abs(exploration.robust_z(spoiled)[:1_001] - exploration.robust_z(values)).max() < 0.5
    assert (exploration.robust_z(np.ones(5)) == 0).all()


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_interval_of_a_rate_holds_the_rate(trials: int, share: float) -> None:
    successes = round(trials * share)
    low, high = exploration.wilson_interval(successes, trials)
    assert -1e-12 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1 + 1e-12
