"""Every planted kind of defect is found, by planting at random and in the files of a simulated bank."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lifecycle import exploration
from lifecycle.pipeline import Pipeline
from lifecycle.settings import Settings
from lifecycle.world.register import DISGUISED_BIRTH_SHARE
from lifecycle.world.sources import DIRT_SHARES

ROWS = 6_000
WITHOUT_SHRINKING = (Phase.explicit, Phase.generate)  # a smaller seed explains nothing
FROM = pd.Timestamp("2025-07-01", tz="UTC")
FAR_DATES = [pd.Timestamp(day, tz="UTC") for day in ("1900-01-01", "9999-12-31")]


def clean_table(seed: int, rows: int = ROWS) -> pd.DataFrame:
    """Return payments with many further columns of all types, none of which has a defect."""
    random = np.random.default_rng(seed)
    at = FROM + pd.to_timedelta(np.sort(random.uniform(0, 60 * 86_400, rows)), "s")
    born = pd.Timestamp("1940-01-01", tz="UTC") + pd.to_timedelta(random.integers(0, 24_000, rows), "D")
    code = pd.Series(random.integers(1_000, 9_999, rows)).astype(str)
    return pd.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "event_time": at.as_unit("us"),
            "customer_id": random.integers(0, 400, rows),
            "terminal_id": random.integers(0, 500, rows),
            "amount": np.exp(random.normal(3, 0.8, rows)).round(2) + 0.01,
            "channel": pd.Categorical(random.choice(["pos", "online"], rows)),
            "bell": random.normal(20, 5, rows),
            "positive": np.exp(random.normal(2, 1, rows)),
            "uniform": random.random(rows),
            "one_decimal": random.normal(20, 5, rows).round(1),
            "counts": random.poisson(2, rows),
            "flag": random.random(rows) < 0.3,
            "born": born.as_unit("us"),
            "kind": random.choice(["fuel", "food", "books", "travel"], rows),
            "code": "AB-" + code,
            "number_text": random.normal(50, 10, rows).round(2).astype(str),
            "place": pd.Categorical(random.choice(["Elm Street", "Oak Lane", "Mill Road"], rows)),
        }
    )


def labels_of(table: pd.DataFrame, seed: int, rate: float = 0.05) -> pd.DataFrame:
    fraud = np.random.default_rng(seed).random(len(table)) < rate
    known_at = table["event_time"] + pd.to_timedelta(np.where(fraud, 3.0, 7.0), "D")
    return pd.DataFrame(
        {
            "transaction_id": table["transaction_id"],
            "is_fraud": fraud.astype("int8"),
            "known_at": known_at.dt.as_unit("us"),
        }
    )


def plant_all(table: pd.DataFrame, fraud: np.ndarray, random: np.random.Generator, share: float) -> set:
    """Plant every kind of defect, each in a column of its own and in random rows; return what is to be found."""
    n = len(table)

    def some() -> np.ndarray:
        return random.choice(n, max(int(share * n), 12), replace=False)

    def new(name: str, values: object) -> str:
        table[name] = values
        return f"transactions.{name}"

    expected = set()

    def put(check: str, name: str, values: pd.Series, bad: object) -> None:
        values = pd.Series(values).astype(object if isinstance(bad, str) else values.dtype).copy()
        values.iloc[some()] = bad
        expected.add((check, new(name, values)))

    put("missing", "x_gap", table["bell"], np.nan)
    put("disguised missing", "x_mask", table["kind"], random.choice(["0000", "n/a", "???", "Unknown", "-"]))
    put("disguised missing", "x_number", table["bell"], float(random.choice([-999, -9999, 9999])))
    put("disguised missing", "x_minus_one", table["positive"], -1.0)
    put("disguised missing", "x_date", table["born"], FAR_DATES[random.integers(2)])
    put("invalid", "x_infinite", table["positive"], np.inf)
    put("invalid", "x_text", table["number_text"], "12 EUR")
    put("string patterns", "x_code", table["code"], "?" + str(random.integers(10)) + "x/y")
    put("spellings", "x_case", table["kind"], random.choice(["FUEL", "Food ", "bo_oks"]))
    flipped = table["positive"].copy()
    flipped.iloc[some()[: int(0.015 * n)]] *= -1
    expected.add(("invalid", new("x_sign", flipped)))
    unit = table["positive"].copy()
    unit.iloc[some()] *= 10_000
    expected.add(("outliers", new("x_unit", unit)))
    converted = table["one_decimal"].copy()
    rows = some()
    converted.iloc[rows] = (converted.iloc[rows] * 1.8 + 32) / 1.7
    expected.add(("mixed precision", new("x_precision", converted)))
    rare = table["kind"].astype(object).copy()
    rare.iloc[random.choice(n, 4, replace=False)] = "zoo"
    expected.add(("rare categories", new("x_rare", rare)))
    expected.add(("constant", new("x_constant", 7)))
    expected.add(("multicollinearity", new("x_copy", np.exp(table["uniform"]))))
    day = table["event_time"].dt.floor("D")
    days = random.choice(np.arange(5, 55), 3, replace=False)
    chosen = day.isin(FROM + pd.to_timedelta(days, "D"))
    expected.add(("jump in time", new("x_jump", table["positive"] * np.where(chosen, 100, 1))))
    expected.add(("jump in time", new("x_silent", table["bell"].mask(chosen))))
    expected.add(("leak through time", new("x_knows", fraud * 10 + random.random(n))))
    expected.add(
        ("leak through time", new("x_after", table["bell"].where(random.random(n) < np.where(fraud, 0.75, 0.02))))
    )
    later = table["event_time"] + pd.to_timedelta(random.random(n), "D")
    expected.add(("leak through time", new("x_later", later.dt.as_unit("us"))))
    return expected


@settings(max_examples=4, phases=WITHOUT_SHRINKING)
@given(st.integers(0, 10_000), st.floats(0.005, 0.05))
def test_each_kind_of_defect_is_found_wherever_it_is_planted(seed: int, share: float) -> None:
    table = clean_table(seed)
    labels = labels_of(table, seed + 1)
    clean = set(table.columns)
    expected = plant_all(table, labels["is_fraud"].to_numpy() == 1, np.random.default_rng(seed + 2), share)
    again = table.iloc[np.random.default_rng(seed).choice(ROWS, 12, replace=False)]
    again = again.assign(transaction_id=np.arange(ROWS, ROWS + 12))
    table = pd.concat([table, again], ignore_index=True)
    report = exploration.explore(table, labels)
    found = {(f["check"], f["column"]) for f in report["findings"]}
    assert expected | {("duplicates", "transactions")} <= found
    defects = {f["column"].removeprefix("transactions.") for f in report["findings"] if f["kind"] == "defect"}
    assert not defects & clean


@settings(max_examples=3, phases=WITHOUT_SHRINKING)
@given(st.integers(0, 10_000))
def test_a_clean_table_has_no_findings_of_defects_and_none_that_is_severe(seed: int) -> None:
    table = clean_table(seed)
    report = exploration.explore(table, labels_of(table, seed + 1))
    assert [f for f in report["findings"] if f["kind"] == "defect" or f["severity"] == "high"] == []


def test_an_odd_row_is_among_the_oddest() -> None:
    table = clean_table(3)
    table.loc[100, ["amount", "bell", "positive", "counts"]] = [90_000.0, -70.0, 5_000.0, 60]
    odd = exploration.explore(table, labels_of(table, 4))["odd_rows"]
    assert odd["oddest"][0] == "100"


PLANTED = [
    ("a record sent twice", "upstream duplicates", "authorizations", DIRT_SHARES["duplicate"]),
    ("a record one or two days late", "late records", "transactions", 1.5 * DIRT_SHARES["late"]),
    ("no category", "missing", "transactions.merchant_category", DIRT_SHARES["missing_category"]),
    ("category 0000", "disguised missing", "transactions.merchant_category", DIRT_SHARES["disguised_category"]),
    ("no time zone", "quarantine: no time zone", "authorizations", DIRT_SHARES["no_zone"]),
    ("unknown customer", "quarantine: unknown customer", "authorizations", DIRT_SHARES["unknown_customer"]),
    ("amount of zero or less", "quarantine: amount not positive", "authorizations", DIRT_SHARES["non_positive_amount"]),
    ("a line cut off", "quarantine: broken line", "authorizations", DIRT_SHARES["truncated"]),
    ("three spellings of a merchant", "string patterns", "transactions.merchant_text", 0.15),
    ("born on 1900-01-01", "disguised missing", "customers.birth_date", DISGUISED_BIRTH_SHARE),
    ("-999 degrees", "disguised missing", "telemetry.temperature", 0.003),
    ("Fahrenheit among Celsius", "mixed precision", "telemetry.temperature", 0.15),
    ("Fahrenheit in the delivery", "mixed units", "raw telemetry.temperature", 0.15),
    ("cents among euros in the delivery", "mixed units", "raw log.amount", 0.08),
    ("local time in the delivery", "mixed time zones", "raw log.time", 0.30),
]
"""What the simulated bank plants (see ``lifecycle/world/sources.py`` and ``register.py``), and what must find it."""

CONSEQUENCES = {("quarantine: unknown transaction", "chargebacks")}
"""A chargeback of a payment that is in quarantine: found, and not planted by itself."""

UPSTREAM_OF_OTHERS = {"operations"}
"""Sources whose dirt their own tests grade, where the bank has them."""


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    small = Settings(customers=600, terminals=900, days=92, data_dir=tmp_path_factory.mktemp("data"))
    return Pipeline(small)


def inspect_deliveries(world: Path) -> list[dict]:
    """Return the findings in two days of the raw files, before collection has converted anything."""
    log = []
    for path in sorted((world / "sources" / "authorizations").glob("*.gz"))[:2]:
        for line in gzip.decompress(path.read_bytes()).splitlines():
            with suppress(json.JSONDecodeError):
                log.append(json.loads(line))
    sensors = pd.read_csv(min((world / "sources" / "telemetry").glob("*.gz")))
    return exploration.inspect(pd.DataFrame(log), "raw log") + exploration.inspect(sensors, "raw telemetry")


def test_each_planted_defect_of_the_simulated_bank_is_found_and_nothing_else(bank: Pipeline) -> None:
    report = bank.artifact("exploration").json("report")
    raw = [f for f in inspect_deliveries(bank.artifact("world").path) if f["check"].startswith("mixed ")]
    findings = [f for f in report["findings"] if f["column"] not in UPSTREAM_OF_OTHERS]
    graded = exploration.grade(findings + raw, PLANTED)
    assert graded.loc[graded["verdict"] == "missed", "what"].tolist() == []
    false = graded[graded["verdict"] == "false"]
    others = {("mixed precision", "raw telemetry.temperature"), *CONSEQUENCES}
    assert set(zip(false["check"], false["column"], strict=True)) <= others
    found = graded[graded["verdict"] == "found"].dropna(subset="measured")
    ratio = found["measured"].astype(float) / found["planted"].astype(float)
    assert ratio.between(0.3, 2.5).all(), found.assign(ratio=ratio)


def test_the_stage_leaves_a_page_and_the_tables_behind_the_figures(bank: Pipeline) -> None:
    artifact = bank.artifact("exploration")
    assert set(artifact.manifest["files"]) == {
        "report.json", "report.html", "daily.parquet", "levels.parquet", "maturity.parquet", "triangle.parquet",
        "projected.parquet", "findings.parquet",
    }  # fmt: skip
    report = artifact.json("report")
    assert len(artifact.frame("findings")) == len(report["findings"])
    assert artifact.frame("daily")["payments"].sum() == report["tables"]["transactions"]["rows"]


def test_the_three_leaks_are_found_in_the_simulated_bank(bank: Pipeline) -> None:
    leaks = bank.artifact("exploration").json("report")["leaks"]
    assert leaks["time"]["gap"] > 0.05 and leaks["time"]["severity"] == "high"
    assert leaks["entity"]["gap"] > 0.05 and leaks["entity"]["seen"]["random"] > 0.5 > leaks["entity"]["seen"]["time"]
    assert 0.6 < leaks["delay"]["share_known"] < 0.98
    assert leaks["delay"]["early"]["share_known"] < leaks["delay"]["share_known"]


def test_cents_sent_as_euros_are_a_jump_in_time() -> None:
    table = clean_table(5, 20_000)
    wrong = (table["channel"] == "online") & table["event_time"].between("2025-08-10", "2025-08-13")
    table["amount"] = table["amount"].where(~wrong, table["amount"] * 100)
    jumps = exploration.explore(table, labels_of(table, 6))["jumps"]
    online = next(jump for jump in jumps if jump["within"] == "online")
    assert online["days"] == ["2025-08-10", "2025-08-11", "2025-08-12"] and 50 < online["factor"] < 200
    assert not [jump for jump in jumps if jump["within"] == "pos"]
