"""Three leaks that no look at the columns shows: through time, through the entity, through label delay.

Each is a number: what a score seems to be with the leak, what it is without, and a severity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lifecycle.exploration import model
from lifecycle.exploration.labels import HORIZON_DAYS, project, ripen

SUSPECT = 0.9
"""A column with at least this prediction power is too good to be true."""

FILLED_AFTER = 0.5
"""The same for the mere fact that a column is filled or empty."""

_DAY = pd.Timedelta(days=1)


def leak_through_time(
    joined: pd.DataFrame, powers: dict[str, float | None], splits: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what the future gives away: a random split against a split in time, and columns filled after the fact.

    Returns
    -------
    dict
        ``flattering`` and ``honest`` (average precision by a random split and by time), ``gap``, ``certain``
        (the gap is larger than chance makes it), ``suspects`` (columns that know too much, with the reason)
        and ``severity``.
    """
    compared = _compare(splits, "time")
    suspects = find_suspects(joined, powers)
    severity = "high" if suspects or (compared["certain"] and compared["gap"] >= 0.05) else "low"
    if severity == "low" and compared["certain"]:
        severity = "medium"
    return {**compared, "suspects": suspects, "severity": severity}


def find_suspects(joined: pd.DataFrame, powers: dict[str, float | None]) -> list[dict[str, str]]:
    """Return the columns that know more than anybody could at the time of the payment, with the reason."""
    found = []
    known = joined[joined["is_fraud"].notna()]
    fraud = known["is_fraud"].to_numpy()
    both = min((fraud == 1).sum(), (fraud == 0).sum()) >= model.MIN_CASES
    for name in model.usable_columns(joined):
        power, reason = powers.get(name), None
        if power is not None and power >= SUSPECT:
            reason = f"tells fraud from honest nearly alone (prediction power {power:.2f})"
        values = joined[name]
        if pd.api.types.is_datetime64_any_dtype(values.dtype):
            later = float((model.days_after(values, joined["event_time"]) > 0).mean())
            if later > 0:
                reason = f"holds an instant after the payment in {later:.2%} of the rows"
        elif both and known[name].isna().any():
            gap = abs(2 * model.area(fraud, known[name].notna().to_numpy("float64")) - 1)
            if gap >= FILLED_AFTER:
                reason = f"is filled for the one class and empty for the other (power of being filled {gap:.2f})"
        if reason:
            found.append({"column": str(name), "reason": reason})
    return found


def leak_through_entity(joined: pd.DataFrame, splits: dict[str, Any] | None) -> dict[str, Any]:
    """Return what it flatters that the same card is on both sides of a split.

    Returns
    -------
    dict
        ``flattering`` (average precision by a random split of payments), ``honest`` (by a split of customers),
        ``gap``, ``certain``; ``customers_on_both_sides`` (share of the test side's customers that the training
        side has too), ``seen`` (share of the test side's frauds whose card has a fraud on the training side,
        by kind of split) and ``severity``.
    """
    compared = _compare(splits, "entity")
    both = None
    if splits:
        customer = joined.loc[joined["is_fraud"].notna(), "customer_id"].to_numpy()
        test = np.zeros(len(customer), bool)
        test[splits["random"]["test"]] = True
        both = float(np.isin(pd.unique(customer[test]), pd.unique(customer[~test])).mean())
    severity = "low"
    if compared["certain"]:
        severity = "high" if compared["gap"] >= 0.05 else "medium"
    seen = {name: split["seen"] for name, split in (splits or {}).items()}
    return {**compared, "customers_on_both_sides": both, "seen": seen, "severity": severity}


def _compare(splits: dict[str, Any] | None, honest: str) -> dict[str, Any]:
    """Return the average precision of the random split beside that of an honest one."""
    if not splits or honest not in splits:
        return {"flattering": None, "honest": None, "gap": None, "certain": False}
    a, b = splits["random"], splits[honest]
    gap = a["average_precision"] - b["average_precision"]
    certain = gap > 0.02 and gap > 2 * float(np.hypot(a["error"], b["error"]))
    return {"flattering": a["average_precision"], "honest": b["average_precision"], "gap": gap, "certain": certain}


def leak_through_delay(
    joined: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp, splits: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what it costs to take a label that has not arrived for a label "honest".

    Two moments are looked at. At `as_of`, the moment of the exploration: how much of the youngest week's fraud
    is still to come, by chain ladder. And at the last payment of the table, where an impatient reader would
    stand: how many of the last week's frauds, known since, were then counted as honest.

    Returns
    -------
    dict
        ``apparent_rate``, ``expected_rate``, ``share_known`` (youngest week, at `as_of`); ``overruled`` (share of
        the known frauds that were first written down as honest); ``early``: the same and ``hidden`` (share of
        the last week's frauds then counted as honest) at the last payment; ``precision`` (average precision of
        the quick model on the last week, judged by the labels of then and by those of `as_of`); ``severity``.
    """
    last = (joined["event_time"].max() + pd.Timedelta(microseconds=1)).ceil("D")
    moment = min(last, as_of)
    now, early = project(ripen(joined, labels, as_of)), project(ripen(joined, labels, moment))
    frauds = labels[(labels["is_fraud"] == 1) & (labels["known_at"] <= as_of)].drop_duplicates("transaction_id")
    first = labels[labels["transaction_id"].isin(frauds["transaction_id"])].sort_values("known_at", kind="stable")
    overruled = first.drop_duplicates("transaction_id")["is_fraud"].eq(0).mean() if len(first) else 0.0
    week = joined["event_time"] >= moment - 7 * _DAY
    late = frauds[frauds["known_at"] > moment]["transaction_id"]
    recent = int((joined["is_fraud"][week] == 1).sum())
    hidden = int(joined.loc[week, "transaction_id"].isin(late).sum()) / recent if recent else None
    result = {
        **_youngest(now),
        "overruled": float(overruled),
        "early": {**_youngest(early), "hidden": hidden, "moment": moment.isoformat()},
        "precision": _judge_early(joined, late, week, splits),
        "horizon_days": HORIZON_DAYS,
    }
    missing = 1 - (result["share_known"] if result["share_known"] is not None else 1.0)
    enough = len(frauds) >= model.MIN_CASES
    result["severity"] = "low" if not enough or missing < 0.05 else "medium" if missing < 0.1 else "high"
    return result


def _youngest(projected: pd.DataFrame) -> dict[str, Any]:
    if projected.empty:
        return {"apparent_rate": None, "expected_rate": None, "share_known": None}
    row = projected.iloc[-1]
    return {
        "apparent_rate": float(row["rate"]),
        "expected_rate": float(row["expected_rate"]),
        "share_known": float(row["share_known"]),
    }


def _judge_early(
    joined: pd.DataFrame, late: pd.Series, week: pd.Series, splits: dict[str, Any] | None
) -> dict[str, float] | None:
    """Return the average precision on the last week by the labels of then (unknown is honest) and of now."""
    from sklearn.metrics import average_precision_score

    if not splits or "time" not in splits:
        return None
    known = joined[joined["is_fraud"].notna()]
    test = splits["time"]["test"]
    inside = week[joined["is_fraud"].notna()].to_numpy()[test]
    now = known["is_fraud"].to_numpy()[test][inside] == 1
    then = now & ~known["transaction_id"].isin(late).to_numpy()[test][inside]
    if min(now.sum(), then.sum()) < model.MIN_CASES // 2:
        return None
    score = splits["time"]["scores"][inside]
    return {"early": float(average_precision_score(then, score)), "now": float(average_precision_score(now, score))}
