"""The service's memory on disk: every payment it has answered, once, with the answer it gave.

A payment is written and committed before its answer leaves, in one SQLite file, so a process that is killed at any
moment loses nothing that was acknowledged. The transaction id is the key: a payment that is sent again gets the answer
it had and is counted once. Several processes may share one journal; a lock file puts their writes in one order, and
each reads what the others wrote before it writes itself.

SQLite's write-ahead log survives the end of a process without a call to the disk. Against a loss of power, `fsync`
waits for the disk at each commit, at the price of its latency. What is in the log is moved into the database beside the
answers, by a thread that waits for the disk (`_Mover`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lifecycle.errors import LifecycleError
from lifecycle.files import as_sentence

FILE = "events.db"
KEPT = 62 * 86_400_000_000
"""Microseconds before the newest payment that are kept: twice as long as any window looks back."""

_TABLE = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    transaction_id NOT NULL UNIQUE, customer_id NOT NULL, terminal_id NOT NULL,
    micros INTEGER NOT NULL, units INTEGER NOT NULL, content BLOB NOT NULL,
    score REAL NOT NULL, decision TEXT NOT NULL, version TEXT NOT NULL, other_score REAL, other_version TEXT)
"""
_MOST_IDS = 500  # parameters in one statement; SQLite takes 32,766

LOG_BYTES = 16 * 2**20
"""The write-ahead log is moved into the database when it has become so large."""

MOVE_SECONDS = 0.5
"""How often its size is looked at."""

_log = logging.getLogger(__name__)


class JournalError(LifecycleError):
    """The journal could not be read or written; nothing of the request was counted."""


class Event(NamedTuple):
    """One payment in the journal, without its number."""

    transaction_id: Any
    customer_id: Any
    terminal_id: Any
    micros: int
    units: int
    content: bytes
    score: float
    decision: str
    version: str
    other_score: float | None = None
    other_version: str | None = None


class _Mover(threading.Thread):
    """Moves the write-ahead log into the database, so that no answer waits for it.

    Most of the log is moved, and awaited on the disk, while payments are written on; then the writers wait for the
    little that came in the meantime, so that the log begins anew. SQLite's own way is to let a commit do all of it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(name="journal", daemon=True)
        self._path, self._over = path, threading.Event()
        self.start()

    def run(self) -> None:
        """Look at the size of the log until `close`."""
        while not self._over.wait(MOVE_SECONDS):
            try:
                if self._path.with_name(f"{self._path.name}-wal").stat().st_size > LOG_BYTES:
                    self.move()
            except FileNotFoundError:
                continue
            except (sqlite3.Error, OSError) as error:
                _log.error("the journal's log could not be moved into its database: %s", error)

    def move(self) -> None:
        """Move all of the log."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with open(self._path.with_suffix(".lock"), "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()


class Journal:
    """A file of answered payments.

    Parameters
    ----------
    folder
        Where ``events.db`` is, or will be. None keeps the journal in memory, for tests and trials.
    fsync
        Wait for the disk at each commit, so that a loss of power costs nothing either.

    Raises
    ------
    JournalError
        If the folder cannot be written or the file is damaged.

    Examples
    --------
    >>> journal = Journal(None)
    >>> with journal.writing():
    ...     journal.append([Event(1, 7, 8, 0, 50_000, b"", 0.25, "approve", "v1")])
    >>> journal.find([1, 2])[1].score
    0.25
    """

    def __init__(self, folder: Path | None, fsync: bool = False) -> None:
        self.seen = 0
        self._path = None if folder is None else Path(folder) / FILE
        self._lock = None
        self._mover: _Mover | None = None
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = open(self._path.with_suffix(".lock"), "ab")  # noqa: SIM115
            self._connection = sqlite3.connect(
                self._path or ":memory:", timeout=30, isolation_level=None, check_same_thread=False
            )
            with self._exclusive():
                self._open(fsync)
        except sqlite3.Error as error:
            raise self._sentence(error) from None
        except OSError as error:
            raise JournalError(str(as_sentence(error, self._path or Path(FILE)))) from None
        if self._path is not None:
            self._mover = _Mover(self._path)
            weakref.finalize(self, self._mover._over.set)

    def _open(self, fsync: bool) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        (verdict,) = run("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError("malformed")
        run(_TABLE)
        run("PRAGMA wal_autocheckpoint = 0")
        run("DELETE FROM events WHERE micros < (SELECT max(micros) FROM events) - ?", (KEPT,))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock of all processes that share the journal; unlike SQLite's own, it wakes who waits."""
        if self._lock is None:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Commit what the block does, or nothing of it, while no other process writes.

        Raises
        ------
        JournalError
            If the disk is full or read-only, or the file is damaged. Nothing was written then.
        """
        seen = self.seen
        try:
            with self._exclusive():
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
        except BaseException as error:
            self.seen = seen
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._sentence(error) from None
            raise

    def unseen(self) -> Iterator[tuple[Any, Any, Any, int, int]]:
        """Yield id, customer, terminal, micros and units of the payments that this object has not yet seen."""
        rows = self._connection.execute(
            "SELECT seq, transaction_id, customer_id, terminal_id, micros, units FROM events WHERE seq > ? "
            "ORDER BY seq",
            (self.seen,),
        )
        for row in rows:
            self.seen = row[0]
            yield row[1:]

    def find(self, ids: Sequence[Any]) -> dict[Any, Event]:
        """Return the known ones among some transaction ids."""
        found = {}
        for start in range(0, len(ids), _MOST_IDS):
            part = ids[start : start + _MOST_IDS]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(
                f"SELECT {', '.join(Event._fields)} FROM events WHERE transaction_id IN ({marks})", part
            )
            found |= {row[0]: Event(*row) for row in rows}
        return found

    def append(self, events: Iterable[Event]) -> None:
        """Write payments that are not in the journal yet, inside `writing`."""
        marks = ",".join("?" * len(Event._fields))
        for event in events:
            done = self._connection.execute(f"INSERT INTO events ({', '.join(Event._fields)}) VALUES ({marks})", event)
            self.seen = done.lastrowid or self.seen

    def read(self) -> Iterator[Event]:
        """Yield every payment, in the order in which they were counted."""
        rows = self._connection.execute(f"SELECT {', '.join(Event._fields)} FROM events ORDER BY seq")
        return (Event(*row) for row in rows)

    def bytes(self) -> int:
        """Return the size of the file and of its log."""
        paths = () if self._path is None else (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in paths if path.exists())

    def allow_writing(self, allowed: bool) -> None:
        """Let writes fail as on a read-only disk, or work again."""
        self._connection.execute(f"PRAGMA query_only = {int(not allowed)}")

    def close(self) -> None:
        """Close the file; the journal cannot be used afterwards."""
        if self._mover is not None:
            self._mover.close()
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    def _sentence(self, error: sqlite3.Error) -> JournalError:
        text, where = str(error).lower(), self._path or "the journal in memory"
        if "full" in text:
            return JournalError(f"The disk is full: {where} cannot be written; free some space and send again.")
        if "readonly" in text or "unable to open" in text:
            return JournalError(f"{where} cannot be written: give a folder with write permission as the state folder.")
        if any(sign in text for sign in ("malformed", "not a database", "unsupported file format")):
            return JournalError(
                f"{where} is damaged and was not touched: restore it from a copy, or move it away to begin with the "
                "history of the package."
            )
        return JournalError(f"{where} cannot be used just now ({error}); send again.")


def content_of(record: Mapping[str, Any]) -> bytes:
    """Return eight bytes that stand for a checked record, to tell a repetition from another payment of the same id.

    Examples
    --------
    >>> content_of({"amount": 5.0, "channel": None}) == content_of({"channel": None, "amount": 5.0})
    True
    """
    text = repr(sorted(record.items()))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
