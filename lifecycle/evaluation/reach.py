"""How good could anyone be: what the champion reaches of what can be reached, by kind of fraud, and what is missing.

Two questions are kept apart. Which kinds of fraud can the features see at all? That is decided on the validation
weeks, by a rule that was fixed before the test weeks were opened (`seen_modes`). And what would the missing part
need? The champion is fitted again with its own settings, each time with one thing known that it does not know
(`measure_needs`). What a refit gains is what that knowledge is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle.contracts import midnight
from lifecycle.evaluation.uncertainty import RESAMPLES, draw_customers
from lifecycle.evaluation.weighing import Weighing
from lifecycle.training import HONEST_ROWS, TrainingData, feature_names, fit_model, known_rows, score_rows, side_by_side
from lifecycle.training.metrics import card_ids, describe_interval

GOAL = 0.85
"""The share of the oracle's result that the champion should reach where the features can see the fraud."""

SEEN = 0.5
"""The features see a kind of fraud if one of them alone finds this share of it at the champion's false alarms."""

ALL = "all"
"""The name of all kinds of fraud together."""

MICROS_PER_DAY = 86_400_000_000

NEEDS: Mapping[str, str] = {
    "half_the_customers": "half as many customers to learn from",
    "true_labels": "training labels without a report that never came or came too late",
    "reports_at_once": "every fraud reported the moment it happens, in the features",
    "tamper_sensor": "the tamper alarms of the terminals in the last 21 days, which the bank has and does not use",
    "hidden_terminal": "which terminals are tampered with at the moment",
    "hidden_card": "which cards are in the hands of thieves today",
}
"""What the champion is fitted again with, one at a time. The last two are hidden from every bank."""

CONTROLS = 4
"""Fits with nothing more but another draw of honest payments: what a refit gains or loses by luck."""


@dataclass(frozen=True)
class Recipe:
    """How the champion was fitted: the rung, its hyperparameters, the honest payments it sees, the seed."""

    kind: str
    params: Mapping[str, Any]
    honest_rows: int
    seed: int

    @classmethod
    def of(cls, name: str, found: Mapping[str, Any], seed: int) -> Recipe:
        """Return the recipe of a candidate from what its stage has written about it.

        Examples
        --------
        >>> Recipe.of("tuned_gradient_boosting", {"params": {"max_iter": 9}}, 7).kind
        'gradient_boosting'
        """
        rows = found.get("final_rows", HONEST_ROWS)
        return cls(name.removeprefix("tuned_"), found.get("params", {}), rows, seed)

    def fit_and_score(
        self, matrix: np.ndarray, is_fraud: np.ndarray, names: list[str], other: np.ndarray
    ) -> np.ndarray:
        """Fit on one matrix and return the scores of the rows of another."""
        model = fit_model(self.kind, matrix, is_fraud, names, self.seed, self.honest_rows, **self.params)
        return score_rows(model, other)


@dataclass(frozen=True)
class Graded:
    """Payments of the test weeks with the truth: who paid (a number), kind of fraud ("" for honest), oracle, draws."""

    codes: np.ndarray
    mode: np.ndarray
    oracle: np.ndarray
    draws: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame, truth: pd.DataFrame, seed: int, resamples: int = RESAMPLES) -> Graded:
        """Join the answer key to payments; the first draw counts every customer once, the others at random."""
        found = frame[["transaction_id"]].merge(truth, on="transaction_id", how="left")
        mode = np.where(found["is_fraud"] == 1, found["mode"].astype(object), "").astype(str)
        codes, customers = pd.factorize(card_ids(frame))
        once = np.ones((1, len(customers)), dtype=np.int64)
        draws = np.concatenate([once, draw_customers(len(customers), seed, resamples)])
        return cls(codes, mode, found["oracle"].fillna(0.0).to_numpy(), draws)

    def kinds(self) -> list[str]:
        """Return the kinds of fraud among the payments."""
        return sorted(set(self.mode) - {""})

    def weigh(self, score: np.ndarray, kind: str) -> Weighing:
        """Return the ranking of one kind of fraud (or `ALL`) against all honest payments."""
        fraud = self.mode != "" if kind == ALL else self.mode == kind
        rows = fraud | (self.mode == "")
        return Weighing(fraud[rows], score[rows], self.codes[rows], self.draws.shape[1])


def _describe(values: np.ndarray) -> dict[str, float | None]:
    return describe_interval(float(values[0]), values[1:])


def seen_modes(
    matrix: np.ndarray, names: list[str], mode: np.ndarray, budget: float, bar: float = SEEN
) -> list[dict[str, Any]]:
    """Say which kinds of fraud the features see: one feature alone must find `bar` of the frauds within the budget.

    Parameters
    ----------
    matrix, names
        Features of the payments of the validation weeks, shape (n, features), and their names.
    mode
        Kind of fraud of each payment, empty for honest ones, shape (n,).
    budget
        Share of honest payments that may be flagged: what the champion flags at its threshold in the same weeks.
    bar
        The share of the frauds that must be found.

    Returns
    -------
    list of dict
        One a kind: ``mode``, ``frauds``, ``feature`` (the one that finds most), ``side`` ("high" or "low" values are
        suspect), ``recall``, ``seen``.

    Examples
    --------
    >>> mode = np.array(["", "", "", "", "a", "b"])
    >>> rows = seen_modes(np.array([[1, 2, 3, 4, 9, 2]]).T, ["x"], mode, budget=0.25)
    >>> [(row["mode"], row["recall"], row["seen"]) for row in rows]
    [('a', 1.0, True), ('b', 0.0, False)]
    """
    honest = mode == ""
    allowed = int(budget * honest.sum())
    best: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(names):
        for side, sign in (("high", 1.0), ("low", -1.0)):
            values = sign * matrix[:, column].astype(np.float64)
            values[np.isnan(values)] = -np.inf
            most = -np.partition(-values[honest], allowed)[allowed]  # of equal values, all are flagged or none
            for kind in sorted(set(mode) - {""}):
                recall = float((values[mode == kind] > most).mean())
                if kind not in best or recall > best[kind]["recall"]:
                    best[kind] = {"mode": kind, "feature": name, "side": side, "recall": recall}
    return [{**row, "frauds": int((mode == kind).sum()), "seen": row["recall"] >= bar} for kind, row in best.items()]


def share_by_mode(graded: Graded, score: np.ndarray, threshold: float) -> tuple[list[dict[str, Any]], float]:
    """Compare the champion with the oracle, by kind of fraud and for all, with intervals by customer.

    Returns
    -------
    rows, budget
        One row a kind: ``mode``, ``frauds``, and, each with ``value``, ``low`` and ``high``: ``oracle`` and
        ``champion`` (average precision), ``share`` (of the two), ``oracle_recall``, ``champion_recall`` and
        ``recall_share`` with as many honest payments flagged as the champion does at its threshold. The budget is
        their share.
    """
    honest, count = graded.mode == "", graded.draws.shape[1]
    flagged = np.bincount(graded.codes[honest & (score >= threshold)], minlength=count)
    budget = graded.draws @ flagged / np.maximum(graded.draws @ np.bincount(graded.codes[honest], minlength=count), 1)
    rows = []
    for kind in [ALL, *graded.kinds()]:
        best, mine = graded.weigh(graded.oracle, kind), graded.weigh(score, kind)
        ap = [one.average_precision(graded.draws) for one in (best, mine)]
        recall = [one.recall_at(budget, graded.draws) for one in (best, mine)]
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = ap[1] / ap[0], recall[1] / recall[0]
        rows.append({
            "mode": kind, "frauds": int((graded.mode != "").sum() if kind == ALL else (graded.mode == kind).sum()),
            "oracle": _describe(ap[0]), "champion": _describe(ap[1]), "share": _describe(shares[0]),
            "oracle_recall": _describe(recall[0]), "champion_recall": _describe(recall[1]),
            "recall_share": _describe(shares[1]),
        })  # fmt: skip
    return rows, float(budget[0])


def count_before(
    frame: pd.DataFrame, events: pd.DataFrame, key: str, days: int, until_midnight: bool = False
) -> np.ndarray:
    """Return how many events an entity had in the days before each payment, float64 of shape (rows of `frame`,).

    Parameters
    ----------
    frame, events
        With the id column `key` and ``event_time``.
    days
        Length of the window, which ends just before the payment.
    until_midnight
        End at the midnight before the payment instead.

    Examples
    --------
    >>> times = pd.to_datetime(["2025-01-01 10:00", "2025-01-02 09:00"], utc=True)
    >>> table = pd.DataFrame({"terminal_id": [1, 1], "event_time": times})
    >>> count_before(table, table, "terminal_id", 7).tolist()
    [0.0, 1.0]
    """
    ids = pd.Index(events[key].unique())
    owner, asked = ids.get_indexer(events[key]), ids.get_indexer(frame[key])
    at, now = _micros(events["event_time"]), _micros(frame["event_time"])
    if until_midnight:
        now = now // MICROS_PER_DAY * MICROS_PER_DAY
    first = min(at.min(initial=0), now.min(initial=0) - days * MICROS_PER_DAY)
    span = max(at.max(initial=0), now.max(initial=0)) - first + 1
    order = np.sort(owner * span + (at - first))
    until, since = (np.searchsorted(order, asked * span + t - first) for t in (now, now - days * MICROS_PER_DAY))
    return np.where(asked >= 0, until - since, 0).astype(np.float64)


def _micros(times: pd.Series) -> np.ndarray:
    return times.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)


def report_features(frame: pd.DataFrame, frauds: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
    """Return the features made of fraud reports as they would be if every fraud was reported when it happened.

    Parameters
    ----------
    frame
        Payments with their features.
    frauds
        The frauds: ``customer_id``, ``terminal_id``, ``event_time``.
    names
        The features of the model; others are not computed.
    """
    found = {}
    for name in names:
        entity, fraud, rest = name.partition("_fraud_")
        if fraud:
            days = int(rest.removeprefix("ratio_").removesuffix("d"))
            count = count_before(frame, frauds, f"{entity}_id", days)
            base = np.maximum(frame[f"{entity}_count_{days}d"].to_numpy(), 1.0) if rest.startswith("ratio_") else 1.0
            found[name] = count / base
    return found


def hidden_state(frame: pd.DataFrame, payments: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return what no bank knows: whether the terminal is tampered with, and whether a thief has the card that day.

    Parameters
    ----------
    payments
        All payments with the truth: ``customer_id``, ``terminal_id``, ``event_time``, ``mode`` and ``oracle``. A
        terminal counts as tampered with from the first to the last fraud of a skimmer; a card as stolen on a day on
        which the oracle holds any of its payments for possible fraud.
    """
    skimmed = payments[payments["mode"] == "skimming"]
    times = skimmed.groupby("terminal_id")["event_time"].agg(["min", "max"])
    window = frame[["terminal_id"]].merge(times, left_on="terminal_id", right_index=True, how="left")
    at = frame["event_time"].to_numpy()
    tampered = (at >= window["min"].to_numpy()) & (at <= window["max"].to_numpy())
    suspect = payments[payments["oracle"] > 0]
    pairs = {
        name: pd.MultiIndex.from_arrays([table["customer_id"], _micros(table["event_time"]) // MICROS_PER_DAY])
        for name, table in (("suspect", suspect), ("asked", frame))
    }
    return {"terminal": tampered.astype(np.float64), "card": pairs["asked"].isin(pairs["suspect"]).astype(np.float64)}


def measure_needs(
    data: TrainingData,
    test: pd.DataFrame,
    graded: Graded,
    score: np.ndarray,
    recipe: Recipe,
    world: Mapping[str, pd.DataFrame],
    settings: Any,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Fit the champion again with one more thing known each time, and measure what it gains by kind of fraud.

    Parameters
    ----------
    data, test
        The training data and the test set.
    graded, score
        The truth of the test set, and the champion's scores.
    recipe
        How the champion was fitted.
    world
        ``payments`` (all, with the truth) and ``telemetry`` (``terminal_id``, ``event_time``, ``tamper_events``).

    Returns
    -------
    gains, luck
        One row an entry of `NEEDS` and kind of fraud: ``need``, ``what``, ``mode``, ``average_precision``, ``gain``
        over the champion and ``closed`` (share of its distance to the oracle), both with intervals; and by kind of
        fraud the largest change of average precision, up or down, of `CONTROLS` refits that know nothing more.
    """
    rows, known = known_rows(data.frame, data.labels, midnight(settings.test_from))
    frame = data.frame.iloc[rows].reset_index(drop=True)
    names = feature_names(data.schema)
    matrices = data.matrix[rows], test[names].to_numpy(dtype=np.float32)
    payments = world["payments"]
    truth = frame[["transaction_id"]].merge(payments[["transaction_id", "is_fraud"]], how="left")["is_fraud"]
    true = np.where(truth.isna(), known, truth).astype(np.int8)
    columns = _knowledge((frame, test), payments, world["telemetry"], names)
    half = np.random.default_rng(settings.seed).permutation(frame["customer_id"].unique())
    kept = frame["customer_id"].isin(half[: len(half) // 2]).to_numpy()

    def refit(need: str) -> np.ndarray:
        if need == "half_the_customers":
            return recipe.fit_and_score(matrices[0][kept], known[kept], names, matrices[1])
        if need == "true_labels":
            return recipe.fit_and_score(matrices[0], true, names, matrices[1])
        more = columns[need]
        widened = [_with_columns(matrix, names, extra) for matrix, extra in zip(matrices, more, strict=True)]
        wider = [*names, *(name for name in more[0] if name not in names)]
        return recipe.fit_and_score(widened[0], known, wider, widened[1])

    def again(step: int) -> np.ndarray:
        other = replace(recipe, seed=recipe.seed + step)
        return other.fit_and_score(matrices[0], known, names, matrices[1])

    scores = dict(zip(NEEDS, side_by_side(refit, [(need,) for need in NEEDS]), strict=True))
    controls = side_by_side(again, [(step + 1,) for step in range(CONTROLS)])
    return _gains(scores, graded, score), _luck(controls, graded, score)


def _knowledge(
    frames: tuple[pd.DataFrame, pd.DataFrame], payments: pd.DataFrame, telemetry: pd.DataFrame, names: list[str]
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Return, for each need that changes features, the changed or added columns of the training and of the test set."""
    frauds = payments[payments["is_fraud"] == 1]
    alarms = telemetry[telemetry["tamper_events"] > 0]
    hidden = [hidden_state(frame, payments) for frame in frames]
    return {
        "reports_at_once": [report_features(frame, frauds, names) for frame in frames],
        "tamper_sensor": [{"tamper_21d": count_before(f, alarms, "terminal_id", 21, True)} for f in frames],
        "hidden_terminal": [{"hidden_terminal": one["terminal"]} for one in hidden],
        "hidden_card": [{"hidden_card": one["card"]} for one in hidden],
    }


def _with_columns(matrix: np.ndarray, names: list[str], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the matrix with some columns replaced, where their name is known, or added."""
    replaced = matrix.copy()
    added = []
    for name, values in columns.items():
        if name in names:
            replaced[:, names.index(name)] = values
        else:
            added.append(values.astype(np.float32)[:, None])
    return np.hstack([replaced, *added]) if added else replaced


def _gains(scores: Mapping[str, np.ndarray], graded: Graded, score: np.ndarray) -> list[dict[str, Any]]:
    """Compare each refit with the champion, by kind of fraud."""
    rows = []
    for kind in [ALL, *graded.kinds()]:
        mine, best = (graded.weigh(one, kind).average_precision(graded.draws) for one in (score, graded.oracle))
        for need, found in scores.items():
            new = graded.weigh(found, kind).average_precision(graded.draws)
            rows.append({
                "need": need, "what": NEEDS[need], "mode": kind, "average_precision": round(float(new[0]), 6),
                "gain": _describe(new - mine), "closed": _describe((new - mine) / np.maximum(best - mine, 1e-12)),
            })  # fmt: skip
    return rows


def _luck(controls: list[np.ndarray], graded: Graded, score: np.ndarray) -> dict[str, float]:
    """Return by kind of fraud how far the average precision of the controls is from the champion's, at most."""
    once, found = graded.draws[:1], {}
    for kind in [ALL, *graded.kinds()]:
        mine, *others = (graded.weigh(one, kind).average_precision(once)[0] for one in (score, *controls))
        found[kind] = round(max(abs(float(other - mine)) for other in others), 6)
    return found


def read_world(inputs: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    """Read all payments with the truth, and the sensor feed, of the simulated bank."""
    truth = pd.read_parquet(inputs["world"] / "answer_key" / "truth.parquet")
    columns = ["transaction_id", "event_time", "customer_id", "terminal_id"]
    payments = pd.read_parquet(inputs["preprocessing"] / "transactions.parquet", columns=columns)
    telemetry = pd.read_parquet(
        inputs["preprocessing"] / "telemetry.parquet", columns=["terminal_id", "time", "tamper_events"]
    )
    return {
        "truth": truth,
        "payments": payments.merge(truth, on="transaction_id"),
        "telemetry": telemetry.rename(columns={"time": "event_time"}),
    }
