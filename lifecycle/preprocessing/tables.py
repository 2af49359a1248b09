"""Tables of any size, a batch at a time: no step holds more than one batch of rows in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import files
from lifecycle.errors import ContractError, LifecycleError

BATCH_ROWS = 1 << 19
"""Rows in memory at a time, and in a row group of what is written: some 50 MB of payments."""


def read_batches(path: Path, columns: Sequence[str] | None = None, rows: int | None = None) -> Iterator[pa.Table]:
    """Yield a Parquet file in tables of about `rows` rows, in the order of the file.

    Small row groups are joined and large ones are cut. A file without rows yields one empty table. Integers
    that are missing somewhere in the file become floats in every batch, as they would if it was read whole.

    Raises
    ------
    LifecycleError
        If the file is missing or cannot be read.
    """
    rows = rows or BATCH_ROWS
    waiting: list[pa.RecordBatch] = []
    count = 0
    with _open(path) as file:
        wanted = list(columns) if columns is not None else file.schema_arrow.names
        target = _schema(file, wanted)
        for batch in file.iter_batches(rows, columns=wanted):
            waiting.append(batch)
            count += batch.num_rows
            if count >= rows:
                yield _joined(waiting).cast(target)
                waiting, count = [], 0
        if waiting:
            yield _joined(waiting).cast(target)
        elif not file.metadata.num_rows:
            yield target.empty_table()


def write_batches(tables: Iterable[pa.Table], path: Path) -> None:
    """Write tables of one schema, that of the first, into a Parquet file, each as a row group; atomically."""
    writer = None
    with files.replacing(path) as temporary:
        try:
            for table in tables:
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table.cast(writer.schema), row_group_size=max(table.num_rows, 1))
        finally:
            if writer is not None:
                writer.close()


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        file = files.open_parquet(path)
    except FileNotFoundError:
        raise LifecycleError(f"File not found: {path}; run the collection stage, or check the path.") from None
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise LifecycleError(f"{path} cannot be read as Parquet ({reason}); collect it again.") from None
    with closing(file):
        yield file


def _schema(file: pq.ParquetFile, wanted: list[str]) -> pa.Schema:
    """Return the schema of the batches: that of the file, with floats for integers that can be missing."""
    gaps = set()
    for group in range(file.num_row_groups):
        for position in range(file.metadata.num_columns):
            column = file.metadata.row_group(group).column(position)
            if column.statistics is not None and column.statistics.null_count:
                gaps.add(column.path_in_schema)
    fields = [file.schema_arrow.field(name) for name in wanted]
    fields = [f.with_type(pa.float64()) if f.name in gaps and pa.types.is_integer(f.type) else f for f in fields]
    return pa.schema(fields, metadata=file.schema_arrow.metadata)


def _joined(batches: list[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(batches)
    return table.unify_dictionaries() if len(batches) > 1 else table


@contextmanager
def open_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that counts time in UTC, holds at most 2 GB and spills the rest to a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="lifecycle-") as spill, closing(duckdb.connect()) as db:
        db.execute("SET TimeZone = 'UTC'; SET memory_limit = '2GB'")
        with suppress(duckdb.InvalidInputException):  # a Jupyter kernel without ipywidgets has no bar to switch off
            db.execute("SET enable_progress_bar = false")
        db.execute(f"SET temp_directory = '{spill}'")
        yield db


def parquet(path: Path) -> str:
    """Return the SQL that reads a Parquet file."""
    return "read_parquet('" + str(path).replace("'", "''") + "')"


def check_unique(path: Path, column: str) -> None:
    """Raise a ContractError if a value of a column occurs twice in a Parquet file of any size."""
    with open_database() as db:
        db.execute(
            f"CREATE TABLE repeated AS SELECT {column} AS value, count(*) AS rows "
            f"FROM {parquet(path)} GROUP BY ALL HAVING count(*) > 1"
        )
        rows = db.execute("SELECT sum(rows) FROM repeated").fetchall()[0][0]
        first = db.execute("SELECT value FROM repeated ORDER BY value LIMIT 3").fetchall()
    if first:
        values = ", ".join(repr(str(value)) for (value,) in first)
        raise ContractError(
            f"{path}: column '{column}' is repeated in {rows:,} rows (first values: {values}); "
            "correct or remove these rows."
        )
