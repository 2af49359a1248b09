"""Collection day by day: twice changes nothing, late files count, and a killed process loses and doubles nothing."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from crashes import collect_and_die

from lifecycle import collection, world
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings

# Twelve days around the data-quality incident, so that there are corrections, too.
SETTINGS = Settings(
    customers=60, terminals=80, days=12, start=date(2025, 11, 12), deploy_at=date(2025, 11, 3), seed=31
)  # fmt: skip
DAYS = [(SETTINGS.start + timedelta(days=i)).isoformat() for i in range(SETTINGS.days)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.simulate_to(SETTINGS, tmp_path_factory.mktemp("world") / "bank") / "sources"


@pytest.fixture(scope="module")
def batch(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hash by name of every table of the batch build."""
    out = tmp_path_factory.mktemp("batch")
    collection.build(SimpleNamespace(label_delay_days=7), {"world": sources.parent}, out)
    return digest(out)


def digest(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(collection.publish(folder) / f"{name}.parquet")


def deliver(sources: Path, inbox: Path, days: list[str]) -> Path:
    """Copy the database, the calendar and some days' files: what has been delivered so far."""
    for path in sources.rglob("*.*"):
        if path.parent == sources or path.name[:10] in days:
            target = inbox / path.relative_to(sources)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return inbox


def test_day_by_day_gives_the_tables_of_the_batch_byte_for_byte(sources: Path, batch: dict, tmp_path: Path) -> None:
    for day in DAYS:
        report = collection.collect_day(sources, tmp_path, day)
        assert set(report["outcome"]) == {"landed"} and len(report) == 4
    assert digest(collection.publish(tmp_path)) == batch


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_the_days_does_not_matter(sources: Path, batch: dict, tmp_path: Path, seed: int) -> None:
    days = random.Random(seed).sample(DAYS, len(DAYS))
    for number, day in enumerate(days):
        collection.collect_day(sources, tmp_path, day)
        if number % 4 == 2:
            collection.publish(tmp_path)
    assert digest(collection.publish(tmp_path)) == batch


def test_collecting_again_changes_nothing_at_all(sources: Path, tmp_path: Path) -> None:
    collection.collect_until(sources, tmp_path, DAYS[5])
    tables = collection.publish(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    again = collection.collect_day(sources, tmp_path, DAYS[2])
    assert set(again["outcome"]) == {"unchanged"}
    assert set(collection.collect_until(sources, tmp_path, DAYS[5])["outcome"]) == {"unchanged"}
    assert collection.publish(tmp_path) == tables
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"} == before


def test_a_late_file_is_folded_in(sources: Path, batch: dict, tmp_path: Path) -> None:
    late, folder = DAYS[3], tmp_path / "collection"  # a day with payments that are disputed later
    inbox = deliver(sources, tmp_path / "inbox", [day for day in DAYS if day != late])
    assert set(collection.collect_day(inbox, folder, late)["outcome"]) == {"missing"}
    collection.collect_until(inbox, folder, DAYS[-1])
    reasons = table(folder, "quarantine")["reason"].value_counts()
    without = len(table(folder, "transactions"))
    deliver(sources, inbox, [late])
    report = collection.collect_until(inbox, folder, DAYS[-1])
    assert set(report.loc[report["outcome"] == "landed", "day"].dt.date.astype(str)) == {late}
    assert digest(collection.publish(folder)) == batch
    assert len(table(folder, "transactions")) > without
    # The chargebacks of its payments waited in the quarantine.
    assert table(folder, "quarantine")["reason"].eq("unknown transaction").sum() < reasons["unknown transaction"]


def test_a_file_that_is_delivered_again_with_other_content_replaces_the_first(sources: Path, tmp_path: Path) -> None:
    inbox, folder = deliver(sources, tmp_path / "inbox", DAYS[:3]), tmp_path / "collection"
    path = inbox / "chargebacks" / f"{DAYS[2]}.csv"
    collection.collect_until(inbox, folder, DAYS[2])
    before = table(folder, "accounting")
    path.write_text(path.read_text() + f"CB9,2025111200000001,{DAYS[2]}T01:00:00+00:00,not recognized,1.00\n")
    report = collection.collect_day(inbox, folder, DAYS[2]).set_index("source")
    assert report["outcome"].to_dict() == {
        "authorizations": "unchanged", "telemetry": "unchanged", "chargebacks": "replaced", "operations": "unchanged",
    }  # fmt: skip
    assert table(folder, "accounting")["read"].sum() == before["read"].sum() + 1
    assert len(list(folder.glob("tables-*"))) == 1


def test_a_landed_file_that_the_disk_damaged_lands_again(sources: Path, batch: dict, tmp_path: Path) -> None:
    collection.collect_until(sources, tmp_path, DAYS[-1])
    damaged = tmp_path / "landed" / "telemetry" / f"{DAYS[4]}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    report = collection.collect_day(sources, tmp_path, DAYS[4]).set_index("source")["outcome"]
    assert report["telemetry"] == "landed" and set(report.drop("telemetry")) == {"unchanged"}
    assert digest(collection.publish(tmp_path)) == batch


def test_a_changed_database_is_collected_with_the_next_day(sources: Path, tmp_path: Path) -> None:
    inbox, folder = deliver(sources, tmp_path / "inbox", DAYS[:2]), tmp_path / "collection"
    collection.collect_day(inbox, folder, DAYS[0])
    unknown = table(folder, "quarantine")["reason"].eq("unknown customer").sum()
    with closing(sqlite3.connect(inbox / "bank.sqlite")) as bank:
        bank.execute("DELETE FROM customers WHERE customer_id <= 30")
        bank.commit()
    collection.collect_day(inbox, folder, DAYS[1])
    assert len(table(folder, "customers")) == 30
    assert table(folder, "quarantine")["reason"].eq("unknown customer").sum() > unknown + 30


def test_every_record_of_every_source_and_day_has_one_fate(sources: Path, tmp_path: Path) -> None:
    collection.collect_until(sources, tmp_path, DAYS[-1])
    accounting = table(tmp_path, "accounting")
    fates = accounting[list(collection.COUNTS[1:])].sum(axis=1)
    assert (accounting["read"] == fates).all()
    for source, suffix in {"authorizations": ".jsonl.gz", "telemetry": ".csv.gz", "operations": ".log"}.items():
        rows = accounting[accounting["source"] == source]
        assert rows["day"].dt.date.astype(str).tolist() == DAYS
        files = [
            pd.read_csv(p, sep="\x01", header=None, quoting=3) for p in sorted((sources / source).glob(f"*{suffix}"))
        ]
        header = source == "telemetry"
        assert rows["read"].tolist() == [len(file) - header for file in files]


def test_a_bad_file_leaves_nothing_half_written_and_its_day_is_collected_again_later(
    sources: Path, batch: dict, tmp_path: Path
) -> None:
    inbox, folder = deliver(sources, tmp_path / "inbox", DAYS), tmp_path / "collection"
    collection.collect_until(inbox, folder, DAYS[3])
    before = len(table(folder, "transactions"))
    path = inbox / "authorizations" / f"{DAYS[6]}.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LifecycleError, match=rf"{DAYS[6]}\.jsonl\.gz cannot be read .* fetch this file"):
        collection.collect_day(inbox, folder, DAYS[6])
    assert len(table(folder, "transactions")) == before
    assert not [left for left in folder.rglob(".*") if left.name != ".lock"]
    path.write_bytes(whole)
    collection.collect_until(inbox, folder, DAYS[-1])
    assert digest(collection.publish(folder)) == batch


def test_a_day_that_is_no_day_is_one_sentence(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(LifecycleError, match="'monday' is not a day; write it as in 2025-07-01"):
        collection.collect_day(sources, tmp_path, "monday")
    with pytest.raises(LifecycleError, match="Nothing of the source authorizations has been collected yet"):
        collection.publish(tmp_path / "new")


# ---------------------------------------------------------------- killed processes


@pytest.fixture(scope="module")
def start():
    """Return a function that starts a collection in a process of its own, without importing everything each time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lifecycle.collection", "crashes"])

    def run(sources: Path, folder: Path, dies_at: int | None = None, until=(DAYS[-1],)) -> multiprocessing.Process:
        process = context.Process(target=collect_and_die, args=(sources, folder, until, dies_at))
        process.start()
        return process

    return run


def test_a_process_killed_before_or_after_any_rename_loses_and_doubles_nothing(
    sources: Path, batch: dict, tmp_path: Path, start
) -> None:
    """A run goes on where the last one died, until the tables are there; then the next collection begins."""
    kills, dice, number = 0, random.Random(3), 0
    while kills < 30:
        folder, code = tmp_path / f"collection-{number}", None
        while code != 0:
            process = start(sources, folder, dice.randrange(30), (DAYS[5], DAYS[-1]))
            process.join(60)
            code = process.exitcode
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
        assert digest(collection.publish(folder)) == batch
        number += 1


def test_a_process_killed_at_any_time_loses_and_doubles_nothing(
    sources: Path, batch: dict, tmp_path: Path, start
) -> None:
    for name in ("the first imports everything", "the second tells how long one lasts"):
        began = time.perf_counter()
        start(sources, tmp_path / name).join(60)
        lasts = time.perf_counter() - began
    kills, dice, number = 0, random.Random(4), 0
    while kills < 25:
        folder = tmp_path / f"collection-{number}"
        process = start(sources, folder)
        time.sleep(dice.uniform(0, lasts))
        process.kill()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        if process.exitcode == 0:
            assert digest(collection.publish(folder)) == batch
            number += 1
    start(sources, folder).join(60)
    assert digest(collection.publish(folder)) == batch
