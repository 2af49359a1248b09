"""The log of operations: what the people who run the gateway and the terminals leave behind, a text file a day.

It draws from a random stream of its own, so that no payment depends on it. It tells no more than such a log
would: releases come every two weeks, and nothing in the line of a bad one says that it is bad.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lifecycle.world import incidents
from lifecycle.world.population import OPERATIONS, Population, day_of, stream
from lifecycle.world.rhythm import DAY_MS

# A line has at most one of these faults, with these shares.
LOG_DIRT_SHARES = {"repeated": 0.010, "cut": 0.005, "no_zone": 0.005, "unknown_terminal": 0.005}
UNKNOWN_TERMINAL_FROM = 9_000_000

# How often things happen to a shop terminal, in a day.
_REPLACED, _UPDATED, _OFFLINE = 0.0008, 0.0020, 0.0025
_RESTARTS_A_DAY = 0.5
_JOB_FAILS = 0.02
_RELEASE_EVERY_DAYS = 14
_GATEWAYS = ("gw-1", "gw-2", "gw-3")
_JOBS = {"settlement": (1.0, 1500), "backup": (3.0, 2400), "chargeback-import": (5.0, 90)}  # hour, usual seconds
_TRACE = (
    "    at net.bank.gateway.Pool.acquire(Pool.java:212)",
    "    at net.bank.gateway.Worker.run(Worker.java:118)",
)

# The millisecond of the day, the host, the program, the level, what it says, and lines without a head that follow.
Entry = tuple[int, str, str, str, str, tuple[str, ...]]


class OperationsLog:
    """Writes one log file a day.

    A line is ``2025-11-17T00:00:00.412+00:00 gw-1 deploy[369]: INFO release gateway 4.52.0``.

    Examples
    --------
    >>> from lifecycle.settings import Settings
    >>> from lifecycle.world.population import make_population
    >>> settings = Settings(customers=50, terminals=60, days=3)
    >>> log = OperationsLog(settings, make_population(settings))
    >>> log.lines(0)[0].split()[1:4]
    ['scheduler-1', 'scheduler[512]:', 'INFO']
    """

    def __init__(self, settings: Any, people: Population) -> None:
        self._settings = settings
        self._shops = np.flatnonzero(~people.online) + 1
        self._bad, self._fixed = incidents.quality_days(settings)

    def write(self, index: int, path: Path) -> None:
        """Write the file of one day."""
        path.write_text("".join(line + "\n" for line in self.lines(index)), encoding="utf-8")

    def lines(self, index: int) -> list[str]:
        """Return the lines of one day, with their dirt."""
        rng, day = stream(self._settings.seed, OPERATIONS, index), day_of(self._settings, index)
        entries = [*self._jobs(rng), *self._releases(day, rng), *self._restarts(rng), *self._terminals(rng)]
        written: list[str] = []
        for entry in sorted(entries):
            written += _dirty(entry, day, rng)
        return written

    def _jobs(self, rng: np.random.Generator) -> Iterator[Entry]:
        """Yield the nightly jobs. One that fails runs once more."""
        for name, (hour, usual) in _JOBS.items():
            at = int(hour * 3_600_000) + int(rng.integers(0, 2_000))
            codes = (1, 0) if rng.random() < _JOB_FAILS else (0,)
            for code in codes:
                seconds = int(usual * rng.uniform(0.8, 1.3))
                yield at, "scheduler-1", "scheduler", "INFO", f"job {name} started", ()
                at += seconds * 1000
                level = "ERROR" if code else "INFO"
                yield at, "scheduler-1", "scheduler", level, f"job {name} finished rc={code} seconds={seconds}", ()
                at += 300_000

    def _releases(self, day: date, rng: np.random.Generator) -> Iterator[Entry]:
        """Yield the releases of the gateway: every two weeks at midnight, and one that repairs an earlier one."""
        number, rest = divmod((day - self._bad).days, _RELEASE_EVERY_DAYS)
        at = int(rng.integers(50, 900))
        if rest == 0:
            yield from _release(f"4.{(52 + number) % 100}.0", at)
        if day == self._fixed:
            yield from _release("4.52.1", at)
            started = 6 * 3_600_000
            yield started, "gw-1", "resend", "INFO", f"job resend-online started from={self._bad}", ()
            yield started + 1_700_000, "gw-1", "resend", "INFO", "job resend-online finished rc=0 seconds=1700", ()

    def _restarts(self, rng: np.random.Generator) -> Iterator[Entry]:
        for _ in range(rng.poisson(_RESTARTS_A_DAY)):
            at, host = int(rng.integers(0, DAY_MS)), _GATEWAYS[rng.integers(0, len(_GATEWAYS))]
            if rng.random() < 0.4:
                yield at, host, "gateway", "ERROR", "restart after out of memory", _TRACE
            else:
                yield at, host, "gateway", "INFO", "restart planned", ()

    def _terminals(self, rng: np.random.Generator) -> Iterator[Entry]:
        """Yield what happened to terminals, whichever they are: the log knows nothing of fraud."""
        for rate, kind in ((_REPLACED, "replaced"), (_UPDATED, "updated"), (_OFFLINE, "offline")):
            n = min(rng.poisson(rate * len(self._shops)), len(self._shops))
            chosen = rng.choice(self._shops, n, replace=False)
            times, number = rng.integers(0, DAY_MS, n), rng.integers(5, 180, n)
            for terminal, at, x in zip(chosen.tolist(), times.tolist(), number.tolist(), strict=True):
                if kind == "replaced":
                    what = f"terminal {terminal} replaced ticket=FS-{terminal:07d}-{x:03d}"
                    yield 8 * 3_600_000 + at // 3, "field-1", "field-service", "INFO", what, ()
                elif kind == "updated":
                    yield at // 6, "fleet-1", "fleet", "INFO", f"terminal {terminal} firmware updated to 7.{x % 4}", ()
                else:
                    yield at, "fleet-1", "fleet", "WARN", f"terminal {terminal} offline minutes={x}", ()


def _release(version: str, at: int) -> Iterator[Entry]:
    for i, host in enumerate(_GATEWAYS):
        yield at + 40 * i, host, "deploy", "INFO", f"release gateway {version}", ()


def _dirty(entry: Entry, day: date, rng: np.random.Generator) -> list[str]:
    """Return the lines of one entry; some are cut, sent twice, without a zone, or name a terminal nobody has."""
    ms, host, program, level, what, trace = entry
    fault = np.searchsorted(np.cumsum(list(LOG_DIRT_SHARES.values())), rng.random(), side="right")
    name = [*LOG_DIRT_SHARES, "none"][fault]
    cut = int(rng.integers(5, 40))
    words = what.split()
    if name == "unknown_terminal" and words[0] == "terminal":
        what = " ".join([words[0], str(UNKNOWN_TERMINAL_FROM + int(words[1])), *words[2:]])
    # A job may end after midnight; the file is that of the day on which it began.
    when, ms = day + timedelta(days=ms // DAY_MS), ms % DAY_MS
    clock = f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
    zone = "" if name == "no_zone" else "+00:00"
    pid = 300 + sum(map(ord, host + program)) % 900
    line = f"{when}T{clock}{zone} {host} {program}[{pid}]: {level} {what}"
    if name == "cut":
        return [line[:cut]]
    return [line, *([line] if name == "repeated" else []), *trace]
