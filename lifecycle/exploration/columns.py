"""Look at one column of a table: what is missing, disguised, invalid, extreme, rare or written in several ways.

The robust z-score is that of Iglewicz and Hoaglin, "How to detect and handle outliers" (1993).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

ROBUST_Z = 3.5
"""Beyond this robust z-score a value counts as an outlier."""

EXTREME_Z = 7.0
"""Beyond this on both scales, plain and logarithmic, a value hardly belongs to the rest."""

MAX_LEVELS = 1_000
"""A text with more different values is no category."""

_MASK = re.compile(
    r"0{2,}|9{3,}|-+|\?+|\.+|x{3,}|#?n/?a|n\.a\.|nan|none|null|nil|unknown|undefined|missing|tbd|"
    r"not (available|known|applicable)|",
    re.IGNORECASE,
)
_NUMERIC_MASKS = (-1, -9, -99, -999, -9999, 999, 9999, 99999, 999999)
_DATE_MASKS = ("1900-01-01", "1970-01-01", "9999-12-31")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*?(Z|[+-]\d\d:?\d\d)?")
_FEW = 10  # fewer rows than this make no habit
_MANY_LEVELS = 50  # with fewer, the levels are words and differ in pattern by right


def is_text(values: pd.Series) -> bool:
    """Tell whether a column holds text or categories."""
    kind = values.dtype
    return isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_string_dtype(kind)


def as_numbers(values: pd.Series) -> np.ndarray | None:
    """Return a numeric, boolean or time-span column as float64 with NaN for missing; None for any other.

    Examples
    --------
    >>> as_numbers(pd.Series([True, None], dtype="boolean")).tolist()
    [1.0, nan]
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        return None
    if pd.api.types.is_timedelta64_dtype(values.dtype):
        return (values / pd.Timedelta(seconds=1)).to_numpy("float64")
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype):
        return values.astype("Float64" if values.dtype.name[0].isupper() else "float64").to_numpy(
            "float64", na_value=np.nan
        )
    return None


def written_down(values: pd.Series) -> pd.Series:
    """Return a column of arbitrary objects (lists, dates, mixtures) as text; any other column as it is.

    Examples
    --------
    >>> written_down(pd.Series([[1], None, "a"])).tolist()
    ['[1]', None, 'a']
    """
    if values.dtype != object or pd.api.types.infer_dtype(values, skipna=True) in ("string", "empty"):
        return values
    return values.map(str, na_action="ignore")


def count_levels(values: pd.Series) -> pd.Series:
    """Return the rows of each different text of a column, index of str, the most frequent first."""
    counts = values.value_counts()
    counts = counts[counts > 0]
    counts.index = counts.index.astype(str)
    return counts


def profile_column(values: pd.Series) -> dict[str, Any]:
    """Return how much of a column is missing, openly or in disguise, and whether it says anything.

    Disguised are words and numbers that people type when they have nothing to type (0000, n/a, -999), and
    an extreme that is repeated and far from all other values, such as a birth date of 1900-01-01.

    Returns
    -------
    dict
        ``type`` (number, time, text); ``missing``, ``disguised`` and ``invalid`` (shares of the rows),
        ``mask`` (the disguise, or None), ``example`` (an invalid value, or None), ``distinct`` (number of
        different values), ``constant``; for numbers ``outliers``, ``off_grid``; for text ``levels``,
        ``patterns``.

    Examples
    --------
    >>> profile_column(pd.Series(["food", "0000", None, "fuel"]))["mask"]
    '0000'
    """
    values = written_down(values)
    masks = find_masks(values)
    numbers, text = as_numbers(values), is_text(values)
    hidden = values.isin(masks) if masks else pd.Series(False, values.index)
    distinct = int(values.nunique())
    profile = {
        "type": "text" if text else "time" if numbers is None else "number",
        "missing": float(values.isna().mean()),
        "disguised": float(hidden.mean()),
        "mask": str(masks[0]).removesuffix("+00:00").removesuffix(" 00:00:00") if masks else None,
        "masks": [str(mask) for mask in masks],
        "distinct": distinct,
        "constant": distinct <= 1 and len(values) > 1,
        "invalid": 0.0,
        "example": None,
    }
    named_id = str(values.name).endswith("_id")
    if text:
        counts = count_levels(values[~hidden])
        profile |= find_invalid_text(counts, len(values))
        profile["levels"] = describe_levels(counts, len(values))
        if named_id or len(counts) > _MANY_LEVELS:
            profile["patterns"] = describe_patterns(counts)
    elif numbers is not None and not named_id:
        rest = numbers[~hidden.to_numpy()]
        profile |= find_invalid_numbers(rest, len(values))
        profile["outliers"] = describe_outliers(rest)
        profile["off_grid"] = share_off_grid(rest)
    return profile


def find_masks(values: pd.Series) -> list[Any]:
    """Return the values of a column that look like data and mean that there is none."""
    if str(values.name).endswith("_id"):
        return []
    if is_text(values):
        levels = values.cat.categories if hasattr(values, "cat") else values.dropna().unique()
        present = values.dropna().unique() if hasattr(values, "cat") else levels
        return [level for level in present if _MASK.fullmatch(str(level).strip())]
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        present = values.dropna().dt.as_unit("us")
        numbers = present.astype("int64")
        known = np.array(_DATE_MASKS, "datetime64[us]").astype("int64").tolist()
        found = np.unique([*_lonely_extremes(numbers), *_heaped(numbers, known, 5)]).astype("int64")
        return list(pd.Series(found.view("datetime64[us]")).dt.tz_localize("UTC").dt.tz_convert(present.dt.tz))
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        return []
    present = values.dropna()
    present = present[np.isfinite(as_numbers(present))]
    return list(dict.fromkeys([*_lonely_extremes(present), *_heaped(present, _NUMERIC_MASKS, 20)]))


def _lonely_extremes(numbers: pd.Series) -> pd.Series:
    """Return the smallest and the largest value if often repeated and far away from the next one."""
    empty = numbers.iloc[:0]
    low, high = numbers.quantile([0.01, 0.99]) if len(numbers) else (0, 0)
    if low == high or numbers.nunique() <= 20:
        return empty
    found = []
    for extreme in (numbers.min(), numbers.max()):
        same = numbers == extreme
        gap = (numbers[~same].astype("float64") - float(extreme)).abs().min()
        inner = numbers[~same].quantile([0.01, 0.99])
        if same.sum() >= _FEW and same.mean() >= 0.0005 and gap > 0.25 * (inner.iloc[1] - inner.iloc[0]):
            found.append(numbers[same].iloc[:1])
    return pd.concat(found) if found else empty


def _heaped(present: pd.Series, known: Any, times: int) -> list[Any]:
    """Return those of the `known` masks that occur so many times as often as any ordinary value of the column."""
    suspects = present[present.isin(list(known))]
    if len(suspects) < _FEW // 2:
        return []
    counts = present.value_counts()
    usual = counts.drop(suspects.unique()).quantile(0.99) if len(counts) > suspects.nunique() else np.inf
    if len(counts) <= _MANY_LEVELS * 2:
        return []
    return [value for value in suspects.unique() if counts[value] >= max(_FEW // 2, times * usual)]


def robust_z(values: pd.Series | np.ndarray) -> np.ndarray:
    """Return the distance of each value from the median, in units of the spread of the middle half.

    ``0.6745 (x - median) / MAD``, where MAD is the median absolute deviation: for a normal distribution
    this is the ordinary z-score, and outliers do not inflate it.

    Examples
    --------
    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0])).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    array = np.asarray(values, dtype="float64")
    if not np.isfinite(array).any():
        return np.zeros_like(array)
    deviation = array - np.nanmedian(array)
    spread = np.nanmedian(np.abs(deviation))
    return 0.6745 * deviation / spread if spread > 0 else np.zeros_like(array)


def describe_outliers(numbers: np.ndarray) -> dict[str, Any]:
    """Return how many numbers lie more than 3.5 robust z-scores out, as they are and as logarithms.

    ``extreme`` counts those beyond `EXTREME_Z` on both scales. Numbers that are not all positive keep
    their sign in the logarithm, ``sign(x) log(1 + |x|)``.
    """
    x = numbers[np.isfinite(numbers)]
    if len(x) < 20 or len(np.unique(x[:100_000])) <= 20:
        return {"threshold": ROBUST_Z, "plain": 0.0, "log": 0.0, "extreme": 0, "largest": None, "median": None}
    plain = np.abs(robust_z(x))
    logs = np.abs(robust_z(np.log(x) if x.min() > 0 else np.sign(x) * np.log1p(np.abs(x))))
    return {
        "threshold": ROBUST_Z,
        "plain": float((plain > ROBUST_Z).mean()),
        "log": float((logs > ROBUST_Z).mean()),
        "extreme": int(((plain > EXTREME_Z) & (logs > EXTREME_Z)).sum()),
        "largest": float(x.max()),
        "median": float(np.median(x)),
    }


def find_invalid_numbers(numbers: np.ndarray, rows: int) -> dict[str, Any]:
    """Return the share of values that are no numbers of this column: infinite, or of the wrong sign.

    A few negative values are wrong only where their sizes look like those of the positive ones; a bell
    that reaches a little below zero is right.
    """
    infinite = np.isinf(numbers)
    x = numbers[np.isfinite(numbers)]
    negative = x[x < 0]
    flipped = (
        0 < len(negative) <= 0.02 * len(x) and len(negative) >= 3 and np.median(-negative) >= 0.5 * np.median(x[x >= 0])
    )
    bad = int(infinite.sum()) + (len(negative) if flipped else 0)
    example = None if not bad else str(numbers[infinite][0]) if infinite.any() else str(negative[0])
    return {"invalid": bad / max(rows, 1), "example": example}


def share_off_grid(numbers: np.ndarray) -> dict[str, Any]:
    """Return the share of values with many more decimals than most of the column has.

    Most sensors say 21.4; a value of 21.444444 has been converted from another unit.

    Examples
    --------
    >>> share_off_grid(np.array([20.5, 21.0, 19.5, 70.0 / 9]))
    {'decimals': 1, 'share': 0.25}
    """
    x = numbers[np.isfinite(numbers)][:200_000]
    for decimals in range(5):
        on = np.abs(x - np.round(x, decimals)) < 1e-9 * np.maximum(np.abs(x), 1)
        if len(x) and on.mean() >= 0.6:
            off = x[~on]
            longer = np.abs(off - np.round(off, decimals + 3)) > 1e-9 * np.maximum(np.abs(off), 1)
            return {"decimals": decimals, "share": float(longer.sum() / len(x))}
    return {"decimals": None, "share": 0.0}


def find_invalid_text(counts: pd.Series, rows: int) -> dict[str, Any]:
    """Return the share of texts that are not of the type that nearly all others have: number or date."""
    shapes = {
        "number": counts.index.str.fullmatch(r"\s*[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?\s*"),
        "date": counts.index.str.fullmatch(r"\d{4}-\d\d-\d\d.*"),
    }
    for fits in shapes.values():
        share = counts[fits].sum() / max(counts.sum(), 1)
        if 0.9 <= share < 1:
            wrong = counts[~fits]
            return {"invalid": float(wrong.sum() / rows), "example": str(wrong.index[0])}
    return {"invalid": 0.0, "example": None}


def describe_levels(counts: pd.Series, rows: int) -> dict[str, Any]:
    """Return how many levels of a category are rare, and which differ by nothing but case and blanks."""
    if not 0 < len(counts) <= MAX_LEVELS:
        return {"rare": 0, "rare_share": 0.0, "variants": 0.0, "variant": None}
    rare = counts[counts < 0.001 * rows]
    plain = counts.index.str.casefold().str.replace(r"[\s_-]+", "", regex=True)
    twins = counts[plain.duplicated(keep=False)]
    minor = twins[pd.Index(plain[plain.duplicated(keep=False)]).duplicated()]  # all but the most frequent spelling
    return {
        "rare": len(rare),
        "rare_share": float(rare.sum() / rows),
        "variants": float(minor.sum() / rows),
        "variant": str(minor.index[0]) if len(minor) else None,
    }


def describe_patterns(counts: pd.Series) -> dict[str, Any]:
    """Return the shapes of a column's texts: A for capitals, a for small letters, 9 for digits.

    Returns
    -------
    dict
        ``top`` (the most frequent shape), ``top_share``; ``odd`` (share of texts unlike all shapes that make
        up 1 % or more) and ``example``; ``small_letters`` (share of texts in small letters where others are
        in capitals); ``cut`` (share of texts that are the beginning of another one).
    """
    counts = counts.head(100_000)
    total = counts.sum()
    shape = counts.index.str.replace(r"[A-Z]+", "A", regex=True).str.replace(r"[a-z]+", "a", regex=True)
    shape = shape.str.replace(r"\d+", "9", regex=True)
    shares = (counts.groupby(np.asarray(shape)).sum() / total).sort_values(ascending=False)
    odd = ~shape.isin(shares.index[shares >= 0.01])
    letters = counts.index.str.contains("[A-Za-z]", regex=True)
    small, capital = letters & (counts.index == counts.index.str.lower()), counts.index == counts.index.str.upper()
    mixed = counts[letters & capital].sum() >= 0.01 * total and counts[small].sum() >= 0.01 * total
    ordered = sorted(counts.index)
    cut = [a for a, b in zip(ordered, ordered[1:], strict=False) if len(a) >= 8 and b.startswith(a)]
    return {
        "top": str(shares.index[0]) if len(shares) else None,
        "top_share": float(shares.iloc[0]) if len(shares) else 0.0,
        "odd": float(counts[odd].sum() / max(total, 1)),
        "example": str(counts.index[odd][0]) if odd.any() else None,
        "small_letters": float(counts[small].sum() / total) if mixed else 0.0,
        "cut": float(counts[counts.index.isin(cut)].sum() / max(total, 1)),
    }


def find_zones(values: pd.Series) -> dict[str, float]:
    """Return the offsets from UTC in a column of written instants, with their shares; {} for other columns.

    Examples
    --------
    >>> find_zones(pd.Series(["2025-07-01T10:00:00+02:00", "2025-07-01T10:00:00"]))
    {'+02:00': 0.5, 'none': 0.5}
    """
    if not is_text(values):
        return {}
    present = values.dropna()
    if present.empty or not present.head(1_000).astype(str).str.fullmatch(_INSTANT).mean() >= 0.9:
        return {}
    zone = present.astype(str).str.extract(r":.*?(Z|[+-]\d\d:?\d\d)?$", expand=False).fillna("none")
    return {str(name): float(share) for name, share in zone.value_counts(normalize=True).sort_index().items()}


def find_units(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numeric columns whose unit changes from row to row, with the median in each unit.

    The unit of ``temperature`` is looked for in ``temperature_unit``; a column ``unit`` or ``currency``
    belongs to ``amount``.

    Examples
    --------
    >>> table = pd.DataFrame({"amount": [9.5, 950.0], "unit": ["major", "minor"]})
    >>> find_units(table)
    {'amount': {'major': {'share': 0.5, 'median': 9.5}, 'minor': {'share': 0.5, 'median': 950.0}}}
    """
    found = {}
    for column in table.columns:
        name = str(column)
        of = "amount" if name in ("unit", "currency") else name.removesuffix("_unit").removesuffix("_currency")
        if of == name or of not in table or as_numbers(table[of]) is None:
            continue
        groups = pd.Series(as_numbers(table[of])).groupby(table[column].to_numpy(), observed=True)
        if 2 <= len(groups) <= 20:
            shares = (groups.size() / len(table)).sort_values()
            medians = groups.median()
            found[of] = {str(k): {"share": float(shares[k]), "median": float(medians[k])} for k in shares.index}
    return found
