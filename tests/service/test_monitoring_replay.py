"""Production days replayed through the real service: what is captured is what the batch job would say."""

import shutil

import pandas as pd
import pytest

from lifecycle import features
from lifecycle.errors import LifecycleError
from lifecycle.monitoring import monitor, preprocess, read_capture, replay, write_baseline
from lifecycle.training import load_model

FIRST = pd.Timestamp("2025-03-01", tz="UTC")


@pytest.fixture(scope="module")
def replayed(bank, tmp_path_factory):
    """Three days of the tiny bank, replayed in batches of 50 by a process of its own."""
    root = tmp_path_factory.mktemp("replay")
    shutil.copytree(bank.package, root / "package")
    payments = bank.tables["transactions"]
    payments = payments[payments["event_time"] >= FIRST]
    payments.to_parquet(root / "sent.parquet")
    (root / "captured").mkdir()
    out = root / "requests.parquet"
    process = replay.start(root / "package", bank.root / "features", root / "sent.parquet", root / "captured", out)
    return root, payments, replay.finish(process, out)


def test_every_payment_is_sent_once_and_answered(replayed):
    root, payments, requests = replayed
    assert requests["records"].sum() == len(payments)
    assert (requests["status"] == 200).all()
    assert requests["day"].nunique() == payments["event_time"].dt.floor("D").nunique() == 3
    assert sorted(read_capture(root / "captured")["transaction_id"]) == sorted(payments["transaction_id"])


def test_captured_scores_are_those_of_the_point_in_time_features(bank, replayed):
    root, payments, _ = replayed
    joined = features.assemble(features.open_store(bank.root / "features"), payments)
    schema = features.load_schema(bank.root / "features")
    scores = load_model(bank.root / "model").predict(joined[features.feature_names(schema)].to_numpy("float32"))
    expected = pd.Series(scores, index=payments["transaction_id"].to_numpy())
    captured = read_capture(root / "captured").set_index("transaction_id")["score"]
    assert (captured - expected.loc[captured.index]).abs().max() < 1e-6  # single precision, summed in another order


def test_a_captured_day_is_found_by_its_folder_and_monitored(replayed, tmp_path):
    root, payments, _ = replayed
    day = root / "captured" / "fraud-detector" / "AllTraffic" / "2025" / "03" / "01"
    captured = read_capture(day)
    assert len(captured) == (payments["event_time"].dt.floor("D") == FIRST).sum()
    write_baseline(preprocess(captured), tmp_path / "baseline")
    assert monitor(tmp_path / "baseline", day, tmp_path / "out") == 0


def test_a_replay_that_fails_says_why_in_one_sentence(bank, replayed, tmp_path):
    root, _, _ = replayed
    shutil.copytree(bank.package, tmp_path / "package")
    (tmp_path / "package" / "model.onnx").write_bytes(b"changed")
    out = tmp_path / "requests.parquet"
    process = replay.start(
        tmp_path / "package", bank.root / "features", root / "sent.parquet", tmp_path / "captured", out
    )
    with pytest.raises(LifecycleError, match="replay of production .* failed: .*model.onnx"):
        replay.finish(process, out)
    assert not out.exists()
