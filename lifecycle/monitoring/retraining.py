"""Retrain on what is known, compare with the champion, and promote only a proven gain.

The challenger learns from the payments whose label is known at the moment of the alarm. Before
anybody promotes it, it has to earn more than the champion on recent payments of customers it has
not seen, by the labels known at that moment; the interval of the gain must lie above zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from lifecycle import economics
from lifecycle.contracts import labels_as_of
from lifecycle.errors import LifecycleError
from lifecycle.monitoring.performance import DAY, measure
from lifecycle.training.metrics import Ranking

HELD_OUT = 1 / 3
"""Share of the customers that the challenger of the gate does not see."""

GATE_DAYS, THRESHOLD_DAYS = 14, 28
"""The gate compares on the last 14 days; the challenger's threshold comes from the 28 days before them."""

LEVEL = 0.9
DRAWS = 400


class Scores(Protocol):
    """Anything that turns a float32 matrix into fraud scores."""

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Return one score in [0, 1] for each row."""


Fit = Callable[[np.ndarray, np.ndarray], Scores]
"""Fits the champion's recipe to a matrix and labels."""


@dataclass(frozen=True)
class Payments:
    """Payments with all that a comparison needs, row by row.

    Attributes
    ----------
    frame
        transaction_id, event_time, customer_id, amount.
    matrix
        Features, float32, shape (rows, features).
    champion
        The champion's scores, shape (rows,).
    """

    frame: pd.DataFrame
    matrix: np.ndarray
    champion: np.ndarray

    def between(self, start: pd.Timestamp, end: pd.Timestamp) -> np.ndarray:
        """Return which payments happened in ``[start, end)``."""
        times = self.frame["event_time"]
        return ((times >= start) & (times < end)).to_numpy()


def known_labels(frame: pd.DataFrame, labels: pd.DataFrame, moment: pd.Timestamp) -> np.ndarray:
    """Return each payment's label as known at a moment: 1, 0, or NaN where nobody knew yet.

    Examples
    --------
    >>> at = pd.to_datetime(["2025-11-05", "2025-11-09"], utc=True)
    >>> labels = pd.DataFrame({"transaction_id": [1, 2], "is_fraud": [1, 0], "known_at": at})
    >>> known_labels(pd.DataFrame({"transaction_id": [1, 2]}), labels, pd.Timestamp("2025-11-06", tz="UTC"))
    array([ 1., nan])
    """
    own = labels[labels["transaction_id"].isin(frame["transaction_id"])]
    known = labels_as_of(own, moment).set_index("transaction_id")["is_fraud"]
    return known.reindex(frame["transaction_id"]).to_numpy(dtype=np.float64, na_value=np.nan)


def held_out_customers(frame: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """Return which rows belong to a random share of the customers."""
    customers = np.sort(frame["customer_id"].unique())
    chosen = np.random.default_rng(seed).permutation(len(customers))[: round(share * len(customers))]
    return frame["customer_id"].isin(customers[chosen]).to_numpy()


@dataclass(frozen=True)
class InUse:
    """The scores and thresholds of whatever model is in use at the time of each payment.

    Attributes
    ----------
    score, threshold
        Shape (rows,). For payments still to come, those of the model in use now.
    """

    score: np.ndarray
    threshold: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        """Which payments the model in use flags."""
        return self.score >= self.threshold

    def replaced(self, attempt: Attempt, payments: Payments, moment: pd.Timestamp) -> InUse:
        """Return what is in use after a promotion at a moment: the new model from there on."""
        later = (payments.frame["event_time"] >= moment).to_numpy()
        score, threshold = self.score.copy(), self.threshold.copy()
        score[later] = attempt.model.predict(payments.matrix[later])
        threshold[later] = attempt.threshold
        return InUse(score, threshold)


@dataclass(frozen=True)
class Attempt:
    """What one retraining came to: the facts, and the model if it was promoted."""

    facts: dict[str, Any]
    model: Scores | None
    threshold: float


@dataclass(frozen=True)
class Known:
    """The payments of a period, with what is known of them at a moment.

    Attributes
    ----------
    rows
        Their positions among all payments.
    times
        When they happened.
    label
        1, 0, or NaN where nobody knows yet.
    held_out
        Whose customers no challenger may see.
    """

    rows: np.ndarray
    times: pd.Series
    label: np.ndarray
    held_out: np.ndarray

    @classmethod
    def at(
        cls,
        payments: Payments,
        labels: pd.DataFrame,
        moment: pd.Timestamp,
        since: pd.Timestamp,
        seed: int,
        wrong: np.ndarray | None = None,
    ) -> Known:
        """Return what `labels` say at a moment of the payments in ``[since, moment)``, without the `wrong` ones."""
        rows = np.flatnonzero(payments.between(since, moment) & (True if wrong is None else ~wrong))
        frame = payments.frame.iloc[rows]
        held_out = held_out_customers(frame, HELD_OUT, seed)
        return cls(rows, frame["event_time"], known_labels(frame, labels, moment), held_out)

    @property
    def labeled(self) -> np.ndarray:
        """Which of them have a label."""
        return ~np.isnan(self.label)

    def since(self, start: pd.Timestamp) -> np.ndarray:
        """Return which of them happened at or after a moment."""
        return (self.times >= start).to_numpy()

    def fit(self, payments: Payments, fit: Fit, part: np.ndarray) -> Scores:
        """Fit a recipe to those of a part that have a label."""
        learned = self.labeled & part
        return fit(payments.matrix[self.rows[learned]], self.label[learned])

    def threshold(
        self, payments: Payments, model: Scores, part: np.ndarray, present: np.ndarray, settings: Any
    ) -> float:
        """Choose a model's threshold by money on the labels of a part; without a fraud there, keep the present one."""
        part = self.labeled & part
        if self.label[part].sum() == 0:
            return float(present[self.rows[-1]])
        amount = payments.frame["amount"].to_numpy()[self.rows[part]]
        score = model.predict(payments.matrix[self.rows[part]])
        return economics.best_threshold(self.label[part], amount, score, settings)[0]


def retrain(
    payments: Payments,
    labels: pd.DataFrame,
    moment: pd.Timestamp,
    train_from: pd.Timestamp,
    in_use: InUse,
    fit: Fit,
    settings: Any,
    wrong: np.ndarray | None = None,
) -> Attempt:
    """Retrain at a moment, put the challenger through the gate, and refit it on everybody if it passes.

    Parameters
    ----------
    payments
        The history, at least from `train_from` to `moment`.
    labels
        The label history; only what was known at `moment` is used.
    moment
        When the alarm came.
    train_from
        The first payments to learn from.
    in_use
        Scores and thresholds of the model in use, which the challenger has to beat.
    fit
        The champion's recipe.
    settings
        Knobs: seed, chargeback_fee, review_cost, friction_cost.
    wrong
        Rows whose values are known to be wrong and not yet corrected; they are left out of the training.

    Raises
    ------
    LifecycleError
        If no fraud is known in the training rows or on the days of the gate.
    """
    known = Known.at(payments, labels, moment, train_from, settings.seed, wrong)
    recent = known.since(moment - GATE_DAYS * DAY)
    for what, part in (
        ("training rows", known.labeled & ~known.held_out),
        ("days of the gate", known.held_out & recent),
    ):
        if np.nansum(known.label[part]) == 0:
            raise LifecycleError(f"No fraud is known by {moment:%Y-%m-%d} among the {what}; retrain later.")
    challenger = known.fit(payments, fit, ~known.held_out)
    before = known.since(moment - (GATE_DAYS + THRESHOLD_DAYS) * DAY) & ~recent
    threshold = known.threshold(payments, challenger, known.held_out & before, in_use.threshold, settings)
    gate = _pass_gate(payments, known, known.held_out & recent, in_use, (challenger, threshold), settings)
    promoted = gate["gain_money_per_day"]["low"] > 0
    facts = {
        "moment": moment.isoformat(),
        "trained_from": train_from.isoformat(),
        "rows": int(known.labeled.sum()),
        "frauds": int(np.nansum(known.label)),
        "left_out_as_wrong": 0 if wrong is None else int(wrong.sum()),
        "threshold": threshold,
        "gate": {"from": (moment - GATE_DAYS * DAY).isoformat(), "until": moment.isoformat(), **gate},
        "promoted": bool(promoted),
    }
    model = known.fit(payments, fit, np.ones(len(known.rows), bool)) if promoted else None
    return Attempt(facts, model, threshold)


def _pass_gate(
    payments: Payments, known: Known, judged: np.ndarray, in_use: InUse, challenger: tuple[Scores, float], settings: Any
) -> dict[str, Any]:
    """Compare the challenger with the model in use on payments of customers it has not seen."""
    rows, (model, threshold) = known.rows[judged], challenger
    score = model.predict(payments.matrix[rows])
    return compare(
        payments.frame.iloc[rows],
        np.nan_to_num(known.label[judged]),  # not reported so far counts as honest so far
        (in_use.score[rows], in_use.flagged[rows]),
        (score, score >= threshold),
        settings,
    )


def compare(
    frame: pd.DataFrame,
    is_fraud: np.ndarray,
    champion: tuple[np.ndarray, np.ndarray],
    challenger: tuple[np.ndarray, np.ndarray],
    settings: Any,
) -> dict[str, Any]:
    """Compare two models on the same payments, in ranking, decisions and money, with intervals.

    Parameters
    ----------
    frame
        event_time, customer_id, amount of the payments.
    is_fraud
        0 or 1, shape (rows,).
    champion, challenger
        Scores and decisions of each, shape (rows,).
    settings
        Knobs: seed, chargeback_fee, review_cost, friction_cost.

    Returns
    -------
    dict
        days, payments, frauds; ``champion`` and ``challenger`` (figures of `performance.measure` and
        cost_per_day); and the gains in average precision, recall and money per day, each as
        ``{value, low, high}``: a 90 % percentile interval over customers drawn with replacement,
        because the payments of one customer stand and fall together.
    """
    days = max(1, frame["event_time"].dt.floor("D").nunique())
    amount = frame["amount"].to_numpy(dtype=np.float64)
    made: dict[str, Any] = {"days": days, "payments": len(frame), "frauds": int(is_fraud.sum())}
    costs, flags = {}, {}
    for name, (score, flagged) in {"champion": champion, "challenger": challenger}.items():
        flags[name] = flagged
        costs[name] = economics.decision_costs(is_fraud, amount, flags[name], settings)
        figures = measure(is_fraud, score, flags[name])
        made[name] = {**{k: _plain(v) for k, v in figures.items()}, "cost_per_day": float(costs[name].sum() / days)}
    customer, _ = pd.factorize(frame["customer_id"])
    weights = _draws(customer, settings.seed)
    rankings = [Ranking(is_fraud, champion[0]), Ranking(is_fraud, challenger[0])]
    ap = np.array([[r.average_precision(w[customer]) for r in rankings] for w in weights[: DRAWS // 2]])
    made["gain_average_precision"] = _interval(
        rankings[1].average_precision() - rankings[0].average_precision(), ap[:, 1] - ap[:, 0]
    )
    made["gain_money_per_day"] = money_gain(frame, is_fraud, flags["challenger"], flags["champion"], settings)
    frauds = np.bincount(customer, is_fraud)
    more = np.bincount(customer, is_fraud * (flags["challenger"].astype(float) - flags["champion"]))
    drawn = np.maximum(weights @ frauds, 1)
    made["gain_recall"] = _interval(more.sum() / max(frauds.sum(), 1), weights @ more / drawn)
    return made


def money_gain(
    frame: pd.DataFrame, is_fraud: np.ndarray, flagged: np.ndarray, instead_of: np.ndarray, settings: Any
) -> dict[str, float]:
    """Return what decisions save a day against other decisions on the same payments, with the interval of `compare`."""
    days = max(1, frame["event_time"].dt.floor("D").nunique())
    amount = frame["amount"].to_numpy(dtype=np.float64)
    costs = [economics.decision_costs(is_fraud, amount, flags, settings) for flags in (instead_of, flagged)]
    customer, _ = pd.factorize(frame["customer_id"])
    saved = np.bincount(customer, costs[0] - costs[1])
    return _interval(saved.sum() / days, _draws(customer, settings.seed) @ saved / days)


def _draws(customer: np.ndarray, seed: int) -> np.ndarray:
    """Return how often each customer is drawn, shape (draws, customers), float64."""
    number = int(customer.max()) + 1
    return np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=DRAWS).astype(float)


def _interval(value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
