"""Collection: every record has one fate, and bad input is one sentence."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifecycle import collection, contracts
from lifecycle.collection import settling
from lifecycle.errors import ContractError, LifecycleError

KNOBS = SimpleNamespace(label_delay_days=7)
CHARGEBACK_HEADER = "case_id,transaction_id,reported_at,reason,amount\n"
JOB = "2025-07-01T01:00:00.100+00:00 scheduler-1 scheduler[301]: INFO job backup started\n"
TELEMETRY_HEADER = "terminal_id,time,temperature,temperature_unit,tamper_events,uptime_hours\n"


def payment(transaction_id: int, **changes: object) -> dict[str, object]:
    record = {
        "id": transaction_id,
        "time": f"2025-07-01T10:00:{transaction_id % 60:02d}.000+00:00",
        "customer": 1,
        "terminal": 10,
        "amount": 12.5,
        "unit": "major",
        "currency": "EUR",
        "channel": "pos",
        "category": "fuel",
        "text": "FUEL 1 TOWN",
        "revision": 0,
    }
    return record | changes


def write_sources(
    folder: Path,
    days: dict[str, list],
    chargebacks: str = "",
    telemetry: str = "",
    chargeback_day: str = "2025-07-02",
    operations: str = "",
) -> Path:
    """Write a bank of two customers and two terminals; a line is a record, or text as it is."""
    sources = folder / "world" / "sources"
    for name in ("authorizations", "telemetry", "chargebacks", "operations"):
        (sources / name).mkdir(parents=True)
    with closing(sqlite3.connect(sources / "bank.sqlite")) as bank:
        bank.execute("CREATE TABLE customers (customer_id INTEGER, home_x, home_y, birth_date, region, opened_on)")
        bank.executemany("INSERT INTO customers VALUES (?, 1.0, 2.0, '1980-05-01', 'N', '2010-01-01')", [(1,), (2,)])
        bank.execute(
            "CREATE TABLE terminals (terminal_id INTEGER, x, y, merchant_name, merchant_category, channel, city)"
        )
        bank.executemany("INSERT INTO terminals VALUES (?, 1.0, 2.0, 'M', 'fuel', 'pos', 'C')", [(10,), (11,)])
        bank.commit()
    for day, lines in days.items():
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (sources / "authorizations" / f"{day}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (sources / "chargebacks" / f"{chargeback_day}.csv").write_text(CHARGEBACK_HEADER + chargebacks)
    (sources / "telemetry" / "2025-07-01.csv.gz").write_bytes(gzip.compress((TELEMETRY_HEADER + telemetry).encode()))
    (sources / "operations" / "2025-07-01.log").write_text(JOB + operations)
    (sources / "holidays.csv").write_text("date,name,region\n2025-12-25,Christmas,all\n")
    return folder / "world"


def collect(world: Path, out: Path) -> dict[str, pd.DataFrame]:
    out.mkdir()
    collection.build(KNOBS, {"world": world}, out)
    return {path.stem: pd.read_parquet(path) for path in out.glob("*.parquet")}


def counts(tables: dict[str, pd.DataFrame], source: str) -> dict[str, int]:
    rows = tables["accounting"].query("source == @source")[list(collection.COUNTS)]
    return rows.sum().to_dict()


def test_each_kind_of_bad_record_is_quarantined_with_its_reason_and_line(tmp_path: Path) -> None:
    lines = [
        payment(1),
        json.dumps(payment(2))[:40],
        payment(3, time="2025-07-01T10:00:03"),
        payment(4, time="yesterday"),
        payment(5, amount=0.0),
        payment(6, amount=-3.0),
        payment(7, amount=None),
        payment(8, unit="pounds"),
        payment(9, customer=99),
        payment(10, terminal=99),
        payment(11, id=None),
    ]
    tables = collect(write_sources(tmp_path, {"2025-07-01": lines}), tmp_path / "out")
    found = tables["quarantine"].sort_values("line")
    assert found["line"].tolist() == list(range(2, 12))
    assert found["reason"].tolist() == [
        "broken line",
        "no time zone",
        "unreadable time",
        "amount not positive",
        "amount not positive",
        "unreadable amount",
        "unknown unit",
        "unknown customer",
        "unknown terminal",
        "no transaction id",
    ]
    assert found["record"].iloc[0] == json.dumps(payment(2))[:40]
    assert tables["transactions"]["transaction_id"].tolist() == [1]
    assert counts(tables, "authorizations") == {
        "read": 11, "accepted": 1, "quarantined": 10, "duplicates": 0, "superseded": 0,
    }  # fmt: skip


def test_units_and_zones_are_normalized(tmp_path: Path) -> None:
    lines = [payment(1, amount=1234, unit="minor"), payment(2, time="2025-07-01T12:00:00+02:00")]
    table = collect(write_sources(tmp_path, {"2025-07-01": lines}), tmp_path / "out")["transactions"]
    assert table.set_index("transaction_id")["amount"].to_dict() == {1: 12.34, 2: 12.5}
    assert table.set_index("transaction_id")["event_time"][2] == pd.Timestamp("2025-07-01 10:00", tz="UTC")
    assert table["event_time"].dtype == contracts.UTC


def test_a_retry_is_a_duplicate_even_when_it_comes_on_a_later_day(tmp_path: Path) -> None:
    days = {"2025-07-01": [payment(1), payment(1), payment(2)], "2025-07-02": [payment(2), payment(3)]}
    tables = collect(write_sources(tmp_path, days), tmp_path / "out")
    assert tables["transactions"]["transaction_id"].tolist() == [1, 2, 3]
    by_day = tables["accounting"].query("source == 'authorizations'").set_index(["day"])["duplicates"]
    assert by_day.tolist() == [1, 1]


def test_a_revision_replaces_what_came_before_and_keeps_it(tmp_path: Path) -> None:
    days = {
        "2025-07-01": [payment(1, amount=1250.0), payment(2)],
        "2025-07-03": [payment(1, amount=12.5, revision=1), payment(1, amount=12.5, revision=1)],
    }
    tables = collect(write_sources(tmp_path, days), tmp_path / "out")
    assert tables["transactions"]["amount"].tolist() == [12.5, 12.5]
    assert tables["superseded"]["amount"].tolist() == [1250.0]
    assert list(tables["superseded"].columns) == list(tables["transactions"].columns)
    assert counts(tables, "authorizations") == {
        "read": 4, "accepted": 2, "quarantined": 0, "duplicates": 1, "superseded": 1,
    }  # fmt: skip


def test_two_payments_under_one_id_contradict_each_other(tmp_path: Path) -> None:
    tables = collect(write_sources(tmp_path, {"2025-07-01": [payment(1), payment(1, amount=99.0)]}), tmp_path / "out")
    assert tables["transactions"]["amount"].tolist() == [12.5]
    assert tables["quarantine"]["reason"].tolist() == ["id used twice"]


def test_labels_are_a_history_with_the_time_each_became_known(tmp_path: Path) -> None:
    chargebacks = (
        "a,1,2025-07-03T00:00:00+00:00,fraud,1\n"  # before day 7: the only row
        "b,2,2025-07-12T02:00:00+02:00,fraud,1\n"  # after day 7: overrules
        "c,99,2025-07-03T00:00:00+00:00,fraud,1\n"  # nobody knows this payment
        "d,3,2025-06-01T00:00:00+00:00,fraud,1\n"  # before its payment
        "e,1,2025-07-04T00:00:00+00:00,fraud,1\n"  # the same payment again
    )
    days = {"2025-07-01": [payment(1), payment(2), payment(3)], "2025-07-20": [payment(4, time="2025-07-20T10:00:00Z")]}
    tables = collect(write_sources(tmp_path, days, chargebacks), tmp_path / "out")
    labels = tables["labels"]
    history = [(row.transaction_id, row.is_fraud, str(row.known_at.date())) for row in labels.itertuples()]
    assert history == [(1, 1, "2025-07-03"), (2, 0, "2025-07-08"), (3, 0, "2025-07-08"), (2, 1, "2025-07-12")]
    reasons = tables["quarantine"].query("source == 'chargebacks'").sort_values("line")
    assert reasons["reason"].tolist() == ["unknown transaction", "reported before the payment"]
    assert reasons["line"].tolist() == [4, 5]  # the header is line 1
    assert counts(tables, "chargebacks") == {
        "read": 5, "accepted": 2, "quarantined": 2, "duplicates": 1, "superseded": 0,
    }  # fmt: skip


def test_telemetry_is_in_celsius_and_a_silent_sensor_stays_silent(tmp_path: Path) -> None:
    telemetry = (
        "10,2025-07-01T03:00:00+00:00,68.0,F,0,24\n"
        "11,2025-07-01T03:00:00+00:00,-999,F,0,24\n"
        "77,2025-07-01T03:00:00+00:00,20.0,C,0,24\n"
        "10,2025-07-01T03:00:00+00:00,68.0,F,0,24\n"
    )
    tables = collect(write_sources(tmp_path, {"2025-07-01": [payment(1)]}, telemetry=telemetry), tmp_path / "out")
    assert tables["telemetry"].set_index("terminal_id")["temperature"].round(6).to_dict() == {10: 20.0, 11: -999.0}
    assert counts(tables, "telemetry") == {
        "read": 4, "accepted": 2, "quarantined": 1, "duplicates": 1, "superseded": 0,
    }  # fmt: skip


def test_the_log_of_operations_is_read_line_by_line(tmp_path: Path) -> None:
    operations = (
        "2025-07-01T08:00:00.000+02:00 field-1 field-service[424]: INFO terminal 10 replaced ticket=FS-1\n"
        "2025-07-01T09:00:00.000+00:00 gw-1 gateway[470]: ERROR restart after out of memory\n"
        "    at net.bank.gateway.Worker.run(Worker.java:118)\n"
        "2025-07-01T10:00:00.000 gw-1 deploy[369]: INFO release gateway 4.52.0\n"
        "2025-07-01T11:00:00.000+00:00 fleet-1 fleet[550]: WARN terminal 77 offline minutes=5\n"
        "2025-07-01T11:0\n" + JOB + "2025-07-01T25:00:00.000+00:00 gw-1 gateway[470]: INFO restart planned\n"
    )
    tables = collect(write_sources(tmp_path, {"2025-07-01": [payment(1)]}, operations=operations), tmp_path / "out")
    log = tables["operations"]
    contracts.check(log, contracts.OPERATIONS, "the log")
    assert log["event"].tolist() == ["job", "replacement", "restart"]
    assert log["terminal_id"].tolist() == [pd.NA, 10, pd.NA]
    assert log["time"].iloc[1] == pd.Timestamp("2025-07-01 06:00", tz="UTC")
    assert log.iloc[2][["host", "program", "level", "message"]].tolist() == [
        "gw-1", "gateway", "ERROR", "restart after out of memory",
    ]  # fmt: skip
    refused = tables["quarantine"].query("source == 'operations'")
    assert dict(zip(refused["line"], refused["reason"], strict=True)) == {
        4: "not a log line", 5: "no time zone", 6: "unknown terminal", 7: "not a log line", 9: "unreadable time",
    }  # fmt: skip
    assert refused["record"].iloc[0].strip().startswith("at net.bank") and set(refused["file"]) == {"2025-07-01.log"}
    assert counts(tables, "operations") == {
        "read": 9, "accepted": 3, "quarantined": 5, "duplicates": 1, "superseded": 0,
    }  # fmt: skip


def test_more_payments_than_a_stretch_holds_make_the_same_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = {f"2025-07-0{d}": [payment(100 * d + h, time=f"2025-07-0{d}T{h:02d}:30:00Z") for h in range(24)]
            for d in (1, 2, 3)}  # fmt: skip
    days["2025-07-03"] += [payment(101, time="2025-07-01T01:30:00Z"), payment(223, time="2025-07-02T23:30:00Z")]
    days["2025-07-03"] += [payment(400, time="2025-07-01T12:00:00Z")]  # two days late
    world = write_sources(tmp_path, days, "a,101,2025-07-02T00:00:00+00:00,fraud,1\n")
    one = collect(world, tmp_path / "one")
    monkeypatch.setattr(settling, "_ROWS_A_STRETCH", 7)
    monkeypatch.setattr(settling, "_IDS_AT_ONCE", 5)
    many = collect(world, tmp_path / "many")
    assert pq.ParquetFile(tmp_path / "many" / "transactions.parquet").num_row_groups >= 8
    assert one.keys() == many.keys()
    for name in one:
        pd.testing.assert_frame_equal(one[name], many[name])
    assert one["transactions"]["event_time"].is_monotonic_increasing
    assert counts(one, "authorizations")["duplicates"] == 2


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.integers(0, 2),
            st.sampled_from([12.5, 99.0, -1.0, None]),
            st.sampled_from(["2025-07-01", "2025-07-02"]),
            st.integers(20, 400),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_arrives_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    folder = tmp_path_factory.mktemp("bank")
    days: dict[str, list] = {"2025-07-01": [payment(50)], "2025-07-02": []}
    for transaction_id, revision, amount, day, length in rows:
        days[day].append(json.dumps(payment(transaction_id, revision=revision, amount=amount))[:length])
    world = write_sources(folder, {day: lines for day, lines in days.items() if lines})
    tables = collect(world, folder / "out")
    total = counts(tables, "authorizations")
    assert total["read"] == len(rows) + 1
    assert total["accepted"] == len(tables["transactions"])
    assert total["superseded"] == len(tables["superseded"])
    assert total["quarantined"] == len(tables["quarantine"])
    assert total["read"] == sum(total[name] for name in collection.COUNTS[1:])
    assert tables["transactions"]["transaction_id"].is_unique


def test_losing_count_is_an_error() -> None:
    with pytest.raises(LifecycleError, match="lost count in 1 deliveries"):
        collection.check_accounting(pd.DataFrame({"source": ["a"], "read": [3], "accepted": [2]}))


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    world = write_sources(tmp_path, {"2025-07-01": [payment(1)] * 500, "2025-07-02": [payment(2)]})
    path = world / "sources" / "authorizations" / "2025-07-01.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LifecycleError, match=r"2025-07-01\.jsonl\.gz cannot be read .* fetch this file"):
        collect(world, tmp_path / "out")


CSV_ROWS = b"1,2025-07-01T10:00:00Z,1,10,12.5\n" * 200
RENAMED = "".join(
    json.dumps({"price" if k == "amount" else k: v for k, v in payment(i).items()}) + "\n" for i in range(150)
)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("authorizations/2025-07-01.jsonl.gz", b"", r"is empty \(0 bytes\)"),
        ("authorizations/2025-07-01.jsonl.gz", b"no gzip" * 9, r"cannot be read .*; fetch"),
        ("authorizations/2025-07-01.jsonl.gz", gzip.compress(CSV_ROWS), r"none of its 200 .* broken line"),
        ("authorizations/2025-07-01.jsonl.gz", gzip.compress(RENAMED.encode()), r"none of its 150 .* amount"),
        ("authorizations/july.jsonl.gz", gzip.compress(b"{}\n"), r"the name does not begin with a day"),
        ("telemetry/2025-07-01.csv.gz", gzip.compress(b""), r"column 'terminal_id' is missing"),
        ("operations/2025-07-01.log", b"<xml>\n" * 100, r"none of its 100 .* not a log line"),
        ("operations/2025-07-01.log", b"\xff\xfe\x00" * 50, r"cannot be read"),
        ("holidays.csv", b"date,name,region\nsoon,Easter,all\n", r"column 'date' holds what is not a date"),
    ],
    ids=["no bytes", "no gzip", "csv", "renamed", "no day", "no header", "xml", "no text", "no date"],
)  # fmt: skip
def test_a_file_of_the_wrong_kind_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    world = write_sources(tmp_path, {"2025-07-01": [payment(1)]})
    (world / "sources" / name).write_bytes(content)
    with pytest.raises(LifecycleError, match=sentence) as raised:
        collect(world, tmp_path / "out")
    assert "\n" not in str(raised.value) and name.rpartition("/")[2] in str(raised.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_database_with_a_wrong_type_is_named(tmp_path: Path) -> None:
    world = write_sources(tmp_path, {"2025-07-01": [payment(1)]})
    with closing(sqlite3.connect(world / "sources" / "bank.sqlite")) as bank:
        bank.execute("UPDATE terminals SET x = 'east' WHERE terminal_id = 11")
        bank.commit()
    with pytest.raises(LifecycleError, match=r"bank\.sqlite: table terminals cannot be read .* restore the database"):
        collect(world, tmp_path / "out")


def test_a_source_without_a_column_is_named(tmp_path: Path) -> None:
    world = write_sources(tmp_path, {"2025-07-01": [payment(1)]})
    (world / "sources" / "chargebacks" / "2025-07-02.csv").write_text("case_id,transaction_id,reason,amount\n")
    with pytest.raises(ContractError, match=r"2025-07-02\.csv: column 'reported_at' is missing"):
        collect(world, tmp_path / "out")


@pytest.mark.parametrize("name", ["bank.sqlite", "authorizations", "telemetry"])
def test_a_missing_source_is_named(tmp_path: Path, name: str) -> None:
    world = write_sources(tmp_path, {"2025-07-01": [payment(1)]})
    path = world / "sources" / name
    path.rename(path.with_name("gone"))
    with pytest.raises(LifecycleError, match=name):
        collect(world, tmp_path / "out")


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    world = write_sources(tmp_path, {"2025-07-01": [payment(1)]})
    (world / "sources" / "bank.sqlite").write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(LifecycleError, match=r"bank\.sqlite: table customers cannot be read"):
        collect(world, tmp_path / "out")


# ---------------------------------------------------------------------------- a file of one's own


def own_payments() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "transaction_id": [1, 2, 3],
            "event_time": ["2025-08-01T10:00:00+02:00", "2025-08-01T10:00:00Z", "2025-08-02T00:00:00+00:00"],
            "customer_id": ["007", "a", "b"],
            "terminal_id": [1, 1, 2],
            "amount": [1.5, 2.0, 3.0],
            "is_fraud": [0, 1, None],
            "remark": ["x", "y", "z"],
        }
    )


def ingest(folder: Path, payments: pd.DataFrame | bytes, **options: object) -> dict[str, pd.DataFrame]:
    path = folder / "mine.csv"
    if isinstance(payments, bytes):
        path.write_bytes(payments)
    else:
        payments.to_csv(path, index=False)
    out = folder / "out"
    out.mkdir()
    collection.ingest(path, **options)(None, {}, out)
    return {path.stem: pd.read_parquet(path) for path in out.glob("*.parquet")}


def test_a_plain_csv_becomes_the_same_tables(tmp_path: Path) -> None:
    tables = ingest(tmp_path, own_payments())
    contracts.check(tables["transactions"], contracts.TRANSACTIONS, "mine")
    contracts.check(tables["labels"], contracts.LABELS, "mine")
    assert list(tables["transactions"].columns) == list(contracts.TRANSACTIONS.columns)
    assert tables["transactions"]["customer_id"].tolist() == ["007", "a", "b"]
    assert tables["transactions"]["event_time"].iloc[0] == pd.Timestamp("2025-08-01 08:00", tz="UTC")
    assert tables["labels"][["transaction_id", "is_fraud"]].to_numpy().tolist() == [[1, 0], [2, 1]]
    assert tables["labels"]["known_at"].iloc[0] == pd.Timestamp("2025-08-08 08:00", tz="UTC")
    assert set(tables) == {"transactions", "labels", "superseded", "quarantine", "accounting"}


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_parquet_and_csv_give_the_same(tmp_path: Path, unit: str) -> None:
    frame = own_payments()
    frame["event_time"] = pd.to_datetime(frame["event_time"], utc=True).dt.as_unit(unit)
    frame.to_parquet(tmp_path / "mine.parquet")
    (tmp_path / "other").mkdir()
    collection.ingest(tmp_path / "mine.parquet")(None, {}, tmp_path / "other")
    tables = ingest(tmp_path, own_payments())
    for name in ("transactions", "labels"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "other" / f"{name}.parquet"), tables[name])


def test_a_mapping_renames_columns_and_names_the_zone(tmp_path: Path) -> None:
    frame = own_payments().rename(columns={"event_time": "when"}).assign(when="2025-08-01 10:00:00")
    tables = ingest(tmp_path, frame, mapping={"event_time": "when", "time_zone": "Europe/Berlin"})
    assert (tables["transactions"]["event_time"] == pd.Timestamp("2025-08-01 08:00", tz="UTC")).all()


def test_labels_of_a_file_keep_the_time_they_became_known(tmp_path: Path) -> None:
    labels = pd.DataFrame(
        {"transaction_id": [1, 1], "is_fraud": [0, 1], "known_at": ["2025-09-01T00:00:00Z", "2025-09-02T00:00:00Z"]}
    )
    labels.to_csv(tmp_path / "labels.csv", index=False)
    tables = ingest(tmp_path, own_payments(), labels=tmp_path / "labels.csv")
    assert tables["labels"]["is_fraud"].tolist() == [0, 1]
    assert tables["labels"]["known_at"].dt.day.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"amount": [-1, 2, 0]}, r"mine\.csv: column 'amount' is not positive in 2 rows \(first values: -1.0, 0.0\)"),
        ({"amount": ["x", 2, None]}, r"'amount' is missing or not a number in 2 rows \(first values: 'x', nothing\)"),
        ({"amount": [float("inf"), 1, 1]}, r"column 'amount' is not finite in 1 row "),
        ({"transaction_id": [1, 1, 2]}, r"column 'transaction_id' is repeated in 2 rows \(first values: 1\)"),
        (
            {"event_time": ["2025-08-01", "2025-08-01 10:00:00", "2025-08-02T00:00:00Z"]},
            r"'event_time' has no time zone in 2 rows .* time_zone = \"UTC\"",
        ),
        ({"event_time": [1, 2, 3]}, r"'event_time' is not a timestamp in 3 rows \(first values: '1', '2', '3'\)"),
        ({"customer_id": [1, None, 2]}, r"column 'customer_id' is missing in 1 row "),
        ({"is_fraud": [0, 1, "maybe"]}, r"column 'is_fraud' is neither 0 nor 1 in 1 row \(first values: 'maybe'\)"),
        ({"is_fraud": [0, 1, 2]}, r"column 'is_fraud' is neither 0 nor 1 in 1 row \(first values: 2.0\)"),
    ],
)  # fmt: skip
def test_a_bad_column_is_one_sentence_with_rows_and_values(tmp_path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence) as raised:
        ingest(tmp_path, own_payments().assign(**changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty; give a CSV or Parquet file"),
        (b"\x00\x01\x80\xff" * 100, "cannot be read as CSV"),
        (b"PAR1 and no more", "cannot be read as Parquet"),
        (b"payment,amount\n", "columns 'transaction_id', 'event_time' are missing"),
    ],
)
def test_an_unusable_file_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(LifecycleError, match=sentence) as raised:
        ingest(tmp_path, content)
    assert "\n" not in str(raised.value)


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="there are no rows"):
        ingest(tmp_path, own_payments().iloc[:0])


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("transaction_id,is_fraud\n1,0\n99,1\n", r"names payments that mine\.csv does not have in 1 row .*: 99\)"),
        ("transaction_id,is_fraud,known_at\n1,1,2025-07-01T00:00:00Z\n", r"'known_at' is before the payment in 1 row"),
        ("transaction_id,is_fraud\n1,0\n1,1\n", "is repeated in 2 rows"),
        ("transaction_id\n1\n", "column 'is_fraud' is missing"),
    ],
)  # fmt: skip
def test_bad_labels_are_one_sentence(tmp_path: Path, labels: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(ContractError, match=sentence):
        ingest(tmp_path, own_payments(), labels=tmp_path / "labels.csv")


def test_without_labels_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="column 'is_fraud' is missing and no file of labels is given"):
        ingest(tmp_path, own_payments().drop(columns="is_fraud"))


def test_a_mapping_of_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LifecycleError, match="names a column 'amont'"):
        ingest(tmp_path, own_payments(), mapping={"amont": "price"})
    with pytest.raises(LifecycleError, match="Unknown time zone 'Mars'"):
        collection.ingest(tmp_path / "mine.csv", mapping={"time_zone": "Mars"})(None, {}, tmp_path)
