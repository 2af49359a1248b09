"""What happened before a payment, as Ibis expressions: daily snapshots and recent activity.

The expressions use integer time (microseconds and days since 1970, UTC) and integer money, and only
operations that every Ibis backend has. Integer sums do not depend on the order of the rows, so a
result is the same on any number of threads, on any engine, and in the service's running sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lifecycle import contracts
from lifecycle.errors import LifecycleError

if TYPE_CHECKING:
    import ibis

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
"""Lengths of time in microseconds."""

WEB = "online"
"""The channel of payments without a place."""

UNITS = 10_000
"""Amounts are summed as whole ten-thousandths of the account currency."""

DAYS = (1, 7, 30)
"""Lengths of the daily windows."""

REPORT_DAYS = (7, 30)
"""Lengths of the windows over fraud reports at a terminal."""

CUSTOMER_DAILY = (
    *(f"customer_count_{days}d" for days in DAYS),
    *(f"customer_amount_mean_{days}d" for days in DAYS),
    "customer_amount_max_30d",
    "customer_fraud_30d",
)
TERMINAL_DAILY = (
    *(f"terminal_count_{days}d" for days in DAYS),
    "terminal_amount_mean_30d",
    *(f"terminal_fraud_{days}d" for days in REPORT_DAYS),
    *(f"terminal_fraud_ratio_{days}d" for days in REPORT_DAYS),
)
RECENT = (
    "customer_count_1h",
    "customer_amount_1h",
    "customer_count_24h",
    "customer_amount_24h",
    "customer_new_places_24h",
    "customer_seconds_since_last",
    "pair_count_7d",
    "pair_count_30d",
    "terminal_count_1h",
    "customer_count_10m",
    "customer_amount_max_1h",
    "customer_speed_kmh",
    "customer_km_24h",
)
"""Recent activity: of the customer, of the customer at this terminal (`pair`), of the terminal."""

TRAVEL = ("customer_speed_kmh", "customer_km_24h")
"""Recent activity that needs to know where the terminals are; 0 where nobody does."""

SHORTEST_TRIP = MINUTE
"""A speed is over at least this long, since a card machine's clock may be off by some seconds."""

KMH = 3_600_000.0
"""Meters in a microsecond, as kilometers an hour."""

MEMORY = 30 * DAY
"""How far recent activity looks back at most; a longer gap since the last payment counts as this long."""

LONGEST_GAP = MEMORY / SECOND

COUNT = "int32"
"""The type of a count until it becomes a feature: what is sorted is half as wide as float64."""

WHOLE = "!int64"
"""The type of a sum of integers that is never null. Ibis takes every sum for an int64 and drops a cast to just that,
while DuckDB's has 128 bits, which are costly to sort and to hand on."""

SUMMED = {"count": ("n", COUNT), "amount_sum": ("total", "int64"), "fraud": ("frauds", COUNT)}
"""What is summed over days: the column of a day, and the type of the sum."""

MADE_OF = {
    "count": ("count",),
    "amount_mean": ("amount_sum", "count"),
    "amount_max": ("amount_max",),
    "fraud": ("fraud",),
    "fraud_ratio": ("fraud", "count"),
}
"""The integers over the same days that a daily feature is made of."""


def to_micros(times: pd.Series) -> np.ndarray:
    """Return time stamps as microseconds since 1970-01-01 UTC, int64.

    Raises
    ------
    LifecycleError
        If the column is not made of time stamps with a zone.

    Examples
    --------
    >>> to_micros(pd.Series(pd.to_datetime(["1970-01-02"], utc=True))).tolist()
    [86400000000]
    """
    if not isinstance(times.dtype, pd.DatetimeTZDtype):
        raise LifecycleError(
            f"Column {times.name!r} has type {times.dtype}, expected time stamps with a zone; "
            "convert it with pandas.to_datetime(..., utc=True)."
        )
    return times.astype(contracts.UTC).astype("int64").to_numpy()


def to_units(amounts: Any) -> np.ndarray:
    """Return amounts as whole ten-thousandths, int64, so that their sums are exact.

    Examples
    --------
    >>> to_units([12.34, 0.1]).tolist()
    [123400, 1000]
    """
    return np.rint(np.asarray(amounts, dtype="float64") * UNITS).astype("int64")


def to_meters(kilometers: Any) -> np.ndarray:
    """Return coordinates in km as whole meters, float64 so that an unknown one can stay NaN.

    Examples
    --------
    >>> to_meters([1.2344, -0.0004, float("nan")]).tolist()
    [1234.0, 0.0, nan]
    """
    return np.floor(np.asarray(kilometers, dtype="float64") * 1000.0 + 0.5)


def plain_ids(ids: pd.Series) -> np.ndarray:
    """Return ids as int64 or as Python strings, whatever pandas type they came in."""
    if pd.api.types.is_integer_dtype(ids.dtype):
        return ids.to_numpy("int64")
    return ids.astype(str).to_numpy(object)


def payment_columns(transactions: pd.DataFrame) -> pd.DataFrame:
    """Return what the window expressions read of the transactions: ids, integer time, integer money."""
    micros = to_micros(transactions["event_time"])
    return pd.DataFrame(
        {
            **{key: plain_ids(transactions[key]) for key in ("transaction_id", "customer_id", "terminal_id")},
            "micros": micros,
            "snapshot": micros // DAY + 1,
            "units": to_units(transactions["amount"]),
        }
    )


def report_columns(labels: pd.DataFrame) -> pd.DataFrame:
    """Return the fraud reports and the first midnight by which each was known.

    A report known exactly at midnight counts at that midnight.
    """
    reports = labels.loc[labels["is_fraud"] == 1, ["transaction_id", "known_at"]]
    known = to_micros(reports["known_at"])
    return pd.DataFrame({"transaction_id": plain_ids(reports["transaction_id"]), "snapshot": -(-known // DAY)})


def snapshot_days(first: int, last: int) -> pd.DataFrame:
    """Return the midnights from day number `first` to `last`, both included, as numbers and as time stamps."""
    days = np.arange(first, last + 1, dtype="int64")
    return pd.DataFrame(
        {"snapshot": days, "event_timestamp": pd.to_datetime(days, unit="D", utc=True).astype(contracts.UTC)}
    )


def daily_sums(
    payments: ibis.Table, reports: ibis.Table, entities: ibis.Table, days: ibis.Table, key: str
) -> ibis.Table:
    """Return one row an entity a midnight, with what the payments of the days before it add up to, as integers.

    A day's payments of an entity are first added up to one tile; the windows then run over tiles,
    not payments. A tile of day d is visible from midnight d + 1 on, so a snapshot never sees its own day.

    Parameters
    ----------
    payments, reports
        Tables with the columns of `payment_columns` and `report_columns`.
    entities
        The ids (column `key`) and any attributes to carry along.
    days
        The midnights (`snapshot_days`).
    key
        ``"customer_id"`` or ``"terminal_id"``.
    """
    import ibis

    tiles = payments.group_by([key, "snapshot"]).agg(
        n=payments.count().cast(COUNT), total=payments["units"].sum().cast(WHOLE), largest=payments["units"].max()
    )
    located = reports.inner_join(payments.select("transaction_id", key), "transaction_id")
    known = located.group_by([key, "snapshot"]).agg(frauds=located.count().cast(COUNT))
    dense = entities.cross_join(days)
    dense = dense.left_join(tiles, [key, "snapshot"]).drop(f"{key}_right", "snapshot_right")
    dense = dense.left_join(known, [key, "snapshot"]).drop(f"{key}_right", "snapshot_right")
    dense = dense.mutate(**{column: dense[column].fill_null(0) for column in ("n", "total", "frauds")})
    name = key.removesuffix("_id")
    values: dict[str, ibis.Value] = {}
    for summed, (part, length) in _daily_parts(name).items():
        # There is a row for every midnight, so a number of days is a number of rows, which needs no search.
        window = ibis.window(group_by=key, order_by="snapshot", preceding=length - 1, following=0)
        if part == "amount_max":
            values[summed] = dense["largest"].max().over(window)
        else:
            column, kind = SUMMED[part]
            values[summed] = (dense[column] if length == 1 else dense[column].sum().over(window)).cast(kind)
    kept = [column for column in entities.columns if column != key]
    return dense.select(key, "event_timestamp", *kept, **values, **{f"{name}_snapshot": dense["snapshot"]})


def daily_features(sums: ibis.Table) -> ibis.Table:
    """Turn the integers of `daily_sums` into the features, all float64."""
    import ibis

    name = sums.columns[0].removesuffix("_id")
    values: dict[str, ibis.Value] = {}
    for feature in _daily_names(name):
        what, length = _what_and_days(feature)
        parts = [sums[f"{name}_{part}_{length}d"].cast("float64") for part in MADE_OF[what]]
        if what == "amount_mean":
            values[feature] = parts[0] / parts[1].nullif(0.0) / float(UNITS)
        elif what == "amount_max":
            values[feature] = parts[0] / float(UNITS)
        elif what == "fraud_ratio":
            values[feature] = parts[0] / ibis.greatest(parts[1], 1.0)
        else:
            values[feature] = parts[0]
    kept = [column for column in sums.columns if column not in _daily_parts(name)]
    return sums.select(*kept, **values)


def _daily_names(name: str) -> tuple[str, ...]:
    """Return the daily features of a ``"customer"`` or a ``"terminal"``."""
    return CUSTOMER_DAILY if name == "customer" else TERMINAL_DAILY


def _daily_parts(name: str) -> dict[str, tuple[str, int]]:
    """Return the integers that an entity's daily features are made of: their names, what they are, their days."""
    features = map(_what_and_days, _daily_names(name))
    return {f"{name}_{part}_{days}d": (part, days) for what, days in features for part in MADE_OF[what]}


def _what_and_days(feature: str) -> tuple[str, int]:
    """Take a name such as ``customer_amount_mean_7d`` apart: ``("amount_mean", 7)``."""
    what, length = feature.split("_", 1)[1].rsplit("_", 1)
    return what, int(length.removesuffix("d"))


def recent_sums(
    payments: ibis.Table, terminals: ibis.Table, over: Collection[str] = ("customer_id", "terminal_id")
) -> ibis.Table:
    """Return the recent activity before each payment as integers, one row a payment.

    A window of an hour is ``[t - 1 h, t)`` in whole microseconds: payments at the same instant do not
    see each other. In a database's words, ``range between 3600000000 preceding and 1 preceding``.
    A place is new to a customer who has not paid there in the last 30 days. What a customer has traveled
    in 24 hours includes the way to the place of this payment.

    Parameters
    ----------
    payments
        A table with the columns of `payment_columns`.
    terminals
        The ids of terminals and, if known, where they are (`entity_table`).
    over
        The id columns whose windows are wanted: those of a customer include those of a pair.

    Returns
    -------
    ibis.Table
        `transaction_id`, `micros`, and what `recent_features` makes the features of.
    """
    import ibis

    if "customer_id" in over:
        # The joins come before the windows: what is read for the first of these serves the next ones too.
        payments = _with_moves(payments.drop("snapshot"), terminals)
    counts = {}
    if "terminal_id" in over:
        counts["terminal_count_1h"] = _before(payments.count(), HOUR, "terminal_id").cast(COUNT)
    if "customer_id" not in over:
        return payments.select("transaction_id", "micros", **counts)
    customer, pair = "customer_id", ("customer_id", "terminal_id")
    counts["pair_count_7d"] = _before(payments.count(), 7 * DAY, *pair).cast(COUNT)
    counts["pair_count_30d"] = _before(payments.count(), MEMORY, *pair).cast(COUNT)
    seen = payments.mutate(**counts)
    before = ibis.range_window(group_by=customer, order_by="micros", preceding=(None, 1))
    is_new = (seen["pair_count_30d"] == 0).cast("int64")
    return seen.select(
        "transaction_id",
        "micros",
        *counts,
        "moved",
        "lasted",
        customer_count_10m=_before(seen.count(), 10 * MINUTE, customer).cast(COUNT),
        customer_count_1h=_before(seen.count(), HOUR, customer).cast(COUNT),
        customer_count_24h=_before(seen.count(), DAY, customer).cast(COUNT),
        customer_amount_1h=_before(seen["units"].sum(), HOUR, customer).fill_null(0),
        customer_amount_24h=_before(seen["units"].sum(), DAY, customer).fill_null(0),
        customer_amount_max_1h=_before(seen["units"].max(), HOUR, customer).fill_null(0),
        customer_new_places_24h=_before(is_new.sum(), DAY, customer).fill_null(0).cast(COUNT),
        customer_since_last=seen["micros"] - seen["micros"].last().over(before),
        customer_moved_24h=seen["moved"] + _before(seen["moved"].sum(), DAY, customer).fill_null(0),
    )


def recent_features(sums: ibis.Table) -> ibis.Table:
    """Turn the integers of `recent_sums` into the features, all float64."""
    import ibis

    real = {name: sums[name].cast("float64") for name in sums.columns[2:]}
    money = ("customer_amount_1h", "customer_amount_24h", "customer_amount_max_1h")
    values = real | {name: real[name] / float(UNITS) for name in money if name in real}
    if "customer_since_last" in real:
        gap = ibis.least(real["customer_since_last"], float(MEMORY)) / float(SECOND)
        values |= {
            "customer_seconds_since_last": gap.fill_null(LONGEST_GAP),
            "customer_speed_kmh": real["moved"] * KMH / real["lasted"],
            "customer_km_24h": real["customer_moved_24h"] / 1000.0,
        }
    return sums.select("transaction_id", "micros", **{name: values[name] for name in RECENT if name in values})


def _before(value: ibis.Value, length: int, *keys: str) -> ibis.Value:
    """Return an aggregate over ``[t - length, t)``; null, unless it is a count, where no payment is in it."""
    import ibis

    return value.over(ibis.range_window(group_by=list(keys), order_by="micros", preceding=(length, 1)))


def _with_moves(payments: ibis.Table, terminals: ibis.Table) -> ibis.Table:
    """Add how far each payment is from the customer's place before it (`moved`, m), and how long that took (`lasted`).

    The place before is that of the latest earlier instant within 30 days; a payment without a place, such
    as one on the web, neither moves anybody nor counts as a place. Whole meters, so that sums are exact.
    """
    import ibis

    if "terminal_x_km" not in terminals.columns:
        return payments.mutate(moved=ibis.literal(0, "int64"), lasted=ibis.literal(SHORTEST_TRIP, "int64"))
    located = _located(payments, terminals)
    here = located.filter(located["x_m"].notnull())
    # Two payments at one instant are one place, the eastern and northern end of both.
    instants = here.group_by(["customer_id", "micros"]).agg(x=here["x_m"].max(), y=here["y_m"].max())
    order = ibis.window(group_by="customer_id", order_by="micros")
    before = instants.select(
        "customer_id", "micros", **{f"before_{name}": instants[name].lag().over(order) for name in ("x", "y", "micros")}
    )
    both = located.left_join(before, ["customer_id", "micros"]).drop("customer_id_right", "micros_right")
    lasted = both["micros"] - both["before_micros"]
    east, north = both["x_m"] - both["before_x"], both["y_m"] - both["before_y"]
    meters = ((east * east + north * north).cast("float64").sqrt() + 0.5).floor().cast("int64")
    return both.select(
        *payments.columns,
        moved=ibis.ifelse(lasted <= MEMORY, meters, 0).fill_null(0).cast("int64"),
        lasted=ibis.greatest(lasted, SHORTEST_TRIP).fill_null(SHORTEST_TRIP).cast("int64"),
    )


def _located(payments: ibis.Table, terminals: ibis.Table) -> ibis.Table:
    """Add where the terminal of each payment is (`x_m`, `y_m`, whole meters); null where it has no place."""
    # A NaN would be a number to a database: only real coordinates are places.
    x, y = terminals["terminal_x_km"], terminals["terminal_y_km"]
    known = terminals.filter(x.notnull() & y.notnull() & ~x.isnan() & ~y.isnan())
    places = known.select(
        "terminal_id",
        x_m=(known["terminal_x_km"] * 1000.0 + 0.5).floor().cast("int64"),
        y_m=(known["terminal_y_km"] * 1000.0 + 0.5).floor().cast("int64"),
    )
    return payments.left_join(places, "terminal_id").drop("terminal_id_right")


def entity_table(
    transactions: pd.DataFrame, attributes: pd.DataFrame | None, key: str, columns: Mapping[str, str]
) -> pd.DataFrame:
    """Return every id of the transactions and of the attribute table, with the named attributes if there are any.

    Parameters
    ----------
    columns
        Source column -> name of the feature, such as ``{"x": "terminal_x_km"}``. A row whose `channel` is
        the web has no place: its coordinates are those of an office.
    """
    ids = np.unique(plain_ids(transactions[key]))
    if attributes is None or not set(columns) <= set(attributes.columns):
        return pd.DataFrame({key: ids})
    own = attributes.assign(**{key: plain_ids(attributes[key])}).drop_duplicates(key, keep="last").set_index(key)
    located = own[list(columns)]
    if "channel" in own.columns:
        located = located.mask(own["channel"].astype(object) == WEB)
    table = located.reindex(np.union1d(ids, own.index.to_numpy()))
    return table.astype("float64").rename(columns=columns).rename_axis(key).reset_index()


# Feast's DuckDB store drops every column whose name ends in "_y" (its joins mark duplicates so), hence the names.
CUSTOMER_ATTRIBUTES = {"home_x": "home_x_km", "home_y": "home_y_km"}
TERMINAL_ATTRIBUTES = {"x": "terminal_x_km", "y": "terminal_y_km"}
ATTRIBUTES = {"customer_id": ("customers", CUSTOMER_ATTRIBUTES), "terminal_id": ("terminals", TERMINAL_ATTRIBUTES)}
"""Id column -> the table of what is known of the entity, and the columns that features need."""


def history_expressions(
    transactions: pd.DataFrame,
    labels: pd.DataFrame,
    customers: pd.DataFrame | None = None,
    terminals: pd.DataFrame | None = None,
) -> dict[str, ibis.Table]:
    """Return the three tables of history as Ibis expressions, in a fixed row order."""
    import ibis

    columns = payment_columns(transactions)
    payments = ibis.memtable(columns)
    reports = ibis.memtable(report_columns(labels))
    days = ibis.memtable(snapshot_days(int(columns["snapshot"].min()), int(columns["snapshot"].max())))
    entities = {
        "customer_id": ibis.memtable(entity_table(transactions, customers, "customer_id", CUSTOMER_ATTRIBUTES)),
        "terminal_id": ibis.memtable(entity_table(transactions, terminals, "terminal_id", TERMINAL_ATTRIBUTES)),
    }
    return history_tables(payments, reports, entities, days)


def history_tables(
    payments: ibis.Table, reports: ibis.Table, entities: Mapping[str, ibis.Table], days: ibis.Table
) -> dict[str, ibis.Table]:
    """Return the three tables of history over tables of any backend, in a fixed row order.

    Parameters
    ----------
    payments, reports
        Tables with the columns of `payment_columns` and `report_columns`.
    entities
        The ids and attributes (`entity_table`), by id column.
    days
        The midnights (`snapshot_days`).
    """
    tables = {}
    for key, own in entities.items():
        daily = daily_features(daily_sums(payments, reports, own, days, key))
        tables[f"{key.removesuffix('_id')}_daily"] = daily.order_by("event_timestamp", key)
    recent = recent_features(recent_sums(payments, entities["terminal_id"]))
    tables["recent"] = recent.order_by("micros", "transaction_id").drop("micros")
    return tables


def connect() -> Any:
    """Open an in-memory DuckDB through Ibis, with the session's clock in UTC."""
    import ibis

    return quiet_utc(ibis.duckdb.connect())


def quiet_utc(backend: Any) -> Any:
    """Set the clock of a DuckDB session to UTC and turn its progress bar off."""
    import duckdb

    backend.raw_sql("SET TimeZone = 'UTC'")
    # In Jupyter without ipywidgets there is no bar, and DuckDB refuses even to turn it off.
    with contextlib.suppress(duckdb.InvalidInputException):
        backend.raw_sql("SET enable_progress_bar = false")
    return backend


def history_features(
    transactions: pd.DataFrame,
    labels: pd.DataFrame,
    customers: pd.DataFrame | None = None,
    terminals: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the features that come from history: `customer_daily`, `terminal_daily` and `recent`.

    Parameters
    ----------
    transactions
        Payments that keep `contracts.TRANSACTIONS`.
    labels
        The label history. Only rows with ``is_fraud == 1`` count, from their `known_at` on.
    customers, terminals
        Where the coordinates are known: `customer_id`, `home_x`, `home_y` and `terminal_id`, `x`, `y`, in km.

    Returns
    -------
    dict of DataFrame
        Daily snapshots (entity, `event_timestamp` at midnight UTC, features as of that midnight), one row
        an entity a day; and the recent activity, one row a payment. Features are float64.

    Examples
    --------
    >>> times = pd.to_datetime(["2025-08-01 10:00", "2025-08-01 10:30", "2025-08-02 09:00"], utc=True)
    >>> payments = pd.DataFrame({"transaction_id": [1, 2, 3], "event_time": times.astype(contracts.UTC),
    ...     "customer_id": 5, "terminal_id": 9, "amount": [10.0, 30.0, 50.0]})
    >>> labels = pd.DataFrame({"transaction_id": [1], "is_fraud": [1], "known_at": times.astype(contracts.UTC)[2:]})
    >>> tables = history_features(payments, labels)
    >>> tables["customer_daily"]["customer_amount_mean_7d"].tolist()
    [20.0, 30.0]
    >>> tables["recent"]["customer_amount_1h"].tolist()
    [0.0, 10.0, 0.0]
    """
    backend = connect()
    try:
        expressions = history_expressions(transactions, labels, customers, terminals)
        return {name: backend.to_pandas(expression) for name, expression in expressions.items()}
    finally:
        backend.disconnect()


def write_history(
    folder: Path,
    transactions: pd.DataFrame,
    labels: pd.DataFrame,
    customers: pd.DataFrame | None = None,
    terminals: pd.DataFrame | None = None,
) -> None:
    """Write the tables of `history_features` as Parquet into `folder`, without holding them in memory."""
    backend = connect()
    try:
        for name, expression in history_expressions(transactions, labels, customers, terminals).items():
            backend.to_parquet(expression, folder / f"{name}.parquet", compression="zstd")
    finally:
        backend.disconnect()
