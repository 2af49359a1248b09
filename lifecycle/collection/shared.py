"""What landing, settling and one's own file have in common: a database that spills, and names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from lifecycle import files
from lifecycle.errors import LifecycleError

ATTRIBUTES = ("channel", "merchant_category", "merchant_text")
"""The optional attributes of a payment that later stages know how to use."""

ZONE = r"(Z|[+-]\d{2}(:?\d{2})?)$"
"""What a timestamp must end with to name one instant: Z, or an offset such as +02:00."""


@contextmanager
def database(spill: Path, memory: str = "2GB", threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB in memory that counts time in UTC and spills into the folder `spill`, on the disk of the result."""
    with tempfile.TemporaryDirectory(prefix=".spill-", dir=spill) as folder, closing(duckdb.connect()) as db:
        db.execute(f"SET TimeZone = 'UTC'; SET memory_limit = '{memory}'")
        with suppress(duckdb.InvalidInputException):  # a Jupyter kernel without ipywidgets has no bar to switch off
            db.execute("SET enable_progress_bar = false")
        db.execute(f"SET temp_directory = {quoted(folder)}")
        if threads is not None:
            db.execute(f"SET threads = {threads}")
        try:
            yield db
        except duckdb.Error as error:
            if files.is_full(error):
                raise files.full_disk(spill) from error
            raise


def quoted(text: object) -> str:
    """Return a text as an SQL literal.

    Examples
    --------
    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + str(text).replace("'", "''") + "'"


def quoted_list(items: list[Path]) -> str:
    """Return paths as a list of SQL literals."""
    return "[" + ", ".join(map(quoted, items)) + "]"


def delivered(sources: Path, folder: str, suffix: str) -> list[Path]:
    """Return the files that a source has delivered, in order of their days.

    Raises
    ------
    LifecycleError
        If there are none.
    """
    found = sorted((sources / folder).glob(f"*{suffix}"))
    if not found:
        raise LifecycleError(f"{sources / folder} has no files *{suffix}; build the world again or check the path.")
    return found


def with_dictionaries(table: pa.Table, names: Sequence[str] = ATTRIBUTES) -> pa.Table:
    """Encode the text attributes as dictionaries, which pandas reads as categories."""
    for name in names:
        if name in table.column_names:
            column = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def create_quarantine(db: duckdb.DuckDBPyConnection) -> None:
    """Create the empty table of the records that nobody may use, each with its place and the reason."""
    db.execute("CREATE TABLE quarantine (source VARCHAR, file VARCHAR, line BIGINT, reason VARCHAR, record VARCHAR)")
