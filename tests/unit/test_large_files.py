"""Files larger than memory: above `most_rows` whole customers are drawn, which is said; parts give what all gives."""

from __future__ import annotations

import hashlib
import html
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_data import SETTINGS, knobs, write_inputs, write_models

from lifecycle import contracts, evaluation, files, training
from lifecycle.deployment import packaging
from lifecycle.errors import LifecycleError
from lifecycle.evaluation import model_card, openings, scoring
from lifecycle.evaluation.fairness import GroupSums
from lifecycle.settings import Settings
from lifecycle.training.metrics import known_frauds
from lifecycle.training.reading import place, read_sample

MOST = 1_000


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    folder = tmp_path_factory.mktemp("large")
    inputs = write_inputs(folder, strings=True, world=False)
    write_models(inputs, folder, folder / "data")
    return inputs, folder


def judge(bank: tuple[dict[str, Path], Path], out: Path, **changes: Any) -> dict[str, Any]:
    inputs, folder = bank
    out.mkdir()
    evaluation.build(knobs("evaluation", folder / "data", **changes), inputs, out)
    return files.read_json(out / "report.json")


@pytest.fixture(scope="module")
def whole(bank, tmp_path_factory):
    return judge(bank, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture(scope="module")
def sampled(bank, tmp_path_factory):
    out = tmp_path_factory.mktemp("sampled") / "out"
    return judge(bank, out, most_rows=MOST), out


# The setting


def test_the_setting_is_read_from_the_environment_and_checked() -> None:
    assert Settings.from_environment({"LIFECYCLE_MOST_ROWS": "5000"}).most_rows == 5_000
    with pytest.raises(LifecycleError, match=r"most_rows is 999; it must be at least 1,000\."):
        Settings(most_rows=999)


# Whole customers


def test_a_sample_holds_all_payments_of_its_customers_and_none_of_others(bank) -> None:
    path = bank[0]["features"] / "training_set.parquet"
    every, (frame, share) = pd.read_parquet(path), read_sample(path, MOST)
    drawn = every["customer_id"].isin(frame["customer_id"].unique())
    assert frame["transaction_id"].tolist() == every.loc[drawn, "transaction_id"].tolist()
    assert share == len(frame) / len(every) and 0.5 * MOST < len(frame) < 1.5 * MOST
    assert read_sample(path, len(every))[1] == 1


def test_who_is_drawn_follows_from_the_id_alone_in_training_and_test(bank, tmp_path) -> None:
    inputs, _ = bank
    for name, found in (
        ("training_set", read_sample(inputs["features"] / "training_set.parquet", MOST)[0]),
        ("test_set", score(bank, tmp_path, MOST).frame),
    ):
        every = pd.read_parquet(inputs["features"] / f"{name}.parquet")
        first = every[place(every["customer_id"]) < MOST / len(every)]
        assert found["transaction_id"].tolist() == first["transaction_id"].tolist()


def test_the_validation_of_a_sample_checks_as_large_a_share_of_the_cards() -> None:
    """The known defect: on half of the customers, a team checked all of its 40 cards a day and found half as many."""
    rng, days, people = np.random.default_rng(0), 10, 2_000
    frame = pd.DataFrame({
        "event_time": np.repeat(contracts.midnight("2025-08-01") + pd.to_timedelta(range(days), unit="D"), people),
        "customer_id": np.tile(np.arange(people), days), "amount": 50.0,
    })  # fmt: skip
    frame["transaction_id"] = frame.index
    fraud = (rng.random(len(frame)) < 0.02).astype("int8")
    reports = pd.DataFrame({"customer_id": [0], "known_at": frame["event_time"].head(1)})
    settings = SETTINGS.with_(cards_per_day=40)

    def check(rows: np.ndarray, share: float) -> dict[str, Any]:
        every, first = np.arange(len(rows)), frame["event_time"].iloc[0]
        fold = training.Fold(1, first, first, every, fraud[rows], every, fraud[rows])
        part = frame.iloc[rows].reset_index(drop=True)
        return training.judge(part, fraud[rows] * 0.9, reports, [fold], settings, share)

    rows = np.flatnonzero(place(frame["customer_id"]) < 0.5)
    share = len(rows) / len(frame)
    every, half = check(np.arange(len(frame)), 1.0), check(rows, share)
    assert half["mean"]["card_precision"] == pytest.approx(every["mean"]["card_precision"], abs=0.06)
    assert check(rows, 1.0)["mean"]["card_precision"] < 0.6
    assert half["savings"] == pytest.approx(every["savings"], rel=0.1)


# What the report says


def test_a_sampled_report_says_so_to_every_reader(sampled, whole) -> None:
    report, out = sampled
    sample = report["sample"]
    assert sample["share"] == sample["payments"] / report["test"]["payments"] < 1
    assert f"{sample['payments']:,} ({100 * sample['share']:.1f} %) were judged" in sample["note"]
    assert html.escape(sample["note"]) in (out / "report.html").read_text()
    assert sample["note"] in (out / "model" / "model_card.md").read_text()
    model_card.check_card(files.read_json(out / "model" / "model_card.json"), report)
    assert whole["sample"] == {"most_rows": 1_000_000, "share": 1, "learned": 1, "note": None,
                               "payments": whole["test"]["payments"]}  # fmt: skip


def test_counts_and_money_of_a_sample_are_stated_for_all_payments(sampled, whole) -> None:
    report, out = sampled
    assert report["test"] == whole["test"]
    assert len(pd.read_parquet(out / "scores.parquet")) == whole["test"]["payments"]
    for key in ("weeks", "calibration"):
        stated = sum(row["payments"] for row in report[key])
        assert stated == pytest.approx(whole["test"]["labeled"], abs=len(report[key]))
    name = report["champion"]["name"]
    for one, other in ((report["money"], whole["money"]), (report["models"][name], whole["models"][name])):
        found, expected = (x["savings"]["value"] if isinstance(x["savings"], dict) else x["savings"]
                           for x in (one, other))  # fmt: skip
        assert found == pytest.approx(expected, rel=0.35)  # unscaled, it is less than half
    assert report["models"][name]["savings"]["value"] == pytest.approx(report["money"]["savings"], abs=1e-3)
    value = report["models"][name]["card_precision_ceiling"]["value"]
    assert value == pytest.approx(whole["models"][name]["card_precision_ceiling"]["value"], abs=0.1)


def test_a_sample_of_nobody_is_one_sentence(bank, tmp_path) -> None:
    with pytest.raises(LifecycleError, match="set LIFECYCLE_MOST_ROWS higher"):
        score(bank, tmp_path, 1)


def test_without_customers_payments_are_drawn_and_the_rest_is_the_same(tmp_path) -> None:
    inputs = write_inputs(tmp_path, strings=True, world=False)
    write_models(inputs, tmp_path, tmp_path / "data")
    for path in (*inputs["features"].glob("*_set.parquet"), inputs["preprocessing"] / "transactions.parquet"):
        files.write_parquet(pd.read_parquet(path).assign(customer_id=contracts.NO_ID), path)
    report = judge((inputs, tmp_path), tmp_path / "out", most_rows=MOST)
    assert report["judged"] and report["test"]["customers"] is None
    assert report["sample"]["payments"] == pytest.approx(MOST, rel=0.1)
    assert report["sample"]["note"].endswith("payments are, one by one.")
    assert len(pd.read_parquet(tmp_path / "out" / "scores.parquet")) == report["test"]["payments"]


# Parts and the whole


def score(bank: tuple[dict[str, Path], Path], out: Path, most_rows: int, part: int = 100_000) -> scoring.ScoredTest:
    inputs, folder = bank
    names = {name: folder / "training" / "models" / name for name in training.CLASSIFIERS}
    test = inputs["features"] / "test_set.parquet"
    return scoring.score_test(test, names, "random_forest", out, most_rows, part)


@pytest.mark.parametrize("most_rows", [MOST, 1_000_000])
def test_the_parts_give_what_the_whole_gives(bank, tmp_path, most_rows) -> None:
    made = {}
    for part in (150, 1_000_000):
        (tmp_path / str(part)).mkdir()
        made[part] = score(bank, tmp_path / str(part), most_rows, part)
    small, large = made.values()
    pd.testing.assert_frame_equal(small.frame, large.frame)
    assert small.facts == large.facts and small.share == large.share
    for name, scores in large.scores.items():
        np.testing.assert_array_equal(small.scores[name], scores)
    for name in ("scores", "test_scores"):
        one, other = (pd.read_parquet(tmp_path / str(part) / f"{name}.parquet") for part in made)
        pd.testing.assert_frame_equal(one, other)


def test_the_facts_are_those_of_the_whole_file(bank, tmp_path) -> None:
    test = pd.read_parquet(bank[0]["features"] / "test_set.parquet")
    facts = score(bank, tmp_path, MOST, 150).facts
    assert facts == {"payments": len(test), "labeled": int(test["is_fraud"].notna().sum()),
                     "frauds": int(test["is_fraud"].sum()), "customers": test["customer_id"].nunique()}  # fmt: skip


@pytest.mark.parametrize("strings", [False, True])
def test_the_fingerprint_of_a_large_test_set_is_that_of_the_sorted_table(strings, tmp_path, monkeypatch) -> None:
    path = write_inputs(tmp_path, strings=strings, world=False)["features"] / "test_set.parquet"
    table = pd.read_parquet(path, columns=["transaction_id", "is_fraud"]).sample(frac=1, random_state=0)
    table.loc[table.index % 3 == 0, "is_fraud"] = None
    files.write_parquet(table, path)
    ordered = table.sort_values("transaction_id").astype({"is_fraud": "float64"})
    rows = pd.util.hash_pandas_object(ordered, index=False).to_numpy().astype("<u8")
    monkeypatch.setattr(openings, "_BATCH", 300)
    assert openings.fingerprint(path) == hashlib.sha256(rows.tobytes()).hexdigest()


def test_many_customers_are_drawn_together_without_changing_a_sum(monkeypatch) -> None:
    rng, n = np.random.default_rng(0), 900
    frame = pd.DataFrame({"customer_id": rng.integers(0, 130, n), "is_fraud": (rng.random(n) < 0.2).astype("int8")})
    frame["transaction_id"] = frame.index
    group, value = pd.Series(rng.choice(["a", "b"], n)), rng.random(n)
    alone = GroupSums(frame, value, group)
    monkeypatch.setattr("lifecycle.evaluation.fairness.MOST_UNITS", 40)
    together = GroupSums(frame, value, group)
    assert together.customers == 40 < alone.customers and (together.victims == alone.victims).all()
    np.testing.assert_allclose(together.add_up(value).sum(axis=0), alone.add_up(value).sum(axis=0))
    flagged = value > 0.5
    for name, rate in alone.rates(flagged, np.ones((1, alone.customers))).items():
        np.testing.assert_allclose(together.rates(flagged, np.ones((1, 40)))[name], rate)


def test_a_package_is_the_same_whether_its_history_was_read_or_streamed(bank, tmp_path, monkeypatch) -> None:
    source = tmp_path / "source"
    payments, labels = (
        pd.read_parquet(bank[0][folder] / f"{name}.parquet")
        for folder, name in (("preprocessing", "transactions"), ("features", "labels"))
    )
    quiet = payments["customer_id"].isin(["c-3", "c-77"]) & (payments["event_time"] > "2025-08-01")
    payments = payments[~quiet].reset_index(drop=True)
    files.write_parquet(payments, source / "transactions.parquet")
    files.write_parquet(labels, source / "labels.parquet")
    monkeypatch.setattr(packaging, "PART", 400)
    first = contracts.midnight("2025-09-15")
    since, week = first - packaging.HISTORY, first + pd.Timedelta(days=7)
    needed = packaging.read_needed(source, first)["transactions"]
    older = packaging._older(payments, labels, first)
    assert {"c-3", "c-77"} <= set(older["customer_id"])
    before = needed[needed["event_time"] < first].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, older.reset_index(drop=True))
    later = payments["event_time"].between(first, week, inclusive="left")
    assert needed["transaction_id"].tolist()[len(older) :] == payments.loc[later, "transaction_id"].tolist()
    packaging.write_history(source, tmp_path / "history", first, rows=400)
    for name, table, inside in (
        ("transactions", payments, payments["event_time"].between(since, first, inclusive="left")),
        ("labels", labels, labels["known_at"].between(since, first)),
    ):
        found = pd.read_parquet(tmp_path / "history" / f"{name}.parquet")
        pd.testing.assert_frame_equal(found, table[inside].reset_index(drop=True))


def test_judging_reads_of_the_payments_only_what_it_judges(bank) -> None:
    inputs = bank[0]
    ids = pd.read_parquet(inputs["features"] / "test_set.parquet")["transaction_id"].head(50)
    found, reports = evaluation.read_judged(inputs, ids)
    past = pd.read_parquet(inputs["training"] / "out_of_fold.parquet")["transaction_id"]
    assert set(found["transaction_id"]) == set(ids) | set(past) | set(reports["transaction_id"])
    assert len(known_frauds(reports, found)) == len(reports)


# Memory

_CHILD = """
import sys
from pathlib import Path
from lifecycle.training import reading
reading.PART = 5_000
from model_data import SCHEMA, knobs
from lifecycle import contracts, evaluation
from lifecycle.deployment import packaging
folder, most = Path(sys.argv[1]), int(sys.argv[2])
names = ("features", "preprocessing", "training", "tuning")
inputs, settings = {name: folder / name for name in names}, knobs("evaluation", folder / "data", most_rows=most)
paths = (folder / "features" / name for name in ("training_set.parquet", "labels.parquet"))
data = reading.read_data(*paths, folder / "preprocessing" / "transactions.parquet", SCHEMA, most)
(folder / f"out-{most}").mkdir()
evaluation.build(settings, inputs, folder / f"out-{most}")
packaging.read_needed(folder / "source", contracts.midnight("2025-09-15"))
packaging.write_history(folder / "source", folder / f"history-{most}", contracts.midnight("2025-09-15"), rows=5_000)
# The most memory of this process; what getrusage says begins with that of the process that started it.
most_memory = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(len(data.frame), int(most_memory.split()[1]) / 1e3)
"""


def peak(folder: Path, most_rows: int) -> float:
    """Return the most memory, in MB, that learning, judging and packaging take of the files in a folder."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(folder), str(most_rows)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, memory = done.stdout.split()
    assert int(rows) <= 1.2 * most_rows
    return float(memory)


@pytest.fixture(scope="module")
def files_of_two_sizes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for rows in (120_000, 480_000):
        folder = tmp_path_factory.mktemp(f"rows{rows}")
        inputs = write_inputs(folder, world=False, rows=rows)
        write_models(inputs, folder, folder / "data")
        (folder / "source").mkdir()
        for stage, name in (("preprocessing", "transactions"), ("features", "labels")):
            (folder / "source" / f"{name}.parquet").symlink_to(inputs[stage] / f"{name}.parquet")
        past = pd.read_parquet(inputs["training"] / "out_of_fold.parquet")
        files.write_parquet(past.head(20_000), inputs["training"] / "out_of_fold.parquet")  # as if of a sample
        folders.append(folder)
    return folders


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the most memory of a process is read from /proc")
def test_memory_does_not_grow_with_the_file(files_of_two_sizes) -> None:
    """Without a sample the larger file takes 58 MB more, with one 12."""
    small, large = (peak(folder, 20_000) for folder in files_of_two_sizes)
    assert large - small < 30, f"{small:.0f} MB for 120,000 payments, {large:.0f} MB for 480,000"


def test_a_file_that_is_read_in_parts_is_not_held(tmp_path) -> None:
    values = np.random.default_rng(0).random(400_000)  # 3.2 MB that no compression makes smaller
    pq.write_table(pa.table({"amount": values}), tmp_path / "a.parquet", row_group_size=20_000)
    before, held = pa.total_allocated_bytes(), []
    with files.open_parquet(tmp_path / "a.parquet") as file:
        for batch in file.iter_batches(20_000):
            held.append(pa.total_allocated_bytes() - before - batch.nbytes)
    assert len(held) == 20 and max(held) < 1_000_000, "the parts that were read before are still in memory"
