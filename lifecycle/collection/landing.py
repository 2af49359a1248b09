"""Landing: read one delivered file, and keep what its lines say, typed, as one Parquet file.

What lands depends on the delivered file alone. Whether a customer is known, whether an id was seen before:
such questions need other deliveries and are left to settling. A landed file appears whole or not at all, and
carries the SHA-256 of what it was made from.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import files
from lifecycle.collection.shared import ZONE, database, delivered, quoted
from lifecycle.errors import ContractError, LifecycleError

FORMAT = "1"
"""The form of landed files. A change of the queries below must change it, so that old files land again."""

_TELEMETRY = ("terminal_id", "time", "temperature", "temperature_unit", "tamper_events", "uptime_hours")
_CHARGEBACKS = ("case_id", "transaction_id", "reported_at", "reason", "amount")
_AUTHORIZATION = (
    '{"id":"BIGINT","time":"VARCHAR","customer":"BIGINT","terminal":"BIGINT","amount":"DOUBLE","unit":"VARCHAR",'
    '"channel":"VARCHAR","category":"VARCHAR","text":"VARCHAR","revision":"INTEGER"}'
)
# 2025-11-17T00:00:00.391+00:00 gw-1 deploy[369]: INFO release gateway 4.52.0
_LOG_LINE = (
    r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)(Z|[+-]\d\d:\d\d)? "
    r"(\S+) ([\w-]+)\[\d+\]: (DEBUG|INFO|WARN|ERROR) (.+)$"
)

BANK = {
    "customers": pa.schema(
        [("customer_id", pa.int64()), ("home_x", pa.float64()), ("home_y", pa.float64()), ("birth_date", pa.string()),
         ("region", pa.string()), ("opened_on", pa.string())]
    ),
    "terminals": pa.schema(
        [("terminal_id", pa.int64()), ("x", pa.float64()), ("y", pa.float64()), ("merchant_name", pa.string()),
         ("merchant_category", pa.string()), ("channel", pa.string()), ("city", pa.string())]
    ),
}  # fmt: skip
_HOLIDAYS = ("date", "name", "region")
_ROWS_AT_ONCE = 100_000
# Fewer lines than this say nothing about the file as a whole.
_JUDGED_FROM = 100


@dataclass(frozen=True)
class Feed:
    """A source that delivers a file a day: how its files end, their header, and the query that reads one."""

    suffix: str
    header: tuple[str, ...]
    query: Callable[[Path], str]


@dataclass(frozen=True)
class Delivery:
    """One delivered file, and where what it says is kept."""

    source: str
    path: Path
    target: Path


def _lines(path: Path) -> str:
    """Return the table function that reads lines as text, so that a broken one is still there to be counted."""
    return (
        f"read_csv({quoted(path)}, columns = {{'line': 'VARCHAR'}}, delim = '\x01', quote = '', escape = '', "
        "header = false, auto_detect = false, max_line_size = 1048576)"
    )


def _rows(path: Path, columns: tuple[str, ...]) -> str:
    """Return the table function that reads a CSV file as text; a short line gets missing values."""
    types = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
    return (
        f"read_csv({quoted(path)}, columns = {{{types}}}, delim = ',', quote = '\"', header = true, "
        "auto_detect = false, null_padding = true, strict_mode = false)"
    )


def _as_line(columns: tuple[str, ...]) -> str:
    """Return the SQL that writes a CSV row as it was."""
    return "concat_ws(',', " + ", ".join(f"coalesce({name}, '')" for name in columns) + ")"


def _zoned(column: str) -> str:
    """Return the SQL of an instant: missing where the text names no zone or no time."""
    return f"CASE WHEN regexp_matches({column}, '{ZONE}') THEN try_cast({column} AS TIMESTAMPTZ) END"


def _authorizations(path: Path) -> str:
    return f"""
        WITH parsed AS (
            SELECT row_number() OVER () AS n, line,
                from_json(CASE WHEN json_valid(line) THEN line END, '{_AUTHORIZATION}') AS r
            FROM {_lines(path)}
        ), typed AS (
            SELECT n, line, r IS NULL AS broken, r.id AS transaction_id, r.time AS written,
                {_zoned("r.time")} AS event_time, r.customer AS customer_id, r.terminal AS terminal_id, r.unit AS unit,
                CASE r.unit WHEN 'minor' THEN round(r.amount / 100, 2) ELSE r.amount END AS amount,
                r.channel AS channel, r.category AS merchant_category, r.text AS merchant_text,
                coalesce(r.revision, 0) AS revision
            FROM parsed
        )
        SELECT n AS line, transaction_id, event_time, customer_id, terminal_id, amount, channel, merchant_category,
            merchant_text, revision,
            CASE WHEN broken THEN 'broken line'
                 WHEN transaction_id IS NULL THEN 'no transaction id'
                 WHEN event_time IS NULL AND try_cast(written AS TIMESTAMP) IS NOT NULL
                      AND NOT regexp_matches(written, '{ZONE}') THEN 'no time zone'
                 WHEN event_time IS NULL THEN 'unreadable time'
                 WHEN unit IS NULL OR unit NOT IN ('major', 'minor') THEN 'unknown unit'
                 WHEN amount IS NULL OR NOT isfinite(amount) THEN 'unreadable amount'
                 WHEN amount <= 0 THEN 'amount not positive'
                 WHEN customer_id IS NULL THEN 'unknown customer'
                 WHEN terminal_id IS NULL THEN 'unknown terminal' END AS reason,
            CASE WHEN reason IS NOT NULL THEN line END AS record
        FROM typed
        """


def _telemetry(path: Path) -> str:
    # The header is line 1. A sensor that has nothing to say writes -999, whatever its unit: it stays -999.
    return f"""
        WITH typed AS (
            SELECT row_number() OVER () + 1 AS n, {_as_line(_TELEMETRY)} AS record,
                try_cast(terminal_id AS BIGINT) AS terminal_id, {_zoned("time")} AS time,
                try_cast(temperature AS DOUBLE) AS reading, temperature_unit AS unit,
                try_cast(tamper_events AS INTEGER) AS tamper_events, try_cast(uptime_hours AS DOUBLE) AS uptime_hours
            FROM {_rows(path, _TELEMETRY)}
        )
        SELECT n AS line, terminal_id, time,
            CASE WHEN unit = 'F' AND reading > -900 THEN (reading - 32) * 5 / 9 ELSE reading END AS temperature,
            tamper_events, uptime_hours,
            CASE WHEN time IS NULL THEN 'unreadable time'
                 WHEN unit IS NOT NULL AND unit NOT IN ('C', 'F') THEN 'unknown unit'
                 WHEN terminal_id IS NULL THEN 'unknown terminal' END AS reason,
            CASE WHEN reason IS NOT NULL THEN record END AS record
        FROM typed
        """


def _chargebacks(path: Path) -> str:
    return f"""
        SELECT row_number() OVER () + 1 AS line, try_cast(transaction_id AS BIGINT) AS transaction_id,
            {_zoned("reported_at")} AS reported_at,
            CASE WHEN ({_zoned("reported_at")}) IS NULL THEN 'unreadable time'
                 WHEN try_cast(transaction_id AS BIGINT) IS NULL THEN 'unknown transaction' END AS reason,
            {_as_line(_CHARGEBACKS)} AS record
        FROM {_rows(path, _CHARGEBACKS)}
        """


def _operations(path: Path) -> str:
    return f"""
        WITH parsed AS (
            SELECT row_number() OVER () AS n, line AS text,
                regexp_extract(line, '{_LOG_LINE}', ['written', 'zone', 'host', 'program', 'level', 'message']) AS r
            FROM {_lines(path)}
        )
        SELECT n AS line, CASE WHEN r.zone <> '' THEN try_cast(r.written || r.zone AS TIMESTAMPTZ) END AS time,
            r.host AS host, r.program AS program, r.level AS level,
            CASE WHEN starts_with(r.message, 'release ') THEN 'release'
                 WHEN starts_with(r.message, 'restart ') THEN 'restart'
                 WHEN starts_with(r.message, 'job ') THEN 'job'
                 WHEN regexp_matches(r.message, '^terminal \\d+ replaced') THEN 'replacement'
                 WHEN regexp_matches(r.message, '^terminal \\d+ firmware') THEN 'update'
                 WHEN regexp_matches(r.message, '^terminal \\d+ offline') THEN 'outage'
                 ELSE 'other' END AS event,
            try_cast(nullif(regexp_extract(r.message, '^terminal (\\d+)', 1), '') AS BIGINT) AS terminal_id,
            r.message AS message,
            CASE WHEN r.message = '' OR r.message IS NULL THEN 'not a log line'
                 WHEN r.zone = '' THEN 'no time zone'
                 WHEN time IS NULL THEN 'unreadable time' END AS reason,
            CASE WHEN reason IS NOT NULL THEN text END AS record
        FROM parsed
        """


FEEDS = {
    "authorizations": Feed(".jsonl.gz", (), _authorizations),
    "telemetry": Feed(".csv.gz", _TELEMETRY, _telemetry),
    "chargebacks": Feed(".csv", _CHARGEBACKS, _chargebacks),
    "operations": Feed(".log", (), _operations),
}
"""The sources that deliver a file a day: the application log, the sensors, a third party, the log of operations."""

SNAPSHOTS = {"customers": "bank.sqlite", "terminals": "bank.sqlite", "holidays": "holidays.csv"}
"""The tables that come whole, and the file they are in: the bank's database and a third party's calendar."""


def deliveries(sources: Path, landed: Path, source: str) -> dict[date, Delivery]:
    """Return what a feed has delivered, by day.

    Raises
    ------
    LifecycleError
        If the feed has no file, or one whose name is not a day.
    """
    feed, found = FEEDS[source], {}
    for path in delivered(sources, source, feed.suffix):
        text = path.name.removesuffix(feed.suffix)
        try:
            day = date.fromisoformat(text)
        except ValueError:
            raise LifecycleError(
                f"{path}: the name does not begin with a day such as 2025-07-01; rename or remove this file."
            ) from None
        found[day] = Delivery(source, path, landed / source / f"{text}.parquet")
    return found


def land_all(sources: Path, landed: Path) -> None:
    """Land the snapshots and every delivery, several at a time.

    Parameters
    ----------
    sources
        The folder in which the bank leaves its files.
    landed
        A folder. It gets ``customers.parquet`` and the like, and for each feed a folder of its deliveries.

    Raises
    ------
    LifecycleError
        If a source is missing or cannot be read, naming it.
    """
    land_snapshots(sources, landed)
    for source in FEEDS:
        land_deliveries(list(deliveries(sources, landed, source).values()), landed)


def land_deliveries(wanted: list[Delivery], landed: Path, lasting: bool = False) -> list[int]:
    """Land some deliveries, several at a time, each on one thread of its own, and return how many records each has."""
    if not wanted:
        return []
    workers = min(os.cpu_count() or 1, 4, len(wanted))

    def land_share(share: list[Delivery]) -> list[int]:
        with database(landed, "1GB", threads=1) as db:
            return [land(db, delivery, lasting) for delivery in share]

    with ThreadPoolExecutor(workers) as pool:
        shares = list(pool.map(land_share, [wanted[i::workers] for i in range(workers)]))
    return [shares[i % workers][i // workers] for i in range(len(wanted))]


def land(db: duckdb.DuckDBPyConnection, delivery: Delivery, lasting: bool = False) -> int:
    """Land one delivery and return how many records it has.

    Parameters
    ----------
    db
        An open database; nothing stays in it.
    delivery
        What to read, and where to keep it.
    lasting
        Wait until the disk has it, so that a loss of power loses nothing.

    Raises
    ------
    LifecycleError
        If the file cannot be read, is empty, or holds something other than what this source delivers.
    """
    feed, path = FEEDS[delivery.source], delivery.path
    _check_file(path)
    if feed.header:
        _check_header(path, feed.header)
    with files.replacing(delivery.target) as temporary:
        options = f"FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{_stamp_sql(path)}}}"
        try:
            db.execute(f"COPY ({feed.query(path)}) TO {quoted(temporary)} ({options})")
        except duckdb.Error as error:
            if files.is_full(error):
                raise files.full_disk(delivery.target) from error
            reason = _unreadable(path) or str(error).splitlines()[0]
            raise LifecycleError(f"{path} cannot be read ({reason}); fetch this file from its source again.") from error
        read = _judge(path, temporary)
        if lasting:
            _to_disk(temporary)
    return read


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise files.as_sentence(error, path) from error
    if not size:
        raise LifecycleError(f"{path} is empty (0 bytes); fetch this file from its source again.")


def _check_header(path: Path, columns: tuple[str, ...]) -> None:
    """Check that a CSV file starts with the columns we know; the order matters too."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            header = file.readline().strip().split(",")
    except (OSError, EOFError, ValueError) as error:
        raise LifecycleError(f"{path} cannot be read ({error}); fetch this file from its source again.") from error
    missing = [name for name in columns if name not in header]
    if missing or tuple(header) != columns:
        what = f"column '{missing[0]}' is missing" if missing else f"the columns are {', '.join(header)}"
        raise ContractError(f"{path}: {what}; this source has {', '.join(columns)}.")


def _unreadable(path: Path) -> str | None:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data.decode()
    except (OSError, EOFError, ValueError) as error:
        return str(error)
    return None


def _judge(path: Path, landed: Path) -> int:
    """Count the records; refuse a file of which none is usable: it is not what this source delivers."""
    metadata = pq.read_metadata(landed)
    read = metadata.num_rows
    column = metadata.schema.names.index("reason")
    groups = [metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups)]
    usable = any(group is None or not group.has_null_count or group.null_count for group in groups)
    if read >= _JUDGED_FROM and not usable:
        raise ContractError(
            f"{path}: none of its {read:,} records can be used (mostly: {_most_frequent(landed)}); a field was "
            "renamed or this is another kind of file: ask its source to deliver it again."
        )
    return read


def _most_frequent(landed: Path) -> str:
    return pd.read_parquet(landed, columns=["reason"])["reason"].mode()[0]


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


# ---------------------------------------------------------------------------- what has landed already


def stamp(path: Path) -> dict[str, str]:
    """Return what tells whether a file has landed: the form of landed files and the SHA-256 of the content."""
    return {"format": FORMAT, "sha256": files.sha256(path)}


def _stamp_sql(path: Path) -> str:
    return ", ".join(f"{name}: {quoted(value)}" for name, value in stamp(path).items())


def landed_stamp(target: Path) -> dict[str, str]:
    """Return the stamp of a landed file, empty if it has not landed or a disk has damaged it."""
    if not target.exists():
        return {}
    try:
        metadata = pq.read_metadata(target).metadata or {}
    except (OSError, pa.ArrowException):
        return {}
    return {name: metadata[name.encode()].decode() for name in ("format", "sha256") if name.encode() in metadata}


# ---------------------------------------------------------------------------- sources that come whole


def land_snapshots(sources: Path, landed: Path) -> list[str]:
    """Land the bank's database and the calendar where they changed, and return the names of the tables that did."""
    changed = []
    for file in dict.fromkeys(SNAPSHOTS.values()):
        path = sources / file
        if not path.exists():
            raise LifecycleError(f"File not found: {path}; build the world again or check the path.")
        now = stamp(path)
        names = [name for name, home in SNAPSHOTS.items() if home == file]
        if all(landed_stamp(landed / f"{name}.parquet") == now for name in names):
            continue
        if file == "bank.sqlite":
            _land_bank(path, landed, now)
        else:
            files.write_parquet(_read_holidays(path).replace_schema_metadata(now), landed / f"{names[0]}.parquet")
        changed += names
    return changed


def _land_bank(path: Path, landed: Path, now: dict[str, str]) -> None:
    """Copy customers and terminals out of the bank's database, read-only and in one transaction, piece by piece."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as bank:
        for name, schema in BANK.items():
            stamped = schema.with_metadata(now)
            try:
                bank.execute("BEGIN") if not bank.in_transaction else None
                with (
                    files.replacing(landed / f"{name}.parquet") as temporary,
                    pq.ParquetWriter(temporary, stamped, compression="zstd") as writer,
                ):
                    for batch in _batches(bank, name, stamped):
                        writer.write_batch(batch)
            except (sqlite3.Error, pa.ArrowException) as error:
                raise LifecycleError(f"{path}: table {name} cannot be read ({error}); restore the database.") from error


def _batches(bank: sqlite3.Connection, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    cursor = bank.execute(f"SELECT {', '.join(schema.names)} FROM {table}")
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        columns = zip(*rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _read_holidays(path: Path) -> pa.Table:
    _check_file(path)
    _check_header(path, _HOLIDAYS)
    frame = pd.read_csv(path)
    try:
        frame["date"] = pd.to_datetime(frame["date"], utc=True).astype("datetime64[us, UTC]")
    except ValueError as error:
        raise ContractError(f"{path}: column 'date' holds what is not a date ({error}); correct the file.") from None
    return pa.Table.from_pandas(frame, preserve_index=False)
