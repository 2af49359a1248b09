"""The service's own figures in the Prometheus text format, for any collector that reads files or a page.

The format (https://prometheus.io/docs/instrumenting/exposition_formats/): a line ``# HELP``, a line ``# TYPE`` and one
line a value, with labels in braces. Written to a file ``*.prom`` it is read by the text file collector of Prometheus'
node exporter, which needs no server of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from lifecycle.monitoring.alarms import Alarm

PREFIX = "fraud_detector_"
FIGURES = {
    "requests": ("requests", "gauge", "Requests of the day."),
    "captured": ("payments", "gauge", "Payments of the day that were captured."),
    "errors": ("failed_requests", "gauge", "Requests of the day that failed or were refused."),
    "feature_age_hours": ("feature_age_seconds", "gauge", "Age of the oldest daily features a payment was decided on."),
    "alerted_customers": ("alerted_customers_ratio", "gauge", "Share of the day's customers with an alert."),
}
"""Column of ``daily.parquet`` -> name, type and help of its metric."""

LATENCY = {"0.5": "latency_p50_ms", "0.99": "latency_p99_ms"}
SCALE = {"feature_age_hours": 3600.0}
"""Base units are seconds and ratios, as Prometheus asks for."""


def expose(day: str, figures: Mapping[str, float], alarms: Sequence[Alarm]) -> str:
    """Return one day's figures of the service in the Prometheus text format.

    Parameters
    ----------
    day
        The day, as 2025-11-17.
    figures
        The day's row of ``daily.parquet``. A figure that is missing or not a number is left out.
    alarms
        The alarms of the day.

    Examples
    --------
    >>> print(expose("2025-11-17", {"errors": 2.0}, []).splitlines()[2])
    fraud_detector_failed_requests{day="2025-11-17"} 2
    """
    lines: list[str] = []
    for column, (name, kind, text) in FIGURES.items():
        value = figures.get(column, math.nan) * SCALE.get(column, 1.0)
        lines += _metric(name, kind, text, [({"day": day}, value)])
    quantiles = [({"day": day, "quantile": q}, figures.get(column, math.nan) / 1000) for q, column in LATENCY.items()]
    lines += _metric("latency_seconds", "summary", "Time of a payment in a request, by quantile.", quantiles)
    raised = [({"day": day, "signal": a.signal, "severity": a.severity}, a.value) for a in alarms]
    lines += _metric("alarm", "gauge", "Value of each signal that alarmed on the day.", raised)
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: Sequence[tuple[Mapping[str, str], float]]) -> list[str]:
    """Return the lines of one metric, none if it has no value."""
    shown = [(labels, value) for labels, value in values if math.isfinite(value)]
    if not shown:
        return []
    full = PREFIX + name
    lines = [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
    for labels, value in shown:
        inside = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
        lines.append(f"{full}{{{inside}}} {value:.10g}")
    return lines


def _escape(label: str) -> str:
    r"""Return a label value as the format wants it.

    Examples
    --------
    >>> print(_escape('a "b" \\'))
    a \"b\" \\
    """
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def by_day(daily: pd.DataFrame, alarms: Sequence[Alarm]) -> dict[str, str]:
    """Return the text of each day of `daily` (one row a day), by its name as 2025-11-17."""
    days = [f"{moment:%Y-%m-%d}" for moment in daily.index]
    rows = daily.select_dtypes("number").to_dict("records")
    return {day: expose(day, row, [a for a in alarms if a.day == day]) for day, row in zip(days, rows, strict=True)}
