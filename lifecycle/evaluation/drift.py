"""Will it last, and does it travel: the champion by week, as it grows old, and in a second bank.

Two kinds of change are kept apart. A week can be hard for every model; that is seen in the champion's score by week.
A model can grow old; that is the distance between a model that was never fitted again and one fitted with the labels of
the day, on the same payments (`measure_age`). All intervals draw whole customers, the same ones in every week.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import files
from lifecycle.contracts import midnight
from lifecycle.evaluation.reach import ALL, Recipe
from lifecycle.evaluation.uncertainty import RESAMPLES, draw_customers
from lifecycle.evaluation.weighing import Weighing
from lifecycle.training import Fold, Model, TrainingData, feature_matrix, feature_names, known_rows
from lifecycle.training.metrics import card_ids, describe_interval

WEEK = pd.Timedelta(days=7)

FEATURES = 12
"""So many features are compared: those that separated fraud best, one by one, in the validation weeks."""


@dataclass(frozen=True)
class Scored:
    """Payments with labels and scores, in blocks of time (weeks), and how often each draw counts their customers.

    The first draw counts every customer once; the others are random.
    """

    block: np.ndarray
    is_fraud: np.ndarray
    mode: np.ndarray
    codes: np.ndarray
    draws: np.ndarray

    def average_precision(self, score: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the average precision of some rows under each draw."""
        weighing = Weighing(self.is_fraud[rows], score[rows], self.codes[rows], self.draws.shape[1])
        return weighing.average_precision(self.draws)

    @classmethod
    def of(cls, frame: pd.DataFrame, seed: int, resamples: int = RESAMPLES) -> Scored:
        """Take ``block``, ``is_fraud``, ``customer_id`` and, where it is known, ``mode`` from a table."""
        codes, customers = pd.factorize(card_ids(frame))
        once = np.ones((1, len(customers)), dtype=np.int64)
        draws = np.concatenate([once, draw_customers(len(customers), seed, resamples)])
        mode = frame["mode"].to_numpy() if "mode" in frame else np.full(len(frame), "")
        return cls(frame["block"].to_numpy(), frame["is_fraud"].to_numpy(dtype=int), mode, codes, draws)


def _describe(values: np.ndarray) -> dict[str, float | None]:
    return describe_interval(float(values[0]), values[1:])


def slope(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the least-squares slope of each column of `values` over `at`.

    Parameters
    ----------
    values
        One row a time, one column a draw.
    at
        The times, shape (rows,).

    Examples
    --------
    >>> slope(np.array([[0.0, 5.0], [1.0, 4.0], [2.0, 3.0]]), np.array([0, 1, 2])).tolist()
    [1.0, -1.0]
    """
    centered = at - np.mean(at)
    return centered @ (values - values.mean(axis=0)) / max(float((centered**2).sum()), 1e-12)


def measure_weeks(test: pd.DataFrame, score: np.ndarray, settings: Any) -> dict[str, Any]:
    """Return the champion's average precision in each week of the test, and its slope, with intervals.

    Returns
    -------
    dict
        ``weeks``: ``week``, ``from``, ``payments``, ``frauds``, ``average_precision`` (`value`, `low`, `high`);
        ``slope``: change of average precision a week.
    """
    known = test["is_fraud"].notna().to_numpy()
    start = midnight(settings.test_from)
    frame = test.loc[known, ["transaction_id", "customer_id", "event_time", "is_fraud"]].reset_index(drop=True)
    frame["block"] = (frame["event_time"] - start) // WEEK
    scored, kept = Scored.of(frame, settings.seed), score[known]
    rows, curves = [], []
    for week in np.unique(scored.block):
        inside = scored.block == week
        if not 0 < scored.is_fraud[inside].sum() < inside.sum():
            continue
        curves.append(scored.average_precision(kept, inside))
        rows.append({
            "week": int(week) + 1, "from": str((start + int(week) * WEEK).date()), "payments": int(inside.sum()),
            "frauds": int(scored.is_fraud[inside].sum()), "average_precision": _describe(curves[-1]),
        })  # fmt: skip
    trend = _describe(slope(np.array(curves), np.array([row["week"] for row in rows]))) if len(rows) > 1 else None
    return {"weeks": rows, "slope": trend}


def measure_age(
    data: TrainingData,
    cuts: list[Fold],
    fresh: np.ndarray,
    test: pd.DataFrame,
    score: np.ndarray,
    recipe: Recipe,
    truth: pd.DataFrame,
    settings: Any,
) -> dict[str, Any]:
    """Fit the champion once with the labels known when the first validation week began, and never again.

    Parameters
    ----------
    cuts
        The time-ordered folds.
    fresh
        Scores of the training set's rows by models fitted when their week began; NaN outside the validation weeks.
    test, score
        The test set, and the champion's scores of it.
    truth
        The answer key, for the kinds of fraud.

    Returns
    -------
    dict
        ``weeks``: ``from``, ``age`` (weeks since the old model's labels), ``fresh`` and ``old`` (average precision)
        and ``loss`` (fresh less old), with intervals; ``slope``: loss a week of age; ``modes``: what the old model
        loses in the test weeks on each kind of fraud, by the truth (`_losses`); ``fitted_with`` (the day whose labels
        the old model knew), ``rows`` and ``recent_rows``.
    """
    first, names = cuts[0], feature_names(data.schema)
    rows = np.concatenate([fold.validation for fold in cuts])
    labels = np.concatenate([fold.validation_labels for fold in cuts])
    known = test["is_fraud"].notna().to_numpy()
    columns = ["transaction_id", "customer_id", "event_time"]
    frame = pd.concat([data.frame.iloc[rows][columns], test.loc[known, columns]], ignore_index=True)
    frame["is_fraud"] = np.concatenate([labels, test.loc[known, "is_fraud"].to_numpy(dtype=int)])
    found = frame[["transaction_id"]].merge(truth[["transaction_id", "mode", "is_fraud"]], how="left")
    frame["mode"] = np.where(found["is_fraud"] == 1, found["mode"].astype(object), "").astype(str)
    frame["block"] = (frame["event_time"] - first.from_) // WEEK
    later = np.concatenate([data.matrix[rows], feature_matrix(test[known], data.schema)])
    recent, recent_labels = _last_days(data, first, settings)
    old, short = (
        recipe.fit_and_score(data.matrix[fit], fit_labels, names, later)
        for fit, fit_labels in ((first.fit, first.fit_labels), (recent, recent_labels))
    )
    new = np.concatenate([fresh[rows], score[known]])
    scored = Scored.of(frame, settings.seed)
    weeks, losses = [], []
    for block in np.unique(scored.block):
        inside = scored.block == block
        both = [scored.average_precision(one, inside) for one in (new, old)]
        losses.append(both[0] - both[1])
        weeks.append({
            "from": str((first.from_ + int(block) * WEEK).date()), "age": int(block),
            "fresh": _describe(both[0]), "old": _describe(both[1]), "loss": _describe(losses[-1]),
        })  # fmt: skip
    return {
        "fitted_with": str(first.from_.date()),
        "rows": len(first.fit),
        "recent_rows": len(recent),
        "weeks": weeks,
        "slope": _describe(slope(np.array(losses), np.array([week["age"] for week in weeks]))),
        "modes": _losses(scored, (new, short, old), (frame["event_time"] >= midnight(settings.test_from)).to_numpy()),
    }


def _last_days(data: TrainingData, first: Fold, settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and labels of the latest days before the test, as many days as the first fold was fitted on."""
    times = data.frame["event_time"]
    rows, labels = known_rows(data.frame, data.labels, midnight(settings.test_from))
    span = times.iloc[first.fit].max() - times.iloc[first.fit].min()
    late = (times.iloc[rows] >= times.iloc[rows].max() - span).to_numpy()
    return rows[late], labels[late]


def _losses(
    scored: Scored, scores: tuple[np.ndarray, np.ndarray, np.ndarray], rows: np.ndarray
) -> list[dict[str, Any]]:
    """Return the average precision of a fresh, a short and an old model on some rows, by kind of fraud.

    The short model is fitted on as few days as the old one, but the latest. So ``loss`` (fresh less old) is
    ``shorter`` (fresh less short: less to learn from) plus ``older`` (short less old: the world has moved).
    """
    found = []
    honest = scored.mode == ""
    for kind in [ALL, *sorted(set(scored.mode[rows]) - {""})]:
        fraud = ~honest if kind == ALL else scored.mode == kind
        inside = rows & (fraud | honest)
        new, short, old = (
            Weighing(fraud[inside], one[inside], scored.codes[inside], scored.draws.shape[1]).average_precision(
                scored.draws
            )
            for one in scores
        )
        found.append({
            "mode": kind, "frauds": int(fraud[inside].sum()), "fresh": round(float(new[0]), 6),
            "short": round(float(short[0]), 6), "old": round(float(old[0]), 6),
            "loss": _describe(new - old), "shorter": _describe(new - short), "older": _describe(short - old),
        })  # fmt: skip
    return found


def measure_features(
    data: TrainingData, cuts: list[Fold], test: pd.DataFrame, settings: Any, most: int = FEATURES
) -> list[dict[str, Any]]:
    """Compare how well single features separate fraud in the validation weeks and in the test weeks.

    Returns
    -------
    list of dict
        The `most` features that separated best in the validation weeks, largest change first: ``feature``,
        ``validation`` and ``test`` (area under the ROC curve, 0.5 is chance; the side is that of the validation
        weeks), ``change`` with its interval.
    """
    names = feature_names(data.schema)
    rows = np.concatenate([fold.validation for fold in cuts])
    known = test["is_fraud"].notna().to_numpy()
    customers = [data.frame.iloc[rows]["customer_id"], test.loc[known, "customer_id"]]
    codes, ids = pd.factorize(pd.concat(customers, ignore_index=True))
    draws = np.concatenate([np.ones((1, len(ids))), draw_customers(len(ids), settings.seed)])
    parts = (
        (np.concatenate([fold.validation_labels for fold in cuts]), data.matrix[rows], codes[: len(rows)]),
        (test.loc[known, "is_fraud"].to_numpy(dtype=int), feature_matrix(test[known], data.schema), codes[len(rows) :]),
    )

    def area(part: int, column: int, sign: float, weights: np.ndarray) -> np.ndarray:
        fraud, matrix, who = parts[part]
        values = np.nan_to_num(sign * matrix[:, column].astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        return Weighing(fraud, values, who, len(ids)).area_under_roc(weights)

    sides = [[float(area(0, column, sign, draws[:1])[0]) for sign in (1.0, -1.0)] for column in range(len(names))]
    chosen = sorted(range(len(names)), key=lambda column: -max(sides[column]))[:most]
    found = []
    for column in chosen:
        sign = 1.0 if sides[column][0] >= sides[column][1] else -1.0
        before, after = (area(part, column, sign, draws) for part in (0, 1))
        found.append({
            "feature": names[column], "validation": round(float(before[0]), 6), "test": round(float(after[0]), 6),
            "change": _describe(after - before),
        })  # fmt: skip
    return sorted(found, key=lambda row: row["change"]["value"])


def translate(frame: pd.DataFrame, payments: pd.DataFrame, schema: Mapping[str, Any]) -> pd.DataFrame:
    """Compute for payments of another bank the features that depend on what was fitted at home: codes and texts.

    Parameters
    ----------
    frame
        Features of the other bank.
    payments
        Its transactions, with the category and text columns.
    schema
        The feature schema of the home bank.
    """
    from lifecycle.features.request import encode
    from lifecycle.features.text import text_names, vectorize

    own = frame[["transaction_id"]].merge(payments, on="transaction_id", how="left")
    columns = {f"{name}_code": encode(own[name], words) for name, words in schema["categories"].items()}
    for name, fitted in schema.get("texts", {}).items():
        columns |= dict(zip(text_names({name: fitted}), vectorize(own[name], fitted).T, strict=True))
    return frame.assign(**columns)


def measure_second(
    inputs: Mapping[str, Path], home: Model, recipe: Recipe, threshold: float, settings: Any
) -> dict[str, Any]:
    """Apply the champion as it is to the second bank's test weeks, beside a model trained there in the same way.

    Returns
    -------
    dict
        ``payments``, ``frauds``, ``local_rows``, ``local_frauds``; ``as_it_is``, ``local`` and ``difference`` (as it
        is less local) of average precision, and ``recall`` and ``alerts_per_1000`` of the champion at the threshold
        it was given at home, each with an interval; ``expected_to_actual`` frauds by its scores.
    """
    folder = inputs["second:features"]
    schema, labels = files.read_json(folder / "schema.json"), pd.read_parquet(folder / "labels.parquet")
    test = pd.read_parquet(folder / "test_set.parquet")
    test = test[test["is_fraud"].notna()].reset_index(drop=True)
    train = pd.read_parquet(folder / "training_set.parquet")
    rows, known = known_rows(train, labels, midnight(settings.test_from))
    local = recipe.fit_and_score(
        feature_matrix(train, schema)[rows], known, feature_names(schema), feature_matrix(test, schema)
    )
    columns = ["transaction_id", *home.schema["categories"], *home.schema.get("texts", {})]
    payments = pd.read_parquet(inputs["second:preprocessing"] / "transactions.parquet", columns=columns)
    as_it_is = home.predict(feature_matrix(translate(test, payments, home.schema), home.schema))
    scored = Scored.of(test.assign(block=0), settings.seed)
    every = np.ones(len(test), dtype=bool)
    both = [scored.average_precision(score, every) for score in (as_it_is, local)]
    flagged = as_it_is >= threshold
    count = scored.draws.shape[1]
    hits, alerts, frauds, rows_in_all = (
        scored.draws @ np.bincount(scored.codes[mask], minlength=count)
        for mask in (flagged & (scored.is_fraud == 1), flagged, scored.is_fraud == 1, every)
    )
    return {
        "payments": len(test), "frauds": int(scored.is_fraud.sum()), "local_rows": len(rows),
        "local_frauds": int(known.sum()), "as_it_is": _describe(both[0]), "local": _describe(both[1]),
        "difference": _describe(both[0] - both[1]), "recall": _describe(hits / np.maximum(frauds, 1)),
        "alerts_per_1000": _describe(1000 * alerts / rows_in_all),
        "expected_to_actual": round(float(as_it_is.sum() / max(scored.is_fraud.sum(), 1)), 6),
    }  # fmt: skip
