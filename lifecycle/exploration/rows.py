"""Look at whole rows and at pairs of columns: duplicates, odd rows, columns that say the same, jumps in time.

The odd rows are those of an isolation forest (Liu, Ting and Zhou, "Isolation forest", ICDM 2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lifecycle.exploration.columns import as_numbers, is_text, robust_z

FOREST_ROWS = 20_000
"""The isolation forest and the correlations look at no more rows than this, evenly spread over the table."""

ODD_SCORE = 0.7
"""An isolation score above this (of at most 1) is an anomaly; ordinary rows stay below 0.6."""

SAME = 0.95
"""Columns with a rank correlation at least this strong say the same."""

_MAX_COLUMNS = 200
_IDENTITY = ("event_time", "customer_id", "terminal_id", "amount")


def count_duplicates(transactions: pd.DataFrame) -> dict[str, Any]:
    """Return the rows that repeat another payment in all but its id."""
    rows = int(transactions.duplicated(list(_IDENTITY)).sum())
    return {"rows": rows, "share": rows / len(transactions)}


def spread_rows(frame: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return at most `limit` rows, evenly spread over the table: the same ones each time."""
    if len(frame) <= limit:
        return frame
    return frame.iloc[np.linspace(0, len(frame) - 1, limit).astype("int64")]


def correlate(joined: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the rank correlations (Spearman) of amount, hour, weekday and the known label.

    The values lie between -1 and 1. A column without variation has no correlation and is left out.
    """
    known = joined[joined["is_fraud"].notna()]
    time = known["event_time"].dt
    numbers = pd.DataFrame(
        {"amount": known["amount"], "hour": time.hour, "weekday": time.dayofweek, "is_fraud": known["is_fraud"]}
    )
    numbers = numbers.loc[:, numbers.nunique() > 1]
    if numbers.shape[1] < 2:
        return {}
    matrix = np.corrcoef(numbers.rank().to_numpy(), rowvar=False)
    return pd.DataFrame(matrix, numbers.columns, numbers.columns).round(6).to_dict()


def find_same_columns(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the pairs of numeric columns that rank the rows alike, the strongest first.

    Returns
    -------
    list of dict
        ``columns`` (two names) and ``correlation`` (Spearman, absolute value at least `SAME`).
    """
    sample = spread_rows(frame, FOREST_ROWS)
    ranks = _numeric(sample).rank()
    ranks = ranks.fillna(ranks.mean())
    ranks = ranks.loc[:, ranks.nunique() > 1]
    if ranks.shape[1] < 2 or len(ranks) < 10:
        return []
    matrix = np.corrcoef(ranks.to_numpy(), rowvar=False)
    pairs = [(i, j) for i, j in np.argwhere(np.triu(np.abs(matrix) >= SAME, 1)).tolist()]
    found = [
        {"columns": [str(ranks.columns[i]), str(ranks.columns[j])], "correlation": round(float(matrix[i, j]), 4)}
        for i, j in pairs
    ]
    return sorted(found, key=lambda pair: -abs(pair["correlation"]))


def inflate_variance(frame: pd.DataFrame) -> dict[str, float]:
    """Return the variance inflation factor of each numeric column: how well the others together say the same.

    1 is alone in what it says; above 10 a linear model cannot tell the column from the others. Ranks are
    used, since amounts are skewed. At least ten rows a column are needed; otherwise {} is returned.
    """
    ranks = _numeric(spread_rows(frame, FOREST_ROWS)).rank()
    ranks = ranks.fillna(ranks.mean())
    ranks = ranks.loc[:, ranks.nunique() > 1]
    if ranks.shape[1] < 2 or len(ranks) < 10 * ranks.shape[1]:
        return {}
    matrix = np.corrcoef(ranks.to_numpy(), rowvar=False)
    factors = np.diag(np.linalg.pinv(matrix + 1e-9 * np.eye(len(matrix)), hermitian=True))
    return {str(name): round(float(max(f, 1.0)), 2) for name, f in zip(ranks.columns, factors, strict=True)}


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the numeric columns that are no ids, infinite values as missing; at most 200 columns."""
    made = {}
    for name in frame:
        if str(name).endswith("_id") or name == "is_fraud":
            continue
        numbers = as_numbers(frame[name])
        if numbers is not None and len(made) < _MAX_COLUMNS:
            made[name] = np.where(np.isinf(numbers), np.nan, numbers)
    return pd.DataFrame(made, index=frame.index)


def find_odd_rows(joined: pd.DataFrame) -> dict[str, Any]:
    """Return how odd the rows are by an isolation forest, and how many frauds are among the oddest.

    Numbers enter as signed logarithms of their robust z-score, categories as how rare their level is.

    Returns
    -------
    dict
        ``rows`` (looked at), ``odd_share`` (score above `ODD_SCORE`), ``largest_score``, ``oddest`` (ids of five
        payments), ``fraud_share_in_oddest`` (share of the known frauds among the oddest 1 % of rows).
    """
    from sklearn.ensemble import IsolationForest

    sample = spread_rows(joined, FOREST_ROWS)
    matrix = _oddness(sample)
    if len(sample) < 50:
        return {"rows": 0}
    forest = IsolationForest(n_estimators=60, max_samples=256, random_state=0).fit(matrix)
    score = -forest.score_samples(matrix)
    order = np.argsort(-score, kind="stable")
    fraud = (sample["is_fraud"] == 1).to_numpy()
    top = order[: max(len(order) // 100, 1)]
    return {
        "rows": len(sample),
        "odd_share": float((score > ODD_SCORE).mean()),
        "largest_score": float(score.max()),
        "oddest": sample["transaction_id"].iloc[order[:5]].astype(str).tolist(),
        "fraud_share_in_oddest": float(fraud[top].sum() / fraud.sum()) if fraud.any() else None,
    }


def _oddness(sample: pd.DataFrame) -> np.ndarray:
    columns = []
    numbers = _numeric(sample)
    for name in numbers:
        z = robust_z(numbers[name])
        columns.append(np.nan_to_num(np.sign(z) * np.log1p(np.abs(z))))
    for name in sample:
        if is_text(sample[name]) and not str(name).endswith("_id") and sample[name].nunique() <= 250:
            share = sample[name].value_counts(normalize=True)
            columns.append(-np.log(sample[name].map(share).astype("float64").fillna(1.0).clip(lower=1e-6).to_numpy()))
    columns.append(sample["event_time"].dt.hour.to_numpy("float64") / 24)
    return np.column_stack(columns)


def find_jumps(transactions: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the days on which a column suddenly is another: its level jumps, or it falls silent.

    Compared is the median of each number (for the amount within each channel, if there are channels) and
    the share of missing values of each column, per day. A level jumps if the median of a day is three times
    as large or as small as usual and far outside the spread of the days.

    Returns
    -------
    list of dict
        ``column``, ``within`` (a channel, or None), ``days`` (ISO dates), ``factor`` (of the first day) or None
        for a gap.
    """
    day = transactions["event_time"].dt.floor("D")
    found = []
    groups = [(None, slice(None))]
    if "channel" in transactions and transactions["channel"].nunique() <= 10:
        groups += [
            (str(c), (transactions["channel"] == c).to_numpy()) for c in transactions["channel"].dropna().unique()
        ]
    for name in [c for c in transactions if not str(c).endswith("_id") and c != "event_time"]:
        gaps = transactions[name].isna().groupby(day).agg(["mean", "size"])
        silent = gaps[(gaps["size"] >= 20) & (gaps["mean"] > 0.9)]
        if 0 < len(silent) < 0.8 * len(gaps) and gaps["mean"].median() < 0.1:
            found.append({"column": name, "within": None, "days": _dates(silent.index), "factor": None})
        numbers = as_numbers(transactions[name])
        if numbers is None:
            continue
        for within, rows in groups if name == "amount" else groups[:1]:
            jump = _jump(pd.Series(numbers, transactions.index)[rows], day[rows])
            if jump is not None:
                found.append({"column": name, "within": within, **jump})
    return found


def _jump(numbers: pd.Series, day: pd.Series) -> dict[str, Any] | None:
    table = numbers.groupby(day).agg(["median", "count"])
    table = table[(table["count"] >= 20) & (table["median"] > 0)]
    if len(table) < 8:
        return None
    factor = table["median"] / table["median"].median()
    logs = np.log(factor)
    spread = max(float(np.median(np.abs(logs - logs.median()))), 0.02)
    far = (logs.abs() > np.log(3)) & (logs.abs() > 10 * spread)
    if not far.any() or far.mean() > 0.5:
        return None
    return {"days": _dates(table.index[far]), "factor": round(float(factor[far].iloc[0]), 3)}


def _dates(index: pd.Index) -> list[str]:
    return [f"{day:%Y-%m-%d}" for day in index]
