"""Collect the bank's sources into tables that keep their contracts, and account for every record.

Nothing is dropped in silence. A record that is read is accepted, quarantined with a reason, recognized
as a duplicate, or superseded by a later revision; for every source and day the four add up to what was
read. Instants become UTC, minor units become major ones. Values that are merely doubtful (a missing
category, a birth date of 1900-01-01) pass: to clean them is the job of preprocessing.

`build` reads the simulated bank; `ingest` makes a `build` for one's own file.
"""

from __future__ import annotations

import gzip
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from lifecycle import contracts, files
from lifecycle.errors import ContractError, LifecycleError

ATTRIBUTES = ("channel", "merchant_category", "merchant_text")
"""The optional attributes of a payment that later stages know how to use."""

COUNTS = ("read", "accepted", "quarantined", "duplicates", "superseded")
"""The columns of the accounting: the first is the sum of the others."""

_BANK = {
    "customers": ("customer_id", "home_x", "home_y", "birth_date", "region", "opened_on"),
    "terminals": ("terminal_id", "x", "y", "merchant_name", "merchant_category", "channel", "city"),
}
_TELEMETRY = ("terminal_id", "time", "temperature", "temperature_unit", "tamper_events", "uptime_hours")
_CHARGEBACKS = ("case_id", "transaction_id", "reported_at", "reason", "amount")
_AUTHORIZATION = (
    '{"id":"BIGINT","time":"VARCHAR","customer":"BIGINT","terminal":"BIGINT","amount":"DOUBLE","unit":"VARCHAR",'
    '"channel":"VARCHAR","category":"VARCHAR","text":"VARCHAR","revision":"INTEGER"}'
)
# What a timestamp must end with to name one instant: Z, or an offset such as +02:00.
_ZONE = r"(Z|[+-]\d{2}(:?\d{2})?)$"


# ---------------------------------------------------------------------------- the simulated bank


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Collect all sources of the simulated bank into `out`.

    Writes ``transactions``, ``labels``, ``customers``, ``terminals``, ``telemetry``, ``holidays``,
    ``superseded``, ``quarantine`` and ``accounting`` as Parquet.

    Parameters
    ----------
    settings
        Knobs: `label_delay_days`.
    inputs
        ``world``: the folder that holds ``sources/``.
    out
        An empty folder.

    Raises
    ------
    LifecycleError
        If a source is missing, cannot be read or lacks a column.
    """
    sources = Path(inputs["world"]) / "sources"
    with _database() as db:
        accounts = [_collect_bank(db, sources / "bank.sqlite")]
        days = _authorization_files(sources)
        accounts.append(_collect_authorizations(db, days))
        accounts.append(_collect_telemetry(db, _files(sources, "telemetry", "*.csv.gz")))
        accounts.append(_collect_chargebacks(db, _files(sources, "chargebacks", "*.csv")))
        holidays = _read_holidays(sources / "holidays.csv")
        accounts.append(pd.DataFrame({"source": ["holidays"], "read": len(holidays), "accepted": len(holidays)}))
        last_day = pd.Timestamp(days[-1].name.split(".")[0], tz="UTC") + pd.Timedelta(days=1)
        tables = {
            "transactions": _transactions(db, "accepted"),
            "superseded": _transactions(db, "superseded"),
            "labels": _label_history(db, settings.label_delay_days, last_day),
            "customers": db.sql("SELECT * FROM customers ORDER BY customer_id").to_arrow_table(),
            "terminals": db.sql("SELECT * FROM terminals ORDER BY terminal_id").to_arrow_table(),
            "telemetry": db.sql("SELECT * FROM telemetry ORDER BY time, terminal_id").to_arrow_table(),
            "holidays": holidays,
            "quarantine": db.sql("SELECT * FROM quarantine ORDER BY source, file, line").to_arrow_table(),
        }
    tables["accounting"] = check_accounting(pd.concat(accounts, ignore_index=True))
    contracts.check(tables["transactions"].to_pandas(), contracts.TRANSACTIONS, "the collected transactions")
    if tables["labels"].num_rows:  # in the first days of a bank nothing is known yet
        contracts.check(tables["labels"].to_pandas(), contracts.LABELS, "the collected labels")
    for name, table in tables.items():
        files.write_parquet(table, out / f"{name}.parquet")


def check_accounting(accounting: pd.DataFrame) -> pd.DataFrame:
    """Return the accounting in its final form, after checking that every record has one fate.

    Parameters
    ----------
    accounting
        Columns `source`, `day` (datetime64[us, UTC], missing for a source that is not delivered by day)
        and `COUNTS`. A missing count means zero.

    Raises
    ------
    LifecycleError
        If a source and day read more or fewer records than it accounts for.

    Examples
    --------
    >>> check_accounting(pd.DataFrame({"source": ["a"], "read": [3], "accepted": [2], "duplicates": [1]}))["read"].sum()
    np.int64(3)
    """
    table = accounting.reindex(columns=["source", "day", *COUNTS])
    table[list(COUNTS)] = table[list(COUNTS)].fillna(0).astype("int64")
    table["day"] = pd.to_datetime(table["day"], utc=True).astype("datetime64[us, UTC]")
    wrong = table[table["read"] != table[list(COUNTS[1:])].sum(axis=1)]
    if len(wrong):
        first = wrong.iloc[0]
        raise LifecycleError(
            f"Collection lost count in {len(wrong)} deliveries, first {first['source']} of {first['day']}: "
            f"{dict(first[list(COUNTS)])}; this is a defect of the collection code, please report it."
        )
    return table.sort_values(["source", "day"]).reset_index(drop=True)


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB in memory that counts time in UTC and spills to a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="lifecycle-") as spill, closing(duckdb.connect()) as db:
        db.execute("SET TimeZone = 'UTC'; SET memory_limit = '2GB'")
        with suppress(duckdb.InvalidInputException):  # a Jupyter kernel without ipywidgets has no bar to switch off
            db.execute("SET enable_progress_bar = false")
        db.execute(f"SET temp_directory = '{spill}'")
        db.execute(
            "CREATE TABLE quarantine (source VARCHAR, file VARCHAR, line BIGINT, reason VARCHAR, record VARCHAR)"
        )
        yield db


def _files(sources: Path, folder: str, pattern: str) -> list[Path]:
    found = sorted((sources / folder).glob(pattern))
    if not found:
        raise LifecycleError(f"{sources / folder} has no files {pattern}; build the world again or check the path.")
    return found


def _authorization_files(sources: Path) -> list[Path]:
    return _files(sources, "authorizations", "*.jsonl.gz")


def _sql_list(paths: list[Path]) -> str:
    return "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths) + "]"


def _run(db: duckdb.DuckDBPyConnection, query: str, paths: list[Path]) -> None:
    """Run a query that reads files; if one of them cannot be read, say which."""
    try:
        db.execute(query)
    except duckdb.Error as error:
        for path in paths:
            reason = _unreadable(path)
            if reason:
                raise LifecycleError(
                    f"{path} cannot be read ({reason}); fetch this file from its source again."
                ) from error
        raise LifecycleError(f"{paths[0].parent} cannot be read: {str(error).splitlines()[0]}") from error


def _unreadable(path: Path) -> str | None:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data.decode()
    except (OSError, EOFError, ValueError) as error:
        return str(error)
    return None


def _collect_bank(db: duckdb.DuckDBPyConnection, path: Path) -> pd.DataFrame:
    """Copy customers and terminals out of the bank's database. A repeated id is a duplicate."""
    if not path.exists():
        raise LifecycleError(f"File not found: {path}; build the world again or check the path.")
    rows = []
    for table, columns in _BANK.items():
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as bank:
                frame = pd.read_sql_query(f"SELECT {', '.join(columns)} FROM {table}", bank)
        except (sqlite3.Error, pd.errors.DatabaseError) as error:
            raise LifecycleError(f"{path}: table {table} cannot be read ({error}); restore the database.") from error
        for day in [c for c in columns if c in ("birth_date", "opened_on")]:
            frame[day] = pd.to_datetime(frame[day], utc=True, errors="coerce").astype("datetime64[us, UTC]")
        kept = frame.drop_duplicates(columns[0])
        db.register("kept", kept)
        db.execute(f"CREATE TABLE {table} AS SELECT * FROM kept")
        rows.append({"source": table, "read": len(frame), "accepted": len(kept), "duplicates": len(frame) - len(kept)})
    return pd.DataFrame(rows)


def _collect_authorizations(db: duckdb.DuckDBPyConnection, paths: list[Path]) -> pd.DataFrame:
    """Read the authorization log into table `authorizations`, with the fate of every line.

    Lines are read as text, so that a truncated one is still there to be counted, and parsed by DuckDB.
    """
    _run(
        db,
        f"""
        CREATE TABLE authorizations AS
        WITH lines AS (
            SELECT row_number() OVER () AS n, filename, line
            FROM read_csv({_sql_list(paths)}, columns = {{'line': 'VARCHAR'}}, delim = '\x01', quote = '', escape = '',
                          header = false, auto_detect = false, filename = true, max_line_size = 1048576)
        ), parsed AS (
            SELECT *, from_json(CASE WHEN json_valid(line) THEN line END, '{_AUTHORIZATION}') AS r FROM lines
        ), typed AS (
            SELECT n, parse_filename(filename) AS file, line, r IS NULL AS broken,
                r.id AS transaction_id, r.time AS written,
                CASE WHEN regexp_matches(r.time, '{_ZONE}') THEN try_cast(r.time AS TIMESTAMPTZ) END AS event_time,
                r.customer AS customer_id, r.terminal AS terminal_id, r.unit AS unit,
                CASE r.unit WHEN 'minor' THEN round(r.amount / 100, 2) ELSE r.amount END AS amount,
                r.channel AS channel, r.category AS merchant_category, r.text AS merchant_text,
                coalesce(r.revision, 0) AS revision
            FROM parsed
        )
        SELECT typed.* EXCLUDE (line, broken, written, unit),
            hash(event_time, typed.customer_id, typed.terminal_id, amount, channel, merchant_category, merchant_text)
                AS content,
            CASE WHEN broken THEN 'broken line'
                 WHEN transaction_id IS NULL THEN 'no transaction id'
                 WHEN event_time IS NULL AND try_cast(written AS TIMESTAMP) IS NOT NULL
                      AND NOT regexp_matches(written, '{_ZONE}') THEN 'no time zone'
                 WHEN event_time IS NULL THEN 'unreadable time'
                 WHEN unit IS NULL OR unit NOT IN ('major', 'minor') THEN 'unknown unit'
                 WHEN amount IS NULL OR NOT isfinite(amount) THEN 'unreadable amount'
                 WHEN amount <= 0 THEN 'amount not positive'
                 WHEN c.customer_id IS NULL THEN 'unknown customer'
                 WHEN t.terminal_id IS NULL THEN 'unknown terminal' END AS reason,
            CASE WHEN reason IS NOT NULL THEN line END AS record
        FROM typed
        LEFT JOIN (SELECT customer_id FROM customers) c ON typed.customer_id = c.customer_id
        LEFT JOIN (SELECT terminal_id FROM terminals) t ON typed.terminal_id = t.terminal_id
        """,
        paths,
    )
    _decide_fates(db)
    return _account(db, "authorizations")


def _decide_fates(db: duckdb.DuckDBPyConnection) -> None:
    """Add the fate of each line. Only ids seen more than once need a closer look.

    The first copy of a content counts; a later copy is a duplicate; of several revisions the last is
    accepted. Two different contents under one id and revision contradict each other: the first to
    arrive is kept, the other is quarantined.
    """
    db.execute(
        """
        CREATE TABLE repeated AS
        WITH twice AS (
            SELECT transaction_id FROM authorizations WHERE reason IS NULL GROUP BY ALL HAVING count(*) > 1
        )
        SELECT n, CASE
            WHEN row_number() OVER (PARTITION BY transaction_id, revision, content ORDER BY n) > 1 THEN 'duplicate'
            WHEN content <> first(content) OVER (PARTITION BY transaction_id, revision ORDER BY n) THEN 'conflict'
            WHEN revision < max(revision) OVER (PARTITION BY transaction_id) THEN 'superseded' END AS fate
        FROM authorizations SEMI JOIN twice USING (transaction_id) WHERE reason IS NULL;

        CREATE TABLE authorizations_fates AS
        SELECT a.*, CASE WHEN reason IS NOT NULL OR fate = 'conflict' THEN 'quarantined'
                         ELSE coalesce(fate, 'accepted') END AS decided
        FROM authorizations a LEFT JOIN (SELECT * FROM repeated WHERE fate IS NOT NULL) USING (n);

        INSERT INTO quarantine
        WITH starts AS (SELECT file, min(n) - 1 AS before FROM authorizations GROUP BY file)
        SELECT 'authorizations', file, n - before, coalesce(reason, 'id used twice'),
               coalesce(record, to_json({'id': transaction_id, 'time': event_time::VARCHAR, 'customer': customer_id,
                                         'terminal': terminal_id, 'amount': amount, 'revision': revision})::VARCHAR)
        FROM authorizations_fates f JOIN starts USING (file) WHERE decided = 'quarantined'
        """
    )


def _account(db: duckdb.DuckDBPyConnection, source: str) -> pd.DataFrame:
    """Count the fates of the records of a source, per delivered file.

    What was read is counted from the records themselves, what was quarantined from the quarantine:
    two counts that need not agree unless the code is right.
    """
    return db.sql(
        f"""
        SELECT '{source}' AS source, try_cast(split_part(file, '.', 1) AS TIMESTAMPTZ) AS day, count(*) AS read,
            count(*) FILTER (decided = 'accepted') AS accepted, coalesce(any_value(q.rows), 0) AS quarantined,
            count(*) FILTER (decided = 'duplicate') AS duplicates,
            count(*) FILTER (decided = 'superseded') AS superseded
        FROM {source}_fates LEFT JOIN (
            SELECT file, count(*) AS rows FROM quarantine WHERE source = '{source}' GROUP BY file
        ) q USING (file) GROUP BY file
        """
    ).df()


def _transactions(db: duckdb.DuckDBPyConnection, decided: str) -> pa.Table:
    """Return the accepted or the superseded payments in order of time, attributes as dictionaries."""
    table = db.sql(
        f"""
        SELECT a.transaction_id, a.event_time, a.customer_id, a.terminal_id, a.amount, a.channel,
               a.merchant_category, a.merchant_text
        FROM authorizations_fates a WHERE decided = '{decided}' ORDER BY event_time, transaction_id, revision
        """
    ).to_arrow_table()
    return _with_dictionaries(table)


def _with_dictionaries(table: pa.Table) -> pa.Table:
    """Encode the text attributes as dictionaries, which pandas reads as categories."""
    for name in ATTRIBUTES:
        if name in table.column_names:
            column = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def _check_headers(paths: list[Path], columns: tuple[str, ...]) -> None:
    """Check that each CSV file starts with the columns we know; the order matters too."""
    for path in paths:
        try:
            with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
                header = file.readline().strip().split(",")
        except (OSError, EOFError, ValueError) as error:
            raise LifecycleError(f"{path} cannot be read ({error}); fetch this file from its source again.") from error
        missing = [name for name in columns if name not in header]
        if missing or tuple(header) != columns:
            what = f"column '{missing[0]}' is missing" if missing else f"the columns are {', '.join(header)}"
            raise ContractError(f"{path}: {what}; this source has {', '.join(columns)}.")


def _read_csv(paths: list[Path], columns: tuple[str, ...]) -> str:
    """Return the table function that reads CSV files as text; a short line gets missing values."""
    types = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
    return (
        f"read_csv({_sql_list(paths)}, columns = {{{types}}}, delim = ',', quote = '\"', header = true, "
        "auto_detect = false, null_padding = true, strict_mode = false, filename = true)"
    )


def _as_line(columns: tuple[str, ...]) -> str:
    """Return the SQL that writes a CSV row as it was."""
    return "concat_ws(',', " + ", ".join(f"coalesce({name}, '')" for name in columns) + ")"


def _collect_telemetry(db: duckdb.DuckDBPyConnection, paths: list[Path]) -> pd.DataFrame:
    """Read the sensor feed into table `telemetry`, temperatures in degrees Celsius."""
    _check_headers(paths, _TELEMETRY)
    _run(
        db,
        f"""
        CREATE TABLE readings AS
        WITH rows AS (SELECT row_number() OVER () AS n, parse_filename(filename) AS file, * EXCLUDE (filename)
                      FROM {_read_csv(paths, _TELEMETRY)}),
        typed AS (
            SELECT n, file, {_as_line(_TELEMETRY)} AS record, try_cast(terminal_id AS BIGINT) AS terminal_id,
                CASE WHEN regexp_matches(time, '{_ZONE}') THEN try_cast(time AS TIMESTAMPTZ) END AS time,
                try_cast(temperature AS DOUBLE) AS reading, temperature_unit AS unit,
                try_cast(tamper_events AS INTEGER) AS tamper_events, try_cast(uptime_hours AS DOUBLE) AS uptime_hours
            FROM rows
        )
        -- A sensor that has nothing to say writes -999, whatever its unit: it stays -999.
        SELECT typed.* EXCLUDE (reading, unit),
            CASE WHEN unit = 'F' AND reading > -900 THEN (reading - 32) * 5 / 9 ELSE reading END AS temperature,
            CASE WHEN time IS NULL THEN 'unreadable time'
                 WHEN unit IS NOT NULL AND unit NOT IN ('C', 'F') THEN 'unknown unit'
                 WHEN t.terminal_id IS NULL THEN 'unknown terminal' END AS reason,
            hash(temperature, tamper_events, uptime_hours) AS content
        FROM typed LEFT JOIN (SELECT terminal_id FROM terminals) t ON typed.terminal_id = t.terminal_id
        """,
        paths,
    )
    _settle(db, "telemetry", "readings", "terminal_id, time, content")
    db.execute(
        "CREATE TABLE telemetry AS SELECT terminal_id, time, temperature, tamper_events, uptime_hours "
        "FROM telemetry_fates WHERE decided = 'accepted'"
    )
    return _account(db, "telemetry")


def _collect_chargebacks(db: duckdb.DuckDBPyConnection, paths: list[Path]) -> pd.DataFrame:
    """Read the third party's chargebacks into table `chargebacks`, one row a disputed payment."""
    _check_headers(paths, _CHARGEBACKS)
    _run(
        db,
        f"""
        CREATE TABLE cases AS
        WITH rows AS (SELECT row_number() OVER () AS n, parse_filename(filename) AS file, * EXCLUDE (filename)
                      FROM {_read_csv(paths, _CHARGEBACKS)}),
        typed AS (
            SELECT n, file, {_as_line(_CHARGEBACKS)} AS record, try_cast(transaction_id AS BIGINT) AS transaction_id,
                CASE WHEN regexp_matches(reported_at, '{_ZONE}') THEN try_cast(reported_at AS TIMESTAMPTZ) END
                    AS reported_at
            FROM rows
        )
        SELECT typed.*, CASE WHEN reported_at IS NULL THEN 'unreadable time'
                             WHEN p.transaction_id IS NULL THEN 'unknown transaction'
                             WHEN reported_at < p.event_time THEN 'reported before the payment' END AS reason
        FROM typed LEFT JOIN (
            SELECT transaction_id, event_time FROM authorizations_fates WHERE decided = 'accepted'
        ) p ON typed.transaction_id = p.transaction_id
        """,
        paths,
    )
    _settle(db, "chargebacks", "cases", "transaction_id")
    db.execute(
        "CREATE TABLE chargebacks AS SELECT transaction_id, reported_at "
        "FROM chargebacks_fates WHERE decided = 'accepted'"
    )
    return _account(db, "chargebacks")


def _settle(db: duckdb.DuckDBPyConnection, source: str, table: str, identity: str) -> None:
    """Decide the fates of a source without revisions: of equal `identity`, the first row counts."""
    db.execute(
        f"""
        CREATE TABLE {source}_fates AS
        SELECT *, CASE WHEN reason IS NOT NULL THEN 'quarantined'
                       WHEN row_number() OVER (PARTITION BY reason IS NULL, {identity} ORDER BY n) > 1 THEN 'duplicate'
                       ELSE 'accepted' END AS decided
        FROM {table};

        INSERT INTO quarantine
        WITH starts AS (SELECT file, min(n) - 1 AS before FROM {table} GROUP BY file)
        SELECT '{source}', file, n - before + 1, reason, record
        FROM {table} JOIN starts USING (file) WHERE reason IS NOT NULL
        """
    )


def _read_holidays(path: Path) -> pd.DataFrame:
    _check_headers([path], ("date", "name", "region"))
    frame = pd.read_csv(path)
    try:
        frame["date"] = pd.to_datetime(frame["date"], utc=True).astype("datetime64[us, UTC]")
    except ValueError as error:
        raise ContractError(f"{path}: column 'date' holds what is not a date ({error}); correct the file.") from None
    return frame


def _label_history(db: duckdb.DuckDBPyConnection, delay_days: int, last_day: pd.Timestamp) -> pa.Table:
    """Return what became known about each payment, and when, up to the end of the data.

    A payment that nobody has disputed after `delay_days` counts as honest from then on. A chargeback
    that comes later overrules this; one that comes earlier is the only row of its payment.
    """
    return db.sql(
        """
        WITH silence AS (
            SELECT transaction_id, 0::TINYINT AS is_fraud, event_time + to_days($delay) AS known_at
            FROM authorizations_fates WHERE decided = 'accepted'
        )
        SELECT silence.* FROM silence LEFT JOIN chargebacks USING (transaction_id)
        WHERE known_at < $last AND (reported_at IS NULL OR reported_at > known_at)
        UNION ALL SELECT transaction_id, 1::TINYINT, reported_at FROM chargebacks WHERE reported_at < $last
        ORDER BY known_at, transaction_id
        """,
        params={"delay": delay_days, "last": last_day},
    ).to_arrow_table()


# ---------------------------------------------------------------------------- a file of one's own


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
        with _database() as db:
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
    table = _with_dictionaries(
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
        zoned = f"regexp_matches({text}, ':.*{_ZONE}')"
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
