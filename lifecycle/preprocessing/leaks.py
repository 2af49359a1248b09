"""A laboratory for leaks: what a validation promises on a Monday, and what the same model delivers in the week after.

A team stands at a Monday morning and knows the labels that are known then. It prepares the payments in some way,
validates, chooses a threshold, and goes to work. `Lab.run` does that on several Mondays for any way of preparing,
and counts the promise and the delivery in average precision and in money. All of it happens within the
training period: the test period stays closed.

Not used by the stage itself, and not imported by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, economics
from lifecycle.errors import LifecycleError

WEEK = pd.Timedelta(days=7)

HONEST_SHARE = 0.03
"""The share of the honest payments that a model of the lab is fitted on. Its scores rank; they are no probabilities."""


@dataclass(frozen=True)
class Moment:
    """A Monday morning, and what is known then. Rows are positions in the payments of the lab.

    Attributes
    ----------
    at
        The moment.
    believed
        The label of each payment as known at this moment, float64; missing where nothing is known.
    early, late
        Rows with a known label: those to learn from, and the last week of them, to validate on.
    recent
        The rows of the days just before, most of them still without a label.
    week
        The rows of the seven days that follow.
    later
        The label of each payment as known when the week is judged, float64.
    """

    at: pd.Timestamp
    believed: np.ndarray
    early: np.ndarray
    late: np.ndarray
    recent: np.ndarray
    week: np.ndarray
    later: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """All rows whose label is known: `early`, then `late`."""
        return np.concatenate([self.early, self.late])


Recipe = Callable[[Moment], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""A way to prepare and validate: moment -> validated rows, their scores, the scores of the following week."""


class Lab:
    """The payments of the training period, and several Mondays in it.

    Parameters
    ----------
    transactions
        Payments; those outside ``[train_from, train_until)`` are left out. Kept as `payments`.
    labels
        The label history.
    settings
        The calendar, `label_delay_days`, and the prices of `lifecycle.economics`.
    count
        How many Mondays: the last weeks of the training period.

    Raises
    ------
    LifecycleError
        If the training period is too short for so many weeks.
    """

    def __init__(self, transactions: pd.DataFrame, labels: pd.DataFrame, settings: Any, count: int = 4) -> None:
        times = transactions["event_time"]
        start, end = contracts.midnight(settings.train_from), contracts.midnight(settings.train_until)
        self.payments = transactions[(times >= start) & (times < end)].reset_index(drop=True)
        self.settings = settings
        needed = (count + 1) * WEEK + pd.Timedelta(days=settings.label_delay_days + 3)
        if end - start < needed:
            raise LifecycleError(
                f"The training period {settings.train_from} to {settings.train_until} is too short for {count} weeks "
                f"of the lab: it needs {needed.days} days; choose fewer weeks or a longer period."
            )
        later = self._labels(labels, contracts.midnight(settings.test_from))
        self.moments = [self._moment(labels, later, end - step * WEEK, start) for step in range(count, 0, -1)]

    def _labels(self, labels: pd.DataFrame, moment: pd.Timestamp) -> np.ndarray:
        known = contracts.labels_as_of(labels, moment).set_index("transaction_id")["is_fraud"]
        return self.payments["transaction_id"].map(known).to_numpy("float64")

    def _moment(self, labels: pd.DataFrame, later: np.ndarray, at: pd.Timestamp, start: pd.Timestamp) -> Moment:
        believed = self._labels(labels, at)
        ripe = at - pd.Timedelta(days=self.settings.label_delay_days)
        early, late = self._rows(start, ripe - WEEK), self._rows(ripe - WEEK, ripe)
        week = self._rows(at, at + WEEK)
        return Moment(
            at,
            believed,
            early[~np.isnan(believed[early])],
            late[~np.isnan(believed[late])],
            self._rows(ripe, at),
            week[~np.isnan(later[week])],
            later,
        )

    def _rows(self, since: pd.Timestamp, until: pd.Timestamp) -> np.ndarray:
        times = self.payments["event_time"]
        return np.flatnonzero(((times >= since) & (times < until)).to_numpy())

    def run(self, recipe: Recipe) -> pd.DataFrame:
        """Let a recipe promise and deliver on each Monday.

        Returns
        -------
        pandas.DataFrame
            One row a Monday: `at`; `promised_ap`, `delivered_ap` (average precision); `promised`, `delivered`
            (savings in EUR per 1,000 payments, at the threshold that saves most in validation); `payments`
            (of the following week).
        """
        import joblib

        jobs = (joblib.delayed(self._judge)(recipe, moment) for moment in self.moments)
        return pd.DataFrame(joblib.Parallel(n_jobs=2, prefer="threads")(jobs))

    def _judge(self, recipe: Recipe, moment: Moment) -> dict[str, Any]:
        rows, promised, delivered = recipe(moment)
        # Where nothing is known, nothing has been disputed: whoever validates there counts it as honest.
        validation = np.nan_to_num(moment.believed[rows]), promised
        week = moment.later[moment.week], delivered
        amounts = self.payments["amount"].to_numpy()
        threshold, _ = economics.best_threshold(validation[0], amounts[rows], promised, self.settings)
        return {
            "at": moment.at,
            "promised_ap": average_precision(*validation),
            "delivered_ap": average_precision(*week),
            "promised": self._saved(*validation, amounts[rows], threshold),
            "delivered": self._saved(*week, amounts[moment.week], threshold),
            "payments": len(moment.week),
        }

    def _saved(self, is_fraud: np.ndarray, score: np.ndarray, amount: np.ndarray, threshold: float) -> float:
        bill = economics.summarize_money(is_fraud, amount, score >= threshold, self.settings)
        return bill["savings_per_1000_payments"]


def average_precision(is_fraud: np.ndarray, score: np.ndarray) -> float:
    """Return scikit-learn's average precision."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(is_fraud, score))


def learn(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a small boosting model, and return the function that scores with it.

    Parameters
    ----------
    x, y
        float32 of shape (n, features), and 0 or 1 of shape (n,). All frauds are used, and `HONEST_SHARE` of the rest.
    seed
        Which honest payments are drawn.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    chosen = (y == 1) | (np.random.default_rng(seed).random(len(y)) < HONEST_SHARE)
    model = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed)
    with threadpool_limits(1, user_api="openmp"):  # for so few rows, threads would mostly wait for each other
        model.fit(x[chosen], y[chosen])

    def score(other: np.ndarray) -> np.ndarray:
        with threadpool_limits(1, user_api="openmp"):
            return model.predict_proba(other)[:, 1]

    return score


def count_before(payments: pd.DataFrame, events: pd.DataFrame, by: str, when: str, days: int) -> np.ndarray:
    """Count, for each payment, the events of its entity in the days just before it.

    Parameters
    ----------
    payments
        With `event_time` and the column `by`.
    events
        With the columns `by` and `when` (datetime64[us, UTC]).
    by
        The entity, such as ``"terminal_id"``.
    when
        The time that counts: when a fraud happened, or when it became known.
    days
        The length of the window; an event at the moment of the payment is not before it.

    Returns
    -------
    numpy.ndarray
        float32, shape (n,).

    Examples
    --------
    >>> times = pd.to_datetime(["2025-08-01", "2025-08-05"], utc=True).as_unit("us")
    >>> payments = pd.DataFrame({"terminal_id": [1, 1], "event_time": times})
    >>> frauds = payments.head(1).assign(known_at=times[1] + pd.Timedelta(days=9))
    >>> [count_before(payments, frauds, "terminal_id", when, 7).tolist() for when in ("event_time", "known_at")]
    [[0.0, 1.0], [0.0, 0.0]]
    """
    if not len(events):
        return np.zeros(len(payments), "float32")
    both = pd.concat([payments[by], events[by]], ignore_index=True)
    codes = pd.factorize(both)[0].astype("int64")
    at, happened = (_micros(values) for values in (payments["event_time"], events[when]))
    first = min(at.min(), happened.min())
    window = days * 86_400_000_000
    # One number a pair of entity and time, far enough apart that a window never reaches the next entity.
    stride = max(at.max(), happened.max()) - first + window + 1
    keys = np.sort(codes[len(payments) :] * stride + (happened - first))
    here = codes[: len(payments)] * stride + (at - first)
    floor = np.maximum(here - window, codes[: len(payments)] * stride)
    return (np.searchsorted(keys, here) - np.searchsorted(keys, floor)).astype("float32")


def _micros(times: pd.Series) -> np.ndarray:
    return times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]").astype("int64")


def summarize(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put promise, delivery, gap and price of several recipes side by side, means over the weeks.

    Parameters
    ----------
    results
        What `Lab.run` returned, by name.

    Returns
    -------
    pandas.DataFrame
        One row a recipe: `flattering score` and `honest score` (average precision), `gap` with its 95 % interval
        `±` (weeks as the sample), `promised` and `delivered` (EUR per 1,000 payments), and `price`:
        what was promised and not delivered, in EUR a week, with its interval.
    """
    rows = {}
    for name, result in results.items():
        gap = (result["promised_ap"] - result["delivered_ap"]).to_numpy()
        price = ((result["promised"] - result["delivered"]) * result["payments"] / 1000).to_numpy()
        rows[name] = {
            "flattering score": result["promised_ap"].mean(),
            "honest score": result["delivered_ap"].mean(),
            "gap": gap.mean(),
            "±": half_width(gap),
            "promised": result["promised"].mean(),
            "delivered": result["delivered"].mean(),
            "price": price.mean(),
            "price ±": half_width(price),
        }
    return pd.DataFrame(rows).T


def half_width(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of a mean, by Student's t.

    Examples
    --------
    >>> round(half_width(np.array([1.0, 2.0, 3.0])), 2)
    2.48
    """
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
