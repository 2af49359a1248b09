"""Pre-trained or custom: what a consortium's model is worth at a bank that has few labels of its own, or many.

The consortium is another simulated bank: other customers, other terminals, another mix of frauds. It trains a
model and publishes it. The local bank checks the card, and then has three choices as its own labels grow:

- ``direct``: use the published model as it is;
- ``adapted``: fit a logistic regression on its own features and the log-odds of the published model;
- ``from_scratch``: fit gradient boosting on its own features alone.

A control, ``scratch_logistic``, is the same logistic regression without the published model. It separates
what the published model adds from what a simple model adds. All are judged on the last weeks of the local
training period; the test weeks stay closed. The artifact:

- ``pretrained/``: the published model (see `lifecycle.consortium.pretrained`), and ``release.json``, its digest;
- ``curve.json``: the metrics by number of days of local labels, with intervals, and where the curves cross;
- ``curve.parquet``: every repeat and draw behind them, one row each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import economics, files
from lifecycle.consortium.pretrained import ALLOWED_LICENSES, check_pretrained, load_pretrained, publish
from lifecycle.contracts import midnight
from lifecycle.economics.business import expected_gain
from lifecycle.training import (
    HONEST_ROWS,
    Model,
    TrainingData,
    dataset_facts,
    feature_matrix,
    feature_names,
    fit_model,
    known_rows,
    read_training,
    save_model,
    score_rows,
    side_by_side,
)
from lifecycle.training.metrics import LEVEL, Ranking, describe_interval

__all__ = [
    "ALLOWED_LICENSES",
    "DAYS",
    "METHODS",
    "PAIRS",
    "build",
    "check_pretrained",
    "crossing",
    "describe_curve",
    "load_pretrained",
    "log_odds",
    "publish",
    "shared_schema",
]

METHODS = ("direct", "adapted", "from_scratch", "scratch_logistic")
"""What is compared; the last one is the control."""

METRICS = ("average_precision", "share_of_perfect")

PAIRS = (
    ("from_scratch", "direct"),
    ("from_scratch", "adapted"),
    ("adapted", "direct"),
    ("adapted", "scratch_logistic"),
)
"""Which methods are compared pairwise."""

DAYS = (2, 4, 7, 14)
"""Days of local payments whose labels are known; all that there are come last."""

REPEATS = 4
DRAWS = 20
LOGISTIC_ROWS = 20_000  # a logistic regression learns no more from three times as many honest payments
BANK_SHARE = 0.8  # each repeat is a bank with so many of the customers
VALIDATION_DAYS = 14


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Train and publish the consortium's model, then measure it at the local bank as its labels grow.

    Parameters
    ----------
    settings
        The calendar, ``seed``, and the prices of `lifecycle.economics`.
    inputs
        ``features`` and ``preprocessing`` of the local bank, and both with the prefix ``consortium:``.
    out
        An empty folder.
    """
    moment = _moment(settings)
    local = read_training(inputs, settings)
    of_home = {name: inputs[f"consortium:{name}"] for name in ("features", "preprocessing")}
    home = read_training(of_home, settings)
    schema = shared_schema(home.schema, local.schema)
    origin = dataset_facts(of_home, home.schema, settings)
    digest = _publish(home, schema, moment, origin, settings, out / "pretrained")
    del home
    files.write_json({"sha256": digest, "file": "card.json"}, out / "release.json")

    model = load_pretrained(out / "pretrained", digest)
    table = measure(local, model, moment, settings)
    files.write_parquet(table, out / "curve.parquet")
    facts = {
        **_describe_judged(local, moment, settings),
        "repeats": REPEATS,
        "draws": DRAWS,
        "bank_share": BANK_SHARE,
        "features": {"local": len(feature_names(local.schema)), "shared": len(feature_names(schema))},
        "fraud": {"local": _describe_fraud(local), "consortium": model.facts["card"]["population"]["fraud"]},
    }
    files.write_json(describe_curve(table) | facts, out / "curve.json")


def _describe_judged(local: TrainingData, moment: pd.Timestamp, settings: Any) -> dict[str, Any]:
    """Return on which payments of the local bank all methods are judged."""
    later = (local.frame["event_time"] >= moment).to_numpy()
    return {
        "labels_as_of": str(moment.date()),
        "validation": {
            "from": str(moment.date()),
            "until": settings.train_until.isoformat(),
            "rows": int(later.sum()),
            "frauds": int(local.frame["is_fraud"].to_numpy()[later].sum()),
            "customers": local.frame["customer_id"].nunique(),
        },
    }


def _moment(settings: Any) -> pd.Timestamp:
    """Return when the bank decides: the beginning of the last weeks of the training period."""
    length = (settings.train_until - settings.train_from).days
    return midnight(settings.train_until - timedelta(days=max(1, min(VALIDATION_DAYS, length // 3))))


def shared_schema(home: Mapping[str, Any], local: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a feature schema that means the same in both banks, in the order of `home`.

    A code of a category is shared if both banks number its levels alike. A feature of a text is shared if both
    weigh its parts alike; weights that each bank fits on its own texts are not.

    Examples
    --------
    >>> home = {"features": [{"name": "amount"}, {"name": "channel_code"}], "categories": {"channel": ["a", "b"]}}
    >>> local = {**home, "categories": {"channel": ["a"]}}
    >>> shared_schema(home, local)["features"]
    [{'name': 'amount'}]
    """
    other = {
        name: values
        for kind in ("categories", "texts")
        for name, values in home.get(kind, {}).items()
        if local.get(kind, {}).get(name) != values
    }
    own = set(feature_names(local))
    kept = [
        feature
        for feature in home["features"]
        if feature["name"] in own and feature["name"].rpartition("_")[0] not in other
    ]
    parts = {
        kind: {name: values for name, values in home.get(kind, {}).items() if name not in other}
        for kind in ("categories", "texts")
    }
    return {"features": kept, **parts}


def _publish(
    home: TrainingData, schema: Mapping[str, Any], moment: pd.Timestamp, origin: Mapping[str, Any],
    settings: Any, folder: Path,
) -> str:  # fmt: skip
    """Fit the consortium's model with what it knew at `moment`, write it with its card, and return the digest."""
    matrix, fraud = feature_matrix(home.frame, schema), home.frame["is_fraud"].to_numpy()
    rows, known = known_rows(home.frame, home.labels, moment)
    origin = {**origin, "seed": settings.seed + 1000, "labels_as_of": str(moment.date())}
    fitted = fit_model("gradient_boosting", matrix[rows], known, feature_names(schema), origin["seed"])
    later = np.flatnonzero((home.frame["event_time"] >= moment).to_numpy())
    score = score_rows(fitted, matrix[later])
    save_model(
        fitted, schema, folder, sample=matrix[later[-20_000:]], name="consortium",
        threshold=economics.best_threshold(fraud[later], home.frame["amount"].to_numpy()[later], score, settings)[0],
        trained_from=settings.train_from.isoformat(), trained_until=origin["labels_as_of"],
        labels_as_of=origin["labels_as_of"], rows=len(rows), frauds=int(known.sum()),
        code_version=origin["code_version"],
    )  # fmt: skip
    population = {
        "customers": int(home.frame["customer_id"].nunique()),
        "terminals": int(home.frame["terminal_id"].nunique()),
        "payments": len(rows),
        "frauds": int(known.sum()),
        "fraud": _describe_fraud(home),
    }
    return publish(folder, _card(population, Ranking(fraud[later], score), origin, settings))


def _card(population: dict[str, Any], ranking: Ranking, origin: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """Return what the card of the published model says: for whom, how good where, its limits, where it comes from."""
    known = ("dataset_sha256", "code_version", "seed", "labels_as_of")
    return {
        "name": "consortium",
        "license": "CC-BY-4.0",
        "intended_use": "Ranks card payments by risk, for review by a person. Not for declining without a review.",
        "population": population,
        "period": {"from": settings.train_from.isoformat(), "until": origin["labels_as_of"]},
        "metrics_at_home": {
            "from": origin["labels_as_of"],
            "until": settings.train_until.isoformat(),
            "average_precision": round(ranking.average_precision(), 4),
            "auc": round(ranking.area_under_roc(), 4),
        },
        "limits": [
            "Measured only at the consortium. The mix of frauds elsewhere differs, and so will every metric.",
            "Scores are probabilities at the consortium's share of fraud; calibrate them before money depends on them.",
            f"It knows nothing that happened after {origin['labels_as_of']}.",
        ],
        "provenance": {
            "publisher": "The simulated consortium of this course",
            "trained_on": "simulated card payments, no personal data",
            **{name: origin[name] for name in known},
        },
    }


def _describe_fraud(data: TrainingData) -> dict[str, float]:
    """Return what a bank can see of its frauds: their share, their median amount, how many were online."""
    frame = data.frame
    fraud = frame["is_fraud"].to_numpy() == 1
    found = {
        "share_of_payments": round(float(fraud.mean()), 6),
        "median_amount": round(float(np.median(frame["amount"].to_numpy(dtype=float)[fraud])), 2),
    }
    channels = data.schema.get("categories", {}).get("channel", [])
    if "online" in channels and "channel_code" in frame:
        online = frame["channel_code"].to_numpy()[fraud] == channels.index("online")
        found["share_online"] = round(float(online.mean()), 4)
    return found


def log_odds(score: np.ndarray) -> np.ndarray:
    """Return the log-odds of probabilities, float64, finite: ends are held at one in a million.

    Examples
    --------
    >>> log_odds(np.array([0.0, 0.5])).round(1).tolist()
    [-13.8, 0.0]
    """
    held = np.clip(score, 1e-6, 1 - 1e-6)
    return np.log(held) - np.log1p(-held)


@dataclass(frozen=True)
class _Task:
    """What every fit of the curve shares: the local bank, the published scores, and who is judged on what."""

    data: TrainingData
    odds: np.ndarray
    judged: np.ndarray
    codes: np.ndarray
    customers: int


def measure(data: TrainingData, model: Model, moment: pd.Timestamp, settings: Any) -> pd.DataFrame:
    """Return average precision and money of every method, for each number of days, repeat and draw.

    A repeat is a bank with `BANK_SHARE` of the customers that began to keep labels on another day, where there
    is room. Only labels known at `moment` are learned from. Each fit is judged on all payments from `moment` on,
    and on `DRAWS` resamples of their customers, the same for all methods.

    Returns
    -------
    pandas.DataFrame
        ``days``, ``repeat``, ``draw``, ``method``, ``frauds`` (learned from), ``average_precision``,
        ``share_of_perfect`` (savings, of those that a perfect decision would bring).
    """
    frame = data.frame
    judged = np.flatnonzero((frame["event_time"] >= moment).to_numpy())
    codes, customers = pd.factorize(frame["customer_id"])
    odds = log_odds(model.predict(feature_matrix(frame, model.schema)))
    task = _Task(data, odds, judged, codes, len(customers))
    rows, known = known_rows(frame, data.labels, moment)
    first = frame["event_time"].iloc[rows].min().floor("D")
    day = (frame["event_time"].iloc[rows] - first).dt.days.to_numpy()
    every = int(day.max()) + 1
    sizes = [*(days for days in DAYS if days < every), every]

    def one(repeat: int, days: int) -> pd.DataFrame:
        rng = np.random.default_rng([settings.seed, repeat])
        of_bank = rng.random(task.customers) < BANK_SHARE
        start = int(rng.random() * (every - days + 1))
        inside = (day >= start) & (day < start + days) & of_bank[codes[rows]]
        scores = _fit_all(task, rows[inside], known[inside], settings.seed + repeat)
        weights = rng.multinomial(task.customers, np.full(task.customers, 1 / task.customers), size=DRAWS)
        judgment = _judge(task, scores, weights, settings)
        return judgment.assign(days=days, repeat=repeat, frauds=int(known[inside].sum()))

    jobs = [(repeat, days) for days in reversed(sizes) for repeat in range(REPEATS)]  # the longest first
    return pd.concat(side_by_side(one, jobs), ignore_index=True).sort_values(
        ["days", "repeat", "draw"], kind="stable", ignore_index=True
    )


def _fit_all(task: _Task, rows: np.ndarray, known: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the scores of every method on the judged payments.

    With fewer than two frauds nothing is fitted: the published model stays as it is, the others cannot rank.
    """
    judged, matrix, names = task.judged, task.data.matrix, feature_names(task.data.schema)
    published = 1 / (1 + np.exp(-task.odds[judged]))
    scores = {"direct": published, "adapted": published}
    scores |= {name: np.zeros(len(judged)) for name in METHODS[2:]}
    if not 2 <= known.sum() < len(known):
        return scores

    def fitted(name: str, columns: np.ndarray | None) -> np.ndarray:
        learn, judge, labels = matrix[rows], matrix[judged], names
        if columns is not None:
            more = columns.astype(np.float32)
            learn, judge = np.column_stack([learn, more[rows]]), np.column_stack([judge, more[judged]])
            labels = [*names, "published_log_odds"]
        most = LOGISTIC_ROWS if name == "logistic_regression" else HONEST_ROWS
        return score_rows(fit_model(name, learn, known, labels, seed, honest_rows=most), judge)

    scores["adapted"] = fitted("logistic_regression", task.odds)
    scores["from_scratch"] = fitted("gradient_boosting", None)
    scores["scratch_logistic"] = fitted("logistic_regression", None)
    return scores


def _judge(task: _Task, scores: Mapping[str, np.ndarray], weights: np.ndarray, settings: Any) -> pd.DataFrame:
    """Return the metrics of each method under each draw of the customers (times drawn, shape (draws, customers))."""
    frame, codes = task.data.frame, task.codes[task.judged]
    fraud = frame["is_fraud"].to_numpy(dtype=np.float64)[task.judged]
    amount = frame["amount"].to_numpy(dtype=np.float64)[task.judged]
    nothing = economics.decision_costs(fraud, amount, np.zeros(len(fraud)), settings)
    best = fraud * np.maximum(amount + settings.chargeback_fee - settings.review_cost, 0)
    perfect = np.maximum(weights @ np.bincount(codes, best, task.customers), 1e-9)
    parts = []
    for method, score in scores.items():
        flagged = expected_gain(score, amount, settings) > 0  # a threshold by amount, chosen on no label that judges
        saved = nothing - economics.decision_costs(fraud, amount, flagged, settings)
        ranking = Ranking(fraud, score)
        parts.append(pd.DataFrame({
            "draw": np.arange(len(weights)),
            "method": method,
            "average_precision": [ranking.average_precision(times[codes].astype(float)) for times in weights],
            "share_of_perfect": weights @ np.bincount(codes, saved, task.customers) / perfect,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def describe_curve(table: pd.DataFrame) -> dict[str, Any]:
    """Return the curve of each method with 95 % percentile intervals, the paired differences, and the crossings.

    Parameters
    ----------
    table
        What `measure` returned.

    Returns
    -------
    dict
        ``points`` (one a method and number of days), ``differences`` (what a method is ahead of another,
        paired by repeat and draw) and ``crossings`` (see `crossing`), both by metric and ``"method over method"``.
    """
    points = [
        {"method": method, "days": int(days), "frauds": round(float(part["frauds"].mean()), 1)}
        | {metric: describe_interval(part[metric].mean(), part[metric].to_numpy()) for metric in METRICS}
        for (method, days), part in table.groupby(["method", "days"], sort=True)
    ]
    differences: dict[str, dict[str, Any]] = {metric: {} for metric in METRICS}
    crossings: dict[str, dict[str, Any]] = {metric: {} for metric in METRICS}
    for metric in METRICS:
        wide = table.pivot(index=["repeat", "draw"], columns=["method", "days"], values=metric)
        for one, other in PAIRS:
            ahead, name = wide[one] - wide[other], f"{one} over {other}"
            differences[metric][name] = [
                {"days": int(days)} | describe_interval(ahead[days].mean(), ahead[days].to_numpy()) for days in ahead
            ]
            crossings[metric][name] = crossing(ahead)
    sizes = [int(days) for days in sorted(table["days"].unique())]
    return {"days": sizes, "points": points, "differences": differences, "crossings": crossings}


def crossing(ahead: pd.DataFrame) -> dict[str, float | None]:
    """Return after how many days of labels a difference turns positive for good.

    Parameters
    ----------
    ahead
        The difference of two methods: one row a repeat, one column a number of days (rising).

    Returns
    -------
    dict
        ``share`` of the rows that are positive at the last column; of these, ``already`` is the share that
        is positive at every column; ``days``, ``low``, ``high``: the median and the interval over all rows, where a
        row that is ahead from the start counts as the first number of days, and one that never is as infinite
        (None).

    Examples
    --------
    >>> crossing(pd.DataFrame([[-0.1, 0.1], [-0.1, 0.1]], columns=[2, 8]))
    {'share': 1.0, 'already': 0.0, 'days': 4.0, 'low': 4.0, 'high': 4.0}
    """
    days = np.log(np.array(ahead.columns, dtype=float))
    at = np.array([_turns(days, row) for row in ahead.to_numpy()])
    crossed = np.isfinite(at)
    tail = (1 - LEVEL) / 2
    low, middle, high = np.quantile(at, [tail, 0.5, 1 - tail], method="inverted_cdf")
    already = (ahead.to_numpy() > 0).all(axis=1)
    return {
        "share": round(float(crossed.mean()), 4),
        "already": round(float(already.mean()), 4),
        **{name: _days(value) for name, value in (("days", middle), ("low", low), ("high", high))},
    }


def _turns(days: np.ndarray, ahead: np.ndarray) -> float:
    """Return where a broken line crosses 0 upward for the last time; infinity if it ends below."""
    if not ahead[-1] > 0:
        return math.inf
    below = np.flatnonzero(~(ahead > 0))
    if not len(below):
        return float(days[0])
    left = below[-1]
    share = -ahead[left] / (ahead[left + 1] - ahead[left])
    return float(days[left] + share * (days[left + 1] - days[left]))


def _days(log_days: float) -> float | None:
    return round(math.exp(log_days), 1) if math.isfinite(log_days) else None
