"""Numbers from a short text: hashed pieces of three letters, weighed by whole numbers that were fitted once.

A descriptor such as ``card pmt umber taxi 1889 upper vale`` is reduced to its letters; each run of three
falls into one of a fixed number of buckets, by its checksum. A feature is the mean of the buckets' weights.
Weights are integers and part of the schema, so that the sum is exact, whatever adds it up and in whatever
order, and so that a service needs no vocabulary and no fitted object, only data.

The weights are those of a linear discriminant analysis: the directions in which the descriptors of
different merchant categories lie farthest apart. Without categories, they are the principal components.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts

BUCKETS, LENGTH, COMPONENTS = 256, 3, 4
SCALE = 1_000
"""Weights are kept in thousandths."""

MOST = 20_000
"""Descriptors to fit on, the most frequent ones."""

REMEMBERED = 100_000
"""Runs of words whose features a service keeps, and checksums that are kept; they come back again and again."""

FEWEST = 50
"""Descriptors below which nothing is fitted."""


def text_names(texts: Mapping[str, Any]) -> list[str]:
    """Return the names of the text features, in their order.

    Examples
    --------
    >>> text_names({"merchant_text": {"buckets": 1, "length": 3, "weights": [[1, 2]]}})
    ['merchant_text_1', 'merchant_text_2']
    """
    return [f"{name}_{k + 1}" for name, fitted in texts.items() for k in range(len(fitted["weights"][0]))]


def pieces(text: str, buckets: int = BUCKETS, length: int = LENGTH) -> tuple[int, ...]:
    """Return the buckets of a text's letter runs, each bucket once, in order.

    Examples
    --------
    >>> pieces("UMBER TAXI 1889") == pieces("umber taxi 0412 ")
    True
    >>> len(pieces("UMBER"))
    5
    """
    plain = f" {letters(text)} "
    runs = (plain[start : start + length] for start in range(len(plain) - length + 1))
    return tuple(sorted({_checksum(run) % buckets for run in runs}))


@functools.lru_cache(maxsize=REMEMBERED)
def _checksum(run: str) -> int:
    return zlib.crc32(run.encode())


def letters(text: str) -> str:
    """Return the words of a text in small letters, without digits and signs.

    Examples
    --------
    >>> letters("UMBER*TAXI 1889")
    'umber taxi'
    """
    return " ".join(text.lower().translate(_LETTERS).split())


def _plain(text: Any) -> str:
    return letters(text) if isinstance(text, str) else ""


class _Letters(dict):
    """What `str.translate` makes of a character: letters stay, all else is a space."""

    def __missing__(self, code: int) -> int:
        self[code] = code if chr(code).isalpha() else ord(" ")
        return self[code]


_LETTERS = _Letters()


def vectorize(values: Iterable[Any], fitted: Mapping[str, Any]) -> np.ndarray:
    """Return the features of some texts, float64, shape (texts, components). A missing or empty text gives zeros.

    Weights that `prepare` has made ready remember what they gave, for many small calls.

    Examples
    --------
    >>> vectorize(["a taxi", None], {"buckets": 1, "length": 3, "weights": [[500, -20]]}).tolist()
    [[0.5, -0.02], [0.0, 0.0]]
    """
    if "rows" in fitted:
        return np.array([text_values(text, fitted) for text in values]).reshape(-1, fitted["weights"].shape[1])
    # A bank's descriptors repeat, and differ most in the number of the shop: each text is read once, each run of
    # words is weighed once.
    texts, known = pd.factorize(np.asarray(values, dtype=object))
    plain = np.array(["", *map(_plain, known)], dtype=object)
    words, known = pd.factorize(plain)
    found = [pieces(text, fitted["buckets"], fitted["length"]) for text in known]
    counts = np.array([len(own) for own in found])
    # Whole numbers: a difference of two running sums is the sum between them, to the last bit.
    weights = np.asarray(fitted["weights"], dtype="int64")[[bucket for own in found for bucket in own]]
    sums = np.vstack([np.zeros((1, weights.shape[1]), dtype="int64"), weights.cumsum(axis=0)])
    ends = counts.cumsum()
    rows = (sums[ends] - sums[ends - counts]) / (np.maximum(counts, 1) * SCALE)[:, None]
    return rows[words[texts + 1]]


def text_values(text: Any, fitted: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the features of one text, given weights that `prepare` has made ready; see `vectorize`.

    Examples
    --------
    >>> text_values("a taxi", prepare({"text": {"buckets": 1, "length": 3, "weights": [[500, -20]]}})["text"])
    (0.5, -0.02)
    """
    rows, plain = fitted["rows"], _plain(text)
    found = rows.get(plain)
    if found is None:
        if len(rows) > REMEMBERED:
            rows.clear()
        found = rows[plain] = _row(plain, fitted)
    return found


def prepare(texts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return fitted texts with their weights as arrays and room to remember what was computed, for many calls."""
    return {
        name: {
            **fitted,
            "names": text_names({name: fitted}),
            "weights": np.array(fitted["weights"], dtype="int64"),
            "rows": {},
        }
        for name, fitted in texts.items()
    }


def _row(text: str, fitted: Mapping[str, Any]) -> tuple[float, ...]:
    found = pieces(text, fitted["buckets"], fitted["length"])
    sums = fitted["weights"].take(found, axis=0).sum(axis=0)
    return tuple((sums / (max(len(found), 1) * SCALE)).tolist())


def fit_texts(path: Path, since: object, until: object, name: str = "merchant_text") -> dict[str, Any]:
    """Fit the weights of a text column on the payments of ``[since, until)``.

    Parameters
    ----------
    path
        A Parquet file of transactions. Only descriptors and their categories are read, each once.
    name
        The text column.

    Returns
    -------
    dict
        Column -> ``buckets``, ``length`` and ``weights`` (integers, one row a bucket); empty where the file
        has no such column or too few descriptors.
    """
    import pyarrow.parquet as pq

    columns = pq.read_schema(path).names
    if name not in columns:
        return {}
    texts, kinds = _descriptors(path, since, until, name, "merchant_category" in columns)
    if len(texts) < FEWEST:
        return {}
    matrix = np.zeros((len(texts), BUCKETS))
    for row, text in enumerate(texts):
        found = list(pieces(text))
        matrix[row, found] = 1 / max(len(found), 1)
    weights = _directions(matrix, kinds)
    # A direction and its opposite are equally good; the larger end is up.
    weights *= np.where(weights.max(axis=0) < -weights.min(axis=0), -1, 1)
    whole = np.rint(weights * SCALE).astype("int64")
    return {name: {"buckets": BUCKETS, "length": LENGTH, "weights": whole.tolist()}}


def _descriptors(path: Path, since: object, until: object, name: str, known: bool) -> tuple[list[str], np.ndarray]:
    """Return the most frequent descriptors and the category that each has most often."""
    import duckdb

    kind = "CAST(merchant_category AS VARCHAR)" if known else "''"
    low, high = (int(contracts.midnight(day).timestamp()) * 1_000_000 for day in (since, until))
    query = (
        f"SELECT CAST({name} AS VARCHAR) AS text, {kind} AS kind, count(*) AS n "
        f"FROM read_parquet('{str(path).replace(chr(39), chr(39) * 2)}') "
        f"WHERE epoch_us(event_time) >= {low} AND epoch_us(event_time) < {high} AND {name} <> '' "
        "GROUP BY 1, 2 ORDER BY n DESC, text, kind"
    )
    with duckdb.connect() as database:
        with contextlib.suppress(duckdb.InvalidInputException):  # a Jupyter kernel without ipywidgets has no bar
            database.execute("SET enable_progress_bar = false")
        rows = database.sql(query).df()
    rows = rows[rows["kind"].fillna("unknown") != "unknown"].drop_duplicates("text").head(MOST)
    return rows["text"].tolist(), rows["kind"].to_numpy()


def _directions(matrix: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the weights of the buckets, one column a component, scaled to a standard deviation of 1."""
    if len(pd.unique(kinds)) > COMPONENTS:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.01, n_components=COMPONENTS)
        weights = model.fit(matrix, kinds).scalings_[:, :COMPONENTS]
    else:
        from sklearn.decomposition import PCA

        weights = PCA(COMPONENTS, svd_solver="covariance_eigh").fit(matrix).components_.T.copy()
    return weights / np.maximum((matrix @ weights).std(axis=0), 1e-12)
