"""Features: windows that end before the payment, joins that know only the past, one answer on- and offline."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from features_oracle import CALENDAR, DAY, VOCABULARY, built, preprocessed, random_bank, rolling_daily, rolling_recent
from hypothesis import given, settings
from hypothesis import strategies as st

from lifecycle import features, files
from lifecycle.errors import LifecycleError
from lifecycle.features import windows
from lifecycle.features.request import INPUTS, request_values


@pytest.fixture(scope="module")
def bank():
    return random_bank()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, bank):
    return built(tmp_path_factory.mktemp("bank"), *bank)


@pytest.fixture(scope="module")
def online_folder(tmp_path_factory, bank, artifact):
    target = tmp_path_factory.mktemp("package") / "online"
    features.export_online(artifact, target, "2025-08-05", bank[0], bank[1])
    return target


def payment(day, clock, identity=1, customer=5, terminal=9, amount=10.0):
    return {
        "transaction_id": identity,
        "event_time": pd.Timestamp(f"2025-08-{day:02d} {clock}", tz="UTC"),
        "customer_id": customer,
        "terminal_id": terminal,
        "amount": amount,
    }


def payments(*rows):
    frame = pd.DataFrame([row | {"transaction_id": i} for i, row in enumerate(rows)])
    return frame.astype({"event_time": "datetime64[us, UTC]"})


def reports(*rows):
    frame = pd.DataFrame(rows, columns=["transaction_id", "is_fraud", "known_at"])
    frame["known_at"] = pd.to_datetime(frame["known_at"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    return frame.astype({"is_fraud": "int8"})


# The windows.


@pytest.mark.parametrize("strings", [False, True])
def test_windows_agree_with_plain_pandas(strings):
    frame, labels, home, places = random_bank(seed=3, strings=strings)
    tables = features.history_features(frame, labels, home, places)
    recent = rolling_recent(frame.sort_values(["event_time", "transaction_id"]), places)
    assert tables["recent"]["transaction_id"].tolist() == recent["transaction_id"].tolist()
    for name in windows.RECENT:
        np.testing.assert_allclose(tables["recent"][name], recent[name], rtol=1e-9, atol=1e-9, err_msg=name)
    for view, key, names in (
        ("customer_daily", "customer_id", windows.CUSTOMER_DAILY),
        ("terminal_daily", "terminal_id", windows.TERMINAL_DAILY),
    ):
        expected = rolling_daily(frame, labels, key)
        ours = expected[[key, "event_timestamp"]].merge(tables[view], how="left")
        other = ("_id", "_km", "_timestamp", "_snapshot")
        computed = [name for name in tables[view].columns if not name.endswith(other)]
        assert computed == list(names), "a table holds the features of its view and no others"
        for name in names:
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_snapshots_are_dense_over_entities_and_days(bank):
    frame, labels, home, places = bank
    daily = features.history_features(frame, labels, home, places)["customer_daily"]
    days = frame["event_time"].dt.floor("D").nunique()
    assert len(daily) == len(home) * days, "a customer without payments has snapshots too"
    assert not daily.duplicated(["customer_id", "event_timestamp"]).any()
    idle = daily[daily["customer_id"] == home["customer_id"].max()]
    assert (idle["customer_count_30d"] == 0).all() and idle["customer_amount_mean_30d"].isna().all()
    assert idle["home_x_km"].notna().all()


def test_recent_windows_include_their_start_and_exclude_their_end():
    frame = payments(payment(2, "09:00:00"), payment(2, "10:00:00"), payment(2, "11:00:00.000001"))
    recent = features.history_features(frame, reports())["recent"]
    assert recent["customer_count_1h"].tolist() == [0, 1, 0]
    assert recent["customer_seconds_since_last"].tolist() == [2_592_000, 3_600, 3_600.000001]


def test_payments_at_the_same_instant_do_not_see_each_other():
    frame = payments(payment(2, "09:00"), payment(2, "09:30"), payment(2, "09:30"), payment(2, "09:30:00.000001"))
    recent = features.history_features(frame, reports())["recent"]
    assert recent["customer_count_1h"].tolist() == [0, 1, 1, 3]
    assert recent["terminal_count_1h"].tolist() == [0, 1, 1, 3]
    assert recent["customer_seconds_since_last"].tolist() == [2_592_000, 1_800, 1_800, 0.000001]


def test_a_place_is_new_until_the_customer_has_paid_there_within_30_days():
    days = ("08-01", "08-02", "08-30", "10-01")
    frame = payments(
        *(payment(2, "09:00") | {"event_time": pd.Timestamp(f"2025-{day} 09:00", tz="UTC")} for day in days)
    )
    other = payments(payment(2, "09:30", terminal=3), payment(2, "09:40", terminal=3))
    recent = features.history_features(pd.concat([frame, other.assign(transaction_id=[4, 5])]), reports())["recent"]
    recent = recent.set_index("transaction_id").loc[range(6)]
    assert recent["pair_count_30d"].tolist() == [0, 1, 2, 0, 0, 1]
    assert recent["pair_count_7d"].tolist() == [0, 1, 0, 0, 0, 1]
    assert recent["customer_new_places_24h"].tolist() == [0, 1, 0, 0, 0, 1]


def test_a_payment_on_the_web_has_no_distance():
    columns = dict.fromkeys(INPUTS, [1.0, 1.0]) | {"home_x_km": [0.0, 0.0], "home_y_km": [0.0, 0.0]}
    columns |= {"amount": [1.0, 1.0], "event_micros": [0, 0], "terminal_x_km": [3.0, 3.0], "terminal_y_km": [4.0, 4.0]}
    distance = features.request_features(columns | {"channel": ["pos", "online"]}, {"channel": VOCABULARY["channel"]})
    np.testing.assert_array_equal(distance["distance_from_home"], [5.0, np.nan])
    np.testing.assert_array_equal(features.request_features(columns)["distance_from_home"], [5.0, 5.0])


def shops_at(*places):
    """A table of terminals, numbered from 1, at coordinates in km; None for one on the web."""
    rows = [(i + 1, *(place or (0.0, 0.0)), "pos" if place else "online") for i, place in enumerate(places)]
    return pd.DataFrame(rows, columns=["terminal_id", "x", "y", "channel"])


def test_impossible_travel_shows_as_speed_and_as_distance_of_the_day():
    rows = [("09:00", 1), ("09:30", 2), ("09:40", 3), ("09:50", 1), ("09:50:01", 2)]
    frame = payments(*(payment(2, clock, terminal=terminal) for clock, terminal in rows))
    terminals = shops_at((0.0, 0.0), (30.0, 40.0), None)
    recent = features.history_features(frame, reports(), terminals=terminals)["recent"]
    assert recent["customer_km_24h"].tolist() == [0, 50, 50, 100, 150], "a payment on the web moves nobody"
    assert recent["customer_speed_kmh"].tolist() == [0, 100, 0, 150, 3_000], "a speed is over at least a minute"


def test_who_was_away_for_longer_than_30_days_has_not_traveled():
    moments = ["2025-08-01 00:00", "2025-08-31 00:00", "2025-09-30 00:00:00.000001"]
    frame = payments(
        *(
            payment(1, "00:00", terminal=i % 2 + 1) | {"event_time": pd.Timestamp(m, tz="UTC")}
            for i, m in enumerate(moments)
        )
    )
    recent = features.history_features(frame, reports(), terminals=shops_at((0.0, 0.0), (3.0, 4.0)))["recent"]
    assert recent["customer_km_24h"].tolist() == [0, 5, 0]


def test_small_payments_within_minutes_show_before_the_hour_is_over():
    clocks = ("09:00", "09:49:59", "09:50", "09:55", "10:00")
    amounts = (80.0, 1.0, 2.0, 1.5, 1.0)
    frame = payments(*(payment(2, clock, amount=amount) for clock, amount in zip(clocks, amounts, strict=True)))
    recent = features.history_features(frame, reports())["recent"]
    assert recent["customer_count_10m"].tolist() == [0, 0, 1, 2, 2]
    assert recent["customer_amount_max_1h"].tolist() == [0, 80, 80, 80, 80]


def test_a_snapshot_sees_the_microsecond_before_midnight_and_not_midnight():
    frame = payments(payment(2, "23:59:59.999999", amount=10), payment(3, "00:00:00", amount=20), payment(4, "12:00"))
    daily = features.history_features(frame, reports())["customer_daily"].set_index("event_timestamp")
    counts = daily["customer_count_7d"].rename(lambda time: time.day)
    assert counts[3] == 1 and counts[4] == 2
    assert daily["customer_amount_mean_7d"].iloc[0] == 10


def test_a_fraud_counts_from_the_midnight_by_which_it_is_known():
    frame = payments(payment(2, "10:00"), payment(2, "11:00"), payment(6, "12:00"))
    labels = reports(
        (0, 1, "2025-08-04T00:00:00Z"), (1, 1, "2025-08-05T00:00:00.000001Z"), (2, 0, "2025-08-03T00:00:00Z")
    )
    daily = features.history_features(frame, labels)["terminal_daily"]
    known = daily.set_index(daily["event_timestamp"].dt.day)["terminal_fraud_7d"]
    assert known.to_dict() == {3: 0, 4: 1, 5: 1, 6: 2, 7: 2}


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(5, 25))
def test_what_happens_later_changes_no_earlier_feature(seed, cut):
    frame, labels, *_ = random_bank(seed=seed, customers=8, terminals=8, days=30, payments=400)
    moment = pd.Timestamp("2025-07-01", tz="UTC") + cut * DAY
    past = frame[frame["event_time"] < moment]
    whole = features.history_features(frame, labels)
    short = features.history_features(past, labels[labels["known_at"] <= moment])
    both = short["recent"].merge(whole["recent"], on="transaction_id", suffixes=("", "_whole"))
    assert len(both) == len(past)
    for name in windows.RECENT:
        assert both[name].equals(both[f"{name}_whole"]), name
    for view, key in (("customer_daily", "customer_id"), ("terminal_daily", "terminal_id")):
        ours = short[view].set_index([key, "event_timestamp"])
        assert ours.equals(whole[view].set_index([key, "event_timestamp"]).loc[ours.index]), view


def test_expressions_use_only_what_spark_has_too(bank, monkeypatch):
    import ibis

    class Options(ibis.config.Config):
        treat_nan_as_null: bool = False

    # Ibis registers the options of a backend when its library is installed; Spark is not needed to write its SQL.
    monkeypatch.setattr(ibis.options, "pyspark", Options())
    for name, expression in windows.history_expressions(*bank).items():
        statement = ibis.to_sql(expression, dialect="pyspark")
        assert "OVER" in str(statement), name


def test_a_time_without_a_zone_is_refused(bank):
    naive = bank[0].assign(event_time=bank[0]["event_time"].dt.tz_localize(None))
    with pytest.raises(LifecycleError, match=r"event_time.*with a zone"):
        features.history_features(naive, bank[1])


# The artifact.


def test_training_set_holds_only_what_was_known(artifact, bank):
    frame, labels = bank[:2]
    training = pd.read_parquet(artifact / "training_set.parquet")
    names = features.feature_names(features.load_schema(artifact))
    contract = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount", "is_fraud"]
    computed = [name for name in names if name != "amount"]
    assert list(training.columns) == [*contract, *computed]
    assert (training[computed].dtypes == "float32").all()
    assert training["event_time"].between("2025-07-20", "2025-07-28", inclusive="left").all()
    cut = pd.Timestamp(CALENDAR.test_from, tz="UTC")
    known = labels[labels["known_at"] <= cut].sort_values("known_at").groupby("transaction_id")["is_fraud"].last()
    assert training["is_fraud"].tolist() == known[training["transaction_id"]].tolist()
    late = labels[(labels["is_fraud"] == 1) & (labels["known_at"] > cut)]["transaction_id"]
    assert training.loc[training["transaction_id"].isin(late), "is_fraud"].eq(0).all()


def test_test_set_keeps_payments_without_a_label(artifact, bank):
    test = pd.read_parquet(artifact / "test_set.parquet")
    expected = bank[0]["event_time"].between("2025-08-04", "2025-08-10", inclusive="left").sum()
    assert len(test) == expected and test["is_fraud"].dtype == "Int8"
    assert 0 < test["is_fraud"].isna().sum() < len(test)


def test_the_point_in_time_join_takes_the_last_midnight(artifact, bank):
    training = pd.read_parquet(artifact / "training_set.parquet")
    daily = pd.read_parquet(artifact / "terminal_daily.parquet")
    by_hand = (
        training[["terminal_id"]].assign(event_timestamp=training["event_time"].dt.floor("D")).merge(daily, how="left")
    )
    for name in windows.TERMINAL_DAILY:
        assert by_hand[name].astype("float32").equals(training[name]), name


def test_an_entity_without_a_fresh_snapshot_has_missing_features(artifact, bank):
    frame = bank[0]
    last = frame["event_time"].max().floor("D") + DAY
    recent = dict.fromkeys(windows.RECENT, 0.0)
    events = pd.DataFrame(
        [
            payment(1, "00:00", 0, customer=1, terminal=1) | recent | {"event_time": last + pd.Timedelta(hours=1)},
            payment(1, "00:00", 1, customer=1, terminal=1) | recent | {"event_time": last + pd.Timedelta(hours=25)},
            payment(1, "00:00", 2, customer=10**6, terminal=1) | recent | {"event_time": last},
        ]
    ).astype({"event_time": "datetime64[us, UTC]"})
    events = events.assign(channel="pos", merchant_category="never seen", merchant_text=None)
    joined = features.assemble(features.open_store(artifact), events)
    assert joined["transaction_id"].tolist() == [0, 1, 2], "the order of the events is kept"
    assert joined["customer_count_30d"].isna().tolist() == [False, True, True]
    assert joined["terminal_count_30d"].isna().tolist() == [False, True, False]
    assert joined["merchant_category_code"].tolist() == [-1, -1, -1] and joined["channel_code"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("ids", [[1, 2], ["a", "b"]])
def test_events_with_unknown_recent_activity_are_refused(artifact, bank, ids):
    events = bank[0].head(2).assign(transaction_id=ids)
    with pytest.raises(LifecycleError, match="unknown for 2 events"):
        features.assemble(features.open_store(artifact), events)


def test_recent_activity_is_found_by_its_id_in_whatever_order_the_events_are(artifact, bank):
    events = bank[0].sample(200, random_state=1)
    known = pd.read_parquet(artifact / "recent.parquet").set_index("transaction_id")
    joined = features.assemble(features.open_store(artifact), events)[list(windows.RECENT)]
    expected = known.loc[events["transaction_id"], list(windows.RECENT)].astype("float32").reset_index(drop=True)
    pd.testing.assert_frame_equal(joined, expected)


def test_the_store_works_wherever_the_folder_is(artifact, bank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(artifact, moved)
    before = {path.name: files.sha256(path) for path in moved.iterdir()}
    store = features.open_store("elsewhere")
    events = bank[0][bank[0]["event_time"] >= "2025-08-09"]
    there = features.assemble(store, events)
    assert there.equals(features.assemble(features.open_store(artifact), events))
    assert features.materialize(store, "2025-08-09") > 100
    assert {path.name: files.sha256(path) for path in moved.iterdir()} == before, "opening a store changes no file"
    assert str(tmp_path) not in (moved / "feature_store.yaml").read_text()
    assert str(artifact).encode() not in (moved / "registry.db").read_bytes()


def test_the_written_repository_works_with_feasts_own_client(artifact, tmp_path):
    copied = tmp_path / "repository"
    shutil.copytree(artifact, copied)
    script = "import feast; s = feast.FeatureStore('.'); print(*sorted(v.name for v in s.list_all_feature_views()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=copied, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["customer_daily", "request", "terminal_daily"]


def test_feast_is_silent(artifact, capfd):
    store = features.open_store(artifact)
    features.materialize(store, "2025-08-05")
    assert capfd.readouterr() == ("", "")


def test_strings_as_ids_and_no_optional_attributes(tmp_path):
    frame, labels, _, _ = random_bank(seed=5, strings=True, attributes=False)
    out = built(tmp_path, frame, labels)
    schema = features.load_schema(out)
    names = features.feature_names(schema)
    assert not {"channel_code", "merchant_category_code", "distance_from_home", "merchant_text_1"} & set(names)
    assert not set(windows.TRAVEL) & set(names)
    assert schema["entities"] == {"customer_id": "string", "terminal_id": "string"} and schema["categories"] == {}
    test = pd.read_parquet(out / "test_set.parquet")
    events = frame[frame["event_time"].between("2025-08-05", "2025-08-06", inclusive="left")]
    features.export_online(out, tmp_path / "online", "2025-08-05", frame, labels)
    online = features.OnlineFeatures(tmp_path / "online")
    online.recent.seed(frame[frame["event_time"] < "2025-08-05"])
    expected = test.set_index("transaction_id").loc[events["transaction_id"], names].to_numpy("float32")
    np.testing.assert_array_equal(online.transform(events), expected)


def test_a_period_without_payments_is_named(tmp_path, bank):
    source = preprocessed(tmp_path / "preprocessing", *bank)
    calendar = SimpleNamespace(**{**vars(CALENDAR), "test_from": "2026-01-01", "test_until": "2026-01-08"})
    (tmp_path / "out").mkdir()
    with pytest.raises(LifecycleError, match="test set period 2026-01-01 to 2026-01-08 has no payments"):
        features.build(calendar, {"preprocessing": source}, tmp_path / "out")


def test_a_changed_schema_is_refused(artifact, tmp_path):
    schema = json.loads((artifact / "schema.json").read_text())
    schema["features"].reverse()
    files.write_json(schema, tmp_path / "schema.json")
    with pytest.raises(LifecycleError, match="was changed"):
        features.load_schema(tmp_path)


# The online path.


def records_of(frame):
    names = ["event_time", "customer_id", "terminal_id", "amount", "channel", "merchant_category", "merchant_text"]
    return frame[names].to_dict("records")


def places_of(terminals):
    """Return where the terminals are, as `read_places` does."""
    shops = terminals[terminals["channel"] != "online"]
    meters = zip(*(windows.to_meters(shops[axis]).astype(int).tolist() for axis in "xy"), strict=True)
    return dict(zip(shops["terminal_id"].tolist(), meters, strict=True))


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_online_features_equal_the_offline_table_to_the_last_bit(bank, artifact, online_folder, size):
    frame = bank[0]
    today = frame[frame["event_time"].between("2025-08-05", "2025-08-06", inclusive="left")]
    online = features.OnlineFeatures(online_folder)
    online.recent.seed(pd.read_parquet(online_folder / "history" / "transactions.parquet"))
    records = records_of(today)
    ours = np.vstack([online.transform(records[i : i + size]) for i in range(0, len(records), size)])
    theirs = features.assemble(features.open_store(artifact), today)[online.names].to_numpy("float32")
    assert len(ours) > 100
    np.testing.assert_array_equal(ours, theirs)


TEXTS = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["online", "pos", "fuel", "UMBER TAXI 7 hill", ""]))
RECORDS = st.fixed_dictionaries(
    {
        "event_time": st.datetimes(pd.Timestamp("2025-08-04"), pd.Timestamp("2025-08-07")).map(
            lambda moment: f"{moment.isoformat()}Z"
        ),
        "customer_id": st.one_of(st.integers(-1, 62), st.integers(-(2**63), 2**63 - 1)),
        "terminal_id": st.one_of(st.integers(-1, 82), st.integers(-(2**63), 2**63 - 1)),
        "amount": st.one_of(st.floats(0, 1e12, exclude_min=True), st.integers(1, 10**12)),
    },
    optional={"channel": TEXTS, "merchant_category": TEXTS, "merchant_text": TEXTS},
)


@pytest.fixture(scope="module")
def both_paths(online_folder):
    """The online features twice, with one history: for payments one by one, and for payments as columns."""
    pair = [features.OnlineFeatures(online_folder) for _ in range(2)]
    for one in pair:
        one.recent.seed(pd.read_parquet(online_folder / "history" / "transactions.parquet"))
    return pair


@settings(max_examples=300, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=6), places=st.lists(st.integers(0, 5), max_size=4))
def test_payments_one_by_one_and_payments_as_columns_have_the_same_features_to_the_last_bit(
    both_paths, records, places
):
    made = []
    for one, few in zip(both_paths, (100, 0), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lifecycle.features.online.FEW", few)
            prepared = one.prepare(records)
        assert isinstance(prepared.values, list) == (few > 0)
        some = prepared.take([place % len(records) for place in places])
        seen = [one.recent.look_one(*key[:3]) for key in some.keys]
        observed = [one.recent.observe_one(*key) for key in prepared.keys]
        made.append((one.finish(prepared, observed).tobytes(), one.finish(some, seen).tobytes(), prepared.keys))
    assert made[0] == made[1]


def test_the_features_of_one_payment_are_those_of_many_where_the_past_is_missing_or_zero():
    past = itertools.product([30.0, 0.0, float("nan"), 1e-300], repeat=3)
    rows = [(amount, micros, *means) for amount in (0.001, 7.35, 1e12) for micros in (0, 10**15 + 7) for means in past]
    names = ("amount", "event_micros", *INPUTS)
    with np.errstate(divide="ignore", over="ignore"):
        columns = features.request_features(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
        for place, row in enumerate(rows):
            values = request_values(dict(zip(names, row, strict=True)))
            theirs = {name: column[place] for name, column in columns.items()}
            assert {name: np.float64(value).tobytes() for name, value in values.items()} == {
                name: value.tobytes() for name, value in theirs.items()
            }


def test_recent_activity_replayed_equals_the_windows():
    frame, labels, home, places = random_bank(seed=9, customers=30, terminals=12)
    table = features.history_features(frame, labels, home, places)["recent"]
    rows = frame.sort_values(["event_time", "transaction_id"])
    assert (table["customer_km_24h"] > 0).mean() > 0.5
    ours = features.Recent(places_of(places)).observe(
        rows["customer_id"].tolist(),
        rows["terminal_id"].tolist(),
        windows.to_micros(rows["event_time"]).tolist(),
        windows.to_units(rows["amount"]).tolist(),
    )
    np.testing.assert_array_equal(ours, table[list(windows.RECENT)].to_numpy())


def test_a_late_payment_takes_its_place_in_time():
    recent, second = features.Recent(), 1_000_000
    for now in (0, 100, 50, 120):
        seen = recent.observe([1], [1], [now * second], [10_000])[0]
    assert dict(zip(windows.RECENT, seen, strict=True)) == {
        "customer_count_1h": 3,
        "customer_amount_1h": 3,
        "customer_count_24h": 3,
        "customer_amount_24h": 3,
        "customer_new_places_24h": 1,
        "customer_seconds_since_last": 20,
        "pair_count_7d": 3,
        "pair_count_30d": 3,
        "terminal_count_1h": 3,
        "customer_count_10m": 3,
        "customer_amount_max_1h": 1,
        "customer_speed_kmh": 0,
        "customer_km_24h": 0,
    }


def test_seeding_knows_whether_yesterdays_places_were_new():
    start, hour = pd.Timestamp("2025-08-01", tz="UTC"), pd.Timedelta(hours=1)
    times = [start, start + 716 * hour, start + 725 * hour, start + 726 * hour]
    rows = [
        payment(1, "00:00", customer=customer) | {"event_time": time}
        for customer, time in zip((1, 1, 2, 1), times, strict=True)
    ]
    frame = payments(*rows)
    recent = features.Recent()
    recent.seed(frame.head(3))
    last = windows.payment_columns(frame.tail(1))
    ours = recent.observe(*(last[name].tolist() for name in ("customer_id", "terminal_id", "micros", "units")))[0]
    theirs = features.history_features(frame, reports())["recent"].iloc[-1]
    assert theirs["customer_new_places_24h"] == 0, "the second payment was at a place known for 716 hours"
    assert ours.tolist() == theirs[list(windows.RECENT)].tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), strings=st.booleans(), days=st.sampled_from([1, 20, 45]))
def test_seeding_leaves_the_state_that_observing_each_payment_would(seed, strings, days):
    frame, _, _, terminals = random_bank(seed, customers=5, terminals=6, days=days, payments=500, strings=strings)
    frame = frame.sample(frac=1, random_state=seed)
    seeded, observed = (features.Recent(places_of(terminals)) for _ in range(2))
    seeded.seed(frame)
    last = windows.payment_columns(frame).sort_values("micros", kind="stable")
    last = last[last["micros"] >= last["micros"].max() - 31 * windows.DAY]
    observed.observe(*(last[name].tolist() for name in ("customer_id", "terminal_id", "micros", "units")))
    assert seeded._customers == observed._customers
    assert seeded._terminals == observed._terminals


def test_seeding_comes_before_the_first_payment():
    recent = features.Recent()
    recent.observe([1], [1], [0], [10_000])
    with pytest.raises(LifecycleError, match="seeded only before"):
        recent.seed(payments(payment(1, "09:00")))


def test_old_payments_are_forgotten():
    recent = features.Recent()
    for hour in range(24 * 40):
        recent.observe([1], [1], [hour * windows.HOUR], [10_000])
    assert [len(column) for column in recent._customers[1]] == [24 * 30 + 1] * 5
    assert len(recent._terminals[1]) == 25


def test_online_snapshots_expire_as_they_do_offline(online_folder, bank):
    online = features.OnlineFeatures(online_folder)
    record = records_of(bank[0].tail(1))[0]
    column = online.names.index("customer_count_30d")
    for time, missing in (("2025-08-06T00:00:00Z", False), ("2025-08-06T00:00:00.000001Z", True)):
        assert np.isnan(online.transform([record | {"event_time": time}])[0, column]) == missing


def test_time_zones_and_text_forms_of_a_time_give_one_answer(online_folder, bank):
    record = records_of(bank[0].tail(1))[0]
    rows = [
        features.OnlineFeatures(online_folder).transform([record | {"event_time": time}])
        for time in ("2025-08-05T22:30:00Z", "2025-08-06T00:30:00+02:00", pd.Timestamp("2025-08-05 22:30", tz="UTC"))
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])
    assert rows[0][0, features.OnlineFeatures(online_folder).names.index("hour")] == 22


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_time": "2025-08-05T10:00:00"}, "event_time.*with a zone"),
        ({"event_time": "yesterday"}, "event_time.*'yesterday'"),
        ({"event_time": None}, "event_time"),
        ({"amount": -1.0}, "amount.*-1.0"),
        ({"amount": float("nan")}, "amount.*nan"),
        ({"amount": "12"}, "amount.*'12'"),
        ({"amount": True}, "amount.*True"),
        ({"customer_id": "c1"}, "customer_id.*'c1'.*int"),
        ({"terminal_id": None}, "terminal_id.*None"),
    ],
)
def test_a_bad_payment_is_refused_and_not_remembered(online_folder, bank, change, message):
    online = features.OnlineFeatures(online_folder)
    record = records_of(bank[0].tail(1))[0]
    with pytest.raises(LifecycleError, match=message):
        online.transform([record, record | change])
    with pytest.raises(LifecycleError, match="lacks the field 'amount'"):
        online.transform([{name: value for name, value in record.items() if name != "amount"}])
    assert online.recent._customers == {}


def test_a_text_that_is_absent_or_unknown_is_coded_as_unknown(online_folder, bank):
    online = features.OnlineFeatures(online_folder)
    record = records_of(bank[0].tail(1))[0]
    del record["channel"], record["merchant_text"]
    row = online.transform([record | {"merchant_category": "casino"}])[0]
    assert [row[online.names.index(name)] for name in ("channel_code", "merchant_category_code")] == [-1, -1]
    assert row[online.names.index("merchant_text_1")] == 0
