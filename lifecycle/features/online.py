"""The online path: features of payments as they arrive, equal to what `assemble` finds afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError
from lifecycle.features.recent import Recent
from lifecycle.features.request import request_features
from lifecycle.features.schema import VIEWS, attribute_columns, feature_names, load_schema
from lifecycle.features.text import prepare
from lifecycle.features.windows import DAY, RECENT, SECOND, to_micros, to_units

if TYPE_CHECKING:
    from feast import FeatureStore

BATCH = 5_000
"""Entities a read of the online store asks for at most; SQLite takes 32,766 parameters in a statement."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FeastRows:
    """The daily rows of an online store that Feast reads, such as SQLite or Redis."""

    def __init__(self, store: FeatureStore) -> None:
        self.folder = store.config.repo_path
        self._store = store

    def read(self, view: str, key: str, ids: list[Any], fields: Sequence[str]) -> list[tuple[float, ...]]:
        """Return a row for each id: its fields as float64, all NaN where the store has none."""
        rows: list[tuple[float, ...]] = []
        for start in range(0, len(ids), BATCH):
            asked = {key: ids[start : start + BATCH]}
            answer = self._store.get_online_features([f"{view}:{name}" for name in fields], asked).proto
            names = list(answer.metadata.feature_names.val)
            columns = [[_number(v) for v in answer.results[names.index(name)].values] for name in fields]
            rows += zip(*columns, strict=True)
        return rows


class Snapshots:
    """The daily rows of a features artifact, a midnight at a time, in the place of an online store.

    Parameters
    ----------
    folder
        A features artifact.
    change
        What to do to each snapshot before it is served, given the view and its rows; for planting mistakes.
    """

    def __init__(self, folder: Path | str, change: Callable[[str, pd.DataFrame], pd.DataFrame] | None = None) -> None:
        self.folder = Path(folder)
        self._change = change
        self._rows: dict[str, tuple[dict[Any, int], list[str], np.ndarray]] = {}

    def load(self, day: object) -> None:
        """Serve the rows as of the midnight that begins `day`, as a nightly job would."""
        from lifecycle.features.store import snapshot

        for view, (key, _) in VIEWS.items():
            rows = snapshot(self.folder, view, day)
            rows = rows if self._change is None else self._change(view, rows)
            fields = [name for name in rows.columns if name not in (key, "event_timestamp")]
            places = {entity: row for row, entity in enumerate(rows[key].tolist())}
            self._rows[view] = places, fields, rows[fields].to_numpy("float64")

    def read(self, view: str, key: str, ids: list[Any], fields: Sequence[str]) -> list[tuple[float, ...]]:
        """Return a row for each id; see `FeastRows.read`."""
        places, known, matrix = self._rows[view]
        wanted = np.array([places.get(entity, -1) for entity in ids], dtype="int64")
        values = matrix[:, [known.index(name) for name in fields]][wanted]
        values[wanted < 0] = np.nan
        return list(map(tuple, values.tolist()))


def _number(value: Any) -> float:
    kind = value.WhichOneof("val")
    return np.nan if kind is None else float(getattr(value, kind))


class OnlineFeatures:
    """Compute the features of payments as they arrive.

    The daily features come from Feast's online store, the recent activity from memory, the rest from the payment.
    Payments are expected in the order of their time; each one is remembered for those that follow.

    Parameters
    ----------
    store
        A folder with an online store (made by `export_online`), an open Feast store, or `Snapshots`.
    schema
        The feature schema; by default the folder's `schema.json`.

    Attributes
    ----------
    rows
        Where the daily rows come from: `FeastRows` or `Snapshots`.
    recent
        The recent activity (`Recent`); ``recent.seed(transactions)`` starts it from history.
    """

    def __init__(self, store: Path | str | FeatureStore | Snapshots, schema: Mapping[str, Any] | None = None) -> None:
        from lifecycle.features.store import open_store, read_places

        if isinstance(store, str | Path):
            store = open_store(store, on_demand=False)
        self.rows = store if isinstance(store, Snapshots) else FeastRows(store)
        self.schema = load_schema(self.rows.folder) if schema is None else schema
        self.names = feature_names(self.schema)
        self.recent = Recent(read_places(self.rows.folder))
        self._texts = prepare(self.schema["texts"])
        self._numbers = self.schema.get("numbers", [])
        self._ttl = self.schema["ttl_days"] * DAY
        self._todays: dict[str, dict[Any, tuple[float, ...]]] = {view: {} for view in VIEWS}

    def transform(self, records: Sequence[Mapping[str, Any]] | pd.DataFrame) -> np.ndarray:
        """Return the features of some payments, and remember the payments.

        Parameters
        ----------
        records
            Dictionaries or a frame with the contract's columns and the text columns of the schema (a text
            that is absent counts as unknown). `event_time` is a time stamp or an ISO-8601 string, with a zone.

        Returns
        -------
        ndarray of float32, shape (payments, features)
            Columns in the order of `names`. What is not known is NaN.

        Raises
        ------
        LifecycleError
            If a field is missing, a time has no zone, or an amount is not a positive number. Nothing is
            remembered then.
        """
        columns = self._columns(records)
        micros = columns["event_micros"]
        values: dict[str, Any] = dict(columns)
        for view, (key, prefix) in VIEWS.items():
            values |= self._daily(view, key, prefix, columns[key], micros)
        values |= request_features(values, self.schema["categories"], self._texts, self._numbers)
        units = to_units(columns["amount"]).tolist()
        observed = self.recent.observe(columns["customer_id"], columns["terminal_id"], micros.tolist(), units)
        values |= dict(zip(RECENT, observed.T, strict=True))
        matrix = np.empty((len(micros), len(self.names)), dtype="float32")
        for position, name in enumerate(self.names):
            matrix[:, position] = values[name]
        return matrix

    def _columns(self, records: Sequence[Mapping[str, Any]] | pd.DataFrame) -> dict[str, Any]:
        """Turn records into columns, checking each field."""
        texts = attribute_columns(self.schema)
        if isinstance(records, pd.DataFrame):
            absent = [name for name in ("customer_id", "terminal_id", "amount", "event_time") if name not in records]
            if absent:
                raise LifecycleError(f"The payments lack the field {absent[0]!r}; add it.")
            columns: dict[str, Any] = {
                name: records[name].tolist() for name in ("customer_id", "terminal_id", "amount")
            }
            columns["event_micros"] = to_micros(records["event_time"])
            columns |= {name: records[name].tolist() if name in records else [None] * len(records) for name in texts}
        else:
            try:
                columns = {name: [r[name] for r in records] for name in ("customer_id", "terminal_id", "amount")}
                micros = [_parse_time(record["event_time"]) for record in records]
            except KeyError as error:
                raise LifecycleError(f"A payment lacks the field {error.args[0]!r}; add it.") from None
            columns["event_micros"] = np.array(micros, dtype="int64")
            columns |= {name: [record.get(name) for record in records] for name in texts}
        columns["amount"] = _check_amounts(columns["amount"])
        for key, kind in self.schema["entities"].items():
            _check_ids(key, columns[key], int if kind == "int64" else str)
        return columns

    def _daily(self, view: str, key: str, prefix: str, ids: list[Any], micros: np.ndarray) -> dict[str, np.ndarray]:
        """Return one daily view for some entities; rows that are missing or too old give NaN.

        A snapshot of today's midnight is the newest there can be before the next midnight: it is read once.
        """
        fields, today = self.schema["fields"][view], self._todays[view]
        taken = fields.index(f"{prefix}_snapshot")
        days = (micros // DAY).tolist()
        needed = [i for i, day in zip(ids, days, strict=True) if i not in today or today[i][taken] != day]
        read: dict[Any, tuple[float, ...]] = dict.fromkeys(needed)
        read.update(zip(read, self.rows.read(view, key, list(read), fields), strict=True))
        newest = max(days, default=0)
        today.update((entity, row) for entity, row in read.items() if row[taken] == newest)
        rows = [read[entity] if entity in read else today[entity] for entity in ids]
        columns = np.array(rows, dtype="float64").reshape(-1, len(fields)).T
        values = dict(zip(fields, columns, strict=True))
        stale = ~(micros <= values.pop(f"{prefix}_snapshot") * DAY + self._ttl)
        return {name: np.where(stale, np.nan, column) for name, column in values.items()}


def _parse_time(value: Any) -> int:
    """Return a time with a zone as microseconds since 1970 UTC, without going through a float."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        since = moment - _EPOCH
        return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds
    except (TypeError, ValueError):
        raise LifecycleError(
            f"Field 'event_time' has the value {value!r}; give an ISO-8601 time with a zone, "
            "such as 2025-11-03T08:15:00Z."
        ) from None


def _check_amounts(values: list[Any]) -> np.ndarray:
    good = all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf for value in values
    )
    if not good:
        bad = next(v for v in values if not isinstance(v, int | float) or isinstance(v, bool) or not 0 < v < np.inf)
        raise LifecycleError(f"Field 'amount' has the value {bad!r}; amounts must be finite numbers above 0.")
    return np.array(values, dtype="float64")


def _check_ids(key: str, values: list[Any], kind: type) -> None:
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise LifecycleError(f"Field {key!r} has the value {value!r}; the model knows ids of type {kind.__name__}.")
