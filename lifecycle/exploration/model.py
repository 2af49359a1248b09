"""A quick model: how far do the columns get as they are, and how much does each tell by itself?

It is made to compare ways of splitting, not to be used. It sees the columns of the table, the hour, the
weekday, and how each customer and terminal did in the training rows: the memory that a model with ids
or with carelessly made features has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lifecycle.exploration.columns import as_numbers, is_text

MIN_CASES = 20
"""With fewer frauds or fewer honest payments than this, nothing can be measured."""

FIT_ROWS = 40_000
"""The model is fitted on all frauds and on at most this many honest payments: only the order of its scores counts."""

POWER_ROWS = 200_000
"""Prediction power is measured on all frauds and at most this many honest payments."""

MAX_COLUMNS = 60
"""A wider table is reduced to its most telling columns."""

ENTITIES = ("customer_id", "terminal_id")
_CONTRACT = ("transaction_id", "event_time", *ENTITIES, "is_fraud")
_SMOOTHING = 20.0
_BINS = 20
_LEVELS = 250


def usable_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that a model may see: all but ids, the time and the label."""
    return [c for c in frame if c not in _CONTRACT and not str(c).endswith("_id")]


def encode_columns(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the columns as float64: numbers as they are, categories as codes, instants as days from the payment.

    A category with more than 250 levels keeps the most frequent; the rest share a code. NaN is missing.
    """
    made: dict[str, Any] = {}
    for name in columns:
        values = frame[name]
        numbers = as_numbers(values)
        if numbers is not None:
            made[name] = np.where(np.isinf(numbers), np.nan, numbers)
        elif is_text(values):
            category = values.astype("category") if values.dtype != object else values.astype(str).astype("category")
            codes = category.cat.codes.to_numpy("int64")
            sizes = np.bincount(codes[codes >= 0], minlength=len(category.cat.categories))
            rank = np.empty(len(sizes), "float64")
            rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
            made[name] = np.where(values.isna(), np.nan, np.minimum(rank[codes], _LEVELS) if len(rank) else np.nan)
        else:
            made[name] = days_after(values, frame["event_time"])
    made["hour"] = frame["event_time"].dt.hour.to_numpy("float64")
    made["weekday"] = frame["event_time"].dt.dayofweek.to_numpy("float64")
    return pd.DataFrame(made, index=frame.index)


def days_after(values: pd.Series, event_time: pd.Series) -> np.ndarray:
    """Return how many days (float64) after the payment an instant of a column lies; without a zone it is in UTC."""
    instants = values.dt.tz_localize("UTC") if values.dt.tz is None else values
    return ((instants - event_time) / pd.Timedelta(days=1)).to_numpy("float64")


def prediction_power(joined: pd.DataFrame) -> dict[str, float | None]:
    """Return how well each column alone tells fraud from honest: 0 not at all, 1 perfectly (a leak suspect).

    The values of a column are cut into 20 bins (levels for a category, one bin for what is missing), each
    bin is scored with the fraud rate that the other four fifths of the rows have in it, and the power is
    ``2 AUC - 1`` of that score, at least 0.

    Parameters
    ----------
    joined
        Transactions with a column `is_fraud` (NaN: not known).

    Returns
    -------
    dict
        Column -> power, None for all if fewer than `MIN_CASES` of a class are known.
    """
    columns = usable_columns(joined)
    known = joined[joined["is_fraud"].notna()]
    fraud = known["is_fraud"].to_numpy() == 1
    if min(fraud.sum(), (~fraud).sum()) < MIN_CASES:
        return dict.fromkeys([*columns, "hour", "weekday"])
    limit = POWER_ROWS if len(columns) <= MAX_COLUMNS else POWER_ROWS // 8
    rows = _fewer_honest(fraud, limit)
    sample, target = known.iloc[rows], fraud[rows].astype("float64")
    fold = np.random.default_rng(0).permutation(len(rows)) % 5
    encoded = encode_columns(sample, columns)
    powers = {}
    for name in encoded:
        score = _score_bins(_bin(encoded[name].to_numpy()), target, fold)
        powers[name] = round(max(0.0, 2 * area(target, score) - 1), 6)
    return powers


def _bin(values: np.ndarray) -> np.ndarray:
    """Return the bin of each value: 0 for missing, then quantiles, or one for each value if there are few."""
    present = values[~np.isnan(values)]
    different = np.unique(present)
    few = len(different) <= _LEVELS + 1
    edges = different if few else np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)))
    return np.where(np.isnan(values), 0, np.searchsorted(edges, values, side="right"))


def _score_bins(bins: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
    score = np.zeros(len(bins))
    size = int(bins.max(initial=0)) + 1
    for number in range(5):
        rest, here = fold != number, fold == number
        prior = target[rest].mean() if rest.any() else 0.0
        count = np.bincount(bins[rest], minlength=size)
        frauds = np.bincount(bins[rest], target[rest], minlength=size)
        score[here] = ((frauds + _SMOOTHING * prior) / (count + _SMOOTHING) - prior)[bins[here]]
    return score


def area(target: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve: the chance that a fraud has a higher score than an honest payment.

    Examples
    --------
    >>> area(np.array([0, 0, 1]), np.array([0.1, 0.4, 0.3]))
    0.5
    """
    rank = pd.Series(score).rank().to_numpy()
    positive = target == 1
    n, m = positive.sum(), (~positive).sum()
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))


def _fewer_honest(fraud: np.ndarray, limit: int) -> np.ndarray:
    """Return the positions of all frauds and at most `limit` honest payments."""
    honest = np.flatnonzero(~fraud)
    rng = np.random.default_rng(0)
    kept = np.sort(rng.choice(honest, limit, replace=False)) if len(honest) > limit else honest
    return np.sort(np.concatenate([np.flatnonzero(fraud), kept]))


def split_rows(known: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return three ways to put a quarter of the labeled payments aside: True is the test side.

    ``random``: stratified by class. ``time``: the last quarter. ``entity``: a quarter of the customers, with
    all their payments.
    """
    rng = np.random.default_rng(0)
    fraud = known["is_fraud"].to_numpy() == 1
    random = np.zeros(len(known), bool)
    for part in (np.flatnonzero(fraud), np.flatnonzero(~fraud)):
        random[rng.permutation(part)[: round(len(part) / 4)]] = True
    moments = known["event_time"].to_numpy("datetime64[us]").astype("int64")
    customer = pd.factorize(known["customer_id"])[0]
    return {
        "random": random,
        "time": moments > np.quantile(moments, 0.75),
        "entity": (rng.permutation(customer.max(initial=0) + 1) % 4 == 0)[customer],
    }


def remember(known: pd.DataFrame, fraud: np.ndarray, test: np.ndarray) -> pd.DataFrame:
    """Return the fraud rate of each payment's customer and terminal in the training rows; NaN where it has none.

    A training row is told what the other three quarters of the training rows say. Its own label must not be in
    what it is told, and leaving out just this one label would give it away, too.
    """
    fold = np.where(test, 4, np.random.default_rng(0).integers(0, 4, len(known)))
    prior = fraud[~test].mean() if (~test).any() else 0.0
    made = {}
    for name in ENTITIES:
        code, levels = pd.factorize(known[name])
        cell = code * 5 + fold
        count = np.bincount(cell, minlength=5 * len(levels)).reshape(-1, 5)[:, :4]
        frauds = np.bincount(cell, fraud, minlength=5 * len(levels)).reshape(-1, 5)[:, :4]
        own = np.where(test, 0, fold)
        rest = count.sum(axis=1)[code] - np.where(test, 0, count[code, own])
        told = frauds.sum(axis=1)[code] - np.where(test, 0, frauds[code, own])
        made[f"{name}_rate"] = np.where(rest > 0, (told + _SMOOTHING * prior) / (rest + _SMOOTHING), np.nan)
    return pd.DataFrame(made, index=known.index)


def try_splits(joined: pd.DataFrame, powers: dict[str, float | None]) -> dict[str, Any] | None:
    """Fit the quick model once for each way of splitting, and return what it seems to reach.

    Returns
    -------
    dict or None
        For each split of `split_rows`: ``average_precision`` with its standard error ``error``, ``auc``,
        ``fraud_rate``, ``confusion`` (with as many alerts as there are frauds), ``payments`` and ``frauds`` (in the
        test side), ``seen`` (share of these frauds whose card has a fraud on the training side too),
        ``without_memory`` (average precision without the columns of `remember`), ``test`` (positions in the labeled
        payments) and ``scores``. None if there are too few of a class.
    """
    known = joined[joined["is_fraud"].notna()]
    fraud = known["is_fraud"].to_numpy() == 1
    if min(fraud.sum(), (~fraud).sum()) < MIN_CASES:
        return None
    columns = sorted(usable_columns(known), key=lambda name: -(powers.get(name) or 0))[:MAX_COLUMNS]
    encoded = encode_columns(known, columns)
    found = {}
    for name, test in split_rows(known).items():
        sides = [int(part.sum()) for part in (fraud & test, fraud & ~test, ~fraud & test, ~fraud & ~test)]
        if min(sides) < MIN_CASES // 4:
            continue
        plain = encoded.to_numpy("float32")
        table = np.column_stack([plain, remember(known, fraud, test).to_numpy("float32")])
        found[name] = _judge(table, fraud, test) | {
            "seen": _seen(known["customer_id"], fraud, test),
            "without_memory": _judge(plain, fraud, test)["average_precision"],
        }
    return found if "random" in found else None


def _seen(customer: pd.Series, fraud: np.ndarray, test: np.ndarray) -> float:
    """Return the share of the test side's frauds whose card has a fraud on the training side too."""
    return float(customer[fraud & test].isin(set(customer[fraud & ~test])).mean())


def _judge(table: np.ndarray, fraud: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import average_precision_score
    from threadpoolctl import threadpool_limits

    train = np.flatnonzero(~test)
    rows = train[_fewer_honest(fraud[train], FIT_ROWS)]
    model = HistGradientBoostingClassifier(
        max_iter=50,
        learning_rate=0.15,
        max_leaf_nodes=15,
        max_bins=127,
        min_samples_leaf=50,
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(1):  # on so few rows, threads cost more than they bring where others work too
        model.fit(table[rows], fraud[rows])
        score = model.predict_proba(table[test])[:, 1]
    truth = fraud[test]
    ap = float(average_precision_score(truth, score))
    alerts = np.zeros(len(score), bool)
    alerts[np.argsort(-score, kind="stable")[: truth.sum()]] = True
    return {
        "average_precision": ap,
        "error": float(np.sqrt(max(ap * (1 - ap), 1e-4) / truth.sum())),
        "auc": area(truth, score),
        "fraud_rate": float(truth.mean()),
        "payments": int(test.sum()),
        "frauds": int(truth.sum()),
        "confusion": {
            "caught": int((alerts & truth).sum()),
            "missed": int((~alerts & truth).sum()),
            "false_alarms": int((alerts & ~truth).sum()),
            "passed": int((~alerts & ~truth).sum()),
        },
        "test": np.flatnonzero(test),
        "scores": score,
    }
