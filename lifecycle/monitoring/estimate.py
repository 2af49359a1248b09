"""Performance estimated before any label is known, from calibrated scores.

Confidence-based performance estimation (CBPE), the method of the NannyML library: if a score says that a payment is
fraud with probability p, then p of it counts as fraud and 1 - p as honest, and the confusion matrix of the decisions
follows before the first chargeback. It holds as long as the scores mean what they meant when they were calibrated:
a change in what comes in is seen, a change in what it means (concept drift) is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError
from lifecycle.monitoring.performance import DAY
from lifecycle.training.metrics import average_precision

ESTIMATED = ("precision", "recall", "average_precision")


class Calibrator:
    """Turns scores into probabilities of fraud: an isotonic regression on payments whose labels are known.

    Parameters
    ----------
    is_fraud
        0 or 1, shape (n,).
    score
        Scores, shape (n,).

    Raises
    ------
    LifecycleError
        If there is no fraud among the payments, or nothing else.

    Examples
    --------
    >>> Calibrator(np.array([0, 0, 1, 1, 0, 1]), np.array([0.1, 0.1, 0.1, 0.7, 0.7, 0.9])).predict([0.1, 0.95]).round(2)
    array([0.33, 1.  ])
    """

    def __init__(self, is_fraud: np.ndarray, score: np.ndarray) -> None:
        from sklearn.isotonic import IsotonicRegression

        if not 0 < np.sum(is_fraud) < len(is_fraud):
            raise LifecycleError(
                f"{int(np.sum(is_fraud))} frauds in {len(is_fraud)} labeled payments cannot calibrate a score; "
                "give payments of both kinds."
            )
        self._model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score, is_fraud)

    def predict(self, score: np.ndarray) -> np.ndarray:
        """Return the probability of fraud for each score, float64."""
        return self._model.predict(np.asarray(score, dtype=np.float64))


def estimate(probability: np.ndarray, score: np.ndarray, flagged: np.ndarray) -> dict[str, float]:
    """Return the performance to expect of decisions whose labels nobody knows yet.

    Parameters
    ----------
    probability
        Calibrated probability of fraud (`Calibrator.predict`), shape (n,).
    score, flagged
        Scores and decisions, shape (n,).

    Returns
    -------
    dict
        frauds (expected), precision, recall, average_precision: each the value of its formula with the probability
        in the place of the label; NaN where it is not defined.

    Examples
    --------
    >>> made = estimate(np.array([0.9, 0.5, 0.1]), np.array([0.9, 0.5, 0.1]), np.array([True, True, False]))
    >>> round(made["precision"], 3), round(made["recall"], 3)
    (0.7, 0.933)
    """
    flagged = np.asarray(flagged, dtype=bool)
    frauds, caught, alerts = probability.sum(), probability[flagged].sum(), flagged.sum()
    return {
        "frauds": float(frauds),
        "precision": float(caught / alerts) if alerts else float("nan"),
        "recall": float(caught / frauds) if frauds > 0 else float("nan"),
        "average_precision": average_precision(probability, score),
    }


def by_week(scored: pd.DataFrame, is_fraud: np.ndarray, calibrator: Calibrator, start: pd.Timestamp) -> pd.DataFrame:
    """Return estimated and realized performance of each week of payments, and how well the scores are calibrated.

    Parameters
    ----------
    scored
        Payments with event_time, score, flagged.
    is_fraud
        The labels as they came in afterwards, shape (n,); NaN where nobody knows: the payment is left out of what is
        realized and of nothing else.
    calibrator
        Fitted on labels known before `start`.
    start
        The midnight that begins the first week.

    Returns
    -------
    DataFrame
        One row a week: week, payments, frauds_estimated, frauds_realized, and ``<metric>_estimated`` and
        ``<metric>_realized`` of precision, recall and average_precision.
    """
    probability = calibrator.predict(scored["score"].to_numpy())
    week = (scored["event_time"] - start) // (7 * DAY)
    rows = []
    for number in sorted(week[week >= 0].unique()):
        inside = (week == number).to_numpy()
        known = inside & ~np.isnan(is_fraud)
        score, flagged = scored["score"].to_numpy(), scored["flagged"].to_numpy(dtype=bool)
        expected = estimate(probability[inside], score[inside], flagged[inside])
        found = estimate(is_fraud[known], score[known], flagged[known])
        row: dict[str, Any] = {"week": start + number * 7 * DAY, "payments": int(inside.sum())}
        for name in ("frauds", *ESTIMATED):
            row[f"{name}_estimated"], row[f"{name}_realized"] = expected[name], found[name]
        rows.append(row)
    return pd.DataFrame(rows)
