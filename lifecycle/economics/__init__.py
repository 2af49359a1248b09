"""Business metrics: what a decision about a payment costs, and what a model earns.

Four things can happen to a payment, and each has a price:

=================  =============================  ==========================
payment            let through                    flagged
=================  =============================  ==========================
fraud              amount + ``chargeback_fee``    ``review_cost``
honest             0                              ``review_cost`` + ``friction_cost``
=================  =============================  ==========================

A flagged fraud is stopped by the analyst who reviews it. A flagged honest customer is annoyed, and
``friction_cost`` is the price of that. Every function takes the three prices from `settings`: any object
that has them, such as `lifecycle.settings.Settings`. All money is in account currency.

The idea of a cost for each payment, and not for each kind of error, is that of Elkan, "The foundations
of cost-sensitive learning", IJCAI 2001.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lifecycle.errors import LifecycleError


def decision_costs(is_fraud: ArrayLike, amount: ArrayLike, flagged: ArrayLike, settings: Any) -> np.ndarray:
    """Return what each decision costs.

    Parameters
    ----------
    is_fraud
        0 or 1 (or bool), shape (n,).
    amount
        The amounts of the payments, shape (n,).
    flagged
        Whether the payment is stopped for review, shape (n,).
    settings
        An object with ``chargeback_fee``, ``review_cost`` and ``friction_cost``.

    Returns
    -------
    numpy.ndarray
        float64, shape (n,).

    Raises
    ------
    LifecycleError
        If the shapes differ or a value is missing.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> decision_costs([1, 1, 0, 0], [80, 80, 80, 80], [0, 1, 0, 1], Settings()).tolist()
    [100.0, 5.0, 0.0, 7.0]
    """
    fraud, amount, flagged = _columns(is_fraud=is_fraud, amount=amount, flagged=flagged)
    let_through = fraud * (amount + settings.chargeback_fee)
    stopped = settings.review_cost + (1 - fraud) * settings.friction_cost
    return np.where(flagged > 0, stopped, let_through)


def savings(is_fraud: ArrayLike, amount: ArrayLike, flagged: ArrayLike, settings: Any) -> float:
    """Return what the decisions save against letting every payment through. It is negative where they lose money.

    Parameters are those of `decision_costs`.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> savings([1, 0, 0], [80, 20, 20], [1, 1, 0], Settings())
    88.0
    """
    nothing = decision_costs(is_fraud, amount, np.zeros(np.shape(is_fraud)), settings).sum()
    return float(nothing - decision_costs(is_fraud, amount, flagged, settings).sum())


def savings_curve(
    is_fraud: ArrayLike, amount: ArrayLike, score: ArrayLike, settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the savings at every threshold that makes a difference.

    A payment is flagged when ``score >= threshold``. A threshold lies halfway between two neighboring
    scores, so that a rounding error in a score does not change a decision.

    Parameters
    ----------
    is_fraud, amount
        As in `decision_costs`.
    score
        Scores between 0 and 1, shape (n,).
    settings
        As in `decision_costs`.

    Returns
    -------
    thresholds, savings
        float64, both of shape (m + 1,) for m different scores; thresholds fall from "flag nothing" to 0, "flag all".

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> thresholds, saved = savings_curve([0, 1, 0], [20, 80, 20], [0.2, 0.8, 0.4], Settings())
    >>> [round(float(t), 3) for t in thresholds], saved.tolist()
    ([0.9, 0.6, 0.3, 0.0], [0.0, 95.0, 88.0, 81.0])
    """
    fraud, amount, score = _columns(is_fraud=is_fraud, amount=amount, score=score)
    if len(score) == 0:
        return np.array([1.0]), np.array([0.0])
    gain = fraud * (amount + settings.chargeback_fee + settings.friction_cost)
    gain -= settings.review_cost + settings.friction_cost
    order = np.argsort(-score, kind="stable")
    ranked, total = score[order], np.cumsum(gain[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # the last of each group of equal scores
    middles = (ranked[last[:-1]] + ranked[last[:-1] + 1]) / 2
    top = (ranked[0] + 1) / 2 if ranked[0] < 1 else np.nextafter(1.0, 2.0)
    return np.concatenate([[top], middles, [0.0]]), np.concatenate([[0.0], total[last]])


def best_threshold(is_fraud: ArrayLike, amount: ArrayLike, score: ArrayLike, settings: Any) -> tuple[float, float]:
    """Return the threshold that saves the most money, and what it saves.

    Parameters are those of `savings_curve`. Of several equally good thresholds, the highest is taken:
    it bothers the fewest people.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> threshold, saved = best_threshold([0, 1, 0], [20, 80, 20], [0.2, 0.8, 0.4], Settings())
    >>> round(threshold, 3), saved
    (0.6, 95.0)
    """
    thresholds, saved = savings_curve(is_fraud, amount, score, settings)
    best = int(np.argmax(saved))
    return float(thresholds[best]), float(saved[best])


def summarize_money(is_fraud: ArrayLike, amount: ArrayLike, flagged: ArrayLike, settings: Any) -> dict[str, float]:
    """Return the bill of a set of decisions, beside doing nothing and beside perfect decisions.

    Parameters are those of `decision_costs`.

    Returns
    -------
    dict
        ``cost_without`` (every payment let through), ``cost_with`` (these decisions), ``savings``,
        ``savings_if_perfect`` (each fraud stopped where that pays, no honest customer flagged), ``share_of_perfect``,
        ``fraud_let_through`` and ``fraud_stopped`` (amounts), ``alerts``, ``false_alarms``, and
        ``savings_per_1000_payments``.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> bill = summarize_money([1, 1, 0, 0], [80, 30, 20, 20], [1, 0, 1, 0], Settings())
    >>> bill["cost_without"], bill["cost_with"], bill["savings"], bill["savings_if_perfect"]
    (150.0, 62.0, 88.0, 140.0)
    """
    fraud, amount, flagged = _columns(is_fraud=is_fraud, amount=amount, flagged=flagged)
    flagged = flagged > 0
    without = float((fraud * (amount + settings.chargeback_fee)).sum())
    with_them = float(decision_costs(fraud, amount, flagged, settings).sum())
    perfect = float((fraud * np.maximum(amount + settings.chargeback_fee - settings.review_cost, 0)).sum())
    return {
        "cost_without": without,
        "cost_with": with_them,
        "savings": without - with_them,
        "savings_if_perfect": perfect,
        "share_of_perfect": (without - with_them) / perfect if perfect else 0.0,
        "fraud_let_through": float((fraud * amount)[~flagged].sum()),
        "fraud_stopped": float((fraud * amount)[flagged].sum()),
        "alerts": int(flagged.sum()),
        "false_alarms": int((flagged & (fraud == 0)).sum()),
        "savings_per_1000_payments": 1000 * (without - with_them) / max(len(fraud), 1),
    }


def _columns(**named: ArrayLike) -> list[np.ndarray]:
    """Return the columns as float64 arrays of one length, without missing values."""
    arrays = {}
    for name, values in named.items():
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1:
            raise LifecycleError(f"Column {name} has shape {array.shape}; give one value a payment.")
        missing = int(np.isnan(array).sum())
        if missing:
            raise LifecycleError(
                f"Column {name} is missing in {missing:,} of {len(array):,} rows: money can be counted only where "
                "amount, label and decision are known; leave these rows out."
            )
        arrays[name] = array
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise LifecycleError(f"The columns have different numbers of rows ({counts}); give the same payments to each.")
    return list(arrays.values())
