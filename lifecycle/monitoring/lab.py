"""The drift lab: plant a change of known kind, size and day in clean months, and see which detector finds it, and when.

A month is drawn from the clean weeks before deployment: the customers of the bank with replacement, and for each of its
days one of the clean days of that weekday, with all payments of these customers on it. The payments of a customer and
those of a day stay together, so what makes days differ without any change makes them differ here too. A day is compared
with the other clean days of its weekday; public holidays are left out, as a monitor with a calendar would.

The limits of all detectors are set on months of their own, so that the same share of clean months brings an alarm; they
are judged on other months.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from lifecycle.monitoring.detectors import (
    DETECTORS,
    NOMINAL,
    Counter,
    Days,
    Pool,
    Signal,
    Usual,
    read_days,
)
from lifecycle.monitoring.estimate import Calibrator
from lifecycle.monitoring.performance import DAY
from lifecycle.monitoring.retraining import Scores
from lifecycle.monitoring.signals import FRESH_DAYS

WEEK = 7
BEFORE, WATCHED, CLEAN = 21, 28, 7
"""Days of a month: those before the monitor starts to watch (reports on their way), those watched, and how many of the
watched days are clean before the change."""

MONTHS = 200
"""Months to set the limits on, and as many others to judge on."""

FALSE_MONTHS = 0.1
"""The share of clean months in which a detector may give an alarm: its limit is set to that."""

WITHIN = 21
"""A change counts as found if the alarm comes within so many days."""

SIZES = {
    "covariate": (0.05, 0.15, 0.5),  # so many more online payments, as a share of them
    "prior": (0.5, 1.0, 2.0),  # so many more frauds of the known kinds, as a share of them
    "concept": (0.0005, 0.001, 0.003),  # this share of all payments turns from honest to fraud, unseen by the model
    "data quality": (0.02, 0.05, 0.2),  # this share of the online payments comes with its amount in cents
}
LEAST_DAYS = 3 * WEEK
"""Clean days that a lab needs: three of each weekday."""

NOT_COMPARED = ("weekday", "is_weekend", "is_night", "log_amount")
"""Features of a payment that are the same all day long, or say again what another says."""

CENTS = 100
AMOUNTS = ("amount", "amount_to_mean_30d", "amount_to_max_30d", "amount_to_terminal_mean_30d")


@dataclass(frozen=True)
class Change:
    """What a change does to the payments of a day: some are taken out, others put in."""

    removed: Pool
    added: Pool


@dataclass(frozen=True)
class Bench:
    """The clean payments and what is needed to change them.

    Attributes
    ----------
    pool
        The clean payments.
    online
        Which of them are online, shape (rows,).
    ordinary
        Which of the days are no public holidays, shape (days,): whole weeks from the first day on.
    names, inputs
        All feature names, and those that a monitor of inputs compares.
    model
        Gives the score of a payment with wrong values.
    threshold
        The model's.
    """

    pool: Pool
    online: np.ndarray
    ordinary: np.ndarray
    names: list[str]
    inputs: list[str]
    model: Scores
    threshold: float


def make_pool(frame: pd.DataFrame, matrix: np.ndarray, labels: pd.DataFrame, start: pd.Timestamp) -> Pool:
    """Return payments as a pool.

    Parameters
    ----------
    frame
        transaction_id, event_time, customer_id, terminal_id, score, flagged and, if there is one, merchant_category.
    matrix
        Their features, shape (rows, features).
    labels
        The label history.
    start
        The first midnight.
    """
    reports = labels[(labels["is_fraud"] == 1) & labels["transaction_id"].isin(frame["transaction_id"])]
    known = frame["transaction_id"].map(reports.groupby("transaction_id")["known_at"].min())
    lag = (known.dt.floor("D") - frame["event_time"].dt.floor("D")).dt.days.fillna(-1).to_numpy(int)
    by = frame["merchant_category"].astype(str) if "merchant_category" in frame.columns else pd.Series("", frame.index)
    missed = frame[(lag >= 0) & ~frame["flagged"].to_numpy()].sort_values("event_time")
    since = missed.groupby("terminal_id")["event_time"].diff()
    first = since.isna() | (since > FRESH_DAYS * DAY)
    return Pool(
        day=((frame["event_time"].dt.floor("D") - start) // DAY).to_numpy(int),
        customer=pd.factorize(frame["customer_id"], sort=True)[0],
        group=pd.factorize(by, sort=True)[0],
        matrix=matrix,
        score=frame["score"].to_numpy(),
        flagged=frame["flagged"].to_numpy(bool),
        fraud=lag >= 0,
        lag=lag,
        first=first.reindex(frame.index, fill_value=False).to_numpy(bool),
    )


def plant(bench: Bench, kind: str, size: float, seed: int) -> Change:
    """Return a change of one of the kinds of `SIZES`.

    - ``covariate``: more online payments, each as likely fraud as before: p(x) moves, p(y | x) does not.
    - ``prior``: more of the known frauds: p(y) moves, p(x | y) does not.
    - ``concept``: honest online payments that the model lets through are fraud now: p(y | x) moves, p(x) does not.
    - ``data quality``: the amounts of online payments arrive in cents, and the model answers what it sees.
    """
    pool, generator = bench.pool, np.random.default_rng(seed)
    draw = generator.random(len(pool))
    nobody = pool.take(np.zeros(len(pool), bool))
    if kind == "covariate":
        return Change(nobody, pool.take(bench.online & (draw < size)))
    if kind == "prior":
        times = np.where(pool.fraud, int(size) + (draw < size % 1), 0)
        return Change(nobody, pool.take(np.repeat(np.arange(len(pool)), times)))
    if kind == "concept":
        calm = bench.online & ~pool.fraud & ~pool.flagged
        turned = pool.take(calm & (draw < size * len(pool) / max(calm.sum(), 1)))
        lag = generator.choice(pool.lag[pool.fraud], len(turned))
        yes = np.ones(len(turned), bool)
        return Change(turned, replace(turned, fraud=yes, first=yes, lag=lag))
    wrong = pool.take(bench.online & (draw < size))
    return Change(wrong, _in_cents(bench, wrong))


def _in_cents(bench: Bench, right: Pool) -> Pool:
    """Return payments with amounts a hundred times too large, and what the model says to them."""
    matrix = right.matrix.copy()
    for name in AMOUNTS:
        if name in bench.names:
            matrix[:, bench.names.index(name)] *= CENTS
    if "log_amount" in bench.names:
        matrix[:, bench.names.index("log_amount")] = np.log1p(matrix[:, bench.names.index("amount")])
    score = bench.model.predict(matrix)
    return replace(right, matrix=matrix, score=score, flagged=score >= bench.threshold)


@dataclass(frozen=True)
class Months:
    """Random months: how often each customer is in each, shape (customers, months), and which clean day each day is."""

    weights: np.ndarray
    days: np.ndarray  # shape (days of a month, months)

    @classmethod
    def draw(cls, customers: int, ordinary: np.ndarray, number: int, seed: int) -> Months:
        """Draw months of so many customers from the ordinary ones of the clean days; a weekday stays a weekday."""
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(customers, np.full(customers, 1 / customers), number).T
        usable = [np.flatnonzero(ordinary[weekday::WEEK]) * WEEK + weekday for weekday in range(WEEK)]
        days = [generator.choice(usable[day % WEEK], number) for day in range(BEFORE + WATCHED)]
        return cls(np.ascontiguousarray(weights, dtype="float32"), np.array(days))

    def arrange(self, counts: np.ndarray) -> np.ndarray:
        """Return counts of clean days, shape (clean days, months, width), as the days of the months."""
        return counts[self.days, np.arange(self.days.shape[1])[None, :]]


def run(bench: Bench, calibrator: Calibrator, seed: int, months: int = MONTHS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Plant every change in `months` months, and measure every detector on them and on clean months.

    Parameters
    ----------
    bench
        The clean payments: whole weeks.
    calibrator
        Of the scores, for the estimated performance.
    seed
        Of the months and of the rows that change.

    Returns
    -------
    tuple of DataFrame
        False alarms: one row a detector and limit (``rule`` is nominal or calibrated): limit, days (share of clean
        days with an alarm), months (share of clean months with one). Power: one row a detector, kind and size: power
        (share of months whose change is found within `WITHIN` days, of those without an alarm before it), delay
        (median days from the beginning of the change to the midnight of the alarm, of those found) and months.
    """
    pool, days = bench.pool, len(bench.ordinary)
    columns = [i for i, name in enumerate(bench.names) if name in bench.inputs]
    counter = Counter(pool, columns, calibrator, int(pool.group.max()) + 1)
    customers = int(pool.customer.max()) + 1
    calibration, judged = (Months.draw(customers, bench.ordinary, months, seed + i) for i in range(2))
    reference = _other_days(counter.count(pool, np.ones((customers, 1), "float32"), days), bench.ordinary)
    calm = _months_of(read_days(counter, counter.count(pool, calibration.weights, days), reference), calibration)
    usual = Usual.of(calm)
    clean_counts = counter.count(pool, judged.weights, days)
    clean = read_days(counter, clean_counts, reference)
    limits = {name: _limit(signal(calm, usual)) for name, signal in DETECTORS.items()}
    false_alarms = _false_alarms(_months_of(clean, judged), usual, limits)
    found = []
    for number, (kind, sizes) in enumerate(SIZES.items()):
        for size in sizes:
            change = plant(bench, kind, size, seed + number)
            counts = clean_counts - counter.count(change.removed, judged.weights, days)
            counts += counter.count(change.added, judged.weights, days)
            changed = _switch(clean, read_days(counter, counts, reference), judged)
            found += [
                {"detector": name, "kind": kind, "size": size, **_judge(signal(changed, usual), limits[name])}
                for name, signal in DETECTORS.items()
            ]
    return false_alarms, pd.DataFrame(found)


def _other_days(counts: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
    """Return for each clean day the counts of the other ordinary ones of its weekday, shape (days, 1, width)."""
    position = np.arange(len(counts))
    alike = (position % WEEK == position[:, None] % WEEK) & ordinary & (position != position[:, None])
    return np.stack([counts[row].sum(axis=0) for row in alike])


def _map(days: Days, *others: Days, with_: Any) -> Days:
    """Return days whose every array is `with_` of the arrays of the given days."""
    made = {}
    for name in Days.__dataclass_fields__:
        values = [getattr(one, name) for one in (days, *others)]
        if isinstance(values[0], dict):
            made[name] = {key: with_(*(value[key] for value in values)) for key in values[0]}
        else:
            made[name] = with_(*values)
    return Days(**made)


def _months_of(days: Days, months: Months) -> Days:
    return _map(days, with_=months.arrange)


def _switch(clean: Days, changed: Days, months: Months) -> Days:
    """Return months that are clean up to the change and changed from there on."""
    start = BEFORE + CLEAN

    def join(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.concatenate([months.arrange(before)[:start], months.arrange(after)[start:]])

    return _map(clean, changed, with_=join)


def _limit(value: np.ndarray) -> float:
    """Return the limit that a share `FALSE_MONTHS` of the months exceeds on some watched day."""
    return float(np.quantile(value[BEFORE:].max(axis=0), 1 - FALSE_MONTHS))


def _false_alarms(clean: Days, usual: Usual, limits: dict[str, float]) -> pd.DataFrame:
    rules: list[tuple[str, str, Signal, float]] = []
    rules += [(name, "nominal", signal, limit) for name, (signal, limit) in NOMINAL.items()]
    rules += [(name, "calibrated", signal, limits[name]) for name, signal in DETECTORS.items()]
    rows = []
    for name, rule, signal, limit in rules:
        alarm = signal(clean, usual)[BEFORE:] > limit
        rows.append(
            {"detector": name, "rule": rule, "limit": limit, "days": alarm.mean(), "months": alarm.any(0).mean()}
        )
    return pd.DataFrame(rows)


def _judge(value: np.ndarray, limit: float) -> dict[str, float]:
    alarm = value[BEFORE:] > limit
    quiet = ~alarm[:CLEAN].any(axis=0)
    after = alarm[CLEAN:, quiet]
    delay = np.where(after.any(axis=0), after.argmax(axis=0) + 1, np.inf)
    in_time = delay <= WITHIN
    return {
        "power": float(in_time.mean()) if quiet.any() else float("nan"),
        "delay": float(np.median(delay[in_time])) if in_time.any() else float("nan"),
        "months": int(quiet.sum()),
    }
