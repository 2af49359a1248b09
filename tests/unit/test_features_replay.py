"""The skew check: a replay that finds nothing where both paths agree, and names the feature where they do not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from features_oracle import built, random_bank

from lifecycle import features
from lifecycle.errors import LifecycleError
from lifecycle.features import windows


@pytest.fixture(scope="module")
def bank():
    return random_bank(seed=4)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, bank):
    return built(tmp_path_factory.mktemp("bank"), *bank)


@pytest.fixture(scope="module")
def offline(artifact):
    return pd.read_parquet(artifact / "test_set.parquet")


def test_a_replay_of_several_days_differs_in_no_row(artifact, bank, offline):
    found = features.replay(artifact, bank[0], offline)
    assert found.events == len(offline) > 500 and offline["event_time"].dt.floor("D").nunique() > 3
    assert found.rows_different == 0 and found.differing.empty
    assert str(found) == f"0 of {len(offline):,} rows differ"


def test_events_without_a_label_are_replayed_though_they_are_not_compared(artifact, bank, offline):
    some = offline.iloc[::3]
    assert features.replay(artifact, bank[0], some).rows_different == 0


def test_a_clock_that_is_off_is_named(artifact, bank, offline):
    def late(frame):
        return frame.assign(event_time=frame["event_time"] + pd.Timedelta(hours=2))

    found = features.replay(artifact, bank[0], offline, change=late)
    assert found.differing["hour"] == 1
    assert "amount" not in found.differing and "customer_count_1h" not in found.differing


def test_amounts_in_cents_are_named(artifact, bank, offline):
    def cents(frame):
        tapped = frame["channel"] == "pos"
        return frame.assign(amount=frame["amount"].where(~tapped, frame["amount"] * 100))

    found = features.replay(artifact, bank[0], offline, change=cents)
    assert {"amount", "log_amount", "customer_amount_24h"} <= set(found.differing.index)
    assert "customer_count_24h" not in found.differing and "hour" not in found.differing


def test_a_daily_feature_of_another_definition_is_named(artifact, bank, offline):
    def one_more(view, rows):
        return rows.assign(terminal_fraud_7d=rows["terminal_fraud_7d"] + 1) if view == "terminal_daily" else rows

    found = features.replay(artifact, bank[0], offline, change_daily=one_more)
    assert list(found.differing.index) == ["terminal_fraud_7d"] and found.rows_different == len(offline)


def test_an_event_that_nobody_paid_is_refused(artifact, bank, offline):
    unknown = offline.assign(transaction_id=[-1, *offline["transaction_id"].iloc[1:]])
    with pytest.raises(LifecycleError, match="1 of .* are not among the payments"):
        features.replay(artifact, bank[0], unknown)


def test_activity_as_of_the_last_event_is_the_offline_table(artifact, bank, offline):
    (table,) = features.recent_as_of(artifact, bank[0], offline, [1])
    names = [name for name in windows.RECENT if name in offline]
    np.testing.assert_array_equal(table[names].to_numpy(), offline[names].to_numpy("float32"))


def test_a_job_once_an_hour_does_not_see_the_minutes_before(artifact, bank, offline):
    (table,) = features.recent_as_of(artifact, bank[0], offline, [windows.HOUR])
    frame = bank[0].set_index("transaction_id")
    row = int(np.flatnonzero(offline["customer_count_1h"].to_numpy() > 0)[0])
    event = frame.loc[offline["transaction_id"].iloc[row]]
    run = event["event_time"].floor("h")
    own = frame[frame["customer_id"] == event["customer_id"]]
    expected = own["event_time"].between(run - pd.Timedelta(hours=1), run, inclusive="left").sum()
    assert table["customer_count_1h"].iloc[row] == expected
    assert not table["customer_count_1h"].equals(offline["customer_count_1h"])
