"""Clean what was collected, and split it by time.

Whatever is learned from data (which categories exist, a median, a mean) is learned from the training
period and written down, so that the service later applies the same numbers. Nothing here looks at the
future: the vocabulary of a category is what training has seen, and the encoder is fitted by the model
that uses it, on the rows that model may see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lifecycle import contracts, files
from lifecycle.errors import LifecycleError

UNKNOWN = "unknown"
"""The level that stands for a missing category and for one that training has not seen."""

DISGUISED = {
    "channel": ("", "0000", "n/a", "none", "null", "unknown"),
    "merchant_category": ("", "0000", "n/a", "none", "null", "unknown"),
    "birth_date": (pd.Timestamp("1900-01-01", tz="UTC"),),
    "temperature": (-999.0,),
}
"""Values that look like data and mean that there is none, by column."""

CODED = ("channel", "merchant_category")
"""The attributes that a model sees as the codes of their category; the text is left to the features."""

MAX_LEVELS = 100
"""A category keeps at most this many levels; the rarer ones count as unknown."""

SPLITS = ("warmup", "train", "gap", "test", "later")


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Write the cleaned tables, the vocabularies and the splits.

    Writes ``transactions`` (cleaned, with a column `split`), ``labels``, and ``customers``, ``terminals``
    and ``telemetry`` if collection has them, as Parquet; ``encoding.json`` and ``splits.json``.

    Parameters
    ----------
    settings
        Knobs: the calendar.
    inputs
        ``collection``: the folder of the collected tables.
    out
        An empty folder.

    Raises
    ------
    LifecycleError
        If the training or the test period holds no payments.
    """
    source = Path(inputs["collection"])
    transactions = pd.read_parquet(source / "transactions.parquet")
    labels = pd.read_parquet(source / "labels.parquet")
    transactions["split"] = split_by_time(transactions["event_time"], settings)
    for name, what in (("train", "training"), ("test", "test")):
        if not (transactions["split"] == name).any():
            first, last = transactions["event_time"].min(), transactions["event_time"].max()
            raise LifecycleError(
                f"The {what} period [{getattr(settings, f'{name}_from')}, {getattr(settings, f'{name}_until')}) "
                f"holds no payments: they run from {first:%Y-%m-%d} to {last:%Y-%m-%d}; choose dates within."
            )
    transactions = reveal_missing(transactions)
    vocabularies = fit_vocabularies(transactions[transactions["split"] == "train"])
    transactions = fix_levels(transactions, vocabularies)
    if "merchant_text" in transactions:
        transactions["merchant_text"] = _filled(transactions["merchant_text"], "")
    contracts.check(transactions, contracts.TRANSACTIONS, "the preprocessed transactions")
    files.write_parquet(transactions, out / "transactions.parquet")
    files.write_parquet(labels, out / "labels.parquet")
    for name in ("customers", "terminals", "telemetry"):
        if (source / f"{name}.parquet").exists():
            files.write_parquet(
                reveal_missing(pq.read_table(source / f"{name}.parquet").to_pandas()), out / f"{name}.parquet"
            )
    files.write_json(vocabularies, out / "encoding.json")
    files.write_json(describe_splits(transactions, labels, settings), out / "splits.json")


def split_by_time(event_time: pd.Series, settings: Any) -> pd.Categorical:
    """Return the split of each payment: one of `SPLITS`, by its time alone.

    The gap between training and test is where labels ripen: a model that is used from `test_from` on
    knows at that moment the labels of payments up to `label_delay_days` before.

    Parameters
    ----------
    event_time
        datetime64[us, UTC].
    settings
        The calendar: `train_from`, `train_until`, `test_from`, `test_until` (days, half-open periods).

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> times = pd.to_datetime(pd.Series(["2025-07-31", "2025-08-01", "2025-09-22", "2025-10-19"]), utc=True)
    >>> list(split_by_time(times, Settings()))
    ['warmup', 'train', 'gap', 'test']
    """
    starts = [settings.train_from, settings.train_until, settings.test_from, settings.test_until]
    edges = np.array([contracts.midnight(day).to_datetime64() for day in starts], "datetime64[us]")
    moments = event_time.to_numpy("datetime64[us]")
    return pd.Categorical.from_codes(np.searchsorted(edges, moments, side="right"), SPLITS)


def reveal_missing(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy in which the disguised missing values of `DISGUISED` are missing.

    Examples
    --------
    >>> reveal_missing(pd.DataFrame({"temperature": [21.5, -999.0]}))["temperature"].isna().tolist()
    [False, True]
    """
    result = frame.copy(deep=False)
    for column in DISGUISED.keys() & set(frame.columns):
        values = frame[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            masks = [level for level in values.cat.categories if str(level).strip().lower() in DISGUISED[column]]
            result[column] = values.cat.remove_categories(masks)
        else:
            text = values.dtype == object
            result[column] = values.mask((values.str.strip().str.lower() if text else values).isin(DISGUISED[column]))
    return result


def fit_vocabularies(train: pd.DataFrame) -> dict[str, list[str]]:
    """Return the levels of each category of `CODED` that the training rows have, in alphabetical order.

    The position of a level in its list is its code. `UNKNOWN` is not in the list: its code is -1.

    Examples
    --------
    >>> fit_vocabularies(pd.DataFrame({"channel": ["pos", "online", None, "pos"]}))
    {'channel': ['online', 'pos']}
    """
    vocabularies = {}
    for column in CODED:
        if column in train:
            counts = train[column].astype(str)[train[column].notna()].value_counts()
            vocabularies[column] = sorted(counts[counts > 0].head(MAX_LEVELS).index)
    return vocabularies


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


def encode(values: pd.Series, vocabulary: Sequence[str]) -> np.ndarray:
    """Return the code of each value as float32: its position in the vocabulary, or -1.

    Examples
    --------
    >>> encode(pd.Series(["pos", "online", None, "fax"]), ["online", "pos"]).tolist()
    [1.0, 0.0, -1.0, -1.0]
    """
    return pd.Categorical(values, categories=list(vocabulary)).codes.astype("float32")


def describe_splits(transactions: pd.DataFrame, labels: pd.DataFrame, settings: Any) -> list[dict[str, Any]]:
    """Return one row a split: dates, rows, and the frauds known when the split was first used.

    Labels of training are those known at `test_from`, all later ones those known at `deploy_at`,
    when the verdict on the model is passed. Payments after that are counted with the labels of the
    end of the data.
    """
    edges = [settings.train_from, settings.train_until, settings.test_from, settings.test_until]
    moments = [settings.test_from, settings.test_from, settings.deploy_at, settings.deploy_at, None]
    rows = []
    for name, start, end, moment in zip(SPLITS, [None, *edges], [*edges, None], moments, strict=True):
        ids = transactions.loc[transactions["split"] == name, "transaction_id"]
        as_of = contracts.midnight(moment) if moment else labels["known_at"].max()
        known = contracts.labels_as_of(labels, as_of)
        frauds = known.loc[known["is_fraud"] == 1, "transaction_id"]
        rows.append(
            {
                "name": name,
                "from": str(start) if start else None,
                "until": str(end) if end else None,
                "rows": len(ids),
                "frauds": int(ids.isin(frauds).sum()),
                "labels_as_of": as_of.isoformat(),
            }
        )
    return rows


def make_encoder(feature_names: Sequence[str], kind: str) -> Any:
    """Return an unfitted scikit-learn transformer for one float32 matrix of features.

    It addresses columns by position, so that the exported model has a single float input.

    Parameters
    ----------
    feature_names
        The columns of the matrix. Those that end in ``_code`` hold the codes of a category.
    kind
        ``"linear"``: numbers get the training median where missing and are standardized, codes become one
        column a level (an unseen one: all zeros). ``"imputed"``: only the median where a value is
        missing. ``"tree"``: the matrix passes as it is, missing values included.

    Raises
    ------
    LifecycleError
        If `kind` is none of these.

    Examples
    --------
    >>> encoder = make_encoder(["amount", "channel_code"], "linear")
    >>> matrix = np.array([[1, 0], [3, 1], [np.nan, -1]], dtype="float32")
    >>> encoder.fit_transform(matrix).shape
    (3, 4)
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    if kind == "tree":
        return FunctionTransformer()
    if kind == "imputed":
        return SimpleImputer(strategy="median", keep_empty_features=True)
    if kind != "linear":
        raise LifecycleError(f"There is no encoder of kind {kind!r}; use 'linear', 'imputed' or 'tree'.")
    codes = [i for i, name in enumerate(feature_names) if name.endswith("_code")]
    numbers = [i for i in range(len(feature_names)) if i not in codes]
    parts = [
        (
            "numbers",
            make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()),
            numbers,
        )
    ]
    if codes:
        parts.append(
            ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32), codes)
        )
    return ColumnTransformer(parts)


def _filled(values: pd.Series, filler: str) -> pd.Series:
    """Replace what is missing in a categorical column."""
    values = values.astype("category")
    if filler not in values.cat.categories:
        values = values.cat.add_categories([filler])
    return values.fillna(filler)
