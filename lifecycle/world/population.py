"""The people and the places: customers with homes and habits, terminals with merchants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from lifecycle.errors import LifecycleError
from lifecycle.world.rhythm import REGIONS

# Category: median amount of a payment (EUR), spread of its logarithm, weight among shops, weight among web shops.
CATEGORIES: dict[str, tuple[float, float, float, float]] = {
    "groceries": (24.0, 0.70, 0.26, 0.04),
    "restaurant": (19.0, 0.60, 0.20, 0.05),
    "fuel": (48.0, 0.40, 0.07, 0.00),
    "transport": (9.0, 0.70, 0.07, 0.06),
    "pharmacy": (15.0, 0.60, 0.07, 0.03),
    "clothing": (42.0, 0.65, 0.10, 0.20),
    "electronics": (85.0, 0.80, 0.05, 0.15),
    "home_garden": (45.0, 0.75, 0.09, 0.10),
    "entertainment": (22.0, 0.60, 0.07, 0.10),
    "travel": (110.0, 0.75, 0.02, 0.07),
    "digital_goods": (11.0, 0.75, 0.00, 0.14),
    "gift_cards": (38.0, 0.45, 0.00, 0.06),
}
CATEGORY_NAMES = tuple(CATEGORIES)
CITY_NAMES = (
    "Brenwick", "Alder Bay", "Costerra", "Dunmarch", "Elmsford", "Farrow", "Glenholt", "Harrowgate",
    "Isenburg", "Jorvale", "Kestrel Point", "Lindmoor", "Marlow", "Northquay", "Oakhaven", "Pellworth",
    "Quarrytown", "Redcliff", "Stonebridge", "Thornby", "Upper Vale", "Vantry", "Westmere", "Yarrow",
)  # fmt: skip

# A customer's usual shops and web shops, the first ones more often. The shares are multiples of 1/64 and
# 1/16, so that a table of that length draws from them exactly.
SHOP_SLOTS = np.repeat(np.arange(16), (12, 9, 7, 6, 5, 4, 4, 3, 3, 2, 2, 2, 2, 1, 1, 1)).astype(np.int64)
WEB_SLOTS = np.repeat(np.arange(6), (5, 4, 3, 2, 1, 1)).astype(np.int64)
SHOP_SHARES = np.bincount(SHOP_SLOTS) / len(SHOP_SLOTS)
WEB_SHARES = np.bincount(WEB_SLOTS) / len(WEB_SLOTS)

_CANDIDATES = 48
_REACH_KM = 4.0
_CHUNK = 20_000
_PAYMENTS_A_DAY = 1.79

# Streams of random numbers, one a purpose. A purpose never changes its number.
POPULATION, REGULAR, EPISODES, DIRT, TELEMETRY, DISPUTES, REGISTER, OPERATIONS = range(8)


def stream(seed: int, purpose: int, day: int = 0) -> np.random.Generator:
    """Return the random stream of one purpose on one day.

    Streams are children of one `numpy.random.SeedSequence`, told apart by their spawn key: they are
    independent, and a day's stream does not depend on what was drawn for the days before it.
    `day` may be as low as -1000.

    Examples
    --------
    >>> bool(stream(7, REGULAR, 3).random() == stream(7, REGULAR, 3).random())
    True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, day + 1000))))


@dataclass(frozen=True)
class Pool:
    """Terminals one of which is drawn by weight; several lists (cities, say) may share one pool.

    `terminal`, `cumulative`: all lists after each other; `base`, `total`: where each list starts in
    `cumulative` and how much weight it has; `last`: the position of its last terminal.
    """

    terminal: np.ndarray
    cumulative: np.ndarray
    base: np.ndarray
    total: np.ndarray
    last: np.ndarray

    def draw(self, which: np.ndarray | int, u: np.ndarray) -> np.ndarray:
        """Return a terminal of list `which` for each uniform number in `u`."""
        at = np.searchsorted(self.cumulative, self.base[which] + u * self.total[which], side="right")
        return self.terminal[np.minimum(at, self.last[which])]


def make_pool(weight: np.ndarray, group: np.ndarray, groups: int) -> Pool:
    """Return the pool over the terminals with positive `weight`, one list for each value of `group`."""
    terminal = np.flatnonzero(weight > 0)
    terminal = terminal[np.argsort(group[terminal], kind="stable")]
    cumulative = np.cumsum(weight[terminal])
    until = np.searchsorted(group[terminal], np.arange(groups), side="right")
    ends = np.concatenate([[0.0], cumulative])[until]
    base = np.concatenate([[0.0], ends[:-1]])
    return Pool(terminal, cumulative, base, ends - base, until - 1)


@dataclass(frozen=True)
class Population:
    """Customers and terminals as arrays; position i holds the one with id i + 1. Distances in km."""

    # customers
    home: np.ndarray  # (n, 2)
    customer_city: np.ndarray
    region: np.ndarray
    birth: np.ndarray  # datetime64[D]
    opened: np.ndarray  # datetime64[D]
    age: np.ndarray  # years at the start
    rate_shop: np.ndarray  # payments a day in shops
    rate_web: np.ndarray  # payments a day in web shops
    spend: np.ndarray  # logarithm of the factor on amounts
    contactless: np.ndarray  # probability to pay small amounts without a PIN
    chronotype: np.ndarray
    usual_shops: np.ndarray  # (n, 16)
    usual_web: np.ndarray  # (n, 6)
    # terminals
    place: np.ndarray  # (m, 2)
    terminal_city: np.ndarray
    online: np.ndarray
    category: np.ndarray
    popularity: np.ndarray
    log_median: np.ndarray
    log_spread: np.ndarray
    minor_unit: np.ndarray
    offset_hours: np.ndarray
    # cities
    cities: int
    city_region: np.ndarray
    # lists to draw from
    shops: Pool  # by city
    web: Pool


def check_size(settings: Any) -> None:
    """Refuse sizes that make no world.

    Raises
    ------
    LifecycleError
        Naming the setting, its value and what it must be.
    """
    limits = {"customers": (10, 10**7), "terminals": (20, 10**7), "days": (1, 3660)}
    for name, (least, most) in limits.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            raise LifecycleError(f"Setting {name} is {value}; the simulated bank needs {least:,} to {most:,}.")
    if settings.seed < 0:
        raise LifecycleError(f"Setting seed is {settings.seed}; it must be 0 or more.")
    if not 1950 <= settings.start.year <= 2150:
        raise LifecycleError(f"Setting start is {settings.start}; the simulated bank needs a year from 1950 to 2150.")


def make_population(settings: Any) -> Population:
    """Return the people and places of a world; they depend on the seed, the sizes and the start.

    Raises
    ------
    LifecycleError
        If a size is out of range.
    """
    check_size(settings)
    rng = stream(settings.seed, POPULATION)
    count = int(np.clip(settings.terminals // 40, 1, len(CITY_NAMES)))
    where = np.round(rng.uniform([10, 10], [190, 150], (count, 2)), 3)
    share = 1.0 / np.arange(1, count + 1) ** 0.7
    share /= share.sum()
    city_region = np.arange(count) % len(REGIONS)
    terminals = _make_terminals(settings.terminals, where, share, rng)
    shops = make_pool(np.where(terminals["online"], 0.0, terminals["popularity"]), terminals["terminal_city"], count)
    web = make_pool(np.where(terminals["online"], terminals["popularity"], 0.0), np.zeros(settings.terminals, int), 1)
    customers = _make_customers(settings, where, share, rng)
    usual_shops, usual_web = _choose_usual(customers, terminals["place"], shops, web, rng)
    return Population(
        **customers,
        region=city_region[customers["customer_city"]],
        usual_shops=usual_shops,
        usual_web=usual_web,
        **terminals,
        cities=count,
        city_region=city_region,
        shops=shops,
        web=web,
    )


def _make_terminals(n: int, where: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw places, categories and popularity. The first few make sure that nothing is empty."""
    cities = len(share)
    city = np.searchsorted(np.cumsum(share), rng.random(n)).clip(0, cities - 1)
    city[:cities] = np.arange(cities)
    online = rng.random(n) < 0.24
    online[:cities] = False
    table = np.array(list(CATEGORIES.values()))
    u = rng.random(n)
    category = np.where(
        online,
        np.searchsorted(np.cumsum(table[:, 3]) / table[:, 3].sum(), u),
        np.searchsorted(np.cumsum(table[:, 2]) / table[:, 2].sum(), u),
    )
    certain = ("gift_cards", "digital_goods", "electronics", "clothing", "entertainment", "travel")
    online[cities : cities + len(certain)] = True
    category[cities : cities + len(certain)] = [CATEGORY_NAMES.index(name) for name in certain]
    z = rng.standard_normal(n)
    return {
        "place": np.round(where[city] + rng.normal(0, 4.0, (n, 2)), 3),
        "terminal_city": city,
        "online": online,
        "category": category.astype(np.int8),
        "popularity": np.exp(np.where(online, 1.1, 0.8) * z),
        "log_median": np.log(table[:, 0])[category],
        "log_spread": table[:, 1][category],
        "minor_unit": rng.random(n) < 0.08,
        "offset_hours": np.searchsorted([0.70, 0.90], rng.random(n)).astype(np.int64),
    }


def _make_customers(settings: Any, where: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Draw homes, ages and habits: the old pay less online and more by day, the young the other way."""
    n = settings.customers
    city = np.searchsorted(np.cumsum(share), rng.random(n)).clip(0, len(share) - 1)
    age = 18.0 + 72.0 * rng.beta(1.4, 2.0, n)
    start = np.datetime64(settings.start, "D")
    birth = start - np.floor(age * 365.25).astype(np.int64)
    opened = start - (30 + np.floor(rng.random(n) * np.minimum(age - 16, 25) * 365)).astype(np.int64)
    rate = np.clip(rng.gamma(2.6, _PAYMENTS_A_DAY / 2.6, n), 0.15, 9.0)
    web_share = np.clip(0.42 - 0.004 * (age - 18) + 0.09 * rng.standard_normal(n), 0.03, 0.8)
    late = 1.6 - 0.025 * (age - 18) + 0.7 * rng.standard_normal(n)
    return {
        "home": np.round(where[city] + rng.normal(0, 5.0, (n, 2)), 3),
        "customer_city": city,
        "birth": birth,
        "opened": opened,
        "age": age,
        "rate_shop": rate * (1 - web_share),
        "rate_web": rate * web_share,
        "spend": 0.38 * rng.standard_normal(n) + 0.15 * np.sin((age - 18) / 72 * np.pi),
        "contactless": np.clip(0.85 - 0.006 * (age - 18) + 0.1 * rng.standard_normal(n), 0.1, 0.95),
        "chronotype": np.searchsorted([0.3, 1.1], late).astype(np.int64),
    }


def _choose_usual(
    customers: dict[str, Any], place: np.ndarray, shops: Pool, web: Pool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Choose each customer's usual shops near home and usual web shops.

    Near means: of the shops drawn by popularity in the same city, keep those with the largest
    ``-distance / reach + Gumbel noise``, a draw without replacement by weight exp(-distance / reach).
    """
    n, slots = len(customers["home"]), len(SHOP_SHARES)
    usual = np.empty((n, slots), np.int32)
    for first in range(0, n, _CHUNK):
        rows = slice(first, min(first + _CHUNK, n))
        city = customers["customer_city"][rows]
        candidates = shops.draw(city[:, None], rng.random((len(city), _CANDIDATES)))
        gap = place[candidates] - customers["home"][rows][:, None, :]
        key = -np.hypot(gap[..., 0], gap[..., 1]) / _REACH_KM + rng.gumbel(size=candidates.shape)
        best = np.argsort(-key, axis=1, kind="stable")[:, :slots]
        usual[rows] = np.take_along_axis(candidates, best, axis=1)
    usual_web = web.draw(0, rng.random((n, len(WEB_SHARES)))).astype(np.int32)
    return usual, usual_web


def day_of(settings: Any, index: int) -> date:
    """Return the date of day number `index`, which may be negative."""
    return date.fromordinal(settings.start.toordinal() + index)
