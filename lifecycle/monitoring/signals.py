"""One day of production as a handful of numbers: the signals that the alarm rules look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lifecycle.monitoring.drift import DriftReference
from lifecycle.monitoring.performance import DAY

COMPARED = ("amount", "hour", "channel", "merchant_category", "score")
FRESH_DAYS = 14
"""A fraud report counts as fresh when its payment is at most this old; older ones say little about today."""


class SignalReference:
    """Clean captured payments to compare each day with.

    Parameters
    ----------
    clean
        Payments with customer_id, amount, hour, score, flagged, and channel and merchant_category if known.
    vocabularies
        The values of each attribute that the model knows; all others count as unknown to it.
    """

    def __init__(self, clean: pd.DataFrame, vocabularies: dict[str, Sequence[str]]) -> None:
        self._whole = DriftReference(clean, [name for name in COMPARED if name in clean.columns])
        self._vocabularies = {name: set(words) for name, words in vocabularies.items() if name in clean.columns}
        self._parts: dict[str, DriftReference] = {}
        if "channel" in clean.columns:
            for channel, part in clean.groupby(clean["channel"].astype(str)):
                if channel in self._vocabularies.get("channel", set()):
                    self._parts[channel] = DriftReference(part, ["amount"])

    def calculate(self, chunk: pd.DataFrame) -> pd.DataFrame:
        """Return drift distances of a chunk, as `DriftReference.calculate`, with ``amount:<channel>`` added."""
        rows = [self._whole.calculate(chunk)]
        for channel, reference in self._parts.items():
            of_channel = chunk[chunk["channel"].astype(str) == channel]
            rows.append(reference.calculate(of_channel).assign(feature=f"amount:{channel}"))
        return pd.concat(rows, ignore_index=True)

    def signals(self, chunk: pd.DataFrame, distances: pd.DataFrame) -> dict[str, float]:
        """Return the signals of a chunk: psi of each feature, unknown shares, alert rates.

        There are two alert rates, by payments and by customers. A single stolen card brings a dozen alerts in an
        hour, so the rule looks at the second: the share of the day's customers with an alert.

        An empty chunk has no signals: all are NaN.
        """
        made = {f"psi:{feature}": value for feature, value in zip(distances["feature"], distances["psi"], strict=True)}
        for name, words in self._vocabularies.items():
            made[f"unknown:{name}"] = 1 - chunk[name].isin(words).mean()
        made["alert_rate"] = chunk["flagged"].mean()
        made["alerted_customers"] = chunk.loc[chunk["flagged"], "customer_id"].nunique() / max(
            chunk["customer_id"].nunique(), 1
        )
        return made if len(chunk) else dict.fromkeys(made, float("nan"))


def by_day(
    reference: SignalReference, frame: pd.DataFrame, days: pd.DatetimeIndex
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the signals (one row a day) and the drift distances (one row a day and feature) of a period.

    Parameters
    ----------
    frame
        Payments with event_time and what `SignalReference` compares.
    days
        The days wanted; a day without payments has missing signals.
    """
    groups = dict(list(frame.groupby(frame["event_time"].dt.floor("D"))))
    signals, distances = [], []
    for day in days:
        chunk = groups.get(day, frame.iloc[:0])
        table = reference.calculate(chunk)
        signals.append({"day": day, "captured": len(chunk), **reference.signals(chunk, table)})
        distances.append(table.assign(day=day))
    return pd.DataFrame(signals).set_index("day"), pd.concat(distances, ignore_index=True)


def missed_reports(
    scored: pd.DataFrame, labels: pd.DataFrame, days: pd.DatetimeIndex, by: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count the terminals with a fresh fraud report, by day of arrival: let through by the model, and flagged.

    A terminal counts once in `FRESH_DAYS`. A compromised one brings a dozen reports in a few days; that is
    one case, and it is closed by blocking the terminal. Counted by payments, such local waves look like a
    new kind of fraud, and the chart pages for them.

    Parameters
    ----------
    scored
        transaction_id, event_time, terminal_id, flagged, and the column `by`.
    labels
        The label history.
    days
        Days of arrival; one row each in the result.
    by
        The column to count apart; None puts everything into one group, ``all``.

    Returns
    -------
    tuple of DataFrame
        Missed and caught, one row a day, one column a group.
    """
    frame = scored[["transaction_id", "event_time", "terminal_id", "flagged"]]
    frame = frame.assign(group="all" if by is None else scored[by].astype(str))
    reports = labels.loc[labels["is_fraud"] == 1, ["transaction_id", "known_at"]]
    reports = reports.sort_values("known_at").drop_duplicates("transaction_id")
    reports = reports.merge(frame, on="transaction_id")
    reports = reports[reports["known_at"] - reports["event_time"] <= FRESH_DAYS * DAY].sort_values("known_at")
    since = reports.groupby(["terminal_id", "flagged"])["known_at"].diff()
    reports = reports[since.isna() | (since > FRESH_DAYS * DAY)]
    reports["day"] = reports["known_at"].dt.floor("D")
    groups = sorted(frame["group"].unique())

    def count(rows: pd.DataFrame) -> pd.DataFrame:
        if rows.empty:  # pandas makes no table of no times
            return pd.DataFrame(0, index=days, columns=groups)
        table = pd.crosstab(rows["day"], rows["group"])
        return table.reindex(index=days, columns=groups, fill_value=0)

    return count(reports[~reports["flagged"]]), count(reports[reports["flagged"]])


def volume(scored: pd.DataFrame, days: pd.DatetimeIndex, clean_days: pd.DatetimeIndex, by: str | None) -> pd.DataFrame:
    """Return the payments of the last days, by group, relative to an average clean day.

    The reports that arrive on a day are about payments of the `FRESH_DAYS` before; so the average is
    over these.
    """
    group = pd.Series("all", index=scored.index) if by is None else scored[by].astype(str)
    counts = pd.crosstab(scored["event_time"].dt.floor("D"), group)
    average = counts.reindex(clean_days, fill_value=0).mean().clip(lower=1e-9)
    smooth = counts.rolling(FRESH_DAYS, min_periods=1).mean().reindex(days).ffill().bfill()
    return (smooth / average).clip(lower=0.1)


def recall_of_reports(missed: pd.DataFrame, caught: pd.DataFrame, window: int = 7) -> pd.Series:
    """Return the share of the reports of the last days that the model had flagged; NaN without a report."""
    caught_sum = caught.sum(axis=1).rolling(window, min_periods=1).sum()
    total = caught_sum + missed.sum(axis=1).rolling(window, min_periods=1).sum()
    return caught_sum / total.replace(0, np.nan)
