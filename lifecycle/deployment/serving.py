"""The features as the service needs them: in two steps, and with a memory that can take back its last ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lifecycle.features import OnlineFeatures, Recent, request_features
from lifecycle.features.schema import VIEWS
from lifecycle.features.windows import RECENT, to_units


class Prepared(NamedTuple):
    """Payments with all of their features but the recent activity.

    `values` are columns by name; `keys` has customer, terminal, microseconds and ten-thousandths of each payment.
    """

    values: dict[str, Any]
    keys: list[tuple[Any, Any, int, int]]


class Remembered(Recent):
    """Recent activity that can be put back to what it was before a request, if that request is not recorded."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._before: dict[tuple[bool, Any], Any] | None = None

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Forget what was observed inside the block if it fails."""
        self._before = {}
        try:
            yield
        except BaseException:
            for (is_customer, key), value in self._before.items():
                table: dict[Any, Any] = self._customers if is_customer else self._terminals
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
            raise
        finally:
            self._before = None

    def differs(self, other: Remembered) -> int:
        """Return how many customers and terminals another memory remembers otherwise."""
        pairs = ((self._customers, other._customers), (self._terminals, other._terminals))
        return sum(mine.get(key) != its.get(key) for mine, its in pairs for key in mine.keys() | its.keys())

    def observe_one(self, customer: Any, terminal: Any, now: int, units: int) -> tuple[float, ...]:
        """Return the recent activity before one payment, and remember the payment."""
        if self._before is not None:
            if (True, customer) not in self._before:
                past = self._customers.get(customer)
                self._before[True, customer] = past and tuple(list(column) for column in past)
            if (False, terminal) not in self._before:
                here = self._terminals.get(terminal)
                self._before[False, terminal] = None if here is None else list(here)
        return super().observe_one(customer, terminal, now, units)


class ServedFeatures(OnlineFeatures):
    """Online features whose slow part (daily rows, texts) can be computed before the memory is locked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.recent: Remembered = Remembered(self.recent._places)

    def prepare(self, records: Sequence[Mapping[str, Any]]) -> Prepared:
        """Compute all features of payments that do not depend on other payments of these minutes."""
        columns = self._columns(records)
        micros = columns["event_micros"]
        values: dict[str, Any] = dict(columns)
        for view, (key, prefix) in VIEWS.items():
            values |= self._daily(view, key, prefix, columns[key], micros)
        values |= request_features(values, self.schema["categories"], self._texts, self._numbers)
        units = to_units(columns["amount"]).tolist()
        keys = zip(columns["customer_id"], columns["terminal_id"], micros.tolist(), units, strict=True)
        return Prepared(values, list(keys))

    def finish(self, prepared: Prepared, observed: Sequence[tuple[float, ...]]) -> np.ndarray:
        """Return the features of prepared payments, given the recent activity of each; see `transform`."""
        recent = np.array(observed, dtype="float64").reshape(-1, len(RECENT)).T
        values = prepared.values | dict(zip(RECENT, recent, strict=True))
        matrix = np.empty((len(prepared.keys), len(self.names)), dtype="float32")
        for position, name in enumerate(self.names):
            matrix[:, position] = values[name]
        return matrix
