"""The window expressions on Spark, for a bank that one machine cannot hold.

Only the reading is Spark's own: which columns, in integer time and integer money. The windows are those
of `lifecycle.features.windows`, to the letter. Needs the extra `spark` of this package, and Java.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lifecycle.features.windows import ATTRIBUTES, DAY, UNITS, WEB, history_tables, snapshot_days

if TYPE_CHECKING:
    import ibis
    from pyspark.sql import SparkSession


def local_session(cores: int = 2, memory: str = "2g") -> SparkSession:
    """Start Spark inside this machine, quiet and on the loopback interface only.

    Parameters
    ----------
    cores
        Threads of the one executor.
    memory
        The heap of its Java process, such as ``"2g"``.
    """
    from pyspark.sql import SparkSession

    return (
        SparkSession.builder.master(f"local[{cores}]")
        .appName("lifecycle")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", memory)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.session.timeZone", "UTC")
        # The default of 200 pays on a cluster; here each partition is a task that two cores must start.
        .config("spark.sql.shuffle.partitions", str(2 * cores))
        .getOrCreate()
    )


def history(session: SparkSession, source: str) -> dict[str, ibis.Table]:
    """Return the tables of `windows.history_features` as Ibis expressions that Spark computes.

    Parameters
    ----------
    session
        A Spark session whose time zone is UTC, here or on a cluster.
    source
        Where the preprocessed Parquet files are: a folder, or a prefix such as ``s3://bucket/preprocessing``.

    Returns
    -------
    dict of ibis.Table
        `customer_daily`, `terminal_daily` and `recent`; write one with
        ``ibis.get_backend(table).to_parquet_dir(table, path)``, look at a part with ``table.limit(5).to_pandas()``.
    """
    import ibis

    backend = ibis.pyspark.connect(session)
    payments = _view(backend, session, "payments", _payments(session, source))
    reports = _view(backend, session, "reports", _reports(source))
    first, last = session.sql("SELECT min(snapshot), max(snapshot) FROM payments").first()
    days = ibis.memtable(snapshot_days(first, last))
    entities = {}
    for key, (name, columns) in ATTRIBUTES.items():
        known = session.read.parquet(f"{source}/{name}.parquet")
        entities[key] = _view(
            backend, session, name, _entities(key, columns, known.columns, f"{source}/{name}.parquet")
        )
    return history_tables(payments, reports, entities, days)


def _view(backend: Any, session: SparkSession, name: str, query: str) -> ibis.Table:
    session.sql(query).createOrReplaceTempView(name)
    return backend.table(name)


def _payments(session: SparkSession, source: str) -> str:
    """Return the query of `windows.payment_columns`."""
    path = f"{source}/transactions.parquet"
    kinds = dict(session.read.parquet(path).dtypes)
    ids = [
        f"CAST({key} AS {'STRING' if kinds[key] == 'string' else 'BIGINT'}) AS {key}"
        for key in ("transaction_id", "customer_id", "terminal_id")
    ]
    return (
        f"SELECT {', '.join(ids)}, unix_micros(event_time) AS micros, "
        f"unix_micros(event_time) div {DAY} + 1 AS snapshot, CAST(rint(amount * {UNITS}) AS BIGINT) AS units "
        f"FROM parquet.`{path}`"
    )


def _reports(source: str) -> str:
    """Return the query of `windows.report_columns`."""
    return (
        f"SELECT transaction_id, (unix_micros(known_at) + {DAY - 1}) div {DAY} AS snapshot "
        f"FROM parquet.`{source}/labels.parquet` WHERE is_fraud = 1"
    )


def _entities(key: str, columns: dict[str, str], known: list[str], path: str) -> str:
    """Return the query of `windows.entity_table`: every id of the payments and of the attribute table."""
    ids = f"SELECT {key} FROM payments UNION SELECT {key} FROM parquet.`{path}`"
    if not set(columns) <= set(known):
        return ids
    # The address of a shop on the web is not a place where anybody pays.
    place = f"CASE WHEN channel = '{WEB}' THEN NULL ELSE {{}} END" if "channel" in known else "{}"
    kept = ", ".join(f"CAST({place.format(column)} AS DOUBLE) AS {name}" for column, name in columns.items())
    return f"SELECT * FROM ({ids}) LEFT JOIN (SELECT {key}, {kept} FROM parquet.`{path}`) USING ({key})"
