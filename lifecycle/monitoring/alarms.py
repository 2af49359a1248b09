"""Rules that turn signals into alarms, with limits calibrated on clean days to a stated false-alarm rate.

Two severities. A *note* goes into the log: something moved, nobody has to get up. A *page* wakes
somebody: the data is broken or money is being lost. All limits are set from days before the model
went live; nothing here may look at production to choose a limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError

MAJOR_SHIFT = 0.25
"""PSI that credit scoring calls a major shift; the same for every feature, and not fitted to anything."""


@dataclass(frozen=True)
class Alarm:
    """Something a rule found on a day."""

    day: str
    signal: str
    severity: str  # "note" or "page"
    value: float
    limit: float
    what: str

    def as_dict(self) -> dict[str, object]:
        """Return the alarm as plain values, for JSON."""
        return asdict(self)


def limit_above(clean: np.ndarray, days_between: float, distance: bool = False) -> float:
    """Return the limit that a signal of clean days exceeds once in `days_between` days.

    Parameters
    ----------
    clean
        The signal on the clean days, shape (days,). Missing values are left out.
    days_between
        Days between two false alarms that one accepts, for this signal.
    distance
        The signal is a distance: never negative, with a long right tail. Its cube root is nearly normal
        (Wilson and Hilferty, 1931), so the limit is found for that.

    Returns
    -------
    float
        Mean plus z standard deviations, z from the normal distribution, or the largest clean value
        if that is more. With few clean days this is an approximation, and the days after the
        calibration have to confirm it.

    Raises
    ------
    LifecycleError
        If there are fewer than seven clean days: a limit must have seen a whole week.

    Examples
    --------
    >>> round(limit_above(np.array([1.0, 2.0, 3.0] * 5), 365), 2)
    4.35
    """
    clean = np.asarray(clean, dtype=np.float64)
    clean = clean[np.isfinite(clean)]
    if clean.size < 7:
        raise LifecycleError(f"{clean.size} clean days are too few to calibrate an alarm; give at least 7.")
    if distance:
        return limit_above(np.cbrt(clean), days_between) ** 3
    z = NormalDist().inv_cdf(1 - 1 / max(days_between, 2))
    return float(max(clean.mean() + z * clean.std(ddof=1), clean.max()))


@dataclass(frozen=True)
class PoissonCusum:
    """A chart that adds up evidence that counts have risen: the Poisson CUSUM, one for each group.

    The evidence of a day with count x and expected count m is ``x * ln(r) - m * (r - 1)``, the log
    likelihood ratio of an expected count of ``r * m`` against ``m``; the chart adds it up and never
    falls below zero (Lucas, "Counted data CUSUM's", Technometrics 27, 1985). One limit serves all
    groups, chosen by simulation so that clean counts of all groups together cross it once in
    `days_between` days.

    Attributes
    ----------
    expected
        Expected count of a clean day for each group (Series).
    ratio
        The rise the chart is tuned to.
    limit
        The level at which it alarms.
    dispersion
        Variance of the clean counts over their mean, at least 1 (Poisson): fraud comes in bursts.
    """

    expected: pd.Series
    ratio: float
    limit: float
    dispersion: float

    @classmethod
    def fit(cls, clean: pd.DataFrame, days_between: float, ratio: float = 3.0, seed: int = 0) -> PoissonCusum:
        """Calibrate the chart on clean days.

        Parameters
        ----------
        clean
            Counts, one row a day, one column a group.
        days_between
            Days between two false alarms that one accepts, over all groups together.
        ratio
            The rise to be found quickly.
        seed
            Of the simulation.

        Raises
        ------
        LifecycleError
            If there are fewer than seven clean days.
        """
        if len(clean) < 7:
            raise LifecycleError(f"{len(clean)} clean days are too few to calibrate an alarm; give at least 7.")
        expected = (clean.sum() + 0.5) / len(clean)  # a group without a report is rare, not impossible
        spread = float(clean.var(ddof=1).sum() / max(clean.mean().sum(), 1e-9))
        dispersion = max(1.0, spread)
        limit = _simulate_limit(expected.to_numpy(), ratio, dispersion, days_between, seed)
        return cls(expected, ratio, limit, dispersion)

    def run(self, counts: pd.DataFrame, volume: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return the level of each group's chart after each day.

        Parameters
        ----------
        counts
            One row a day, one column a group; a group that was not there on clean days is expected
            as rarely as the rarest one.
        volume
            Payments of the group relative to clean days (1 = as many), to expect more reports when
            there are more payments; by default 1.

        Examples
        --------
        >>> clean = pd.DataFrame({"grocery": [1, 0, 2, 1, 1, 0, 2] * 4})
        >>> chart = PoissonCusum.fit(clean, days_between=365)
        >>> levels = chart.run(pd.DataFrame({"grocery": [1, 0, 4, 12]}))
        >>> (levels["grocery"] > chart.limit).tolist()
        [False, False, False, True]
        """
        expected = self.expected.reindex(counts.columns).fillna(self.expected.min()).to_numpy()
        factors = 1.0 if volume is None else volume.reindex(counts.index)[counts.columns].to_numpy()
        levels = add_evidence(counts.to_numpy(dtype=float), expected * factors, self.ratio)
        return pd.DataFrame(levels, index=counts.index, columns=counts.columns)


def add_evidence(counts: np.ndarray, expected: np.ndarray, ratio: float) -> np.ndarray:
    """Return the levels of Poisson CUSUM charts after each day, as `PoissonCusum` describes them.

    Parameters
    ----------
    counts
        Shape (days, ...): any number of charts side by side.
    expected
        Expected counts of a clean day, broadcast to the shape of `counts`.
    ratio
        The rise the charts are tuned to.

    Examples
    --------
    >>> add_evidence(np.array([[0.0], [2.0], [0.0]]), np.array([0.5]), 3.0).round(2).ravel().tolist()
    [0.0, 1.2, 0.2]
    """
    change = counts * np.log(ratio) - np.broadcast_to(expected, counts.shape) * (ratio - 1)
    levels = np.zeros(counts.shape)
    for day in range(len(counts)):
        levels[day] = np.maximum(0, (levels[day - 1] if day else 0) + change[day])
    return levels


def _simulate_limit(expected: np.ndarray, ratio: float, dispersion: float, days_between: float, seed: int) -> float:
    """Return the limit that simulated clean counts cross for the first time after `days_between` days on average.

    Crossings of a high level come as a Poisson process, so that a span of `days` stays below it with
    probability exp(-days / days_between): the limit is that quantile of the spans' maxima.
    """
    spans, days = 400, 180
    generator = np.random.default_rng(seed)
    level, highest = np.zeros((spans, expected.size)), np.zeros(spans)
    for _ in range(days):
        mean = np.broadcast_to(expected, level.shape)
        if dispersion > 1:  # gamma-Poisson: variance = dispersion * mean
            mean = generator.gamma(mean / (dispersion - 1), dispersion - 1)
        level = np.maximum(0, level + generator.poisson(mean) * np.log(ratio) - expected * (ratio - 1))
        highest = np.maximum(highest, level.max(axis=1))
    return float(np.quantile(highest, np.exp(-days / days_between)))


@dataclass(frozen=True)
class Rules:
    """The limits of all signals, and what makes a page of a note.

    A signal above its limit is a note. It is a page only if the move is also large by a standard that
    does not depend on how calm the clean days were: PSI of a major shift, twice (or half) as many
    customers with an alert, one record in twenty unknown to the model. Missed fraud above the limit of its chart is
    always a page: it is money.

    Attributes
    ----------
    limits
        Upper limit of each signal.
    lowest_alerts
        Lower limit of the share of customers with an alert: a model that has gone quiet is broken too.
    usual
        Mean of each signal on clean days.
    chart
        The chart of missed fraud.
    """

    limits: dict[str, float]
    lowest_alerts: float
    usual: dict[str, float]
    chart: PoissonCusum

    @classmethod
    def fit(cls, clean: pd.DataFrame, missed: pd.DataFrame, note_days: float, page_days: float, seed: int) -> Rules:
        """Calibrate the rules on clean days.

        Parameters
        ----------
        clean
            Signals, one row a clean day (`signals.by_day`).
        missed
            Missed fraud reports, one row a clean day, one column a group.
        note_days, page_days
            Days between two false notes, and between two false pages of the chart, over all signals
            together. Each signal gets an equal share (Bonferroni).
        seed
            Of the chart's simulation.
        """
        names = [name for name in clean.columns if name.startswith(("psi:", "unknown:")) or name == "alerted_customers"]
        each = note_days * len(names)
        limits = {name: limit_above(clean[name].to_numpy(), each, name.startswith("psi:")) for name in names}
        usual = {name: float(clean[name].mean()) for name in names}
        lowest = -limit_above(-clean["alerted_customers"].to_numpy(), each)
        return cls(limits, lowest, usual, PoissonCusum.fit(missed, page_days, seed=seed))

    def check_signals(self, day: str, row: pd.Series) -> list[Alarm]:
        """Return the alarms about one day's signals."""
        found = []
        for name, limit in self.limits.items():
            value, usual = float(row[name]), self.usual[name]
            few = name == "alerted_customers" and value < min(usual / 2, self.lowest_alerts)
            if value > limit or few:
                severity = "page" if few or self._is_large(name, value) else "note"
                found.append(Alarm(day, name, severity, value, limit, f"{name} is {value:.4g}, usually {usual:.4g}."))
        return found

    def _is_large(self, name: str, value: float) -> bool:
        if name.startswith("psi:"):
            return value >= MAJOR_SHIFT
        if name.startswith("unknown:"):
            return value >= self.usual[name] + 0.05
        return value >= 2 * self.usual[name]

    def check_chart(self, day: str, levels: pd.Series) -> list[Alarm]:
        """Return a page for each group whose chart of missed fraud is above the limit."""
        over = levels[levels > self.chart.limit].sort_values(ascending=False)
        return [
            Alarm(
                day,
                f"missed_fraud:{group}",
                "page",
                float(level),
                self.chart.limit,
                f"More fraud than expected was reported that the model had let through, in {group}.",
            )
            for group, level in over.items()
        ]


def first_day(alarms: list[Alarm], signal: str, severity: str = "page", since: str = "") -> str | None:
    """Return the first day on or after `since` with an alarm whose signal starts with `signal`, or None.

    Examples
    --------
    >>> alarms = [Alarm("2025-11-18", "missed_fraud:travel", "page", 9.0, 5.0, "")]
    >>> first_day(alarms, "missed_fraud")
    '2025-11-18'
    """
    days = [a.day for a in alarms if a.signal.startswith(signal) and a.severity == severity and a.day >= since]
    return min(days, default=None)
