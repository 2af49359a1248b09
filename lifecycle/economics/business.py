"""Business metrics of a set of decisions: cost, savings, return, break-even, analysts, and the patience of customers.

Prices come from `lifecycle.settings.Settings`. Nothing is resampled here: a function that takes `draws` (how often
each customer counts, as `lifecycle.evaluation.uncertainty.draw_customers` returns it) gives one number a draw, and
these make an interval clustered by customer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lifecycle.economics import _columns, decision_costs
from lifecycle.errors import LifecycleError

DAYS_IN_MONTH = 365.25 / 12


def expected_gain(score: ArrayLike, amount: ArrayLike, settings: Any) -> np.ndarray:
    """Return what a flag is expected to save on each payment, if the score is the probability of fraud.

    Flagging where this is above zero is the decision of least expected cost: Elkan, "The foundations of
    cost-sensitive learning", IJCAI 2001.

    Parameters
    ----------
    score, amount
        Shape (n,). Amounts are in account currency.
    settings
        With ``chargeback_fee``, ``review_cost`` and ``friction_cost``.

    Returns
    -------
    numpy.ndarray
        float64, shape (n,), in account currency.

    Raises
    ------
    LifecycleError
        If the shapes differ or a value is missing.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> expected_gain([0.5, 0.5], [10, 500], Settings()).tolist()
    [9.0, 254.0]
    """
    score, amount = _columns(score=score, amount=amount)
    at_stake = amount + settings.chargeback_fee + settings.friction_cost
    return score * at_stake - settings.review_cost - settings.friction_cost


def f1_threshold(is_fraud: ArrayLike, score: ArrayLike) -> tuple[float, float]:
    """Return the score at which flagging gives the best F1, and that F1. Of equal ones, the highest threshold.

    Parameters
    ----------
    is_fraud, score
        0 or 1 (or bool), and scores; both of shape (n,).

    Raises
    ------
    LifecycleError
        If there is no fraud, the shapes differ or a value is missing.

    Examples
    --------
    >>> f1_threshold([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8])
    (0.4, 0.8)
    """
    ranked, hits, alerts, frauds = _steps(is_fraud, score)
    f1 = 2 * hits / (alerts + frauds)
    best = int(np.argmax(f1))
    return float(ranked[best]), float(f1[best])


def recall_threshold(is_fraud: ArrayLike, score: ArrayLike, recall: float) -> float:
    """Return the highest score at which flagging finds at least a share `recall` of the frauds.

    Examples
    --------
    >>> recall_threshold([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8], 0.5)
    0.8
    """
    if not 0 < recall <= 1:
        raise LifecycleError(f"The recall to reach is {recall}; give a share above 0 and at most 1.")
    ranked, hits, _, frauds = _steps(is_fraud, score)
    return float(ranked[int(np.argmax(hits >= recall * frauds - 1e-9))])


def _steps(is_fraud: ArrayLike, score: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return falling scores, each once, with hits and alerts when flagging from there; and the number of frauds."""
    fraud, score = _columns(is_fraud=is_fraud, score=score)
    if fraud.sum() == 0:
        raise LifecycleError(f"There is no fraud in these {len(fraud):,} payments: no threshold can be chosen by it.")
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return ranked[last], np.cumsum(fraud[order])[last], last + 1.0, float(fraud.sum())


def within_capacity(day: ArrayLike, priority: ArrayLike, flagged: ArrayLike, most: int) -> np.ndarray:
    """Keep at most `most` alerts a day: those with the highest priority. The rest is let through.

    The alerts of a day are ranked together, as if the team looked at them in the evening. A team that works
    through the day does a little worse.

    Parameters
    ----------
    day
        The day of each payment, shape (n,), any type that can be compared.
    priority
        Whom to check first: a score, or the `expected_gain`. Shape (n,).
    flagged
        Whether the payment is an alert at all, shape (n,).
    most
        Alerts that the team can check in a day.

    Returns
    -------
    numpy.ndarray
        bool, shape (n,).

    Raises
    ------
    LifecycleError
        If `most` is negative, the shapes differ, or a value is missing.

    Examples
    --------
    >>> within_capacity([1, 1, 1, 2], [0.9, 0.5, 0.7, 0.1], [1, 1, 1, 1], 2).tolist()
    [True, False, True, True]
    """
    if most < 0:
        raise LifecycleError(f"A team cannot check {most} alerts a day; give 0 or more.")
    days = pd.factorize(np.asarray(day))[0]
    days, priority, flagged = _columns(day=days, priority=priority, flagged=flagged)
    place = pd.Series(np.where(flagged > 0, -priority, np.inf)).groupby(days).rank(method="first")
    return (flagged > 0) & (place.to_numpy() <= most)


def savings_by_capacity(
    frame: pd.DataFrame, priority: ArrayLike, flagged: ArrayLike, capacities: list[int], settings: Any
) -> pd.Series:
    """Return what is saved a day if a team can check so many alerts a day.

    Parameters
    ----------
    frame
        ``event_time``, ``amount`` and ``is_fraud``, one row a payment.
    priority, flagged
        As in `within_capacity`.
    capacities
        Alerts a day.
    settings
        With the prices of `lifecycle.economics.decision_costs`.

    Returns
    -------
    pandas.Series
        Account currency a day (float64), indexed by capacity.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> frame = pd.DataFrame({"event_time": pd.to_datetime(["2025-10-01", "2025-10-01"], utc=True),
    ...                       "amount": [80.0, 30.0], "is_fraud": [1, 1]})
    >>> savings_by_capacity(frame, [0.9, 0.8], [1, 1], [0, 1, 2], Settings()).tolist()
    [0.0, 95.0, 140.0]
    """
    day = frame["event_time"].dt.floor("D")
    fraud, amount = frame["is_fraud"].to_numpy(dtype=float), frame["amount"].to_numpy()
    nothing = decision_costs(fraud, amount, np.zeros(len(frame)), settings)
    saved = {}
    for most in capacities:
        costs = decision_costs(fraud, amount, within_capacity(day, priority, flagged, most), settings)
        saved[most] = float((nothing - costs).sum() / day.nunique())
    return pd.Series(saved, name="saved_per_day")


def value_of_an_hour(frame: pd.DataFrame, priority: ArrayLike, flagged: ArrayLike, most: int, settings: Any) -> float:
    """Return what one more analyst hour a day would save, its own price taken off, for a team that checks `most`.

    An hour is worth ``analyst_hour / review_cost`` reviews, rounded down. Parameters are those of
    `savings_by_capacity`.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> frame = pd.DataFrame({"event_time": pd.to_datetime(["2025-10-01", "2025-10-01"], utc=True),
    ...                       "amount": [80.0, 30.0], "is_fraud": [1, 1]})
    >>> value_of_an_hour(frame, [0.9, 0.8], [1, 1], 1, Settings())
    45.0
    """
    reviews = int(settings.analyst_hour // settings.review_cost) if settings.review_cost > 0 else len(frame)
    saved = savings_by_capacity(frame, priority, flagged, [most, most + max(reviews, 1)], settings)
    return float(saved.iloc[1] - saved.iloc[0])


def customer_totals(frame: pd.DataFrame, flagged: ArrayLike, settings: Any) -> pd.DataFrame:
    """Add up the payments, costs and false declines of each customer.

    Parameters
    ----------
    frame
        ``customer_id``, ``amount`` and ``is_fraud`` (known), one row a payment.
    flagged
        Whether a payment is stopped, shape (n,).
    settings
        With the prices of `lifecycle.economics.decision_costs`.

    Returns
    -------
    pandas.DataFrame
        One row a customer, in order of first payment: ``payments``, ``alerts``, ``false_declines``, ``bothered`` (1
        with at least one false decline), ``cost_without`` and ``cost_with`` (account currency), all float64.

    Raises
    ------
    LifecycleError
        If a label, an amount or a decision is missing.
    """
    columns = _columns(is_fraud=frame["is_fraud"].to_numpy(dtype=float), amount=frame["amount"], flagged=flagged)
    fraud, amount, stopped = columns
    table = pd.DataFrame({
        "payments": 1.0,
        "alerts": stopped,
        "false_declines": stopped * (1 - fraud),
        "cost_without": decision_costs(fraud, amount, np.zeros(len(fraud)), settings),
        "cost_with": decision_costs(fraud, amount, stopped, settings),
    })  # fmt: skip
    totals = table.groupby(frame["customer_id"].to_numpy(), sort=False).sum()
    return totals.assign(bothered=(totals["false_declines"] > 0).astype(float))


def business_metrics(
    totals: pd.DataFrame, days: int, settings: Any, draws: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the metrics that a business asks for.

    Parameters
    ----------
    totals
        What `customer_totals` returned.
    days
        The length of the period they were counted in.
    settings
        With ``prediction_cost``, ``operation_cost`` (a month), ``development_cost`` and ``horizon_months``.
    draws
        How often each customer counts, int64 of shape (resamples, customers); by default once each.

    Returns
    -------
    dict
        Arrays of shape (resamples,), or (1,) without draws. Money is in account currency, months are of 30.4 days.
        ``cost_per_decision`` and ``cost_per_customer`` (a month): losses, reviews, friction, predictions and
        operation. ``cost_per_customer_without``: the losses without any model. ``savings``: losses avoided less
        reviews and friction, a month. ``spending``: predictions and operation, a month. ``earned``: savings less
        spending. ``roi``: (savings - all spending) / all spending over ``horizon_months``, development included.
        ``break_even_months``: until ``earned`` has paid for the development; infinite where nothing is earned.
        ``false_declines``: a month for each 1,000 customers. ``bothered``: share of customers with at least one.

    Raises
    ------
    LifecycleError
        If there are no customers or no days.
    """
    if days <= 0 or len(totals) == 0:
        raise LifecycleError(f"{len(totals)} customers in {days} days: a business metric needs at least one of each.")
    months = days / DAYS_IN_MONTH
    weight = np.ones((1, len(totals))) if draws is None else draws
    sums = {name: weight @ totals[name].to_numpy() for name in totals.columns}
    customers, payments = weight.sum(axis=1), sums["payments"]
    spending = payments * settings.prediction_cost / months + settings.operation_cost
    saved = (sums["cost_without"] - sums["cost_with"]) / months
    cost = sums["cost_with"] + spending * months
    earned = saved - spending
    invested = settings.development_cost + settings.horizon_months * spending
    with np.errstate(divide="ignore", invalid="ignore"):
        break_even = np.where(earned > 0, settings.development_cost / earned, np.inf)
        roi = (settings.horizon_months * saved - invested) / invested
    return {
        "cost_per_decision": cost / payments,
        "cost_per_customer": cost / customers / months,
        "cost_per_customer_without": sums["cost_without"] / customers / months,
        "savings": saved,
        "spending": spending,
        "earned": earned,
        "roi": roi,
        "break_even_months": break_even,
        "false_declines": 1000 * sums["false_declines"] / customers / months,
        "bothered": sums["bothered"] / customers,
    }


def break_even_against(better: float, simpler: float, predictions: int) -> dict[str, float]:
    """Return how slow and how dear a model may be before a simpler one, fast and free, is worth more.

    An answer after the time-out is not used: the payment is let through and its saving is lost. If late answers fall
    on alerts as on any payment, a share of late answers costs the same share of the savings.

    Parameters
    ----------
    better, simpler
        Savings of the two models on the same payments, in account currency.
    predictions
        The number of these payments.

    Returns
    -------
    dict
        ``late_share`` (between 0 and 1) and ``price`` (account currency for one prediction). Both are 0
        where the model does not save more than the simpler one.

    Raises
    ------
    LifecycleError
        If there are no predictions.

    Examples
    --------
    >>> break_even_against(1000.0, 900.0, 2000)
    {'late_share': 0.1, 'price': 0.05}
    """
    if predictions <= 0:
        raise LifecycleError(f"{predictions} predictions: a price for one needs at least one.")
    ahead = max(better - simpler, 0.0)
    share = min(ahead / better, 1.0) if better > 0 else 0.0
    return {"late_share": share, "price": ahead / predictions}
