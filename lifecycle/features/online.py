"""The online path: features of payments as they arrive, equal to what `assemble` finds afterwards."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError
from lifecycle.features import text
from lifecycle.features.recent import Recent
from lifecycle.features.request import positions, request_features, request_values
from lifecycle.features.schema import VIEWS, attribute_columns, feature_names, load_schema
from lifecycle.features.windows import DAY, RECENT, SECOND, UNITS, to_micros

if TYPE_CHECKING:
    from feast import FeatureStore

BATCH = 5_000
"""Entities a read of the online store asks for at most; SQLite takes 32,766 parameters in a statement."""

FEW = 16
"""Up to so many payments are computed one by one: arrays of a few numbers cost more than the numbers."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FeastRows:
    """The daily rows of an online store that Feast reads, such as SQLite or Redis."""

    def __init__(self, store: FeatureStore) -> None:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        self.folder = store.config.repo_path
        self._store = store
        self._views = {view: store.get_feature_view(view) for view in VIEWS}
        self._entity, self._value = EntityKey, Value

    def read(self, view: str, key: str, ids: list[Any], fields: Sequence[str]) -> list[tuple[float, ...]]:
        """Return a row for each id: its fields as float64, all NaN where the store has none.

        This is the call that `get_online_features` makes too; the objects it puts around the answer take most of its
        time, and would be taken apart again here.
        """
        rows: list[tuple[float, ...]] = []
        nothing = (np.nan,) * len(fields)
        for start in range(0, len(ids), BATCH):
            asked = [self._key(key, entity) for entity in ids[start : start + BATCH]]
            found = self._store.provider.online_read(self._store.config, self._views[view], asked, list(fields))
            rows += [nothing if row is None else tuple([_number(row.get(name)) for name in fields]) for _, row in found]
        return rows

    def _key(self, name: str, entity: Any) -> Any:
        value = self._value(string_val=entity) if isinstance(entity, str) else self._value(int64_val=entity)
        return self._entity(join_keys=[name], entity_values=[value])


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
    kind = None if value is None else value.WhichOneof("val")
    return np.nan if kind is None else float(getattr(value, kind))


class Prepared(NamedTuple):
    """Payments with all of their features but the recent activity.

    Parameters
    ----------
    keys
        Customer, terminal, microseconds and ten-thousandths of each payment.
    values
        Of many payments a dictionary of arrays, of few a list with a dictionary of numbers for each.
    """

    keys: list[tuple[Any, Any, int, int]]
    values: dict[str, Any] | list[dict[str, Any]]

    def take(self, places: Sequence[int]) -> Prepared:
        """Return some of the payments, by their places."""
        keys = [self.keys[place] for place in places]
        if isinstance(self.values, list):
            return Prepared(keys, [self.values[place] for place in places])
        some = np.array(places, dtype="int64")
        return Prepared(keys, {name: column[some] for name, column in self.values.items()})


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

    memory: type[Recent] = Recent

    def __init__(self, store: Path | str | FeatureStore | Snapshots, schema: Mapping[str, Any] | None = None) -> None:
        from lifecycle.features.store import open_store, read_places

        if isinstance(store, str | Path):
            store = open_store(store, on_demand=False)
        self.rows = store if isinstance(store, Snapshots) else FeastRows(store)
        self.schema = load_schema(self.rows.folder) if schema is None else schema
        self.names = feature_names(self.schema)
        self._in_order = operator.itemgetter(*self.names)
        self.recent = self.memory(read_places(self.rows.folder))
        self._codes = {name: positions(words) for name, words in self.schema["categories"].items()}
        self._texts = text.prepare(self.schema["texts"])
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
        prepared = self.prepare(records)
        return self.finish(prepared, [self.recent.observe_one(*key) for key in prepared.keys])

    def prepare(self, records: Sequence[Mapping[str, Any]] | pd.DataFrame) -> Prepared:
        """Compute all features of some payments that do not depend on other payments of these minutes.

        This is the slow part (daily rows, texts), and nothing is remembered; `finish` is given the rest.
        """
        columns = self._columns(records)
        micros = columns["event_micros"]
        days = [moment // DAY for moment in micros]
        rows = {view: self._rows(view, columns[key], days) for view, (key, _) in VIEWS.items()}
        make = self._by_payment if len(micros) <= FEW else self._by_column
        units = [round(amount * UNITS) for amount in columns["amount"]]
        keys = zip(columns["customer_id"], columns["terminal_id"], micros, units, strict=True)
        return Prepared(list(keys), make(columns, rows))

    def finish(self, prepared: Prepared, observed: Sequence[tuple[float, ...]]) -> np.ndarray:
        """Return the features of prepared payments, given the recent activity of each; see `transform`."""
        matrix = np.empty((len(prepared.keys), len(self.names)), dtype="float32")
        if isinstance(prepared.values, list):
            for row, (values, seen) in enumerate(zip(prepared.values, observed, strict=True)):
                matrix[row] = self._in_order(values | dict(zip(RECENT, seen, strict=True)))
            return matrix
        recent = np.array(observed, dtype="float64").reshape(-1, len(RECENT)).T
        columns = prepared.values | dict(zip(RECENT, recent, strict=True))
        for position, name in enumerate(self.names):
            matrix[:, position] = columns[name]
        return matrix

    def _by_payment(self, columns: dict[str, Any], rows: dict[str, list[tuple[float, ...]]]) -> list[dict[str, Any]]:
        """Return the features of each payment as numbers by name."""
        made = []
        views = [(f"{prefix}_snapshot", self.schema["fields"][view], rows[view]) for view, (_, prefix) in VIEWS.items()]
        for place, payment in enumerate(zip(*columns.values(), strict=True)):
            values = dict(zip(columns, payment, strict=True))
            for taken, fields, daily in views:
                values.update(zip(fields, daily[place], strict=True))
                if not values["event_micros"] <= values[taken] * DAY + self._ttl:
                    values.update(dict.fromkeys(fields, math.nan))
            values.update(request_values(values, self._codes, self._texts, self._numbers))
            made.append(values)
        return made

    def _by_column(self, columns: dict[str, Any], rows: dict[str, list[tuple[float, ...]]]) -> dict[str, np.ndarray]:
        """Return the features of all payments as arrays by name."""
        micros = np.array(columns["event_micros"], dtype="int64")
        values: dict[str, Any] = {**columns, "event_micros": micros}
        for view, (_, prefix) in VIEWS.items():
            fields = self.schema["fields"][view]
            daily = dict(zip(fields, np.array(rows[view], dtype="float64").reshape(-1, len(fields)).T, strict=True))
            stale = ~(micros <= daily.pop(f"{prefix}_snapshot") * DAY + self._ttl)
            values |= {name: np.where(stale, np.nan, column) for name, column in daily.items()}
        features = values | request_features(values, self.schema["categories"], self._texts, self._numbers)
        return {name: features[name] for name in self.names if name not in RECENT}

    def _columns(self, records: Sequence[Mapping[str, Any]] | pd.DataFrame) -> dict[str, Any]:
        """Turn records into columns of plain values, checking each field."""
        texts = attribute_columns(self.schema)
        if isinstance(records, pd.DataFrame):
            absent = [name for name in ("customer_id", "terminal_id", "amount", "event_time") if name not in records]
            if absent:
                raise LifecycleError(f"The payments lack the field {absent[0]!r}; add it.")
            columns: dict[str, Any] = {
                name: records[name].tolist() for name in ("customer_id", "terminal_id", "amount")
            }
            columns["event_micros"] = to_micros(records["event_time"]).tolist()
            columns |= {name: records[name].tolist() if name in records else [None] * len(records) for name in texts}
        else:
            try:
                columns = {name: [r[name] for r in records] for name in ("customer_id", "terminal_id", "amount")}
                columns["event_micros"] = [_parse_time(record["event_time"]) for record in records]
            except KeyError as error:
                raise LifecycleError(f"A payment lacks the field {error.args[0]!r}; add it.") from None
            columns |= {name: [record.get(name) for record in records] for name in texts}
        columns["amount"] = _check_amounts(columns["amount"])
        for key, kind in self.schema["entities"].items():
            _check_ids(key, columns[key], int if kind == "int64" else str)
        return columns

    def _rows(self, view: str, ids: list[Any], days: list[int]) -> list[tuple[float, ...]]:
        """Return the newest row of a daily view for some entities, with the day it was made on.

        A snapshot of today's midnight is the newest there can be before the next midnight: it is read once.
        """
        (key, prefix), fields, today = VIEWS[view], self.schema["fields"][view], self._todays[view]
        taken = fields.index(f"{prefix}_snapshot")
        needed = [i for i, day in zip(ids, days, strict=True) if i not in today or today[i][taken] != day]
        if not needed:
            return [today[entity] for entity in ids]
        read: dict[Any, tuple[float, ...]] = dict.fromkeys(needed)
        read.update(zip(read, self.rows.read(view, key, list(read), fields), strict=True))
        newest = max(days)
        today.update((entity, row) for entity, row in read.items() if row[taken] == newest)
        return [read[entity] if entity in read else today[entity] for entity in ids]


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


def _check_amounts(values: list[Any]) -> list[float]:
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise LifecycleError(f"Field 'amount' has the value {value!r}; amounts must be finite numbers above 0.")
    return [float(value) for value in values]


def _check_ids(key: str, values: list[Any], kind: type) -> None:
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise LifecycleError(f"Field {key!r} has the value {value!r}; the model knows ids of type {kind.__name__}.")
