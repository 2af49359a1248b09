"""Failures read one by one: what the model saw in its costliest misses and surest false alarms, and what would help.

What a score was made of is told by exact Shapley values over a few *signals*, groups of features that say the same
thing in several ways, in log-odds and against ordinary honest payments. Single features would share
one effect among many. Source: Sundararajan and Najmi, "The many Shapley values for model explanation", ICML 2020
(baseline Shapley, here averaged over several baselines).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pandas as pd

from lifecycle.economics import business
from lifecycle.training import Model, feature_matrix

CASES = 10
SAMPLE = 300
"""False alarms whose reasons are counted: all of them would take long, and the shares would not change."""

BASELINES = 8
DAY = pd.Timedelta(days=1)
LATER = 14 * DAY
"""How long after a missed fraud a first report from its terminal still counts as one that came too late."""

SIGNALS: Mapping[str, tuple[str, ...]] = {
    "earlier reports": ("terminal_fraud", "customer_fraud"),
    "the place": ("distance_from_home", "customer_speed", "customer_km", "customer_new_places", "pair_count"),
    "the pace": ("customer_count", "customer_seconds", "customer_amount_1h", "customer_amount_24h",
                 "customer_amount_max_1h"),
    "the amount": ("amount", "log_amount", "customer_amount", "terminal_amount"),
    "the traffic at the terminal": ("terminal_count",),
    "the time": ("hour", "weekday", "is_weekend", "is_night"),
    "channel and merchant": ("channel", "merchant"),
}  # fmt: skip
"""Signal -> how the names of its features begin; the first that fits counts, and the rest is ``other columns``."""

GAIN, REPORT, BLOCK, LATE, SOURCE = (
    "a decision by expected gain", "a faster report", "blocking the card at its first alert",
    "nothing yet: the next payment of the card was flagged", "another source than the payment",
)  # fmt: skip


def signals_of(names: list[str]) -> dict[str, list[int]]:
    """Return the columns of each signal that has any.

    Examples
    --------
    >>> signals_of(["log_amount", "hour", "x_shoe_size"])
    {'the amount': [0], 'the time': [1], 'other columns': [2]}
    """
    found: dict[str, list[int]] = {signal: [] for signal in (*SIGNALS, "other columns")}
    for place, name in enumerate(names):
        fits = (signal for signal, starts in SIGNALS.items() if name.startswith(starts))
        found[next(fits, "other columns")].append(place)
    return {signal: places for signal, places in found.items() if places}


def contributions(model: Any, rows: np.ndarray, baselines: np.ndarray, signals: Mapping[str, list[int]]) -> np.ndarray:
    """Return how much each signal raised or lowered the score of each row, in log-odds.

    Parameters
    ----------
    model
        With ``predict``: float32 matrix -> scores between 0 and 1.
    rows
        float32, shape (n, features).
    baselines
        Ordinary rows to compare with, float32, shape (m, features).
    signals
        Signal -> its columns.

    Returns
    -------
    numpy.ndarray
        float64, shape (n, signals). A row adds up to its log-odds less the mean log-odds of the baselines.

    Examples
    --------
    >>> class Sum:
    ...     def predict(self, matrix):
    ...         return 1 / (1 + np.exp(-matrix.sum(axis=1)))
    >>> contributions(Sum(), np.array([[2.0, 1.0]]), np.zeros((1, 2)), {"a": [0], "b": [1]}).round(6).tolist()
    [[2.0, 1.0]]
    """
    columns, count = list(signals.values()), len(signals)
    both = np.repeat(rows, len(baselines), axis=0), np.tile(baselines, (len(rows), 1))
    value = {}
    for size in range(count + 1):
        for members in combinations(range(count), size):
            mixed = both[1].copy()
            for member in members:
                mixed[:, columns[member]] = both[0][:, columns[member]]
            score = np.clip(model.predict(mixed), 1e-9, 1 - 1e-9)
            value[frozenset(members)] = np.log(score / (1 - score)).reshape(len(rows), -1).mean(axis=1)
    found = np.zeros((len(rows), count))
    for members, worth in value.items():
        for signal in set(range(count)) - members:
            weight = factorial(len(members)) * factorial(count - len(members) - 1) / factorial(count)
            found[:, signal] += weight * (value[members | {signal}] - worth)
    return found


def read_failures(
    test: pd.DataFrame,
    score: np.ndarray,
    model: Model,
    threshold: float,
    reports: pd.DataFrame,
    truth: pd.DataFrame | None,
    settings: Any,
) -> dict[str, Any]:
    """Return the costliest misses and the surest false alarms, each with a sentence, and counts by reason.

    Parameters
    ----------
    test
        The test set, with its features.
    score
        The champion's score of each row.
    model, threshold
        The champion, and the score from which it flags.
    reports
        One row a label that says fraud: ``terminal_id``, ``known_at``.
    truth
        The answer key (``transaction_id``, ``is_fraud``, ``mode``), or None where there is no known truth.
    settings
        With ``seed`` and the prices of `lifecycle.economics`.

    Returns
    -------
    dict
        ``misses`` and ``false_alarms``: up to 10 cases each. ``reasons``: for all misses, ``by_remedy`` and ``by_mode``
        (number and amount); ``unreported``, how many false alarms were in truth frauds; for up to 300 false alarms
        drawn at random, ``by_signal``: what raised the score most, and how many of these were unreported frauds.
    """
    known = test["is_fraud"].notna().to_numpy()
    frame = test[known].assign(score=score[known]).reset_index(drop=True)
    fraud, flagged = frame["is_fraud"].to_numpy(dtype=int) == 1, frame["score"].to_numpy() >= threshold
    frame["flagged"], frame["mode"] = flagged, _modes(frame, truth)
    missed = _remedies(frame[fraud & ~flagged], frame, reports, settings).sort_values("amount", ascending=False)
    alarms = frame[~fraud & flagged].sort_values("score", ascending=False)
    explain = _Explainer(model, frame[~fraud & ~flagged], settings.seed)
    sample = alarms.sample(min(len(alarms), SAMPLE), random_state=settings.seed)
    return {
        "misses": [_miss(row, parts, threshold, model) for row, parts in explain(missed.head(CASES))],
        "false_alarms": [_alarm(row, parts, model) for row, parts in explain(alarms.head(CASES))],
        "reasons": {
            "misses": len(missed),
            "by_remedy": _count(missed, "remedy"),
            "by_mode": _count(missed, "mode"),
            "false_alarms": len(alarms),
            "unreported": int((alarms["mode"].fillna("") != "").sum()),
            "by_signal": _count_signals(explain(sample)),
        },
    }


def _modes(frame: pd.DataFrame, truth: pd.DataFrame | None) -> pd.Series:
    """Return the true kind of each payment: a fraud mode, ``""`` for an honest one, None where nobody knows."""
    if truth is None:
        return pd.Series([None] * len(frame), index=frame.index, dtype=object)
    found = truth.set_index("transaction_id")["mode"].reindex(frame["transaction_id"]).astype(object)
    return found.set_axis(frame.index)


class _Explainer:
    """Explains rows against ordinary payments: honest and let through, drawn once."""

    def __init__(self, model: Model, ordinary: pd.DataFrame, seed: int) -> None:
        self._model, self._signals = model, signals_of(model.features)
        drawn = ordinary.sample(min(len(ordinary), BASELINES), random_state=seed)
        self._baselines = feature_matrix(drawn, model.schema)

    def __call__(self, table: pd.DataFrame) -> list[tuple[dict[str, Any], dict[str, float]]]:
        if table.empty or not len(self._baselines):
            return []
        found = contributions(self._model, feature_matrix(table, self._model.schema), self._baselines, self._signals)
        parts = [dict(zip(self._signals, map(float, row), strict=True)) for row in found]
        return list(zip(table.to_dict("records"), parts, strict=True))


def _remedies(missed: pd.DataFrame, frame: pd.DataFrame, reports: pd.DataFrame, settings: Any) -> pd.DataFrame:
    """Add ``remedy``, what would have stopped each missed fraud, and ``wait``, the time it is about (NaT without).

    Whatever is tried first wins: a changed decision is cheaper than a faster report, and that than a new source.
    """
    gain = business.expected_gain(missed["score"], missed["amount"], settings) if len(missed) else np.empty(0)
    alerts = frame[frame["flagged"]]
    rows = []
    for one, pays in zip(missed.to_dict("records"), gain, strict=True):
        moment, card = one["event_time"], alerts[alerts["customer_id"] == one["customer_id"]]["event_time"]
        if one["customer_id"] == "":  # a file without customers has no cards to follow
            card = card.head(0)
        before, after = moment - card[card < moment].max(), card[card > moment].min() - moment
        first = _first_report(one, reports) - moment
        choices = (
            (GAIN, pays > 0, pd.NaT),
            (BLOCK, before <= DAY, before),
            (REPORT, first <= LATER, first),
            (LATE, after <= DAY, after),
            (SOURCE, True, pd.NaT),
        )
        rows.append(next((remedy, wait) for remedy, fits, wait in choices if fits))
    waits = pd.array([wait for _, wait in rows], dtype="timedelta64[ns]")
    return missed.assign(remedy=[remedy for remedy, _ in rows], wait=waits)


def _first_report(one: Mapping[str, Any], reports: pd.DataFrame) -> pd.Timestamp:
    """Return when the first report from the terminal of a payment came, NaT if it is not what was missing."""
    silent = one.get("terminal_fraud_30d", 1) == 0 and one["mode"] in (None, "skimming") and one["terminal_id"] != ""
    there = reports[reports["terminal_id"] == one["terminal_id"]]["known_at"] if silent else pd.Series(dtype="object")
    later = there[there > one["event_time"]] if silent else there
    return later.min() if len(later) else pd.NaT


def _miss(row: Mapping[str, Any], parts: Mapping[str, float], threshold: float, model: Model) -> dict[str, Any]:
    up, down = max(parts, key=lambda name: parts[name]), min(parts, key=lambda name: parts[name])
    remedy, wait = row["remedy"], _length(row["wait"])
    advice = {
        GAIN: "A decision by expected gain would have flagged it: so large an amount is worth a look at this score",
        BLOCK: f"An alert on the same card {wait} before would have stopped it, had the card been blocked then",
        REPORT: f"The first report from this terminal came {wait} later: only a faster one would have helped",
        LATE: f"It was an early one of its card: the next alert came {wait} later",
        SOURCE: "Nothing around it would have helped: that takes another source, such as the device",
    }[remedy]  # fmt: skip
    told = {None: "", "": ", reported as fraud though in truth honest"}
    kind = told.get(row["mode"], f", in truth {_plain(row['mode'] or '')}")
    text = (
        f"EUR {row['amount']:,.2f} on {_when(row)}{kind}; its score of {row['score']:.4f} stayed below the "
        f"{threshold:.4f} of the threshold. "
        f"{_said(up, parts, row, model)} spoke most for fraud, {_said(down, parts, row, model, False)} most against. "
        f"{advice}."
    )
    return {**_facts(row, parts), "remedy": remedy, "text": text}


def _alarm(row: Mapping[str, Any], parts: Mapping[str, float], model: Model) -> dict[str, Any]:
    first, second = sorted(parts, key=lambda name: -parts[name])[:2] if len(parts) > 1 else [*parts] * 2
    told = {None: "The truth is not known", "": "In truth the customer was honest"}
    right = f"In truth it was a fraud ({_plain(row['mode'] or '')}) that nobody had reported: the alert was right"
    kind = told.get(row["mode"], right)
    seen = row.get("pair_count_30d", 0)
    calm = f", and had paid at this terminal before (in 30 days: {seen:.0f})" if row["mode"] == "" and seen > 0 else ""
    text = (
        f"EUR {row['amount']:,.2f} on {_when(row)}, with a score of {row['score']:.4f}. "
        f"{_said(first, parts, row, model)} spoke most for fraud, then "
        f"{_said(second, parts, row, model, False)}. {kind}{calm}."
    )
    return {**_facts(row, parts), "signal": first, "text": text}


def _facts(row: Mapping[str, Any], parts: Mapping[str, float]) -> dict[str, Any]:
    ids = {name: row[name] for name in ("transaction_id", "customer_id", "terminal_id")}
    kept = {name: value if isinstance(value, int) else str(value) for name, value in ids.items()}
    return {
        **kept, "event_time": str(row["event_time"]), "amount": row["amount"], "score": row["score"],
        "mode": row["mode"], "log_odds": {name: round(part, 4) for name, part in parts.items()},
    }  # fmt: skip


def _said(signal: str, parts: Mapping[str, float], row: Mapping[str, Any], model: Model, first: bool = True) -> str:
    """Return a signal with what it said of this payment and its part of the score, such as "The amount (...)"."""
    details = {
        "earlier reports": ("terminal_fraud_30d", "at this terminal in 30 days: {:.0f}"),
        "the place": ("distance_from_home", "{:.0f} km from home"),
        "the pace": ("customer_count_24h", "payments in the 24 hours before: {:.0f}"),
        "the amount": ("amount_to_mean_30d", "{:.1f} times the usual one of this customer"),
        "the traffic at the terminal": ("terminal_count_30d", "payments in 30 days: {:.0f}"),
        "the time": ("hour", "{:.0f} o'clock UTC"),
        "channel and merchant": ("channel_code", ""),
    }
    name, form = details.get(signal, ("", ""))
    value = row.get(name, np.nan)
    detail = form.format(value) if np.isfinite(value) else "on the web" if name == "distance_from_home" else ""
    channels = model.schema.get("categories", {}).get("channel", [])
    if name == "channel_code" and np.isfinite(value) and 0 <= value < len(channels):
        detail = str(channels[int(value)])
    words = signal[0].upper() + signal[1:] if first else signal
    return f"{words} ({detail + ', ' if detail else ''}{parts[signal]:+.1f})"


def _when(row: Mapping[str, Any]) -> str:
    return f"{row['event_time']:%Y-%m-%d at %H:%M} UTC"


def _plain(mode: str) -> str:
    return mode.replace("_", " ")


def _length(wait: Any) -> str:
    """Return a time span in words, such as "3 hours"."""
    if pd.isna(wait):
        return ""
    seconds = wait.total_seconds()
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        count = round(seconds / size)
        if count >= 1:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "a moment"


def _count(missed: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    """Return number and amount of the misses by a column, the largest number first."""
    kept = missed[missed[column].notna()]
    table = kept.groupby(column)["amount"].agg(["size", "sum"]).sort_values(["size", "sum"], ascending=False)
    return [
        {column: str(name) or "honest", "number": int(row["size"]), "amount": round(float(row["sum"]), 2)}
        for name, row in table.iterrows()
    ]


def _count_signals(explained: list[tuple[dict[str, Any], dict[str, float]]]) -> list[dict[str, Any]]:
    """Return by signal how many false alarms it raised most, and how many of them were frauds that nobody reported."""
    if not explained:
        return []
    table = pd.DataFrame(
        {"signal": max(parts, key=lambda name: parts[name]), "unreported": bool(row["mode"])}
        for row, parts in explained
    )
    counts = table.groupby("signal")["unreported"].agg(["size", "sum"]).sort_values("size", ascending=False)
    return [
        {"signal": str(name), "number": int(row["size"]), "unreported": int(row["sum"])}
        for name, row in counts.iterrows()
    ]
