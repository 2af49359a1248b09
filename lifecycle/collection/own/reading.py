"""One file of the user's, read as text and converted column by column, so that errors name values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from lifecycle import files
from lifecycle.collection.own.mapping import UNIX, FileMap
from lifecycle.collection.own.opening import explain, open_with
from lifecycle.collection.shared import ZONE, quoted
from lifecycle.errors import ContractError, LifecycleError

MOST_NAMES = 30
"""So many columns of a file are listed in an error."""


class OwnFile:
    """One file of the user's, read as text and converted column by column, so that errors name values."""

    def __init__(self, db: duckdb.DuckDBPyConnection, path: Path, table: str, words: FileMap) -> None:
        self.db, self.path, self.table, self.words = db, path, table, words
        self.columns: list[str] = []
        self.types: dict[str, str] = {}
        self.rows = 0
        self.blurred = {"skipped": 0, "twice": 0}
        """Local times that the zone's clocks skip, and that they show twice."""

    def load(
        self, required: tuple[str, ...], optional: tuple[str, ...], attributes: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Create the table with all required columns, those optional ones that the file has, and the attributes."""
        wanted = [*required, *(name for name in optional if name in self.words.columns)]
        missing = [self.theirs(name) for name in wanted if self.theirs(name) not in self.types]
        if missing:
            names = ", ".join(f"'{name}'" for name in missing)
            raise ContractError(
                f"{self.path}: {'column' if len(missing) == 1 else 'columns'} {names} "
                f"{'is' if len(missing) == 1 else 'are'} missing; the file has {self.names()}: "
                "rename them, or say in a mapping which column is which."
            )
        if not self.rows:
            raise ContractError(f"{self.path}: there are no rows; the {self.table} need at least one.")
        self.columns = [*required, *(name for name in optional if self.theirs(name) in self.types)]
        parts = [f"{self._convert(name, self.types[self.theirs(name)])} AS {name}" for name in self.columns]
        parts += [f'{self._attribute(one)} AS "{one["ours"]}"' for one in attributes if one["ours"]]
        self.db.execute(f"CREATE TABLE {self.table} AS SELECT {', '.join(parts)} FROM own_{self.table}")
        self.db.execute(f"DROP TABLE own_{self.table}")
        self.columns += [one["ours"] for one in attributes if one["ours"]]

    def theirs(self, name: str) -> str:
        """Return what this file calls one of our columns."""
        return self.words.theirs(name, self.table)

    def names(self) -> str:
        """Return the columns of the file as text; of very many, the first."""
        names = [name if len(name) <= 40 else f"{name[:40]}..." for name in self.types]
        return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" * (len(names) > MOST_NAMES))

    def ask(self, query: str) -> tuple[Any, ...]:
        """Return the one row that a query over the file's columns gives."""
        return self.db.sql(f"{query} FROM own_{self.table}").fetchall()[0]

    def number(self, text: str, stored: str) -> str:
        """Return the SQL that reads a column of some stored type as a number, NULL where there is none."""
        if self.words.decimal == "," and stored == "VARCHAR":
            text = f"replace(replace({text}, '.', ''), ',', '.')"
        return f"try_cast({text} AS DOUBLE)"

    def share_later(self, column: str) -> float:
        """Return the share of rows in which an instant of a column lies more than a day after the payment."""
        ours = '"' + self.theirs("event_time").replace('"', '""') + '"'
        if self.theirs("event_time") not in self.types:
            return 0.0
        moments = [f"try_cast(left({name}::VARCHAR, 19) AS TIMESTAMP)" for name in (column, ours)]
        return float(
            self.ask(f"SELECT avg(coalesce({moments[0]} > {moments[1]} + INTERVAL 1 DAY, false)::INT)")[0] or 0
        )

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Raise a LifecycleError if the mapping drops columns that the file does not have."""
        if names:
            raise LifecycleError(
                f"{self.path}: the mapping drops the column {names[0]!r}, which the file does not have; "
                f"it has {self.names()}."
            )

    def open(self) -> None:
        """Read the file into the table `own_<table>`; DuckDB spills what does not fit."""
        reader = open_with(self.path, self.words.encoding)
        try:
            self.db.execute(f"CREATE TABLE own_{self.table} AS SELECT * FROM {reader}")
            self.rows = self.db.sql(f"SELECT count(*) FROM own_{self.table}").fetchall()[0][0]
        except duckdb.Error as error:
            if files.is_full(error):
                raise
            raise LifecycleError(explain(error, self.path, reader.startswith("read_parquet"))) from error
        described = self.db.sql(f"DESCRIBE own_{self.table}").fetchall()
        self.types = {row[0]: row[1] for row in described}

    def _attribute(self, one: dict[str, Any]) -> str:
        """Return the SQL that converts an attribute: a finite number, or a word; otherwise missing."""
        text = 'nullif(trim("' + one["file"].replace('"', '""') + "\"::VARCHAR), '')"
        if one["kind"] == "category":
            return text
        number = (
            f"coalesce({self.number(text, self.types[one['file']])}, try_cast(try_cast({text} AS BOOLEAN) AS DOUBLE))"
        )
        return f"CASE WHEN isfinite({number}) THEN {number} END"

    def _convert(self, name: str, found: str) -> str:
        """Return the SQL that converts a column to its contract type, after checking that it can."""
        column = '"' + self.theirs(name).replace('"', '""') + '"'
        if name.endswith("_id"):
            return self._convert_id(name, column, found)
        if name in ("event_time", "known_at"):
            return self._convert_time(name, column, found)
        if name == "amount":
            self._refuse(
                name,
                column,
                f"{self.number(column, found)} IS NULL",
                "is missing or not a number",
                'write numbers like 1234.50 (with decimal = "," in the mapping, 1.234,50), or remove these rows',
            )
            return f"{self.number(column, found)} / {self.words.divisor}"
        if name == "is_fraud":
            number = f"coalesce(try_cast({column} AS DOUBLE), try_cast(try_cast({column} AS BOOLEAN) AS DOUBLE))"
            text = f"coalesce(trim({column}::VARCHAR), '')"
            remedy = "write 1 for fraud, 0 for honest, nothing for unknown, or name your words in the mapping"
            unknown = ", ".join(map(quoted, ("", *self.words.unknown)))
            if self.words.fraud:
                fraud, honest = (", ".join(map(quoted, words)) for words in (self.words.fraud, self.words.honest))
                number = f"CASE WHEN {text} IN ({fraud}) THEN 1.0 WHEN {text} IN ({honest}) THEN 0.0 END"
                remedy = "name all words in the mapping: fraud = [...], honest = [...], unknown = [...]"
            self._refuse(
                name,
                column,
                f"{number} IS NULL AND {text} NOT IN ({unknown})",
                "is neither fraud nor honest by the mapping" if self.words.fraud else "is neither 0 nor 1",
                remedy,
            )
            return number
        return f"nullif({column}::VARCHAR, '')"

    def _convert_id(self, name: str, column: str, found: str) -> str:
        self._refuse(name, column, f"coalesce({column}::VARCHAR, '') = ''", "is missing", "every row needs one")
        if found.endswith("INT") or found in ("INTEGER", "BIGINT"):
            return f"{column}::BIGINT"
        if found in ("DOUBLE", "FLOAT") and self.ask(f"SELECT bool_and({column} % 1 = 0 AND abs({column}) < 1e15)")[0]:
            return f"{column}::BIGINT"
        if found != "VARCHAR":
            raise ContractError(
                f"{self.path}: column '{self.theirs(name)}' has type {found}; save ids as integers or text."
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
        if self.words.time_format is not None and found not in ("TIMESTAMP", "TIMESTAMP_NS", "DATE"):
            return self._convert_written(name, column, present)
        if found not in ("VARCHAR", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_S", "TIMESTAMP_MS", "DATE"):
            raise ContractError(
                f"{self.path}: column '{self.theirs(name)}' has type {found}, expected timestamps; "
                "write them as 2025-08-01T12:30:00+00:00."
            )
        text = f"{column}::VARCHAR"
        unreadable = f"coalesce(try_cast({text} AS TIMESTAMP), try_cast({text} AS TIMESTAMPTZ)) IS NULL"
        remedy = "write them as 2025-08-01T12:30:00+00:00"
        other = remedy + ', or say in the mapping how they are written, such as time_format = "%d.%m.%Y %H:%M"'
        self._refuse(name, column, f"{present} AND {unreadable}", "is not a timestamp", other)
        # A date alone ends in something like "-01" too, so an offset counts only after a time of day.
        zoned = f"regexp_matches({text}, ':.*{ZONE}')"
        if self.words.time_zone is None:
            remedy += ', or name the zone in the mapping: time_zone = "UTC"'
            self._refuse(name, column, f"{present} AND NOT {zoned}", "has no time zone", remedy)
            return f"try_cast({text} AS TIMESTAMPTZ)"
        moment = f"try_cast({text} AS TIMESTAMP)"
        local = self._localize(moment, f"{present} AND NOT {zoned}")
        return f"CASE WHEN {zoned} THEN try_cast({text} AS TIMESTAMPTZ) ELSE {local} END"

    def _convert_written(self, name: str, column: str, present: str) -> str:
        """Return the SQL that converts times that are written as the mapping says."""
        form = str(self.words.time_format)
        if form in UNIX:
            number = f"try_cast({column}::VARCHAR AS DOUBLE)"
            bad = f"coalesce(NOT isfinite({number}) OR abs({number}) / {UNIX[form]} > 1e11, true)"
            self._refuse(name, column, f"{present} AND {bad}", f"is not a time in {form}", "check time_format")
            return f"to_timestamp({number} / {UNIX[form]})"
        moment = f"try_strptime(trim({column}::VARCHAR), {quoted(form)})"
        try:
            self._refuse(
                name, column, f"{present} AND {moment} IS NULL", f"is not written as {form}", "check time_format"
            )
        except duckdb.Error:
            raise LifecycleError(
                f'The time_format {form!r} of the mapping is not understood; use codes such as "%d.%m.%Y %H:%M".'
            ) from None
        if self.words.time_zone is None:
            raise LifecycleError(
                f"{self.path}: the times in '{self.theirs(name)}' are read as {form} and have no zone; "
                'name it in the mapping: time_zone = "UTC".'
            )
        return self._localize(moment, present)

    def _localize(self, moment: str, which: str) -> str:
        """Return the SQL that reads local times in the mapping's zone, and count those that its clock changes blur."""
        zone = quoted(self.words.time_zone)
        try:
            local = f"timezone({zone}, {moment})"
            skipped, twice = (
                f"count(*) FILTER (WHERE {which} AND timezone({zone}, {instant}) IS {sign} DISTINCT FROM {moment})"
                for instant, sign in ((local, ""), (f"{local} - INTERVAL 1 HOUR", "NOT"))
            )
            found = self.ask(f"SELECT {skipped}, {twice}")
        except duckdb.Error:
            raise LifecycleError(
                f"Unknown time zone {self.words.time_zone!r} in the mapping; use a name such as Europe/Berlin."
            ) from None
        self.blurred = {key: self.blurred[key] + int(n) for key, n in zip(self.blurred, found, strict=True)}
        return local

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
            f"{self.path}: column '{self.theirs(name)}' {problem} in {rows:,} row{'s' * (rows > 1)} "
            f"(first values: {first}); {remedy}."
        )

    def check(self, name: str, good: str, problem: str, remedy: str) -> None:
        """Raise a ContractError unless every row of the converted table is `good` or missing."""
        self._refuse(name, name, f"NOT coalesce({good}, true)", problem, remedy, self.table)

    def check_unique(self, name: str) -> None:
        """Raise a ContractError if a value occurs twice."""
        repeated = f"{name} IN (SELECT {name} FROM {self.table} GROUP BY {name} HAVING count(*) > 1)"
        self._refuse(name, name, repeated, "is repeated", "keep one row a payment", self.table)
