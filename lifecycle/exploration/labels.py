"""How the labels are spread, and how much of them has arrived.

The interval of a rate is Wilson's (1927). How many frauds of a young week are still to come is
estimated as insurers estimate claims: by chain ladder (Mack, "Distribution-free calculation of the
standard error of chain ladder reserve estimates", ASTIN Bulletin 1993).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts

HORIZON_DAYS = 35
"""A payment this old has its chargeback, if it ever gets one: the reference for label maturity."""

WEEKS_LATER = 6
"""How many weeks the triangle follows each week of payments."""

_DAY = pd.Timedelta(days=1)


def with_known_labels(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Return the transactions with a column `is_fraud` (float64) as known at `as_of`; NaN is not yet known."""
    known = contracts.labels_as_of(labels, as_of).set_index("transaction_id")["is_fraud"]
    return transactions.assign(is_fraud=transactions["transaction_id"].map(known).astype("float64"))


def count_classes(joined: pd.DataFrame) -> dict[str, Any]:
    """Return how many payments are known to be fraud, known to be honest, and not known."""
    fraud, honest = int((joined["is_fraud"] == 1).sum()), int((joined["is_fraud"] == 0).sum())
    return {
        "fraud": fraud,
        "honest": honest,
        "unknown": len(joined) - fraud - honest,
        "fraud_rate": fraud / max(fraud + honest, 1),
        "accuracy_of_saying_never": honest / max(fraud + honest, 1),
    }


def rate_levels(joined: pd.DataFrame) -> pd.DataFrame:
    """Return payments, known frauds and fraud rate (with a 95 % Wilson interval) by level of each attribute."""
    known = joined[joined["is_fraud"].notna()]
    tables = []
    for column in known.columns[known.dtypes == "category"]:
        if known[column].nunique() <= 100:
            table = (
                known.groupby(column, observed=True)["is_fraud"]
                .agg(payments="size", frauds="sum")
                .reset_index(names="level")
            )
            tables.append(table.assign(column=column, level=table["level"].astype(str)))
    columns = ["column", "level", "payments", "frauds"]
    result = (
        pd.concat(tables)[columns]
        if tables
        else pd.DataFrame(columns=columns).astype({"payments": "int64", "frauds": "float64"})
    )
    result["frauds"] = result["frauds"].astype("int64")
    result["rate"] = result["frauds"] / result["payments"]
    result["low"], result["high"] = wilson_interval(result["frauds"], result["payments"])
    return result.reset_index(drop=True)


def wilson_interval(successes: Any, trials: Any, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of a rate that holds for rare events too (Wilson 1927).

    Examples
    --------
    >>> low, high = wilson_interval(3, 100)
    >>> round(float(low), 4), round(float(high), 4)
    (0.0103, 0.0845)
    """
    k, n = np.asarray(successes, dtype="float64"), np.asarray(trials, dtype="float64")
    center = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return np.maximum(center - half, 0), np.minimum(center + half, 1)


def count_days(joined: pd.DataFrame) -> pd.DataFrame:
    """Return, by day: payments, amount, payments whose label is known, and frauds known."""
    day = joined["event_time"].dt.floor("D").rename("day")
    groups = joined.groupby(day)
    return pd.DataFrame(
        {
            "payments": groups.size(),
            "amount": groups["amount"].sum(),
            "labeled": groups["is_fraud"].count(),
            "frauds": groups["is_fraud"].sum().astype("int64"),
        }
    ).reset_index()


def label_maturity(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Return how the frauds of a day become known: days since the payment, share known by then.

    Only payments at least `HORIZON_DAYS` before `as_of` count, so that each had the same time to mature.
    The share is relative to the frauds known after `HORIZON_DAYS`.
    """
    delays = fraud_delays(transactions, labels, as_of)
    days = np.arange(HORIZON_DAYS + 1)
    share = [float((delays <= day).mean()) if len(delays) else float("nan") for day in days]
    return pd.DataFrame({"days": days, "share_known": share, "frauds": len(delays)})


def fraud_delays(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> np.ndarray:
    """Return the days from payment to chargeback (float64) of the payments that had `HORIZON_DAYS` to mature."""
    old = transactions.loc[transactions["event_time"] <= as_of - HORIZON_DAYS * _DAY, ["transaction_id", "event_time"]]
    frauds = labels[(labels["is_fraud"] == 1) & (labels["known_at"] <= as_of)].merge(old, on="transaction_id")
    delays = ((frauds["known_at"] - frauds["event_time"]) / _DAY).to_numpy()
    return delays[delays <= HORIZON_DAYS]


def summarize_maturity(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> dict[str, Any]:
    """Return the delay of the chargebacks in numbers: median and the shares known after 7, 14 and 21 days."""
    delays = fraud_delays(transactions, labels, as_of)
    if not len(delays):
        return {"frauds": 0}
    known = {f"known_after_{days}_days": float((delays <= days).mean()) for days in (7, 14, 21)}
    return {"frauds": len(delays), "median_days": float(np.median(delays)), **known}


def ripen(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Return the triangle: the frauds of each week of payments, as known when it was so many weeks old.

    Weeks are blocks of seven days that end at the last midnight of the payments (or at `as_of`, if
    earlier); a block that is not whole is left out. Each is looked at when it was as old as the youngest
    is at `as_of`, less whole weeks, and every week from then on. A look after `as_of` has not happened
    yet, hence the triangle.

    Returns
    -------
    DataFrame
        ``week`` (its first moment), ``weeks_later`` (0 to `WEEKS_LATER`: whole weeks since its end),
        ``payments``, ``frauds`` (known by then) and ``rate``.

    Examples
    --------
    >>> at = pd.to_datetime(["2025-07-01 09:00", "2025-07-02 09:00", "2025-07-14 09:00"], utc=True)
    >>> payments = pd.DataFrame({"transaction_id": [1, 2, 3], "event_time": at})
    >>> labels = pd.DataFrame({"transaction_id": [1], "is_fraud": [1], "known_at": at[:1] + 10 * _DAY})
    >>> ripen(payments, labels, pd.Timestamp("2025-07-15", tz="UTC"))["frauds"].tolist()
    [0, 1, 0]
    """
    time = transactions["event_time"]
    end = min((time.max() + pd.Timedelta(microseconds=1)).ceil("D"), as_of)
    block = ((end - time) // (7 * _DAY)).to_numpy()  # 0 is the youngest; a payment at `end` or later is negative
    whole = int((end - time.min().floor("D")) / (7 * _DAY))
    sizes = np.bincount(block[(block >= 0) & (block < whole)], minlength=max(whole, 1))
    frauds = labels[(labels["is_fraud"] == 1) & (labels["known_at"] <= as_of)].drop_duplicates("transaction_id")
    at = transactions["transaction_id"].isin(frauds["transaction_id"]).to_numpy() & (block >= 0) & (block < whole)
    known = frauds.set_index("transaction_id")["known_at"]
    reported = transactions.loc[at, "transaction_id"].map(known)
    rest = (as_of - end) % (7 * _DAY)
    rows = []
    for number in range(whole - 1, -1, -1):
        closed, size = end - 7 * number * _DAY, int(sizes[number])
        inside = reported[block[at] == number]
        for later in range(WEEKS_LATER + 1):
            look = closed + rest + 7 * later * _DAY
            if look <= as_of:
                found = int((inside <= look).sum())
                rows.append((closed - 7 * _DAY, later, size, found, found / max(size, 1)))
    return pd.DataFrame(rows, columns=["week", "weeks_later", "payments", "frauds", "rate"])


def project(triangle: pd.DataFrame) -> pd.DataFrame:
    """Return what the fraud rate of each week will be when it is ripe, by chain ladder.

    From one week later to the next, the frauds of all weeks together grow by a factor. A young week is
    given the growth that the older ones had.

    Returns
    -------
    DataFrame
        ``week``, ``payments``, ``age`` (weeks since its end), ``frauds`` and ``rate`` (as known now),
        ``expected_frauds``, ``expected_rate`` and ``share_known``. With no older week to learn from, nothing
        is expected to come.

    Examples
    --------
    >>> triangle = pd.DataFrame({"week": [1, 1, 2], "weeks_later": [0, 1, 0], "payments": 1000,
    ...                          "frauds": [4, 8, 3], "rate": [0.004, 0.008, 0.003]})
    >>> project(triangle)["expected_frauds"].tolist()
    [8.0, 6.0]
    """
    square = triangle.pivot(index="week", columns="weeks_later", values="frauds")
    last = max(square.columns, default=0)
    factor = {}
    for later in range(last):
        both = square[square[later + 1].notna()] if later + 1 in square else square.iloc[:0]
        before = both[later].sum() if len(both) else 0
        factor[later] = max(float(both[later + 1].sum() / before), 1.0) if before else 1.0
    youngest = triangle.sort_values("weeks_later").drop_duplicates("week", keep="last").sort_values("week")
    growth = [float(np.prod([factor[k] for k in range(age, last)])) for age in youngest["weeks_later"]]
    result = youngest.rename(columns={"weeks_later": "age"}).reset_index(drop=True)
    result["expected_frauds"] = result["frauds"] * np.array(growth)
    result["expected_rate"] = result["expected_frauds"] / result["payments"].clip(lower=1)
    result["share_known"] = 1 / np.array(growth) if len(growth) else []
    return result
