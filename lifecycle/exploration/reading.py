"""Read the collected tables, whole or as a fixed sample, and count over all rows what a report states as a count."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import contracts

MAX_ROWS = 2_000_000
"""A table with more rows is looked at through a sample of about this size."""

_PARTS = 1_000_000


@dataclass(frozen=True)
class Looked:
    """The rows that are looked at, and what is known of all of them.

    `rows` is the size of the whole, `by_day` its rows by day, `how` a sentence on the sample (None: all
    rows are looked at), `where` the SQL condition of the whole.
    """

    frame: pd.DataFrame
    rows: int
    by_day: pd.Series = field(default_factory=lambda: pd.Series(dtype="int64"))
    how: str | None = None
    path: Path | None = None
    where: str = "true"


@contextmanager
def _database() -> Any:
    with tempfile.TemporaryDirectory(prefix="lifecycle-") as spill, closing(duckdb.connect()) as db:
        db.execute(f"SET TimeZone = 'UTC'; SET memory_limit = '1GB'; SET temp_directory = '{spill}'")
        with suppress(duckdb.InvalidInputException):
            db.execute("SET enable_progress_bar = false")
        yield db


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def read_table(
    path: Path, time: str | None = None, until: pd.Timestamp | None = None, whole: str | None = None,
    limit: int | None = None,
) -> Looked:  # fmt: skip
    """Read the rows of a Parquet file before a moment; of very many, a sample that is the same each time.

    Parameters
    ----------
    path
        The file.
    time
        Its column of instants, if rows are to be restricted to those before `until`.
    until
        The end, not included.
    whole
        A column whose values stay whole in a sample: of each customer all rows are kept or none. By default
        single rows are drawn.
    limit
        The size above which a sample is read, `MAX_ROWS` by default.
    """
    limit = MAX_ROWS if limit is None else limit
    where = f"{time} < TIMESTAMPTZ '{until.isoformat()}'" if time else "true"
    with _database() as db:
        rows = db.sql(f"SELECT count(*) FROM read_parquet({_text(path)}) WHERE {where}").fetchall()[0][0]
        by_day = _count_by_day(db, path, time, where) if time else pd.Series(dtype="int64")
        if rows <= limit:
            table = pq.read_table(path, filters=[(time, "<", until)] if time else None)
            return Looked(table.to_pandas(), rows, by_day, None, path, where)
        key = whole or ("hash(" + ", ".join(f'"{c}"' for c in pq.read_schema(path).names) + ")")
        chosen = f"hash({key}) % {_PARTS} < {int(_PARTS * limit / rows)}"
        order = f"ORDER BY {time}, transaction_id" if whole else "ORDER BY ALL"
        sample = db.sql(
            f"SELECT * FROM read_parquet({_text(path)}) WHERE {where} AND {chosen} {order}"
        ).to_arrow_table()
    share = f"1 of {rows / max(sample.num_rows, 1):,.0f} {'customers' if whole else 'rows'}"
    how = f"{sample.num_rows:,} of {rows:,} rows ({share}, chosen by a hash, the same ones each time)"
    return Looked(_with_categories(sample).to_pandas(), rows, by_day, how, path, where)


def _count_by_day(db: duckdb.DuckDBPyConnection, path: Path, time: str, where: str) -> pd.Series:
    query = f"SELECT date_trunc('day', {time}) AS day, count(*) AS rows FROM read_parquet({_text(path)}) WHERE {where}"
    daily = db.sql(query + " GROUP BY day ORDER BY day").df().set_index("day")["rows"]
    daily.index = daily.index.astype("datetime64[us, UTC]")
    return daily


def _with_categories(table: pa.Table) -> pa.Table:
    """Encode text that repeats as dictionaries, which pandas reads as categories; ids stay text."""
    for number, entry in enumerate(table.schema):
        if pa.types.is_string(entry.type) and not entry.name.endswith("_id"):
            table = table.set_column(number, entry.name, table[entry.name].combine_chunks().dictionary_encode())
    return table


def read_labels(path: Path, payments: Looked, as_of: pd.Timestamp) -> pd.DataFrame:
    """Read the label history of the payments that are looked at, as far as it was known at `as_of`."""
    if payments.how is None:
        return pq.read_table(path, filters=[("known_at", "<=", as_of)]).to_pandas()
    ids = pa.table({"transaction_id": pa.Array.from_pandas(payments.frame["transaction_id"])})
    with _database() as db:
        db.register("ids", ids)
        return db.sql(
            f"SELECT l.* FROM read_parquet({_text(path)}) l SEMI JOIN ids USING (transaction_id) "
            f"WHERE known_at <= TIMESTAMPTZ '{as_of.isoformat()}' ORDER BY known_at, transaction_id"
        ).df().astype({"known_at": contracts.UTC})  # fmt: skip


def count_exactly(looked: Looked, masks: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return the shares of missing and of disguised values of each column over all rows, not the sample.

    Parameters
    ----------
    looked
        What `read_table` returned.
    masks
        Column -> the disguises that were found in the sample, as text.
    """
    parts = []
    for name in looked.frame.columns:
        listed = ", ".join("'" + mask.replace("'", "''") + "'" for mask in masks.get(name, ())) or "NULL"
        column = f'"{name}"'
        kind = looked.frame[name].dtype
        if pd.api.types.is_numeric_dtype(kind) and masks.get(name):
            listed = ", ".join(masks[name])
            hidden = f"count_if({column} IN ({listed}))"
        elif pd.api.types.is_datetime64_any_dtype(kind) and masks.get(name):
            hidden = f"count_if({column} IN (" + ", ".join(f"TIMESTAMPTZ '{m}'" for m in masks[name]) + "))"
        else:
            hidden = f"count_if({column}::VARCHAR IN ({listed}))"
        parts.append(f"count(*) - count({column}), coalesce({hidden}, 0)")
    with _database() as db:
        found = db.sql(
            f"SELECT {', '.join(parts)} FROM read_parquet({_text(looked.path)}) WHERE {looked.where}"
        ).fetchall()[0]
    total = max(looked.rows, 1)
    return {
        name: {"missing": found[2 * i] / total, "disguised": found[2 * i + 1] / total}
        for i, name in enumerate(looked.frame.columns)
    }


def count_duplicates_exactly(looked: Looked) -> dict[str, Any]:
    """Return the payments that repeat another in all but the id, over all rows."""
    with _database() as db:
        rows = db.sql(
            f"SELECT coalesce(sum(n - 1), 0)::BIGINT FROM (SELECT count(*) AS n FROM read_parquet("
            f"{_text(looked.path)}) WHERE {looked.where} "
            "GROUP BY event_time, customer_id, terminal_id, amount HAVING n > 1)"
        ).fetchall()[0][0]
    return {"rows": rows, "share": rows / max(looked.rows, 1)}


def count_classes_exactly(looked: Looked, labels: Path, as_of: pd.Timestamp) -> dict[str, Any]:
    """Return how many of all payments are known to be fraud, known to be honest and not known at `as_of`."""
    with _database() as db:
        fraud, honest = db.sql(
            f"""
            WITH known AS (
                SELECT transaction_id, arg_max(is_fraud, known_at) AS is_fraud FROM read_parquet({_text(labels)})
                WHERE known_at <= TIMESTAMPTZ '{as_of.isoformat()}' GROUP BY transaction_id
            )
            SELECT count_if(is_fraud = 1), count_if(is_fraud = 0) FROM known
            SEMI JOIN (SELECT transaction_id FROM read_parquet({_text(looked.path)}) WHERE {looked.where})
                USING (transaction_id)
            """
        ).fetchall()[0]
    known = max(fraud + honest, 1)
    return {
        "fraud": fraud,
        "honest": honest,
        "unknown": looked.rows - fraud - honest,
        "fraud_rate": fraud / known,
        "accuracy_of_saying_never": honest / known,
    }
