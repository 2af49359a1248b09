"""Repairs that need no model: missing values shown as missing, categories with a fixed list of levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

UNKNOWN = "unknown"
"""The level that stands for a missing category and for one that training has not seen."""

DISGUISED: Mapping[str, tuple[Any, ...]] = {
    "channel": ("", "0000", "n/a", "none", "null", "unknown"),
    "merchant_category": ("", "0000", "n/a", "none", "null", "unknown"),
    "birth_date": (pd.Timestamp("1900-01-01", tz="UTC"),),
    "temperature": (-999.0,),
}
"""Values that look like data and mean that there is none, by column."""

CODED = ("channel", "merchant_category")
"""The attributes that a model sees as the codes of their category; the text is left to the features."""

FILLED = {"merchant_text": ""}
"""Attributes that keep all their values, with what stands for a missing one."""

MAX_LEVELS = 100
"""A category keeps at most this many levels; the rarer ones count as unknown."""


def coded_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of a table that become codes: those of `CODED`, and the categories of one's own file.

    Examples
    --------
    >>> coded_columns(pd.DataFrame({"channel": ["pos"], "x_shop": pd.Categorical(["a"]), "note": ["b"]}))
    ['channel', 'x_shop']
    """
    own = [name for name in frame if str(name).startswith("x_") and isinstance(frame[name].dtype, pd.CategoricalDtype)]
    return [*(name for name in CODED if name in frame), *own]


def reveal_missing(frame: pd.DataFrame, disguised: Mapping[str, Sequence[Any]] = DISGUISED) -> pd.DataFrame:
    """Return a copy in which the disguised missing values are missing.

    Parameters
    ----------
    frame
        Any table. Columns that `disguised` does not name stay as they are.
    disguised
        The values that mean "nothing", by column; text is compared without case and outer blanks.

    Examples
    --------
    >>> reveal_missing(pd.DataFrame({"temperature": [21.5, -999.0]}))["temperature"].isna().tolist()
    [False, True]
    """
    result = frame.copy(deep=False)
    for column in disguised.keys() & set(frame.columns):
        values, masks = frame[column], list(disguised[column])
        if isinstance(values.dtype, pd.CategoricalDtype):
            hidden = [level for level in values.cat.categories if str(level).strip().lower() in masks]
            result[column] = values.cat.remove_categories(hidden)
        else:
            text = pd.api.types.infer_dtype(values, skipna=True) == "string"
            result[column] = values.mask((values.str.strip().str.lower() if text else values).isin(masks))
    return result


def count_levels(frame: pd.DataFrame) -> dict[str, Counter[str]]:
    """Return how often each level of each of the `coded_columns` occurs; missing values do not count.

    Counts of two parts of a table add up, so a table of any size can be counted part by part.

    Examples
    --------
    >>> count_levels(pd.DataFrame({"channel": ["pos", "online", None, "pos"]}))["channel"]["pos"]
    2
    """
    counts = {}
    for column in coded_columns(frame):
        found = frame[column].value_counts()
        counts[column] = Counter({str(level): int(n) for level, n in found.items() if n})
    return counts


def choose_levels(counts: Mapping[str, Counter[str]]) -> dict[str, list[str]]:
    """Return the `MAX_LEVELS` most frequent levels of each category, in alphabetical order.

    Of equally frequent levels, the first in the alphabet is kept, so that the order of rows plays no part.

    Examples
    --------
    >>> choose_levels({"channel": Counter(pos=2, online=1)})
    {'channel': ['online', 'pos']}
    """
    ranked = {column: sorted(found, key=lambda level: (-found[level], level)) for column, found in counts.items()}
    return {column: sorted(levels[:MAX_LEVELS]) for column, levels in ranked.items()}


def fit_vocabularies(train: pd.DataFrame) -> dict[str, list[str]]:
    """Return the levels of each category of `CODED` that the training rows have, in alphabetical order.

    The position of a level in its list is its code. `UNKNOWN` is not in the list: its code is -1.

    Examples
    --------
    >>> fit_vocabularies(pd.DataFrame({"channel": ["pos", "online", None, "pos"]}))
    {'channel': ['online', 'pos']}
    """
    return choose_levels(count_levels(train))


def fix_levels(frame: pd.DataFrame, vocabularies: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a copy whose categories have exactly the fitted levels, and `UNKNOWN` for all else.

    Examples
    --------
    >>> frame = pd.DataFrame({"channel": ["pos", None, "carrier pigeon"]})
    >>> fix_levels(frame, {"channel": ["online", "pos"]})["channel"].tolist()
    ['pos', 'unknown', 'unknown']
    """
    result = frame.copy(deep=False)
    for column, levels in vocabularies.items():
        if column in frame:
            fixed = frame[column].astype("category").cat.set_categories([*levels, UNKNOWN])
            result[column] = fixed.fillna(UNKNOWN)
    return result


def fill_missing(frame: pd.DataFrame, fillers: Mapping[str, str] = FILLED) -> pd.DataFrame:
    """Return a copy in which the columns of `fillers` are categories without missing values.

    Examples
    --------
    >>> fill_missing(pd.DataFrame({"merchant_text": ["KIOSK", None]}))["merchant_text"].tolist()
    ['KIOSK', '']
    """
    result = frame.copy(deep=False)
    for column, filler in fillers.items():
        if column in frame:
            values = frame[column].astype("category")
            if filler not in values.cat.categories:
                values = values.cat.add_categories([filler])
            result[column] = values.fillna(filler)
    return result


def encode(values: pd.Series, vocabulary: Sequence[str]) -> np.ndarray:
    """Return the code of each value as float32: its position in the vocabulary, or -1.

    Examples
    --------
    >>> encode(pd.Series(["pos", "online", None, "fax"]), ["online", "pos"]).tolist()
    [1.0, 0.0, -1.0, -1.0]
    """
    return pd.Categorical(values, categories=list(vocabulary)).codes.astype("float32")
