"""What the simulated bank leaves on disk: complete, as dirty as promised, and without the truth."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import sqlite3
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lifecycle import world
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings
from lifecycle.world import sources
from lifecycle.world.operations import LOG_DIRT_SHARES
from lifecycle.world.population import make_population

# The 24 days around the data-quality incident, which comes 14 days after the deployment date.
SETTINGS = Settings(
    customers=2500, terminals=1500, days=24, start=date(2025, 11, 3), deploy_at=date(2025, 11, 3),
    train_from=date(2025, 8, 1),
)  # fmt: skip
BROKEN = [date(2025, 11, 17) + timedelta(days=i) for i in range(3)]
CORRECTED = date(2025, 11, 20)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    return world.simulate_to(SETTINGS, tmp_path_factory.mktemp("world") / "bank")


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    return world.payments(SETTINGS).set_index("transaction_id")


@pytest.fixture(scope="module")
def log(bank) -> pd.DataFrame:
    """Every line of the log that is JSON, with the day of its file; broken lines have no id."""
    rows = []
    for path in sorted((bank / "sources" / "authorizations").glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                record = {"broken": line}
            rows.append(record | {"file": path.name[:10]})
    return pd.DataFrame(rows)


def share(mask: pd.Series, log: pd.DataFrame) -> float:
    return float(mask.sum() / len(log))


# ---------------------------------------------------------------- files


def test_every_day_has_its_files(bank):
    days = [(SETTINGS.start + timedelta(days=i)).isoformat() for i in range(SETTINGS.days)]
    endings = {"authorizations": ".jsonl.gz", "telemetry": ".csv.gz", "chargebacks": ".csv", "operations": ".log"}
    for folder, ending in endings.items():
        assert sorted(p.name for p in (bank / "sources" / folder).iterdir()) == [day + ending for day in days]
    assert sorted(p.name for p in (bank / "sources").iterdir()) == [
        "authorizations", "bank.sqlite", "chargebacks", "holidays.csv", "operations", "telemetry",
    ]  # fmt: skip


def test_the_same_settings_write_the_same_bytes(tmp_path):
    small = Settings(customers=60, terminals=80, days=4)

    def digest(folder: Path) -> dict[str, str]:
        found = sorted(p for p in folder.rglob("*") if p.is_file())
        return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    first = digest(world.simulate_to(small, tmp_path / "a"))
    assert first == digest(world.simulate_to(small, tmp_path / "b"))
    assert first != digest(world.simulate_to(small.with_(seed=1), tmp_path / "c"))


def test_the_log_of_operations_changes_no_other_file(tmp_path):
    """The hash of all other daily files, recorded before the log of operations was added."""
    made = world.simulate_to(Settings(customers=60, terminals=80, days=4), tmp_path / "bank") / "sources"
    digest = hashlib.sha256()
    for path in sorted(
        p for p in made.rglob("*") if p.is_file() and p.parent.name != "operations" and p.suffix != ".sqlite"
    ):
        content = path.read_bytes()
        digest.update(gzip.decompress(content) if path.suffix == ".gz" else content)
    assert digest.hexdigest() == "571b16b7577870520bd6a8eac00b4e5d0d5982d01ce6b9d1a50d1e795f8fcbd8"


def test_the_database_has_the_people_and_the_places(bank):
    people = make_population(SETTINGS)
    with closing(sqlite3.connect(bank / "sources" / "bank.sqlite")) as database:
        customers = pd.read_sql("SELECT * FROM customers ORDER BY customer_id", database)
        accounts = pd.read_sql("SELECT * FROM accounts", database)
        terminals = pd.read_sql("SELECT * FROM terminals ORDER BY terminal_id", database)
    assert customers["customer_id"].tolist() == list(range(1, SETTINGS.customers + 1))
    np.testing.assert_array_equal(customers[["home_x", "home_y"]], people.home)
    assert 0.003 < (customers["birth_date"] == "1900-01-01").mean() < 0.02
    real = pd.to_datetime(customers.loc[customers["birth_date"] != "1900-01-01", "birth_date"])
    assert real.dt.year.between(1934, 2008).all()
    assert set(accounts["customer_id"]) == set(customers["customer_id"])
    assert terminals["terminal_id"].tolist() == list(range(1, SETTINGS.terminals + 1))
    np.testing.assert_array_equal(terminals["channel"] == "online", people.online)
    assert terminals["merchant_category"].nunique() == 12


# ---------------------------------------------------------------- the authorization log and its dirt


def test_the_dirt_of_the_log_has_the_promised_shares(log):
    whole = log[log["id"].notna()]
    first = whole[whole["revision"] == 0]
    day = (first["id"] // 10**8).astype("int64").astype(str)
    late = pd.to_datetime(day).dt.strftime("%Y-%m-%d") < first["file"]
    found = {
        "duplicate": share(first.duplicated(["id"]), first),
        "late": share(late, first),
        "missing_category": share(first["category"].isna(), first),
        "disguised_category": share(first["category"] == "0000", first),
        "no_zone": share(~first["time"].str.contains(r"[+-]\d\d:\d\d$"), first),
        "unknown_customer": share(first["customer"] > SETTINGS.customers, first),
        "non_positive_amount": share(first["amount"] <= 0, first),
        "truncated": len(log[log["id"].isna()]) / len(first),
    }
    for name, promised in sources.DIRT_SHARES.items():
        noise = 5 * np.sqrt(promised / len(first))
        assert abs(found[name] - promised) < noise + 0.12 * promised, (name, found[name], promised)


def test_units_and_zones_are_mixed_and_say_the_same(log, truth):
    good = log[log["id"].notna() & (log["revision"] == 0) & (log["amount"] > 0)]
    good = good[~good["file"].isin([str(day) for day in BROKEN])].drop_duplicates("id")
    good = good[good["time"].str.contains(r"[+-]\d\d:\d\d$")]
    want = truth.loc[good["id"].astype("int64")]
    assert 0.03 < (good["unit"] == "minor").mean() < 0.15
    amount = good["amount"] / np.where(good["unit"] == "minor", 100, 1)
    np.testing.assert_allclose(amount, want["amount"], atol=1e-9)
    zones = good["time"].str[-6:].value_counts(normalize=True)
    assert set(zones.index) == {"+00:00", "+01:00", "+02:00"} and zones.min() > 0.02
    times = pd.to_datetime(good["time"], utc=True, format="ISO8601")
    assert (times.to_numpy() == want["event_time"].to_numpy()).all()
    assert (good["channel"].to_numpy() == want["channel"].astype(str).to_numpy()).all()


def test_lines_are_not_in_order_of_time_but_nearly(log):
    one = log[(log["file"] == "2025-11-05") & log["id"].notna()]
    ids = one["id"].to_numpy()
    assert 0.005 < (np.diff(ids) < 0).mean() < 0.3


def test_every_payment_is_in_the_log_once_its_dirt_is_gone(log, truth):
    whole = log[log["id"].notna()]
    missing = set(truth.index) - set(whole["id"].astype("int64"))
    assert len(missing) <= (log["id"].isna()).sum()
    assert set(whole["id"].astype("int64")) <= set(truth.index)


# ---------------------------------------------------------------- the incident of the gateway


def test_online_amounts_are_a_hundred_times_too_large_on_the_broken_days_only(log, truth):
    usable = log[log["id"].notna() & (log["amount"] > 0) & (log["revision"] == 0)].drop_duplicates("id")
    want = truth.loc[usable["id"].astype("int64"), "amount"].to_numpy()
    factor = usable["amount"] / np.where(usable["unit"] == "minor", 100, 1) / want
    day = pd.to_datetime((usable["id"] // 10**8).astype("int64").astype(str)).dt.date
    hit = day.isin(BROKEN) & (usable["channel"] == "online")
    assert hit.sum() > 500
    np.testing.assert_allclose(factor[hit], 100)
    assert (usable.loc[hit, "unit"] == "major").all()
    np.testing.assert_allclose(factor[~hit], 1)


def test_the_corrections_come_on_the_day_after_and_are_complete(log, truth):
    again = log[log["revision"] == 1]
    assert set(again["file"]) == {str(CORRECTED)}
    want = truth.loc[again["id"].astype("int64"), "amount"].to_numpy()
    np.testing.assert_allclose(again["amount"] / np.where(again["unit"] == "minor", 100, 1), want, atol=1e-9)
    days = pd.Series(truth.index // 10**8, index=truth.index)
    concerned = days.isin([int(day.strftime("%Y%m%d")) for day in BROKEN]) & (truth["channel"] == "online")
    assert set(again["id"].astype("int64")) == set(truth.index[concerned])


def test_incidents_after_the_last_day_do_not_happen(tmp_path):
    short = Settings(customers=60, terminals=80, days=3)
    made = world.simulate_to(short, tmp_path / "bank")
    assert json.loads((made / "answer_key" / "incidents.json").read_text()) == []
    lines = [gzip.decompress(p.read_bytes()).decode() for p in (made / "sources" / "authorizations").iterdir()]
    assert not any('"revision": 1' in text for text in lines)


# ---------------------------------------------------------------- the other feeds


def test_telemetry_has_a_row_a_shop_terminal_and_its_own_dirt(bank):
    people = make_population(SETTINGS)
    shops = np.flatnonzero(~people.online) + 1
    tables = [pd.read_csv(p) for p in sorted((bank / "sources" / "telemetry").iterdir())]
    for table in tables:
        assert table["terminal_id"].tolist() == shops.tolist()
    every = pd.concat(tables)
    assert 0.001 < (every["temperature"] == -999).mean() < 0.006
    assert 0.1 < (every["temperature_unit"] == "F").mean() < 0.2
    real = every[every["temperature"] > -999]
    celsius = np.where(real["temperature_unit"] == "F", (real["temperature"] - 32) / 1.8, real["temperature"])
    assert celsius.min() > -15 and celsius.max() < 45
    assert every["uptime_hours"].between(0, 24).all()


def test_chargebacks_arrive_on_the_day_of_their_file(bank, truth):
    cases = []
    for path in sorted((bank / "sources" / "chargebacks").iterdir()):
        for case in csv.DictReader(path.open()):
            assert case["reported_at"].startswith(path.stem)
            cases.append(case)
    table = pd.DataFrame(cases)
    ids = table["transaction_id"].astype("int64")
    assert table["case_id"].is_unique
    want = truth.loc[ids]
    np.testing.assert_allclose(table["amount"].astype(float), want["amount"], atol=1e-9)
    reported = pd.to_datetime(table["reported_at"], utc=True, format="ISO8601")
    assert (reported.to_numpy() > want["event_time"].to_numpy()).all()
    false = (want["is_fraud"] == 0).sum()
    assert 0 < false < 0.04 * len(table)


def test_reasons_do_not_give_the_mode_away(bank, truth):
    tables = [pd.read_csv(p) for p in (bank / "sources" / "chargebacks").iterdir()]
    table = pd.concat([table for table in tables if len(table)])
    mode = truth.loc[table["transaction_id"], "mode"].astype(str).to_numpy()
    counts = pd.crosstab(table["reason"].to_numpy(), mode)
    assert (counts.loc["not recognized", ["large_amount", "card_testing", "stolen_card"]] > 0).all()


def test_the_log_of_operations_tells_of_releases_jobs_and_terminals_and_of_no_fraud(bank, truth):
    text = {path.stem: path.read_text() for path in sorted((bank / "sources" / "operations").iterdir())}
    first = BROKEN[0].isoformat()
    assert "deploy[" in text[first] and "release gateway 4.52.0" in text[first]
    assert "release gateway 4.51.0" in text["2025-11-03"], "releases come every two weeks, bad or not"
    assert "release gateway 4.52.1" in text[CORRECTED.isoformat()] and "job resend-online finished" in "".join(
        text.values()
    )
    lines = "".join(text.values()).splitlines()
    assert sum("job backup started" in line for line in lines) >= SETTINGS.days - 3
    replaced = {int(line.split("terminal ")[1].split()[0]) for line in lines if " replaced " in line}
    shops = set(np.flatnonzero(~make_population(SETTINGS).online) + 1)
    assert len(replaced) > 5 and {t for t in replaced if t <= SETTINGS.terminals} <= shops
    skimmed = set(truth.loc[truth["mode"] == "skimming", "terminal_id"])
    assert len(replaced & skimmed) < 0.2 * max(len(skimmed), 10), "who repairs terminals does not know of skimmers"


def test_the_dirt_of_the_log_of_operations_has_about_the_promised_shares(tmp_path):
    made = world.simulate_to(Settings(customers=20, terminals=20_000, days=12), tmp_path / "bank")
    lines = "".join(p.read_text() for p in sorted((made / "sources" / "operations").iterdir())).splitlines()
    whole = re.compile(r"^\S+T\S+ \S+ [\w-]+\[\d+\]: [A-Z]+ .+$")
    found = {
        "repeated": len(lines) - len(set(lines)) - sum(line.startswith("    at") for line in lines) + 2,
        "cut": sum(not whole.match(line) and not line.startswith("    at") for line in lines),
        "no_zone": sum(bool(whole.match(line)) and "+00:00 " not in line for line in lines),
        "unknown_terminal": sum(" terminal 90" in line for line in lines),
    }
    for name, promised in LOG_DIRT_SHARES.items():
        expected = promised * len(lines)
        assert abs(found[name]) > 0 and abs(found[name] - expected) < 4 * np.sqrt(expected) + 3, (
            name,
            found[name],
            expected,
        )


# ---------------------------------------------------------------- the truth stays apart


def test_the_answer_key_is_complete_and_the_sources_do_not_hold_it(bank, truth):
    key = pd.read_parquet(bank / "answer_key" / "truth.parquet")
    assert list(key.columns) == ["transaction_id", "is_fraud", "mode", "oracle"]
    assert key["mode"].dtype == "category" and str(key["is_fraud"].dtype) == "int8"
    np.testing.assert_array_equal(key["transaction_id"], truth.index)
    np.testing.assert_array_equal(key["is_fraud"], truth["is_fraud"])
    np.testing.assert_array_equal(key["oracle"], truth["oracle"])
    words = [b"oracle", b"is_fraud", b"card_testing", b"skimming", b"stolen_card", b"large_amount", b'gift_card"']
    for path in (bank / "sources").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            assert not any(word in content for word in words), path.name


# ---------------------------------------------------------------- a folder is written whole or not at all


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(LifecycleError, match=r"not an empty folder; choose another"):
        world.simulate_to(SETTINGS, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_world_leaves_nothing_behind(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.simulate_to(Settings(customers=60, terminals=80, days=5), tmp_path / "bank", stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path: Path, parts: list[bytes]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "_compress", full)
    with pytest.raises(LifecycleError, match="disk is full"):
        world.simulate_to(Settings(customers=60, terminals=80, days=5), tmp_path / "bank")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_day_by_day(tmp_path):
    told = []
    world.simulate_to(Settings(customers=60, terminals=80, days=3), tmp_path / "bank", lambda *now: told.append(now))
    assert told == [(1, 3), (2, 3), (3, 3)]
