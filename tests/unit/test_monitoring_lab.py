"""The drift lab, estimated performance, retraining policies: what each sees, and what it must not see."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lifecycle.errors import LifecycleError
from lifecycle.monitoring import detectors, lab, policies, retraining
from lifecycle.monitoring.estimate import Calibrator, by_week, estimate
from lifecycle.monitoring.production import service_alarms

START = pd.Timestamp("2025-09-29", tz="UTC")
DAY = pd.Timedelta(days=1)
SETTINGS = SimpleNamespace(seed=3, chargeback_fee=20.0, review_cost=5.0, friction_cost=2.0)


class Model:
    """Large amounts are suspect."""

    def predict(self, matrix):
        return 1 / (1 + np.exp(-(matrix[:, 0].astype(float) - 150) / 10))


@pytest.fixture(scope="module")
def bench():
    """Five calm weeks: a hundredth of the payments is fraud, most of it with large amounts."""
    generator, rows = np.random.default_rng(0), 35 * 1200
    fraud = generator.random(rows) < 0.01
    amount = np.where(fraud, generator.normal(180, 20, rows), generator.lognormal(3, 0.6, rows))
    matrix = np.column_stack([amount, generator.integers(0, 24, rows)]).astype("float32")
    times = START + pd.to_timedelta(generator.uniform(0, 35 * 86_400, rows), unit="s")
    score = Model().predict(matrix)
    frame = pd.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "event_time": times,
            "customer_id": generator.integers(0, 400, rows),
            "terminal_id": generator.integers(0, 5000, rows),
            "merchant_category": generator.choice(["grocery", "travel"], rows),
            "score": score,
            "flagged": score >= 0.5,
        }
    )
    known = frame["event_time"] + pd.to_timedelta(np.where(fraud, generator.exponential(3, rows), 7), unit="D")
    labels = pd.DataFrame({"transaction_id": frame["transaction_id"], "is_fraud": fraud.astype(int), "known_at": known})
    pool = lab.make_pool(frame, matrix, labels, START)
    online = generator.random(rows) < 0.4
    made = lab.Bench(pool, online, np.ones(35, bool), ["amount", "hour"], ["amount", "hour"], Model(), 0.5)
    return made, Calibrator(fraud.astype(float), score)


@pytest.fixture(scope="module")
def tried(bench):
    made, calibrator = bench
    false_alarms, power = lab.run(made, calibrator, seed=1, months=60)
    return false_alarms, power.set_index(["detector", "kind", "size"])["power"]


def test_the_limits_keep_their_promise_on_other_months(tried):
    false_alarms, _ = tried
    kept = false_alarms[false_alarms["rule"] == "calibrated"]
    assert len(kept) == len(detectors.DETECTORS)
    assert (kept["months"] <= 0.35).all()  # a tenth is promised, 60 months tell it to within a few


def test_concept_drift_is_seen_by_labels_and_by_nothing_else(tried):
    _, power = tried
    concept = power.xs(("concept", 0.003), level=("kind", "size"))
    labels = ["realized recall", "CUSUM of missed fraud"]
    assert (concept[labels] > 0.9).all()
    clean = power.xs(("concept", 0.0005), level=("kind", "size"))
    blind = concept.index.difference([*labels, "realized precision"])
    pd.testing.assert_series_equal(concept[blind], clean[blind])  # the size makes no difference to what sees nothing


def test_amounts_in_cents_are_found_by_every_detector_of_inputs(tried):
    _, power = tried
    broken = power.xs(("data quality", 0.2), level=("kind", "size"))
    assert (broken[list(detectors.DETECTORS)[:9]] > 0.9).all()


def test_a_change_touches_what_its_kind_says_and_nothing_else(bench):
    made, _ = bench
    concept = lab.plant(made, "concept", 0.003, 1)
    assert np.array_equal(concept.removed.matrix, concept.added.matrix)
    assert concept.added.fraud.all() and not concept.removed.fraud.any() and not concept.added.flagged.any()
    assert len(concept.added) == pytest.approx(0.003 * len(made.pool), rel=0.4)
    prior = lab.plant(made, "prior", 2.0, 1)
    assert prior.added.fraud.all() and len(prior.added) == 2 * made.pool.fraud.sum()
    cents = lab.plant(made, "data quality", 0.2, 1)
    assert np.allclose(cents.added.matrix[:, 0], 100 * cents.removed.matrix[:, 0])
    assert np.array_equal(cents.added.matrix[:, 1], cents.removed.matrix[:, 1])


def test_counts_of_days_are_those_of_a_loop(bench):
    made, calibrator = bench
    counter = detectors.Counter(made.pool, [0, 1], calibrator, 2)
    customers = int(made.pool.customer.max()) + 1
    counts = counter.count(made.pool, np.ones((customers, 1), "float32"), 35)
    for name, values in (("payments", np.ones(len(made.pool))), ("flagged", made.pool.flagged)):
        by_hand = np.bincount(made.pool.day, values, minlength=35)
        assert np.allclose(counts[:, 0, counter.sums[name]], by_hand)


def test_correction_for_many_tests_keeps_the_promise_the_plain_test_breaks():
    p_value = np.random.default_rng(0).random((4000, 20))
    rate = {method: (detectors.adjust(p_value, method) < 0.05).mean() for method in ("none", "holm", "bh")}
    assert rate["none"] > 0.5
    assert 0.03 < rate["holm"] <= rate["bh"] < 0.07


def test_performance_is_estimated_well_while_scores_mean_what_they_meant():
    generator = np.random.default_rng(1)
    p = generator.beta(0.3, 5, 40_000)
    label = (generator.random(len(p)) < p).astype(float)
    calibrator = Calibrator(label[:20_000], p[:20_000])
    frame = pd.DataFrame({"event_time": START, "score": p[20_000:], "flagged": p[20_000:] > 0.3})
    week = by_week(frame, label[20_000:], calibrator, START).iloc[0]
    for metric in ("precision", "recall", "average_precision"):
        assert week[f"{metric}_estimated"] == pytest.approx(week[f"{metric}_realized"], abs=0.04)
    changed = by_week(frame, 1 - label[20_000:], calibrator, START).iloc[0]  # the meaning changes, the scores do not
    assert changed["recall_estimated"] == week["recall_estimated"] > changed["recall_realized"] + 0.2


def test_nothing_flagged_has_no_precision_and_one_kind_of_label_cannot_calibrate():
    assert np.isnan(estimate(np.array([0.2, 0.4]), np.array([0.2, 0.4]), np.array([False, False]))["precision"])
    with pytest.raises(LifecycleError, match="0 frauds in 3 labeled payments"):
        Calibrator(np.zeros(3), np.arange(3.0))


def test_policies_are_compared_with_never_and_by_week():
    rows = 700
    generator = np.random.default_rng(2)
    fraud = (generator.random(rows) < 0.1).astype(float)
    frame = pd.DataFrame(
        {
            "event_time": START + pd.to_timedelta(np.arange(rows) % 14, unit="D"),
            "customer_id": generator.integers(0, 90, rows),
            "amount": 100.0,
        }
    )
    flagged = {"never": np.zeros(rows, bool), "oracle": fraud > 0}
    made, weeks = policies.compare_policies(frame, fraud, flagged, SETTINGS)
    assert made["never"]["gain_money_per_day"] == {"value": 0, "low": 0, "high": 0}
    assert made["oracle"]["gain_money_per_day"]["value"] == pytest.approx(fraud.sum() * 115 / 14)
    assert made["oracle"]["gain_money_per_day"]["low"] > 0
    assert len(weeks) == 4 and weeks.groupby("policy")["cost"].sum()["oracle"] == pytest.approx(fraud.sum() * 5)


def test_poison_changes_the_labels_it_says():
    seen = []

    def spy(matrix, is_fraud):
        seen.append(is_fraud)
        return Model()

    matrix, label = np.repeat([[1.0], [2.0]], 500, axis=0), np.ones(1000)
    policies.hidden(spy, 0, [2.0])(matrix, label)
    policies.flipped(spy, 0.3, seed=0)(matrix, label)
    assert seen[0].tolist() == [1.0] * 500 + [0.0] * 500
    assert seen[1].mean() == pytest.approx(0.7, abs=0.05)


def test_the_oracle_is_never_dearer_than_the_champion():
    generator, rows = np.random.default_rng(4), 12_000
    times = START + pd.to_timedelta(np.sort(generator.uniform(0, 60 * 86_400, rows)), unit="s")
    fraud = generator.random(rows) < 0.03
    frame = pd.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "event_time": times,
            "customer_id": generator.integers(0, 300, rows),
            "amount": 50.0,
        }
    )
    labels = pd.DataFrame(
        {"transaction_id": np.arange(rows), "is_fraud": fraud.astype(int), "known_at": times + 7 * DAY}
    )
    matrix = (fraud + generator.normal(0, 0.3, rows)).astype("float32")[:, None]
    past = policies.Past(
        retraining.Payments(frame, matrix, np.zeros(rows)), labels, 40 * DAY, np.zeros(rows, bool), None
    )
    champion = retraining.InUse(np.zeros(rows), np.full(rows, 0.5))

    class Fitted:
        def predict(self, values):
            return np.clip(values[:, 0].astype(float), 0, 1)

    used = policies.follow_oracle(
        past,
        policies.calendar(START + 40 * DAY, START + 60 * DAY, policies.WEEK),
        champion,
        lambda m, y: Fitted(),
        SETTINGS,
    )
    live = past.payments.between(START + 47 * DAY, START + 60 * DAY)
    assert used.flagged[live & fraud].mean() > 0.7
    assert not used.flagged[~live & (frame["event_time"] < START + 47 * DAY).to_numpy()].any()


def test_a_missed_refresh_a_failed_request_and_late_answers_are_pages():
    daily = pd.DataFrame(
        {
            "errors": [0, 2, 0],
            "feature_age_hours": [23.9, 23.9, 47.5],
            "latency_p99_ms": [99.0, 3.0, 101.0],
        },
        index=pd.date_range(START, periods=3),
    )
    assert [(a.day, a.signal, a.limit) for a in service_alarms(daily, decision_timeout=0.1)] == [
        ("2025-09-30", "errors", 0.0),
        ("2025-10-01", "feature_age_hours", 24.0),
        ("2025-10-01", "latency_p99_ms", 100.0),
    ]
    assert not service_alarms(daily.iloc[:1], decision_timeout=0.1)
