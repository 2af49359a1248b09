"""Collect day by day into a folder that lasts: a day may come twice, come late, or be cut off in the middle.

The folder holds what has landed, one file a delivery, and the tables of the last `publish`. There is no other
state: a delivery has landed when its file is there and carries the SHA-256 of the source, so a crash leaves
nothing to repair. It is collected again, and what is there already stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pandas as pd
from filelock import FileLock

from lifecycle import files
from lifecycle.collection import settling
from lifecycle.collection.landing import (
    FEEDS,
    SNAPSHOTS,
    Delivery,
    deliveries,
    land_deliveries,
    land_snapshots,
    landed_stamp,
    stamp,
)
from lifecycle.errors import LifecycleError


def collect_day(sources: Path | str, folder: Path | str, day: date | str) -> pd.DataFrame:
    """Collect what the sources delivered for one day. Collecting a day twice changes nothing.

    Parameters
    ----------
    sources
        The folder in which the bank leaves its files.
    folder
        The folder of the collection; it is made if it does not exist.
    day
        The day of the deliveries, as a date or as in ``2025-07-01``.

    Returns
    -------
    pandas.DataFrame
        One row a source: `source`, `day`, `outcome` (``landed``, ``replaced`` if the source delivered other content
        before, ``unchanged``, ``missing``) and `read`, the number of records.

    Raises
    ------
    LifecycleError
        If `day` is not a date, or a file cannot be read. What has landed before stays.

    Examples
    --------
    >>> collect_day("sources", "collection", "monday")
    Traceback (most recent call last):
    ...
    lifecycle.errors.LifecycleError: 'monday' is not a day; write it as in 2025-07-01.
    """
    wanted = _as_day(day)
    return _collect(Path(sources), Path(folder), lambda found: found == wanted, [wanted])


def collect_until(sources: Path | str, folder: Path | str, day: date | str) -> pd.DataFrame:
    """Collect everything delivered up to and with a day, late files too.

    Parameters, result and errors are those of `collect_day`; no delivery is reported as missing.
    """
    until = _as_day(day)
    return _collect(Path(sources), Path(folder), lambda found: found <= until, [])


def publish(folder: Path | str, label_delay_days: int = 7) -> Path:
    """Return the folder with the tables of all that has been collected; settle them if anything changed.

    The tables are those that `build` makes of the same deliveries, whatever the order in which they came.

    Parameters
    ----------
    folder
        The folder of the collection.
    label_delay_days
        A payment that nobody has disputed after this many days counts as honest.

    Raises
    ------
    LifecycleError
        If a source has delivered nothing yet, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from lifecycle.settings import Settings
    >>> from lifecycle.world import simulate_to
    >>> with tempfile.TemporaryDirectory() as there:
    ...     bank = simulate_to(Settings(customers=50, terminals=60, days=2), f"{there}/bank")
    ...     report = collect_until(bank / "sources", f"{there}/collection", "2025-07-02")
    ...     tables = publish(f"{there}/collection")
    ...     bool(report["read"].sum() > 0), len(list(tables.iterdir()))
    (True, 10)
    """
    folder = Path(folder)
    with _alone(folder):
        tables = folder / f"tables-{_state(folder, label_delay_days)}"
        if tables.exists():
            return tables
        temporary = folder / f".{tables.name}.tmp"
        try:
            temporary.mkdir()
            settling.settle(folder / "landed", temporary, label_delay_days)
            os.replace(temporary, tables)
        except OSError as error:
            raise files.as_sentence(error, tables) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in folder.glob("tables-*"):
            if old != tables:
                shutil.rmtree(old)
        return tables


def _as_day(day: date | str) -> date:
    try:
        return day if isinstance(day, date) else date.fromisoformat(day)
    except (TypeError, ValueError):
        raise LifecycleError(f"{day!r} is not a day; write it as in 2025-07-01.") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Work in the folder alone, after removing what a process that was killed left half-written.

    The operating system gives the lock back when a process dies, so a dead one never holds it.
    """
    try:
        (folder / "landed").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.as_sentence(error, folder) from error
    with FileLock(folder / ".lock"):
        for left in [*folder.glob(".*.tmp"), *(folder / "landed").rglob(".*.tmp"), *folder.rglob(".spill-*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield


def _collect(sources: Path, folder: Path, wanted: object, asked: list[date]) -> pd.DataFrame:
    """Land the wanted deliveries that are new or changed; report each, and each asked for that is missing."""
    landed, rows, todo = folder / "landed", [], []
    with _alone(folder):
        land_snapshots(sources, landed)
        for source in FEEDS:
            found = {day: one for day, one in deliveries(sources, landed, source).items() if wanted(day)}
            for day, delivery in found.items():
                outcome = _outcome(delivery)
                rows.append({"source": source, "day": day, "outcome": outcome, "read": 0})
                if outcome != "unchanged":
                    todo.append((rows[-1], delivery))
            rows += [
                {"source": source, "day": day, "outcome": "missing", "read": 0} for day in asked if day not in found
            ]
        counts = land_deliveries([delivery for _, delivery in todo], landed, lasting=True)
        for (row, _), read in zip(todo, counts, strict=True):
            row["read"] = read
    table = pd.DataFrame(rows, columns=["source", "day", "outcome", "read"])
    return table.assign(day=pd.to_datetime(table["day"], utc=True).astype("datetime64[us, UTC]"))


def _outcome(delivery: Delivery) -> str:
    """Say what collecting a delivery will do, by the content and not by the time of the file."""
    before = landed_stamp(delivery.target)
    if not before:
        return "landed"
    return "unchanged" if before == stamp(delivery.path) else "replaced"


def _state(folder: Path, delay_days: int) -> str:
    """Return a hash of all that the tables depend on: what has landed, and how it is settled."""
    landed = folder / "landed"
    paths = [landed / f"{name}.parquet" for name in SNAPSHOTS]
    paths += [path for source in FEEDS for path in sorted((landed / source).glob("*.parquet"))]
    content = [settling.FORMAT, delay_days, [(str(p.relative_to(landed)), landed_stamp(p)) for p in paths]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
