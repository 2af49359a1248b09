"""The features of history once more, in plain pandas `groupby().rolling()`, and small tables to try them on.

Slow and straightforward on purpose: the tests hold the product's windows against it, and the benchmark times it.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

DAY = pd.Timedelta(days=1)

VOCABULARY = {"channel": ["online", "pos"], "merchant_category": ["fuel", "grocery"]}
CALENDAR = SimpleNamespace(
    train_from="2025-07-20",
    train_until="2025-07-28",
    test_from="2025-08-04",
    test_until="2025-08-10",
    deploy_at="2025-08-14",
)


def rolling_daily(transactions, labels, key, lengths=(1, 7, 30)):
    """Daily snapshots of one entity: count, mean and largest amount, reports known; as of midnight."""
    first, last = transactions["event_time"].min().floor("D"), transactions["event_time"].max().floor("D")
    visible = pd.date_range(first + DAY, last + DAY, name="event_timestamp", unit="us")
    dense = pd.MultiIndex.from_product([np.unique(transactions[key]), visible], names=[key, "event_timestamp"])
    seen = transactions["event_time"].dt.floor("D") + DAY
    tiles = transactions.groupby([transactions[key], seen.rename("event_timestamp")])["amount"].agg(
        ["size", "sum", "max"]
    )
    reports = labels[labels["is_fraud"] == 1].merge(transactions[["transaction_id", key]], on="transaction_id")
    frauds = reports.groupby([reports[key], reports["known_at"].dt.ceil("D").rename("event_timestamp")]).size()
    tiles = tiles.reindex(dense)
    tiles["frauds"] = frauds.reindex(dense)
    tiles[["size", "sum", "frauds"]] = tiles[["size", "sum", "frauds"]].fillna(0)
    out = pd.DataFrame(index=dense)
    for length in lengths:
        rolled = tiles.reset_index(key).groupby(key)[["size", "sum", "frauds"]].rolling(f"{length}D").sum()
        largest = tiles["max"].reset_index(key).groupby(key)["max"].rolling(f"{length}D", min_periods=1).max()
        out[f"count_{length}d"] = rolled["size"]
        out[f"amount_mean_{length}d"] = rolled["sum"] / rolled["size"].replace(0, np.nan)
        out[f"amount_max_{length}d"] = largest
        out[f"fraud_{length}d"] = rolled["frauds"]
        out[f"fraud_ratio_{length}d"] = rolled["frauds"] / rolled["size"].clip(lower=1)
    return out.add_prefix(key.removesuffix("_id") + "_").reset_index()


def rolling_recent(transactions, terminals=None):
    """Recent activity strictly before each payment, one row a payment, in the order of `transactions`."""
    rows = transactions.sort_values(["event_time", "transaction_id"]).set_index("event_time")
    out = pd.DataFrame({"transaction_id": rows["transaction_id"].to_numpy()})
    rows["row"] = np.arange(len(rows))
    rows["one"] = 1.0
    rows["moved"], out["customer_speed_kmh"] = moves(rows.reset_index(), terminals)
    rows["pair"] = rows.groupby(["customer_id", "terminal_id"]).ngroup()
    for key, what, length, function, name in (
        ("customer_id", "one", "1h", "sum", "customer_count_1h"),
        ("customer_id", "amount", "1h", "sum", "customer_amount_1h"),
        ("customer_id", "one", "24h", "sum", "customer_count_24h"),
        ("customer_id", "amount", "24h", "sum", "customer_amount_24h"),
        ("pair", "one", "7D", "sum", "pair_count_7d"),
        ("pair", "one", "30D", "sum", "pair_count_30d"),
        ("customer_id", "new", "24h", "sum", "customer_new_places_24h"),
        ("terminal_id", "one", "1h", "sum", "terminal_count_1h"),
        ("customer_id", "one", "10min", "sum", "customer_count_10m"),
        ("customer_id", "amount", "1h", "max", "customer_amount_max_1h"),
        ("customer_id", "moved", "24h", "sum", "customer_km_24h"),
    ):
        if what == "new":
            rows["new"] = (out["pair_count_30d"] == 0).to_numpy("float64")
        grouped = rows.groupby(key)
        order = np.concatenate(list(grouped["row"].apply(np.asarray)))
        rolled = grouped[what].rolling(length, closed="left", min_periods=0).agg(function).to_numpy()
        out.loc[order, name] = rolled
    out["customer_amount_max_1h"] = out["customer_amount_max_1h"].fillna(0)
    out["customer_km_24h"] += rows["moved"].to_numpy()
    times = pd.Series(rows.index, index=rows["row"].to_numpy())
    customer = rows["customer_id"].to_numpy()
    distinct = pd.DataFrame({"customer": customer, "time": times.to_numpy()}).drop_duplicates()
    distinct["before"] = distinct.groupby("customer")["time"].shift()
    before = pd.DataFrame({"customer": customer, "time": times.to_numpy()}).merge(distinct, how="left")
    gap = (before["time"] - before["before"]).dt.total_seconds().to_numpy()
    out["customer_seconds_since_last"] = np.where(gap <= 30 * 86_400, gap, 30 * 86_400.0)
    return transactions[["transaction_id"]].merge(out, on="transaction_id")


def write_tables(source, out):
    """Write the tables of the product, from the same files to files of the same names."""
    names = ("transactions", "labels", "customers", "terminals")
    transactions, labels, _, terminals = (pd.read_parquet(source / f"{name}.parquet") for name in names)
    for key in ("customer_id", "terminal_id"):
        rolling_daily(transactions, labels, key).to_parquet(out / f"{key.removesuffix('_id')}_daily.parquet")
    rolling_recent(transactions, terminals).to_parquet(out / "recent.parquet")


def moves(rows, terminals):
    """Kilometers from the customer's place before, in whole meters, and the speed; 0 without a place."""
    if terminals is None:
        return np.zeros(len(rows)), np.zeros(len(rows))
    if "channel" in terminals:
        terminals = terminals[terminals["channel"] != "online"]
    places = terminals.set_index("terminal_id")[["x", "y"]].dropna().mul(1000).round()
    placed = rows.reset_index(names="position").join(places, on="terminal_id", how="inner")
    instants = placed.groupby(["customer_id", "event_time"], as_index=False)[["x", "y"]].max()
    instants["before"] = instants["event_time"]
    shifted = instants.groupby("customer_id")[["x", "y", "before"]].shift()
    earlier = instants[["customer_id", "event_time"]].join(shifted.rename(columns={"x": "x0", "y": "y0"}))
    placed = placed.merge(earlier, on=["customer_id", "event_time"])
    lasted = (placed["event_time"] - placed["before"]).dt.total_seconds()
    meters = np.hypot(placed["x"] - placed["x0"], placed["y"] - placed["y0"]).round().where(lasted <= 30 * 86_400, 0)
    moved, speed = np.zeros(len(rows)), np.zeros(len(rows))
    moved[placed["position"]] = meters / 1000
    speed[placed["position"]] = (meters / 1000 / (lasted.clip(lower=60) / 3600)).fillna(0)
    return moved, speed


WORDS = ("taxi", "kitchen", "petrol", "grocer", "shoes", "rail", "games", "audio", "bistro", "home")
CITIES = ("vale", "oakhaven", "elmsford", "jorvale", "dunmarch", "brenwick")


def random_bank(seed=0, customers=60, terminals=80, days=45, payments=6_000, strings=False, attributes=True):
    """Random payments with a label history; times are whole minutes, so that ties happen."""
    random = np.random.default_rng(seed)
    minutes = np.sort(random.integers(0, days * 1_440, payments))
    start = pd.Timestamp("2025-07-01", tz="UTC")
    frame = pd.DataFrame(
        {
            "transaction_id": np.arange(payments) + 20250701 * 10**8,
            "event_time": (start + pd.to_timedelta(minutes, unit="min")).astype("datetime64[us, UTC]"),
            "customer_id": random.integers(0, customers, payments),
            "terminal_id": random.integers(0, terminals, payments),
            "amount": np.round(np.exp(random.normal(3, 1, payments)), 2) + 0.01,
        }
    )
    home = pd.DataFrame({"customer_id": np.arange(customers + 1), **_places(random, customers + 1, "home_x", "home_y")})
    places = pd.DataFrame({"terminal_id": np.arange(terminals), **_places(random, terminals, "x", "y")})
    if attributes:
        frame["channel"] = pd.Categorical(random.choice(["online", "pos", "unknown"], payments))
        frame["merchant_category"] = pd.Categorical(random.choice(["fuel", "grocery", "unknown"], payments))
        words, cities = random.choice(WORDS, payments), random.choice(CITIES, payments)
        parts = zip(words, frame["terminal_id"] % 7, cities, strict=True)
        text = pd.Series([f"{word.upper()} {number} {city}" for word, number, city in parts])
        frame["merchant_text"] = text.where(random.random(payments) < 0.95, "").astype("category")
        places["channel"] = random.choice(["online", "pos"], terminals, p=[0.2, 0.8])
    if strings:
        for table in (frame, home, places):
            for key in {"transaction_id", "customer_id", "terminal_id"} & set(table.columns):
                table[key] = key[0] + table[key].astype(str)
    honest = pd.DataFrame(
        {"transaction_id": frame["transaction_id"], "is_fraud": 0, "known_at": frame["event_time"] + 7 * DAY}
    )
    fraud = frame.loc[random.random(payments) < 0.03, ["transaction_id", "event_time"]]
    arrival = fraud["event_time"] + pd.to_timedelta(random.integers(1, 20 * 24, len(fraud)), unit="h")
    late = pd.DataFrame({"transaction_id": fraud["transaction_id"], "is_fraud": 1, "known_at": arrival})
    labels = pd.concat([honest, late], ignore_index=True).astype(
        {"is_fraud": "int8", "known_at": "datetime64[us, UTC]"}
    )
    return frame, labels, home, places


def _places(random, n, x, y):
    return {x: random.random(n) * 100, y: random.random(n) * 100}


def preprocessed(folder, frame, labels, home=None, places=None):
    """Write what the preprocessing stage would."""
    from lifecycle import files

    folder.mkdir()
    tables = {"transactions": frame, "labels": labels, "customers": home, "terminals": places}
    for name, table in tables.items():
        if table is not None:
            files.write_parquet(table, folder / f"{name}.parquet")
    files.write_json(VOCABULARY, folder / "encoding.json")
    return folder


def built(root, *tables):
    """Build the features of some tables; return the folder of the artifact."""
    from lifecycle import features

    out = root / "features"
    out.mkdir()
    features.build(CALENDAR, {"preprocessing": preprocessed(root / "preprocessing", *tables)}, out)
    return out
