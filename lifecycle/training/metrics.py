"""How good scores are: average precision, area under the ROC curve, precision at what a team can check, calibration.

Rankings take optional weights, so that a bootstrap can count a customer twice or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lifecycle import contracts

LEVEL = 0.95
"""How often an interval of this course should hold the true value."""


class Ranking:
    """Labels sorted by falling score, ready to be weighed again and again.

    Parameters
    ----------
    is_fraud
        0 or 1, shape (n,).
    score
        Higher means more suspect, shape (n,). Equal scores share their rank.
    """

    def __init__(self, is_fraud: ArrayLike, score: ArrayLike) -> None:
        score = np.asarray(score, dtype=np.float64)
        self.order = np.argsort(-score, kind="stable")
        self.fraud = np.asarray(is_fraud, dtype=np.float64)[self.order]
        ranked = score[self.order]
        self._last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.array([], int)

    def _counts(self, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if weight is None:
            true, all_ = np.cumsum(self.fraud), np.arange(1.0, len(self.fraud) + 1)
        else:
            ranked = weight[self.order]
            true, all_ = np.cumsum(ranked * self.fraud), np.cumsum(ranked)
        return true[self._last], all_[self._last]

    def average_precision(self, weight: np.ndarray | None = None) -> float:
        """Return the sum over thresholds of precision times the gain in recall; NaN without fraud."""
        true, flagged = self._counts(weight)
        if not len(true) or true[-1] == 0:
            return float("nan")
        precision = np.divide(true, flagged, out=np.zeros_like(true), where=flagged > 0)
        return float((np.diff(true, prepend=0) * precision).sum() / true[-1])

    def area_under_roc(self, weight: np.ndarray | None = None) -> float:
        """Return the chance that a fraud outranks an honest payment (ties count half); NaN without both."""
        true, flagged = self._counts(weight)
        if not len(true):
            return float("nan")
        false = flagged - true
        if true[-1] == 0 or false[-1] == 0:
            return float("nan")
        steps = np.diff(false, prepend=0)
        heights = (true + np.concatenate([[0.0], true[:-1]])) / 2
        return float((steps * heights).sum() / (true[-1] * false[-1]))


def average_precision(is_fraud: ArrayLike, score: ArrayLike) -> float:
    """Return the average precision: the area under the precision-recall curve, as scikit-learn defines it.

    Examples
    --------
    >>> average_precision([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8])
    0.8333333333333333
    """
    return Ranking(is_fraud, score).average_precision()


def area_under_roc(is_fraud: ArrayLike, score: ArrayLike) -> float:
    """Return the area under the ROC curve.

    Examples
    --------
    >>> area_under_roc([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8])
    0.75
    """
    return Ranking(is_fraud, score).area_under_roc()


def card_ids(frame: pd.DataFrame) -> pd.Series:
    """Return what stands for a card: the customer or, in a table without customers, the payment itself.

    Examples
    --------
    >>> card_ids(pd.DataFrame({"transaction_id": [1, 2], "customer_id": ["", ""]})).tolist()
    [1, 2]
    """
    none = "customer_id" in contracts.absent_entities(frame[["customer_id"]])
    return frame["transaction_id"] if none else frame["customer_id"]


def known_frauds(labels: pd.DataFrame, transactions: pd.DataFrame) -> pd.DataFrame:
    """Return who reported fraud, and when: one row (``customer_id``, ``known_at``) a label that says fraud."""
    reports = labels.loc[labels["is_fraud"] == 1, ["transaction_id", "known_at"]]
    owners = transactions[["transaction_id"]].assign(customer_id=card_ids(transactions))
    return reports.merge(owners, on="transaction_id")[["customer_id", "known_at"]]


def card_days(
    frame: pd.DataFrame, score: ArrayLike, is_fraud: ArrayLike, reports: pd.DataFrame, exclude_days: int = 14
) -> pd.DataFrame:
    """Return one row a card and day: its highest score and whether it had a fraud that day.

    Parameters
    ----------
    frame
        Payments with ``transaction_id``, ``event_time`` and ``customer_id``. A customer stands for a card (`card_ids`).
    score, is_fraud
        One value a payment.
    reports
        What `known_frauds` returned.
    exclude_days
        A card with a report known in so many days before the day is left out: the bank has already acted on it.
        The idea is that of the "Reproducible Machine Learning for Credit Card Fraud Detection" handbook.

    Returns
    -------
    pandas.DataFrame
        ``day``, ``customer_id``, ``score``, ``is_fraud`` (int8), sorted by day and falling score.
    """
    payments = pd.DataFrame({
        "day": frame["event_time"].dt.tz_localize(None).dt.floor("D").to_numpy(),
        "customer_id": card_ids(frame).to_numpy(),
        "score": np.asarray(score, dtype=np.float64),
        "is_fraud": np.asarray(is_fraud, dtype=np.int8),
    })  # fmt: skip
    cards = (
        payments.groupby(["day", "customer_id"], sort=False, observed=True)[["score", "is_fraud"]].max().reset_index()
    )
    # A report known on day d excludes the card on the days d+1 ... d+exclude_days.
    known = pd.DataFrame({
        "customer_id": reports["customer_id"].to_numpy(),
        "known_day": reports["known_at"].dt.tz_localize(None).dt.floor("D").to_numpy(),
    }).drop_duplicates()  # fmt: skip
    pairs = cards[["day", "customer_id"]].reset_index().merge(known, on="customer_id")
    age = (pairs["day"] - pairs["known_day"]).dt.days
    gone = pairs.loc[(age >= 1) & (age <= exclude_days), "index"].unique()
    cards = cards.drop(index=gone)
    return cards.sort_values(["day", "score"], ascending=[True, False], kind="stable").reset_index(drop=True)


def card_precision(cards: pd.DataFrame, k: float) -> tuple[float, float]:
    """Return Card Precision@k and its ceiling, both averaged over the days.

    Every day an analyst team checks the `k` cards with the highest scores; the precision is the share of them
    that had a fraud that day. The ceiling is what perfect scores reach: on most days fewer than `k` cards have one.
    Without any card to check, both are 0.

    Parameters
    ----------
    cards
        What `card_days` returned.
    k
        Cards that can be checked in a day. On a day with fewer cards, all are checked. Of a number that is not whole,
        the last card counts in part.

    Examples
    --------
    >>> cards = pd.DataFrame({"day": [1, 1, 1], "score": [0.9, 0.5, 0.1], "is_fraud": [0, 1, 0]})
    >>> card_precision(cards, 2)
    (0.5, 0.5)
    """
    precision, ceiling = card_precision_by_day(cards, k)
    return (float(precision.mean()), float(ceiling.mean())) if len(precision) else (0.0, 0.0)


def card_precision_by_day(
    cards: pd.DataFrame, k: float, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the precision at k and its ceiling for each day, arrays of shape (days,).

    With `weight` (one number a row of `cards`), a card counts so many times, and the last one that fits is cut.
    """
    weight = np.ones(len(cards)) if weight is None else weight
    day = pd.factorize(cards["day"])[0]
    fraud = cards["is_fraud"].to_numpy(dtype=np.float64)
    cumulative = np.cumsum(weight)
    first = np.flatnonzero(np.diff(day, prepend=-1))
    before = np.concatenate([[0.0], cumulative])[first][day]  # the weight of all earlier days
    taken = np.clip(k - (cumulative - weight - before), 0, weight)
    days = len(first)
    checked = np.bincount(day, taken, days)
    found = np.bincount(day, taken * fraud, days)
    there = np.minimum(np.bincount(day, weight * fraud, days), checked)
    checked = np.maximum(checked, 1e-12)
    return found / checked, there / checked


def ranking_metrics(
    frame: pd.DataFrame, score: ArrayLike, is_fraud: ArrayLike, reports: pd.DataFrame, k: float
) -> dict[str, Any]:
    """Return the metrics of the ladder for one set of scores.

    Returns
    -------
    dict
        ``average_precision``, ``auc``, ``card_precision``, ``card_precision_ceiling`` (float).
    """
    ranking = Ranking(is_fraud, score)
    precision, ceiling = card_precision(card_days(frame, score, is_fraud, reports), k)
    return {
        "average_precision": ranking.average_precision(),
        "auc": ranking.area_under_roc(),
        "card_precision": precision,
        "card_precision_ceiling": ceiling,
    }


def paired_interval(differences: ArrayLike, level: float = LEVEL) -> dict[str, float | None]:
    """Return the mean of paired differences with its t interval: ``value``, ``low``, ``high``.

    Two models judged on the same weeks share what made a week easy or hard; their difference does not. With one
    difference there is no interval, and `low` and `high` are None. Folds that share part of their training rows are
    not quite independent, so the interval is somewhat too narrow (Nadeau and Bengio, "Inference for the
    generalization error", Machine Learning 52, 2003).

    Parameters
    ----------
    differences
        One number a fold, shape (folds,).
    level
        Coverage, between 0 and 1.

    Examples
    --------
    >>> paired_interval([0.1, 0.2, 0.3])
    {'value': 0.2, 'low': -0.048414, 'high': 0.448414}
    """
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"value": round(mean, 6), "low": None, "high": None}
    half = float(t.ppf((1 + level) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return {"value": round(mean, 6), "low": round(mean - half, 6), "high": round(mean + half, 6)}


def describe_interval(value: float, resampled: np.ndarray) -> dict[str, float | None]:
    """Return a value with its 95 % percentile interval: ``value``, ``low``, ``high``. NaN becomes None.

    Examples
    --------
    >>> describe_interval(0.5, np.array([0.4, 0.5, 0.6]))
    {'value': 0.5, 'low': 0.405, 'high': 0.595}
    """
    finite = resampled[np.isfinite(resampled)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(finite, [tail, 1 - tail]) if len(finite) else (np.nan, np.nan)
    numbers = {"value": value, "low": float(low), "high": float(high)}
    return {key: round(number, 6) if np.isfinite(number) else None for key, number in numbers.items()}


def ladder_steps(models: Mapping[str, Mapping[str, Any]], key: str = "average_precision") -> list[dict[str, Any]]:
    """Return what each rung adds to the best rung below it.

    Parameters
    ----------
    models
        Rung -> metrics, from the lowest up; ``models[name][key]`` has one number a fold.
    key
        The metric.

    Returns
    -------
    list of dict
        One a rung but the lowest: ``rung``, ``over`` (the best rung below), ``by_fold`` (differences on the same
        weeks), and `paired_interval` of them.

    Examples
    --------
    >>> models = {"a": {"auc": [0.5, 0.7]}, "b": {"auc": [0.4, 0.5]}, "c": {"auc": [0.6, 0.8]}}
    >>> [(step["rung"], step["over"], step["value"]) for step in ladder_steps(models, "auc")]
    [('b', 'a', -0.15), ('c', 'a', 0.1)]
    """
    names = list(models)
    steps = []
    for place, name in enumerate(names[1:], start=1):
        below = max(names[:place], key=lambda other: float(np.mean(models[other][key])))
        by_fold = np.subtract(models[name][key], models[below][key])
        steps.append({
            "rung": name, "over": below, "by_fold": by_fold.round(6).tolist(), **paired_interval(by_fold),
        })  # fmt: skip
    return steps


def calibration_metrics(is_fraud: ArrayLike, score: ArrayLike, groups: int = 10) -> dict[str, float]:
    """Return how well scores agree with frequencies.

    Parameters
    ----------
    is_fraud
        0 or 1, shape (n,).
    score
        Probabilities, shape (n,).
    groups
        Groups of equally many payments, by rising score, for the expected calibration error.

    Returns
    -------
    dict
        ``expected_to_actual``: expected number of frauds divided by the actual one (1 is right; NaN without fraud);
        ``calibration_error``: mean distance between expected and actual share over the groups (Naeini, Cooper and
        Hauskrecht, AAAI 2015); ``brier``: mean squared error (Brier, Monthly Weather Review 78, 1950).

    Examples
    --------
    >>> calibration_metrics([0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5], groups=1)
    {'expected_to_actual': 2.0, 'calibration_error': 0.25, 'brier': 0.25}
    """
    fraud, score = np.asarray(is_fraud, dtype=np.float64), np.asarray(score, dtype=np.float64)
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, groups) if len(part)]
    gaps = [abs(score[part].mean() - fraud[part].mean()) * len(part) for part in parts]
    return {
        "expected_to_actual": float(score.sum() / fraud.sum()) if fraud.any() else float("nan"),
        "calibration_error": float(np.sum(gaps) / len(fraud)),
        "brier": float(np.mean((score - fraud) ** 2)),
    }
