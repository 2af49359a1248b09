"""What happens to the bank after the model is deployed, on known days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

DATA_QUALITY = "data_quality"
SEASON = "season"
NEW_FRAUD_MODE = "new_fraud_mode"

# Days after the deployment date.
_QUALITY_FROM, _QUALITY_DAYS = 14, 3
_NEW_MODE_FROM = 28

# The gift season belongs to the calendar, not to the model: these days of every year, half-open.
_SEASON_FROM, _SEASON_UNTIL = (11, 24), (12, 27)
SEASON_AMOUNT = 1.15
SEASON_ONLINE = 1.10


@dataclass(frozen=True)
class Incident:
    """A change of the world on the days ``[start, until)``."""

    name: str
    start: date
    until: date
    what: str

    def covers(self, day: date) -> bool:
        """Say whether `day` is one of the incident's days.

        Examples
        --------
        >>> Incident("x", date(2025, 11, 17), date(2025, 11, 20), "").covers(date(2025, 11, 20))
        False
        """
        return self.start <= day < self.until

    def as_dict(self) -> dict[str, str]:
        """Return the entry of ``incidents.json``."""
        return {
            "name": self.name,
            "from": self.start.isoformat(),
            "until": self.until.isoformat(),
            "what": self.what,
        }


def quality_days(settings: Any) -> tuple[date, date]:
    """Return the half-open days on which the gateway sends cents and calls them euros."""
    first = settings.deploy_at + timedelta(days=_QUALITY_FROM)
    return first, first + timedelta(days=_QUALITY_DAYS)


def new_mode_from(settings: Any) -> date:
    """Return the first day of the fraud mode that no model has seen before."""
    return settings.deploy_at + timedelta(days=_NEW_MODE_FROM)


def timeline(settings: Any) -> list[Incident]:
    """Return the incidents that touch the simulated days, in order, clipped to them.

    Parameters
    ----------
    settings
        Anything with `start`, `days` and `deploy_at`.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> [incident.name for incident in timeline(Settings())]
    ['data_quality', 'season', 'new_fraud_mode']
    >>> timeline(Settings(days=30))
    []
    """
    end = settings.start + timedelta(days=settings.days)
    found = [
        Incident(i.name, max(i.start, settings.start), min(i.until, end), i.what)
        for i in _all(settings, end)
        if i.start < end and i.until > settings.start
    ]
    return sorted(found, key=lambda incident: incident.start)


def _all(settings: Any, end: date) -> Iterator[Incident]:
    yield Incident(
        DATA_QUALITY,
        *quality_days(settings),
        "After an upgrade the gateway sends the amounts of online payments in cents and still calls the unit "
        "major: 100 times too large. On the day after the last one it sends all these records again, right.",
    )
    for year in range(settings.start.year, end.year + 1):
        yield Incident(
            SEASON,
            date(year, *_SEASON_FROM),
            date(year, *_SEASON_UNTIL),
            "The gift season: up to 25 % more payments, larger amounts, more of them online. Harmless.",
        )
    yield Incident(
        NEW_FRAUD_MODE,
        new_mode_from(settings),
        max(end, new_mode_from(settings)),
        "Account takeover: gift cards and digital goods bought online in the evening for amounts within the "
        "victim's habit, several a day. No model has seen it before.",
    )


def season_strength(day: date) -> float:
    """Return by how much the gift season raises the number of payments: 0 outside it, at most 0.25.

    Examples
    --------
    >>> season_strength(date(2025, 11, 23)), season_strength(date(2025, 12, 20))
    (0.0, 0.25)
    """
    if not date(day.year, *_SEASON_FROM) <= day < date(day.year, *_SEASON_UNTIL):
        return 0.0
    into = (day - date(day.year, *_SEASON_FROM)).days
    return float(np.interp(into, [0, 7, 21, 30, 32], [0.12, 0.15, 0.25, 0.25, 0.05]))
