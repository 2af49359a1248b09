"""How sure a metric is: bootstrap intervals that draw whole customers.

The payments of one customer are not independent: a stolen card brings several frauds at once. Drawing single
payments would make the intervals too narrow, so customers are drawn, with all that they paid.
Source: Field and Welsh, "Bootstrapping clustered data", JRSS B 69 (2007).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import economics
from lifecycle.training import side_by_side
from lifecycle.training.metrics import Ranking, card_days, card_ids, card_precision_by_day

RESAMPLES = 200

MOST_UNITS = 100_000
"""Customers that are drawn one by one; of more, several are drawn together, which keeps the interval and the memory."""


def draw_customers(customers: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return how often each customer is drawn, int64 of shape (resamples, customers).

    Examples
    --------
    >>> draw_customers(5, seed=0, resamples=3).sum(axis=1).tolist()
    [5, 5, 5]
    """
    return np.random.default_rng(seed).multinomial(customers, np.full(customers, 1 / customers), size=resamples)


def resample_metrics(
    frame: pd.DataFrame,
    scores: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float],
    reports: pd.DataFrame,
    settings: Any,
    resamples: int = RESAMPLES,
    share: float = 1.0,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, np.ndarray]]]:
    """Compute every metric of every model, once on the data and once on each resample.

    All models see the same resamples, so that differences between them can be compared pairwise.

    Parameters
    ----------
    frame
        Payments with a known label: ``event_time``, ``customer_id``, ``amount``, ``is_fraud`` (0 or 1).
    scores
        Model -> scores, shape (n,).
    thresholds
        Model -> the threshold at which it flags.
    reports
        Who reported fraud, and when (see `lifecycle.training.metrics.known_frauds`).
    settings
        With ``seed``, ``cards_per_day`` and the prices of `lifecycle.economics`.
    share
        The share of all payments that `frame` holds: so large a share of the cards that can be checked are checked.

    Returns
    -------
    values, resampled
        Model -> metric -> number, and model -> metric -> array of shape (resamples,).
    """
    codes, customers = pd.factorize(card_ids(frame))
    units = min(len(customers), MOST_UNITS)
    draws = draw_customers(units, settings.seed, resamples)

    def of_model(name: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        once = np.ones((1, units), dtype=np.int64)
        measure = _Measures(frame, scores[name], thresholds[name], reports, settings, codes, customers, units, share)
        return {key: float(value[0]) for key, value in measure(once).items()}, measure(draws)

    found = dict(zip(scores, side_by_side(of_model, [(name,) for name in scores]), strict=True))
    return {name: one for name, (one, _) in found.items()}, {name: many for name, (_, many) in found.items()}


class _Measures:
    """All metrics of one model, as functions of how often each customer, or each unit of customers, counts."""

    def __init__(self, frame, score, threshold, reports, settings, codes, customers, units, share) -> None:  # noqa
        fraud = frame["is_fraud"].to_numpy(dtype=np.int8)
        amount = frame["amount"].to_numpy()
        flagged = score >= threshold
        nothing = economics.decision_costs(fraud, amount, np.zeros(len(fraud)), settings)
        saved = nothing - economics.decision_costs(fraud, amount, flagged, settings)
        sums = {
            "hits": flagged * fraud,
            "alerts": flagged,
            "frauds": fraud,
            "saved": saved,
            "rows": np.ones(len(fraud)),
        }
        self._sums = {key: np.bincount(codes % units, values, units) for key, values in sums.items()}
        self._ranking, self._codes, self._k = Ranking(fraud, score), codes % units, settings.cards_per_day * share
        self._cards = card_days(frame, score, fraud, reports)
        self._card_codes = pd.Index(customers).get_indexer(self._cards["customer_id"]) % units

    def __call__(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        hits, alerts, frauds, saved, rows = (draws @ total for total in self._sums.values())
        ranked, cards = [], []
        for times in draws:
            weight = times[self._codes].astype(np.float64)
            ranked.append((self._ranking.average_precision(weight), self._ranking.area_under_roc(weight)))
            cards.append([
                values.mean() if len(values) else 0.0
                for values in card_precision_by_day(self._cards, self._k, times[self._card_codes].astype(np.float64))
            ])  # fmt: skip
        wrong = (alerts - hits) + (frauds - hits)
        return {
            "average_precision": np.array([one for one, _ in ranked]),
            "auc": np.array([one for _, one in ranked]),
            "card_precision": np.array([one for one, _ in cards]),
            "card_precision_ceiling": np.array([one for _, one in cards]),
            "accuracy": 1 - wrong / rows,
            "precision": _ratio(hits, alerts),
            "recall": _ratio(hits, frauds),
            "f1": _ratio(2 * hits, alerts + frauds),
            "alerts_per_1000": 1000 * alerts / rows,
            "savings": saved,
        }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
