"""The split of the payments by time, and what each part holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts
from lifecycle.errors import LifecycleError
from lifecycle.preprocessing.tables import open_database, parquet

SPLITS = ("warmup", "train", "gap", "test", "later")


def split_by_time(event_time: pd.Series, settings: Any) -> pd.Categorical:
    """Return the split of each payment: one of `SPLITS`, by its time alone.

    The gap between training and test is where labels ripen: a model that is used from `test_from` on
    knows at that moment the labels of payments up to `label_delay_days` before.

    Parameters
    ----------
    event_time
        datetime64[us, UTC].
    settings
        The calendar: `train_from`, `train_until`, `test_from`, `test_until` (days, half-open periods).

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> times = pd.to_datetime(pd.Series(["2025-07-31", "2025-08-01", "2025-09-22", "2025-10-19"]), utc=True)
    >>> list(split_by_time(times, Settings()))
    ['warmup', 'train', 'gap', 'test']
    """
    starts = [settings.train_from, settings.train_until, settings.test_from, settings.test_until]
    edges = np.array([contracts.midnight(day).to_datetime64() for day in starts], "datetime64[us]")
    moments = event_time.to_numpy("datetime64[us]")
    return pd.Categorical.from_codes(np.searchsorted(edges, moments, side="right"), SPLITS)


def check_periods(rows: Mapping[str, int], first: pd.Timestamp, last: pd.Timestamp, settings: Any) -> None:
    """Raise a LifecycleError if the training or the test period holds no payments.

    Parameters
    ----------
    rows
        The number of payments of each split.
    first, last
        The times of the first and the last payment, for the message.
    """
    for name, what in (("train", "training"), ("test", "test")):
        if not rows.get(name):
            raise LifecycleError(
                f"The {what} period [{getattr(settings, f'{name}_from')}, {getattr(settings, f'{name}_until')}) "
                f"holds no payments: they run from {first:%Y-%m-%d} to {last:%Y-%m-%d}; choose dates within."
            )


def describe_splits(transactions: Path, labels: Path, settings: Any) -> list[dict[str, Any]]:
    """Return one row a split: dates, rows, and the frauds known when the split was first used.

    Labels of training are those known at `test_from`, all later ones those known at `deploy_at`,
    when the verdict on the model is passed. Payments after that are counted with the labels of the
    end of the data.

    Parameters
    ----------
    transactions
        The Parquet file of the cleaned payments, with a column `split`.
    labels
        The Parquet file of the label history.
    settings
        The calendar.
    """
    with open_database() as db:
        counts = dict(db.execute(f"SELECT split, count(*) FROM {parquet(transactions)} GROUP BY ALL").fetchall())
        # Only payments that were ever called fraud can count, and they are few: only they are fetched.
        db.execute(f"CREATE TABLE suspects AS SELECT DISTINCT transaction_id FROM {parquet(labels)} WHERE is_fraud = 1")
        suspects = db.execute(
            f"SELECT transaction_id, split FROM {parquet(transactions)} SEMI JOIN suspects USING (transaction_id)"
        ).df()
        history = db.execute(f"SELECT * FROM {parquet(labels)} SEMI JOIN suspects USING (transaction_id)").df()
        last = db.execute(f"SELECT max(known_at) FROM {parquet(labels)}").df().iloc[0, 0]
    edges = [settings.train_from, settings.train_until, settings.test_from, settings.test_until]
    moments = [settings.test_from, settings.test_from, settings.deploy_at, settings.deploy_at, None]
    rows = []
    for name, start, end, moment in zip(SPLITS, [None, *edges], [*edges, None], moments, strict=True):
        as_of = contracts.midnight(moment) if moment else last.tz_convert("UTC")
        known = contracts.labels_as_of(history, as_of)
        frauds = known.loc[known["is_fraud"] == 1, "transaction_id"]
        ids = suspects.loc[suspects["split"] == name, "transaction_id"]
        rows.append(
            {
                "name": name,
                "from": str(start) if start else None,
                "until": str(end) if end else None,
                "rows": counts.get(name, 0),
                "frauds": int(ids.isin(frauds).sum()),
                "labels_as_of": as_of.isoformat(),
            }
        )
    return rows
