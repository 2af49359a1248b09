"""How payments follow the calendar: hours, weekdays, holidays, seasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from lifecycle.world import incidents

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

REGIONS = ("North", "East", "South", "West", "Center", "Islands")
CHRONOTYPES = 3  # early, middle, late

_WEEK_PHYSICAL = (0.92, 0.93, 0.96, 1.00, 1.15, 1.24, 0.78)
_WEEK_ONLINE = (1.02, 1.00, 0.98, 0.98, 0.95, 0.95, 1.12)


def _bumps(base: float, *bumps: tuple[float, float, float]) -> np.ndarray:
    """Return 24 hourly shares that sum to 1: a flat base and bumps (hour, width, height) around the clock."""
    hours = np.arange(24) + 0.5
    shape = np.full(24, base)
    for center, width, height in bumps:
        distance = np.abs(hours - center)
        distance = np.minimum(distance, 24 - distance)
        shape += height * np.exp(-0.5 * (distance / width) ** 2)
    return shape / shape.sum()


def _honest_hours() -> np.ndarray:
    """Return the (12, 24) hourly shares of honest payments: weekend x online x chronotype."""
    rows = []
    for weekend in (False, True):
        for online in (False, True):
            for chronotype in range(CHRONOTYPES):
                late = chronotype - 1 + (0.8 if weekend else 0.0)
                if online:
                    rows.append(_bumps(0.03, (11 + late, 2.5, 0.5), (20.5 + late, 2.0, 1.0)))
                else:
                    rows.append(_bumps(0.004, (9 + late, 1.5, 0.6), (12.8 + late, 1.3, 1.0), (18 + late, 1.8, 1.1)))
    return np.stack(rows)


class Hours:
    """Piecewise-constant shares of the day's 24 hours, several profiles at once: draw from them, or ask the density.

    Parameters
    ----------
    shares
        Array (profiles, 24), each row summing to 1.
    """

    def __init__(self, shares: np.ndarray) -> None:
        self.shares = shares
        running = np.cumsum(shares, axis=1)
        running[:, -1] = 1.0
        # One increasing array for all profiles: profile p occupies (p, p + 1].
        self._cumulative = (running + np.arange(len(shares))[:, None]).ravel()
        self._below = np.concatenate([np.zeros((len(shares), 1)), running[:, :-1]], axis=1).ravel()

    def draw(self, profile: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return the millisecond of the day (int64) for uniform numbers `u` by inversion."""
        cell = np.searchsorted(self._cumulative, profile + u, side="right")
        cell = np.minimum(cell, profile * 24 + 23)
        within = (u - self._below[cell]) / self.shares.ravel()[cell]
        ms = ((cell % 24) + np.clip(within, 0.0, 1.0)) * HOUR_MS
        return np.minimum(ms.astype(np.int64), (cell % 24 + 1) * HOUR_MS - 1)

    def density(self, profile: np.ndarray, ms: np.ndarray) -> np.ndarray:
        """Return the density at millisecond `ms` of the day, relative to a flat day (mean 1)."""
        return 24.0 * self.shares[profile, ms // HOUR_MS]


HONEST = Hours(_honest_hours())

# Profiles for episodes (see `episodes`): a traveler's day, a thief's, a night thief's, and none.
EPISODE_HOURS = ("day", "crime", "evening", "flat")
EPISODE = Hours(
    np.stack(
        [
            _bumps(0.01, (11, 2.5, 0.8), (17, 3.0, 1.0)),
            _bumps(0.30, (13, 4.0, 0.3), (21, 3.0, 0.5)),
            _bumps(0.03, (21, 2.2, 1.0), (0.5, 1.8, 0.7)),
            np.full(24, 1 / 24),
        ]
    )
)


@dataclass(frozen=True)
class DayShape:
    """What the calendar does to one day: factors on rates (by region for shops) and on amounts."""

    day: date
    weekend: bool
    physical: np.ndarray
    online: float
    log_amount: float


def day_shape(day: date) -> DayShape:
    """Return the factors of one day: weekday, month, payday, holiday, gift season.

    Examples
    --------
    >>> bool(day_shape(date(2025, 12, 25)).physical[0] < day_shape(date(2025, 12, 18)).physical[0] / 2)
    True
    """
    season = incidents.season_strength(day)
    year = 1.0 + 0.04 * math.cos(2 * math.pi * (day.timetuple().tm_yday - 340) / 365.25)
    if day.month == 8:
        year *= 0.95
    payday = 1.06 if day.day <= 3 or day.day >= 28 else 1.0
    common = year * payday * (1.0 + season)
    physical = np.full(len(REGIONS), common * _WEEK_PHYSICAL[day.weekday()])
    closed = [region for _, _, region in holidays_on(day)]
    for i, region in enumerate(REGIONS):
        if region in closed or "all" in closed:
            physical[i] *= 0.45
    online = common * _WEEK_ONLINE[day.weekday()] * (incidents.SEASON_ONLINE if season else 1.0)
    log_amount = math.log(incidents.SEASON_AMOUNT) if season else 0.0
    return DayShape(day, day.weekday() >= 5 or "all" in closed, physical, online, log_amount)


def easter(year: int) -> date:
    """Return Easter Sunday (anonymous Gregorian computus, Meeus, Astronomical Algorithms, ch. 8).

    Examples
    --------
    >>> easter(2025)
    datetime.date(2025, 4, 20)
    """
    a, b, c = year % 19, year // 100, year % 100
    d, e = b // 4, b % 4
    g = (b - (b + 8) // 25 + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    k = (32 + 2 * e + 2 * (c // 4) - h - c % 4) % 7
    m = (a + 11 * h + 22 * k) // 451
    month, day = divmod(h + k - 7 * m + 114, 31)
    return date(year, month, day + 1)


def holidays(year: int) -> list[tuple[date, str, str]]:
    """Return the year's public holidays: (day, name, region); region ``all`` means the whole country.

    Examples
    --------
    >>> holidays(2025)[0]
    (datetime.date(2025, 1, 1), "New Year's Day", 'all')
    """
    sunday = easter(year)
    found = [
        (date(year, 1, 1), "New Year's Day", "all"),
        (sunday - timedelta(days=2), "Good Friday", "all"),
        (sunday + timedelta(days=1), "Easter Monday", "all"),
        (date(year, 5, 1), "Labor Day", "all"),
        (date(year, 7, 22), "Islands Day", "Islands"),
        (date(year, 8, 15), "Assumption Day", "South"),
        (date(year, 9, 8), "Harvest Day", "East"),
        (date(year, 10, 5), "Republic Day", "all"),
        (date(year, 11, 1), "All Saints' Day", "all"),
        (date(year, 12, 25), "Christmas Day", "all"),
        (date(year, 12, 26), "Second Christmas Day", "all"),
    ]
    return sorted(found)


def holidays_on(day: date) -> list[tuple[date, str, str]]:
    """Return the holidays that fall on `day`."""
    return [holiday for holiday in holidays(day.year) if holiday[0] == day]
