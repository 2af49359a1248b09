"""The batch job: score a file of payments with features computed from the package's history and the file itself.

The job computes its features offline, with the expressions and the point-in-time join that made the training
set. The service looks them up online. Both must give the same score for the same payment; a test holds it.

The file may be larger than memory, and the job may be killed: it takes the file in, computes features and scores a
part after another, and what is finished stays in a folder beside the output until the output is whole.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import contracts, features, files, training
from lifecycle.collection.shared import database, quoted
from lifecycle.deployment import intake
from lifecycle.deployment.artifact import OWN_FILE, Package, open_package
from lifecycle.deployment.intake import ROW
from lifecycle.deployment.messages import CONTRACT, IDS
from lifecycle.deployment.resuming import Unfinished
from lifecycle.deployment.scorer import APPROVE, REVIEW, load_model
from lifecycle.errors import LifecycleError
from lifecycle.features import execution
from lifecycle.features.schema import VIEWS
from lifecycle.features.windows import DAY, to_micros
from lifecycle.source import code_hash

BEFORE_HISTORY = pd.Timedelta(days=32)
OUTPUT = ("transaction_id", "event_time", "score", "decision")

HISTORY, RECENT_FILE = "history.parquet", "recent.parquet"
"""In a folder of features: the times of the package's payments, and the recent activity of these and the file's."""

MEMORY = 1_000
"""Megabytes of the file and its features that are held at a time, beside what the program itself needs."""

LEAST_MEMORY = 50
ROWS_PER_MB = 250
"""Payments that are scored at a time; one takes about 4 KB while its features are joined."""

BUCKET_PER_MB = 2_500
"""Payments and daily snapshots whose windows are computed at a time."""

CHUNK_PER_MB = 1_000
"""Rows of such windows that are put together at a time."""

BLOCK_ROWS = 4_096
"""Payments that one call of the model scores."""

SNAPSHOTS = 4
"""Daily snapshots that a part may meet, for each of its payments."""


def score_file(
    model_dir: Path | str,
    transactions: Path | str,
    out: Path | str,
    labels: pd.DataFrame | None = None,
    mapping: Mapping[str, Any] | None = None,
    memory: int = MEMORY,
    tell: Callable[[str], None] = lambda sentence: None,
) -> int:
    """Score a CSV or Parquet file into another, and return the number of rows.

    A job that was killed goes on where it was when it is started again with the same input, and writes the same bytes.

    Parameters
    ----------
    model_dir
        A package.
    transactions
        A file with the contract columns, and optional attributes; times must carry a zone. For a model that was trained
        on a file of one's own: a file of that shape.
    out
        The file to write, CSV or Parquet by its suffix: `OUTPUT`. It appears whole or not at all.
    labels
        What has become known since the package was made, if anything: a label history.
    mapping
        What the file calls things, as in ``run --map``, for a model that was trained with one.
    memory
        See `MEMORY`. What grows with the customers and terminals, and not with the payments, comes on top.
    tell
        Gets a sentence when the job goes on from an earlier start, or starts anew.

    Raises
    ------
    LifecycleError
        If the package is refused, a file cannot be read or written, or the payments break the contract.
    """
    out, path = Path(out), Path(transactions)
    if out.suffix not in (".csv", ".parquet"):
        raise LifecycleError(f"{out} has the suffix {out.suffix!r}; name a .csv or a .parquet file to write.")
    if memory < LEAST_MEMORY:
        raise LifecycleError(f"{memory} MB of memory are too few for the batch job; give at least {LEAST_MEMORY}.")
    package = open_package(model_dir)
    if not path.is_file():
        raise LifecycleError(f"File not found: {path}; check the path.")
    identity = {
        "file of payments": files.sha256(path),
        "package": package.digest,
        "set of labels": "none" if labels is None else _hash_of(labels),
        "mapping": hashlib.sha256(json.dumps(mapping, sort_keys=True, default=str).encode()).hexdigest(),
        "amount of memory": str(memory),
        "version of the code": code_hash(__name__),
    }
    with Unfinished(out, identity, tell) as work:
        try:
            return _Job(package, memory, work).run(path, out, labels, mapping)
        except duckdb.Error as error:
            if files.is_full(error):
                raise files.full_disk(out) from error
            if isinstance(error, duckdb.OutOfMemoryException):
                sentence = f"{memory} MB of memory are too few for {path}: give more with --memory."
                raise LifecycleError(sentence) from error
            raise


def _hash_of(labels: pd.DataFrame) -> str:
    return hashlib.sha256(pd.util.hash_pandas_object(labels, index=False).to_numpy().tobytes()).hexdigest()


class _Job:
    """The steps of one batch job."""

    def __init__(self, package: Package, memory: int, work: Unfinished) -> None:
        self._package, self._memory, self._work = package, memory, work
        self._rows = memory * ROWS_PER_MB
        self._store: Any = None  # Feast takes seconds to import: only where something is left to score

    def run(self, path: Path, out: Path, labels: pd.DataFrame | None, mapping: Mapping[str, Any] | None) -> int:
        """Take the payments in, compute their features, score them in parts, and put the parts together."""
        payments = self._work.once("payments.parquet", lambda target: self._take_in(path, mapping, target))
        store = self._work.once(
            "features", lambda folder: write_features(self._package, payments, labels, folder, self._memory)
        )
        ends = _plan(payments, store, self._rows)
        parts = [
            self._work.once(f"part-{number:06}", functools.partial(self._score_part, payments, store, *both))
            for number, both in enumerate(ends)
        ]
        whole = self._work.once(f"whole{out.suffix}", lambda target: self._put_together(parts, ends, target))
        rows = pq.read_metadata(payments).num_rows
        self._work.finish(whole)
        return rows

    def _take_in(self, path: Path, mapping: Mapping[str, Any] | None, target: Path) -> None:
        package, spill = self._package, self._work.folder
        if mapping is None and not (package.folder / OWN_FILE).exists():
            frames = intake.read_batches(path, package.record_format, self._rows)
        else:
            frames = intake.read_own(path, package, mapping or {}, self._rows, spill, self._memory)
        intake.write_payments(frames, package.record_format, target, path, self._memory)

    def _score_part(self, payments: Path, folder: Path, start: int, stop: int, target: Path) -> None:
        """Score some payments, in the order of time."""
        self._store = self._store or features.open_store(folder)
        events = read_events(payments, folder, start, stop)
        scored = score_features(self._package, features.assemble(self._store, events))
        scored.insert(0, ROW, events[ROW].to_numpy())
        pq.write_table(pa.Table.from_pandas(scored, preserve_index=False), target)
        gc.collect()  # Feast's objects hold each other in circles, and with them half a megabyte a part

    def _put_together(self, parts: list[Path], ends: list[tuple[int, int]], target: Path) -> None:
        """Write the scores of all parts into one file, in the order in which the payments were given."""
        writer = None
        with contextlib.ExitStack() as stack:
            for table in self._in_order(parts, ends, stack):
                frame = table.to_pandas()
                if ".csv" in target.suffixes:
                    moments = frame["event_time"].dt.tz_localize(None).to_numpy("datetime64[us]")
                    frame["event_time"] = np.char.add(np.datetime_as_string(moments), "Z")
                    frame.to_csv(target, index=False, mode="a", header=writer is None)
                    writer = target
                else:
                    made = pa.Table.from_pandas(frame, preserve_index=False)
                    writer = writer or stack.enter_context(pq.ParquetWriter(target, made.schema, compression="zstd"))
                    writer.write_table(made)

    def _in_order(
        self, parts: list[Path], ends: list[tuple[int, int]], stack: contextlib.ExitStack
    ) -> Iterator[pa.Table]:
        """Yield the scores in the order of the file; where that is the order of time, no sort of all is needed."""
        spans = [pq.read_metadata(part).row_group(0).column(0).statistics for part in parts]
        if all((s.min, s.max + 1) == both for s, both in zip(spans, ends, strict=True)):
            for part in parts:
                yield pq.read_table(part).sort_by(ROW).select(list(OUTPUT))
            return
        ordered = self._work.folder / "ordered.making"
        with database(self._work.folder, f"{self._memory}MB") as db:
            names = ", ".join(map(quoted, parts))
            query = f"SELECT {', '.join(OUTPUT)} FROM read_parquet([{names}]) ORDER BY {ROW}"
            db.execute(f"COPY ({query}) TO {quoted(ordered)} (FORMAT parquet, ROW_GROUP_SIZE {intake.ROW_GROUP})")
        yield from _regrouped(stack.enter_context(files.open_parquet(ordered)).iter_batches(self._rows), self._rows)


def _regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yield tables of so many rows, the last of fewer, so that a file does not depend on how batches were cut."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        while batch.num_rows:
            held.append(batch.slice(0, rows - sum(part.num_rows for part in held)))
            batch = batch.slice(held[-1].num_rows)
            if sum(part.num_rows for part in held) == rows:
                yield pa.Table.from_batches(held)
                held = []
    if held:
        yield pa.Table.from_batches(held)


def read_events(payments: Path, folder: Path, start: int, stop: int) -> pd.DataFrame:
    """Read some payments with their recent activity, as `features.assemble` takes them.

    Parameters
    ----------
    payments
        A file made by `intake.write_payments`.
    folder
        The folder that `write_features` made of it.
    start, stop
        The number of the first payment, and of the first one that is not wanted.
    """
    events = _read_slice(payments, start, stop)
    # Both files are in the order of time, so the activity stands as much further on as there is history before it.
    history = pq.read_table(folder / HISTORY)["micros"].to_numpy()
    first, last = to_micros(events["event_time"].iloc[[0, -1]])
    before = np.searchsorted(history, first, side="left"), np.searchsorted(history, last, side="right")
    recent = _read_slice(folder / RECENT_FILE, start + int(before[0]), stop + int(before[1]))
    rows = pd.Index(recent.pop("transaction_id")).get_indexer(events["transaction_id"])
    if (rows < 0).any():
        raise LifecycleError(f"{folder / RECENT_FILE} lacks some payments of {payments}; start the batch job anew.")
    return pd.concat([events, recent.iloc[rows].reset_index(drop=True)], axis=1)


def _read_slice(path: Path, start: int, stop: int) -> pd.DataFrame:
    """Read the rows from `start` to before `stop` of a Parquet file, and only the row groups that hold them."""
    with files.open_parquet(path) as file:
        ends = np.cumsum([file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)])
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        before = int(ends[first - 1]) if first else 0
        table = file.read_row_groups(range(first, last + 1))
        return table.slice(start - before, stop - start).to_pandas()


def _plan(payments: Path, folder: Path, rows: int) -> list[tuple[int, int]]:
    """Return the parts of the payments: each of at most `rows`, over few enough days for the snapshots they meet."""
    with database(folder.parent) as db:
        days = db.sql(
            f"SELECT epoch_us(event_time) // {DAY} AS day, count(*) AS n FROM read_parquet({quoted(payments)}) "
            "GROUP BY 1 ORDER BY 1"
        ).fetchall()
        query = "SELECT count(*) / count(DISTINCT event_timestamp) FROM read_parquet({})"
        names = [quoted(folder / f"{view}.parquet") for view in VIEWS]
        entities = sum(db.sql(query.format(name)).fetchall()[0][0] for name in names)
    return cut(days, rows, int(SNAPSHOTS * rows // entities))


def cut(days: Iterable[tuple[int, int]], rows: int, longest: int) -> list[tuple[int, int]]:
    """Cut a table that is sorted by time into parts of at most `rows` rows and `longest` days, but at least one day.

    Examples
    --------
    >>> cut([(10, 3), (11, 1), (15, 9)], rows=5, longest=3)
    [(0, 4), (4, 9), (9, 13)]
    """
    parts, start, stop, first = [], 0, 0, None
    for day, count in days:
        while count:
            full = stop - start == rows
            if full or (first is not None and day - first >= max(longest, 1)):
                parts.append((start, stop))
                start, first = stop, None
            first = day if first is None else first
            taken = min(count, rows - (stop - start))
            stop, count = stop + taken, count - taken
    return [*parts, (start, stop)]


def score_frame(
    package: Package | Path | str, payments: pd.DataFrame, labels: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Score payments, each with what was known at its time.

    Parameters
    ----------
    package
        A package or its folder.
    payments
        A table that keeps `contracts.TRANSACTIONS`, with optional attributes.
    labels
        Label history known since the package was made, if any.

    Returns
    -------
    pandas.DataFrame
        `OUTPUT`, one row a payment, in the order of `payments`. ``score`` is float64 in [0, 1].
    """
    package = package if isinstance(package, Package) else open_package(package)
    if payments.empty:
        return score_features(package, payments)
    return score_features(package, feature_table(package, payments, labels))


def score_features(package: Package, table: pd.DataFrame) -> pd.DataFrame:
    """Score payments whose features are there already, as `feature_table` returns them; see `score_frame`."""
    scored = table[["transaction_id", "event_time"]].reset_index(drop=True)
    if table.empty:
        return scored.assign(score=pd.Series(dtype="float64"), decision=pd.Series(dtype="object"))
    matrix = training.feature_matrix(table, files.read_json(package.folder / "feature_schema.json"))
    score = _predict(load_model(package), matrix)
    decision = pd.Series(score >= package.threshold).map({True: REVIEW, False: APPROVE})
    return scored.assign(score=score, decision=decision)


def _predict(model: Any, matrix: np.ndarray) -> np.ndarray:
    """Score blocks side by side, each on one thread: more would add up the trees of a row in another order."""
    blocks = [matrix[start : start + BLOCK_ROWS] for start in range(0, len(matrix), BLOCK_ROWS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(model.predict, blocks)))


def feature_table(package: Package, payments: pd.DataFrame, labels: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the contract columns and the features of payments, computed offline, in the order of `payments`.

    Parameters
    ----------
    package
        Its history comes before the payments; a payment that is in both counts once.
    payments, labels
        As in `score_frame`.
    """
    with tempfile.TemporaryDirectory(prefix="batch-") as scratch:
        given, folder = Path(scratch) / "payments.parquet", Path(scratch) / "features"
        intake.write_payments([payments], package.record_format, given, "the table of payments", MEMORY)
        write_features(package, given, labels, folder, MEMORY)
        events = read_events(given, folder, 0, len(payments)).sort_values(ROW, ignore_index=True)
        return features.assemble(features.open_store(folder), events)


def write_features(package: Package, payments: Path, labels: pd.DataFrame | None, folder: Path, memory: int) -> None:
    """Write a folder that `features.assemble` can join payments with, and the recent activity before each payment.

    Parameters
    ----------
    package
        Its history comes before the payments; a payment that is in both counts once.
    payments
        A file made by `intake.write_payments`.
    labels
        What has become known since the package was made, if anything.
    folder
        The folder to make.
    memory
        Megabytes that the database may hold; it spills the rest into `folder`.
    """
    folder.mkdir()
    history = package.folder / "online" / "history"
    shutil.copyfile(package.folder / "feature_schema.json", folder / "schema.json")
    for name in ("customers", "terminals"):
        if (history / f"{name}.parquet").exists():
            shutil.copyfile(history / f"{name}.parquet", folder / f"{name}.parquet")
    packaged = pd.read_parquet(history / "labels.parquet")
    files.write_parquet(packaged if labels is None else _union(packaged, labels), folder / "labels.parquet")
    with database(folder, f"{memory}MB") as db:
        db.execute("SET preserve_insertion_order = false")
        _write_transactions(db, package, payments, folder)
    execution.write_tables(folder, folder, memory * BUCKET_PER_MB, f"{memory}MB", memory * CHUNK_PER_MB)
    (folder / "transactions.parquet").unlink()


def _write_transactions(db: duckdb.DuckDBPyConnection, package: Package, payments: Path, folder: Path) -> None:
    """Write the payments of the package's history and of a file into one file, each once, and `HISTORY`."""
    history, given = package.folder / "online" / "history", f"read_parquet({quoted(payments)})"
    first_day = contracts.midnight(package.manifest["first_day"])
    ((earliest,),) = db.sql(f"SELECT epoch_us(min(event_time)) FROM {given}").fetchall()
    older = "event_time"
    if earliest >= first_day.value // 1_000:
        # All that counts of these payments is who was where. Moved to one day that no window reaches, they do
        # not make the history of daily snapshots longer.
        older = f"make_timestamptz({(first_day - BEFORE_HISTORY).value // 1_000})"
    kinds = {name: "BIGINT" if package.record_format.ids[name] == "integer" else "VARCHAR" for name in IDS}
    columns = [f"CAST({name} AS {kinds[name]}) AS {name}" if name in kinds else name for name in CONTRACT]
    moved = [f"{older} AS event_time" if name == "event_time" else name for name in columns]
    known = " UNION ALL ".join(
        f"SELECT {', '.join(names)} FROM read_parquet({quoted(history / f'{table}.parquet')})"
        for table, names in (("older", moved), ("transactions", columns))
    )
    db.execute(f"CREATE TABLE known AS SELECT k.* FROM ({known}) k ANTI JOIN {given} p USING (transaction_id)")
    how = "(FORMAT parquet, COMPRESSION zstd)"
    db.execute(
        f"COPY (SELECT epoch_us(event_time) AS micros FROM known ORDER BY 1) TO {quoted(folder / HISTORY)} {how}"
    )
    db.execute(
        f"COPY (FROM known UNION ALL SELECT {', '.join(CONTRACT)} FROM {given}) "
        f"TO {quoted(folder / 'transactions.parquet')} {how}"
    )


def read_tables(folder: Path) -> dict[str, Any]:
    """Read transactions, labels, and (None where there is no such file) customers, terminals, older payments."""
    tables: dict[str, Any] = {}
    for name in ("transactions", "labels", "customers", "terminals", "older"):
        path = folder / f"{name}.parquet"
        if not path.exists() and name in ("transactions", "labels"):
            raise LifecycleError(f"File not found: {path}; build the stage before this one again.")
        tables[name] = pd.read_parquet(path) if path.exists() else None
    return tables


def _union(packaged: pd.DataFrame, later: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([packaged, later], ignore_index=True).drop_duplicates(["transaction_id", "known_at"], keep="last")
