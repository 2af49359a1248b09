"""Episodes: times during which a customer's card sees payments outside the usual habit.

Honest episodes are trips, sprees of large purchases and bursts of small ones. Fraudulent ones are
compromised cards. Both have the same form: during a window, payments come as a Poisson process with
a known intensity over time, terminal, amount and channel. This is what makes the best reachable
score computable (see `oracle`).

A fraud window ends at its drawn end or with the first report of one of its payments, whichever is
earlier: the bank then blocks the card. The end is a stopping time, so the intensity up to it is that
of the Poisson process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lifecycle.world import incidents
from lifecycle.world.population import CATEGORY_NAMES, EPISODES, Population, day_of, make_pool, stream
from lifecycle.world.rhythm import DAY_MS, EPISODE, EPISODE_HOURS

MODES = ("", "large_amount", "skimming", "stolen_card", "card_testing", "gift_card")

# The longest window, in days: who started earlier is over. Days before the first one are drawn too,
# so that the first day already has its share of running episodes.
LONGEST_DAYS = 28

# A report comes log-normally late: median 4 days. Some frauds nobody ever reports.
REPORT_MEDIAN_DAYS = 4.0
REPORT_SIGMA = 0.9
NEVER_REPORTED = 0.03
NEVER = np.iinfo(np.int64).max

CONTACTLESS_LIMIT_CENTS = 5_000
CONTACTLESS_ABOVE_LIMIT = 0.10

_CITY, _RESALE, _DEAR, _WEB, _GIFT, _TERMINAL = range(6)
_BY_CITY = (_CITY, _RESALE)


@dataclass(frozen=True)
class Kind:
    """What the episodes of one kind have in common.

    `starts`: expected episodes per 1,000 customers a day; `days`: bounds of the window's length
    (log-uniform); `rate`: payments a day in the window, times the customer's own rate if `own_pace`.
    The logarithm of an amount is normal with mean ``spend * customer + place * terminal + shift`` and
    standard deviation `spread`.
    """

    name: str
    mode: int
    starts: float
    days: tuple[float, float]
    rate: float
    own_pace: bool
    hours: str
    pool: int
    spend: float
    place: float
    shift: float
    spread: float
    contactless: float


def _log(x: float) -> float:
    return math.log(x)


# fmt: off
KINDS = (
    # name, mode, starts, days, rate, own_pace, hours, pool, spend, place, shift, spread, contactless
    Kind("trip",         0, 4.0,  (1.0, 9.0),   1.30, True,  "day",     _CITY,     1.0, 1.0, _log(1.30), 0.75, 0.55),
    Kind("spree",        0, 0.7,  (1.0, 7.0),   0.90, False, "day",     _DEAR,     1.0, 1.0, _log(3.00), 0.60, 0.15),
    Kind("burst",        0, 0.6,  (0.02, 0.10), 80.0, False, "flat",    _WEB,      0.5, 0.0, _log(4.00), 0.60, 0.00),
    Kind("large_amount", 1, 0.50, (1.5, 7.0),   2.8,  False, "crime",   _DEAR,     1.0, 1.0, _log(7.50), 0.50, 0.05),
    Kind("skimming",     2, 0.08, (14.0, 21.0), 1.8,  False, "crime",   _TERMINAL, 0.8, 0.8, _log(5.50), 0.50, 0.05),
    Kind("stolen_card",  3, 0.42, (0.5, 3.0),   7.0,  False, "crime",   _RESALE,   0.7, 1.0, _log(2.30), 0.60, 0.85),
    Kind("card_testing", 4, 0.34, (0.03, 0.12), 120., False, "flat",    _WEB,      0.0, 0.0, _log(2.40), 0.50, 0.00),
    Kind("gift_card",    5, 0.80, (1.5, 4.0),   5.0,  False, "evening", _GIFT,     1.0, 0.3, _log(12.0), 0.40, 0.00),
)
# fmt: on
TRIP, SPREE, BURST, LARGE, SKIM, STOLEN, TESTING, GIFT = range(len(KINDS))

# How often each kind starts in a bank of another mix, times `Kind.starts`; what is not named keeps its rate.
# The consortium's members sell online: tested cards abound, and hardly anybody tampers with a terminal.
MIXES: dict[str, dict[str, float]] = {
    "local": {},
    "consortium": {"large_amount": 0.5, "skimming": 0.1, "stolen_card": 0.4, "card_testing": 3.0},
}


def _column(name: str) -> np.ndarray:
    return np.array([getattr(kind, name) for kind in KINDS])


MODE = _column("mode").astype(np.int8)
_RATE, _OWN_PACE, _POOL, _DAYS = _column("rate"), _column("own_pace"), _column("pool"), _column("days")
_SPEND, _PLACE, _SHIFT, _SPREAD = (_column(name) for name in ("spend", "place", "shift", "spread"))
_CONTACTLESS = _column("contactless")
_HOURS = np.array([EPISODE_HOURS.index(kind.hours) for kind in KINDS])

# How much more often a thief (or a big spender) goes to a category than its popularity says.
_DEAR_WEIGHT = {"electronics": 5.0, "clothing": 2.0, "travel": 2.0, "home_garden": 1.5, "entertainment": 0.5}
_RESALE_WEIGHT = {
    "electronics": 4.0,
    "clothing": 3.0,
    "fuel": 3.0,
    "pharmacy": 1.0,
    "groceries": 0.7,
    "restaurant": 0.2,
}
_WEB_WEIGHT = {"digital_goods": 4.0, "entertainment": 1.5, "transport": 1.0, "clothing": 0.5, "groceries": 0.5}
_GIFT_WEIGHT = {"gift_cards": 3.0, "digital_goods": 1.0}


@dataclass(frozen=True)
class Episodes:
    """Windows as columns. Times are milliseconds since the first midnight of the world."""

    kind: np.ndarray
    customer: np.ndarray
    start: np.ndarray
    end: np.ndarray
    rate: np.ndarray  # payments a day
    place: np.ndarray  # the city of trips and thieves, the terminal of skimming, else 0

    def take(self, rows: np.ndarray) -> Episodes:
        """Return some of the rows."""
        return Episodes(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Events:
    """Payments of episodes as columns."""

    ms: np.ndarray  # since the first midnight of the world
    customer: np.ndarray
    terminal: np.ndarray
    cents: np.ndarray
    contactless: np.ndarray
    mode: np.ndarray
    report_ms: np.ndarray  # when the chargeback arrives, NEVER if it does not

    def take(self, rows: np.ndarray) -> Events:
        """Return some of the rows."""
        return Events(*(getattr(self, f.name)[rows] for f in fields(self)))


def concatenate(parts: list[Any]) -> Any:
    """Put tables of the same kind (`Episodes` or `Events`) under each other."""
    names = [f.name for f in fields(parts[0])]
    return type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class Pools:
    """Where episodes take place: lists of terminals with weights.

    A trip draws from all shops of a city, a thief from those of the city that sell what can be sold
    again; the other lists cover the whole country.
    """

    def __init__(self, population: Population) -> None:
        self._people = people = population
        shop = np.where(people.online, 0.0, people.popularity)
        web = np.where(people.online, people.popularity, 0.0)
        either = people.popularity * np.where(people.online, 1.5, 1.0)
        # A city without such a shop still has its others, at a low weight.
        resale = np.maximum(_weights(_RESALE_WEIGHT), 0.02)
        tables = (resale, _weights(_DEAR_WEIGHT), _weights(_WEB_WEIGHT), _weights(_GIFT_WEIGHT))
        base = (shop, either, web, web)
        self._weight = [shop, *(b * table[people.category] for b, table in zip(base, tables, strict=True))]
        nowhere = np.zeros(len(people.online), np.int64)
        self._pool = [
            make_pool(weight, people.terminal_city if which in _BY_CITY else nowhere, people.cities)
            for which, weight in enumerate(self._weight)
        ]

    def draw(self, pool: np.ndarray, place: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return a terminal for each payment, given its episode's pool and place."""
        terminal = place.copy()
        for which, source in enumerate(self._pool):
            rows = np.flatnonzero(pool == which)
            if len(rows):
                terminal[rows] = source.draw(place[rows], u[rows])
        return terminal

    def probability(self, pool: np.ndarray, place: np.ndarray, terminal: np.ndarray) -> np.ndarray:
        """Return the probability that an episode's payment takes place at `terminal`."""
        found = np.where(pool == _TERMINAL, terminal == place, 0.0)
        for which, source in enumerate(self._pool):
            rows = np.flatnonzero(pool == which)
            here, there = terminal[rows], place[rows]
            found[rows] = self._weight[which][here] / source.total[there]
            if which in _BY_CITY:
                found[rows] *= self._people.terminal_city[here] == there
        return found


def _weights(table: dict[str, float]) -> np.ndarray:
    return np.array([table.get(name, 0.0) for name in CATEGORY_NAMES])


class EpisodeSource:
    """All episodes and their payments, made day of start by day of start and kept only while needed."""

    def __init__(self, settings: Any, population: Population) -> None:
        self._settings = settings
        self._people = population
        self.pools = Pools(population)
        self._cache: dict[int, tuple[Episodes, Events, np.ndarray]] = {}
        self._who = _who_starts(population)
        flat = population.usual_shops.ravel()
        order = np.argsort(flat, kind="stable")
        self._victims = (order // population.usual_shops.shape[1]).astype(np.int32)
        self._victims_until = np.searchsorted(flat[order], np.arange(len(population.online)), side="right")
        count = np.diff(self._victims_until, prepend=0)
        self._skim_cumulative = np.cumsum(count)

    def around(self, index: int) -> tuple[Episodes, Events, np.ndarray]:
        """Return the episodes that touch a day, the payments they make on it, and the skimmed terminals.

        The skimmed terminals come as rows (terminal, start ms, end ms) of windows that touch the day.
        """
        starts = range(index - LONGEST_DAYS, index + 1)
        for day in starts:
            if day not in self._cache:
                self._cache[day] = self._started(day)
        for day in [day for day in self._cache if day not in starts]:
            del self._cache[day]
        begin, end = index * DAY_MS, (index + 1) * DAY_MS
        parts = [self._cache[day] for day in starts]
        windows = concatenate([part[0] for part in parts])
        windows = windows.take(np.flatnonzero((windows.start < end) & (windows.end > begin)))
        events = []
        for _, event, _ in parts:
            rows = slice(*np.searchsorted(event.ms, [begin, end]))
            events.append(event.take(rows))
        skimmed = np.concatenate([part[2] for part in parts])
        skimmed = skimmed[(skimmed[:, 1] < end) & (skimmed[:, 2] > begin)]
        return windows, concatenate(events), skimmed

    def _started(self, index: int) -> tuple[Episodes, Events, np.ndarray]:
        """Return what starts on one day: episodes, all their payments in order of time, skimmed terminals."""
        rng = stream(self._settings.seed, EPISODES, index)
        plain = self._windows(index, rng)
        skimmed = self._skimmed_terminals(index, rng)
        windows = concatenate([plain, self._skimming(skimmed, rng)])
        events, windows = _pay(windows, self._people, self.pools, rng)
        return windows, events, skimmed

    def _windows(self, index: int, rng: np.random.Generator) -> Episodes:
        """Draw the windows of all kinds but skimming that start on a day."""
        people, day = self._people, day_of(self._settings, index)
        factor = _start_factors(day, self._settings)
        expected = _starts(self._settings) * factor * len(people.age) / 1000
        expected[SKIM] = 0.0
        kind = np.repeat(np.arange(len(KINDS)), rng.poisson(expected))
        n = len(kind)
        customer = np.empty(n, np.int64)
        u = rng.random(n)
        for which in range(len(KINDS)):
            rows = np.flatnonzero(kind == which)
            running = self._who[which]
            customer[rows] = np.searchsorted(running, u[rows] * running[-1], side="right").clip(0, len(running) - 1)
        within = np.where(kind == BURST, 8 + 15 * rng.random(n), 24 * rng.random(n)) / 24
        start = ((index + within) * DAY_MS).astype(np.int64)
        low, high = _DAYS[kind].T
        length = low * (high / low) ** rng.random(n)
        rate = _RATE[kind] * np.exp(0.25 * rng.standard_normal(n))
        own = people.rate_shop[customer] + people.rate_web[customer]
        rate = np.where(_OWN_PACE[kind], rate * own, rate)
        # Another city; thieves stay at home in a fifth of the cases.
        city = rng.integers(0, people.cities, n)
        near = (kind == STOLEN) & (rng.random(n) < 0.20)
        place = np.where(near, people.customer_city[customer], city)
        place = np.where(np.isin(_POOL[kind], _BY_CITY), place, 0)
        return Episodes(kind, customer, start, start + (length * DAY_MS).astype(np.int64), rate, place)

    def _skimmed_terminals(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the shop terminals that somebody tampers with on a day: rows (terminal, start, end)."""
        kind = KINDS[SKIM]
        n = rng.poisson(_starts(self._settings)[SKIM] * len(self._people.age) / 1000)
        u = rng.random(n)
        terminal = np.searchsorted(self._skim_cumulative, u * self._skim_cumulative[-1], side="right")
        start = ((index + rng.random(n)) * DAY_MS).astype(np.int64)
        length = rng.uniform(*kind.days, n) * DAY_MS
        return np.stack([terminal.astype(np.int64), start, start + length.astype(np.int64)], axis=1)

    def _skimming(self, skimmed: np.ndarray, rng: np.random.Generator) -> Episodes:
        """Draw the victims of skimmed terminals, among those who shop there."""
        rows = []
        for terminal, start, end in skimmed:
            first = self._victims_until[terminal - 1] if terminal else 0
            usual = np.unique(self._victims[first : self._victims_until[terminal]])
            chosen = rng.choice(usual, min(len(usual), int(rng.integers(5, 11))), replace=False)
            begins = start + (rng.random(len(chosen)) * 0.6 * (end - start)).astype(np.int64)
            rate = _RATE[SKIM] * np.exp(0.25 * rng.standard_normal(len(chosen)))
            rows += [(SKIM, who, at, end, pace, terminal) for who, at, pace in zip(chosen, begins, rate, strict=True)]
        columns = list(zip(*rows, strict=True)) if rows else [[]] * 6
        kinds = (np.int64, np.int64, np.int64, np.int64, np.float64, np.int64)
        return Episodes(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def _starts(settings: Any) -> np.ndarray:
    """Return the expected episodes of each kind per 1,000 customers a day in the settings' mix of frauds."""
    mix = MIXES[settings.fraud_mix]
    return np.array([kind.starts * mix.get(kind.name, 1.0) for kind in KINDS])


def _who_starts(people: Population) -> list[np.ndarray]:
    """Return, for each kind, the running sum of the customers' weights: who is likely to have such an episode."""
    rate = people.rate_shop + people.rate_web
    weight = {
        "trip": np.ones_like(rate),
        "spree": np.sqrt(rate),
        "burst": people.rate_web * np.exp(-(people.age - 18) / 20),
        "large_amount": np.sqrt(rate),
        "skimming": rate,
        "stolen_card": np.sqrt(people.rate_shop) * (1 + (people.age > 65)),
        "card_testing": people.rate_web,
        "gift_card": people.rate_web * (1 + 0.5 * (people.age > 60)),
    }
    return [np.cumsum(weight[kind.name]) for kind in KINDS]


def _start_factors(day: Any, settings: Any) -> np.ndarray:
    """Return how likely each kind is to start on a day, relative to its usual rate."""
    factor = np.ones(len(KINDS))
    season = incidents.season_strength(day)
    holiday = 1.7 if day.month in (7, 8) or (day.month, day.day) >= (12, 20) else 0.8
    factor[TRIP] = holiday * (1.5 if day.weekday() >= 4 else 0.8)
    factor[SPREE] = 1 + season
    factor[[LARGE, STOLEN, TESTING]] = (1 + 0.6 * season) * (1.0 + 0.1 * math.sin(2 * math.pi * day.weekday() / 7))
    factor[GIFT] = float(day >= incidents.new_mode_from(settings))
    return factor


def _pay(windows: Episodes, people: Population, pools: Pools, rng: np.random.Generator) -> tuple[Events, Episodes]:
    """Draw the payments of windows; close fraud windows at the first report.

    The number of payments over the whole days that a window touches is Poisson; those outside the
    window are dropped, which leaves a Poisson process with the same intensity inside.
    """
    flat = _HOURS[windows.kind] == EPISODE_HOURS.index("flat")
    first = np.where(flat, windows.start, windows.start // DAY_MS * DAY_MS)
    span = np.where(flat, windows.end - first, (windows.end // DAY_MS + 1) * DAY_MS - first)
    count = rng.poisson(windows.rate * span / DAY_MS)
    of = np.repeat(np.arange(len(count)), count)
    kind, n = windows.kind[of], int(count.sum())
    u = rng.random((5, n))
    days = np.floor(u[0] * (span // DAY_MS)[of]).astype(np.int64)
    daily = first[of] + days * DAY_MS + EPISODE.draw(_HOURS[kind], u[1])
    ms = np.where(flat[of], first[of] + (u[0] * span[of]).astype(np.int64), daily)
    terminal = pools.draw(_POOL[kind], windows.place[of], u[2])
    customer = windows.customer[of]
    log = amount_mean(kind, customer, terminal, people) + _SPREAD[kind] * rng.standard_normal(n)
    cents = np.maximum(np.rint(np.exp(log) * 100), 1).astype(np.int64)
    small = contactless_probability(kind, cents)
    contactless = (u[3] < small) & ~people.online[terminal]
    delay = REPORT_MEDIAN_DAYS * np.exp(REPORT_SIGMA * rng.standard_normal(n))
    report = np.where(u[4] < NEVER_REPORTED, NEVER, ms + np.rint(delay * DAY_MS).astype(np.int64))
    report = np.where(MODE[kind] > 0, report, NEVER)
    inside = (ms >= windows.start[of]) & (ms < windows.end[of])
    known = np.full(len(count), NEVER)
    np.minimum.at(known, of[inside], report[inside])
    end = np.minimum(windows.end, known)
    keep = np.flatnonzero(inside & (ms < end[of]))
    keep = keep[np.argsort(ms[keep], kind="stable")]
    events = Events(ms, customer, terminal, cents, contactless, MODE[kind], report).take(keep)
    closed = Episodes(windows.kind, windows.customer, windows.start, end, windows.rate, windows.place)
    return events, closed


def amount_mean(kind: np.ndarray, customer: np.ndarray, terminal: np.ndarray, people: Population) -> np.ndarray:
    """Return the mean of the logarithm of an episode payment's amount."""
    return _SPEND[kind] * people.spend[customer] + _PLACE[kind] * people.log_median[terminal] + _SHIFT[kind]


def contactless_probability(kind: np.ndarray, cents: np.ndarray) -> np.ndarray:
    """Return the probability that an episode's payment in a shop is contactless, given its amount."""
    return _CONTACTLESS[kind] * np.where(cents <= CONTACTLESS_LIMIT_CENTS, 1.0, CONTACTLESS_ABOVE_LIMIT)


def intensity(
    windows: Episodes, ms: np.ndarray, terminal: np.ndarray, cents: np.ndarray, contactless: np.ndarray,
    people: Population, pools: Pools,
) -> np.ndarray:  # fmt: skip
    """Return the intensity of each window at a payment, row by row; 0 outside the window.

    The unit is payments a day, at this terminal, per unit of the logarithm of the amount, in this
    channel. Only ratios of intensities are used.

    Parameters
    ----------
    windows
        n windows; row i is asked about payment i.
    ms, terminal, cents, contactless
        Arrays (n,): the payments, `ms` since the first midnight of the world.
    """
    kind = windows.kind
    inside = (ms >= windows.start) & (ms < windows.end)
    time = windows.rate * EPISODE.density(_HOURS[kind], ms % DAY_MS)
    where = pools.probability(_POOL[kind], windows.place, terminal)
    amount = normal_density(np.log(cents / 100), amount_mean(kind, windows.customer, terminal, people), _SPREAD[kind])
    tap = contactless_probability(kind, cents)
    channel = np.where(people.online[terminal], 1.0, np.where(contactless, tap, 1.0 - tap))
    return inside * time * where * amount * channel


def normal_density(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray | float) -> np.ndarray:
    """Return the density of the normal distribution.

    Examples
    --------
    >>> round(float(normal_density(np.array(0.0), np.array(0.0), 1.0)), 4)
    0.3989
    """
    return np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
