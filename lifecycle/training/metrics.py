"""How well scores rank fraud: average precision, the area under the ROC curve, and precision at what a team can check.

Every function takes optional weights, so that a bootstrap can count a customer twice or not at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lifecycle import contracts


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


def card_precision(cards: pd.DataFrame, k: int) -> tuple[float, float]:
    """Return Card Precision@k and its ceiling, both averaged over the days.

    Every day an analyst team checks the `k` cards with the highest scores; the precision is the share of them
    that had a fraud that day. The ceiling is what perfect scores reach: on most days fewer than `k` cards have one.
    Without any card to check, both are 0.

    Parameters
    ----------
    cards
        What `card_days` returned.
    k
        Cards that can be checked in a day. On a day with fewer cards, all are checked.

    Examples
    --------
    >>> cards = pd.DataFrame({"day": [1, 1, 1], "score": [0.9, 0.5, 0.1], "is_fraud": [0, 1, 0]})
    >>> card_precision(cards, 2)
    (0.5, 0.5)
    """
    precision, ceiling = card_precision_by_day(cards, k)
    return (float(precision.mean()), float(ceiling.mean())) if len(precision) else (0.0, 0.0)


def card_precision_by_day(
    cards: pd.DataFrame, k: int, weight: np.ndarray | None = None
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
    frame: pd.DataFrame, score: ArrayLike, is_fraud: ArrayLike, reports: pd.DataFrame, k: int
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
