"""How well the model does, as far as anybody knows: realized precision, recall and average precision over time.

A label arrives days or weeks after its payment. So each figure belongs to two times: the day of the
payments and the moment of knowledge.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lifecycle.contracts import labels_as_of
from lifecycle.errors import LifecycleError
from lifecycle.training.metrics import average_precision

DAY = pd.Timedelta(days=1)


def measure(is_fraud: np.ndarray, score: np.ndarray, flagged: np.ndarray) -> dict[str, float]:
    """Return precision, recall and average precision of decisions; NaN where one is not defined.

    Parameters
    ----------
    is_fraud, flagged
        0 or 1, shape (n,).
    score
        Scores, shape (n,).

    Returns
    -------
    dict
        payments, frauds, alerts, caught, precision, recall, average_precision.

    Examples
    --------
    >>> made = measure(np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.8, 0.1]), np.array([1, 0, 1, 0]))
    >>> made["precision"], made["recall"]
    (0.5, 0.5)
    """
    is_fraud = np.asarray(is_fraud, dtype=bool)
    flagged = np.asarray(flagged, dtype=bool)
    frauds, alerts, caught = int(is_fraud.sum()), int(flagged.sum()), int((is_fraud & flagged).sum())
    return {
        "payments": len(is_fraud),
        "frauds": frauds,
        "alerts": alerts,
        "caught": caught,
        "precision": caught / alerts if alerts else float("nan"),
        "recall": caught / frauds if frauds else float("nan"),
        "average_precision": average_precision(is_fraud, score),
    }


def performance_by_day(
    scored: pd.DataFrame, labels: pd.DataFrame, after_days: float | None, until: pd.Timestamp | None = None
) -> pd.DataFrame:
    """Return the realized performance of each day's payments, as it was known some time after the day.

    Parameters
    ----------
    scored
        One row a payment: transaction_id, event_time, score, flagged.
    labels
        The label history: transaction_id, is_fraud, known_at.
    after_days
        Days between the end of the payments' day and the moment of knowledge; None means "all that is in
        the history". A payment without any label by then counts as honest so far: the usual view of an
        investigator, which makes early precision too low; recall is among what was reported.
    until
        The last moment of knowledge: a day whose moment comes later is left out.

    Returns
    -------
    DataFrame
        One row a day: day, known_share (payments with a label), and the figures of `measure`.
    """
    _need(scored, ("transaction_id", "event_time", "score", "flagged"))
    frame = scored[["transaction_id", "event_time", "score", "flagged"]]
    frame = frame.assign(day=frame["event_time"].dt.floor("D"))
    history = labels.merge(frame[["transaction_id", "day"]], on="transaction_id")
    by_day = dict(list(history.groupby("day")))
    rows = []
    for day, chunk in frame.groupby("day"):
        moment = None if after_days is None else day + DAY + pd.Timedelta(days=after_days)
        if until is not None and moment is not None and moment > until:
            continue
        known = by_day.get(day, history.iloc[:0])
        known = labels_as_of(known, known["known_at"].max() if moment is None else moment)
        fraud = known.set_index("transaction_id")["is_fraud"].reindex(chunk["transaction_id"])
        figures = measure(fraud.fillna(0).to_numpy() > 0, chunk["score"].to_numpy(), chunk["flagged"].to_numpy())
        rows.append({"day": day, "known_share": float(fraud.notna().mean()), **figures})
    return pd.DataFrame(rows)


def reports_by_arrival(scored: pd.DataFrame, labels: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Count the fraud reports that arrived on each day, and those of payments the model had let through.

    Parameters
    ----------
    scored
        One row a payment: transaction_id, flagged, and the column `by`.
    labels
        The label history.
    by
        A column to count apart, such as ``merchant_category``.

    Returns
    -------
    DataFrame
        day (of arrival), [by], reports, missed. Only days and groups with a report appear.
    """
    _need(scored, ("transaction_id", "flagged", *([by] if by else [])))
    reports = labels[labels["is_fraud"] == 1].merge(
        scored[["transaction_id", "flagged", *([by] if by else [])]], on="transaction_id"
    )
    keys = ["day", *([by] if by else [])]
    reports = reports.assign(day=reports["known_at"].dt.floor("D"), missed=~reports["flagged"].astype(bool))
    if by:
        reports[by] = reports[by].astype(str)
    counted = reports.groupby(keys).agg(reports=("missed", "size"), missed=("missed", "sum"))
    return counted.reset_index()


def _need(frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise LifecycleError(f"The scored payments lack the column {absent[0]!r}; they need {', '.join(columns)}.")
