"""What happened in the minutes, hours and days before a payment, kept in memory: the service's side of `windows`."""

from __future__ import annotations

import gc
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError
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

NOTHING: tuple[tuple[()], ...] = ((),) * 5
"""The past of a customer who has none."""

NOWHERE = np.iinfo("int64").min
"""The coordinate of a terminal without a place, while history is read."""


class Recent:
    """The payments of the last 30 days by customer, and of the last hour by terminal.

    Windows are those of `windows.recent_sums`, strictly before the payment. Amounts and distances are
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
        rows = [self.observe_one(*payment) for payment in zip(customers, terminals, micros, units, strict=True)]
        return np.array(rows, dtype="float64").reshape(-1, len(RECENT))

    def look_one(self, customer: Any, terminal: Any, now: int) -> tuple[float, ...]:
        """Return the recent activity as of a moment, and remember nothing."""
        return self._look(customer, terminal, now)[0]

    def observe_one(self, customer: Any, terminal: Any, now: int, units: int) -> tuple[float, ...]:
        """Return the recent activity before one payment, and remember the payment; see `observe`."""
        values, known, moved = self._look(customer, terminal, now)
        past = self._customers.get(customer)
        if past is None:
            past = self._customers[customer] = ([], [], [], [], [])
        here = self._terminals.setdefault(terminal, [])
        times, amounts, places, new, meters = past
        place = bisect_right(times, now)
        times.insert(place, now)
        amounts.insert(place, units)
        places.insert(place, terminal)
        new.insert(place, known == 0)
        meters.insert(place, moved)
        here.insert(bisect_right(here, now), now)
        if times[0] < times[-1] - MEMORY:
            _forget(times[-1] - MEMORY, *past)
        if here[0] < here[-1] - DAY:
            _forget(here[-1] - DAY, here)
        return values

    def _look(self, customer: Any, terminal: Any, now: int) -> tuple[tuple[float, ...], int, int]:
        """Return the values before a moment, the number of earlier payments at the terminal, and the meters moved."""
        times, amounts, places, new, meters = self._customers.get(customer, NOTHING)
        here = self._terminals.get(terminal, ())
        end = bisect_left(times, now)
        month = bisect_left(times, now - MEMORY, 0, end)
        week = bisect_left(times, now - 7 * DAY, month, end)
        day = bisect_left(times, now - DAY, week, end)
        hour = bisect_left(times, now - HOUR, day, end)
        # Most customers paid nothing in the hour before, and nothing of it is looked up then.
        minutes = bisect_left(times, now - 10 * MINUTE, hour, end) if hour < end else end
        within_hour = amounts[hour:end]
        known_week = places[week:end].count(terminal)
        known = known_week + places[month:week].count(terminal)
        moved, lasted = self._move(times, places, terminal, now, month, end)
        values = (
            end - hour,
            sum(within_hour) / UNITS,
            end - day,
            sum(amounts[day:end]) / UNITS,
            sum(new[day:end]),
            (now - times[end - 1]) / SECOND if end > month else LONGEST_GAP,
            known_week,
            known,
            bisect_left(here, now) - bisect_left(here, now - HOUR) if here else 0,
            end - minutes,
            max(within_hour) / UNITS if within_hour else 0.0,
            moved * KMH / lasted,
            (moved + sum(meters[day:end])) / 1000,
        )
        return values, known, moved

    def _move(
        self, times: Sequence[int], places: Sequence[Any], terminal: Any, now: int, month: int, end: int
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
        with uncollected():
            self._customers = customer.split(times, MEMORY, columns)
            self._terminals = {key: parts[0] for key, parts in terminal.split(times, DAY, (times,)).items()}


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage for a while: each round would walk the past of all customers, and there is nothing to free."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Groups:
    """Rows by the id they belong to, for rows in the order of time."""

    def __init__(self, ids: pd.Series) -> None:
        self.code, keys = pd.factorize(ids)
        self.keys = keys.tolist()
        # One object an id, not one a row: less memory, and quicker to compare.
        self.ids = np.array(self.keys, dtype=object)[self.code]

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
    old = bisect_left(times, before)
    for column in (times, *others):
        del column[:old]
