"""A file of one's own in place of the simulated bank: the same tables, the same contracts, errors that name values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from lifecycle import contracts, files
from lifecycle.collection.accounting import check_accounting
from lifecycle.collection.shared import ATTRIBUTES, ZONE, create_quarantine, database, with_dictionaries
from lifecycle.errors import ContractError, LifecycleError


def ingest(
    transactions: Path | str,
    labels: Path | str | None = None,
    mapping: Mapping[str, str] | None = None,
    label_delay_days: int = 7,
) -> Callable[[Any, Mapping[str, Path], Path], None]:
    """Return a `build` that collects a file of one's own in place of the simulated bank.

    Parameters
    ----------
    transactions
        A CSV or Parquet file with the columns of `contracts.TRANSACTIONS`, optionally those of `ATTRIBUTES`,
        and optionally `is_fraud` (0, 1 or missing) and `known_at`. Other columns are left out.
    labels
        A CSV or Parquet file with `transaction_id`, `is_fraud` and, optionally, `known_at`. If given,
        an `is_fraud` column of the transactions is not read.
    mapping
        Our column name -> the file's column name, for both files. The entry ``time_zone`` names the zone
        of timestamps that are written without one, such as ``Europe/Berlin``.
    label_delay_days
        A label without `known_at` becomes known this many days after its event.

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

    def build_from_file(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
        with database(out) as db:
            create_quarantine(db)
            tables = _ingest_tables(db, *paths, dict(mapping or {}), label_delay_days)
        for name, table in tables.items():
            files.write_parquet(table, out / f"{name}.parquet")

    return build_from_file


def _ingest_tables(
    db: duckdb.DuckDBPyConnection, transactions: Path, labels: Path | None, mapping: dict[str, str], delay: int
) -> dict[str, Any]:
    zone = mapping.pop("time_zone", None)
    known = (*contracts.TRANSACTIONS.columns, *ATTRIBUTES, "is_fraud", "known_at")
    for name in mapping:
        if name not in known:
            raise LifecycleError(f"The mapping names a column {name!r} that we do not have; map {', '.join(known)}.")
    payments = _OwnFile(db, transactions, "transactions", mapping, zone)
    payments.load(
        ("transaction_id", "event_time", "customer_id", "terminal_id", "amount"), (*ATTRIBUTES, "is_fraud", "known_at")
    )
    payments.check_unique("transaction_id")
    payments.check("amount", "isfinite(amount)", "is not finite", "correct or remove these rows")
    payments.check(
        "amount", "amount > 0", "is not positive", "a payment must be above zero: correct or remove these rows"
    )
    own = payments
    if labels is not None:
        own = _OwnFile(db, labels, "labels", mapping, zone)
        own.load(("transaction_id", "is_fraud"), ("known_at",))
        db.execute("CREATE TABLE known_ids AS SELECT transaction_id::VARCHAR AS id FROM transactions")
        own.check(
            "transaction_id",
            "transaction_id::VARCHAR IN (SELECT id FROM known_ids)",
            f"names payments that {transactions.name} does not have",
            "remove these labels or add the payments",
        )
    elif "is_fraud" not in payments.columns:
        raise ContractError(
            f"{transactions}: column 'is_fraud' is missing and no file of labels is given; add the column, "
            "or give a file with transaction_id, is_fraud and known_at."
        )
    kept = [c for c in payments.columns if c not in ("is_fraud", "known_at")]
    table = with_dictionaries(
        db.sql(f"SELECT {', '.join(kept)} FROM transactions ORDER BY event_time, transaction_id").to_arrow_table()
    )
    history = _own_labels(db, own, delay)
    contracts.check(table.to_pandas(), contracts.TRANSACTIONS, transactions)
    contracts.check(history, contracts.LABELS, own.path)
    counts = [{"source": f.path.name, "read": f.rows, "accepted": f.rows} for f in dict.fromkeys((payments, own))]
    return {
        "transactions": table,
        "labels": history,
        "superseded": table.slice(0, 0),
        "quarantine": db.sql("SELECT * FROM quarantine").to_arrow_table(),
        "accounting": check_accounting(pd.DataFrame(counts)),
    }


def _own_labels(db: duckdb.DuckDBPyConnection, own: _OwnFile, delay: int) -> pd.DataFrame:
    """Turn a column or file of labels into a label history; a missing label is no label."""
    own.check(
        "is_fraud", "is_fraud IN (0, 1)", "is neither 0 nor 1", "write 1 for fraud, 0 for honest, nothing for unknown"
    )
    known = (
        "coalesce(l.known_at, t.event_time + to_days($delay))"
        if "known_at" in own.columns
        else "t.event_time + to_days($delay)"
    )
    history = db.sql(
        f"""
        SELECT t.transaction_id, l.is_fraud::TINYINT AS is_fraud, {known} AS known_at, t.event_time
        FROM {own.table} l JOIN transactions t ON l.transaction_id::VARCHAR = t.transaction_id::VARCHAR
        WHERE l.is_fraud IS NOT NULL ORDER BY known_at, t.transaction_id
        """,
        params={"delay": delay},
    ).to_arrow_table()
    frame = history.to_pandas()
    early = frame[frame["known_at"] < frame["event_time"]]
    if len(early):
        first = ", ".join(early["known_at"].head(3).astype(str))
        raise ContractError(
            f"{own.path}: column 'known_at' is before the payment in {len(early):,} rows (first values: {first}); "
            "a label cannot be known before its payment: correct or remove these rows."
        )
    return frame.drop(columns="event_time")


class _OwnFile:
    """One file of the user's, read as text and converted column by column, so that errors name values."""

    def __init__(
        self, db: duckdb.DuckDBPyConnection, path: Path, table: str, mapping: Mapping[str, str], zone: str | None
    ) -> None:
        self.db, self.path, self.table, self.mapping, self.zone = db, path, table, mapping, zone
        self.columns: list[str] = []
        self.rows = 0

    def load(self, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
        """Create the table with all required columns and those optional ones that the file has."""
        types = self._open()
        self.columns = [*required, *(name for name in optional if self._theirs(name) in types)]
        missing = [self._theirs(name) for name in required if self._theirs(name) not in types]
        if missing:
            names = ", ".join(f"'{name}'" for name in missing)
            raise ContractError(
                f"{self.path}: {'column' if len(missing) == 1 else 'columns'} {names} "
                f"{'is' if len(missing) == 1 else 'are'} missing; the file has {', '.join(types)}: "
                "rename them, or say in a mapping which column is which."
            )
        if not self.rows:
            raise ContractError(f"{self.path}: there are no rows; the {self.table} need at least one.")
        parts = [f"{self._convert(name, types[self._theirs(name)])} AS {name}" for name in self.columns]
        self.db.execute(f"CREATE TABLE {self.table} AS SELECT {', '.join(parts)} FROM own_{self.table}")

    def _theirs(self, name: str) -> str:
        return self.mapping.get(name, name)

    def _open(self) -> dict[str, str]:
        """Make the file visible as view `own_<table>` and return its columns and types."""
        if not self.path.is_file():
            raise LifecycleError(f"File not found: {self.path}; check the path.")
        if not self.path.stat().st_size:
            raise LifecycleError(f"{self.path} is empty; give a CSV or Parquet file with a header and rows.")
        name = str(self.path).replace("'", "''")
        parquet = _starts_with(self.path, b"PAR1")
        reader = f"read_parquet('{name}')" if parquet else f"read_csv('{name}', all_varchar = true, header = true)"
        try:
            self.db.execute(f"CREATE TABLE own_{self.table} AS SELECT * FROM {reader}")
            self.rows = self.db.sql(f"SELECT count(*) FROM own_{self.table}").fetchall()[0][0]
        except duckdb.Error as error:
            raise LifecycleError(
                f"{self.path} cannot be read as {'Parquet' if parquet else 'CSV'} ({str(error).splitlines()[0]}); "
                "save it again as CSV with a header, or as Parquet."
            ) from error
        described = self.db.sql(f"DESCRIBE own_{self.table}").fetchall()
        return {row[0]: row[1] for row in described}

    def _convert(self, name: str, found: str) -> str:
        """Return the SQL that converts a column to its contract type, after checking that it can."""
        column = '"' + self._theirs(name).replace('"', '""') + '"'
        if name.endswith("_id"):
            return self._convert_id(name, column, found)
        if name in ("event_time", "known_at"):
            return self._convert_time(name, column, found)
        if name == "amount":
            self._refuse(
                name,
                column,
                f"try_cast({column} AS DOUBLE) IS NULL",
                "is missing or not a number",
                "correct or remove these rows",
            )
            return f"try_cast({column} AS DOUBLE)"
        if name == "is_fraud":
            number = f"coalesce(try_cast({column} AS DOUBLE), try_cast(try_cast({column} AS BOOLEAN) AS DOUBLE))"
            text = f"coalesce(trim({column}::VARCHAR), '')"
            self._refuse(
                name,
                column,
                f"{number} IS NULL AND {text} <> ''",
                "is neither 0 nor 1",
                "write 1 for fraud, 0 for honest, nothing for unknown",
            )
            return number
        return f"nullif({column}::VARCHAR, '')"

    def _convert_id(self, name: str, column: str, found: str) -> str:
        self._refuse(name, column, f"coalesce({column}::VARCHAR, '') = ''", "is missing", "every row needs one")
        if found.endswith("INT") or found in ("INTEGER", "BIGINT"):
            return f"{column}::BIGINT"
        if found != "VARCHAR":
            raise ContractError(
                f"{self.path}: column '{self._theirs(name)}' has type {found}; save ids as integers or text."
            )
        # Digits are integers only if nothing is lost: "007" stays text.
        whole = f"coalesce(try_cast({column} AS BIGINT)::VARCHAR, '') = {column}"
        all_whole = self.db.sql(f"SELECT bool_and({whole}) FROM own_{self.table}").fetchall()[0][0]
        return f"{column}::BIGINT" if all_whole else column

    def _convert_time(self, name: str, column: str, found: str) -> str:
        optional = name == "known_at"
        present = f"coalesce({column}::VARCHAR, '') <> ''"
        if not optional:
            self._refuse(name, column, f"NOT ({present})", "is missing", "every row needs one")
        if found in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMPTZ_NS"):
            return f"{column}::TIMESTAMPTZ"
        if found not in ("VARCHAR", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_S", "TIMESTAMP_MS", "DATE"):
            raise ContractError(
                f"{self.path}: column '{self._theirs(name)}' has type {found}, expected timestamps; "
                "write them as 2025-08-01T12:30:00+00:00."
            )
        text = f"{column}::VARCHAR"
        unreadable = f"coalesce(try_cast({text} AS TIMESTAMP), try_cast({text} AS TIMESTAMPTZ)) IS NULL"
        remedy = "write them as 2025-08-01T12:30:00+00:00"
        self._refuse(name, column, f"{present} AND {unreadable}", "is not a timestamp", remedy)
        # A date alone ends in something like "-01" too, so an offset counts only after a time of day.
        zoned = f"regexp_matches({text}, ':.*{ZONE}')"
        if self.zone is None:
            remedy += ', or name the zone in the mapping: time_zone = "UTC"'
            self._refuse(name, column, f"{present} AND NOT {zoned}", "has no time zone", remedy)
            return f"try_cast({text} AS TIMESTAMPTZ)"
        zone = self.zone.replace("'", "''")
        try:
            self.db.sql(f"SELECT timezone('{zone}', TIMESTAMP '2025-01-01')").fetchall()
        except duckdb.Error:
            raise LifecycleError(
                f"Unknown time zone {self.zone!r} in the mapping; use a name such as Europe/Berlin."
            ) from None
        local = f"timezone('{zone}', try_cast({text} AS TIMESTAMP))"
        return f"CASE WHEN {zoned} THEN try_cast({text} AS TIMESTAMPTZ) ELSE {local} END"

    def _refuse(self, name: str, column: str, bad: str, problem: str, remedy: str, table: str | None = None) -> None:
        """Raise a ContractError if any row is bad."""
        table = table or f"own_{self.table}"
        rows = self.db.sql(f"SELECT count(*) FROM {table} WHERE {bad}").fetchall()[0][0]
        if not rows:
            return
        values = [row[0] for row in self.db.sql(f"SELECT {column} FROM {table} WHERE {bad} LIMIT 3").fetchall()]
        first = ", ".join(
            dict.fromkeys(repr(v) if isinstance(v, str) else "nothing" if v is None else str(v) for v in values)
        )
        raise ContractError(
            f"{self.path}: column '{self._theirs(name)}' {problem} in {rows:,} row{'s' * (rows > 1)} "
            f"(first values: {first}); {remedy}."
        )

    def check(self, name: str, good: str, problem: str, remedy: str) -> None:
        """Raise a ContractError unless every row of the converted table is `good` or missing."""
        self._refuse(name, name, f"NOT coalesce({good}, true)", problem, remedy, self.table)

    def check_unique(self, name: str) -> None:
        """Raise a ContractError if a value occurs twice."""
        repeated = f"{name} IN (SELECT {name} FROM {self.table} GROUP BY {name} HAVING count(*) > 1)"
        self._refuse(name, name, repeated, "is repeated", "keep one row a payment", self.table)


def _starts_with(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic
