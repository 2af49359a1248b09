"""The simulated bank in memory: deterministic, plausible, and with a truth that can be trusted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lifecycle import world
from lifecycle.errors import LifecycleError
from lifecycle.settings import FRAUD_MIXES, Settings
from lifecycle.world import episodes, incidents, rhythm
from lifecycle.world.episodes import MODE, NEVER
from lifecycle.world.population import make_population

SMALL = Settings(customers=150, terminals=300, days=20)
GOLDEN = "10107b4125ac551796e020290ae9277c1ea145427b2d4cea1265ee522ba491a0"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """A world of the default length with a fifth of the customers."""
    return world.payments(Settings(customers=1000, terminals=2000))


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Average precision, the mean precision at each fraud, ties in order of the table."""
    hits = truth[np.argsort(-score, kind="stable")].astype(float)
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1) * hits).sum() / hits.sum())


# ---------------------------------------------------------------- one seed, one world


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first = world.fingerprint(world.payments(SMALL))
    assert first == world.fingerprint(world.payments(SMALL))
    assert first != world.fingerprint(world.payments(SMALL.with_(seed=8)))


def test_the_world_of_this_seed_is_the_one_that_was_recorded():
    assert world.fingerprint(world.payments(SMALL)) == GOLDEN


def test_another_mix_of_frauds_changes_the_frauds_and_leaves_the_honest_customers_alone():
    sizes = Settings(customers=1000, terminals=2000, days=60)
    own, other = (world.payments(sizes.with_(fraud_mix=mix)) for mix in FRAUD_MIXES)
    count = {mix: table["mode"].value_counts() for mix, table in zip(FRAUD_MIXES, (own, other), strict=True)}
    assert count["consortium"]["card_testing"] > 2 * count["local"]["card_testing"]
    assert count["consortium"]["skimming"] < 0.4 * count["local"]["skimming"]
    assert abs(len(other) / len(own) - 1) < 0.05
    assert set(episodes.MIXES) == set(FRAUD_MIXES)
    assert all(set(mix) <= {kind.name for kind in episodes.KINDS if kind.mode} for mix in episodes.MIXES.values())


def test_an_unknown_mix_of_frauds_is_refused():
    with pytest.raises(LifecycleError, match="fraud_mix is 'none'; it must be one of local, consortium"):
        Settings(fraud_mix="none")


def test_another_process_makes_the_same_world():
    code = (
        "from lifecycle import world; from lifecycle.settings import Settings;"
        "print(world.fingerprint(world.payments(Settings(customers=150, terminals=300, days=20))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == GOLDEN


def test_a_day_is_the_same_whatever_was_asked_before():
    in_order = list(world.simulate(SMALL))
    alone = world.World(SMALL).day(13)
    backwards = world.World(SMALL)
    backwards.day(17)
    for day in (alone, backwards.day(13)):
        for column in (
            "transaction_id",
            "ms",
            "customer",
            "terminal",
            "cents",
            "channel",
            "mode",
            "oracle",
            "report_ms",
        ):
            np.testing.assert_array_equal(getattr(day, column), getattr(in_order[13], column))


def test_a_longer_world_begins_like_a_shorter_one():
    longer = world.payments(SMALL.with_(days=25))
    shorter = world.payments(SMALL)
    pd.testing.assert_frame_equal(longer.iloc[: len(shorter)], shorter)


def test_a_changed_amount_changes_the_fingerprint():
    table = world.payments(SMALL.with_(days=2))
    before = world.fingerprint(table)
    table.loc[5, "amount"] += 0.01
    assert world.fingerprint(table) != before


# ---------------------------------------------------------------- every world, any size


@hypothesis_settings(max_examples=25)
@given(
    customers=st.integers(10, 120),
    terminals=st.integers(20, 400),
    days=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    start=st.dates(date(2024, 1, 1), date(2026, 12, 31)),
)
def test_payments_are_sound_at_any_size_and_seed(customers, terminals, days, seed, start):
    settings = Settings(customers=customers, terminals=terminals, days=days, seed=seed, start=start)
    people = make_population(settings)
    for index, day in enumerate(world.simulate(settings)):
        assert day.date == date.fromordinal(start.toordinal() + index)
        assert (day.cents >= 1).all()
        assert (day.ms >= 0).all() and (day.ms < rhythm.DAY_MS).all() and (np.diff(day.ms) >= 0).all()
        assert (day.customer >= 0).all() and (day.customer < customers).all()
        assert (day.terminal >= 0).all() and (day.terminal < terminals).all()
        assert (day.oracle >= 0).all() and (day.oracle <= 1).all()
        assert (day.oracle[day.mode > 0] > 0).all(), "a fraud the oracle thinks impossible"
        np.testing.assert_array_equal(day.channel == 2, people.online[day.terminal])
        np.testing.assert_array_equal(day.transaction_id % 10**8, np.arange(len(day)))


@pytest.mark.parametrize("wrong", [{"customers": 5}, {"terminals": 19}, {"days": 10**5}, {"seed": -1}])
def test_an_impossible_size_is_refused_in_one_sentence(wrong):
    name = next(iter(wrong))
    with pytest.raises(LifecycleError, match=rf"^Setting {name} is .*\.$"):
        world.payments(SMALL.with_(**wrong))


# ---------------------------------------------------------------- what payments look like


def test_the_table_has_typed_columns_in_order_of_time(table):
    assert table["transaction_id"].is_unique and table["transaction_id"].is_monotonic_increasing
    assert table["transaction_id"].max() < 2**53
    assert str(table["event_time"].dtype) == "datetime64[us, UTC]" and table["event_time"].is_monotonic_increasing
    stamp = table["event_time"].dt.strftime("%Y%m%d").astype("int64")
    assert (table["transaction_id"] // 10**8 == stamp).all()


def test_payments_follow_the_hours_the_week_and_the_season(table):
    hour = table["event_time"].dt.hour
    assert 4 * ((hour >= 1) & (hour < 5)).mean() < ((hour >= 17) & (hour < 21)).mean()
    shops = table[table["channel"] != "online"]
    ordinary = shops[shops["event_time"] < "2025-11-01"]
    per_day = ordinary.groupby(ordinary["event_time"].dt.normalize()).size()
    assert per_day[per_day.index.weekday == 5].mean() > 1.3 * per_day[per_day.index.weekday == 6].mean()
    assert per_day.loc["2025-10-05"] < 0.7 * per_day[per_day.index.weekday == 6].median()
    every = table.groupby(table["event_time"].dt.normalize()).size()
    season = every["2025-12-08":"2025-12-21"].mean() / every["2025-10-06":"2025-10-19"].mean()
    assert 1.1 < season < 1.4


def test_season_raises_amounts_of_honest_payments(table):
    honest = table[table["is_fraud"] == 0].set_index("event_time")["amount"].map(np.log)
    ratio = np.exp(honest["2025-12-01":"2025-12-20"].mean() - honest["2025-10-06":"2025-10-26"].mean())
    assert 1.08 < ratio < 1.25


def test_customers_pay_near_home_except_on_trips(table):
    people = make_population(Settings(customers=1000, terminals=2000))
    shop = table[(table["channel"] != "online") & (table["is_fraud"] == 0)]
    gap = people.place[shop["terminal_id"] - 1] - people.home[shop["customer_id"] - 1]
    far = np.hypot(*gap.T) > 40
    assert 0.005 < far.mean() < 0.12


def test_some_honest_payments_look_odd(table):
    honest = table[table["is_fraud"] == 0]
    ratio = honest["amount"] / honest.groupby("customer_id")["amount"].transform("median")
    assert 0.001 < (ratio > 15).mean() < 0.03
    ms = honest["event_time"].astype("int64") // 1000
    order = np.lexsort([ms, honest["customer_id"]])
    ids, ms = honest["customer_id"].to_numpy()[order], ms.to_numpy()[order]
    burst = (ids[3:] == ids[:-3]) & (ms[3:] - ms[:-3] < 3_600_000)
    assert burst.sum() > 100


# ---------------------------------------------------------------- fraud


def test_fraud_is_rare_and_its_old_modes_have_similar_shares(table):
    assert 0.003 < table["is_fraud"].mean() < 0.01
    before = table[(table["event_time"] < "2025-12-01") & (table["is_fraud"] == 1)]
    shares = before["mode"].value_counts(normalize=True)
    for mode in ("large_amount", "skimming", "stolen_card", "card_testing"):
        assert 0.10 < shares[mode] < 0.40
    assert shares["gift_card"] == 0
    assert (table["mode"] != "").eq(table["is_fraud"] == 1).all()


def test_the_fraud_rate_has_no_warm_up(table):
    month = table["event_time"].dt.tz_localize(None).dt.to_period("M").astype(str)
    rate = table.groupby(month)["is_fraud"].mean()
    assert rate["2025-07"] > 0.6 * rate["2025-08":"2025-10"].mean()


def test_the_new_mode_starts_on_its_day(table):
    new = table[table["mode"] == "gift_card"]
    assert new["event_time"].min() >= pd.Timestamp("2025-12-01", tz="UTC")
    assert (new["channel"] == "online").all()
    assert set(new["merchant_category"].unique()) <= {"gift_cards", "digital_goods"}
    assert len(new) > 0.15 * table.loc[table["event_time"] >= "2025-12-01", "is_fraud"].sum()
    moved = world.payments(SMALL.with_(days=40, deploy_at=date(2025, 11, 25)))
    assert (moved["mode"] != "gift_card").all()


def test_a_compromised_card_sees_several_frauds_and_is_then_blocked():
    source = world.World(Settings(customers=1000, terminals=2000))._episodes
    per_card, reported_after = [], []
    for start in range(0, 150, 3):
        windows, events, _ = source._started(start)
        fraud = np.flatnonzero(MODE[windows.kind] > 0)
        for row in fraud:
            mine = (events.customer == windows.customer[row]) & (events.mode == MODE[windows.kind[row]])
            if mine.any():
                per_card.append(mine.sum())
                reported_after.append(events.report_ms[mine].min() >= events.ms[mine].max())
    assert 4.5 < np.mean(per_card) < 9
    assert np.mean(reported_after) > 0.97  # two windows of one card on one day are rare


def test_skimming_strikes_usual_customers_of_a_terminal(table):
    skim = table[table["mode"] == "skimming"]
    assert skim.groupby("terminal_id").size().median() >= 10
    assert skim.groupby("terminal_id")["customer_id"].nunique().median() >= 3
    span = skim.groupby("terminal_id")["event_time"].agg(lambda t: (t.max() - t.min()).days)
    assert span.median() < 22
    people = make_population(Settings(customers=1000, terminals=2000))
    usual = people.usual_shops[skim["customer_id"] - 1] == (skim["terminal_id"] - 1).to_numpy()[:, None]
    assert usual.any(axis=1).all()


def test_chargebacks_take_days_to_weeks():
    delays, never, frauds = [], 0, 0
    for day in world.simulate(Settings(customers=1000, terminals=2000)):
        fraud = day.mode > 0
        reported = fraud & (day.report_ms < NEVER)
        frauds, never = frauds + fraud.sum(), never + (fraud & ~reported).sum()
        delays.append((day.report_ms - day.ms)[reported] / rhythm.DAY_MS - day.index)
        assert (day.report_ms[day.mode == 0] == NEVER).all()
    delays = np.concatenate(delays)
    assert 3.6 < np.median(delays) < 4.5
    assert abs((delays < 7).mean() - 0.73) < 0.04
    assert abs((delays < 21).mean() - 0.967) < 0.02
    assert 0.015 < never / frauds < 0.045


# ---------------------------------------------------------------- the oracle


def calibration(table: pd.DataFrame, score: pd.Series) -> pd.DataFrame:
    """Mean score and share of frauds in bins of the score, and the difference in standard errors."""
    bins = pd.cut(score, [0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 1.0])
    grouped = table.assign(score=score, noise=score * (1 - score)).groupby(bins, observed=True)
    found = grouped.agg(n=("score", "size"), p=("score", "mean"), fraud=("is_fraud", "mean"), noise=("noise", "sum"))
    found["z"] = (found["fraud"] - found["p"]) * found["n"] / np.sqrt(found["noise"] + 1)
    return found


def test_the_oracle_means_what_it_says(table):
    """Among payments with an oracle near p, the share of frauds is p, up to chance."""
    found = calibration(table, table["oracle"])
    assert (found["z"].abs() < 4).all(), found
    assert abs(table["oracle"].sum() / table["is_fraud"].sum() - 1) < 0.02


def test_the_oracle_stays_calibrated_where_fraud_hides_in_habits(monkeypatch):
    """Slow, long, in-habit fraud gives the oracle all values between 0 and 1; every factor of it then counts."""
    hidden = {"days": (10.0, 20.0), "rate": 0.1, "hours": "day", "shift": 0.1, "spend": 1.0, "place": 1.0}
    kinds = tuple(
        replace(k, **hidden, starts=60 * k.starts, spread=0.8, contactless=0.3)
        if k.mode
        else replace(k, starts=12 * k.starts)
        for k in episodes.KINDS
    )
    monkeypatch.setattr(episodes, "KINDS", kinds)
    for name in ("rate", "days", "spend", "place", "shift", "spread", "contactless"):
        monkeypatch.setattr(episodes, f"_{name.upper()}", episodes._column(name))
    monkeypatch.setattr(episodes, "_HOURS", np.array([episodes.EPISODE_HOURS.index(k.hours) for k in kinds]))
    monkeypatch.setattr(episodes, "NEVER_REPORTED", 1.0)
    table = world.payments(Settings(customers=1500, terminals=300, days=60))
    found = calibration(table, table["oracle"])
    assert (found["n"] > 300).all() and len(found) >= 11, found
    assert (found["z"].abs() < 4).all(), found
    odds = table["oracle"] / (1 - table["oracle"])
    tripled = 3 * odds / (1 + 3 * odds)
    assert (calibration(table, tripled.fillna(1.0))["z"].abs() > 6).any(), "the test has no power"


def test_the_oracle_ranks_better_than_what_is_easily_seen(table):
    truth = table["is_fraud"].to_numpy()
    best = average_precision(truth, table["oracle"].to_numpy())
    usual = table.groupby("customer_id")["amount"].transform("median")
    assert best > 0.9
    for naive in (table["amount"], table["amount"] / usual, table["event_time"].dt.hour < 5):
        assert average_precision(truth, naive.to_numpy(dtype=float)) < best / 3


def test_the_oracle_gives_no_chance_to_cards_without_a_window(table):
    assert (table.loc[table["oracle"] == 0, "is_fraud"] == 0).all()
    assert (table["oracle"] == 0).mean() > 0.9


def test_intensities_integrate_to_the_number_of_payments():
    """The window of a trip: its intensity summed over terminals and amounts is its rate at that hour."""
    people = make_population(SMALL)
    pools = episodes.Pools(people)
    terminals = np.arange(len(people.online))
    for pool in range(5):
        total = pools.probability(np.full(len(terminals), pool), np.zeros(len(terminals), int), terminals).sum()
        assert total == pytest.approx(1.0)
    grid = np.linspace(-12, 12, 4001)
    assert np.trapezoid(episodes.normal_density(grid, 0.3, 0.7), grid) == pytest.approx(1.0)
    hours = np.arange(0, rhythm.DAY_MS, rhythm.HOUR_MS)
    for profile in range(len(rhythm.EPISODE.shares)):
        assert rhythm.EPISODE.density(np.full(24, profile), hours).mean() == pytest.approx(1.0)


# ---------------------------------------------------------------- the calendar


def test_incidents_come_on_their_days():
    known = {i.name: (i.start.isoformat(), i.until.isoformat()) for i in world.timeline(Settings())}
    assert known == {
        "data_quality": ("2025-11-17", "2025-11-20"),
        "season": ("2025-11-24", "2025-12-27"),
        "new_fraud_mode": ("2025-12-01", "2025-12-31"),
    }
    assert world.timeline(Settings(days=100)) == []
    assert [i.name for i in world.timeline(Settings(days=140))] == ["data_quality"]


def test_the_season_is_the_same_every_year():
    assert incidents.season_strength(date(2030, 12, 18)) == 0.25
    assert incidents.season_strength(date(2030, 6, 18)) == 0


@pytest.mark.parametrize(
    ("year", "sunday"), [(2024, date(2024, 3, 31)), (2026, date(2026, 4, 5)), (2038, date(2038, 4, 25))]
)
def test_easter_is_on_its_sunday(year, sunday):
    assert rhythm.easter(year) == sunday


def test_hours_are_drawn_as_their_shares_say():
    u = (np.arange(24_000) + 0.5) / 24_000
    profile = np.full(len(u), 1)
    ms = rhythm.EPISODE.draw(profile, u)
    found = np.bincount(ms // rhythm.HOUR_MS, minlength=24) / len(u)
    np.testing.assert_allclose(found, rhythm.EPISODE.shares[1], atol=1e-4)
