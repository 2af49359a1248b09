"""What the bank leaves on disk: a database, logs and feeds with their dirt, and the answer key apart."""

from __future__ import annotations

import csv
import gzip
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lifecycle import files
from lifecycle.world import incidents
from lifecycle.world.episodes import MODES, NEVER, REPORT_MEDIAN_DAYS, REPORT_SIGMA
from lifecycle.world.operations import OperationsLog
from lifecycle.world.payments import CHANNELS, ONLINE, Day, World
from lifecycle.world.population import CATEGORY_NAMES, DIRT, DISPUTES, TELEMETRY, Population, day_of, stream
from lifecycle.world.register import TEXT_VARIANTS, descriptors, write_register
from lifecycle.world.rhythm import DAY_MS, holidays

# The dirt of the authorization log: each record has at most one of these faults, with these shares.
DIRT_SHARES = {
    "duplicate": 0.003,
    "late": 0.005,
    "missing_category": 0.010,
    "disguised_category": 0.005,
    "no_zone": 0.0002,
    "unknown_customer": 0.0003,
    "non_positive_amount": 0.0002,
    "truncated": 0.0001,
}
_FAULTS = tuple(DIRT_SHARES)
_CLEAN = len(_FAULTS)
_UNTIL = np.cumsum(list(DIRT_SHARES.values()))

DISGUISED_CATEGORY = "0000"
DISGUISED_TEMPERATURE = -999
UNKNOWN_CUSTOMER_FROM = 90_000_000

# A false chargeback disputes an honest payment: one for a hundred frauds, at 0.6 % fraud.
FALSE_CHARGEBACKS = 0.01 * 0.006

# The sources that deliver a file a day.
DAILY = ("authorizations", "telemetry", "chargebacks", "operations")

_OFFSETS = ("+00:00", "+01:00", "+02:00", "")
_NO_ZONE = 3
_MISSING, _DISGUISED = len(CATEGORY_NAMES), len(CATEGORY_NAMES) + 1
_ROWS_AT_ONCE = 500_000
_ROW_GROUP = 1_000_000
_PENDING_FILES = 6

_REASONS = {
    "online": ("card not present", "not recognized", "account takeover"),
    "shop": ("card present", "not recognized", "lost or stolen"),
}


@dataclass(frozen=True)
class Records:
    """Lines of the authorization log as columns. `ms` counts from the first midnight of the world."""

    transaction_id: np.ndarray
    ms: np.ndarray
    customer_id: np.ndarray
    terminal: np.ndarray
    cents: np.ndarray  # what the line says; in cents
    in_cents: np.ndarray  # the line writes the amount as a whole number of cents
    minor: np.ndarray  # the line says that the unit is minor
    channel: np.ndarray
    category: np.ndarray
    variant: np.ndarray
    offset: np.ndarray
    truncated: np.ndarray
    revision: np.ndarray
    sent: np.ndarray  # when the record is received, for the order in the file

    def take(self, rows: np.ndarray) -> Records:
        """Return some of the rows."""
        return Records(*(getattr(self, f.name)[rows] for f in fields(self)))

    def with_(self, **columns: np.ndarray) -> Records:
        """Return a copy with some columns changed."""
        return Records(*(columns.get(f.name, getattr(self, f.name)) for f in fields(self)))


def _concatenate(parts: list[Records]) -> Records:
    return Records(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Records)))


class Gateway:
    """Turns the payments of each day into the records received on each day, with their dirt.

    Call `receive` for the days in order: late records and corrections wait here for their day.
    """

    def __init__(self, settings: Any, people: Population) -> None:
        self._settings = settings
        self._people = people
        self._waiting: dict[int, list[Records]] = {}
        first, until = incidents.quality_days(settings)
        self._broken = range((first - settings.start).days, (until - settings.start).days)

    def receive(self, day: Day) -> Records:
        """Return the records received on `day`, in order of arrival."""
        rng = stream(self._settings.seed, DIRT, day.index)
        clean = _records(day, self._people, rng)
        fault = np.searchsorted(_UNTIL, rng.random(len(day)), side="right")
        broken = clean
        if day.index in self._broken:
            broken = self._break(clean)
            # In these days nothing else happens to an online record, so that the story stays clear.
            fault[clean.channel == ONLINE] = _CLEAN
        sent = _dirty(broken, fault, self._people, rng)
        late = np.flatnonzero(fault == _FAULTS.index("late"))
        arrival = np.minimum(day.index + rng.integers(1, 3, len(late)), self._settings.days - 1)
        for when in np.unique(arrival):
            rows = late[arrival == when]
            moved = sent.take(rows).with_(sent=when * DAY_MS + rng.integers(0, DAY_MS, len(rows)))
            self._waiting.setdefault(int(when), []).append(moved)
        again = np.flatnonzero(fault == _FAULTS.index("duplicate"))
        retry = sent.take(again).with_(sent=sent.sent[again] + rng.integers(1_000, 600_000, len(again)))
        now = [sent.take(np.flatnonzero(fault != _FAULTS.index("late"))), retry, *self._waiting.pop(day.index, [])]
        received = _concatenate(now)
        return received.take(np.argsort(received.sent, kind="stable"))

    def _break(self, clean: Records) -> Records:
        """Send online amounts in cents under the name of euros, and put the corrections on their day."""
        online = clean.channel == ONLINE
        rows = np.flatnonzero(online)
        correction = clean.take(rows)
        when = self._broken.stop
        self._waiting.setdefault(when, []).append(
            correction.with_(
                revision=np.ones(len(rows), np.int64),
                sent=when * DAY_MS + 6 * 3_600_000 + (correction.ms - correction.ms.min(initial=0)) // 100,
            )
        )
        return clean.with_(in_cents=clean.in_cents | online, minor=clean.minor & ~online)


def _records(day: Day, people: Population, rng: np.random.Generator) -> Records:
    """Return a day's payments as clean records, sent some seconds after the payment."""
    n, ms = len(day), day.index * DAY_MS + day.ms
    minor = people.minor_unit[day.terminal]
    delay = (rng.exponential(5_000, n) * np.where(rng.random(n) < 0.02, 100, 1)).astype(np.int64)
    variant = np.searchsorted([0.85, 0.95], rng.random(n))
    return Records(
        day.transaction_id, ms, day.customer + 1, day.terminal, day.cents, minor, minor, day.channel,
        people.category[day.terminal].astype(np.int64), variant, people.offset_hours[day.terminal],
        np.zeros(n, bool), np.zeros(n, np.int64), ms + delay,
    )  # fmt: skip


def _dirty(records: Records, fault: np.ndarray, people: Population, rng: np.random.Generator) -> Records:
    """Apply the faults that change a record itself."""

    def has(name: str) -> np.ndarray:
        return fault == _FAULTS.index(name)

    category = np.where(has("missing_category"), _MISSING, records.category)
    category = np.where(has("disguised_category"), _DISGUISED, category)
    unknown = UNKNOWN_CUSTOMER_FROM + rng.integers(0, 10**6, len(fault))
    sign = np.where(has("non_positive_amount"), -(rng.random(len(fault)) < 0.6).astype(np.int64), 1)
    return records.with_(
        category=category,
        customer_id=np.where(has("unknown_customer"), unknown, records.customer_id),
        cents=records.cents * sign,
        offset=np.where(has("no_zone"), _NO_ZONE, records.offset),
        truncated=has("truncated"),
    )


class Lines:
    """Writes records as JSON lines, column by column.

    Every column is a list of ready pieces of text, or a number cast to text; Arrow joins the pieces
    of all rows at once. The buffer of the joined column is the content of the file.
    """

    def __init__(self, settings: Any, people: Population) -> None:
        self._people = people
        days = [day_of(settings, i).isoformat() for i in range(-1, settings.days + 4)]
        self._date = pa.array([f', "time": "{day}T' for day in days])
        clock = [f"{h:02d}:{m:02d}:{s:02d}." for h in range(24) for m in range(60) for s in range(60)]
        self._clock = pa.array(clock)
        self._milli = pa.array([f"{ms:03d}" for ms in range(1000)])
        self._offset = pa.array([f'{offset}", "customer": ' for offset in _OFFSETS])
        self._sign = pa.array([', "amount": ', ', "amount": -'])
        self._cents = pa.array([f".{c:02d}" for c in range(100)] + [""])
        self._unit = pa.array(
            [
                f', "unit": "{unit}", "currency": "EUR", "channel": "{channel}", "category": '
                for unit in ("major", "minor")
                for channel in CHANNELS
            ]
        )
        categories = [f'"{name}"' for name in (*CATEGORY_NAMES, DISGUISED_CATEGORY)]
        categories.insert(_MISSING, "null")
        self._category = pa.array([f'{name}, "text": "' for name in categories])
        self._text = pa.array(descriptors(people))
        self._revision = pa.array([f'", "revision": {r}}}\n' for r in range(2)])

    def render(self, records: Records) -> bytes:
        """Return the lines of some records."""
        local = records.ms + np.array([0, 1, 2, 0])[records.offset] * 3_600_000
        day, ms = local // DAY_MS, local % DAY_MS
        size = np.abs(records.cents)
        whole = np.where(records.in_cents, size, size // 100)
        text = _join(
            '{"id": ', records.transaction_id,
            (self._date, day + 1), (self._clock, ms // 1000), (self._milli, ms % 1000),
            (self._offset, records.offset), records.customer_id, ', "terminal": ', records.terminal + 1,
            (self._sign, records.cents < 0), whole, (self._cents, np.where(records.in_cents, 100, size % 100)),
            (self._unit, records.minor * len(CHANNELS) + records.channel),
            (self._category, records.category),
            (self._text, records.terminal * TEXT_VARIANTS + records.variant),
            (self._revision, records.revision),
        )  # fmt: skip
        if records.truncated.any():
            broken = [line.as_py() for line in text.filter(pa.array(records.truncated))]
            cut = pa.array([line[: 40 + len(line) % 80] + "\n" for line in broken])
            text = pc.replace_with_mask(text, pa.array(records.truncated), cut)
        return _content(text)


def _join(*pieces: Any) -> pa.Array:
    """Join columns of text row by row. A piece is a string, an array of numbers, or (texts, positions)."""
    columns = []
    for piece in pieces:
        if isinstance(piece, str):
            columns.append(pa.scalar(piece))
        elif isinstance(piece, tuple):
            columns.append(piece[0].take(pa.array(piece[1].astype(np.int32))))
        else:
            columns.append(pc.cast(pa.array(piece), pa.string()))
    return pc.binary_join_element_wise(*columns, "")


def _content(text: pa.Array) -> bytes:
    """Return the characters of a column of text, all rows after each other."""
    if not len(text):
        return b""
    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]
    return text.buffers()[2][offsets[0] : offsets[-1]].to_pybytes()


def _compress(path: Path, parts: list[bytes]) -> None:
    """Write parts as one gzip file. No file time, so that the bytes depend on the content only."""
    with open(path, "wb") as file:
        for part in parts:
            file.write(gzip.compress(part, compresslevel=1, mtime=0))


class Telemetry:
    """The sensor feed: each shop terminal reports once a day."""

    def __init__(self, settings: Any, people: Population) -> None:
        self._settings = settings
        self._terminal = np.flatnonzero(~people.online)
        rng = stream(settings.seed, TELEMETRY, -1)
        n = len(self._terminal)
        self._warmth = rng.normal(0, 2.5, n)
        self._fahrenheit = rng.random(n) < 0.15
        self._clock = pa.array([f"T{m // 60:02d}:{m % 60:02d}:00+00:00," for m in range(1440)])
        self._tenth = pa.array([f".{t}" for t in range(10)])
        self._unit = pa.array([",C,", ",F,"])
        self._sign = pa.array(["", "-"])

    def write(self, index: int, skimmed: np.ndarray, path: Path) -> None:
        """Write the file of one day. `skimmed` has rows (terminal, start, end) of tampered terminals."""
        rng = stream(self._settings.seed, TELEMETRY, index)
        n, day = len(self._terminal), day_of(self._settings, index)
        season = 17 + 8 * np.cos(2 * np.pi * (day.timetuple().tm_yday - 200) / 365.25)
        celsius = season + self._warmth + rng.normal(0, 1.5, n)
        shown = np.where(self._fahrenheit, celsius * 1.8 + 32, celsius)
        tenths = np.rint(shown * 10).astype(np.int64)
        tenths[rng.random(n) < 0.003] = DISGUISED_TEMPERATURE * 10
        tamper = (rng.random(n) < 0.0015).astype(np.int64)
        tamper[np.isin(self._terminal, _tampered(index, skimmed, rng))] += 1
        uptime = np.where(rng.random(n) < 0.95, 240, rng.integers(20, 240, n))
        minute = rng.integers(0, 1440, n)
        text = _join(
            self._terminal + 1, f",{day.isoformat()}", (self._clock, minute),
            (self._sign, tenths < 0), np.abs(tenths) // 10, (self._tenth, np.abs(tenths) % 10),
            (self._unit, self._fahrenheit), tamper, ",", uptime // 10, (self._tenth, uptime % 10), "\n",
        )  # fmt: skip
        header = b"terminal_id,time,temperature,temperature_unit,tamper_events,uptime_hours\n"
        _compress(path, [header + _content(text)])


def _tampered(index: int, skimmed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the terminals whose case reports tampering: mostly on the day a skimmer goes in, seldom later."""
    chance = np.where(skimmed[:, 1] // DAY_MS == index, 0.5, 0.03)
    return skimmed[rng.random(len(skimmed)) < chance, 0]


class Disputes:
    """The chargeback feed: which payments somebody disputes, and on which day the bank hears of it."""

    _HEADER = ("case_id", "transaction_id", "reported_at", "reason", "amount")

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        self._waiting: dict[int, list[tuple[int, int, str, str]]] = {}

    def observe(self, day: Day) -> None:
        """Note the payments of a day that will be disputed: reported frauds and a few honest ones."""
        rng = stream(self._settings.seed, DISPUTES, day.index)
        honest = np.flatnonzero(day.mode == 0)
        wrong = (
            honest[rng.integers(0, len(honest), rng.poisson(FALSE_CHARGEBACKS * len(day)))] if len(honest) else honest
        )
        delay = REPORT_MEDIAN_DAYS * np.exp(REPORT_SIGMA * rng.standard_normal(len(wrong)))
        late = day.index * DAY_MS + day.ms[wrong] + np.rint(delay * DAY_MS).astype(np.int64)
        real = np.flatnonzero(day.report_ms < NEVER)
        rows = np.concatenate([real, wrong])
        reported = np.concatenate([day.report_ms[real], late])
        reason = rng.integers(0, 3, len(rows))
        for row, at, why in zip(rows.tolist(), reported.tolist(), reason.tolist(), strict=True):
            reasons = _REASONS["online" if day.channel[row] == ONLINE else "shop"]
            amount = f"{day.cents[row] // 100}.{day.cents[row] % 100:02d}"
            case = (at, int(day.transaction_id[row]), reasons[why], amount)
            self._waiting.setdefault(at // DAY_MS, []).append(case)

    def write(self, index: int, path: Path) -> None:
        """Write the chargebacks that arrive on one day. Cases after the last day are never written."""
        day = day_of(self._settings, index)
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self._HEADER)
            for number, (at, payment, reason, amount) in enumerate(sorted(self._waiting.pop(index, [])), start=1):
                case_id = f"CB{day:%Y%m%d}-{number:05d}"
                writer.writerow((case_id, payment, _iso(day, at % DAY_MS), reason, amount))


def _iso(day: date, ms: int) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{day}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}+00:00"


class AnswerKey:
    """Writes ``truth.parquet`` in batches, so that memory stays small."""

    _SCHEMA = pa.schema(
        [
            ("transaction_id", pa.int64()),
            ("is_fraud", pa.int8()),
            ("mode", pa.dictionary(pa.int8(), pa.string())),
            ("oracle", pa.float64()),
        ]
    )

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, self._SCHEMA, compression="zstd")
        self._days: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, day: Day) -> None:
        """Add the payments of a day."""
        mode = pa.DictionaryArray.from_arrays(pa.array(day.mode), pa.array(MODES))
        columns = [pa.array(day.transaction_id), pa.array((day.mode > 0).astype(np.int8)), mode, pa.array(day.oracle)]
        self._days.append(pa.RecordBatch.from_arrays(columns, schema=self._SCHEMA))
        self._rows += len(day)
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._days:
            self._writer.write_table(pa.Table.from_batches(self._days))
        self._days, self._rows = [], 0

    def close(self) -> None:
        """Write what is left and end the file."""
        self._flush()
        self._writer.close()


def write_sources(settings: Any, out: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write everything a bank would have on disk, and the answer key apart.

    Parameters
    ----------
    settings
        Anything with `seed`, `customers`, `terminals`, `days`, `start` and `deploy_at`.
    out
        A folder. It gets ``sources/`` and ``answer_key/``.
    progress
        Called after each day with (days done, days in all).

    Raises
    ------
    LifecycleError
        If a size is out of range.
    """
    world = World(settings)
    sources, key = Path(out) / "sources", Path(out) / "answer_key"
    for folder in (*(sources / feed for feed in DAILY), key):
        folder.mkdir(parents=True, exist_ok=True)
    write_register(settings, world.population, sources / "bank.sqlite")
    _write_holidays(settings, sources / "holidays.csv")
    files.write_json([incident.as_dict() for incident in incidents.timeline(settings)], key / "incidents.json")
    answers = AnswerKey(key / "truth.parquet")
    try:
        _write_days(settings, world, sources, answers, progress)
    finally:
        answers.close()


def _write_days(
    settings: Any, world: World, sources: Path, answers: AnswerKey, progress: Callable[[int, int], None] | None
) -> None:
    """Write the daily files. Compression runs on other threads while the next day is made."""
    gateway, lines = Gateway(settings, world.population), Lines(settings, world.population)
    telemetry, disputes = Telemetry(settings, world.population), Disputes(settings)
    operations = OperationsLog(settings, world.population)
    with ThreadPoolExecutor(2) as pool:
        writing: deque[Future[None]] = deque()
        for index in range(settings.days):
            day = world.day(index)
            name = day.date.isoformat()
            answers.add(day)
            disputes.observe(day)
            disputes.write(index, sources / "chargebacks" / f"{name}.csv")
            operations.write(index, sources / "operations" / f"{name}.log")
            received = gateway.receive(day)
            chunks = range(0, len(received.ms), _ROWS_AT_ONCE)
            parts = [lines.render(received.take(slice(at, at + _ROWS_AT_ONCE))) for at in chunks]
            writing.append(pool.submit(_compress, sources / "authorizations" / f"{name}.jsonl.gz", parts))
            path = sources / "telemetry" / f"{name}.csv.gz"
            writing.append(pool.submit(telemetry.write, index, day.skimmed, path))
            while len(writing) > _PENDING_FILES:
                writing.popleft().result()
            if progress is not None:
                progress(index + 1, settings.days)
        for future in writing:
            future.result()


def _write_holidays(settings: Any, path: Path) -> None:
    last = settings.start + timedelta(days=settings.days - 1)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("date", "name", "region"))
        for year in range(settings.start.year, last.year + 1):
            writer.writerows((day.isoformat(), name, region) for day, name, region in holidays(year))
