"""Do scores mean what they say: frauds expected by the scores against frauds that occurred, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lifecycle.evaluation.fairness import RESAMPLES, GroupSums
from lifecycle.evaluation.uncertainty import draw_customers
from lifecycle.training.metrics import describe_interval


def calibration_table(is_fraud: Any, score: np.ndarray, groups: int = 10) -> list[dict[str, float]]:
    """Compare scores with what happened, in groups of payments that expect equally many frauds.

    Groups of equal size would put nearly all fraud into one; here each group holds the same sum of scores.

    Examples
    --------
    >>> calibration_table([0, 1], np.array([0.2, 0.8]), groups=1)
    [{'from': 0.2, 'until': 0.8, 'payments': 2, 'mean_score': 0.5, 'fraud_rate': 0.5}]
    """
    fraud = np.asarray(is_fraud, dtype=np.float64)
    group = _equal_sums(score, groups)
    rows = []
    for number in np.unique(group):
        inside = group == number
        rows.append({
            "from": round(float(score[inside].min()), 6), "until": round(float(score[inside].max()), 6),
            "payments": int(inside.sum()), "mean_score": round(float(score[inside].mean()), 6),
            "fraud_rate": round(float(fraud[inside].mean()), 6),
        })  # fmt: skip
    return rows


def _equal_sums(score: np.ndarray, groups: int) -> np.ndarray:
    """Return the number of each row's group, int64: by rising score, each group with about the same sum of scores."""
    order = np.argsort(score, kind="stable")
    share = np.cumsum(score[order]) / max(score.sum(), 1e-12)
    group = np.empty(len(score), dtype=np.int64)
    group[order] = np.minimum((share * groups).astype(np.int64), groups - 1)
    return group


def judge_calibration(frame: pd.DataFrame, score: np.ndarray, seed: int, groups: int = 10) -> dict[str, Any]:
    """Return the calibration table with an interval for each group's share of fraud, and the balance of all payments.

    Parameters
    ----------
    frame
        Payments with a known label: ``transaction_id``, ``customer_id`` and ``is_fraud`` (0 or 1).
    score
        Read as a probability of fraud, shape (n,).
    seed
        For the draws of customers.
    groups
        At most so many groups.

    Returns
    -------
    dict
        ``calibration``: the rows of `calibration_table` with ``low`` and ``high``. ``balance``: frauds expected by the
        scores / frauds that occurred, as value, low and high; 1 is right on average.
    """
    rows = calibration_table(frame["is_fraud"], score, groups)
    numbers = pd.Series(np.char.zfill(_equal_sums(score, groups).astype(str), 4))
    by_group, together = GroupSums(frame, score, numbers), GroupSums(frame, score, pd.Series(0, index=frame.index))
    draws = draw_customers(by_group.customers, seed, RESAMPLES)
    once, none = np.ones((1, by_group.customers)), np.zeros(len(frame))
    rates = by_group.rates(none, draws)["fraud_rate"]
    for place, row in enumerate(rows):
        found = describe_interval(row["fraud_rate"], rates[:, place])
        row |= {"low": found["low"], "high": found["high"]}
    value, many = (together.rates(none, times)["calibration"][:, 0] for times in (once, draws))
    return {"calibration": rows, "balance": describe_interval(float(value[0]), many)}
