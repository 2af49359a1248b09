"""What the service saw on production days: payments as first received, history as it stood each midnight.

The tables of the earlier stages hold the corrected records. A monitor must not use them for days
before the correction came, or it would look for an incident in data from which it was removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import features, files

DAY = pd.Timedelta(days=1)
MEMORY = pd.Timedelta(days=31)
DAILY = ("customer_daily", "terminal_daily")


def as_received(transactions: pd.DataFrame, superseded: pd.DataFrame) -> pd.DataFrame:
    """Return the payments with the values they had when they first arrived.

    Parameters
    ----------
    transactions
        The payments as collected, corrections included.
    superseded
        The records that a later revision replaced, with the same columns.

    Returns
    -------
    DataFrame
        The same payments in the same order, with the superseded amounts, and ``corrected`` (bool).

    Examples
    --------
    >>> clean = pd.DataFrame({"transaction_id": [1, 2], "amount": [5.0, 7.0]})
    >>> as_received(clean, pd.DataFrame({"transaction_id": [2], "amount": [700.0]}))["amount"].tolist()
    [5.0, 700.0]
    """
    first = superseded.drop_duplicates("transaction_id").set_index("transaction_id")["amount"]
    amount = transactions["transaction_id"].map(first)
    return transactions.assign(amount=amount.fillna(transactions["amount"]), corrected=amount.notna())


def correction_midnight(received: pd.DataFrame) -> pd.Timestamp | None:
    """Return the first midnight at which the history is right again, or None if it was never wrong.

    The records are sent again on the day after the last wrong one, so they are in the tables at the
    end of that day.
    """
    wrong = received.loc[received["corrected"], "event_time"]
    return None if wrong.empty else wrong.max().floor("D") + 2 * DAY


def write_live_features(
    feature_dir: Path, received: pd.DataFrame, tables: dict[str, pd.DataFrame | None], since: pd.Timestamp, out: Path
) -> Path:
    """Write a feature folder with the history as it stood at each midnight from `since` on.

    Parameters
    ----------
    feature_dir
        The features artifact, made of the corrected history.
    received
        All payments as first received (`as_received`).
    tables
        ``labels``, ``customers`` and ``terminals`` as the features stage used them.
    since
        The first midnight wanted.
    out
        The folder to write.

    Returns
    -------
    Path
        `out`, which `lifecycle.features.open_store` can open.
    """
    out.mkdir(parents=True)
    shutil.copyfile(feature_dir / "schema.json", out / "schema.json")
    wanted = [("event_timestamp", ">=", since.to_pydatetime())]
    daily = {name: pd.read_parquet(feature_dir / f"{name}.parquet", filters=wanted) for name in DAILY}
    recent = pd.read_parquet(feature_dir / "recent.parquet")
    recent = recent[recent["transaction_id"].isin(received.loc[received["event_time"] >= since, "transaction_id"])]
    right_again = correction_midnight(received)
    if right_again is not None:
        wrong_from = received.loc[received["corrected"], "event_time"].min().floor("D")
        known = received[received["event_time"].between(wrong_from - MEMORY, right_again, inclusive="left")]
        then = features.history_features(known.drop(columns="corrected"), **tables)
        midnights = pd.date_range(wrong_from + DAY, right_again - DAY)
        daily = {name: _replace(table, then[name], midnights) for name, table in daily.items()}
        seen = set(known.loc[known["event_time"] >= wrong_from, "transaction_id"])
        rows = then["recent"][then["recent"]["transaction_id"].isin(seen)]
        recent = pd.concat([recent[~recent["transaction_id"].isin(seen)], rows[recent.columns]], ignore_index=True)
    files.write_parquet(recent, out / "recent.parquet")
    for name, table in daily.items():
        _write_by_day(table, out / f"{name}.parquet")
    return out


def _write_by_day(daily: pd.DataFrame, path: Path) -> None:
    """Write snapshots, one row group a day: the replay reads one midnight at a time."""
    schema = pa.Schema.from_pandas(daily, preserve_index=False)
    with pq.ParquetWriter(path, schema) as writer:
        for _, snapshot in daily.groupby("event_timestamp"):
            writer.write_table(pa.Table.from_pandas(snapshot, schema, preserve_index=False))


def _replace(daily: pd.DataFrame, then: pd.DataFrame, midnights: pd.DatetimeIndex) -> pd.DataFrame:
    """Put the snapshots of some midnights in place of those in `daily`."""
    kept = daily[~daily["event_timestamp"].isin(midnights)]
    put = then[then["event_timestamp"].isin(midnights)][daily.columns]
    return pd.concat([kept, put], ignore_index=True).sort_values("event_timestamp", kind="stable")


def sample_customers(customers: pd.Series, share: float, seed: int) -> np.ndarray:
    """Choose a fixed share of the customers, the same in every run.

    Examples
    --------
    >>> len(sample_customers(pd.Series([3, 1, 2, 2, 4, 5]), 0.4, seed=0))
    2
    """
    ids = np.sort(customers.unique())
    number = max(1, round(share * len(ids)))
    return np.sort(np.random.default_rng(seed).choice(ids, number, replace=False))
