"""How the batch job reads a file of payments: some rows at a time, each of them checked, into one Parquet file.

The file may be larger than memory. What the Parquet file holds is typed, in the order of time, with the place that each
payment had.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import contracts, files
from lifecycle.collection import load_new
from lifecycle.collection.shared import database, quoted
from lifecycle.deployment.artifact import OWN_FILE, Package
from lifecycle.deployment.messages import CONTRACT, IDS, RecordFormat
from lifecycle.errors import ContractError, LifecycleError

ROW = "row"
"""The column that says where in the file a payment was."""

ORDER = ("event_time", "transaction_id")

ROW_GROUP = 20_480
"""Rows of a row group: who reads a part reads few rows that are not in it."""

_ZONE = re.compile(r"(?:Z|[+-]\d{2}(?::?\d{2})?)$")


def read_batches(path: Path, record_format: RecordFormat, rows: int) -> Iterator[pd.DataFrame]:
    """Read a CSV or Parquet file of payments and check it against the contract and the model's ids.

    Parameters
    ----------
    path
        The file; CSV unless it ends in ``.parquet``, and unzipped if it ends in ``.gz``.
    record_format
        How the model's records are written.
    rows
        How many rows are in memory at a time.

    Yields
    ------
    pandas.DataFrame
        The columns of the contract and of the model's attributes, in the order of the file.

    Raises
    ------
    LifecycleError
        If the file is missing, cannot be read, or breaks the contract; names file, column, count and values.
    """
    if not path.is_file():
        raise LifecycleError(f"File not found: {path}; check the path.")
    wanted = [*CONTRACT, *record_format.attributes]
    frames = (_parquet_frames if path.suffix == ".parquet" else _csv_frames)(path, wanted, rows)
    seen = 0
    while True:
        try:
            frame = next(frames, None)
        except (pa.ArrowException, pd.errors.ParserError, ValueError, EOFError, zlib.error, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise LifecycleError(f"{path} cannot be read as {path.suffix[1:] or 'CSV'} ({reason}).") from None
        if frame is None:
            break
        place = f"{path}, rows {seen + 1:,} to {seen + len(frame):,}" if seen else path
        seen += len(frame)
        checked = _check(frame, record_format, place)
        if len(checked):
            yield checked
    if not seen:
        contracts.check(pd.DataFrame(columns=list(CONTRACT)), contracts.TRANSACTIONS, path)


def _parquet_frames(path: Path, wanted: list[str], rows: int) -> Iterator[pd.DataFrame]:
    with files.open_parquet(path) as file:
        kept = [name for name in file.schema_arrow.names if name in wanted]
        yield file.schema_arrow.empty_table().select(kept).to_pandas(ignore_metadata=True)
        for batch in file.iter_batches(rows, columns=kept):
            yield pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)


def _csv_frames(path: Path, wanted: list[str], rows: int) -> Iterator[pd.DataFrame]:
    with pd.read_csv(
        path, dtype=dict.fromkeys(wanted, str), keep_default_na=False, na_values={name: [""] for name in wanted},
        usecols=lambda name: name in wanted, chunksize=rows,
    ) as reader:  # fmt: skip
        yield from reader


def _check(frame: pd.DataFrame, record_format: RecordFormat, place: Path | str) -> pd.DataFrame:
    """Return rows of a file with the types of the contract, or say what is wrong with them."""
    for name in IDS:
        if record_format.ids[name] == "absent":
            frame[name] = contracts.NO_ID
    missing = [name for name in CONTRACT if name not in frame.columns]
    if missing:
        raise ContractError(f"{place}: column '{missing[0]}' is missing; the payments need {', '.join(CONTRACT)}.")
    if frame.empty:
        return frame
    frame["event_time"] = _times(frame["event_time"], place)
    frame["amount"] = _amounts(frame["amount"], place)
    for name, kind in record_format.attributes.items():
        if kind == "number" and name in frame:
            frame[name] = _attribute_numbers(frame[name], place)
    for name in IDS:
        frame[name] = _ids(frame[name], record_format.ids[name], place)
    return contracts.check(frame, contracts.TRANSACTIONS, place)


def read_own(
    path: Path, package: Package, mapping: Mapping[str, Any], rows: int, spill: Path, memory: int
) -> Iterator[pd.DataFrame]:
    """Read payments of a file of one's own, in the shape that the model was trained on; see `collection.load_new`.

    Parameters
    ----------
    path, package, mapping
        The file, the model, and what the file calls things.
    rows
        How many rows are handed on at a time.
    spill, memory
        The folder for what does not fit into so many megabytes.

    Raises
    ------
    LifecycleError
        If the model was not trained on such a file, or the file breaks the contract.
    """
    if not (package.folder / OWN_FILE).exists():
        raise LifecycleError(
            f"The model in {package.folder} was not trained on a file of one's own, so a mapping says nothing to it; "
            "leave out --map and give the columns of the contract."
        )
    kinds = package.record_format.ids
    absent = [name for name, kind in kinds.items() if kind == "absent"]
    with database(spill, f"{memory}MB") as db:
        load_new(db, path, mapping, absent, files.read_json(package.folder / OWN_FILE)["columns"])
        for batch in db.sql("SELECT * FROM transactions").to_arrow_reader(rows):
            frame = batch.to_pandas().assign(**dict.fromkeys(absent, contracts.NO_ID))
            frame["event_time"] = frame["event_time"].astype(contracts.UTC)
            for name in IDS:
                frame[name] = _ids(frame[name], kinds[name], path)
            yield contracts.check(frame, contracts.TRANSACTIONS, path)


def write_payments(
    frames: Iterable[pd.DataFrame], record_format: RecordFormat, target: Path, where: Path | str, memory: int
) -> None:
    """Write checked payments as one Parquet file in the order of time: `ROW`, the contract, the model's attributes.

    Parameters
    ----------
    frames
        The payments, in the order of the rows. An attribute that they lack is missing in every row.
    record_format
        Says the types of ids and attributes.
    target
        The file to write; payments of one instant are in the order of their ids.
    where
        What the payments are called in an error.
    memory
        Megabytes that the sort and the search for repeated ids may hold; the rest is spilled beside the file.

    Raises
    ------
    ContractError
        If a transaction id is repeated.
    """
    schema, row, last, in_order = _schema(record_format), 0, None, True
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for frame in frames:
            columns = {ROW: pd.RangeIndex(row, row + len(frame)).to_numpy()}
            for name in schema.names[1:]:
                is_text = schema.field(name).type == pa.string()
                values = frame[name] if name in frame else pd.Series(None, index=frame.index, dtype=object)
                columns[name] = (values.astype("string") if is_text else values).array
            typed = pd.DataFrame(columns)
            writer.write_table(pa.Table.from_pandas(typed, schema, preserve_index=False), row_group_size=ROW_GROUP)
            keys = pd.MultiIndex.from_frame(pd.concat([last, typed[list(ORDER)]]))
            row, last, in_order = (
                row + len(frame),
                typed[list(ORDER)].tail(1),
                in_order and keys.is_monotonic_increasing,
            )
    with database(target.parent, f"{memory}MB") as db:
        _refuse_repeated(db, target, where)
        if not in_order:
            _sort(db, target)


def _sort(db: duckdb.DuckDBPyConnection, payments: Path) -> None:
    """Put a file of payments in the order of time; what does not fit into memory is sorted on the disk."""
    by_time = payments.with_name(f"{payments.name}.by-time")
    db.execute(
        f"COPY (FROM read_parquet({quoted(payments)}) ORDER BY {', '.join(ORDER)}) TO {quoted(by_time)} "
        f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
    )
    os.replace(by_time, payments)


def _schema(record_format: RecordFormat) -> pa.Schema:
    kinds = {name: pa.int64() if kind == "integer" else pa.string() for name, kind in record_format.ids.items()}
    kinds |= {"event_time": pa.timestamp("us", "UTC"), "amount": pa.float64()}
    attributes = record_format.attributes.items()
    further = [(name, pa.float64() if kind == "number" else pa.string()) for name, kind in attributes]
    return pa.schema([(ROW, pa.int64()), *((name, kinds[name]) for name in CONTRACT), *further])


def _refuse_repeated(db: duckdb.DuckDBPyConnection, payments: Path, where: Path | str) -> None:
    """Raise a ContractError if a transaction id occurs twice in the whole file."""
    db.execute(
        f"CREATE TABLE repeated AS SELECT transaction_id, count(*) AS n, min({ROW}) AS first "
        f"FROM read_parquet({quoted(payments)}) GROUP BY 1 HAVING n > 1"
    )
    ((rows,),) = db.sql("SELECT coalesce(sum(n), 0) FROM repeated").fetchall()
    if rows:
        first = db.sql("SELECT transaction_id FROM repeated ORDER BY first LIMIT 3").fetchall()
        values = ", ".join(repr(str(value)) for (value,) in first)
        raise ContractError(
            f"{where}: column 'transaction_id' is repeated in {int(rows):,} rows (first values: {values}); "
            "correct or remove these rows."
        )


def _refuse(values: pd.Series, bad: pd.Series, place: Path | str, problem: str) -> None:
    if bad.any():
        first = ", ".join(repr(value) for value in values[bad].astype(str).unique()[:3])
        count = f"{int(bad.sum()):,} rows"
        raise ContractError(f"{place}: column '{values.name}' {problem} in {count} (first values: {first}).")


def _times(values: pd.Series, place: Path | str) -> pd.Series:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        _refuse(values, values.isna(), place, "is missing")
        return values.astype(contracts.UTC)
    if pd.api.types.is_datetime64_dtype(values.dtype):
        raise ContractError(f"{place}: column 'event_time' has no time zone; write the times with one, such as UTC.")
    text = values.astype("string").str.strip()
    _refuse(values, text.isna(), place, "is missing")
    times = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
    _refuse(values, times.isna(), place, "is not an ISO-8601 time")
    _refuse(values, ~text.str.contains(_ZONE), place, "has no time zone")
    return times.astype(contracts.UTC)


def _amounts(values: pd.Series, place: Path | str) -> pd.Series:
    amounts = pd.to_numeric(values, errors="coerce").astype("float64")
    _refuse(values, amounts.isna(), place, "is not a number")
    return amounts


def _attribute_numbers(values: pd.Series, place: Path | str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    _refuse(values, numbers.isna() & values.notna(), place, "is not a number, as in training,")
    return numbers


def _ids(values: pd.Series, kind: str, place: Path | str) -> pd.Series:
    _refuse(values, values.isna(), place, "is missing")
    if kind in ("text", "absent"):
        return values.astype(str)
    if pd.api.types.is_integer_dtype(values.dtype):
        return values.astype("int64")
    text = values.astype(str)
    _refuse(values, ~text.str.fullmatch(r"-?[0-9]{1,18}"), place, "is not an integer, as this model's ids are,")
    return text.astype("int64")
