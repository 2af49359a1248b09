"""Payments, a day at a time: the habits of customers, plus what episodes add."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from lifecycle.world import habits, oracle
from lifecycle.world.episodes import MODES, TRIP, Episodes, EpisodeSource, Events, concatenate
from lifecycle.world.population import CATEGORY_NAMES, REGULAR, Population, day_of, make_population, stream
from lifecycle.world.rhythm import DAY_MS, day_shape

CHANNELS = ("pos", "contactless", "online")
ONLINE = CHANNELS.index("online")
ID_FACTOR = 10**8


@dataclass(frozen=True)
class Day:
    """The payments of one day (UTC) in order of time, as columns of equal length.

    `customer` and `terminal` are positions in the population (id - 1); `ms` is the millisecond of
    the day; `mode` is a position in `episodes.MODES` (0: honest); `report_ms` is when the chargeback
    arrives, in milliseconds since the first midnight of the world (`NEVER` if it does not);
    `skimmed` has rows (terminal, start, end) of the terminals tampered with.
    """

    index: int
    date: date
    transaction_id: np.ndarray
    ms: np.ndarray
    customer: np.ndarray
    terminal: np.ndarray
    cents: np.ndarray
    channel: np.ndarray
    mode: np.ndarray
    oracle: np.ndarray
    report_ms: np.ndarray
    skimmed: np.ndarray

    def __len__(self) -> int:
        return len(self.ms)


class World:
    """A simulated bank: its population, and its days on demand.

    Any day can be asked for in any order; it is the same whatever was asked before, because every
    day draws from random streams of its own. Memory holds one day and the episodes around it.

    Times are whole milliseconds and amounts whole cents before anything is compared, sorted or
    hashed. The last bit of `exp` and `log` may differ between processors and libraries; after
    rounding it cannot change which payment comes first or which amount is below a limit, but for
    odds of about one in a million a world.

    Parameters
    ----------
    settings
        Anything with `seed`, `customers`, `terminals`, `days`, `start` and `deploy_at`.

    Raises
    ------
    LifecycleError
        If a size is out of range.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> world = World(Settings(customers=50, terminals=60, days=3))
    >>> day = world.day(2)
    >>> day.date.isoformat(), int(day.transaction_id[0])
    ('2025-07-03', 2025070300000000)
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.population = make_population(settings)
        self._episodes = EpisodeSource(settings, self.population)

    def day(self, index: int) -> Day:
        """Return day number `index`, counted from 0."""
        people, day = self.population, day_of(self.settings, index)
        shape = day_shape(day)
        windows, events, skimmed = self._episodes.around(index)
        regular = habits.draw(people, shape, index, stream(self.settings.seed, REGULAR, index))
        regular = _at_home(regular, windows, people)
        every = concatenate([regular, events])
        every = every.take(np.argsort(every.ms, kind="stable"))
        channel = np.where(people.online[every.terminal], ONLINE, every.contactless).astype(np.int8)
        chance = oracle.probability(every, windows, people, self._episodes.pools, shape)
        base = int(day.strftime("%Y%m%d")) * ID_FACTOR
        return Day(
            index, day, base + np.arange(len(every.ms)), every.ms - index * DAY_MS, every.customer, every.terminal,
            every.cents, channel, every.mode, chance, every.report_ms, skimmed,
        )  # fmt: skip


def simulate(settings: Any) -> Iterator[Day]:
    """Yield the days of a world in order. Memory stays that of a day.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> [len(day) > 0 for day in simulate(Settings(customers=50, terminals=60, days=2))]
    [True, True]
    """
    world = World(settings)
    for index in range(settings.days):
        yield world.day(index)


def _at_home(regular: Events, windows: Episodes, people: Population) -> Events:
    """Drop the shop payments at home of those who are on a trip at that time."""
    trips = windows.take(np.flatnonzero(windows.kind == TRIP))
    traveler = np.zeros(len(people.age), bool)
    traveler[trips.customer] = True
    rows = np.flatnonzero(traveler[regular.customer] & ~people.online[regular.terminal])
    asked = regular.take(rows)
    keep = np.ones(len(regular.ms), bool)
    keep[rows[oracle.away(asked, *oracle.pairs(asked.customer, trips))]] = False
    return regular.take(np.flatnonzero(keep))


def payments(settings: Any) -> pd.DataFrame:
    """Return all payments of a world as one table, with the truth.

    Returns
    -------
    pandas.DataFrame
        `transaction_id` (int64), `event_time` (datetime64[us, UTC]), `customer_id`, `terminal_id` (int32),
        `amount` (float64, EUR), `channel`, `merchant_category` (category), `is_fraud` (int8),
        `mode` (category, empty for honest payments), `oracle` (float64).

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> table = payments(Settings(customers=50, terminals=60, days=2))
    >>> bool((table["amount"] > 0).all()), table["event_time"].is_monotonic_increasing
    (True, True)
    """
    world = World(settings)
    days = [world.day(index) for index in range(settings.days)]

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(day, name) for day in days])

    start = np.datetime64(settings.start, "us")
    since = np.repeat(np.arange(len(days)) * DAY_MS, [len(day) for day in days]) + column("ms")
    terminal, mode = column("terminal"), column("mode")
    return pd.DataFrame(
        {
            "transaction_id": column("transaction_id"),
            "event_time": pd.Series(start + since * 1000).dt.tz_localize("UTC"),
            "customer_id": (column("customer") + 1).astype(np.int32),
            "terminal_id": (terminal + 1).astype(np.int32),
            "amount": column("cents") / 100,
            "channel": pd.Categorical.from_codes(column("channel"), CHANNELS),
            "merchant_category": pd.Categorical.from_codes(world.population.category[terminal], CATEGORY_NAMES),
            "is_fraud": (mode > 0).astype(np.int8),
            "mode": pd.Categorical.from_codes(mode, MODES),
            "oracle": column("oracle"),
        },
        copy=False,
    )


def fingerprint(table: pd.DataFrame) -> str:
    """Return the SHA-256 of a table of payments, over bytes that are the same on any machine.

    Numbers are hashed as little-endian 64-bit integers: times in milliseconds, amounts in cents,
    the oracle in millionths, categories by position.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> small = Settings(customers=50, terminals=60, days=2)
    >>> fingerprint(payments(small)) == fingerprint(payments(small))
    True
    """
    digest = hashlib.sha256()
    for name in table.columns:
        values = table[name]
        if isinstance(values.dtype, pd.CategoricalDtype):
            whole = values.cat.codes.to_numpy()
        elif isinstance(values.dtype, pd.DatetimeTZDtype):
            whole = values.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
        elif values.dtype.kind == "f":
            whole = np.rint(values.to_numpy() * (10**oracle.DECIMALS if name == "oracle" else 100))
        else:
            whole = values.to_numpy()
        digest.update(name.encode())
        digest.update(whole.astype("<i8").tobytes())
    return digest.hexdigest()
