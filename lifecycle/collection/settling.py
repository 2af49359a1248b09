"""Settling: decide the fate of every record that has landed, and write the tables.

The result is a function of what has landed. Records are ordered by the day of their delivery and their line,
never by when we happened to read them.

Payments, labels, readings and log entries are written in order of time, a stretch of time after another: only
the deliveries that hold records of the stretch are read, so that memory stays that of a stretch however many
there are. What needs all of them at once (ids seen twice) is found by the ids alone, some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lifecycle import contracts, files
from lifecycle.collection.accounting import check_accounting
from lifecycle.collection.landing import BANK, FEEDS
from lifecycle.collection.shared import create_quarantine, database, quoted, quoted_list, with_dictionaries
from lifecycle.errors import ContractError, LifecycleError

FORMAT = "1"
"""The form of the tables. A change of the queries below must change it, so that tables are settled again."""

_ROWS_A_STRETCH = 1_000_000
_IDS_AT_ONCE = 25_000_000
_PAYMENT = "transaction_id, event_time, customer_id, terminal_id, amount, channel, merchant_category, merchant_text"
_READING = "terminal_id, time, temperature, tamper_events, uptime_hours"
_ENTRY = "time, host, program, level, event, terminal_id, message"


def settle(landed: Path, out: Path, delay_days: int) -> None:
    """Write the tables of all that has landed into `out`.

    Parameters
    ----------
    landed
        A folder that `landing.land_all` or the daily collection filled.
    out
        A folder.
    delay_days
        A payment that nobody has disputed after this many days counts as honest.

    Raises
    ------
    LifecycleError
        If a source has delivered nothing yet.
    ContractError
        If a table does not keep its contract.
    """
    with database(out) as db:
        create_quarantine(db)
        db.execute("SET preserve_insertion_order = false")
        feeds = {source: _Landed(db, landed, source) for source in FEEDS}
        accounts = [_settle_snapshots(db, landed, out)]
        accounts.append(_settle_authorizations(db, feeds["authorizations"], out))
        accounts.append(_settle_by_time(db, feeds["telemetry"], _READING, "terminal_id", out, None))
        accounts.append(_settle_by_time(db, feeds["operations"], _ENTRY, "host", out, _check_operations))
        accounts.append(_settle_chargebacks(db, feeds["chargebacks"], out))
        _write_labels(db, feeds["authorizations"], delay_days, out)
        quarantine = db.sql("SELECT * FROM quarantine ORDER BY source, file, line").to_arrow_table()
    files.write_parquet(quarantine, out / "quarantine.parquet")
    files.write_parquet(check_accounting(pd.concat(accounts, ignore_index=True)), out / "accounting.parquet")


# ---------------------------------------------------------------------------- what has landed


class _Landed:
    """All deliveries of one feed that have landed, as a view ``landed_<source>`` with the day of each record."""

    def __init__(self, db: duckdb.DuckDBPyConnection, landed: Path, source: str) -> None:
        self.source, self._db = source, db
        self.paths = sorted((landed / source).glob("*.parquet"))
        if not self.paths:
            raise LifecycleError(f"Nothing of the source {source} has been collected yet; collect a day first.")
        self._stretches: list[_Stretch] = []
        self.days = [pd.Timestamp(path.stem, tz="UTC") for path in self.paths]
        db.execute(f"CREATE VIEW landed_{source} AS SELECT * FROM {self.table()}")

    def table(self, paths: list[Path] | None = None) -> str:
        """Return a query in brackets: all records of the deliveries (or of some), with their `day` of delivery."""
        columns = "* EXCLUDE (filename), parse_filename(filename, true)::DATE AS day"
        return f"(SELECT {columns} FROM read_parquet({quoted_list(paths or self.paths)}, filename = true))"

    def read(self) -> pd.DataFrame:
        """Return how many records each delivery has, those that have none too."""
        rows = [pq.read_metadata(path).num_rows for path in self.paths]
        return pd.DataFrame({"source": self.source, "day": self.days, "read": rows})

    def quarantined(self) -> pd.DataFrame:
        """Count the quarantined records, from the quarantine itself."""
        return self._db.sql(
            f"SELECT split_part(file, '.', 1) AS day, count(*) AS quarantined FROM quarantine "
            f"WHERE source = '{self.source}' GROUP BY ALL"
        ).df()

    def stretches(self, time: str) -> list[_Stretch]:
        """Cut the usable records into stretches of time of about a million records each, in order."""
        if not self._stretches:
            self._stretches = list(self._cut(time))
        return self._stretches

    def _cut(self, time: str) -> Iterator[_Stretch]:
        hours = self._db.sql(
            f"SELECT date_trunc('hour', {time}) AS hour, list(DISTINCT day::VARCHAR) AS days, count(*) AS n "
            f"FROM landed_{self.source} WHERE reason IS NULL GROUP BY 1 ORDER BY 1"
        ).fetchall()
        by_day = {path.stem: path for path in self.paths}
        stretch = _Stretch()
        for hour, days, n in hours:
            if stretch.rows and stretch.rows + n > _ROWS_A_STRETCH:
                stretch.until = hour
                yield stretch
                stretch = _Stretch(since=hour)
            stretch.rows += n
            stretch.paths |= {by_day[day] for day in days}
        yield stretch


@dataclass
class _Stretch:
    """A stretch of time, half-open; no bound means from the first or to the last record."""

    since: datetime | None = None
    until: datetime | None = None
    rows: int = 0
    paths: set[Path] = field(default_factory=set)

    def holds(self, time: str) -> str:
        """Return the SQL that says whether a moment lies in the stretch."""
        bounds = [(">=", self.since), ("<", self.until)]
        given = [f"{time} {sign} {quoted(bound.isoformat())}::TIMESTAMPTZ" for sign, bound in bounds if bound]
        return " AND ".join(given) or "true"

    def later(self, delay: timedelta) -> _Stretch:
        """Return the stretch moved by a delay."""
        return _Stretch(self.since and self.since + delay, self.until and self.until + delay)


class _Table:
    """A Parquet file that is written a stretch at a time, checked as it is written, and appears when it is whole."""

    def __init__(self, path: Path, check: Callable[[pa.Table], pa.Table] | None = None) -> None:
        self._path, self._check = path, check or (lambda rows: rows)
        self.rows = 0

    def write(self, parts: Iterator[pa.Table]) -> None:
        with files.replacing(self._path) as temporary:
            writer = None
            try:
                for part in parts:
                    part = self._check(part)
                    writer = writer or pq.ParquetWriter(temporary, part.schema, compression="zstd")
                    writer.write_table(part)
                    self.rows += part.num_rows
            finally:
                if writer is not None:
                    writer.close()


def _file(source: str) -> str:
    """Return the SQL of the name of the delivered file, such as 2025-07-01.jsonl.gz."""
    return f"day::VARCHAR || '{FEEDS[source].suffix}'"


def _merge(*counts: pd.DataFrame) -> pd.DataFrame:
    """Bring counts by day together; the first has every day."""
    table = counts[0]
    for more in counts[1:]:
        more = more.assign(day=pd.to_datetime(more["day"], utc=True).astype("datetime64[us, UTC]"))
        table = table.assign(day=table["day"].astype("datetime64[us, UTC]")).merge(more, on="day", how="left")
    return table


# ---------------------------------------------------------------------------- tables that come whole


def _settle_snapshots(db: duckdb.DuckDBPyConnection, landed: Path, out: Path) -> pd.DataFrame:
    """Write customers, terminals and holidays. Of a repeated id the first row counts."""
    rows = []
    for table, schema in BANK.items():
        dates = [name for name in schema.names if name in ("birth_date", "opened_on")]
        typed = (
            f"* REPLACE ({', '.join(f'try_cast({day} AS TIMESTAMPTZ) AS {day}' for day in dates)})" if dates else "*"
        )
        key, source = schema.names[0], quoted(landed / f"{table}.parquet")
        db.execute(
            f"CREATE TABLE {table} AS SELECT {typed} FROM (SELECT * EXCLUDE (file_row_number) FROM "
            f"read_parquet({source}, file_row_number = true) "
            f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY file_row_number) = 1)"
        )
        kept = db.sql(f"SELECT * FROM {table} ORDER BY {key}").to_arrow_table()
        files.write_parquet(kept, out / f"{table}.parquet")
        read = pq.read_metadata(landed / f"{table}.parquet").num_rows
        repeated = (
            f"SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM read_parquet({source}) GROUP BY {key})"
        )
        duplicates = int(db.sql(repeated).fetchall()[0][0])
        rows.append({"source": table, "read": read, "accepted": kept.num_rows, "duplicates": duplicates})
    holidays = pd.read_parquet(landed / "holidays.parquet")
    files.write_parquet(holidays, out / "holidays.parquet")
    return pd.DataFrame([*rows, {"source": "holidays", "read": len(holidays), "accepted": len(holidays)}])


# ---------------------------------------------------------------------------- payments


def _settle_authorizations(db: duckdb.DuckDBPyConnection, feed: _Landed, out: Path) -> pd.DataFrame:
    """Write the accepted and the superseded payments; return the account of the application log."""
    _find_repeated(db, feed)
    _quarantine_payments(db)
    accepted: list[pa.Table] = []
    table = _Table(out / "transactions.parquet", _check_payments)
    table.write(_accepted_payments(db, feed, accepted))
    path = quoted(out / "transactions.parquet")
    repeated = _ids_seen_twice(db, f"SELECT transaction_id FROM read_parquet({path})", table.rows)
    if repeated:
        raise ContractError(f"the collected transactions: column 'transaction_id' is repeated in {repeated:,} rows.")
    db.execute(f"CREATE VIEW transactions AS SELECT * FROM read_parquet({path})")
    superseded = db.sql(
        f"SELECT {_PAYMENT} FROM landed_authorizations JOIN (FROM repeated WHERE fate = 'superseded') "
        "USING (day, line) ORDER BY event_time, transaction_id, revision"
    ).to_arrow_table()
    files.write_parquet(with_dictionaries(superseded), out / "superseded.parquet")
    written = pa.concat_tables(accepted).group_by("day").aggregate([("accepted", "sum")]).to_pandas()
    others = db.sql(
        "SELECT day, count(*) FILTER (fate = 'duplicate') AS duplicates, count(*) FILTER (fate = 'superseded') "
        "AS superseded FROM repeated GROUP BY day"
    ).df()
    return _merge(feed.read(), written.rename(columns={"accepted_sum": "accepted"}), feed.quarantined(), others)


def _ids_seen_twice(db: duckdb.DuckDBPyConnection, ids: str, rows: int) -> int:
    """Find the ids that a query yields more than once, into table `twice`, some ids at a time; return how many."""
    db.execute("CREATE OR REPLACE TABLE twice (transaction_id BIGINT)")
    passes = rows // _IDS_AT_ONCE + 1
    for part in range(passes):
        db.execute(
            f"INSERT INTO twice SELECT transaction_id FROM ({ids}) WHERE abs(transaction_id) % {passes} = {part} "
            "GROUP BY ALL HAVING count(*) > 1"
        )
    return db.sql("SELECT count(*) FROM twice").fetchall()[0][0]


_KNOWN = "SEMI JOIN customers USING (customer_id) SEMI JOIN terminals USING (terminal_id)"


def _find_repeated(db: duckdb.DuckDBPyConnection, feed: _Landed) -> None:
    """Decide the fates that need other records, in table `repeated`. Only ids seen more than once need a look.

    The first copy of a content counts; a later copy is a duplicate; of several revisions the last is
    accepted. Two different contents under one id and revision contradict each other: the first to
    arrive is kept, the other is quarantined.
    """
    rows = int(feed.read()["read"].sum())
    _ids_seen_twice(db, "SELECT transaction_id FROM landed_authorizations WHERE reason IS NULL", rows)
    db.execute(
        f"""
        CREATE TABLE repeated AS
        WITH usable AS (
            SELECT *, row(event_time, customer_id, terminal_id, amount, channel, merchant_category, merchant_text)
                AS content
            FROM (FROM landed_authorizations SEMI JOIN twice USING (transaction_id) {_KNOWN} WHERE reason IS NULL)
        ), decided AS (
            SELECT day, line, CASE
                WHEN row_number() OVER (PARTITION BY transaction_id, revision, content ORDER BY day, line) > 1
                    THEN 'duplicate'
                WHEN content IS DISTINCT FROM
                    first(content) OVER (PARTITION BY transaction_id, revision ORDER BY day, line) THEN 'conflict'
                WHEN revision < max(revision) OVER (PARTITION BY transaction_id) THEN 'superseded' END AS fate
            FROM usable
        )
        SELECT * FROM decided WHERE fate IS NOT NULL
        """
    )


def _quarantine_payments(db: duckdb.DuckDBPyConnection) -> None:
    """Quarantine the payments that are unusable, name somebody unknown, or contradict an earlier one."""
    content = (
        "{'id': transaction_id, 'time': event_time::VARCHAR, 'customer': customer_id, 'terminal': terminal_id, "
        "'amount': amount, 'channel': channel, 'category': merchant_category, 'text': merchant_text, "
        "'revision': revision}"
    )
    db.execute(
        f"""
        INSERT INTO quarantine
        WITH judged AS (
            SELECT a.*, coalesce(reason, CASE WHEN c.customer_id IS NULL THEN 'unknown customer'
                WHEN t.terminal_id IS NULL THEN 'unknown terminal' END) AS why
            FROM landed_authorizations a
            LEFT JOIN customers c ON a.customer_id = c.customer_id
            LEFT JOIN terminals t ON a.terminal_id = t.terminal_id
            WHERE reason IS NOT NULL OR c.customer_id IS NULL OR t.terminal_id IS NULL
            UNION ALL BY NAME
            SELECT a.*, 'id used twice' AS why
            FROM landed_authorizations a SEMI JOIN (FROM repeated WHERE fate = 'conflict') USING (day, line)
        )
        SELECT 'authorizations', {_file("authorizations")}, line, why, coalesce(record, to_json({content})::VARCHAR)
        FROM judged
        """
    )


def _accepted_payments(db: duckdb.DuckDBPyConnection, feed: _Landed, accepted: list[pa.Table]) -> Iterator[pa.Table]:
    """Yield the accepted payments in order of time; add to `accepted` how many came with each delivery."""
    for stretch in feed.stretches("event_time"):
        rows = db.sql(
            f"SELECT day, {_PAYMENT} FROM {feed.table(sorted(stretch.paths))} {_KNOWN} "
            f"ANTI JOIN repeated USING (day, line) WHERE reason IS NULL AND {stretch.holds('event_time')} "
            "ORDER BY event_time, transaction_id"
        ).to_arrow_table()
        accepted.append(_count(rows["day"]))
        yield with_dictionaries(rows.drop_columns(["day"]))


def _count(days: pa.ChunkedArray) -> pa.Table:
    return pa.table({"day": days}).group_by("day").aggregate([([], "count_all")]).rename_columns(["day", "accepted"])


def _check_payments(rows: pa.Table) -> pa.Table:
    checked = rows.select(list(contracts.TRANSACTIONS.columns)).to_pandas()
    contracts.check(checked, contracts.TRANSACTIONS, "the collected transactions")
    return rows


# ---------------------------------------------------------------------------- the other feeds


def _settle_by_time(
    db: duckdb.DuckDBPyConnection,
    feed: _Landed,
    columns: str,
    then_by: str,
    out: Path,
    check: Callable[[pa.Table], pa.Table] | None,
) -> pd.DataFrame:
    """Write a feed in order of time, equal records once; one that names an unknown terminal is quarantined."""
    source = feed.source
    db.execute(
        f"""
        INSERT INTO quarantine
        SELECT '{source}', {_file(source)}, line, coalesce(reason, 'unknown terminal'),
            coalesce(record, to_json(row({columns}))::VARCHAR)
        FROM landed_{source} ANTI JOIN terminals USING (terminal_id)
        WHERE reason IS NOT NULL OR terminal_id IS NOT NULL
        UNION ALL
        SELECT '{source}', {_file(source)}, line, reason, record
        FROM landed_{source} SEMI JOIN terminals USING (terminal_id) WHERE reason IS NOT NULL
        """
    )
    accepted: list[pa.Table] = []
    repeated: list[pa.Table] = []

    def parts() -> Iterator[pa.Table]:
        for stretch in feed.stretches("time"):
            rows = db.sql(
                f"SELECT day, {columns} FROM {feed.table(sorted(stretch.paths))} WHERE reason IS NULL "
                f"AND {stretch.holds('time')} "
                "AND (terminal_id IS NULL OR terminal_id IN (SELECT terminal_id FROM terminals)) "
                f"ORDER BY time, {then_by}, day, line"
            ).to_arrow_table()
            again = _said_before(rows, then_by)
            repeated.append(_count(rows["day"].filter(again)))
            first = rows.filter(pc.invert(again)) if pc.any(again).as_py() else rows
            accepted.append(_count(first["day"]))
            yield first.drop_columns(["day"])

    _Table(out / f"{source}.parquet", check).write(parts())
    counts = [_sum(accepted, "accepted"), _sum(repeated, "duplicates")]
    return _merge(feed.read(), *counts, feed.quarantined())


def _said_before(rows: pa.Table, key: str) -> pa.Array:
    """Say of each row whether an earlier one says the same. Equal rows are neighbors in time and key, or nearly."""
    instant, who = rows["time"].cast(pa.int64()).to_numpy(), rows[key].to_pandas().to_numpy()
    same = np.zeros(len(rows), bool)
    same[1:] = (instant[1:] == instant[:-1]) & (who[1:] == who[:-1])
    close = np.flatnonzero(same | np.append(same[1:], False))
    same[:] = False
    same[close] = rows.take(close).drop_columns(["day"]).to_pandas().duplicated().to_numpy()
    return pa.array(same)


def _sum(parts: list[pa.Table], name: str) -> pd.DataFrame:
    total = pa.concat_tables(parts).group_by("day").aggregate([("accepted", "sum")]).to_pandas()
    return total.rename(columns={"accepted_sum": name})


def _check_operations(rows: pa.Table) -> pa.Table:
    """Check log entries against their contract; the terminal stays a whole number where it is missing."""
    frame = rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    if len(frame):
        contracts.check(frame, contracts.OPERATIONS, "the collected log of operations")
    return pa.Table.from_pandas(frame, preserve_index=False)


def _settle_chargebacks(db: duckdb.DuckDBPyConnection, feed: _Landed, out: Path) -> pd.DataFrame:
    """Settle the third party's chargebacks into table `chargebacks`, one row a disputed payment."""
    db.execute(
        f"""
        CREATE TABLE cases AS
        WITH judged AS (
            SELECT c.day, c.line, c.record, c.transaction_id, c.reported_at,
                coalesce(c.reason, CASE WHEN p.transaction_id IS NULL THEN 'unknown transaction'
                    WHEN c.reported_at < p.event_time THEN 'reported before the payment' END) AS reason
            FROM landed_chargebacks c LEFT JOIN (
                SELECT transaction_id, event_time FROM transactions
                WHERE transaction_id IN (SELECT transaction_id FROM landed_chargebacks)
            ) p ON c.transaction_id = p.transaction_id
        )
        SELECT *, CASE WHEN reason IS NOT NULL THEN 'quarantined'
            WHEN row_number() OVER (PARTITION BY reason IS NULL, transaction_id ORDER BY day, line) > 1
                THEN 'duplicate' ELSE 'accepted' END AS fate
        FROM judged;

        INSERT INTO quarantine SELECT 'chargebacks', {_file("chargebacks")}, line, reason, record
        FROM cases WHERE fate = 'quarantined';

        CREATE TABLE chargebacks AS SELECT transaction_id, reported_at FROM cases WHERE fate = 'accepted';
        """
    )
    counts = db.sql(
        "SELECT day, count(*) FILTER (fate = 'accepted') AS accepted, count(*) FILTER (fate = 'duplicate') "
        "AS duplicates FROM cases GROUP BY day"
    ).df()
    return _merge(feed.read(), counts, feed.quarantined())


# ---------------------------------------------------------------------------- labels


def _write_labels(db: duckdb.DuckDBPyConnection, feed: _Landed, delay_days: int, out: Path) -> None:
    """Write what became known about each payment, and when, up to the end of the data.

    A payment that nobody has disputed after `delay_days` counts as honest from then on. A chargeback
    that comes later overrules this; one that comes earlier is the only row of its payment.
    """
    last = feed.days[-1] + pd.Timedelta(days=1)

    def parts() -> Iterator[pa.Table]:
        for stretch in feed.stretches("event_time"):
            later = stretch.later(timedelta(days=delay_days))
            yield db.sql(
                f"""
                WITH silence AS (
                    SELECT transaction_id, 0::TINYINT AS is_fraud, event_time + to_days($delay) AS known_at
                    FROM transactions WHERE {stretch.holds("event_time")}
                )
                SELECT silence.* FROM silence LEFT JOIN chargebacks USING (transaction_id)
                WHERE known_at < $last AND (reported_at IS NULL OR reported_at > known_at)
                UNION ALL SELECT transaction_id, 1::TINYINT, reported_at FROM chargebacks
                WHERE reported_at < $last AND {later.holds("reported_at")}
                ORDER BY known_at, transaction_id
                """,
                params={"delay": delay_days, "last": last},
            ).to_arrow_table()

    _Table(out / "labels.parquet", _check_labels).write(parts())


def _check_labels(rows: pa.Table) -> pa.Table:
    if rows.num_rows:  # in the first days of a bank nothing is known yet
        contracts.check(rows.to_pandas(), contracts.LABELS, "the collected labels")
    return rows
