"""What the service saw, what wakes somebody, and what a challenger must show."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lifecycle import contracts, features, files
from lifecycle.errors import LifecycleError
from lifecycle.features.windows import write_history
from lifecycle.monitoring import live, loop, policies, retraining, signals
from lifecycle.monitoring.alarms import Alarm, PoissonCusum, Rules
from lifecycle.monitoring.bank import Bank
from lifecycle.monitoring.performance import performance_by_day
from lifecycle.monitoring.production import SERVICE_RULES

DAY = pd.Timedelta(days=1)
SETTINGS = SimpleNamespace(seed=3, chargeback_fee=20.0, review_cost=5.0, friction_cost=2.0)


def day(text):
    return pd.Timestamp(text, tz="UTC")


# What the service saw ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank():
    """Five customers on 50 days; on three days in November amounts arrive a hundred times too large."""
    generator = np.random.default_rng(0)
    rows = 600
    times = day("2025-10-01") + pd.to_timedelta(np.sort(generator.uniform(0, 55 * 86_400, rows)).round(), unit="s")
    clean = pd.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "event_time": pd.Series(times).astype(contracts.UTC),
            "customer_id": generator.integers(1, 6, rows),
            "terminal_id": generator.integers(1, 4, rows),
            "amount": generator.uniform(5, 50, rows).round(2),
        }
    )
    wrong = clean[clean["event_time"].between(day("2025-11-17"), day("2025-11-20"), inclusive="left")]
    labels = pd.DataFrame({"transaction_id": [0], "is_fraud": np.array([1], dtype="int8"), "known_at": times[5:6]})
    return clean, wrong.assign(amount=wrong["amount"] * 100), labels.astype({"known_at": contracts.UTC})


def test_payments_are_replayed_as_first_received(bank):
    clean, superseded, _ = bank
    received = live.as_received(clean, superseded)
    assert received["corrected"].sum() == len(superseded) > 10
    assert (received["amount"] / clean["amount"])[received["corrected"]].round(6).eq(100).all()
    assert received.loc[~received["corrected"], "amount"].equals(clean.loc[~received["corrected"], "amount"])


def test_history_is_right_again_at_the_midnight_after_the_correction(bank):
    clean, superseded, _ = bank
    assert live.correction_midnight(live.as_received(clean, superseded)) == day("2025-11-21")
    assert live.correction_midnight(live.as_received(clean, superseded.iloc[:0])) is None


def test_live_history_holds_the_wrong_amounts_while_they_were_believed(bank, tmp_path):
    clean, superseded, labels = bank
    (tmp_path / "features").mkdir()
    write_history(tmp_path / "features", clean, labels)
    files.write_json(features.make_schema(clean, {}, False, False), tmp_path / "features" / "schema.json")
    received = live.as_received(clean, superseded)
    tables = {"labels": labels, "customers": None, "terminals": None}
    folder = live.write_live_features(tmp_path / "features", received, tables, day("2025-11-10"), tmp_path / "live")
    for name in ("customer_daily", "terminal_daily"):
        key = f"{name.split('_')[0]}_id"
        now = pd.read_parquet(tmp_path / "features" / f"{name}.parquet").set_index(["event_timestamp", key])
        then = pd.read_parquet(folder / f"{name}.parquet").set_index(["event_timestamp", key])
        assert then.index.is_unique
        assert set(then.index) == {index for index in now.index if index[0] >= day("2025-11-10")}
        different = (now.loc[then.index] != then) & ~(now.loc[then.index].isna() & then.isna())
        days = different.any(axis=1).groupby(level=0).any()
        assert days[days].index.strftime("%m-%d").tolist() == ["11-18", "11-19", "11-20"]
    now = pd.read_parquet(tmp_path / "features" / "recent.parquet").set_index("transaction_id")
    then = pd.read_parquet(folder / "recent.parquet").set_index("transaction_id")
    assert then.index.is_unique
    changed = then.index[(now.loc[then.index, "customer_amount_24h"] - then["customer_amount_24h"]).abs() > 1e-9]
    times = clean.set_index("transaction_id").loc[changed, "event_time"]
    assert day("2025-11-17") <= times.min()
    assert day("2025-11-20") < times.max() < day("2025-11-21")  # the service remembers for a day


def test_sample_of_customers_is_fixed_and_of_the_asked_size(bank):
    clean, _, _ = bank
    one, two = (live.sample_customers(clean["customer_id"], 0.4, seed=1) for _ in range(2))
    assert one.tolist() == two.tolist()
    assert len(one) == 2


# Signals and rules ---------------------------------------------------------------------------------------------


def payments(rows, seed, since="2025-10-01", days=35):
    generator = np.random.default_rng(seed)
    times = day(since) + pd.to_timedelta(generator.uniform(0, days * 86_400, rows), unit="s")
    score = generator.beta(1, 60, rows)
    frame = pd.DataFrame(
        {
            "transaction_id": np.arange(rows) + seed * 1_000_000,
            "event_time": pd.Series(times).astype(contracts.UTC),
            "customer_id": generator.integers(0, 1000, rows),
            "terminal_id": generator.integers(0, 500, rows),
            "amount": generator.lognormal(3, 1, rows),
            "channel": generator.choice(["pos", "online"], rows, p=[0.7, 0.3]),
            "merchant_category": generator.choice(["grocery", "travel", None], rows, p=[0.5, 0.48, 0.02]),
            "score": score,
            "flagged": score > 0.07,
        }
    )
    return frame.assign(hour=frame["event_time"].dt.hour)


@pytest.fixture(scope="module")
def ruled():
    clean = payments(35 * 1500, seed=1)
    words = {"channel": ["online", "pos"], "merchant_category": ["grocery", "travel"]}
    reference = signals.SignalReference(clean, words)
    days = pd.date_range("2025-10-01", "2025-11-04", tz="UTC")
    daily, _ = signals.by_day(reference, clean, days)
    counts = pd.DataFrame({"all": np.random.default_rng(2).poisson(2, 35)}, index=days)
    return reference, Rules.fit(daily, counts, note_days=90, page_days=365, seed=0)


def alarms_of(ruled, chunk):
    reference, rules = ruled
    days = pd.date_range(chunk["event_time"].min().floor("D"), chunk["event_time"].max().floor("D"))
    daily, _ = signals.by_day(reference, chunk, days)
    return [alarm for moment in days for alarm in rules.check_signals(str(moment.date()), daily.loc[moment])]


def test_clean_days_raise_hardly_a_note_and_no_page(ruled):
    found = alarms_of(ruled, payments(60 * 1500, seed=2, since="2025-11-05", days=60))
    assert len(found) <= 4  # one in 90 days is the nominal rate
    assert not [alarm for alarm in found if alarm.severity == "page"]


def test_amounts_in_cents_are_a_page_that_names_the_channel(ruled):
    chunk = payments(1500, seed=3, since="2025-11-05", days=1)
    chunk["amount"] = chunk["amount"].where(chunk["channel"] == "pos", chunk["amount"] * 100)
    pages = {alarm.signal for alarm in alarms_of(ruled, chunk) if alarm.severity == "page"}
    assert "psi:amount:online" in pages
    assert "psi:amount:pos" not in pages


def test_a_season_is_a_note_and_no_page(ruled):
    chunk = payments(1500 * 5, seed=4, since="2025-11-05", days=5)
    found = alarms_of(ruled, chunk.assign(amount=chunk["amount"] * 1.35))
    assert {alarm.severity for alarm in found if alarm.signal.startswith("psi:amount")} == {"note"}


def test_each_alarm_has_an_entry_in_the_runbook(ruled):
    text = (Path(__file__).resolve().parents[2] / "book" / "runbook.md").read_text(encoding="utf-8")
    entries = {name.split(":")[0] for name in re.findall(r"`(.+?)`", "".join(re.findall(r"^## .*$", text, re.M)))}
    _, rules = ruled
    raised = {*rules.limits, rules.check_chart("2025-12-01", pd.Series({"x": np.inf}))[0].signal, *SERVICE_RULES}
    assert {name.split(":")[0] for name in raised} == entries


def test_lost_categories_and_a_silent_model_are_pages(ruled):
    chunk = payments(1500, seed=5, since="2025-11-05", days=1)
    chunk.loc[: len(chunk) // 4, "merchant_category"] = None
    chunk["flagged"] = False
    pages = {alarm.signal for alarm in alarms_of(ruled, chunk) if alarm.severity == "page"}
    assert {"unknown:merchant_category", "alerted_customers"} <= pages


def test_one_stolen_card_with_many_alerts_is_no_alarm(ruled):
    chunk = payments(1500, seed=8, since="2025-11-05", days=1)
    burst = chunk.index < 60
    chunk = chunk.assign(flagged=chunk["flagged"] | burst, customer_id=chunk["customer_id"].where(~burst, 1_000_001))
    assert "alerted_customers" not in {alarm.signal for alarm in alarms_of(ruled, chunk)}


def test_a_day_without_payments_has_no_signals_and_no_alarm(ruled):
    reference, rules = ruled
    daily, distances = signals.by_day(reference, payments(10, 6).iloc[:0], pd.DatetimeIndex([day("2025-11-05")]))
    assert daily.drop(columns="captured").isna().all(axis=None)
    assert (distances["linf"] == 0).all()
    assert rules.check_signals("2025-11-05", daily.iloc[0]) == []


def test_a_terminal_counts_once_in_a_fortnight():
    scored = payments(6, seed=7, since="2025-11-05", days=1).assign(terminal_id=[1, 1, 1, 2, 3, 1], flagged=False)
    scored.loc[4, "flagged"] = True
    known = [scored["event_time"][i] + delay * DAY for i, delay in enumerate([1, 2, 3, 3, 3, 20])]
    labels = pd.DataFrame({"transaction_id": scored["transaction_id"], "is_fraud": 1, "known_at": known})
    days = pd.date_range("2025-11-05", "2025-11-30", tz="UTC")
    missed, caught = signals.missed_reports(scored, labels, days, None)
    assert (missed.sum().sum(), caught.sum().sum()) == (2, 1)  # terminal 1 once, the report after 20 days is not fresh


# Retraining ----------------------------------------------------------------------------------------------------

MOMENT = day("2025-12-08")


@pytest.fixture(scope="module")
def history():
    """Old fraud shows in the first feature; from 1 December new fraud shows in the second one only."""
    generator = np.random.default_rng(4)
    rows = 40_000
    times = day("2025-10-09") + pd.to_timedelta(np.sort(generator.uniform(0, 76 * 86_400, rows)), unit="s")
    matrix = generator.normal(size=(rows, 2)).astype("float32")
    is_new = (times >= day("2025-12-01")) & (generator.random(rows) < 0.02)
    is_old = ~is_new & (generator.random(rows) < 0.01)
    matrix[is_old, 0] += 4
    matrix[is_new, 1] += 4
    frame = pd.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "event_time": pd.Series(times).astype(contracts.UTC),
            "customer_id": generator.integers(0, 900, rows),
            "amount": generator.lognormal(4, 0.5, rows),
        }
    )
    fraud = np.asarray(is_old | is_new)
    delay = np.where(fraud, generator.exponential(3, rows), 7.0)
    labels = pd.DataFrame(
        {
            "transaction_id": frame["transaction_id"],
            "is_fraud": fraud.astype("int8"),
            "known_at": (frame["event_time"] + pd.to_timedelta(delay, unit="D")).astype(contracts.UTC),
        }
    )
    champion = 1 / (1 + np.exp(-3 * (matrix[:, 0].astype(float) - 3)))
    return retraining.Payments(frame, matrix, champion), labels


class Fitted:
    def __init__(self, matrix, is_fraud):
        from sklearn.tree import DecisionTreeClassifier

        self.model = DecisionTreeClassifier(max_depth=5, min_samples_leaf=10, random_state=0).fit(matrix, is_fraud)

    def predict(self, matrix):
        return self.model.predict_proba(matrix)[:, 1]


def attempt(history, fit=Fitted, labels=None, **options):
    payments_, known = history
    in_use = retraining.InUse(payments_.champion, np.full(len(payments_.champion), 0.5))
    labels = known if labels is None else labels
    return retraining.retrain(payments_, labels, MOMENT, day("2025-10-10"), in_use, fit, SETTINGS, **options)


def test_a_challenger_that_learned_the_new_fraud_is_promoted_and_pays(history):
    payments_, labels = history
    made = attempt(history)
    assert made.facts["promoted"]
    assert made.facts["gate"]["gain_money_per_day"]["low"] > 0
    before = retraining.InUse(payments_.champion, np.full(len(payments_.champion), 0.5))
    now = before.replaced(made, payments_, MOMENT)
    later = payments_.between(MOMENT, day("2026-01-01"))
    assert (now.score[~later] == before.score[~later]).all()
    label = retraining.known_labels(payments_.frame, labels, day("2026-03-01"))
    after = retraining.compare(
        payments_.frame[later],
        label[later],
        (before.score[later], before.flagged[later]),
        (now.score[later], now.flagged[later]),
        SETTINGS,
    )
    assert after["gain_recall"]["low"] > 0.2
    assert after["gain_money_per_day"]["low"] > 0


def test_a_challenger_trained_on_poisoned_labels_is_refused(history):
    def poisoned(matrix, is_fraud):
        return Fitted(matrix, 1 - is_fraud)

    made = attempt(history, fit=poisoned)
    assert not made.facts["promoted"]
    assert made.model is None


def test_only_labels_known_at_the_moment_are_learned(history):
    payments_, labels = history
    seen = []

    def spy(matrix, is_fraud):
        seen.append((len(matrix), int(is_fraud.sum())))
        return Fitted(matrix, is_fraud)

    attempt(history, fit=spy)
    first = list(seen)
    future = labels["known_at"] > MOMENT
    attempt(history, fit=spy, labels=labels.assign(is_fraud=labels["is_fraud"].where(~future, 1)))
    assert seen[len(first) :] == first
    assert first[1][0] == (labels["known_at"] <= MOMENT)[payments_.between(day("2025-10-10"), MOMENT)].sum()


def test_the_gate_judges_on_customers_that_were_not_learned(history):
    payments_, _ = history
    out = retraining.held_out_customers(payments_.frame, retraining.HELD_OUT, SETTINGS.seed)
    inside, outside = (set(payments_.frame["customer_id"][keep]) for keep in (~out, out))
    assert not inside & outside
    assert len(outside) == pytest.approx(len(inside) / 2, rel=0.02)


def test_rows_that_are_still_wrong_are_left_out(history):
    payments_, _ = history
    wrong = payments_.between(day("2025-11-17"), day("2025-11-20"))
    with_all, without = attempt(history), attempt(history, wrong=wrong)
    assert without.facts["left_out_as_wrong"] == wrong.sum() > 0
    assert without.facts["rows"] == with_all.facts["rows"] - wrong.sum()


def test_without_known_fraud_there_is_a_sentence(history):
    _, labels = history
    with pytest.raises(LifecycleError, match="No fraud is known by 2025-12-08"):
        attempt(history, labels=labels.assign(is_fraud=np.int8(0)))


def test_the_interval_holds_the_value_and_equal_models_have_no_gain(history):
    payments_, labels = history
    rows = payments_.between(day("2025-12-01"), MOMENT)
    label = retraining.known_labels(payments_.frame, labels, day("2026-03-01"))[rows]
    flags = (payments_.champion[rows], payments_.champion[rows] > 0.5)
    better = (payments_.matrix[rows].max(axis=1), payments_.matrix[rows].max(axis=1) > 3)
    gain = retraining.compare(payments_.frame[rows], label, flags, better, SETTINGS)["gain_recall"]
    assert gain["low"] < gain["value"] < gain["high"]
    same = retraining.compare(payments_.frame[rows], label, flags, flags, SETTINGS)
    assert same["gain_money_per_day"] == {"value": 0, "low": 0, "high": 0}


def test_retraining_comes_after_the_first_page_and_weekly_while_pages_go_on():
    paged = [Alarm(d, "missed_fraud:x", "page", 1, 0, "") for d in ("2025-12-05", "2025-12-06", "2025-12-17")]
    moments, until = [None], day("2025-12-24")
    while moments[-1] or len(moments) == 1:
        moments.append(loop._moment_after(moments[-1], paged, until))
    assert [str(moment.date()) for moment in moments[1:-1]] == ["2025-12-06", "2025-12-13", "2025-12-20"]
    assert loop._moment_after(None, [], until) is None
    assert loop._moment_after(None, paged, day("2025-12-06")) is None


# The model that serves -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(history):
    """The bank of `history` under watch: the champion decided everything at a score of one half."""
    payments_, labels = history
    scored = payments_.frame.assign(
        terminal_id=np.arange(len(payments_.frame)), score=payments_.champion, flagged=payments_.champion >= 0.5
    )
    clean, days = (
        pd.date_range(*span, tz="UTC") for span in (("2025-10-25", "2025-11-30"), ("2025-12-01", "2025-12-23"))
    )
    made = Bank(scored, payments_, scored, labels, 0.5, ["old", "new"], [], {}, clean, days, clean[:0])
    missed, _ = signals.missed_reports(scored, labels, clean, None)
    rules = Rules({}, 0.0, {}, PoissonCusum.fit(missed, days_between=365))
    champion = retraining.InUse(payments_.champion, np.full(len(payments_.champion), 0.5))
    watch = loop.Watch(made, rules, None)
    past = policies.Past(payments_, labels, 60 * DAY, np.zeros(len(scored), bool), None)
    return made, watch, champion, loop.follow_pages(past, watch, champion, Fitted, days[-1], SETTINGS)


def test_the_chart_and_the_performance_follow_the_model_that_serves(watched):
    made, watch, champion, (in_use, attempts, served) = watched
    never = watch.serve(champion, [])
    since = pd.Timestamp(next(attempt.facts["moment"] for attempt in attempts if attempt.model is not None))
    later = (made.scored["event_time"] >= since).to_numpy()
    assert np.array_equal(served.flagged[~later], made.scored["flagged"][~later])
    assert np.array_equal(served.flagged[later], in_use.flagged[later])
    assert np.array_equal(served.score[later], in_use.score[later])
    before = served.levels.index < since
    pd.testing.assert_frame_equal(served.levels[before], never.levels[before])
    assert served.levels["all"].iloc[-1] < never.levels["all"].iloc[-1] / 2
    decided = made.scored.assign(score=served.score, flagged=served.flagged)
    recall = [performance_by_day(table[later], made.labels, None)["recall"].mean() for table in (decided, made.scored)]
    assert recall[0] > recall[1] + 0.2


def test_late_reports_of_the_model_before_are_no_evidence_against_the_new_one(watched):
    made, watch, champion, _ = watched
    perfect = retraining.InUse(np.ones(len(made.scored)), np.full(len(made.scored), 0.5))
    since = day("2025-12-10")
    served = watch.serve(perfect, [since])
    late = made.labels["known_at"].ge(since) & (made.labels["is_fraud"] == 1)
    late &= made.labels["transaction_id"].isin(made.scored.loc[made.scored["event_time"] < since, "transaction_id"])
    assert late.sum() > 50  # there are such reports, and the champion's chart is far above its limit
    assert watch.serve(champion, []).levels.loc[since, "all"] > 10
    assert (served.levels.loc[since:, "all"] == 0).all()
    assert {alarm.day for alarm in served.paged} == {
        a.day for a in watch.serve(champion, []).paged if a.day < "2025-12-10"
    }


def test_the_next_attempt_answers_to_pages_about_the_model_that_serves(watched):
    made, watch, champion, (_, attempts, served) = watched
    moments = [pd.Timestamp(attempt.facts["moment"]) for attempt in attempts]
    assert moments[0] == contracts.midnight(served.paged[0].day) + DAY
    expected = [None]
    while expected[-1] is not None or len(expected) == 1:
        expected.append(loop._moment_after(expected[-1], served.paged, made.days[-1]))
    assert moments == expected[1:-1]
    assert len(served.paged) < len(watch.serve(champion, []).paged)
