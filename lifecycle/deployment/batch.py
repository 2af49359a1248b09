"""The batch job: score a file of payments with features computed from the package's history and the file itself.

The job computes its features offline, with the expressions and the point-in-time join that made the training
set. The service looks them up online. Both must give the same score for the same payment; a test holds it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lifecycle import contracts, features, files, training
from lifecycle.deployment.artifact import OWN_FILE, Package, open_package
from lifecycle.deployment.messages import CONTRACT, IDS, RecordFormat
from lifecycle.deployment.scorer import APPROVE, REVIEW, load_model
from lifecycle.errors import ContractError, LifecycleError

BEFORE_HISTORY = pd.Timedelta(days=32)
OUTPUT = ("transaction_id", "event_time", "score", "decision")
_ZONE = re.compile(r"(?:Z|[+-]\d{2}(?::?\d{2})?)$")


def score_file(
    model_dir: Path | str,
    transactions: Path | str,
    out: Path | str,
    labels: pd.DataFrame | None = None,
    mapping: Mapping[str, Any] | None = None,
) -> int:
    """Score a CSV or Parquet file into another, and return the number of rows.

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

    Raises
    ------
    LifecycleError
        If the package is refused, a file cannot be read or written, or the payments break the contract.
    """
    out = Path(out)
    if out.suffix not in (".csv", ".parquet"):
        raise LifecycleError(f"{out} has the suffix {out.suffix!r}; name a .csv or a .parquet file to write.")
    package = open_package(model_dir)
    path = Path(transactions)
    if mapping is None and not (package.folder / OWN_FILE).exists():
        payments = read_payments(path, package.record_format)
    else:
        payments = read_own(path, package, mapping or {})
    scores = score_frame(package, payments, labels)
    if out.suffix == ".parquet":
        files.write_parquet(scores, out)
    else:
        with files.replacing(out) as temporary:
            scores.to_csv(temporary, index=False)
    return len(scores)


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
    score = load_model(package).predict(matrix)
    decision = pd.Series(score >= package.threshold).map({True: REVIEW, False: APPROVE})
    return scored.assign(score=score, decision=decision)


def feature_table(package: Package, payments: pd.DataFrame, labels: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the contract columns and the features of payments, computed offline, in the order of `payments`.

    Parameters
    ----------
    package
        Its history comes before the payments; a payment that is in both counts once.
    payments, labels
        As in `score_frame`.
    """
    history = read_tables(package.folder / "online" / "history")
    past, older = history["transactions"], history["older"]
    first_day = contracts.midnight(package.manifest["first_day"])
    if payments["event_time"].min() >= first_day:
        # All that counts of these payments is who was where. Moved to one day that no window reaches, they do
        # not make the history of daily snapshots longer.
        older = older.assign(event_time=first_day - BEFORE_HISTORY).astype({"event_time": contracts.UTC})
    schema = files.read_json(package.folder / "feature_schema.json")
    payments = payments.assign(**{name: None for name in features.attribute_columns(schema) if name not in payments})
    columns = [*CONTRACT, *features.attribute_columns(schema)]
    known = pd.concat([older[list(CONTRACT)], past[list(CONTRACT)]], ignore_index=True)
    known = known[~known["transaction_id"].isin(payments["transaction_id"])]
    everything = pd.concat([known, payments[list(CONTRACT)]], ignore_index=True)
    everything = everything.drop_duplicates("transaction_id", keep="last")
    labels = history["labels"] if labels is None else _union(history["labels"], labels)
    with tempfile.TemporaryDirectory(prefix="batch-") as folder:
        features.write_history(Path(folder), everything, labels, history["customers"], history["terminals"])
        files.write_json(schema, Path(folder) / "schema.json")
        return features.assemble(features.open_store(folder), payments[columns])


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


def read_own(path: Path, package: Package, mapping: Mapping[str, Any]) -> pd.DataFrame:
    """Read payments of a file of one's own, in the shape that the model was trained on; see `collection.read_new`.

    Raises
    ------
    LifecycleError
        If the model was not trained on such a file, or the file breaks the contract.
    """
    from lifecycle import collection  # DuckDB, which a file of the contract's columns does not need

    if not (package.folder / OWN_FILE).exists():
        raise LifecycleError(
            f"The model in {package.folder} was not trained on a file of one's own, so a mapping says nothing to it; "
            "leave out --map and give the columns of the contract."
        )
    own, record_format = files.read_json(package.folder / OWN_FILE), package.record_format
    kinds = record_format.ids
    absent = [name for name, kind in kinds.items() if kind == "absent"]
    frame = collection.read_new(path, mapping, absent, own["columns"])
    for name in IDS:
        frame[name] = _ids(frame[name], kinds[name], path)
    return contracts.check(frame, contracts.TRANSACTIONS, path)


def read_payments(path: Path, record_format: RecordFormat) -> pd.DataFrame:
    """Read a CSV or Parquet file of payments and check it against the contract and the model's ids.

    Raises
    ------
    LifecycleError
        If the file is missing, cannot be read, or breaks the contract; names file, column, count and values.
    """
    if not path.is_file():
        raise LifecycleError(f"File not found: {path}; check the path.")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path, record_format)
    except (pa.ArrowInvalid, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LifecycleError(f"{path} cannot be read as {path.suffix[1:] or 'CSV'} ({reason}).") from None
    for name in IDS:
        if record_format.ids[name] == "absent":
            frame[name] = contracts.NO_ID
    missing = [name for name in CONTRACT if name not in frame.columns]
    if missing:
        raise ContractError(f"{path}: column '{missing[0]}' is missing; the payments need {', '.join(CONTRACT)}.")
    frame["event_time"] = _times(frame["event_time"], path)
    frame["amount"] = _amounts(frame["amount"], path)
    for name, kind in record_format.attributes.items():
        if kind == "number" and name in frame:
            frame[name] = _attribute_numbers(frame[name], path)
    for name in IDS:
        frame[name] = _ids(frame[name], record_format.ids[name], path)
    return contracts.check(frame, contracts.TRANSACTIONS, path)


def _read_csv(path: Path, record_format: RecordFormat) -> pd.DataFrame:
    text = [*IDS, "event_time", "amount", *record_format.attributes]
    return pd.read_csv(
        path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values={name: [""] for name in text}
    )


def _refuse(values: pd.Series, bad: pd.Series, path: Path, problem: str) -> None:
    if bad.any():
        first = ", ".join(repr(value) for value in values[bad].astype(str).unique()[:3])
        count = f"{int(bad.sum()):,} rows"
        raise ContractError(f"{path}: column '{values.name}' {problem} in {count} (first values: {first}).")


def _times(values: pd.Series, path: Path) -> pd.Series:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        _refuse(values, values.isna(), path, "is missing")
        return values.astype(contracts.UTC)
    if pd.api.types.is_datetime64_dtype(values.dtype):
        raise ContractError(f"{path}: column 'event_time' has no time zone; write the times with one, such as UTC.")
    text = values.astype("string").str.strip()
    _refuse(values, text.isna(), path, "is missing")
    times = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
    _refuse(values, times.isna(), path, "is not an ISO-8601 time")
    _refuse(values, ~text.str.contains(_ZONE), path, "has no time zone")
    return times.astype(contracts.UTC)


def _amounts(values: pd.Series, path: Path) -> pd.Series:
    amounts = pd.to_numeric(values, errors="coerce").astype("float64")
    _refuse(values, amounts.isna(), path, "is not a number")
    return amounts


def _attribute_numbers(values: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    _refuse(values, numbers.isna() & values.notna(), path, "is not a number, as in training,")
    return numbers


def _ids(values: pd.Series, kind: str, path: Path) -> pd.Series:
    _refuse(values, values.isna(), path, "is missing")
    if kind in ("text", "absent"):
        return values.astype(str)
    if pd.api.types.is_integer_dtype(values.dtype):
        return values.astype("int64")
    text = values.astype(str)
    _refuse(values, ~text.str.fullmatch(r"-?[0-9]{1,18}"), path, "is not an integer, as this model's ids are,")
    return text.astype("int64")
