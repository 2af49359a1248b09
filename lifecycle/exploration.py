"""Look at a table before modeling it, and write down what was found, with a severity.

The exploration keeps to what was known when the model is made: payments up to the end of training,
labels as of the start of the test. A test period that has been looked at is no longer a test.

The robust z-score is that of Iglewicz and Hoaglin, "How to detect and handle outliers" (1993); the
interval of a rate is Wilson's (1927).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, files
from lifecycle.errors import ContractError

SEVERITIES = ("high", "medium", "low")

HORIZON_DAYS = 35
"""A payment this old has its chargeback, if it ever gets one: the reference for label maturity."""

_ROBUST_Z = 3.5
_MASK = re.compile(r"0{2,}|9{3,}|-+|\?+|\.+|x{3,}|n/?a|nan|none|null|nil|unknown|undefined|missing|", re.IGNORECASE)


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Write ``report.json`` and the tables ``daily``, ``levels`` and ``maturity`` behind the figures.

    Parameters
    ----------
    settings
        Knobs: the calendar. Payments before `train_until` and labels as of `test_from` are looked at.
    inputs
        ``collection``: the folder of the collected tables.
    out
        An empty folder.
    """
    source = Path(inputs["collection"])
    as_of, until = contracts.midnight(settings.test_from), contracts.midnight(settings.train_until)
    transactions = pd.read_parquet(source / "transactions.parquet")
    transactions = transactions[transactions["event_time"] < until]
    labels = pd.read_parquet(source / "labels.parquet")
    others = {
        name: pd.read_parquet(source / f"{name}.parquet")
        for name in ("customers", "terminals", "telemetry")
        if (source / f"{name}.parquet").exists()
    }
    if "telemetry" in others:
        others["telemetry"] = others["telemetry"][others["telemetry"]["time"] < until]
    if transactions.empty:
        raise ContractError(f"There are no payments before {until:%Y-%m-%d} to explore; choose a later train_until.")
    files.write_json(explore(transactions, labels, as_of, others), out / "report.json")
    joined = with_known_labels(transactions, labels, as_of)
    files.write_parquet(count_days(joined), out / "daily.parquet")
    files.write_parquet(rate_levels(joined), out / "levels.parquet")
    files.write_parquet(label_maturity(transactions, labels, as_of), out / "maturity.parquet")


def explore(
    transactions: pd.DataFrame,
    labels: pd.DataFrame,
    as_of: pd.Timestamp | None = None,
    others: Mapping[str, pd.DataFrame] | None = None,
) -> dict[str, Any]:
    """Return a quality report as a dictionary that is valid JSON.

    Parameters
    ----------
    transactions
        A table that keeps `contracts.TRANSACTIONS`; any further column is looked at too.
    labels
        A label history that keeps `contracts.LABELS`.
    as_of
        The moment of the exploration; by default, the last time at which a label became known.
    others
        Further tables by name, checked for missing values only.

    Returns
    -------
    dict
        ``tables`` (rows and missing values of each), ``duplicates``, ``outliers``, ``classes``,
        ``correlations``, ``maturity``, and ``findings``: a list of severity, check, column and message,
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
    >>> labels = pd.DataFrame({"transaction_id": [1, 2], "is_fraud": np.array([0, 1], "int8"),
    ...                        "known_at": (at + pd.Timedelta(days=7)).as_unit("us")})
    >>> explore(payments, labels)["classes"]["fraud"]
    1
    """
    contracts.check(transactions, contracts.TRANSACTIONS, "the transactions to explore")
    contracts.check(labels, contracts.LABELS, "the labels to explore")
    as_of = labels["known_at"].max() if as_of is None else as_of
    joined = with_known_labels(transactions, labels, as_of)
    tables = {
        name: {"rows": len(table), "columns": {c: profile_column(table[c]) for c in table}}
        for name, table in {"transactions": transactions, **(others or {})}.items()
    }
    report = {
        "as_of": as_of.isoformat(),
        "from": transactions["event_time"].min().isoformat(),
        "until": transactions["event_time"].max().isoformat(),
        "tables": tables,
        "duplicates": count_duplicates(transactions),
        "outliers": count_outliers(transactions["amount"]),
        "classes": count_classes(joined),
        "correlations": correlate(joined),
        "maturity": summarize_maturity(transactions, labels, as_of),
    }
    return {**report, "findings": find(report)}


def with_known_labels(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Return the transactions with a column `is_fraud` (float64) as known at `as_of`; NaN is not yet known."""
    known = contracts.labels_as_of(labels, as_of).set_index("transaction_id")["is_fraud"]
    return transactions.assign(is_fraud=transactions["transaction_id"].map(known).astype("float64"))


def profile_column(values: pd.Series) -> dict[str, Any]:
    """Return how much of a column is missing, openly or in disguise, and whether it says anything.

    Disguised are words and numbers that people type when they have nothing to type (0000, n/a, 999), and
    an extreme that is repeated and far from all other values, such as a temperature of -999.

    Returns
    -------
    dict
        ``missing`` and ``disguised`` (shares of the rows), ``mask`` (the disguise, or None),
        ``distinct`` (number of different values), ``constant``.

    Examples
    --------
    >>> profile_column(pd.Series(["food", "0000", None, "fuel"]))["mask"]
    '0000'
    """
    masks = find_masks(values)
    distinct = int(values.nunique())
    return {
        "missing": float(values.isna().mean()),
        "disguised": float(values.isin(masks).mean()) if masks else 0.0,
        "mask": str(masks[0]) if masks else None,
        "distinct": distinct,
        "constant": distinct <= 1 and len(values) > 1,
    }


def find_masks(values: pd.Series) -> list[Any]:
    """Return the values of a column that look like data and mean that there is none."""
    if str(values.name).endswith("_id"):
        return []
    if isinstance(values.dtype, pd.CategoricalDtype):
        return [level for level in values.cat.categories if _MASK.fullmatch(str(level).strip())]
    if values.dtype == object:
        return [level for level in values.dropna().unique() if _MASK.fullmatch(str(level).strip())]
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        numbers = values.dropna().astype("int64")
        return [values.dropna().loc[index] for index in _lonely_extremes(numbers).index]
    return list(_lonely_extremes(values.dropna()))


def _lonely_extremes(numbers: pd.Series) -> pd.Series:
    """Return the smallest and the largest value if often repeated and far away from the next one."""
    empty = numbers.iloc[:0]
    low, high = numbers.quantile([0.01, 0.99]) if len(numbers) else (0, 0)
    if low == high or numbers.nunique() <= 20:
        return empty
    found = []
    for extreme in (numbers.min(), numbers.max()):
        same = numbers == extreme
        gap = (numbers[~same] - extreme).abs().min()
        inner = numbers[~same].quantile([0.01, 0.99])
        if same.sum() >= 10 and same.mean() >= 0.0005 and gap > 0.25 * (inner.iloc[1] - inner.iloc[0]):
            found.append(numbers[same].iloc[:1])
    return pd.concat(found) if found else empty


def count_duplicates(transactions: pd.DataFrame) -> dict[str, Any]:
    """Return the rows that repeat another payment in all but its id."""
    columns = ["event_time", "customer_id", "terminal_id", "amount"]
    rows = int(transactions.duplicated(columns).sum())
    return {"rows": rows, "share": rows / len(transactions)}


def robust_z(values: pd.Series | np.ndarray) -> np.ndarray:
    """Return the distance of each value from the median, in units of the spread of the middle half.

    ``0.6745 (x - median) / MAD``, where MAD is the median absolute deviation: for a normal distribution
    this is the ordinary z-score, and outliers do not inflate it.

    Examples
    --------
    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0])).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    array = np.asarray(values, dtype="float64")
    deviation = array - np.nanmedian(array)
    spread = np.nanmedian(np.abs(deviation))
    return 0.6745 * deviation / spread if spread > 0 else np.zeros_like(array)


def count_outliers(amount: pd.Series) -> dict[str, Any]:
    """Return how many amounts lie more than 3.5 robust z-scores out, as they are and as logarithms."""
    plain, logs = robust_z(amount), robust_z(np.log(amount))
    return {
        "threshold": _ROBUST_Z,
        "amount_rows": int((np.abs(plain) > _ROBUST_Z).sum()),
        "amount_share": float((np.abs(plain) > _ROBUST_Z).mean()),
        "log_rows": int((np.abs(logs) > _ROBUST_Z).sum()),
        "log_share": float((np.abs(logs) > _ROBUST_Z).mean()),
        "largest": float(amount.max()),
        "median": float(amount.median()),
    }


def count_classes(joined: pd.DataFrame) -> dict[str, Any]:
    """Return how many payments are known to be fraud, known to be honest, and not known."""
    fraud, honest = int((joined["is_fraud"] == 1).sum()), int((joined["is_fraud"] == 0).sum())
    return {
        "fraud": fraud,
        "honest": honest,
        "unknown": len(joined) - fraud - honest,
        "fraud_rate": fraud / max(fraud + honest, 1),
        "accuracy_of_saying_never": honest / max(fraud + honest, 1),
    }


def correlate(joined: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the rank correlations (Spearman) of amount, hour, weekday and the known label.

    The values lie between -1 and 1. A column without variation has no correlation and is left out.
    """
    known = joined[joined["is_fraud"].notna()]
    time = known["event_time"].dt
    numbers = pd.DataFrame(
        {"amount": known["amount"], "hour": time.hour, "weekday": time.dayofweek, "is_fraud": known["is_fraud"]}
    )
    numbers = numbers.loc[:, numbers.nunique() > 1]
    if numbers.shape[1] < 2:
        return {}
    matrix = np.corrcoef(numbers.rank().to_numpy(), rowvar=False)
    return pd.DataFrame(matrix, numbers.columns, numbers.columns).round(6).to_dict()


def rate_levels(joined: pd.DataFrame) -> pd.DataFrame:
    """Return payments, known frauds and fraud rate (with a 95 % Wilson interval) by level of each attribute."""
    known = joined[joined["is_fraud"].notna()]
    tables = []
    for column in known.columns[known.dtypes == "category"]:
        if known[column].nunique() <= 100:
            table = (
                known.groupby(column, observed=True)["is_fraud"]
                .agg(payments="size", frauds="sum")
                .reset_index(names="level")
            )
            tables.append(table.assign(column=column, level=table["level"].astype(str)))
    columns = ["column", "level", "payments", "frauds"]
    result = (
        pd.concat(tables)[columns]
        if tables
        else pd.DataFrame(columns=columns).astype({"payments": "int64", "frauds": "float64"})
    )
    result["frauds"] = result["frauds"].astype("int64")
    result["rate"] = result["frauds"] / result["payments"]
    result["low"], result["high"] = wilson_interval(result["frauds"], result["payments"])
    return result.reset_index(drop=True)


def wilson_interval(successes: Any, trials: Any, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of a rate that holds for rare events too (Wilson 1927).

    Examples
    --------
    >>> low, high = wilson_interval(3, 100)
    >>> round(float(low), 4), round(float(high), 4)
    (0.0103, 0.0845)
    """
    k, n = np.asarray(successes, dtype="float64"), np.asarray(trials, dtype="float64")
    center = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return np.maximum(center - half, 0), np.minimum(center + half, 1)


def count_days(joined: pd.DataFrame) -> pd.DataFrame:
    """Return, by day: payments, amount, payments whose label is known, and frauds known."""
    day = joined["event_time"].dt.floor("D").rename("day")
    groups = joined.groupby(day)
    return pd.DataFrame(
        {
            "payments": groups.size(),
            "amount": groups["amount"].sum(),
            "labeled": groups["is_fraud"].count(),
            "frauds": groups["is_fraud"].sum().astype("int64"),
        }
    ).reset_index()


def label_maturity(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Return how the frauds of a day become known: days since the payment, share known by then.

    Only payments at least `HORIZON_DAYS` before `as_of` count, so that each had the same time to mature.
    The share is relative to the frauds known after `HORIZON_DAYS`.
    """
    delays = fraud_delays(transactions, labels, as_of)
    days = np.arange(HORIZON_DAYS + 1)
    share = [float((delays <= day).mean()) if len(delays) else float("nan") for day in days]
    return pd.DataFrame({"days": days, "share_known": share, "frauds": len(delays)})


def fraud_delays(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> np.ndarray:
    """Return the days from payment to chargeback (float64) of the payments that had `HORIZON_DAYS` to mature."""
    old = transactions.loc[
        transactions["event_time"] <= as_of - pd.Timedelta(days=HORIZON_DAYS), ["transaction_id", "event_time"]
    ]
    frauds = labels[(labels["is_fraud"] == 1) & (labels["known_at"] <= as_of)].merge(old, on="transaction_id")
    delays = ((frauds["known_at"] - frauds["event_time"]) / pd.Timedelta(days=1)).to_numpy()
    return delays[delays <= HORIZON_DAYS]


def summarize_maturity(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> dict[str, Any]:
    """Return the delay of the chargebacks in numbers: median and the shares known after 7, 14 and 21 days."""
    delays = fraud_delays(transactions, labels, as_of)
    if not len(delays):
        return {"frauds": 0}
    known = {f"known_after_{days}_days": float((delays <= days).mean()) for days in (7, 14, 21)}
    return {"frauds": len(delays), "median_days": float(np.median(delays)), **known}


def find(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the findings of a report, the most severe first.

    High is what silently spoils a model; medium needs a decision; low is good to know.
    """
    found = [*_find_in_columns(report["tables"])]

    def add(severity: str, check: str, column: str, message: str) -> None:
        found.append({"severity": severity, "check": check, "column": column, "message": message})

    duplicates, outliers, classes = report["duplicates"], report["outliers"], report["classes"]
    if duplicates["rows"]:
        severity = "high" if duplicates["share"] > 0.001 else "medium"
        add(severity, "duplicates", "transactions", f"{duplicates['rows']:,} rows repeat another in all but the id.")
    if outliers["amount_share"] > 0.01:
        plain, logs = outliers["amount_share"], outliers["log_share"]
        message = f"{plain:.1%} of the amounts are outliers, {logs:.2%} of their logarithms: skewed rather than wrong."
        add("low", "outliers", "amount", message)
    if not classes["fraud"]:
        add("high", "classes", "is_fraud", "No fraud is known: there is nothing to learn from.")
    elif classes["fraud_rate"] < 0.01:
        message = f"{classes['fraud_rate']:.2%} of the labeled payments are fraud: accuracy says nothing here."
        add("medium", "classes", "is_fraud", message)
    late = 1 - report["maturity"].get("known_after_7_days", 1)
    if late > 0.05:
        add("medium", "label delay", "is_fraud", f"{late:.0%} of the frauds become known later than 7 days after.")
    return sorted(found, key=lambda finding: SEVERITIES.index(finding["severity"]))


def _find_in_columns(tables: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for table, content in tables.items():
        for column, profile in content["columns"].items():
            place = f"{table}.{column}"
            if profile["disguised"]:
                message = f"{profile['disguised']:.2%} of the rows say {profile['mask']!r}: missing in disguise."
                found.append({"severity": "high", "check": "disguised missing", "column": place, "message": message})
            if profile["missing"]:
                severity = "high" if profile["missing"] > 0.2 else "medium" if profile["missing"] > 0.005 else "low"
                message = f"{profile['missing']:.2%} of the rows are missing."
                found.append({"severity": severity, "check": "missing", "column": place, "message": message})
            if profile["constant"]:
                message = "All rows hold the same value."
                found.append({"severity": "medium", "check": "constant", "column": place, "message": message})
    return found
