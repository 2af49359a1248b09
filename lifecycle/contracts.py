"""The schemas of what stages hand to each other, and the one way to check them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lifecycle.errors import ContractError

UTC = pd.DatetimeTZDtype("us", "UTC")

_is_id = pa.Check(
    lambda column: pd.api.types.is_integer_dtype(column) or not pd.api.types.is_numeric_dtype(column),
    error="must be integers or strings",
)
_is_finite = pa.Check(lambda column: np.isfinite(column), error="must be finite")

NO_ID = ""
"""What stands in the id column of an entity that a table does not have: nobody's id. No feature is made of it."""

OPERATION_EVENTS = ("release", "restart", "job", "replacement", "update", "outage", "other")
"""What an entry of the log of operations is about."""

TRANSACTIONS = pa.DataFrameSchema(
    {
        "transaction_id": pa.Column(checks=_is_id, unique=True),
        "event_time": pa.Column(UTC),
        "customer_id": pa.Column(checks=_is_id),
        "terminal_id": pa.Column(checks=_is_id),
        "amount": pa.Column("float64", [pa.Check.gt(0), _is_finite]),
    },
    name="transactions",
)
"""One row a payment, in account currency. Any further column is an optional attribute."""

LABELS = pa.DataFrameSchema(
    {
        "transaction_id": pa.Column(checks=_is_id),
        "is_fraud": pa.Column("int8", pa.Check.isin([0, 1])),
        "known_at": pa.Column(UTC),
    },
    unique=["transaction_id", "known_at"],
    name="labels",
)
"""What became known about a payment, and when. A later row overrules an earlier one."""

OPERATIONS = pa.DataFrameSchema(
    {
        "time": pa.Column(UTC),
        "host": pa.Column(str, pa.Check.str_length(min_value=1)),
        "program": pa.Column(str, pa.Check.str_length(min_value=1)),
        "level": pa.Column(str, pa.Check.isin(["DEBUG", "INFO", "WARN", "ERROR"])),
        "event": pa.Column(str, pa.Check.isin(OPERATION_EVENTS)),
        "terminal_id": pa.Column("Int64", pa.Check.ge(0), nullable=True),
        "message": pa.Column(str, pa.Check.str_length(min_value=1)),
    },
    name="operations",
)
"""One row an entry of the log of operations; `terminal_id` is missing where the entry is not about a terminal."""

SCORES = pa.DataFrameSchema(
    {
        "transaction_id": pa.Column(checks=_is_id, unique=True),
        "event_time": pa.Column(UTC),
        "score": pa.Column("float64", pa.Check.in_range(0, 1)),
        "is_fraud": pa.Column("Int8", pa.Check.isin([0, 1]), nullable=True),
    },
    name="scores",
)
"""One row a payment of the test period; `is_fraud` is missing where the label is not known."""


def check(frame: pd.DataFrame, schema: pa.DataFrameSchema, where: Path | str) -> pd.DataFrame:
    """Return `frame` if it keeps `schema`; otherwise say what is wrong, in one sentence.

    Parameters
    ----------
    frame
        The table to check. It is not changed.
    schema
        One of the schemas of this module.
    where
        The file, or another name of the place, for the message.

    Raises
    ------
    ContractError
        Naming `where`, the column, how many rows fail, and the first values that do.

    Examples
    --------
    >>> labels = pd.DataFrame({"transaction_id": [1], "is_fraud": [1]})
    >>> try:
    ...     check(labels, LABELS, "labels.csv")
    ... except ContractError as error:
    ...     print(str(error).split(";")[0])
    labels.csv: column 'known_at' is missing
    """
    missing = [name for name in schema.columns if name not in frame.columns]
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        verb = "column {} is missing" if len(missing) == 1 else "columns {} are missing"
        raise ContractError(f"{where}: {verb.format(names)}; the {schema.name} need {', '.join(schema.columns)}.")
    if frame.empty:
        raise ContractError(f"{where}: there are no rows; the {schema.name} need at least one.")
    try:
        return schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise ContractError(_sentence(errors.failure_cases, schema, where)) from None


def _sentence(cases: pd.DataFrame, schema: pa.DataFrameSchema, where: Path | str) -> str:
    """Describe the first failing column of pandera's failure cases."""
    first = cases.iloc[0]
    column = first["column"] if isinstance(first["column"], str) else None
    same = cases[(cases["column"] == first["column"]) & (cases["check"] == first["check"])]
    check_name = str(first["check"])
    if check_name.startswith("dtype"):
        expected = schema.columns[column].dtype if column in schema.columns else "another type"
        return f"{where}: column '{column}' has type {first['failure_case']}, expected {expected}."
    values = ", ".join(repr(value) for value in pd.unique(same["failure_case"].astype(str))[:3])
    rows = same["index"].nunique() or len(same)
    what = {
        "field_uniqueness": "is repeated",
        "multiple_fields_uniqueness": "is repeated",
        "not_nullable": "is missing",
    }
    reason = what.get(check_name, f"breaks the rule {check_name!r}")
    return (
        f"{where}: column '{column or ', '.join(schema.unique or [])}' {reason} in {rows:,} rows "
        f"(first values: {values}); correct or remove these rows."
    )


def absent_entities(frame: pd.DataFrame) -> list[str]:
    """Return the id columns that hold nothing but `NO_ID`: the table came without customers, or without terminals.

    Examples
    --------
    >>> absent_entities(pd.DataFrame({"customer_id": [7, 8], "terminal_id": ["", ""]}))
    ['terminal_id']
    """
    if frame.empty:
        return []
    kept = [name for name in ("customer_id", "terminal_id") if name in frame]
    return [n for n in kept if not pd.api.types.is_numeric_dtype(frame[n].dtype) and frame[n].eq(NO_ID).all()]


def labels_as_of(labels: pd.DataFrame, moment: pd.Timestamp) -> pd.DataFrame:
    """Return the labels as they were known at `moment`, one row a payment.

    A payment whose first label comes after `moment` is absent: nobody knew it yet.

    Examples
    --------
    >>> at = pd.to_datetime(["2025-08-08", "2025-08-20"], utc=True)
    >>> labels = pd.DataFrame({"transaction_id": [1, 1], "is_fraud": [0, 1], "known_at": at})
    >>> labels_as_of(labels, pd.Timestamp("2025-08-10", tz="UTC"))["is_fraud"].tolist()
    [0]
    >>> labels_as_of(labels, pd.Timestamp("2025-08-20", tz="UTC"))["is_fraud"].tolist()
    [1]
    """
    known = labels[labels["known_at"] <= moment]
    if known["transaction_id"].is_unique:
        return known
    return known.sort_values("known_at", kind="stable").drop_duplicates("transaction_id", keep="last")


def midnight(day: object) -> pd.Timestamp:
    """Return the first moment of a day in UTC.

    Examples
    --------
    >>> midnight("2025-08-01")
    Timestamp('2025-08-01 00:00:00+0000', tz='UTC')
    """
    return pd.Timestamp(day, tz="UTC")
