"""The skew check: send payments through the online path again and compare with the offline table, bit by bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError
from lifecycle.features.online import OnlineFeatures, Snapshots
from lifecycle.features.recent import Recent, uncollected
from lifecycle.features.store import read_places
from lifecycle.features.windows import RECENT, payment_columns

PIECE = 1_024
"""Payments that the online path gets at a time; which number it is changes no value."""


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    `served` are the features of the online path, float32, one row an event in the order of the offline
    table; `seconds` are seconds of computing in the online path; `differing` is the share of events in
    which a feature differs, largest first, only where any do.
    """

    events: int
    rows_different: int
    differing: pd.Series
    seconds: float
    served: np.ndarray = field(repr=False)
    names: list[str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.rows_different:,} of {self.events:,} rows differ"


def replay(
    folder: Path | str,
    payments: pd.DataFrame,
    offline: pd.DataFrame,
    change: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    change_daily: Callable[[str, pd.DataFrame], pd.DataFrame] | None = None,
) -> Replay:
    """Send the payments of an offline table through the online path, and compare.

    Each midnight the snapshots of that midnight are put in place, as the nightly job would do, and the
    recent activity starts from the payments before the first event. Two values are equal when they are
    the same float32, or both missing: integer sums and one rounding at the end leave no reason for less.

    Parameters
    ----------
    folder
        A features artifact.
    payments
        All payments, also those before the first event.
    offline
        Events and their features as computed offline, such as the artifact's `test_set`.
    change, change_daily
        A mistake to plant: what to do to the payments as the service receives them, and to the snapshots
        of a view as it reads them.

    Raises
    ------
    LifecycleError
        If an event is not among the payments.
    """
    events, past = _split(payments, offline)
    online = OnlineFeatures(Snapshots(folder, change_daily))
    online.recent.seed(past if change is None else change(past))
    began = time.process_time()
    parts = []
    with uncollected():
        for day, own in events.groupby(events["event_time"].dt.floor("D")):
            online.rows.load(day.date())
            received = own if change is None else change(own)
            parts += [online.transform(received.iloc[start : start + PIECE]) for start in range(0, len(own), PIECE)]
    seconds = time.process_time() - began
    served = np.concatenate(parts)[pd.Index(events["transaction_id"]).get_indexer(offline["transaction_id"])]
    return compare(served, offline[online.names].to_numpy("float32"), online.names, seconds)


def _split(payments: pd.DataFrame, offline: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the payments from the first to the last event, in the order of time, and those before that day."""
    times = payments["event_time"]
    first, last = offline["event_time"].min().floor("D"), offline["event_time"].max()
    events = payments[times.between(first, last)].sort_values(["event_time", "transaction_id"])
    unknown = int((~offline["transaction_id"].isin(events["transaction_id"])).sum())
    if unknown:
        raise LifecycleError(f"{unknown:,} of {len(offline):,} events are not among the payments.")
    return events, payments[times < first]


def recent_as_of(
    folder: Path | str, payments: pd.DataFrame, offline: pd.DataFrame, every: Sequence[int]
) -> list[pd.DataFrame]:
    """Return the recent activity of events as jobs that run every so often would have left it.

    Parameters
    ----------
    folder, payments, offline
        As in `replay`.
    every
        For each job the time between two runs, in microseconds, such as `windows.HOUR`. An event finds the
        values of the run before it. (Of windows of 30 days, their first hours may be missing.)

    Returns
    -------
    list of DataFrame of float32
        For each job the columns of `windows.RECENT`, one row an event, in the order of `offline`.
    """
    events, past = _split(payments, offline)
    recent = Recent(read_places(folder))
    recent.seed(past)
    columns = payment_columns(events)
    ids = (columns["customer_id"].tolist(), columns["terminal_id"].tolist())
    wanted = events["transaction_id"].isin(offline["transaction_id"]).tolist()
    payment_rows = zip(*ids, columns["micros"].tolist(), columns["units"].tolist(), wanted, strict=True)
    rows: list[list[tuple[float, ...]]] = [[] for _ in every]
    with uncollected():
        for customer, terminal, now, units, asked in payment_rows:
            if asked:
                for own, length in zip(rows, every, strict=True):
                    own.append(recent.look_one(customer, terminal, now // length * length))
            recent.observe_one(customer, terminal, now, units)
    order = pd.Index(events.loc[wanted, "transaction_id"]).get_indexer(offline["transaction_id"])
    return [pd.DataFrame(np.array(own, dtype="float32")[order], columns=list(RECENT)) for own in rows]


def compare(served: np.ndarray, expected: np.ndarray, names: list[str], seconds: float = 0.0) -> Replay:
    """Compare two tables of features of the same events.

    Examples
    --------
    >>> found = compare(np.array([[1.0, 2.0]]), np.array([[1.0, 2.5]]), ["hour", "amount"])
    >>> print(found), found.differing.to_dict()
    1 of 1 rows differ
    (None, {'amount': 1.0})
    """
    differ = ~((served == expected) | (np.isnan(served) & np.isnan(expected)))
    share = pd.Series(differ.mean(axis=0), index=names).sort_values(ascending=False, kind="stable")
    return Replay(len(served), int(differ.any(axis=1).sum()), share[share > 0], seconds, served, names)
