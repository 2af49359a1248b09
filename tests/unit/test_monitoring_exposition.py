"""The Prometheus text format: read back by the reference parser."""

import numpy as np
import pandas as pd
from prometheus_client.parser import text_string_to_metric_families

from lifecycle.monitoring.alarms import Alarm
from lifecycle.monitoring.exposition import by_day, expose

DAILY = pd.DataFrame(
    {
        "requests": [8, 9],
        "errors": [0, 2],
        "latency_p50_ms": [0.4, 0.5],
        "latency_p99_ms": [1.5, np.nan],
        "feature_age_hours": [23.5, 47.0],
        "missed_fraud_group": ["travel", "travel"],
    },
    index=pd.date_range("2025-11-17", periods=2, tz="UTC"),
)
ALARMS = [
    Alarm("2025-11-18", "errors", "page", 2.0, 0.0, ""),
    Alarm("2025-11-18", 'missed_fraud:a "new" \\ shop', "page", 9.5, 8.0, ""),
]


def read(text):
    """Return metric and labels -> value, by the reference parser."""
    return {
        (sample.name, *sorted((k, v) for k, v in sample.labels.items() if k != "day")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_day_is_read_back_with_its_own_figures_in_base_units():
    made = by_day(DAILY, ALARMS)
    assert list(made) == ["2025-11-17", "2025-11-18"]
    calm, broken = read(made["2025-11-17"]), read(made["2025-11-18"])
    assert calm[("fraud_detector_failed_requests",)] == 0
    assert calm[("fraud_detector_feature_age_seconds",)] == 23.5 * 3600
    assert calm[("fraud_detector_latency_seconds", ("quantile", "0.99"))] == 0.0015
    assert not [name for name in calm if name[0] == "fraud_detector_alarm"]
    assert broken[("fraud_detector_alarm", ("severity", "page"), ("signal", "errors"))] == 2


def test_labels_are_escaped_and_missing_figures_left_out():
    broken = read(by_day(DAILY, ALARMS)["2025-11-18"])
    assert broken[("fraud_detector_alarm", ("severity", "page"), ("signal", ALARMS[1].signal))] == 9.5
    assert ("fraud_detector_latency_seconds", ("quantile", "0.99")) not in broken
    assert ("fraud_detector_latency_seconds", ("quantile", "0.5")) in broken


def test_a_day_without_figures_has_no_metrics():
    assert expose("2025-11-17", {}, []) == "\n"
