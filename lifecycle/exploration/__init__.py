"""Look at a table before modeling it, and write down what was found, with a severity.

The exploration keeps to what was known when the model is made: payments up to the end of training,
labels as of the start of the test. A test period that has been looked at is no longer a test.

The checks are those of a vendor's data quality report, and three that such a report does not make: the leaks
through time, through the entity and through label delay (`leaks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lifecycle import contracts, files
from lifecycle.errors import ContractError
from lifecycle.exploration import findings as _findings
from lifecycle.exploration import leaks, model, reading, rows
from lifecycle.exploration.columns import (
    find_masks,
    find_units,
    find_zones,
    profile_column,
    robust_z,
    written_down,
)
from lifecycle.exploration.findings import SEVERITIES
from lifecycle.exploration.grading import grade
from lifecycle.exploration.labels import (
    HORIZON_DAYS,
    count_classes,
    count_days,
    fraud_delays,
    label_maturity,
    project,
    rate_levels,
    ripen,
    summarize_maturity,
    wilson_interval,
    with_known_labels,
)
from lifecycle.exploration.page import write_report
from lifecycle.exploration.rows import correlate, count_duplicates
from lifecycle.exploration.upstream import summarize_upstream

__all__ = [
    "HORIZON_DAYS",
    "SEVERITIES",
    "build",
    "correlate",
    "count_classes",
    "count_days",
    "count_duplicates",
    "explore",
    "find_masks",
    "fraud_delays",
    "grade",
    "inspect",
    "label_maturity",
    "profile_column",
    "project",
    "rate_levels",
    "ripen",
    "robust_z",
    "summarize_maturity",
    "wilson_interval",
    "with_known_labels",
    "write_report",
]

_NOTHING_UPSTREAM: dict[str, Any] = {"sources": {}, "reasons": [], "late": None}


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Write ``report.json``, ``report.html`` and the tables behind the figures.

    The tables are ``daily``, ``levels``, ``maturity``, ``triangle``, ``projected`` and ``findings``.

    Parameters
    ----------
    settings
        Knobs: the calendar. Payments before `train_until` and labels as of `test_from` are looked at.
    inputs
        ``collection``: the folder of the collected tables.
    out
        An empty folder.

    Raises
    ------
    ContractError
        If there are no payments before `train_until`.
    """
    source = Path(inputs["collection"])
    as_of, until = contracts.midnight(settings.test_from), contracts.midnight(settings.train_until)
    payments = reading.read_table(source / "transactions.parquet", "event_time", until, "customer_id")
    if not payments.rows:
        raise ContractError(f"There are no payments before {until:%Y-%m-%d} to explore; choose a later train_until.")
    labels = reading.read_labels(source / "labels.parquet", payments, as_of)
    others = {}
    for name, time in (("customers", None), ("terminals", None), ("telemetry", "time")):
        if (source / f"{name}.parquet").exists():
            others[name] = reading.read_table(source / f"{name}.parquet", time, until if time else None)
    counts = {
        name: pd.read_parquet(source / f"{name}.parquet") if (source / f"{name}.parquet").exists() else None
        for name in ("accounting", "quarantine")
    }
    upstream = summarize_upstream(counts["accounting"], counts["quarantine"], payments.by_day, until)
    report = explore(payments.frame, labels, as_of, {name: o.frame for name, o in others.items()}, upstream)
    report = _state_exactly(report, {"transactions": payments, **others}, source / "labels.parquet", as_of)
    files.write_json(report, out / "report.json")
    write_report(report, out / "report.html")
    joined = with_known_labels(payments.frame, labels, as_of)
    triangle = ripen(payments.frame, labels, as_of)
    tables = {
        "daily": count_days(joined),
        "levels": rate_levels(joined),
        "maturity": label_maturity(payments.frame, labels, as_of),
        "triangle": triangle,
        "projected": project(triangle),
        "findings": pd.DataFrame(report["findings"], columns=list(_findings.COLUMNS)),
    }
    for name, table in tables.items():
        files.write_parquet(table, out / f"{name}.parquet")


def _state_exactly(
    report: dict[str, Any], looked: Mapping[str, reading.Looked], labels: Path, as_of: pd.Timestamp
) -> dict[str, Any]:
    """Replace the shares and counts that come from a sample by those of all rows, and find anew."""
    sampled = {name: table for name, table in looked.items() if table.how}
    if not sampled:
        return report
    for name, table in sampled.items():
        content = report["tables"][name]
        exact = reading.count_exactly(table, {c: p["masks"] for c, p in content["columns"].items()})
        for column, shares in exact.items():
            content["columns"][column] |= shares
        content["rows"] = table.rows
    report["sample"] |= {name: table.how for name, table in sampled.items()}
    if "transactions" in sampled:
        report["duplicates"] = reading.count_duplicates_exactly(sampled["transactions"])
        report["classes"] = reading.count_classes_exactly(sampled["transactions"], labels, as_of)
    return report | {"findings": _findings.find(report)}


def explore(
    transactions: pd.DataFrame,
    labels: pd.DataFrame,
    as_of: pd.Timestamp | None = None,
    others: Mapping[str, pd.DataFrame] | None = None,
    upstream: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a quality and insights report as a dictionary that is valid JSON.

    Parameters
    ----------
    transactions
        A table that keeps `contracts.TRANSACTIONS`; any further column is looked at too.
    labels
        A label history that keeps `contracts.LABELS`; it may be empty, when nothing is known yet.
    as_of
        The moment of the exploration; by default, the last time at which a label became known.
    others
        Further tables by name; their columns are looked at.
    upstream
        What `summarize_upstream` returned, if the table comes from a collection that keeps accounts.

    Returns
    -------
    dict
        ``tables`` (rows and a profile of each column), ``duplicates``, ``classes``, ``correlations``,
        ``maturity``, ``triangle``, ``power`` (of each column), ``quick_model``, ``leaks`` (``time``, ``entity``,
        ``delay``), ``odd_rows``, ``same_columns``, ``variance_inflation``, ``jumps``, ``upstream``, ``sample``
        (what was not looked at in full), and ``findings``: severity, kind, check, column, message and share,
        the most severe first.

    Raises
    ------
    ContractError
        If a table does not keep its contract.

    Examples
    --------
    >>> at = pd.to_datetime(["2025-08-01 10:00", "2025-08-01 11:00"], utc=True).astype("datetime64[us, UTC]")
    >>> payments = pd.DataFrame({"transaction_id": [1, 2], "event_time": at, "customer_id": [1, 1],
    ...                          "terminal_id": [5, 6], "amount": [9.5, 20.0]})
    >>> labels = pd.DataFrame({"transaction_id": [1, 2], "is_fraud": pd.array([0, 1]).astype("int8"),
    ...                        "known_at": (at + pd.Timedelta(days=7)).as_unit("us")})
    >>> explore(payments, labels)["classes"]["fraud"]
    1
    """
    contracts.check(transactions, contracts.TRANSACTIONS, "the transactions to explore")
    transactions = transactions.copy(deep=False)
    for name in transactions.select_dtypes("object"):
        transactions[name] = written_down(transactions[name])
    if len(labels):
        contracts.check(labels, contracts.LABELS, "the labels to explore")
    last = transactions["event_time"].max() if labels.empty else labels["known_at"].max()
    as_of = last if as_of is None else as_of
    joined = with_known_labels(transactions, labels, as_of)
    powers = model.prediction_power(joined)
    splits = model.try_splits(joined, powers)
    delay = leaks.leak_through_delay(joined, labels, as_of, splits)
    triangle = ripen(transactions, labels, as_of)
    report = {
        "as_of": as_of.isoformat(),
        "from": transactions["event_time"].min().isoformat(),
        "until": transactions["event_time"].max().isoformat(),
        "tables": {name: profile_table(t) for name, t in {"transactions": transactions, **(others or {})}.items()},
        "duplicates": count_duplicates(transactions),
        "classes": count_classes(joined),
        "correlations": correlate(joined),
        "maturity": summarize_maturity(transactions, labels, as_of),
        "maturity_curve": label_maturity(transactions, labels, as_of)["share_known"].round(6).tolist(),
        "triangle": triangle.assign(week=triangle["week"].astype(str)).to_dict("records"),
        "power": powers,
        "leaks": {
            "time": leaks.leak_through_time(joined, powers, splits),
            "entity": leaks.leak_through_entity(joined, splits),
            "delay": delay,
        },
        "quick_model": _without_rows(splits),
        "odd_rows": rows.find_odd_rows(joined),
        "same_columns": rows.find_same_columns(transactions),
        "variance_inflation": rows.inflate_variance(transactions),
        "jumps": rows.find_jumps(transactions),
        "upstream": dict(upstream or _NOTHING_UPSTREAM),
        "sample": _describe_sample(len(joined), splits),
    }
    return _as_json({**report, "findings": _findings.find(report)})


def profile_table(table: pd.DataFrame) -> dict[str, Any]:
    """Return the number of rows, a profile of each column, and which columns mix units or time zones."""
    zones = {str(c): found for c in table if (found := find_zones(table[c]))}
    return {
        "rows": len(table),
        "columns": {str(c): profile_column(table[c]) for c in table},
        "units": find_units(table),
        "zones": zones,
    }


def inspect(table: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Return the findings on the columns of any table, such as a raw delivery; no contract is needed.

    Examples
    --------
    >>> table = pd.DataFrame({"temperature": [21.0, 70.0], "temperature_unit": ["C", "F"]})
    >>> [finding["check"] for finding in inspect(table, "telemetry")]
    ['mixed units']
    """
    profile = profile_table(table)
    found = [f for c, p in profile["columns"].items() for f in _findings.find_in_column(f"{name}.{c}", p)]
    return _as_json(_findings.sort([*found, *_findings.find_in_mixtures(name, profile)]))


def _without_rows(splits: dict[str, Any] | None) -> dict[str, Any] | None:
    if splits is None:
        return None
    return {name: {k: v for k, v in split.items() if k not in ("test", "scores")} for name, split in splits.items()}


def _describe_sample(size: int, splits: dict[str, Any] | None) -> dict[str, str]:
    """Return, for each expensive check, which rows it looked at, where that is not all."""
    said = {}
    if size > rows.FOREST_ROWS:
        said["anomalous rows, multicollinearity"] = f"{rows.FOREST_ROWS:,} rows, evenly spread over the table"
    if splits and size > model.FIT_ROWS:
        said["quick model"] = f"fitted on all frauds and {model.FIT_ROWS:,} honest payments of its training side"
    if size > model.POWER_ROWS:
        said["prediction power"] = f"all frauds and {model.POWER_ROWS:,} honest payments"
    return said


def _as_json(value: Any) -> Any:
    """Return a value with None for what JSON does not have: NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
