"""How one's own file is opened: what it is by its first bytes, how its header is cut, and why it cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from lifecycle.collection.shared import quoted
from lifecycle.errors import LifecycleError

DELIMITERS = (",", ";", "\t", "|")
ENCODINGS = ("utf-8", "latin-1", "utf-16")

_HEADER = 1 << 20  # bytes; a header is shorter
_SAVE = "save it as CSV with a header, or as Parquet"


def open_with(path: Path, encoding: str) -> str:
    """Return the SQL that reads a CSV file (all columns as text) or a Parquet file; gzip is known by its first bytes.

    Raises
    ------
    LifecycleError
        If the file is missing, empty, or of another kind.
    """
    if path.is_dir():
        raise LifecycleError(f"{path} is a folder; give one CSV or Parquet file.")
    if not path.is_file():
        raise LifecycleError(f"File not found: {path}; check the path.")
    if not path.stat().st_size:
        raise LifecycleError(f"{path} is empty; give a CSV or Parquet file with a header and rows.")
    with open(path, "rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        return f"read_parquet({quoted(path)})"
    if head[:2] == b"PK":
        raise LifecycleError(f"{path} is a zip or Excel file; {_SAVE}.")
    zipped = head[:2] == b"\x1f\x8b"
    delimiter, names = read_header(path, zipped, encoding)
    columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({quoted(path)}, auto_detect = false, header = true, columns = {{{columns}}}, "
        f"delim = {quoted(delimiter)}, quote = '\"', escape = '\"', encoding = {quoted(encoding)}, "
        f"compression = '{'gzip' if zipped else 'none'}')"
    )


def read_header(path: Path, zipped: bool, encoding: str) -> tuple[str, list[str]]:
    """Return the delimiter of a CSV file, which is the one that cuts its first line into most names, and the names."""
    try:
        with gzip.open(path) if zipped else open(path, "rb") as file:
            head = file.read(_HEADER)
    except (EOFError, OSError, zlib.error):
        raise LifecycleError(f"{path} is cut short or damaged (gzip); copy it again.") from None
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and encoding != "utf-16":
        raise LifecycleError(
            f'{path} is not UTF-8 text; save it as UTF-8, or write encoding = "utf-16" in the mapping.'
        )
    line = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, errors="replace").lstrip().split("\n", 1)[0]
    if line.startswith(("{", "[")):
        raise LifecycleError(f"{path} looks like JSON; {_SAVE}.")
    cut = {mark: next(csv.reader(io.StringIO(line), delimiter=mark), [""]) for mark in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda mark: len(cut[mark]))
    return delimiter, distinct([name.strip() for name in cut[delimiter]])


def distinct(names: Sequence[str]) -> list[str]:
    """Return names that are not empty and differ, as DuckDB tells them apart: without regard to case.

    Examples
    --------
    >>> distinct(["", "Amount", "amount"])
    ['column0', 'Amount', 'amount_1']
    """
    made: list[str] = []
    taken: set[str] = set()
    for place, name in enumerate(names):
        own, number = name or f"column{place}", 0
        while own.lower() in taken:
            number += 1
            own = f"{name or f'column{place}'}_{number}"
        taken.add(own.lower())
        made.append(own)
    return made


def explain(error: Exception, path: Path, parquet: bool) -> str:
    """Return in one sentence why DuckDB could not read a file.

    Examples
    --------
    >>> explain(ValueError("CSV Error on Line: 7\\nExpected Number of Columns: 6 Found: 3"), Path("a.csv"), False)
    'a.csv: line 7 has 3 columns where the header has 6; mend or remove this line.'
    """
    text = str(error)
    where = re.search(r"Line: (\d+)", text)
    line = f"line {where[1]}" if where else "a line"
    if "GZIP" in text.upper() and "unexpected end" in text.lower():
        return f"{path} is cut short or damaged (gzip); copy it again."
    if "unicode" in text.lower() or "utf-8" in text.lower() and "not" in text.lower() and not parquet:
        return f'{path}: {line} is not UTF-8 text; save it as UTF-8, or write encoding = "latin-1" in the mapping.'
    counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if counts:
        return f"{path}: {line} has {counts[2]} columns where the header has {counts[1]}; mend or remove this line."
    if parquet:
        return f"{path} cannot be read as Parquet: it is cut short or damaged; copy it again."
    reason = text.splitlines()[1 if where and len(text.splitlines()) > 1 else 0].strip().rstrip(".")
    return f"{path} cannot be read as CSV ({line + ': ' if where else ''}{reason}); save it again with a header."
