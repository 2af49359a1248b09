"""The online path: features of payments as they arrive, equal to what `assemble` finds afterwards."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError
from lifecycle.features.request import request_features
from lifecycle.features.schema import VIEWS, attribute_columns, feature_names, load_schema
from lifecycle.features.windows import (
    DAY,
    HOUR,
    KMH,
    LONGEST_GAP,
    MEMORY,
    MINUTE,
    RECENT,
    SECOND,
    SHORTEST_TRIP,
    UNITS,
    to_micros,
    to_units,
)

if TYPE_CHECKING:
    from feast import FeatureStore

BATCH = 5_000
"""Entities a read of the online store asks for at most; SQLite takes 32,766 parameters in a statement."""

LENGTHS = (7 * DAY, DAY, HOUR, 10 * MINUTE)
NOWHERE = np.iinfo("int64").min
"""The coordinate of a terminal without a place, while history is read."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Recent:
    """The payments of the last 30 days by customer, and of the last hour by terminal.

    Windows are those of `windows.recent_windows`, strictly before the payment. Amounts and distances are
    summed as integers, so the sums equal the database's to the last digit. A payment that arrives late is
    put in its place in time; it changes what later ones see, not what earlier ones saw.

    Parameters
    ----------
    places
        Where the terminals are, in whole meters (`store.read_places`); without it nobody travels.

    Examples
    --------
    >>> recent = Recent()
    >>> recent.observe([7], [1], [0], [100_000])[0, :6].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 2592000.0]
    >>> recent.observe([7], [1], [60_000_000], [50_000])[0, :6].tolist()
    [1.0, 10.0, 1.0, 10.0, 1.0, 60.0]
    """

    def __init__(self, places: Mapping[Any, tuple[int, int]] | None = None) -> None:
        # Of each customer: times in order, amounts, terminals, whether the place was new, meters traveled.
        self._customers: dict[Any, tuple[list[int], list[int], list[Any], list[bool], list[int]]] = {}
        self._terminals: dict[Any, list[int]] = {}
        self._places = places or {}

    def observe(
        self, customers: Iterable[Any], terminals: Iterable[Any], micros: Iterable[int], units: Iterable[int]
    ) -> np.ndarray:
        """Return the recent activity before each payment, and remember each payment.

        Parameters
        ----------
        customers, terminals
            Ids.
        micros, units
            Times in microseconds since 1970 UTC and amounts in ten-thousandths, as Python integers.

        Returns
        -------
        ndarray of float64, shape (payments, 13)
            Columns in the order of `windows.RECENT`.
        """
        rows = [self._one(*payment) for payment in zip(customers, terminals, micros, units, strict=True)]
        return np.array(rows, dtype="float64").reshape(-1, len(RECENT))

    def _one(self, customer: Any, terminal: Any, now: int, units: int) -> tuple[float, ...]:
        past = self._customers.get(customer)
        if past is None:
            past = self._customers[customer] = ([], [], [], [], [])
        times, amounts, places, new, meters = past
        end = bisect_left(times, now)
        month = bisect_left(times, now - MEMORY, 0, end)
        week, day, hour, minutes = (bisect_left(times, now - length, month, end) for length in LENGTHS)
        known = places[month:end].count(terminal)
        moved, lasted = self._move(times, places, terminal, now, month, end)
        here = self._terminals.setdefault(terminal, [])
        values = (
            end - hour,
            sum(amounts[hour:end]) / UNITS,
            end - day,
            sum(amounts[day:end]) / UNITS,
            sum(new[day:end]),
            (now - times[end - 1]) / SECOND if end > month else LONGEST_GAP,
            places[week:end].count(terminal),
            known,
            bisect_left(here, now) - bisect_left(here, now - HOUR),
            end - minutes,
            max(amounts[hour:end], default=0) / UNITS,
            moved * KMH / lasted,
            (moved + sum(meters[day:end])) / 1000,
        )
        place = bisect_right(times, now, end)
        for column, value in zip(past, (now, units, terminal, known == 0, moved), strict=True):
            column.insert(place, value)
        here.insert(bisect_right(here, now), now)
        _forget(times[-1] - MEMORY, *past)
        _forget(here[-1] - DAY, here)
        return values

    def _move(
        self, times: list[int], places: list[Any], terminal: Any, now: int, month: int, end: int
    ) -> tuple[int, int]:
        """Return how far a payment is from the customer's place before it, in meters, and after how long."""
        here = self._places.get(terminal)
        last = end - 1
        while here is not None and last >= month:
            place = self._places.get(places[last])
            if place is not None:
                x, y = place
                for other in range(last - 1, month - 1, -1):
                    if times[other] != times[last]:
                        break
                    x, y = (max(pair) for pair in zip((x, y), self._places.get(places[other], (x, y)), strict=True))
                square = (here[0] - x) ** 2 + (here[1] - y) ** 2
                return int(math.sqrt(square) + 0.5), max(now - times[last], SHORTEST_TRIP)
            last -= 1
        return 0, SHORTEST_TRIP

    def seed(self, transactions: pd.DataFrame) -> None:
        """Remember past payments, as if each had been observed; those of the last 31 days of the table can matter.

        Thirty days, and one more: whether yesterday's payments were at new places depends on the 30 days before them.

        Raises
        ------
        LifecycleError
            If payments were remembered before: history comes first.

        Examples
        --------
        >>> times = pd.Series(pd.to_datetime(["2025-11-02 10:00", "2025-11-02 10:20"], utc=True))
        >>> recent = Recent()
        >>> recent.seed(pd.DataFrame({"customer_id": 7, "terminal_id": 1, "event_time": times, "amount": [5.0, 9.0]}))
        >>> recent.observe([7], [1], [int(times[1].timestamp()) * 1_000_000 + 1], [10_000])[0, :2].tolist()
        [2.0, 14.0]
        """
        if self._customers:
            raise LifecycleError("Recent activity can be seeded only before the first payment; use `observe` now.")
        micros = to_micros(transactions["event_time"])
        last = np.flatnonzero(micros >= micros.max(initial=0) - MEMORY - DAY)
        last = last[np.argsort(micros[last], kind="stable")]
        rows, times = transactions.iloc[last], micros[last]
        customer, terminal = (Groups(rows[key]) for key in ("customer_id", "terminal_id"))
        new = _is_new(customer.code, terminal.code, times)
        coordinates = np.array([self._places.get(key, (NOWHERE, NOWHERE)) for key in terminal.keys], dtype="int64")
        moved = _moved(customer.code, times, coordinates.reshape(-1, 2)[terminal.code])
        columns = (times, to_units(rows["amount"]), terminal.ids, new, moved)
        self._customers = customer.split(times, MEMORY, columns)
        self._terminals = {key: parts[0] for key, parts in terminal.split(times, DAY, (times,)).items()}


class Groups:
    """Rows by the id they belong to, for rows in the order of time."""

    def __init__(self, ids: pd.Series) -> None:
        self.code, keys = pd.factorize(ids)
        self.keys = keys.tolist()
        self.ids = np.empty(len(ids), dtype=object)
        self.ids[:] = ids.tolist()

    def split(self, times: np.ndarray, memory: int, columns: tuple[np.ndarray, ...]) -> dict[Any, tuple[list, ...]]:
        """Return, for each id, its part of each column as a list, without what is older than its memory."""
        newest = np.zeros(len(self.keys), dtype="int64")
        np.maximum.at(newest, self.code, times)
        kept = np.flatnonzero(times >= newest[self.code] - memory)
        order = kept[np.argsort(self.code[kept], kind="stable")]
        ends = np.cumsum(np.bincount(self.code[kept], minlength=len(self.keys))).tolist()
        lists = [column[order].tolist() for column in columns]
        starts = [0, *ends[:-1]]
        return {
            key: tuple(values[start:end] for values in lists)
            for key, start, end in zip(self.keys, starts, ends, strict=True)
        }


def _is_new(customer: np.ndarray, terminal: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return whether each payment is the customer's first at the terminal in 30 days; payments of one instant agree."""
    order = np.lexsort((times, terminal, customer))
    who, where, when = customer[order], terminal[order], times[order]
    same_pair = np.zeros(len(order), dtype=bool)
    same_pair[1:] = (who[1:] == who[:-1]) & (where[1:] == where[:-1])
    same_instant = same_pair.copy()
    same_instant[1:] &= when[1:] == when[:-1]
    # The first payment of each instant decides; the others of that instant follow it.
    gap = np.full(len(order), MEMORY + 1)
    gap[1:] = np.where(same_pair[1:], when[1:] - when[:-1], MEMORY + 1)
    first = np.maximum.accumulate(np.where(same_instant, 0, np.arange(len(order))))
    new = np.empty(len(order), dtype=bool)
    new[order] = (gap > MEMORY)[first]
    return new


def _moved(customer: np.ndarray, times: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return how far each payment is from the customer's place before it, in whole meters; see `Recent._move`."""
    moved = np.zeros(len(times), dtype="int64")
    placed = np.flatnonzero(places[:, 0] != NOWHERE)
    if not len(placed):
        return moved
    placed = placed[np.lexsort((times[placed], customer[placed]))]
    who, when, where = customer[placed], times[placed], places[placed]
    starts = np.ones(len(placed), dtype=bool)
    starts[1:] = (who[1:] != who[:-1]) | (when[1:] != when[:-1])
    instant = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    ends = np.maximum.reduceat(where, first)  # of payments at one instant, the eastern and northern end
    before = np.maximum(instant - 1, 0)
    near = (instant > 0) & (who[first][before] == who) & (when - when[first][before] <= MEMORY)
    square = ((where - ends[before]) ** 2).sum(axis=1)
    moved[placed] = np.where(near, np.floor(np.sqrt(square.astype("float64")) + 0.5).astype("int64"), 0)
    return moved


def _forget(before: int, times: list[int], *others: list[Any]) -> None:
    """Drop the entries older than a moment; `times` is sorted."""
    if times[0] < before:
        old = bisect_left(times, before)
        for column in (times, *others):
            del column[:old]


class OnlineFeatures:
    """Compute the features of payments as they arrive.

    The daily features come from Feast's online store, the recent activity from memory, the rest from the payment.
    Payments are expected in the order of their time; each one is remembered for those that follow.

    Parameters
    ----------
    store
        A folder with an online store (made by `export_online`), or an open Feast store.
    schema
        The feature schema; by default the folder's `schema.json`.

    Attributes
    ----------
    recent
        The recent activity (`Recent`); ``recent.seed(transactions)`` starts it from history.
    """

    def __init__(self, store: Path | str | FeatureStore, schema: Mapping[str, Any] | None = None) -> None:
        from lifecycle.features.store import open_store, read_places

        if isinstance(store, str | Path):
            store = open_store(store, on_demand=False)
        self.schema = load_schema(store.config.repo_path) if schema is None else schema
        self.names = feature_names(self.schema)
        self.recent = Recent(read_places(store.config.repo_path))
        self._store = store
        self._ttl = self.schema["ttl_days"] * DAY

    def transform(self, records: Sequence[Mapping[str, Any]] | pd.DataFrame) -> np.ndarray:
        """Return the features of some payments, and remember the payments.

        Parameters
        ----------
        records
            Dictionaries or a frame with the contract's columns and the text columns of the schema (a text
            that is absent counts as unknown). `event_time` is a time stamp or an ISO-8601 string, with a zone.

        Returns
        -------
        ndarray of float32, shape (payments, features)
            Columns in the order of `names`. What is not known is NaN.

        Raises
        ------
        LifecycleError
            If a field is missing, a time has no zone, or an amount is not a positive number. Nothing is
            remembered then.
        """
        columns = self._columns(records)
        micros = columns["event_micros"]
        values: dict[str, Any] = dict(columns)
        for view, (key, prefix) in VIEWS.items():
            values |= self._daily(view, key, prefix, columns[key], micros)
        values |= request_features(values, self.schema["categories"], self.schema["texts"])
        units = to_units(columns["amount"]).tolist()
        observed = self.recent.observe(columns["customer_id"], columns["terminal_id"], micros.tolist(), units)
        values |= dict(zip(RECENT, observed.T, strict=True))
        matrix = np.empty((len(micros), len(self.names)), dtype="float32")
        for position, name in enumerate(self.names):
            matrix[:, position] = values[name]
        return matrix

    def _columns(self, records: Sequence[Mapping[str, Any]] | pd.DataFrame) -> dict[str, Any]:
        """Turn records into columns, checking each field."""
        texts = attribute_columns(self.schema)
        if isinstance(records, pd.DataFrame):
            absent = [name for name in ("customer_id", "terminal_id", "amount", "event_time") if name not in records]
            if absent:
                raise LifecycleError(f"The payments lack the field {absent[0]!r}; add it.")
            columns: dict[str, Any] = {
                name: records[name].tolist() for name in ("customer_id", "terminal_id", "amount")
            }
            columns["event_micros"] = to_micros(records["event_time"])
            columns |= {name: records[name].tolist() if name in records else [None] * len(records) for name in texts}
        else:
            try:
                columns = {name: [r[name] for r in records] for name in ("customer_id", "terminal_id", "amount")}
                micros = [_parse_time(record["event_time"]) for record in records]
            except KeyError as error:
                raise LifecycleError(f"A payment lacks the field {error.args[0]!r}; add it.") from None
            columns["event_micros"] = np.array(micros, dtype="int64")
            columns |= {name: [record.get(name) for record in records] for name in texts}
        columns["amount"] = _check_amounts(columns["amount"])
        for key, kind in self.schema["entities"].items():
            _check_ids(key, columns[key], int if kind == "int64" else str)
        return columns

    def _daily(self, view: str, key: str, prefix: str, ids: list[Any], micros: np.ndarray) -> dict[str, np.ndarray]:
        """Read one daily view for some entities; rows that are missing or too old give NaN."""
        fields = self.schema["fields"][view]
        unique = list(dict.fromkeys(ids))
        found: dict[str, list[Any]] = {name: [] for name in fields}
        for start in range(0, len(unique), BATCH):
            response = self._store.get_online_features(
                [f"{view}:{name}" for name in fields], {key: unique[start : start + BATCH]}
            ).to_dict()
            for name in fields:
                found[name].extend(response[name])
        place = {entity: position for position, entity in enumerate(unique)}
        rows = np.array([place[entity] for entity in ids], dtype="int64")
        values = {name: np.array(found[name], dtype="float64")[rows] for name in fields}
        taken = values.pop(f"{prefix}_snapshot") * DAY
        stale = ~(micros <= taken + self._ttl)
        return {name: np.where(stale, np.nan, column) for name, column in values.items()}


def _parse_time(value: Any) -> int:
    """Return a time with a zone as microseconds since 1970 UTC, without going through a float."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        since = moment - _EPOCH
        return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds
    except (TypeError, ValueError):
        raise LifecycleError(
            f"Field 'event_time' has the value {value!r}; give an ISO-8601 time with a zone, "
            "such as 2025-11-03T08:15:00Z."
        ) from None


def _check_amounts(values: list[Any]) -> np.ndarray:
    good = all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf for value in values
    )
    if not good:
        bad = next(v for v in values if not isinstance(v, int | float) or isinstance(v, bool) or not 0 < v < np.inf)
        raise LifecycleError(f"Field 'amount' has the value {bad!r}; amounts must be finite numbers above 0.")
    return np.array(values, dtype="float64")


def _check_ids(key: str, values: list[Any], kind: type) -> None:
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise LifecycleError(f"Field {key!r} has the value {value!r}; the model knows ids of type {kind.__name__}.")
