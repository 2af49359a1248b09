"""The laboratory for leaks: it looks at no later label and no later payment than it says."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.errors import LifecycleError
from lifecycle.preprocessing import leaks
from lifecycle.settings import Settings

CALENDAR = Settings()
DAY = pd.Timedelta(days=1)


def bank(slowest: int, rows: int = 20_000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Payments of four months, a fifth of them fraud; a fraud is reported after 3 to `slowest` days."""
    random = np.random.default_rng(1)
    times = pd.Timestamp("2025-07-15", tz="UTC") + pd.to_timedelta(np.sort(random.uniform(0, 120, rows)), "D")
    fraud = random.random(rows) < 0.2
    frame = pd.DataFrame({"transaction_id": range(rows), "event_time": pd.Series(times).dt.as_unit("us")})
    frame["amount"] = np.where(fraud, 300.0, 30.0) * random.lognormal(0, 0.3, rows)
    silence = frame[["transaction_id"]].assign(is_fraud=0, known_at=frame["event_time"] + 7 * DAY)
    delay = pd.to_timedelta(random.uniform(3, slowest, rows), "D")
    report = frame[["transaction_id"]].assign(is_fraud=1, known_at=frame["event_time"] + delay)[fraud]
    early = silence["transaction_id"].isin(report.loc[delay[fraud] <= 7 * DAY, "transaction_id"])
    return frame, pd.concat([silence[~early], report]).astype({"is_fraud": "int8"})


PAYMENTS, LABELS = bank(slowest=6)
LAB = leaks.Lab(PAYMENTS, LABELS, CALENDAR)


def test_the_test_period_stays_closed() -> None:
    assert LAB.payments["event_time"].min() >= pd.Timestamp("2025-08-01", tz="UTC")
    assert LAB.payments["event_time"].max() < pd.Timestamp("2025-09-22", tz="UTC")
    assert [f"{moment.at:%m-%d}" for moment in LAB.moments] == ["08-25", "09-01", "09-08", "09-15"]


def test_a_moment_knows_what_was_known_and_no_more() -> None:
    payments, labels = bank(slowest=20)
    lab = leaks.Lab(payments, labels, CALENDAR)
    times, ids = lab.payments["event_time"], lab.payments["transaction_id"]
    for moment in lab.moments:
        known = labels[labels["known_at"] <= moment.at].sort_values("known_at").groupby("transaction_id")["is_fraud"]
        expected = ids.map(known.last()).to_numpy("float64")
        assert np.array_equal(moment.believed, expected, equal_nan=True)
        assert not np.isnan(moment.believed[moment.known]).any()
        assert times[moment.early].max() < times[moment.late].min()
        assert times[moment.known].max() < moment.at - 7 * DAY <= times[moment.recent].min()
        assert times[moment.recent].max() < moment.at <= times[moment.week].min()
        assert times[moment.week].max() < moment.at + 7 * DAY


def test_labels_that_come_after_the_verdict_change_nothing() -> None:
    payments, labels = bank(slowest=20)
    verdict = pd.Timestamp("2025-09-29", tz="UTC")
    one, other = (leaks.Lab(payments, kept, CALENDAR) for kept in (labels, labels[labels["known_at"] <= verdict]))
    for ours, theirs in zip(one.moments, other.moments, strict=True):
        assert np.array_equal(ours.later, theirs.later, equal_nan=True)


def by_amount(moment: leaks.Moment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score = LAB.payments["amount"].to_numpy() / 1e4
    return moment.late, score[moment.late], score[moment.week]


def test_the_delivery_is_counted_at_the_threshold_of_the_promise() -> None:
    result = LAB.run(by_amount)
    assert list(result["at"]) == [moment.at for moment in LAB.moments]
    assert (result["promised_ap"] > 0.9).all()
    blind = LAB.run(lambda m: (m.late, by_amount(m)[1], np.zeros(len(m.week))))
    assert (blind["delivered"] == 0).all()
    assert (blind["promised"] == result["promised"]).all()
    table = leaks.summarize({"good": result, "blind": blind})
    lost = (blind["promised"] * blind["payments"] / 1000).mean()
    assert table.loc["blind", "price"] == pytest.approx(lost)
    assert abs(table.loc["good", "gap"]) < 0.1 < table.loc["blind", "gap"]


def test_a_label_in_the_features_flatters_and_an_honest_feature_does_not() -> None:
    def leaky(moment: leaks.Moment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        answer = np.nan_to_num(moment.believed)[:, None]
        score = leaks.learn(answer[moment.early], answer[moment.early, 0])
        return moment.late, score(answer[moment.late]), score(answer[moment.week] * 0)

    result = LAB.run(leaky)
    assert (result["promised_ap"] == 1).all()
    assert (result["delivered_ap"] < 0.4).all()


def test_a_short_training_period_is_one_sentence() -> None:
    short = CALENDAR.with_(train_from=date(2025, 9, 1))
    with pytest.raises(LifecycleError, match=r"2025-09-01 to 2025-09-22 is too short for 4 weeks .* needs 45 days"):
        leaks.Lab(PAYMENTS, LABELS, short)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 60)), max_size=30),
    st.integers(1, 20),
)
def test_events_before_a_payment_are_counted_as_by_hand(here: list, there: list, days: int) -> None:
    def table(rows: list[tuple[int, int]]) -> pd.DataFrame:
        who, when = zip(*rows, strict=True) if rows else ((), ())
        times = pd.Timestamp("2025-08-01", tz="UTC") + pd.to_timedelta(list(when), "D")
        return pd.DataFrame({"who": list(who), "event_time": pd.Series(times, dtype="datetime64[us, UTC]")})

    counted = leaks.count_before(table(here), table(there), "who", "event_time", days)
    expected = [sum(e == entity and day - days <= d < day for e, d in there) for entity, day in here]
    assert counted.tolist() == expected
