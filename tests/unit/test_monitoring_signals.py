"""Realized performance as known at a moment, and alarms calibrated on clean days."""

import numpy as np
import pandas as pd
import pytest

from lifecycle.errors import LifecycleError
from lifecycle.monitoring.alarms import Alarm, PoissonCusum, first_day, limit_above
from lifecycle.monitoring.performance import measure, performance_by_day, reports_by_arrival


def at(*texts):
    return pd.Series(pd.to_datetime(list(texts), utc=True, format="ISO8601")).astype("datetime64[us, UTC]")


SCORED = pd.DataFrame(
    {
        "transaction_id": [1, 2, 3, 4],
        "event_time": at("2025-11-03 10:00", "2025-11-03 11:00", "2025-11-03 12:00", "2025-11-04 09:00"),
        "score": [0.9, 0.2, 0.7, 0.1],
        "flagged": [True, False, True, False],
        "merchant_category": ["travel", "travel", "grocery", "grocery"],
    }
)
LABELS = pd.DataFrame(
    {
        "transaction_id": [1, 2, 2, 3, 4],
        "is_fraud": np.array([1, 0, 1, 0, 0], dtype="int8"),
        "known_at": at("2025-11-05 08:00", "2025-11-10 11:00", "2025-11-14", "2025-11-10 12:00", "2025-11-11 09:00"),
    }
)


def test_measure_leaves_undefined_figures_missing():
    made = measure(np.zeros(3), np.zeros(3), np.zeros(3))
    assert np.isnan([made["precision"], made["recall"], made["average_precision"]]).all()


def test_recall_falls_when_a_late_report_overrules_an_honest_label():
    early = performance_by_day(SCORED, LABELS, after_days=8).set_index("day")
    late = performance_by_day(SCORED, LABELS, after_days=None).set_index("day")
    day = pd.Timestamp("2025-11-03", tz="UTC")
    assert (early.loc[day, "recall"], late.loc[day, "recall"]) == (1.0, 0.5)
    assert (early.loc[day, "known_share"], late.loc[day, "known_share"]) == (1.0, 1.0)


def test_only_what_was_known_counts():
    made = performance_by_day(SCORED, LABELS, after_days=1).set_index("day")
    day = pd.Timestamp("2025-11-03", tz="UTC")
    assert made.loc[day, "frauds"] == 0  # the first report comes on the morning of the 5th
    assert np.isnan(made.loc[day, "recall"])
    assert made.loc[day, "known_share"] == 0


def test_days_whose_moment_has_not_come_are_left_out():
    until = pd.Timestamp("2025-11-11", tz="UTC")
    made = performance_by_day(SCORED, LABELS, after_days=7, until=until)
    assert made["day"].dt.day.tolist() == [3]


def test_days_without_labels_are_kept_with_missing_figures():
    made = performance_by_day(SCORED, LABELS.iloc[:0], after_days=None)
    assert made["payments"].tolist() == [3, 1]
    assert made["recall"].isna().all()


def test_reports_are_counted_on_the_day_they_arrive():
    made = reports_by_arrival(SCORED, LABELS, by="merchant_category")
    assert made["day"].dt.day.tolist() == [5, 14]
    assert made["missed"].tolist() == [0, 1]
    assert reports_by_arrival(SCORED, LABELS)["reports"].tolist() == [1, 1]


def test_a_lost_column_is_named():
    with pytest.raises(LifecycleError, match="lack the column 'flagged'"):
        performance_by_day(SCORED.drop(columns="flagged"), LABELS, after_days=7)


def test_limit_is_not_below_a_clean_day_and_needs_a_week():
    clean = np.array([1.0, 1, 1, 1, 1, 1, 9])
    assert limit_above(clean, 10) >= 9
    with pytest.raises(LifecycleError, match="at least 7"):
        limit_above(clean[:6], 10)


def test_limit_is_crossed_about_as_rarely_as_promised():
    generator = np.random.default_rng(0)
    crossed = [(generator.normal(size=2000) > limit_above(generator.normal(size=60), 100)).mean() for _ in range(100)]
    assert 0.001 < np.mean(crossed) < 0.02


def clean_counts(generator, days=42):
    return pd.DataFrame({"travel": generator.poisson(3, days), "grocery": generator.poisson(0.5, days)})


def test_chart_keeps_its_false_alarm_rate_on_clean_counts():
    generator = np.random.default_rng(1)
    days, alarms = 0, 0
    for seed in range(20):
        chart = PoissonCusum.fit(clean_counts(generator, 120), days_between=180, seed=seed)
        levels = chart.run(clean_counts(generator, 180))
        days += 180
        alarms += int((levels > chart.limit).any(axis=1).any())
    assert alarms <= 20 * 0.63 + 6  # a span of 180 days crosses with probability 0.63, plus what the fit adds


def test_chart_finds_a_jump_within_days_and_stays_calm_before():
    generator = np.random.default_rng(2)
    chart = PoissonCusum.fit(clean_counts(generator), days_between=365)
    counts = clean_counts(generator, 40)
    counts.loc[20:, "grocery"] += 6
    over = chart.run(counts)["grocery"] > chart.limit
    assert not over[:20].any()
    assert over[20:23].any()


def test_chart_expects_more_reports_when_there_are_more_payments():
    chart = PoissonCusum.fit(pd.DataFrame({"a": [3, 2, 4, 3, 3, 2, 4] * 4}), days_between=365)
    counts = pd.DataFrame({"a": [8] * 30})
    busy = pd.DataFrame({"a": [8 / 3] * 30})
    assert (chart.run(counts) > chart.limit)["a"].any()
    assert not (chart.run(counts, busy) > chart.limit)["a"].any()


def test_a_group_never_seen_before_is_charted_too():
    chart = PoissonCusum.fit(pd.DataFrame({"a": [3, 2, 4, 3, 3, 2, 4] * 4}), days_between=365)
    assert (chart.run(pd.DataFrame({"a": [3], "new": [40]})) > chart.limit)["new"].all()


def test_chart_is_the_same_for_the_same_seed():
    clean = clean_counts(np.random.default_rng(3))
    assert PoissonCusum.fit(clean, 365, seed=4).limit == PoissonCusum.fit(clean, 365, seed=4).limit


def test_first_day_looks_at_severity_and_start():
    alarms = [Alarm("2025-11-10", "a:x", "note", 1, 0, ""), Alarm("2025-11-12", "a:y", "page", 1, 0, "")]
    assert first_day(alarms, "a") == "2025-11-12"
    assert first_day(alarms, "a", "note") == "2025-11-10"
    assert first_day(alarms, "a", since="2025-11-13") is None
