"""Detectors of change, all computed from the same counts of a day: on inputs, on predictions, on labels.

A day is a row of counts: how many payments fell into each bin of each feature, how many were flagged, how many fraud
reports they brought after how many days. Counts add up, so a thousand resampled days cost one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import sparse, special, stats

from lifecycle.monitoring.alarms import add_evidence
from lifecycle.monitoring.domain import FOLDS, RandomTrees, separation_by_day
from lifecycle.monitoring.drift import CHANCE
from lifecycle.monitoring.estimate import Calibrator
from lifecycle.monitoring.signals import FRESH_DAYS

BINS, PSI_BINS, MOST_CATEGORIES = 30, 10, 20
KNOWN_AFTER, WINDOW = 7, 7
"""Realized performance looks at payments this many days old, and all signals of performance at so many days of them."""

KEPT_VARIANCE = 0.65
GROWN_FROM = 20_000
RATIO = 3.0
ALPHA = 0.05
SUMS = ("payments", "residual", "flagged", "expected_frauds", "expected_caught", "frauds", "caught")


@dataclass(frozen=True)
class Pool:
    """Payments as arrays, row by row.

    Attributes
    ----------
    day
        Position of the day, from 0.
    customer, group
        Codes from 0: the customer, and the merchant category (or 0 where there is none).
    matrix
        Features, float32, shape (rows, features).
    score, flagged
        What the model said.
    fraud
        Whether it is fraud, as all labels say in the end.
    lag
        Days from the day of the payment to the day of its fraud report; -1 without a report.
    first
        Whether a report of it would be the first of its terminal in `signals.FRESH_DAYS`.
    """

    day: np.ndarray
    customer: np.ndarray
    group: np.ndarray
    matrix: np.ndarray
    score: np.ndarray
    flagged: np.ndarray
    fraud: np.ndarray
    lag: np.ndarray
    first: np.ndarray

    def take(self, rows: np.ndarray) -> Pool:
        """Return some of the payments; `rows` is a mask or positions."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __len__(self) -> int:
        return len(self.day)


@dataclass(frozen=True)
class _Feature:
    """How a feature is counted: its edges (a number) or its values (categories), and where its columns are."""

    column: int
    edges: np.ndarray
    is_number: bool
    place: slice

    def code(self, values: np.ndarray) -> np.ndarray:
        bins = np.searchsorted(self.edges, values, side="left")
        return np.where(np.isnan(values), self.place.stop - self.place.start - 1, bins) + self.place.start


class Counter:
    """Turns payments into rows of counts, fitted on clean payments.

    Parameters
    ----------
    clean
        The reference.
    columns
        The features to compare, by position in the matrix.
    calibrator
        Of the scores.
    groups
        The number of groups whose fraud reports are counted apart.
    """

    def __init__(self, clean: Pool, columns: list[int], calibrator: Calibrator, groups: int) -> None:
        self._calibrator = calibrator
        self.features, width = [], 0
        for column in [*columns, -1]:  # the score comes last
            values = clean.score if column < 0 else clean.matrix[:, column]
            self.features.append(_fit_feature(column, values, width))
            width = self.features[-1].place.stop
        self.sums = {name: width + i for i, name in enumerate(SUMS)}
        self.lags, self.groups = FRESH_DAYS + 1, groups
        self.reports = slice(width + len(SUMS), width + len(SUMS) + self.lags * groups)
        self._inputs = list(columns)
        self._fit_components(clean.matrix[:, self._inputs])
        step = -(-len(clean) // GROWN_FROM)
        self.forest = RandomTrees.grow(clean.matrix[::step, self._inputs], seed=0)
        self.leaves = slice(self.reports.stop, self.reports.stop + FOLDS * self.forest.size)
        self.width = self.leaves.stop

    def _fit_components(self, matrix: np.ndarray) -> None:
        self._mean = np.nanmean(matrix, axis=0)
        self._scale = np.nanstd(matrix, axis=0) + 1e-9
        variance, vectors = np.linalg.eigh(np.cov(self._standardize(matrix), rowvar=False))
        share = np.cumsum(variance[::-1]) / variance.sum()
        self._kept = vectors[:, ::-1][:, : int(np.searchsorted(share, KEPT_VARIANCE)) + 1].astype("float32")

    def _standardize(self, matrix: np.ndarray) -> np.ndarray:
        """Return units of standard deviations, 8 at most: one wild value is not a change of the day."""
        return np.nan_to_num(np.clip((matrix - self._mean) / self._scale, -8, 8)).astype("float32")

    def residual(self, matrix: np.ndarray) -> np.ndarray:
        """Return how far each row is from what the principal components can rebuild (the reconstruction error)."""
        standard = self._standardize(matrix[:, self._inputs])
        return np.linalg.norm(standard - (standard @ self._kept) @ self._kept.T, axis=1)

    def tabulate(self, pool: Pool) -> sparse.csr_array:
        """Return the counts of each payment, shape (rows, `width`), float32."""
        codes = [f.code(pool.score if f.column < 0 else pool.matrix[:, f.column]) for f in self.features]
        probability = self._calibrator.predict(pool.score)
        known = pool.fraud & (pool.lag >= 0) & (pool.lag <= KNOWN_AFTER)
        sums = [np.ones(len(pool)), self.residual(pool.matrix), pool.flagged, probability, probability * pool.flagged]
        sums += [known, known & pool.flagged]
        case = pool.fraud & ~pool.flagged & pool.first & (pool.lag >= 0) & (pool.lag <= FRESH_DAYS)
        place = self.reports.start + np.where(case, pool.lag, 0) * self.groups + pool.group
        leaves = self.forest.leaves(pool.matrix[:, self._inputs])
        leaves += self.leaves.start + (pool.customer % FOLDS * self.forest.size)[:, None]
        indices = np.column_stack([*codes, *(np.full(len(pool), at) for at in self.sums.values()), place, leaves])
        ones = (np.ones(len(pool)) for _ in codes)
        data = np.column_stack([*ones, *sums, case, np.ones(leaves.shape)]).astype("float32")
        starts = np.arange(len(pool) + 1) * indices.shape[1]
        return sparse.csr_array((data.ravel(), indices.astype("int32").ravel(), starts), shape=(len(pool), self.width))

    def read_leaves(self, counts: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return the counts of the domain classifier, shape (days, months, folds, trees, leaves), for `shape` days."""
        each = counts[..., self.leaves].reshape(*counts.shape[:2], FOLDS, len(self.forest.column), -1)
        return np.broadcast_to(each, (*shape, *each.shape[2:]))

    def count(self, pool: Pool, weights: np.ndarray, days: int) -> np.ndarray:
        """Return the counts of each day when every customer counts as often as it was drawn.

        Parameters
        ----------
        weights
            How often each customer is in each month, shape (customers, months), float32.
        days
            The number of days.

        Returns
        -------
        ndarray
            float32, shape (days, months, `width`).
        """
        counts = np.zeros((days, weights.shape[1], self.width), "float32")
        for day in np.unique(pool.day):
            part = pool.take(pool.day == day)
            counts[day] = (self.tabulate(part).T @ weights[part.customer]).T
        return counts


def _fit_feature(column: int, values: np.ndarray, start: int) -> _Feature:
    different = np.unique(values[~np.isnan(values)])
    is_number = different.size > MOST_CATEGORIES
    edges = different if not is_number else np.unique(np.nanquantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    return _Feature(column, edges, is_number, slice(start, start + edges.size + 2))  # one beyond, one for the missing


@dataclass(frozen=True)
class Days:
    """What the detectors read off the counts of days: arrays of shape (days, months), or with features last.

    Attributes
    ----------
    linf, psi, p_value
        Of each compared feature against the reference; the score is not among them.
    robust
        `linf` without what chance does to samples of that size.
    score_psi
        PSI of the score.
    residual, alert_rate
        How far the mean reconstruction error, and the share of payments with an alert, are from the reference.
    sums
        The totals `SUMS` of each day.
    reports
        Cases of missed fraud by lag and group, shape (days, months, lags, groups).
    leaves, usual_leaves
        Payments of the day and of its reference by fold, tree and leaf of the domain classifier, shape
        (days, months, folds, trees, leaves).
    """

    linf: np.ndarray
    robust: np.ndarray
    psi: np.ndarray
    p_value: np.ndarray
    score_psi: np.ndarray
    residual: np.ndarray
    alert_rate: np.ndarray
    sums: dict[str, np.ndarray]
    reports: np.ndarray
    leaves: np.ndarray
    usual_leaves: np.ndarray


def read_days(counter: Counter, counts: np.ndarray, reference: np.ndarray) -> Days:
    """Compare counts of days, shape (days, months, width), with a reference for each day, shape (days, 1, width)."""
    sums = {name: counts[..., at].astype(np.float64) for name, at in counter.sums.items()}
    size = np.maximum(sums["payments"], 1)
    whole = np.maximum(reference[..., counter.sums["payments"]], 1)
    chance = CHANCE * np.sqrt((size + whole) / (size * whole))
    linf, psi, p_value = [], [], []
    for feature in counter.features:
        now, then = counts[..., feature.place] / size[..., None], reference[..., feature.place] / whole[..., None]
        gap = _gap(now, then, feature.is_number)
        linf.append(gap)
        psi.append(_psi(now, then))
        p_value.append(_p_value(counts[..., feature.place], reference[..., feature.place], gap, feature.is_number))
    stacked = np.stack(linf[:-1], -1)
    return Days(
        stacked,
        np.maximum(0, stacked - chance[..., None]),
        np.stack(psi[:-1], -1),
        np.stack(p_value[:-1], -1),
        psi[-1],
        *(np.abs(sums[name] / size - reference[..., counter.sums[name]] / whole) for name in ("residual", "flagged")),
        sums,
        counts[..., counter.reports].reshape(*counts.shape[:2], counter.lags, counter.groups),
        *(counter.read_leaves(c, counts.shape[:2]) for c in (counts, reference)),
    )


def _gap(now: np.ndarray, then: np.ndarray, is_number: bool) -> np.ndarray:
    """Return the L-infinity distance: of cumulative shares for a number, of shares for categories."""
    difference = now - then
    return np.abs(np.cumsum(difference, -1) if is_number else difference).max(-1)


def _psi(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    starts = np.unique(np.linspace(0, then.shape[-1], PSI_BINS + 1).astype(int)[:-1])
    p = np.maximum(np.add.reduceat(then, starts, axis=-1), 1e-4)
    q = np.maximum(np.add.reduceat(now, starts, axis=-1), 1e-4)
    return ((q - p) * np.log(q / p)).sum(-1)


def _p_value(now: np.ndarray, then: np.ndarray, gap: np.ndarray, is_number: bool) -> np.ndarray:
    """Return the p-value of the Kolmogorov-Smirnov test of a number, of the chi-squared test of categories."""
    n, m = np.maximum(now.sum(-1), 1), np.maximum(then.sum(-1), 1)
    if is_number:
        return stats.kstwobign.sf(gap * np.sqrt(n * m / (n + m)))
    total = np.maximum(now + then, 1e-9)
    share = (n / (n + m))[..., None]
    statistic = ((now - total * share) ** 2 / (total * share * (1 - share))).sum(-1)
    return special.chdtrc(max(int((then > 0).any(axis=(0, 1)).sum()) - 1, 1), statistic)


def adjust(p_value: np.ndarray, method: str) -> np.ndarray:
    """Return the smallest p-value of many tests, adjusted for their number: below alpha, at least one rejects.

    Parameters
    ----------
    p_value
        Shape (..., tests).
    method
        ``none``; ``holm`` (Holm, 1979: the chance of any false alarm is at most alpha); or ``bh`` (Benjamini and
        Hochberg, 1995: of the alarms, a share of at most alpha is false).

    Examples
    --------
    >>> p = np.array([0.02, 0.03, 0.5])
    >>> [round(float(adjust(p, method)), 3) for method in ("none", "holm", "bh")]
    [0.02, 0.06, 0.045]
    """
    tests = p_value.shape[-1]
    if method == "none":
        return p_value.min(-1)
    if method == "holm":
        return np.minimum(1, tests * p_value.min(-1))
    ranked = np.sort(p_value, -1) * tests / np.arange(1, tests + 1)
    return ranked.min(-1)


@dataclass(frozen=True)
class Usual:
    """What clean days look like: a PSI that each feature seldom exceeds, and cases of missed fraud a day, by group."""

    psi: np.ndarray
    expected: np.ndarray

    @classmethod
    def of(cls, days: Days) -> Usual:
        """Read it off clean days."""
        cases = days.reports.sum(axis=2)
        return cls(np.quantile(days.psi, 0.99, axis=(0, 1)), cases.mean(axis=(0, 1)) + 0.5 / len(cases))


Signal = Callable[[Days, Usual], np.ndarray]
"""The value of a detector on each day; the higher, the more alarming. Days are those of one month in order."""


def _share(caught: np.ndarray, of: np.ndarray, late: int) -> np.ndarray:
    """Return minus the share caught of the last `WINDOW` days, seen `late` days later; -1 while there is no window."""
    value = np.full(caught.shape, -1.0)
    totals = [np.cumsum(np.vstack([np.zeros((1, x.shape[1])), x]), axis=0) for x in (caught, of)]
    share, whole = (total[WINDOW:] - total[:-WINDOW] for total in totals)
    value[WINDOW - 1 + late :] = (-share / np.maximum(whole, 1e-9))[: len(share) - late]
    return value


def _chart(days: Days, usual: Usual) -> np.ndarray:
    """Return the highest level of the Poisson CUSUM charts of missed fraud, by the day its reports arrive."""
    length, months, lags, groups = days.reports.shape
    arrived = np.zeros((length, months, groups))
    for lag in range(min(lags, length)):
        arrived[lag:] += days.reports[: length - lag, :, lag]
    return add_evidence(arrived, usual.expected, RATIO).max(-1)


DETECTORS: dict[str, Signal] = {
    "L-infinity, simple": lambda days, usual: days.linf.max(-1),
    "L-infinity, robust": lambda days, usual: days.robust.max(-1),
    "PSI, a limit for each feature": lambda days, usual: (days.psi / usual.psi).max(-1),
    "tests, Holm": lambda days, usual: -np.log10(adjust(days.p_value, "holm") + 1e-300),
    "tests, Benjamini-Hochberg": lambda days, usual: -np.log10(adjust(days.p_value, "bh") + 1e-300),
    "PCA reconstruction error": lambda days, usual: days.residual,
    "domain classifier": lambda days, usual: separation_by_day(days.leaves, days.usual_leaves),
    "score, PSI": lambda days, usual: days.score_psi,
    "alert rate": lambda days, usual: days.alert_rate,
    "estimated precision": lambda days, usual: _share(days.sums["expected_caught"], days.sums["flagged"], 0),
    "estimated recall": lambda days, usual: _share(days.sums["expected_caught"], days.sums["expected_frauds"], 0),
    "realized precision": lambda days, usual: _share(days.sums["caught"], days.sums["flagged"], KNOWN_AFTER),
    "realized recall": lambda days, usual: _share(days.sums["caught"], days.sums["frauds"], KNOWN_AFTER),
    "CUSUM of missed fraud": _chart,
}
"""All detectors. The first seven look at inputs, the next four at the model's answers, the last three at labels."""

NOMINAL: dict[str, tuple[Signal, float]] = {
    "L-infinity, simple": (DETECTORS["L-infinity, simple"], 0.1),
    "L-infinity, robust": (DETECTORS["L-infinity, robust"], 0.1),
    "tests, not corrected": (lambda days, usual: -adjust(days.p_value, "none"), -ALPHA),
    "tests, Holm": (lambda days, usual: -adjust(days.p_value, "holm"), -ALPHA),
    "tests, Benjamini-Hochberg": (lambda days, usual: -adjust(days.p_value, "bh"), -ALPHA),
}
"""Detectors with the limit that their textbook or vendor gives them."""
