"""When to retrain: four policies over the whole production, compared in money; and challengers that a gate must refuse.

- ``never``: the champion stays.
- ``monthly``: a challenger by the calendar, every four weeks.
- ``triggered``: a challenger after a page about missed fraud.
- ``oracle``: a new model every week from labels that are known at once, and a choice of models that foresees the week.
  No bank can do that; it bounds what retraining could bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import economics
from lifecycle.monitoring.performance import DAY
from lifecycle.monitoring.retraining import (
    HELD_OUT,
    THRESHOLD_DAYS,
    Attempt,
    Fit,
    InUse,
    Known,
    Payments,
    Scores,
    held_out_customers,
    known_labels,
    money_gain,
    retrain,
)

WEEK = 7 * DAY
MONTH = 4 * WEEK


@dataclass(frozen=True)
class Past:
    """What a retraining may look back on.

    Attributes
    ----------
    payments
        The payments, with the champion's scores.
    labels
        The label history.
    length
        How long a model learns from.
    wrong
        Rows whose values were wrong until `corrected_at`, shape (rows,).
    corrected_at
        When they were corrected; None if there never were any.
    """

    payments: Payments
    labels: pd.DataFrame
    length: pd.Timedelta
    wrong: np.ndarray
    corrected_at: pd.Timestamp | None

    def still_wrong(self, moment: pd.Timestamp) -> np.ndarray | None:
        """Return which rows are known to be wrong and not corrected by a moment; None if there are none."""
        return None if self.corrected_at is None or self.corrected_at <= moment else self.wrong

    def retrain(self, moment: pd.Timestamp, in_use: InUse, fit: Fit, settings: Any) -> Attempt:
        """Retrain at a moment (`retraining.retrain`)."""
        wrong = self.still_wrong(moment)
        start = moment - self.length
        return retrain(self.payments, self.labels, moment, start, in_use, fit, settings, wrong)


NextMoment = Callable[[InUse, pd.Timestamp | None], pd.Timestamp | None]
"""Given what is in use and the moment of the last retraining (None: there was none), returns the next one, or None."""


def follow(
    past: Past, next_moment: NextMoment, champion: InUse, fit: Fit, settings: Any
) -> tuple[InUse, list[Attempt]]:
    """Retrain at moment after moment, and put into use what passes the gate against the model in use by then."""
    in_use, attempts, last = champion, [], None
    while (moment := next_moment(in_use, last)) is not None:
        attempt = past.retrain(moment, in_use, fit, settings)
        attempts.append(attempt)
        if attempt.model is not None:
            in_use = in_use.replaced(attempt, past.payments, moment)
        last = moment
    return in_use, attempts


def by_calendar(moments: Sequence[pd.Timestamp]) -> NextMoment:
    """Return the rule of fixed moments, whatever is in use.

    Examples
    --------
    >>> rule = by_calendar([pd.Timestamp("2025-12-01"), pd.Timestamp("2025-12-29")])
    >>> rule(None, None).day, rule(None, pd.Timestamp("2025-12-01")).day, rule(None, pd.Timestamp("2025-12-29"))
    (1, 29, None)
    """
    return lambda _, last: next((moment for moment in moments if last is None or moment > last), None)


def calendar(start: pd.Timestamp, until: pd.Timestamp, step: pd.Timedelta) -> list[pd.Timestamp]:
    """Return the moments every `step` after a start and before an end.

    Examples
    --------
    >>> [f"{m:%m-%d}" for m in calendar(pd.Timestamp("2025-11-03"), pd.Timestamp("2025-12-30"), MONTH)]
    ['12-01', '12-29']
    """
    return list(pd.date_range(start + step, until, freq=step, inclusive="left"))


def follow_oracle(past: Past, moments: Sequence[pd.Timestamp], champion: InUse, fit: Fit, settings: Any) -> InUse:
    """Retrain at each moment on labels that nobody could know yet, and foresee what the time to the next one costs.

    Of the champion, the model in use and the new one, the oracle uses the one that costs least until the next moment.
    """
    payments = past.payments
    truth = known_labels(payments.frame, past.labels, past.labels["known_at"].max())
    amount = payments.frame["amount"].to_numpy()
    score, threshold = champion.score.copy(), champion.threshold.copy()
    kept: tuple[Scores, float] | None = None
    for moment, until in zip(moments, [*moments[1:], payments.frame["event_time"].max() + DAY], strict=True):
        now = payments.between(moment, until)
        answers = [(champion.score[now], champion.threshold[now], None)]
        for model, limit in [_taught(past, truth, moment, champion, fit, settings)] + ([kept] if kept else []):
            answers.append((model.predict(payments.matrix[now]), np.full(now.sum(), limit), (model, limit)))
        costs = [
            economics.decision_costs(np.nan_to_num(truth[now]), amount[now], given >= limit, settings).sum()
            for given, limit, _ in answers
        ]
        score[now], threshold[now], kept = answers[int(np.argmin(costs))]
    return InUse(score, threshold)


def _taught(
    past: Past, truth: np.ndarray, moment: pd.Timestamp, champion: InUse, fit: Fit, settings: Any
) -> tuple[Scores, float]:
    """Return a model of two thirds of the customers, and its threshold from the others, by labels known at once."""
    rows = np.flatnonzero(past.payments.between(moment - past.length, moment))
    frame = past.payments.frame.iloc[rows]
    known = Known(rows, frame["event_time"], truth[rows], held_out_customers(frame, HELD_OUT, settings.seed))
    model = known.fit(past.payments, fit, ~known.held_out)
    recent = known.since(moment - THRESHOLD_DAYS * DAY) & known.held_out
    return model, known.threshold(past.payments, model, recent, champion.threshold, settings)


def flipped(fit: Fit, share: float, seed: int) -> Fit:
    """Return the recipe with a share of the labels it learns from turned into their opposite."""

    def poisoned(matrix: np.ndarray, is_fraud: np.ndarray) -> Scores:
        wrong = np.random.default_rng(seed).random(len(is_fraud)) < share
        return fit(matrix, np.where(wrong, 1 - is_fraud, is_fraud))

    return poisoned


def hidden(fit: Fit, column: int, codes: Sequence[float]) -> Fit:
    """Return the recipe with every fraud whose feature `column` has one of some values learned as honest."""

    def poisoned(matrix: np.ndarray, is_fraud: np.ndarray) -> Scores:
        return fit(matrix, np.where(np.isin(matrix[:, column], codes), 0, is_fraud))

    return poisoned


def compare_policies(
    frame: pd.DataFrame, is_fraud: np.ndarray, flagged: dict[str, np.ndarray], settings: Any
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Return what each policy costs and what it gains over ``never``, in all and by week.

    Parameters
    ----------
    frame
        event_time, customer_id, amount of the payments of production.
    is_fraud
        0 or 1, as the labels say in the end, shape (rows,).
    flagged
        The decisions of each policy, shape (rows,); one of them is ``never``.
    settings
        Knobs: seed and prices.

    Returns
    -------
    tuple
        For each policy cost_per_day, recall, precision and gain_money_per_day (value, low, high: a 90 % interval,
        drawn by customer); and one row a policy and week: week, payments, frauds, caught, alerts, cost, and
        cost_without (what letting everything through would have cost).
    """
    days = max(1, frame["event_time"].dt.floor("D").nunique())
    amount = frame["amount"].to_numpy(dtype=np.float64)
    start = frame["event_time"].min().floor("D")
    week = start + (frame["event_time"] - start) // WEEK * WEEK
    without = economics.decision_costs(is_fraud, amount, np.zeros(len(frame)), settings)
    made, parts = {}, []
    for name, flags in flagged.items():
        cost = economics.decision_costs(is_fraud, amount, flags, settings)
        caught = flags & (is_fraud > 0)
        made[name] = {
            "cost_per_day": float(cost.sum() / days),
            "recall": float(caught.sum() / max(is_fraud.sum(), 1)),
            "precision": float(caught.sum() / max(flags.sum(), 1)),
            "gain_money_per_day": money_gain(frame, is_fraud, flags, flagged["never"], settings),
        }
        columns = {"frauds": is_fraud, "caught": caught, "alerts": flags, "cost": cost, "cost_without": without}
        table = pd.DataFrame({**columns, "payments": 1}, index=week.index).groupby(week).sum()
        parts.append(table.rename_axis("week").reset_index().assign(policy=name))
    return made, pd.concat(parts, ignore_index=True)
