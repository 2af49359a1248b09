"""What collection has caught already: the quarantine and the accounting, read as a part of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

COUNTS = ("read", "accepted", "quarantined", "duplicates", "superseded")


def summarize_upstream(
    accounting: pd.DataFrame | None,
    quarantine: pd.DataFrame | None,
    payments_by_day: pd.Series,
    until: pd.Timestamp | None = None,
) -> dict[str, Any]:
    """Return what was refused or recognized before the table was made, for deliveries before `until`.

    Parameters
    ----------
    accounting
        Columns `source`, `day` and the counts ``read``, ``accepted``, ``quarantined``, ``duplicates``,
        ``superseded``; None if there is none.
    quarantine
        Columns `source`, `file` and `reason`, one row a refused record. A file whose name begins with a date
        belongs to that day.
    payments_by_day
        Rows of the transactions by day of the payment.
    until
        The end of the exploration.

    Returns
    -------
    dict
        ``sources`` (the counts of each), ``reasons`` (source, reason, rows, share of the source) and ``late``:
        the share of a day's payments that, on average, has not been delivered when the day ends.
    """
    if accounting is None or not {"source", "day", *COUNTS} <= set(accounting.columns):
        return {"sources": {}, "reasons": [], "late": None}
    if until is not None:
        accounting = accounting[accounting["day"].isna() | (accounting["day"] < until)]
    totals = accounting.groupby("source")[list(COUNTS)].sum()
    sources = {str(s): {c: int(totals.loc[s, c]) for c in COUNTS} for s in totals.index}
    return {
        "sources": sources,
        "reasons": _reasons(quarantine, sources, until),
        "late": _late(accounting, sources, payments_by_day),
    }


def _reasons(quarantine: pd.DataFrame | None, sources: Mapping[str, Any], until: Any) -> list[dict[str, Any]]:
    if quarantine is None or quarantine.empty or not {"source", "file", "reason"} <= set(quarantine.columns):
        return []
    day = pd.to_datetime(quarantine["file"].str[:10], errors="coerce", utc=True, format="%Y-%m-%d")
    kept = quarantine[day.isna() | (day < until)] if until is not None else quarantine
    counts = kept.groupby(["source", "reason"], observed=True).size()
    return [
        {"source": str(s), "reason": str(r), "rows": int(n), "share": n / max(sources.get(s, {}).get("read", n), 1)}
        for (s, r), n in counts.items()
    ]


def _late(accounting: pd.DataFrame, sources: Mapping[str, Any], payments: pd.Series) -> float | None:
    """Return the mean backlog: payments made minus payments delivered by the end of each day, of a day's payments.

    It can be known only for a source that delivers the payments day by day.
    """
    for source in sources:
        daily = accounting[(accounting["source"] == source) & accounting["day"].notna()].set_index("day")["accepted"]
        if len(daily) < 3 or not daily.index.is_unique or abs(daily.sum() / max(payments.sum(), 1) - 1) > 0.02:
            continue
        table = pd.concat([payments.rename("made"), daily.rename("came")], axis=1).fillna(0).sort_index()
        backlog = (table["made"] - table["came"]).cumsum()
        if backlog.min() >= 0:
            return float(backlog.iloc[:-1].mean() / max(table["made"].mean(), 1))
    return None
