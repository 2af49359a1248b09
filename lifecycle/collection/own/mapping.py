"""What one's own files call things: columns, units, the zone of the clock, the words for fraud and honest."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifecycle import contracts
from lifecycle.collection.own.opening import ENCODINGS
from lifecycle.collection.shared import ATTRIBUTES
from lifecycle.errors import LifecycleError

COLUMNS = (*contracts.TRANSACTIONS.columns, *ATTRIBUTES, "is_fraud", "known_at")
OPTIONS = ("time_zone", "time_format", "amount_unit", "decimal", "encoding", "label_delay_days", "drop", "fraud",
           "honest", "unknown", "labels")  # fmt: skip
UNITS = {"major": 1, "cents": 100, "minor": 100, "mills": 1000}
"""How many of a unit make one of the account currency."""
UNIX = {"unix": 1, "unix_ms": 1000}
"""How many of a unit make one second, for times that count from 1970 on."""


@dataclass(frozen=True)
class FileMap:
    """A checked mapping.

    Parameters
    ----------
    columns
        Our column -> the column of the file of transactions.
    labels
        The same for the file of labels, where it differs.
    time_zone
        The zone of times that are written without one, such as ``Europe/Berlin``.
    time_format
        How times are written if not as ISO 8601: the codes of `strptime`, or a key of `UNIX`.
    amount_unit
        A key of `UNITS`.
    decimal
        ``","`` if numbers are written as ``1.234,50``.
    encoding
        One of `ENCODINGS`.
    label_delay_days
        A label without `known_at` becomes known so many days after its payment.
    drop
        Columns of the file that no model may see.
    fraud, honest, unknown
        The words of the label column; without the first two it holds 1 and 0, or true and false. Nothing, and every
        word of `unknown`, is no label.

    Examples
    --------
    >>> words = FileMap.of({"amount": "AMT", "amount_unit": "cents", "drop": ["refund_id"]}, 7)
    >>> words.theirs("amount"), words.divisor, words.theirs("event_time")
    ('AMT', 100, 'event_time')
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    time_zone: str | None = None
    time_format: str | None = None
    amount_unit: str = "major"
    decimal: str = "."
    encoding: str = "utf-8"
    label_delay_days: int = 7
    drop: tuple[str, ...] = ()
    fraud: tuple[str, ...] = ()
    honest: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def divisor(self) -> int:
        """By how much an amount of the file is divided."""
        return UNITS[self.amount_unit]

    def theirs(self, name: str, table: str = "transactions") -> str:
        """Return what a file calls one of our columns."""
        own = self.columns.get(name, name)
        return self.labels.get(name, own) if table == "labels" else own

    @classmethod
    def of(cls, content: Mapping[str, Any], label_delay_days: int) -> FileMap:
        """Check the content of a mapping.

        Raises
        ------
        LifecycleError
            Naming the entry that is not understood.
        """
        options = {name: content[name] for name in OPTIONS if name in content}
        columns = {name: value for name, value in content.items() if name not in OPTIONS}
        labels = options.pop("labels", {})
        if not isinstance(labels, Mapping):
            raise LifecycleError("The mapping entry 'labels' must be a table of columns: [labels] and lines below it.")
        for name, value in [*columns.items(), *labels.items()]:
            if name not in COLUMNS:
                raise LifecycleError(
                    f"The mapping names a column {name!r} that we do not have; map {', '.join(COLUMNS)}, "
                    f"or give one of the options {', '.join(OPTIONS)}."
                )
            _check(name, value, isinstance(value, str), 'text, such as: amount = "price"')
        _check_twice(columns)
        options = {"label_delay_days": label_delay_days, **options}
        _check_options(options)
        lists = {}
        for name in ("drop", "fraud", "honest", "unknown"):
            value = options.pop(name, [])
            good = isinstance(value, list | tuple) and all(isinstance(item, str | int) for item in value)
            _check(name, value, good, f'a list of text, such as: {name} = ["a", "b"]')
            lists[name] = tuple(map(str, value))
        if bool(lists["fraud"]) != bool(lists["honest"]):
            raise LifecycleError(
                "The mapping names words for only one class; give both fraud = [...] and honest = [...]."
            )
        return cls(columns, dict(labels), **options, **lists)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise a LifecycleError if an option that is no list has a value that is not understood."""
    for name, allowed in (("amount_unit", UNITS), ("decimal", (".", ",")), ("encoding", ENCODINGS)):
        value = options.get(name, next(iter(allowed)))
        _check(
            name, value, value in allowed, f"one of {' '.join(allowed) if name == 'decimal' else ', '.join(allowed)}"
        )
    delay = options["label_delay_days"]
    good = isinstance(delay, int) and not isinstance(delay, bool) and 0 <= delay <= 3650
    _check("label_delay_days", delay, good, "a whole number of days from 0 on")
    zone, form = options.get("time_zone", ""), options.get("time_format", "%Y")
    _check("time_zone", zone, isinstance(zone, str), 'text, such as: time_zone = "Europe/Berlin"')
    good = isinstance(form, str) and (form in UNIX or "%" in form) and "%z" not in form.lower()
    _check("time_format", form, good, "codes such as %d.%m.%Y %H:%M (without a zone), unix or unix_ms")


def _check_twice(columns: Mapping[str, str]) -> None:
    """Raise a LifecycleError if one column of the file is to be two of ours."""
    ours: dict[str, str] = {}
    for name, theirs in columns.items():
        if theirs in ours:
            raise LifecycleError(
                f"The mapping takes the column {theirs!r} both for {ours[theirs]!r} and for {name!r}; choose one."
            )
        if theirs in COLUMNS and theirs != name and theirs not in columns:
            raise LifecycleError(
                f"The mapping takes the column {theirs!r} for {name!r}, and the file's {theirs!r} would then be both; "
                f"say what our {theirs!r} is, or rename the column in the file."
            )
        ours[theirs] = name


def _check(name: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise LifecycleError(f"The mapping entry {name!r} is {value!r}; it must be {expected}.")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read and check a TOML file that says what one's own files call things (`FileMap`).

    Raises
    ------
    LifecycleError
        If the file is missing, is no TOML, or an entry is not understood.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        FileMap.of(content, 7)
    except FileNotFoundError:
        raise LifecycleError(f"File not found: {path}; check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LifecycleError(f'{path} is not valid TOML ({error}); write lines like: amount = "price".') from None
    except LifecycleError as error:
        raise LifecycleError(f"{path}: {error}") from None
    return content
