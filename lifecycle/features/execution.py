"""Run the window expressions on Parquet files of any size, in bounded memory.

DuckDB joins and writes, and spills to disk what exceeds its limit; the windows themselves are computed on
sorted arrays (`lifecycle.features.rolling`). Where a table is large, its entities are divided into buckets:
every window belongs to one customer or one terminal, so a bucket needs no other bucket's payments. The
parts are then put together a few days at a time, in the order that a single run gives. A bank of 100 times
the size takes 100 times as long, not more memory.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import contracts, files
from lifecycle.features.rolling import computed
from lifecycle.features.schema import VIEWS
from lifecycle.features.windows import (
    ATTRIBUTES,
    DAY,
    RECENT,
    UNITS,
    connect,
    daily_features,
    daily_sums,
    entity_table,
    recent_features,
    recent_sums,
    snapshot_days,
)

if TYPE_CHECKING:
    import ibis

MEMORY = "1500MB"
"""What DuckDB may hold; the rest of the process comes on top."""

BUCKET = 4_000_000
"""Payments and snapshots of one entity kind that are computed at once."""

CHUNK = 1_000_000
"""Rows that are put together at once, in whole days."""

ROW_GROUP = 122_880
"""Rows of a Parquet row group, DuckDB's own size: a reader of one day skips the groups of the others."""

WRITTEN = {"compression": "zstd", "compression_level": 1, "dictionary_size_limit": 4_096}
"""How a table is written: the default level takes half as long again, for files a fifth smaller."""

APPENDED = {"compression": "zstd", "compression_level": 1, "dictionary_pagesize_limit": 16_384}
"""The same for PyArrow, which else tries a dictionary of a megabyte on every column of numbers, and drops it."""

_SQL = {"int64": "BIGINT", "string": "VARCHAR"}


@contextlib.contextmanager
def session(folder: Path, memory: str = MEMORY) -> Iterator[Any]:
    """Open a DuckDB through Ibis that holds at most `memory` and spills into a temporary folder inside `folder`."""
    with tempfile.TemporaryDirectory(prefix=".spill-", dir=folder) as spill:
        backend = connect()
        try:
            backend.raw_sql(f"SET memory_limit = '{memory}'")
            backend.raw_sql(f"SET temp_directory = {_quoted(spill)}")
            yield backend
        finally:
            backend.disconnect()


def read_payments(backend: Any, paths: list[Path]) -> ibis.Table:
    """Return `windows.payment_columns` of Parquet files of transactions, as a query of DuckDB."""
    ids = {name: _id_type(paths[0], name) for name in ("transaction_id", "customer_id", "terminal_id")}
    plain = ", ".join(f"CAST({name} AS {_SQL[kind]}) AS {name}" for name, kind in ids.items())
    # A cast from double rounds halves to even, as NumPy's rint does.
    return backend.sql(
        f"SELECT {', '.join(ids)}, micros, micros // {DAY} + 1 AS snapshot, units FROM (SELECT {plain}, "
        f"epoch_us(event_time) AS micros, CAST(amount * {UNITS} AS BIGINT) AS units FROM {_parquet(*paths)})",
        schema={**ids, "micros": "int64", "snapshot": "int64", "units": "int64"},
    )


def read_reports(backend: Any, path: Path) -> ibis.Table:
    """Return `windows.report_columns` of a Parquet file of labels, as a query of DuckDB."""
    kind = _id_type(path, "transaction_id")
    return backend.sql(
        f"SELECT CAST(transaction_id AS {_SQL[kind]}) AS transaction_id, (epoch_us(known_at) + {DAY - 1}) // {DAY} "
        f"AS snapshot FROM {_parquet(path)} WHERE is_fraud = 1",
        schema={"transaction_id": kind, "snapshot": "int64"},
    )


def write_tables(source: Path, out: Path, bucket: int = BUCKET, memory: str = MEMORY, chunk: int = CHUNK) -> None:
    """Write `customer_daily`, `terminal_daily` and `recent` of the files in `source` into `out`, as Parquet.

    The values and the row order are those of `windows.history_features`, whatever the number of buckets.

    Parameters
    ----------
    source
        A folder with `transactions.parquet`, `labels.parquet` and, if there are any, `customers.parquet`
        and `terminals.parquet`.
    out
        The folder to write to; what does not fit into memory is spilled there and removed.
    bucket
        Payments plus snapshots that are computed at once; smaller tables take a single statement.
    memory
        What DuckDB may hold, such as ``"1500MB"``.
    chunk
        Rows of several buckets that are put together at once, in whole days.
    """
    with session(out, memory) as backend, tempfile.TemporaryDirectory(prefix=".parts-", dir=out) as parts:
        tables = _Tables(backend, source, Path(parts), bucket, chunk)
        for name, (key, _) in VIEWS.items():
            tables.write_daily(name, key, out / f"{name}.parquet")
        tables.write_recent(out / "recent.parquet")


class _Tables:
    """The tables of one bank: where its payments are, which buckets they are divided into."""

    def __init__(self, backend: Any, source: Path, parts: Path, bucket: int, chunk: int) -> None:
        self._backend, self._parts, self._chunk = backend, parts, chunk
        self._payments = read_payments(backend, [source / "transactions.parquet"])
        self._reports = read_reports(backend, source / "labels.parquet")
        counts = self._count("snapshot", *ATTRIBUTES)
        self._per_day = counts["snapshot"]
        first, last = int(self._per_day.index[0]), int(self._per_day.index[-1])
        days = snapshot_days(first, last)
        self._days = self._keep("days", days.astype({"snapshot": "int32"}))
        self._entities: dict[str, pd.DataFrame] = {}
        self._buckets: dict[str, np.ndarray] = {}
        for key, (name, columns) in ATTRIBUTES.items():
            path = source / f"{name}.parquet"
            attributes = pd.read_parquet(path) if path.exists() else None
            table = entity_table(counts[key].index.to_frame(index=False), attributes, key, columns)
            weights = counts[key].reindex(table[key]).fillna(0).to_numpy() + len(days)
            self._entities[key] = table.astype({key: narrowest(table[key])})
            self._buckets[key] = divide(weights, bucket)
        self._places = self._keep("places", self._entities["terminal_id"])
        self._load()

    def _load(self) -> None:
        """Let the ids be no wider than they must, since every join hashes them; keep in memory what fits."""
        kinds = {key: table[key].dtype.name for key, table in self._entities.items() if table[key].dtype != object}
        self._payments = self._payments.cast({**kinds, "snapshot": "int32"})
        self._reports = self._hold("reports", self._reports.cast({"snapshot": "int32"}))
        if not any(numbers[-1] for numbers in self._buckets.values()):
            self._payments = self._hold("payments", self._payments)

    def _hold(self, name: str, query: ibis.Table) -> ibis.Table:
        """Hold the result of a query in the database."""
        self._backend.raw_sql(f"CREATE TEMP TABLE {name} AS {_statement(query)}")
        return self._backend.table(name)

    def _keep(self, name: str, frame: pd.DataFrame) -> ibis.Table:
        """Hold a small table in the database, by a name of its own."""
        self._backend.con.register("incoming", pa.Table.from_pandas(frame, preserve_index=False))
        self._backend.raw_sql(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM incoming")
        self._backend.con.unregister("incoming")
        return self._backend.table(name)

    def _count(self, *columns: str) -> dict[str, pd.Series]:
        """Return the number of payments by each of some columns, in its order, in one pass over them."""
        sets = ", ".join(f"({column})" for column in columns)
        found = self._backend.con.sql(
            f"SELECT {', '.join(columns)}, count(*) AS n FROM ({_statement(self._payments)}) "
            f"GROUP BY GROUPING SETS ({sets})"
        ).to_arrow_table()
        counts = {column: found.filter(found[column].is_valid()).sort_by(column) for column in columns}
        return {column: own.select([column, "n"]).to_pandas().set_index(column)["n"] for column, own in counts.items()}

    def _each(self, key: str) -> Iterator[tuple[int, ibis.Table, pd.DataFrame]]:
        """Yield number, payments and entities of each bucket of `key`."""
        numbers, entities = self._buckets[key], self._entities[key]
        if numbers[-1] == 0:
            yield 0, self._payments, entities
            return
        folder = self._parts / key
        if not folder.exists():
            self._partition(key, folder)
        for number in range(numbers[-1] + 1):
            own = list((folder / f"bucket={number}").glob("*.parquet"))
            names = ", ".join(self._payments.columns)
            # A bucket of entities that never paid has no files, and no rows.
            payments = self._payments.filter(False)
            if own:
                query = f"SELECT {names} FROM {_parquet(*own)}"
                payments = self._backend.sql(query, schema=self._payments.schema())
            yield number, payments, entities[numbers == number]

    def _partition(self, key: str, folder: Path) -> None:
        """Write the payments to a folder for each bucket, in one pass."""
        import ibis

        numbers = ibis.memtable(pd.DataFrame({key: self._entities[key][key], "bucket": self._buckets[key]}))
        placed = self._payments.inner_join(numbers, key)
        self._backend.to_parquet(placed, folder, partition_by="bucket")

    def write_daily(self, name: str, key: str, path: Path) -> None:
        """Write the daily snapshots of one kind of entity."""
        parts, moment = [], f"{name.removesuffix('_daily')}_snapshot"
        for number, payments, entities in self._each(key):
            own = self._keep("entities", entities)
            sums = daily_sums(payments, self._reports, own, self._days, key)
            part = self._parts / f"{name}-{number}.parquet" if self._buckets[key][-1] else path
            with computed(self._backend, sums, moment, key) as known:
                table = daily_features(known)
                self._write(table.cast({key: _wide(table[key].type()), moment: "int64"}), part)
            parts.append(part)
        if parts == [path]:
            return
        # The buckets follow each other in the order of the ids.
        rows = pd.Series(len(self._entities[key]), index=self._per_day.index)
        self._merge(
            lambda since, until: (
                f"SELECT * FROM {_parquet(*parts)} WHERE {moment} >= {since} AND {moment} < {until} "
                f"ORDER BY event_timestamp, {key}"
            ),
            rows,
            path,
        )
        _remove(parts)

    def write_recent(self, path: Path) -> None:
        """Write the recent activity: the windows over a terminal in buckets of terminals, all others of customers."""
        order = ("micros", "transaction_id")
        if not any(numbers[-1] for numbers in self._buckets.values()):
            with computed(self._backend, recent_sums(self._payments, self._places), *order) as sums:
                self._write(recent_features(sums).drop("micros"), path)
            return
        parts: dict[str, list[Path]] = {}
        for key in ATTRIBUTES:
            parts[key] = []
            for number, payments, _ in self._each(key):
                part = self._parts / f"recent-{key}-{number}.parquet"
                with computed(self._backend, recent_sums(payments, self._places, [key]), *order) as sums:
                    self._write(recent_features(sums), part)
                parts[key].append(part)
        customer, terminal = (_parquet(*parts[key]) for key in ATTRIBUTES)
        columns = ", ".join(["transaction_id", *RECENT])

        def read(since: int, until: int) -> str:
            # A snapshot sees the day before it, so the payments of day d are counted under d + 1.
            within = f"micros >= {(since - 1) * DAY} AND micros < {(until - 1) * DAY}"
            return (
                f"SELECT {columns} FROM (SELECT * FROM {customer} WHERE {within}) JOIN "
                f"(SELECT * EXCLUDE (micros) FROM {terminal} WHERE {within}) USING (transaction_id) "
                "ORDER BY micros, transaction_id"
            )

        self._merge(read, self._per_day, path)
        _remove(part for own in parts.values() for part in own)

    def _write(self, table: ibis.Table, path: Path) -> None:
        self._backend.to_parquet(table, path, **WRITTEN)

    def _merge(self, read: Callable[[int, int], str], rows: pd.Series, path: Path) -> None:
        """Append what `read` returns for a few days at a time to one Parquet file."""
        with Appending(path) as file:
            for since, until in day_ranges(rows, self._chunk):
                file.append(self._backend.con.sql(read(since, until)).to_arrow_table())


class Appending:
    """A Parquet file that grows by tables of one schema, and gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self._replacing, self._writer = files.replacing(path), None

    def __enter__(self) -> Appending:
        self._temporary = self._replacing.__enter__()
        return self

    def append(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, table.schema, **APPENDED)
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.close()
        self._replacing.__exit__(*error)


def narrowest(ids: pd.Series) -> Any:
    """Return the smallest integer type that holds some ids; for ids that are not integers, their own type.

    Examples
    --------
    >>> narrowest(pd.Series([1, 40_000]))
    'int32'
    """
    if not pd.api.types.is_integer_dtype(ids.dtype):
        return ids.dtype
    kinds = (kind for kind in ("int16", "int32") if np.iinfo(kind).min <= ids.min() and ids.max() <= np.iinfo(kind).max)
    return next(kinds, "int64")


def _wide(kind: Any) -> str:
    return "int64" if kind.is_integer() else "string"


def divide(weights: np.ndarray, most: int) -> np.ndarray:
    """Return a bucket number for each entity: in order, and as few as keep each bucket to about `most`.

    Examples
    --------
    >>> divide(np.array([3, 3, 3, 3]), 6).tolist()
    [0, 0, 1, 1]
    >>> divide(np.array([3, 3, 3, 3]), 100).tolist()
    [0, 0, 0, 0]
    """
    total = weights.sum()
    buckets = max(int(np.ceil(total / most)), 1)
    middle = np.cumsum(weights) - weights / 2
    numbers = np.minimum((middle * buckets // max(total, 1)).astype("int64"), buckets - 1)
    return np.unique(numbers, return_inverse=True)[1]


def day_ranges(rows: pd.Series, most: int) -> Iterator[tuple[int, int]]:
    """Yield half-open ranges of days that hold at most `most` rows, or a single day.

    Parameters
    ----------
    rows
        Number of rows by day number, in the order of the days.

    Examples
    --------
    >>> list(day_ranges(pd.Series([5, 5, 20, 1], index=[10, 11, 12, 14]), 10))
    [(10, 12), (12, 14), (14, 15)]
    """
    since, held, days = None, 0, rows.index
    for day, count in zip(days, rows, strict=True):
        if since is not None and held + count > most:
            yield since, int(day)
            since, held = None, 0
        since = int(day) if since is None else since
        held += count
    if since is not None:
        yield since, int(days[-1]) + 1


def write_events(
    source: Path, recent: Path, path: Path, columns: list[str], since: object, until: object, known_by: object
) -> pd.Series:
    """Write the payments of ``[since, until)`` with the label known by a day and their recent activity.

    Parameters
    ----------
    source
        The folder of `transactions.parquet` and `labels.parquet`.
    recent
        The file of the recent activity.
    path
        The Parquet file to write, in the order of event time and transaction.
    columns
        The columns of the transactions to keep.

    Returns
    -------
    Series
        The number of payments by day number since 1970; empty where the period holds none.
    """
    moments = [int(contracts.midnight(day).timestamp()) * 1_000_000 for day in (since, until, known_by)]
    kept = ", ".join(f"t.{name}" for name in columns)
    features = ", ".join(f"r.{name}" for name in RECENT)
    query = (
        f"WITH t AS (SELECT {', '.join(columns)} FROM {_parquet(source / 'transactions.parquet')} "
        f"WHERE epoch_us(event_time) >= {moments[0]} AND epoch_us(event_time) < {moments[1]}), "
        f"l AS (SELECT transaction_id, arg_max(is_fraud, known_at) AS is_fraud "
        f"FROM {_parquet(source / 'labels.parquet')} WHERE epoch_us(known_at) <= {moments[2]} "
        f"AND transaction_id IN (SELECT transaction_id FROM t) GROUP BY transaction_id) "
        f"SELECT {kept}, l.is_fraud, {features} FROM t JOIN {_parquet(recent)} r USING (transaction_id) "
        f"LEFT JOIN l USING (transaction_id) ORDER BY t.event_time, t.transaction_id"
    )
    with session(path.parent) as backend:
        backend.raw_sql(f"COPY ({query}) TO {_quoted(path)} (FORMAT parquet, COMPRESSION zstd)")
        counts = backend.raw_sql(
            f"SELECT epoch_us(event_time) // {DAY} AS day, count(*) AS n FROM {_parquet(path)} GROUP BY 1 ORDER BY 1"
        ).df()
    return counts.set_index("day")["n"]


def first_and_last(path: Path) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and the last event time of a Parquet file of transactions."""
    with session(path.parent) as backend:
        ends = backend.raw_sql(f"SELECT epoch_us(min(event_time)), epoch_us(max(event_time)) FROM {_parquet(path)}")
        first, last = (pd.Timestamp(micros, unit="us", tz="UTC") for micros in ends.fetchone())
    return first, last


def _id_type(path: Path, name: str) -> str:
    """Return the type that an id column gets: int64 for whole numbers, string for all else."""
    return "int64" if pa.types.is_integer(pq.read_schema(path).field(name).type) else "string"


def _parquet(*paths: Path) -> str:
    return f"read_parquet([{', '.join(map(_quoted, paths))}])"


def _statement(table: ibis.Table) -> str:
    import ibis

    return str(ibis.to_sql(table, dialect="duckdb"))


def _quoted(text: Path | str) -> str:
    return "'" + str(text).replace("'", "''") + "'"


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()
