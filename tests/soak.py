"""Load on the running service for some time, while its memory is measured: for the benchmark, and shorter as a test."""

from __future__ import annotations

import itertools
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil

CONNECTIONS, PART_SECONDS, MEASURE = 16, 2.0, 1_500


@dataclass(frozen=True)
class Soaked:
    """What a soak found: memory in MB (`first` and `last` once it is steady, `slope` a minute), requests, payments."""

    seconds: float
    rate: float
    first: float
    last: float
    slope: float
    answered: int
    failures: int
    journaled: int


def soak(package: Path | str, records: Sequence[Mapping[str, Any]], seconds: float) -> Soaked:
    """Measure what the service can take, then send half of it for some seconds.

    Parameters
    ----------
    package
        The package to serve, with a state of its own.
    records
        Payments of some days in order of time; they are sent again and again, each time under new ids and later.
    seconds
        How long.
    """
    from lifecycle.deployment import running

    bodies, failures, sent, sizes = map(json.dumps, endless(records)), 0, 0, []
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as state,
        running.start(package, options=("--state", state)) as service,
    ):
        for count in (MEASURE, MEASURE):
            full = running.load(service, list(itertools.islice(bodies, count)), CONNECTIONS)
            failures, sent = failures + full.failures, sent + count
        rate, began = full.throughput / 2, time.monotonic()
        while time.monotonic() - began < seconds:
            part = list(itertools.islice(bodies, int(rate * PART_SECONDS)))
            failures += running.load(service, part, CONNECTIONS, rate=rate).failures
            sent += len(part)
            memory = psutil.Process(service.process.pid).memory_info().rss / 2**20
            sizes.append((time.monotonic() - began, memory, sent))
        failures += service.stop() != 0
        with sqlite3.connect(Path(state) / "events.db") as journal:
            (journaled,) = journal.execute("SELECT count(*) FROM events").fetchone()
    steady = _steady(np.array(sizes), 31 * len(records) / _days(records))
    slope = np.polyfit(steady[:, 0] / 60, steady[:, 1], 1)[0]
    return Soaked(seconds, rate, *steady[[0, -1], 1], float(slope), sent - failures, failures, journaled)


def _steady(sizes: np.ndarray, month: float) -> np.ndarray:
    """Return the sizes since the service has forgotten the payments it was packaged with, or all but the first fifth.

    What a package brings lies packed in memory. For a month of payments it is replaced by lists that grew one by one,
    which take some megabytes more; then as much is forgotten as is learned.
    """
    replaced = sizes[sizes[:, 2] >= month]
    return replaced if len(replaced) >= 10 else sizes[len(sizes) // 5 :]


def _days(records: Sequence[Mapping[str, Any]]) -> int:
    first, last = (datetime.fromisoformat(records[place]["event_time"]) for place in (0, -1))
    return (last - first).days + 1


def endless(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield records again and again: each time under new ids, and later by the whole days that they cover."""
    times = [datetime.fromisoformat(record["event_time"]) for record in records]
    days = _days(records)
    number = itertools.count(10**15)  # no id of the packaged history
    for turn in itertools.count():
        for record, moment in zip(records, times, strict=True):
            later = moment + timedelta(days=days * turn)
            yield {**record, "transaction_id": next(number), "event_time": later.isoformat()}
