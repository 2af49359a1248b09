"""A file of one's own in place of the simulated bank: the same tables, the same contracts, errors that name values.

`mapping` says what the file calls things, `reading` turns its columns into ours, `attributes` decides what becomes of
the columns that are not in the contract, and this module puts them together, a batch of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import contracts, files
from lifecycle.collection.accounting import check_accounting
from lifecycle.collection.own.attributes import describe_attributes
from lifecycle.collection.own.mapping import FileMap, read_mapping
from lifecycle.collection.own.reading import OwnFile
from lifecycle.collection.shared import ATTRIBUTES, create_quarantine, database, with_dictionaries
from lifecycle.errors import ContractError

__all__ = ["FileMap", "ingest", "load_new", "read_mapping"]

BATCH_ROWS = 250_000
"""Rows that are in Python at a time; all others are in DuckDB, which spills to disk."""

REQUIRED = ("transaction_id", "event_time", "amount")
ENTITIES = ("customer_id", "terminal_id")


def ingest(
    transactions: Path | str,
    labels: Path | str | None = None,
    mapping: Mapping[str, Any] | None = None,
    label_delay_days: int = 7,
) -> Callable[[Any, Mapping[str, Path], Path], None]:
    """Return a `build` that collects a file of one's own in place of the simulated bank.

    Parameters
    ----------
    transactions
        A CSV or Parquet file with at least `transaction_id`, `event_time` and `amount`, and `is_fraud` (0, 1 or
        missing) unless the labels are apart. Without `customer_id` or `terminal_id`, that column holds
        `contracts.NO_ID` and no feature is made of it. All other columns become attributes, or are left out for a
        reason that ``own_file.json`` gives. The file may be larger than memory.
    labels
        A CSV or Parquet file with `transaction_id`, `is_fraud` and, optionally, `known_at`. If given,
        an `is_fraud` column of the transactions is not read.
    mapping
        What the files call things (`FileMap`).
    label_delay_days
        A label without `known_at` becomes known this many days after its event, unless the mapping says otherwise.

    Raises
    ------
    ContractError
        When the returned function runs and a file does not keep the contract.

    Examples
    --------
    >>> ingest("missing.csv")(None, {}, Path("."))
    Traceback (most recent call last):
    ...
    lifecycle.errors.LifecycleError: File not found: missing.csv; check the path.
    """
    paths = Path(transactions), Path(labels) if labels is not None else None
    words = FileMap.of(mapping or {}, label_delay_days)

    def build_from_file(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
        with database(out) as db:
            create_quarantine(db)
            _ingest_tables(db, *paths, words, out)

    return build_from_file


def _ingest_tables(
    db: duckdb.DuckDBPyConnection, transactions: Path, labels: Path | None, words: FileMap, out: Path
) -> None:
    payments = OwnFile(db, transactions, "transactions", words)
    payments.open()
    attributes = describe_attributes(payments)
    payments.load(REQUIRED, (*ENTITIES, *ATTRIBUTES, *(() if labels else ("is_fraud", "known_at"))), attributes)
    absent = [name for name in ENTITIES if name not in payments.columns]
    _check_payments(payments)
    own = payments if labels is None else _labels_apart(db, labels, words, transactions)
    if labels is None and "is_fraud" not in payments.columns:
        raise ContractError(
            f"{transactions}: column {words.theirs('is_fraud')!r} is missing and no file of labels is given; add the "
            "column, or give a file with transaction_id, is_fraud and known_at."
        )
    described = _make_labels(db, own, words.label_delay_days)
    made = {a["ours"]: a["kind"] for a in attributes if a["ours"]}
    _write_transactions(db, payments, made, transactions, out)
    _write_stream(
        db, "SELECT transaction_id, is_fraud, known_at FROM history ORDER BY known_at, transaction_id",
        out / "labels.parquet", contracts.LABELS, own.path,
    )  # fmt: skip
    files.write_parquet(pq.read_schema(out / "transactions.parquet").empty_table(), out / "superseded.parquet")
    files.write_parquet(db.sql("SELECT * FROM quarantine").to_arrow_table(), out / "quarantine.parquet")
    counts = [{"source": f.path.name, "read": f.rows, "accepted": f.rows} for f in dict.fromkeys((payments, own))]
    files.write_parquet(check_accounting(pd.DataFrame(counts)), out / "accounting.parquet")
    used = [{"file": words.theirs(name), "ours": name, "kind": "contract", "note": ""}
            for name in payments.columns if name not in made]  # fmt: skip
    report = {
        "transactions": transactions.name, "labels_file": labels.name if labels else None, "rows": payments.rows,
        "absent": absent, "columns": used + attributes, "labels": described, "time_zone": words.time_zone,
        "amount_unit": words.amount_unit, "clock": payments.blurred,
    }  # fmt: skip
    files.write_json(report, out / "own_file.json")


def load_new(
    db: duckdb.DuckDBPyConnection,
    path: Path | str,
    mapping: Mapping[str, Any],
    absent: Collection[str],
    attributes: Sequence[Mapping[str, Any]],
) -> None:
    """Load new payments of a file of one's own, without labels, as `ingest` has loaded those of the training.

    The table ``transactions`` gets the columns of the contract but the absent ones, in the order of the file, and the
    attributes that the file has, under our names.

    Parameters
    ----------
    db
        A database of `lifecycle.collection.shared.database`.
    path
        A CSV or Parquet file.
    mapping
        What it calls things (`FileMap`).
    absent
        The entities that the training had not; their columns are not read.
    attributes
        What became of the further columns of the training: the entries of ``columns`` in ``own_file.json``.

    Raises
    ------
    ContractError
        If the file breaks the contract.
    """
    own = OwnFile(db, Path(path), "transactions", FileMap.of(mapping, 0))
    own.open()
    entities = [name for name in ENTITIES if name not in absent]
    known = [dict(one) for one in attributes if one["ours"] and one["kind"] != "contract" and one["file"] in own.types]
    own.load((*REQUIRED, *entities), ATTRIBUTES, known)
    _check_payments(own)


def _check_payments(payments: OwnFile) -> None:
    payments.check_unique("transaction_id")
    payments.check("amount", "isfinite(amount)", "is not finite", "correct or remove these rows")
    payments.check(
        "amount", "amount > 0", "is not positive", "a payment must be above zero: correct or remove these rows"
    )


def _labels_apart(db: duckdb.DuckDBPyConnection, labels: Path, words: FileMap, transactions: Path) -> OwnFile:
    """Read the file of labels, which may only speak of payments that there are."""
    own = OwnFile(db, labels, "labels", words)
    own.open()
    own.load(("transaction_id", "is_fraud"), ("known_at",))
    db.execute("CREATE TABLE known_ids AS SELECT transaction_id::VARCHAR AS id FROM transactions")
    own.check(
        "transaction_id",
        "transaction_id::VARCHAR IN (SELECT id FROM known_ids)",
        f"names payments that {transactions.name} does not have",
        "remove these labels or add the payments",
    )
    db.execute("DROP TABLE known_ids")
    return own


def _make_labels(db: duckdb.DuckDBPyConnection, own: OwnFile, delay: int) -> dict[str, Any]:
    """Make the table `history` of a column or file of labels; a missing label is no label. Return what was found."""
    own.check(
        "is_fraud", "is_fraud IN (0, 1)", "is neither 0 nor 1", "write 1 for fraud, 0 for honest, nothing for unknown"
    )
    known = "l.known_at" if "known_at" in own.columns else "NULL::TIMESTAMPTZ"
    db.execute(
        f"CREATE TABLE history AS SELECT t.transaction_id, l.is_fraud::TINYINT AS is_fraud, {known} IS NOT NULL AS "
        f"observed, coalesce({known}, t.event_time + to_days({int(delay)})) AS known_at, t.event_time "
        f"FROM {own.table} l JOIN transactions t ON l.transaction_id::VARCHAR = t.transaction_id::VARCHAR "
        "WHERE l.is_fraud IS NOT NULL"
    )
    rows = "SELECT count(*), coalesce(sum(observed::INT), 0), coalesce(sum(is_fraud), 0) FROM history"
    total, observed, frauds = map(int, db.sql(rows).fetchall()[0])
    if not total:
        raise ContractError(
            f"{own.path}: column '{own.theirs('is_fraud')}' has no label in any row; there must be some to learn from."
        )
    _refuse_history(db, own, "known_at < event_time", "known_at", "is before the payment",
                    "a label cannot be known before its payment: correct or remove these rows")  # fmt: skip
    groups = "SELECT transaction_id, known_at FROM history GROUP BY ALL HAVING count(*) > 1"
    twice = f"(transaction_id, known_at) IN ({groups})"
    if db.sql("SELECT count(*) - count(DISTINCT (transaction_id, known_at)) FROM history").fetchall()[0][0]:
        _refuse_history(db, own, twice, "transaction_id", "is repeated",
                        "a payment can have several labels only at different times: keep one row")  # fmt: skip
    if frauds in (0, total):
        raise ContractError(
            f"{own.path}: column '{own.theirs('is_fraud')}' calls all {total:,} labeled payments "
            f"{'fraud' if frauds else 'honest'}; a model needs both kinds: check the labels, or give more of them."
        )
    labeled = db.sql("SELECT count(DISTINCT transaction_id) FROM history").fetchall()[0][0]
    payments = db.sql("SELECT count(*) FROM transactions").fetchall()[0][0]
    return {
        "source": own.path.name, "observed": observed, "assumed": total - observed, "delay_days": delay,
        "unknown": payments - labeled, "frauds": frauds,
    }  # fmt: skip


def _refuse_history(
    db: duckdb.DuckDBPyConnection, own: OwnFile, bad: str, column: str, problem: str, remedy: str
) -> None:
    rows = db.sql(f"SELECT count(*) FROM history WHERE {bad}").fetchall()[0][0]
    if rows:
        found = db.sql(f"SELECT {column}::VARCHAR FROM history WHERE {bad} ORDER BY known_at LIMIT 3").fetchall()
        first = ", ".join(dict.fromkeys(value for (value,) in found))
        raise ContractError(
            f"{own.path}: column '{own.theirs(column)}' {problem} in {rows:,} row{'s' * (rows > 1)} "
            f"(first values: {first}); {remedy}."
        )


def _write_transactions(
    db: duckdb.DuckDBPyConnection, payments: OwnFile, made: Mapping[str, str], path: Path, out: Path
) -> None:
    """Write the payments in the order of time; a missing entity is `NO_ID`, text attributes are dictionaries."""
    columns = [
        name if name in payments.columns else f"{contracts.NO_ID!r} AS {name}"
        for name in ("transaction_id", "event_time", *ENTITIES, "amount")
    ]
    columns += [name for name in ATTRIBUTES if name in payments.columns]
    columns += [f'"{name}"' for name in made]
    texts = [name for name, kind in made.items() if kind == "category"]
    query = f"SELECT {', '.join(columns)} FROM transactions ORDER BY event_time, transaction_id"
    _write_stream(db, query, out / "transactions.parquet", contracts.TRANSACTIONS, path, texts)


def _write_stream(
    db: duckdb.DuckDBPyConnection, query: str, path: Path, schema: Any, where: Path, texts: list[str] | None = None
) -> None:
    """Write the result of a query as Parquet and check it against its contract, some rows at a time."""
    writer = None
    with files.replacing(path) as temporary:
        try:
            for batch in db.sql(query).to_arrow_reader(BATCH_ROWS):
                if not batch.num_rows:
                    continue
                table = with_dictionaries(pa.Table.from_batches([batch]), (*ATTRIBUTES, *(texts or ())))
                contracts.check(table.to_pandas(), schema, where)
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
