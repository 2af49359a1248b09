"""How far a chunk of data is from its reference: L-infinity, simple and robust, and PSI.

The first two are the distances of the public Deequ library (class ``Distance``), which SageMaker
Model Monitor uses: the largest gap between two cumulative distributions. The robust one subtracts
what chance alone does to small samples. PSI, the population stability index, is the habit of
credit scoring: below 0.1 calm, above 0.25 a major shift (N. Siddiqi, Credit Risk Scorecards, 2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError

CHANCE = 1.8
"""The constant of the robust distance: 1.8 standard units of a two-sample comparison, as in Deequ."""

_FLOOR = 1e-4


def correct_for_chance(distance: float, n: float, m: float) -> float:
    """Turn a simple L-infinity distance into the robust one: ``max(0, d - 1.8 * sqrt((n + m) / (n * m)))``.

    Parameters
    ----------
    distance
        The simple distance, in [0, 1].
    n, m
        The number of values on each side. With none on a side nothing can be said: the result is 0.

    Examples
    --------
    >>> round(correct_for_chance(0.3, 50_000, 100), 3)
    0.12
    >>> correct_for_chance(0.1, 50_000, 100)
    0.0
    """
    if n <= 0 or m <= 0:
        return 0.0
    return max(0.0, distance - CHANCE * float(np.sqrt((n + m) / (n * m))))


def numeric_distance(
    reference: np.ndarray,
    current: np.ndarray,
    *,
    reference_weights: np.ndarray | None = None,
    current_weights: np.ndarray | None = None,
    robust: bool = False,
) -> float:
    """Return the L-infinity distance of two samples of a number: the largest gap between their CDFs.

    Parameters
    ----------
    reference, current
        Values, shape (n,) and (m,). Missing and infinite ones are left out; an empty side gives 0.
    reference_weights, current_weights
        How many values each stands for (the items of a sketch); by default one.
    robust
        Subtract what chance does (`correct_for_chance`).

    Examples
    --------
    >>> numeric_distance(np.arange(100), np.arange(50, 150))
    0.5
    >>> numeric_distance(np.arange(100), np.array([]))
    0.0
    """
    a, wa = _sorted_sample(reference, reference_weights)
    b, wb = _sorted_sample(current, current_weights)
    if a.size == 0 or b.size == 0:
        return 0.0
    points = np.concatenate([a, b])
    distance = float(np.max(np.abs(_cdf(a, wa, points) - _cdf(b, wb, points))))
    return correct_for_chance(distance, wa[-1], wb[-1]) if robust else distance


def _sorted_sample(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the finite values in order, and the running total of their weights."""
    values = np.asarray(values, dtype=np.float64)
    keep = np.isfinite(values)
    weights = np.ones(values.size) if weights is None else np.asarray(weights, dtype=np.float64)
    values, weights = values[keep], weights[keep]
    order = np.argsort(values, kind="stable")
    return values[order], np.cumsum(weights[order])


def _cdf(values: np.ndarray, running: np.ndarray, points: np.ndarray) -> np.ndarray:
    position = np.searchsorted(values, points, side="right")
    return np.concatenate([[0.0], running])[position] / running[-1]


def categorical_distance(
    reference: Mapping[str, float], current: Mapping[str, float], *, robust: bool = False
) -> float:
    """Return the L-infinity distance of two tables of counts: the largest change of a category's share.

    A category that one side never saw counts with share 0 there.

    Examples
    --------
    >>> round(categorical_distance({"pos": 60, "online": 40}, {"pos": 45, "online": 50, "phone": 5}), 2)
    0.15
    """
    n, m = float(sum(reference.values())), float(sum(current.values()))
    if n <= 0 or m <= 0:
        return 0.0
    names = set(reference) | set(current)
    distance = max(abs(reference.get(name, 0) / n - current.get(name, 0) / m) for name in names)
    return correct_for_chance(distance, n, m) if robust else float(distance)


def population_stability_index(reference: np.ndarray, current: np.ndarray) -> float:
    """Return the PSI of two histograms over the same bins: ``sum((q - p) * ln(q / p))``.

    Parameters
    ----------
    reference, current
        Counts a bin, shape (bins,). A share below 0.0001 counts as 0.0001, so that an empty bin is finite.

    Examples
    --------
    >>> population_stability_index(np.array([50, 50]), np.array([50, 50]))
    0.0
    >>> round(population_stability_index(np.array([50, 50]), np.array([80, 20])), 3)
    0.416
    """
    reference, current = np.asarray(reference, dtype=float), np.asarray(current, dtype=float)
    if reference.sum() <= 0 or current.sum() <= 0:
        return 0.0
    p = np.maximum(reference / reference.sum(), _FLOOR)
    q = np.maximum(current / current.sum(), _FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


@dataclass(frozen=True)
class _Number:
    values: np.ndarray  # finite, sorted
    edges: np.ndarray  # inner edges of the PSI bins: quantiles of the reference
    counts: np.ndarray  # reference counts a bin; the last bin holds the missing

    def compare(self, column: pd.Series) -> dict[str, float]:
        current = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        finite = np.sort(current[np.isfinite(current)])
        result = {"missing": current.size - finite.size, "outside": 0, "linf": 0.0}
        if finite.size and self.values.size:
            result["linf"] = _gap(self.values, finite)
            result["outside"] = int(((finite < self.values[0]) | (finite > self.values[-1])).sum())
        result["linf_robust"] = correct_for_chance(result["linf"], self.values.size, finite.size)
        result["psi"] = population_stability_index(self.counts, _histogram(finite, self.edges, result["missing"]))
        return result


@dataclass(frozen=True)
class _Category:
    counts: dict[str, int]  # of the values present
    missing: int

    def compare(self, column: pd.Series) -> dict[str, float]:
        counts, missing = _count(column)
        names = sorted(set(self.counts) | set(counts))
        p = np.array([self.counts.get(name, 0) for name in names] + [self.missing])
        q = np.array([counts.get(name, 0) for name in names] + [missing])
        return {
            "missing": missing,
            "outside": sum(number for name, number in counts.items() if name not in self.counts),
            "linf": categorical_distance(self.counts, counts),
            "linf_robust": categorical_distance(self.counts, counts, robust=True),
            "psi": population_stability_index(p, q),
        }


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest CDF gap of two sorted samples, looking only at the points of the shorter one.

    Between two neighboring points of `b` its CDF is flat, so the gap is largest at a point of `b`
    or just before one; no need to visit the points of `a`.
    """
    if a.size < b.size:
        a, b = b, a
    new = np.flatnonzero(b[1:] != b[:-1]) + 1
    first, end = np.concatenate([[0], new]), np.concatenate([new, [b.size]])  # of each different value
    points = b[first]
    at = np.searchsorted(a, points, side="right") / a.size
    before = np.searchsorted(a, points, side="left") / a.size
    return float(max(np.abs(at - end / b.size).max(), np.abs(before - first / b.size).max()))


def _histogram(finite: np.ndarray, edges: np.ndarray, missing: int) -> np.ndarray:
    """Count sorted values in the bins between the edges; an edge belongs to the bin below it."""
    below = np.searchsorted(finite, edges, side="right")
    return np.concatenate([np.diff(below, prepend=0, append=finite.size), [missing]])


def _count(column: pd.Series) -> tuple[dict[str, int], int]:
    present = column.dropna()
    counts = present.astype(str).value_counts()
    counts = counts[counts > 0]
    return {str(name): int(number) for name, number in counts.items()}, len(column) - len(present)


class DriftReference:
    """A reference to compare chunks with: fit on clean data, calculate on each new chunk.

    Parameters
    ----------
    frame
        The reference, one row a record. Columns of numbers are compared as numbers, others as categories.
    columns
        The columns to compare; by default all.
    bins
        Number of PSI bins of a number (quantiles of the reference), besides one for the missing.

    Raises
    ------
    LifecycleError
        If the reference has no rows, or a column is not in it.

    Examples
    --------
    >>> reference = DriftReference(pd.DataFrame({"amount": np.arange(1000.0), "channel": ["pos", "online"] * 500}))
    >>> chunk = pd.DataFrame({"amount": np.arange(1000.0) * 100, "channel": ["pos", "pos"] * 500})
    >>> reference.calculate(chunk).set_index("feature")["linf"].round(2).to_dict()
    {'amount': 0.99, 'channel': 0.5}
    """

    def __init__(self, frame: pd.DataFrame, columns: Sequence[str] | None = None, bins: int = 10) -> None:
        self.columns = list(frame.columns if columns is None else columns)
        absent = [name for name in self.columns if name not in frame.columns]
        if frame.empty or absent:
            what = f"has no column {absent[0]!r}" if absent else "has no rows"
            raise LifecycleError(f"The drift reference {what}; give a baseline with at least one row and every column.")
        self.rows = len(frame)
        self._features = {name: _fit(frame[name], bins) for name in self.columns}

    def calculate(self, chunk: pd.DataFrame) -> pd.DataFrame:
        """Compare a chunk with the reference.

        Parameters
        ----------
        chunk
            New rows. A column it lacks counts as missing in every row; an empty chunk has distance 0.

        Returns
        -------
        DataFrame
            One row a feature: feature, rows, missing (count), outside (count of values beyond the
            range, or not among the categories, of the reference), linf, linf_robust, psi.
        """
        rows = []
        for name, feature in self._features.items():
            column = chunk[name] if name in chunk.columns else pd.Series(np.nan, index=chunk.index)
            rows.append({"feature": name, "rows": len(chunk), **feature.compare(column)})
        return pd.DataFrame(rows, columns=["feature", "rows", "missing", "outside", "linf", "linf_robust", "psi"])


def _fit(column: pd.Series, bins: int) -> _Number | _Category:
    if not pd.api.types.is_numeric_dtype(column):
        return _Category(*_count(column))
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.sort(values[np.isfinite(values)])
    quantiles = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.unique(np.quantile(finite, quantiles)) if finite.size else np.array([])
    return _Number(finite, edges, _histogram(finite, edges, values.size - finite.size))
