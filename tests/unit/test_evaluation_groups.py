"""Groups: intervals by customer, small groups named and not ranked, thresholds per group and what they cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from model_data import SETTINGS
from sklearn.metrics import confusion_matrix

from lifecycle import economics
from lifecycle.evaluation import fairness
from lifecycle.evaluation.calibration import judge_calibration

N = 12_000


@pytest.fixture(scope="module")
def bank():
    """Payments of 400 customers in three groups; the score is worse for b, and c is a handful of customers."""
    rng = np.random.default_rng(0)
    customer = rng.integers(0, 400, N)
    group = pd.Series(np.where(customer < 8, "c", np.where(customer < 200, "a", "b")))
    fraud = (rng.random(N) < 0.05).astype("int8")
    clear = np.where(group == "b", 0.35, 0.6)
    score = np.clip(0.05 + clear * fraud + rng.normal(0, 0.2, N), 0.001, 0.999)
    frame = pd.DataFrame({
        "transaction_id": np.arange(N), "customer_id": customer, "amount": rng.lognormal(4, 0.6, N).round(2),
        "is_fraud": fraud,
    })  # fmt: skip
    return frame, score, group


@pytest.fixture(scope="module")
def judged(bank):
    frame, score, group = bank
    return fairness.judge_groups(frame, score, (score >= 0.4).astype(int), group, seed=0)


def test_the_slice_table_counts_what_a_confusion_matrix_counts(bank):
    frame, score, group = bank
    flagged = (score >= 0.4).astype(int)
    for row in fairness.slice_table(frame["is_fraud"].to_numpy(), flagged, group.where(group != "c", None)):
        own = (group.replace("c", "unknown") == row["group"]).to_numpy()
        (honest, false), (missed, hit) = confusion_matrix(frame["is_fraud"][own], flagged[own])
        assert row["payments"] == own.sum() and row["frauds"] == missed + hit
        assert row["recall"] == pytest.approx(hit / (missed + hit), abs=1e-6)
        assert row["precision"] == pytest.approx(hit / (hit + false), abs=1e-6)
        assert row["false_alarm_rate"] == pytest.approx(false / (honest + false), abs=1e-6)


def test_each_rate_lies_in_its_interval_and_is_what_a_count_by_hand_gives(bank, judged):
    frame, score, group = bank
    for row in judged[0]:
        own = frame[(group == row["group"]).to_numpy()].assign(score=score[group == row["group"]])
        alarms = own[(own["score"] >= 0.4) & (own["is_fraud"] == 0)]
        by_hand = {
            "recall": row["recall"], "precision": row["precision"], "false_alarm_rate": row["false_alarm_rate"],
            "false_declines": len(alarms) / own[own["is_fraud"] == 0]["customer_id"].nunique(),
            "calibration": own["score"].sum() / own["is_fraud"].sum(),
        }  # fmt: skip
        for rate, value in by_hand.items():
            found = row["intervals"][rate]
            assert found["value"] == pytest.approx(value, abs=1e-5)
            assert found["low"] <= value <= found["high"] and found["low"] < found["high"]


def test_a_group_of_few_victims_is_named_and_not_ranked(judged):
    rows, gaps = judged
    small = {row["group"]: row["small"] for row in rows}
    assert small == {"a": False, "b": False, "c": True}
    assert all({gap["lowest"], gap["highest"]} <= {"a", "b"} for gap in gaps.values())


def test_a_planted_gap_is_clear(judged):
    recall = judged[1]["recall"]
    assert (recall["lowest"], recall["highest"], recall["clear"]) == ("b", "a", True)


def test_a_gap_of_luck_is_seldom_clear(bank):
    frame, score, _ = bank
    rng, clear = np.random.default_rng(2), []
    for _ in range(12):
        luck = pd.Series(rng.permutation(np.arange(400) % 4)[frame["customer_id"]])
        _, gaps = fairness.judge_groups(frame, score, (score >= 0.4).astype(int), luck, seed=0)
        clear += [gaps[rate]["clear"] for rate in ("recall", "false_alarm_rate")]
    assert np.mean(clear) < 0.1


def test_more_pairs_widen_the_interval_of_a_gap(bank):
    frame, score, _ = bank
    flagged = (score >= 0.4).astype(int)
    width = {}
    for parts in (2, 6):
        sums = fairness.GroupSums(frame, score, frame["customer_id"] % parts)
        draws = fairness.draw_customers(sums.customers, 0, 200)
        once, many = sums.rates(flagged, np.ones((1, sums.customers))), sums.rates(flagged, draws)
        found = fairness._largest_gap(once["recall"][0], many["recall"], list(range(parts)), sums.names)
        low, high = sums.names.index(found["lowest"]), sums.names.index(found["highest"])
        width[parts] = (found["high"] - found["low"]) / (many["recall"][:, high] - many["recall"][:, low]).std(ddof=1)
    assert width[2] == pytest.approx(2 * 1.96, rel=0.01) and width[6] == pytest.approx(2 * 2.935, rel=0.01)


@pytest.mark.parametrize("criterion, rate", [("equal recall", "recall"), ("equal false alarms", "false_alarm_rate")])
def test_thresholds_make_groups_equal_where_they_were_chosen(bank, criterion, rate):
    frame, score, group = bank
    cuts = fairness.group_thresholds(criterion, frame, score, group, 0.4, SETTINGS)
    flagged = score >= group.map(cuts).to_numpy()
    rows = fairness.slice_table(frame["is_fraud"].to_numpy(), flagged, group)
    (all_,) = fairness.slice_table(frame["is_fraud"].to_numpy(), score >= 0.4, group.replace(["b", "c"], "a"))
    large = {row["group"]: row[rate] for row in rows if not row["small"]}
    assert large == pytest.approx(dict.fromkeys("ab", all_[rate]), abs=0.01)


def test_a_group_with_too_little_past_keeps_the_one_threshold(bank):
    frame, score, group = bank
    few = frame.assign(is_fraud=np.where((group == "c") & (np.arange(N) > 900), 0, frame["is_fraud"]))
    cuts = fairness.group_thresholds("most money", few, score, group, 0.4, SETTINGS)
    assert cuts["c"] == 0.4 and cuts["a"] != 0.4


def test_the_price_of_a_criterion_is_the_difference_of_two_bills(bank):
    frame, score, group = bank
    cuts = {name: dict.fromkeys("abc", cut) for name, cut in {"one": 0.4, "other": 0.3}.items()}
    one, other = fairness.price_criteria(frame, score, group, cuts, SETTINGS)
    fraud, amount = frame["is_fraud"], frame["amount"]
    saved = [economics.savings(fraud, amount, score >= cut, SETTINGS) for cut in (0.4, 0.3)]
    assert one["savings"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert other["savings"]["value"] == pytest.approx(saved[1] - saved[0], abs=1e-3)
    assert other["savings"]["low"] <= other["savings"]["value"] <= other["savings"]["high"]
    between = (score >= 0.3) & (score < 0.4)
    assert other["missed"]["value"] == -(between & (fraud == 1)).sum()
    assert other["declined"]["value"] == (between & (fraud == 0)).sum()


def test_payments_without_customers_are_each_their_own_customer(bank):
    frame, score, group = bank
    sums = fairness.GroupSums(frame.assign(customer_id=""), score, group)
    assert sums.customers == N


def test_calibration_has_an_interval_for_each_group_and_for_all(bank):
    frame, _, _ = bank
    rng = np.random.default_rng(1)
    score = rng.beta(1, 15, N)
    honest = frame.assign(is_fraud=(rng.random(N) < score).astype("int8"))
    found = judge_calibration(honest, score, seed=0)
    inside = [row["low"] <= row["mean_score"] <= row["high"] for row in found["calibration"]]
    assert np.mean(inside) > 0.7 and found["balance"]["low"] < 1 < found["balance"]["high"]
    assert all(row["low"] <= row["fraud_rate"] <= row["high"] for row in found["calibration"])
    twice = judge_calibration(honest, np.minimum(2 * score, 1), seed=0)
    assert twice["balance"]["low"] > 1.5
