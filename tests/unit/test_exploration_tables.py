"""Exploration runs on any table that keeps the contract, of any size; its page needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from lifecycle import exploration, files
from lifecycle.errors import LifecycleError
from lifecycle.exploration import reading

FROM = pd.Timestamp("2025-07-01", tz="UTC")
UTC = "datetime64[us, UTC]"


def payments(rows: int = 600, seed: int = 0, strings: bool = False) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    at = FROM + pd.to_timedelta(np.sort(random.uniform(0, 80 * 86_400, rows)), "s")
    table = pd.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "event_time": at.as_unit("us"),
            "customer_id": random.integers(0, 60, rows),
            "terminal_id": random.integers(0, 80, rows),
            "amount": np.exp(random.normal(3, 0.8, rows)).round(2) + 0.01,
        }
    )
    if strings:
        for name in ("transaction_id", "customer_id", "terminal_id"):
            table[name] = f"{name[0]}-" + table[name].astype(str)
    return table


def labels_of(table: pd.DataFrame, fraud: np.ndarray) -> pd.DataFrame:
    known_at = table["event_time"] + pd.Timedelta(days=5)
    return pd.DataFrame(
        {"transaction_id": table["transaction_id"], "is_fraud": fraud.astype("int8"), "known_at": known_at}
    ).astype({"known_at": UTC})


def explore_and_write(table: pd.DataFrame, labels: pd.DataFrame, folder: Path) -> dict:
    report = exploration.explore(table, labels)
    json.dumps(report, allow_nan=False)
    exploration.write_report(report, folder / "report.html")
    assert (folder / "report.html").read_text().endswith("</html>\n")
    return report


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 30, 600])
def test_the_five_columns_of_the_contract_are_enough(rows: int, strings: bool, tmp_path: Path) -> None:
    table = payments(rows, strings=strings)
    report = explore_and_write(table, labels_of(table, np.arange(rows) % 7 == 0), tmp_path)
    assert report["tables"]["transactions"]["rows"] == rows
    assert (report["quick_model"] is None) == (rows < 100)


@pytest.mark.parametrize(("share", "what"), [(0.0, "No fraud is known"), (1.0, "No honest payment is known")])
def test_one_class_alone_is_a_high_finding(share: float, what: str, tmp_path: Path) -> None:
    table = payments()
    report = explore_and_write(table, labels_of(table, np.full(len(table), share)), tmp_path)
    assert any(f["severity"] == "high" and what in f["message"] for f in report["findings"])


def test_no_label_at_all_is_no_error(tmp_path: Path) -> None:
    table = payments()
    report = explore_and_write(table, labels_of(table, np.zeros(len(table))).iloc[:0], tmp_path)
    assert report["classes"]["unknown"] == len(table)


@pytest.mark.parametrize(("rare", "severity"), [(5, "high"), (60, "medium"), (200, None)])
def test_a_minority_too_small_is_said(rare: int, severity: str | None) -> None:
    table = payments(2_000)
    report = exploration.explore(table, labels_of(table, np.arange(len(table)) < rare))
    found = [f["severity"] for f in report["findings"] if f["check"] == "minority too small"]
    assert found == ([severity] if severity else [])


def test_columns_of_every_type_and_a_wide_table_are_looked_at(tmp_path: Path) -> None:
    table = payments(800)
    random = np.random.default_rng(1)
    wide = pd.DataFrame(random.normal(size=(800, 150)), columns=[f"x{i}" for i in range(150)])
    odd = pd.DataFrame(
        {
            "nothing": pd.Series([None] * 800, dtype="object"),
            "nan": np.nan,
            "same": "a",
            "bool": random.random(800) < 0.5,
            "maybe": pd.array([True, None] * 400, dtype="boolean"),
            "whole": pd.array([1, None] * 400, dtype="Int64"),
            "text": pd.array(["a", None] * 400, dtype="string"),
            "naive": pd.Timestamp("2020-01-01"),
            "span": pd.to_timedelta(random.random(800), "D"),
            "list": [[1]] * 800,
            "empty_category": pd.Categorical([None] * 800, categories=["a"]),
            "infinite": np.inf,
            "huge": 1e308 * random.random(800),
            3: random.random(800),
            "a <b> & 'c'": random.choice(["<script>", "&"], 800),
        }
    )
    report = explore_and_write(
        pd.concat([table, odd, wide], axis=1), labels_of(table, np.arange(800) % 9 == 0), tmp_path
    )
    found = {(f["check"], f["column"]) for f in report["findings"]}
    assert {("missing", "transactions.nothing"), ("constant", "transactions.same")} <= found
    assert ("invalid", "transactions.infinite") in found
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "a <b>" not in page and "a &lt;b&gt;" in page


def test_the_page_needs_no_network_no_script_and_no_second_file(tmp_path: Path) -> None:
    table = payments(2_000)
    explore_and_write(table, labels_of(table, np.arange(2_000) % 19 == 0), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|src=|href=|<script|@import|url\(", page)
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    for heading in ("Through time", "Through the entity", "Through label delay", "Quick model", "Prediction power"):
        assert heading in page


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    table = payments()
    report = exploration.explore(table, labels_of(table, np.arange(600) % 9 == 0))
    with mock.patch("os.replace", side_effect=PermissionError(13, "denied")), pytest.raises(LifecycleError):
        exploration.write_report(report, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_report_is_the_same_on_every_run() -> None:
    table = payments(3_000)
    labels = labels_of(table, np.random.default_rng(2).random(3_000) < 0.05)
    assert exploration.explore(table, labels) == exploration.explore(table, labels)


def write_collection(folder: Path, rows: int) -> SimpleNamespace:
    """Write tables as collection leaves them; return the calendar."""
    table = payments(rows, 3)
    random = np.random.default_rng(4)
    table["merchant_category"] = pd.Categorical(random.choice(["fuel", "food", "0000", None], rows))
    born = (pd.Timestamp("1950-01-01", tz="UTC") + pd.to_timedelta(random.integers(0, 20_000, 60), "D")).as_unit("us")
    telemetry = pd.DataFrame(
        {"terminal_id": 1, "time": table["event_time"], "temperature": random.normal(20, 5, rows).round(3)}
    )
    telemetry.loc[::50, "temperature"] = -999.0
    tables = {
        "transactions": pd.concat([table, table.iloc[:30].assign(transaction_id=np.arange(rows, rows + 30))]),
        "labels": labels_of(table, random.random(rows) < 0.05),
        "customers": pd.DataFrame({"customer_id": np.arange(60), "birth_date": born}),
        "telemetry": telemetry,
    }
    for name, frame in tables.items():
        files.write_parquet(frame, folder / f"{name}.parquet")
    return SimpleNamespace(train_until="2025-09-10", test_from="2025-09-17")


def test_a_sample_is_said_to_be_one_and_counts_are_those_of_all_rows(tmp_path: Path) -> None:
    settings = write_collection(tmp_path / "in", 20_000)
    reports = {}
    for name, limit in (("all", 10**9), ("sample", 4_000)):
        with mock.patch.object(reading, "MAX_ROWS", limit):
            (tmp_path / name).mkdir()
            exploration.build(settings, {"collection": tmp_path / "in"}, tmp_path / name)
        reports[name] = files.read_json(tmp_path / name / "report.json")
    whole, sample = reports["all"], reports["sample"]
    assert sample["sample"]["transactions"].split()[0] != f"{whole['tables']['transactions']['rows']:,}"
    assert "transactions" not in whole["sample"]
    assert sample["classes"] == whole["classes"] and sample["duplicates"] == whole["duplicates"]
    for place in (("transactions", "merchant_category"), ("telemetry", "temperature")):
        for share in ("missing", "disguised"):
            exact = whole["tables"][place[0]]["columns"][place[1]][share]
            assert sample["tables"][place[0]]["columns"][place[1]][share] == pytest.approx(exact, abs=1e-12)
            assert exact > 0 or (share, place[0]) == ("missing", "telemetry")


def test_a_sample_keeps_customers_whole_and_is_the_same_each_time(tmp_path: Path) -> None:
    write_collection(tmp_path, 20_000)
    read = [
        reading.read_table(
            tmp_path / "transactions.parquet", "event_time", FROM + pd.Timedelta(days=70), "customer_id", 4_000
        )
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(read[0].frame, read[1].frame)
    table = pd.read_parquet(tmp_path / "transactions.parquet")
    table = table[table["event_time"] < FROM + pd.Timedelta(days=70)]
    kept = table["customer_id"].isin(read[0].frame["customer_id"])
    assert 0 < kept.sum() == len(read[0].frame) < 0.5 * len(table) and read[0].rows == len(table)
    assert read[0].by_day.sum() == len(table)


def test_chain_ladder_is_right_where_all_weeks_ripen_alike() -> None:
    random = np.random.default_rng(5)
    table = payments(200_000, 6)
    fraud = random.random(200_000) < 0.05
    delay = pd.to_timedelta(random.lognormal(1.5, 0.8, 200_000), "D")
    labels = labels_of(table, fraud)[fraud].assign(known_at=(table["event_time"] + delay)[fraud].dt.as_unit("us"))
    end = FROM + pd.Timedelta(days=80)
    last = exploration.project(exploration.ripen(table, labels, end)).iloc[-1]
    assert last["rate"] < 0.03 and abs(last["expected_rate"] - 0.05) < 0.006
    assert (
        exploration.project(exploration.ripen(table, labels, end + pd.Timedelta(days=200)))["share_known"].eq(1).all()
    )
