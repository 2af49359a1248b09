"""The features as the service needs them: with a memory that can take back its last payments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lifecycle.features import OnlineFeatures, Recent


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
                self._before[True, customer] = past and tuple([column[:] for column in past])
            if (False, terminal) not in self._before:
                here = self._terminals.get(terminal)
                self._before[False, terminal] = None if here is None else here[:]
        return super().observe_one(customer, terminal, now, units)


class ServedFeatures(OnlineFeatures):
    """Online features whose memory can take back a request."""

    memory = Remembered
    recent: Remembered
