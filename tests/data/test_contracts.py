"""The contracts hold at each hand-over, and no stage before the evaluation needs the answer key."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lifecycle import collection, contracts, preprocessing
from lifecycle.pipeline import STAGES, Artifact, Knobs, Pipeline
from lifecycle.settings import Settings

DATA_STAGES = ("collection", "exploration", "preprocessing", "features")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(Settings(customers=150, terminals=300, data_dir=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def artifacts(pipeline: Pipeline) -> dict[str, Artifact]:
    return {name: pipeline.artifact(name) for name in ("world", *DATA_STAGES)}


@pytest.mark.parametrize("stage", ["collection", "preprocessing"])
def test_transactions_and_labels_keep_their_contracts(artifacts: dict[str, Artifact], stage: str) -> None:
    contracts.check(artifacts[stage].frame("transactions"), contracts.TRANSACTIONS, stage)
    contracts.check(artifacts[stage].frame("labels"), contracts.LABELS, stage)


def test_the_log_of_operations_keeps_its_contract_and_names_terminals_of_the_bank(artifacts: dict) -> None:
    log = artifacts["collection"].frame("operations")
    contracts.check(log, contracts.OPERATIONS, "collection")
    assert log["time"].is_monotonic_increasing
    assert set(log["terminal_id"].dropna()) <= set(artifacts["collection"].frame("terminals")["terminal_id"])
    assert {"release", "job", "replacement"} <= set(log["event"])


def test_the_superseded_are_the_first_versions_of_accepted_payments(artifacts: dict[str, Artifact]) -> None:
    accepted = artifacts["collection"].frame("transactions").set_index("transaction_id")
    superseded = artifacts["collection"].frame("superseded")
    assert len(superseded) > 0
    assert list(superseded.columns) == ["transaction_id", *accepted.columns]
    assert superseded["transaction_id"].isin(accepted.index).all()
    ratio = superseded["amount"] / accepted.loc[superseded["transaction_id"], "amount"].to_numpy()
    assert (ratio.round(6) != 1).any()


def test_every_record_on_disk_is_accounted_for(artifacts: dict[str, Artifact]) -> None:
    accounting = artifacts["collection"].frame("accounting")
    counts = list(collection.COUNTS)
    assert (accounting["read"] == accounting[counts[1:]].sum(axis=1)).all()
    tables = {"authorizations": "transactions", "telemetry": "telemetry", "customers": "customers"}
    tables["operations"] = "operations"
    totals = accounting.groupby("source")[counts].sum()
    for source, table in tables.items():
        assert totals.loc[source, "accepted"] == len(artifacts["collection"].frame(table))
    quarantine = artifacts["collection"].frame("quarantine")
    assert totals["quarantined"].sum() == len(quarantine)
    assert (quarantine[["source", "file", "reason", "record"]].notna()).all().all()


def test_no_label_is_known_before_its_payment_or_after_the_data(pipeline: Pipeline, artifacts: dict) -> None:
    payments = artifacts["collection"].frame("transactions").set_index("transaction_id")["event_time"]
    labels = artifacts["collection"].frame("labels")
    assert (labels["known_at"] >= labels["transaction_id"].map(payments)).all()
    assert (labels["known_at"] < contracts.midnight(pipeline.settings.end)).all()
    last = labels.sort_values("known_at").groupby("transaction_id")["is_fraud"].agg(list)
    assert set(map(tuple, last)) <= {(0,), (1,), (0, 1)}


def test_preprocessing_keeps_every_payment_and_fixes_its_levels(artifacts: dict[str, Artifact]) -> None:
    before = artifacts["collection"].frame("transactions")
    after = artifacts["preprocessing"].frame("transactions")
    for column in contracts.TRANSACTIONS.columns:
        pd.testing.assert_series_equal(before[column], after[column])
    vocabularies = artifacts["preprocessing"].json("encoding")
    for column, levels in vocabularies.items():
        assert after[column].notna().all()
        assert after[column].cat.categories.tolist() == [*levels, preprocessing.UNKNOWN]
    assert artifacts["preprocessing"].frame("labels").equals(artifacts["collection"].frame("labels"))


def test_features_hand_over_the_rows_of_their_period(pipeline: Pipeline, artifacts: dict[str, Artifact]) -> None:
    settings = pipeline.settings
    names = {feature["name"] for feature in artifacts["features"].json("schema")["features"]}
    names -= {"amount"}  # the amount of the contract, in full precision, is there under the same name
    periods = {
        "training_set": (settings.train_from, settings.train_until),
        "test_set": (settings.test_from, settings.test_until),
    }
    for table, (start, end) in periods.items():
        frame = artifacts["features"].frame(table)
        assert frame["event_time"].min() >= contracts.midnight(start)
        assert frame["event_time"].max() < contracts.midnight(end)
        assert frame["transaction_id"].is_unique
        assert set(frame[sorted(names)].dtypes.astype(str)) == {"float32"}


def build_without_answer_key(pipeline: Pipeline, world: Path, folder: Path) -> dict[str, Path]:
    """Run the data stages by hand on a copy of the world that has no answers in it."""
    built = {"world": folder / "world"}
    shutil.copytree(world, built["world"], ignore=shutil.ignore_patterns("answer_key", "manifest.json"))
    assert not list(built["world"].rglob("*truth*"))
    for name in DATA_STAGES:
        stage = STAGES[name]
        built[name] = folder / name
        built[name].mkdir()
        inputs = {need: built[need] for need in stage.needs}
        importlib.import_module(stage.module).build(Knobs(pipeline.settings, stage.knobs), inputs, built[name])
    return built


def test_the_answer_key_stays_unread(pipeline: Pipeline, artifacts: dict, tmp_path: Path) -> None:
    assert (artifacts["world"].path / "answer_key" / "truth.parquet").exists()
    built = build_without_answer_key(pipeline, artifacts["world"].path, tmp_path)
    for name in DATA_STAGES:
        tables = [file for file in artifacts[name].manifest["files"] if file.endswith(".parquet")]
        assert tables
        for file in tables:
            ours, theirs = pd.read_parquet(built[name] / file), pd.read_parquet(artifacts[name].path / file)
            pd.testing.assert_frame_equal(ours, theirs, obj=f"{name}/{file}")
        for file in artifacts[name].manifest["files"]:
            if file.endswith(".json"):
                same = json.loads((built[name] / file).read_text()) == json.loads(
                    (artifacts[name].path / file).read_text()
                )
                assert same, f"{name}/{file}"


def test_no_source_holds_the_answer(artifacts: dict[str, Artifact]) -> None:
    answers = set(pd.read_parquet(artifacts["world"].path / "answer_key" / "truth.parquet").columns) - {
        "transaction_id"
    }
    for name in DATA_STAGES[:3]:
        for path in artifacts[name].path.glob("*.parquet"):
            leaked = answers & set(pd.read_parquet(path).columns)
            assert leaked <= ({"is_fraud"} if path.stem == "labels" else set()), path.name
