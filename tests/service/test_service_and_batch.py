"""With a real package: the service and the batch job agree, whatever way a payment takes."""

import json
import shutil
from datetime import date
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from lifecycle import contracts, features
from lifecycle.deployment import batch, running
from lifecycle.deployment.artifact import ArtifactError, open_package, pack, unpack
from lifecycle.deployment.scorer import Scorer
from lifecycle.deployment.service import create_app
from lifecycle.errors import LifecycleError

FIRST = pd.Timestamp("2025-03-01", tz="UTC")


def records(payments):
    """Payments as a client would send them."""
    rows = payments[["transaction_id", "event_time", "customer_id", "terminal_id", "amount", "channel"]].copy()
    rows["event_time"] = [moment.isoformat() for moment in rows["event_time"]]
    rows["channel"] = rows["channel"].astype(str)
    return rows.to_dict("records")


@pytest.fixture
def own(bank, tmp_path):
    """A copy of the package: a service's state may change, that of the other tests must not."""
    return shutil.copytree(bank.package, tmp_path / "own")


@pytest.fixture(scope="session")
def days(bank):
    """The payments of the first and the second day of service."""
    payments = bank.tables["transactions"]
    return [payments[payments["event_time"].dt.floor("D") == FIRST + pd.Timedelta(days=number)] for number in range(2)]


def test_service_and_batch_give_the_same_scores_to_the_last_bit(own, days):
    expected = batch.score_frame(own, days[0])
    with running.start(own) as service:
        one_by_one = [service.invoke(record) for record in records(days[0])[:20]]
        together = service.invoke(records(days[0])[20:])
        assert service.stop() == 0
    answers = pd.DataFrame(one_by_one + together)
    assert answers["score"].tolist() == expected["score"].tolist()
    assert answers["decision"].tolist() == expected["decision"].tolist()
    assert answers["score"].nunique() > 10


@pytest.mark.parametrize("content_type", ["application/json", "application/jsonlines", "text/csv"])
def test_each_content_type_gives_the_batch_scores(own, days, content_type):
    expected = batch.score_frame(own, days[0])["score"].tolist()
    rows = records(days[0])
    body = {
        "application/json": json.dumps(rows),
        "application/jsonlines": "\n".join(map(json.dumps, rows)),
        "text/csv": pd.DataFrame(rows).to_csv(index=False),
    }[content_type]
    with TestClient(create_app(Scorer.open(own))) as client:
        answer = client.post(
            "/invocations", content=body, headers={"content-type": content_type, "accept": "application/json"}
        )
    assert [a["score"] for a in answer.json()] == expected


def test_batch_features_are_those_of_the_whole_history(bank, days):
    both = pd.concat(days)
    packaged = batch.feature_table(open_package(bank.package), both, bank.tables["labels"])
    whole = features.assemble(features.open_store(bank.root / "features"), both)
    pd.testing.assert_frame_equal(packaged, whole)


def test_a_customer_who_was_quiet_for_a_month_is_not_unknown(bank, days):
    payment = days[0].head(1).assign(customer_id=3)
    table = batch.feature_table(open_package(bank.package), payment)
    assert table["customer_count_30d"].tolist() == [0.0]


def test_the_daily_refresh_reaches_the_running_service(bank, own, days):
    scorer = Scorer.open(own)
    before = scorer._features.transform(records(days[1])[:30])
    assert np.isnan(before).sum() > 100, "yesterday's snapshot must not pass for today's"
    features.materialize(features.open_store(own / "online", on_demand=False), "2025-03-02", bank.root / "features")
    schema = features.load_schema(bank.root / "features")
    after = pd.DataFrame(scorer._features.transform(records(days[1])[:30]), columns=features.feature_names(schema))
    expected = features.assemble(features.open_store(bank.root / "features"), days[1].head(30))
    daily = [feature["name"] for feature in schema["features"] if feature["view"].endswith("_daily")]
    assert len(daily) > 10
    pd.testing.assert_frame_equal(after[daily], expected[daily])


def test_unknown_customers_and_terminals_get_a_score(own):
    payment = {"transaction_id": 1, "event_time": "2025-03-01T00:00:00+05:00", "amount": 5.0}
    (answer,) = Scorer.open(own).score(
        [payment | {"event_time": pd.Timestamp("2025-03-01", tz="UTC"), "customer_id": 10**15, "terminal_id": -1}]
    )
    assert 0 <= answer["score"] <= 1


def test_the_shipped_registry_holds_no_code(bank):
    from feast.protos.feast.core.Registry_pb2 import Registry

    path = "online/registry.db"
    shipped = Registry.FromString((bank.package / path).read_bytes())
    trained = Registry.FromString((bank.root / "features" / "registry.db").read_bytes())
    assert trained.on_demand_feature_views and not shipped.on_demand_feature_views
    assert {view.spec.name for view in shipped.feature_views} == {"customer_daily", "terminal_daily"}


def test_a_registry_with_code_is_refused(bank, own):
    shutil.copyfile(bank.root / "features" / "registry.db", own / "online" / "registry.db")
    manifest = json.loads((own / "package.json").read_text())
    del manifest["files"]["online/registry.db"]
    (own / "package.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="code in it"):
        Scorer.open(own)


def test_nothing_is_loaded_from_a_tampered_package(own):
    with open(own / "model.onnx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(LifecycleError, match="model.onnx"), running.start(own):
        pass


def test_a_packed_and_unpacked_package_scores_the_same(own, days, tmp_path):
    pack(own, tmp_path / "model.tar.gz")
    unpack(tmp_path / "model.tar.gz", tmp_path / "unpacked")
    pd.testing.assert_frame_equal(batch.score_frame(tmp_path / "unpacked", days[0]), batch.score_frame(own, days[0]))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_is_scored_in_either_format(bank, days, tmp_path, suffix):
    source, out = tmp_path / f"payments{suffix}", tmp_path / f"scores{suffix}"
    days[0].to_csv(source, index=False) if suffix == ".csv" else days[0].to_parquet(source)
    assert batch.score_file(bank.package, source, out) == len(days[0])
    scores = pd.read_csv(out, float_precision="round_trip") if suffix == ".csv" else pd.read_parquet(out)
    assert scores.columns.tolist() == ["transaction_id", "event_time", "score", "decision"]
    assert scores["score"].tolist() == batch.score_frame(bank.package, days[0])["score"].tolist()


def test_a_file_with_only_the_contract_columns_is_scored(bank, days, tmp_path):
    days[0][list(contracts.TRANSACTIONS.columns)].to_csv(tmp_path / "five.csv", index=False)
    assert batch.score_file(bank.package, tmp_path / "five.csv", tmp_path / "out.csv") == len(days[0])


BAD_FILES = {
    "empty": ("", "cannot be read"),
    "no rows": ("transaction_id,event_time,customer_id,terminal_id,amount\n", "there are no rows"),
    "no amount": ("transaction_id,event_time,customer_id,terminal_id\n1,2025-03-01T00:00:00Z,1,1\n", "'amount'"),
    "naive": ("transaction_id,event_time,customer_id,terminal_id,amount\n1,2025-03-01T00:00:00,1,1,5\n", "time zone"),
    "no time": ("transaction_id,event_time,customer_id,terminal_id,amount\n1,soon,1,1,5\n", "ISO-8601"),
    "text amount": (
        "transaction_id,event_time,customer_id,terminal_id,amount\n1,2025-03-01T00:00:00Z,1,1,x\n",
        "number",
    ),
    "negative": (
        "transaction_id,event_time,customer_id,terminal_id,amount\n1,2025-03-01T00:00:00Z,1,1,-5\n",
        "'amount'",
    ),
    "text id": ("transaction_id,event_time,customer_id,terminal_id,amount\n1,2025-03-01T00:00:00Z,A,1,5\n", "integer"),
    "repeated": (
        "transaction_id,event_time,customer_id,terminal_id,amount\n" + "1,2025-03-01T00:00:00Z,1,1,5\n" * 2,
        "is repeated",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_sentence_and_leaves_the_old_scores(bank, tmp_path, case):
    content, reason = BAD_FILES[case]
    (tmp_path / "bad.csv").write_text(content)
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(LifecycleError, match=reason) as caught:
        batch.score_file(bank.package, tmp_path / "bad.csv", tmp_path / "out.csv")
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_file_that_is_not_parquet_is_one_sentence(bank, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(LifecycleError, match="bad.parquet cannot be read"):
        batch.score_file(bank.package, tmp_path / "bad.parquet", tmp_path / "out.csv")


def test_a_model_of_other_features_is_not_packaged(bank, tmp_path):
    from lifecycle.deployment import packaging

    other = shutil.copytree(bank.root / "model", tmp_path / "model")
    schema = json.loads((other / "feature_schema.json").read_text())
    schema["features"].reverse()
    (other / "feature_schema.json").write_text(json.dumps(schema))
    with pytest.raises(LifecycleError, match="trained on other features"):
        packaging.package(other, bank.root / "features", bank.tables, "2025-03-01", tmp_path / "package")


def test_the_package_holds_nothing_from_its_future(bank):
    history = batch.read_tables(bank.package / "online" / "history")
    assert (history["transactions"]["event_time"] < FIRST).all()
    assert (history["older"]["event_time"] < FIRST).all()
    assert (history["labels"]["known_at"] <= FIRST).all()


def test_the_stage_writes_a_package_an_archive_and_the_first_week(bank, tmp_path):
    from lifecycle import deployment

    (bank.root / "evaluation").mkdir(exist_ok=True)
    shutil.copytree(bank.root / "model", bank.root / "evaluation" / "model", dirs_exist_ok=True)
    inputs = {name: bank.root / name for name in ("preprocessing", "features", "evaluation")}
    deployment.build(bank.calendar, inputs, tmp_path)
    info = json.loads((tmp_path / "info.json").read_text())
    payments = bank.tables["transactions"]
    expected = payments[payments["event_time"].between(FIRST, FIRST + pd.Timedelta(days=7), inclusive="left")]
    scores = pd.read_parquet(tmp_path / "batch_scores.parquet")
    assert scores["transaction_id"].tolist() == expected["transaction_id"].tolist()
    assert info["batch"]["payments"] == len(expected) == len(pd.read_parquet(tmp_path / "batch_features.parquet"))
    assert unpack(tmp_path / "model.tar.gz", tmp_path / "new").digest == info["digest"]


def test_own_data_that_ends_before_the_first_day_gives_an_empty_week(bank, tmp_path):
    from lifecycle import deployment

    past = SimpleNamespace(**{**vars(bank.calendar), "deploy_at": date(2025, 3, 20)})
    (bank.root / "evaluation").mkdir(exist_ok=True)
    shutil.copytree(bank.root / "model", bank.root / "evaluation" / "model", dirs_exist_ok=True)
    inputs = {name: bank.root / name for name in ("preprocessing", "features", "evaluation")}
    deployment.build(past, inputs, tmp_path)
    assert len(pd.read_parquet(tmp_path / "batch_scores.parquet")) == 0
    assert open_package(tmp_path / "model").manifest["first_day"] == "2025-03-04"
    with TestClient(create_app(Scorer.open(tmp_path / "model"))) as client:
        assert client.get("/ping").status_code == 200


def test_the_command_line_scores_and_serves(bank, own, days, tmp_path):
    import subprocess
    import sys

    days[0].to_csv(tmp_path / "day.csv", index=False)
    command = [sys.executable, "-m", "lifecycle", "score", "--model", str(own)]
    command += ["--transactions", str(tmp_path / "day.csv"), "--out", str(tmp_path / "out.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "out.csv")) == len(days[0])
