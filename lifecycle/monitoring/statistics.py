"""``statistics.json``: what a set of records looks like, in the published format of SageMaker Model Monitor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError

BUCKETS = 10
SKETCH_SIZE = 2048
SHRINKING = 0.64
_MOST_CATEGORIES = 1000


def infer_types(column: pd.Series) -> pd.Series:
    """Return the type of each present value: ``Integral``, ``Fractional`` or ``String``.

    A text that reads as a number counts as one, as it does in a CSV file; a missing value has no type.

    Examples
    --------
    >>> infer_types(pd.Series(["1", 2.5, "pos", None])).tolist()
    ['Integral', 'Fractional', 'String']
    """
    present = column.dropna()
    if isinstance(present.dtype, pd.CategoricalDtype):
        present = present.astype(object)
    if pd.api.types.is_bool_dtype(present) or pd.api.types.is_integer_dtype(present):
        return pd.Series("Integral", index=present.index)
    if pd.api.types.is_float_dtype(present):
        whole = np.equal(np.mod(present, 1), 0)
        return pd.Series(np.where(whole, "Integral", "Fractional"), index=present.index)
    if pd.api.types.is_datetime64_any_dtype(present):
        return pd.Series("String", index=present.index)
    numbers = pd.to_numeric(present, errors="coerce")
    whole = numbers.notna() & np.equal(np.mod(numbers, 1), 0)
    written_as_fraction = present.astype(str).str.contains(".", regex=False)
    kind = np.where(numbers.isna(), "String", np.where(whole & ~written_as_fraction, "Integral", "Fractional"))
    return pd.Series(kind, index=present.index)


def infer_type(column: pd.Series) -> str:
    """Return one type for a column: the narrowest that fits all its values; ``Unknown`` when it has none.

    Examples
    --------
    >>> infer_type(pd.Series([1, 2, None])), infer_type(pd.Series([1, 2.5])), infer_type(pd.Series(["a", 1]))
    ('Integral', 'Fractional', 'String')
    """
    kinds = set(infer_types(column).unique())
    for kind in ("String", "Fractional", "Integral"):
        if kind in kinds:
            return kind
    return "Unknown"


def describe(frame: pd.DataFrame, types: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the statistics of a frame, ready to be written as ``statistics.json``.

    Parameters
    ----------
    frame
        One row a record.
    types
        The type of a column where it is known from a baseline; by default it is inferred. Values that
        do not have the type (a text where a number is expected) count as missing.

    Returns
    -------
    dict
        ``{version, dataset: {item_count}, features: [...]}`` with, for a number, mean, sum, standard
        deviation (of the population), extremes, ten buckets of equal width and a quantile sketch; for
        a text, the number of distinct values and how often each occurs.

    Raises
    ------
    LifecycleError
        If the frame has no rows.

    Examples
    --------
    >>> made = describe(pd.DataFrame({"amount": [1.0, 2.5, None]}))
    >>> made["features"][0]["numerical_statistics"]["common"]
    {'num_present': 2, 'num_missing': 1}
    """
    if frame.empty:
        raise LifecycleError("There are no records to describe; give at least one.")
    types = types or {}
    features = [_feature(str(name), frame[name], types.get(str(name))) for name in frame.columns]
    return {"version": 0.0, "dataset": {"item_count": len(frame)}, "features": features}


def _feature(name: str, column: pd.Series, kind: str | None) -> dict[str, Any]:
    kind = kind or infer_type(column)
    if kind in ("Integral", "Fractional"):
        return {"name": name, "inferred_type": kind, "numerical_statistics": _numerical(column)}
    return {"name": name, "inferred_type": kind, "string_statistics": _string(column)}


def _numerical(column: pd.Series) -> dict[str, Any]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.sort(values[np.isfinite(values)])
    common = {"num_present": int(finite.size), "num_missing": int(values.size - finite.size)}
    if not finite.size:
        return {"common": common}
    return {
        "common": common,
        "mean": float(finite.mean()),
        "sum": float(finite.sum()),
        "std_dev": float(finite.std()),
        "min": float(finite[0]),
        "max": float(finite[-1]),
        "distribution": {"kll": {"buckets": _buckets(finite), "sketch": make_sketch(finite)}},
    }


def _buckets(finite: np.ndarray) -> list[dict[str, float]]:
    """Count a sorted sample in ten buckets of equal width from its minimum to its maximum."""
    low, high = float(finite[0]), float(finite[-1])
    edges = np.linspace(low, high if high > low else low + 1.0, BUCKETS + 1)
    counts, edges = np.histogram(finite, bins=edges)
    return [
        {"lower_bound": float(edges[i]), "upper_bound": float(edges[i + 1]), "count": float(counts[i])}
        for i in range(BUCKETS)
    ]


def make_sketch(finite: np.ndarray, k: int = SKETCH_SIZE) -> dict[str, Any]:
    """Summarize a sorted sample in the form of a KLL sketch: an item of level i stands for 2**i values.

    A KLL sketch (Karnin, Lang, Liberty, 2016) reads a stream once and keeps a random choice of it.
    We hold all values, so the choice need not be random: of every 2**h neighbors in the sorted
    sample the middle one is kept, with h as small as `k` items allow; the binary digits of what is
    left over go to the lower levels. The weights add up to the number of values, and a rank read
    from the sketch is off by less than 2 / k of the sample.

    Examples
    --------
    >>> make_sketch(np.array([1.0, 2.0, 3.0]))["data"]
    [[1.0, 2.0, 3.0]]
    >>> [len(level) for level in make_sketch(np.arange(100.0), k=30)["data"]]
    [0, 0, 25]
    """
    top = 0
    while finite.size >> top > k:
        top += 1
    data: list[list[float]] = [[] for _ in range(top + 1)]
    taken = (finite.size >> top) << top
    data[top] = finite[:taken].reshape(-1, 1 << top)[:, (1 << top) // 2].tolist()
    for level in range(top - 1, -1, -1):
        if (finite.size - taken) >> level & 1:
            data[level] = [float(finite[taken + (1 << level) // 2])]
            taken += 1 << level
    return {"parameters": {"c": SHRINKING, "k": float(k)}, "data": data}


def read_sketch(statistics: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a feature's sketch and how many values each stands for.

    Parameters
    ----------
    statistics
        A ``numerical_statistics`` object. Without a distribution the result is empty.

    Examples
    --------
    >>> values, weights = read_sketch(_numerical(pd.Series(range(5000))))
    >>> len(values), float(weights.sum())
    (1250, 5000.0)
    """
    levels = statistics.get("distribution", {}).get("kll", {}).get("sketch", {}).get("data", [])
    values = np.array([value for level in levels for value in level], dtype=np.float64)
    weights = np.array([2.0**i for i, level in enumerate(levels) for _ in level], dtype=np.float64)
    return values, weights


def _string(column: pd.Series) -> dict[str, Any]:
    present = column.dropna().astype(str)
    counts = present.value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    counts = counts[counts > 0]
    buckets = [{"value": str(value), "count": int(count)} for value, count in counts.head(_MOST_CATEGORIES).items()]
    return {
        "common": {"num_present": len(present), "num_missing": len(column) - len(present)},
        "distinct_count": float(len(counts)),
        "distribution": {"categorical": {"buckets": buckets}},
    }
