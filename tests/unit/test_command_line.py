"""The command line: every command on small data, and one clear sentence for bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date

import numpy as np
import pandas as pd
import pytest

from lifecycle.__main__ import calendar_for, main
from lifecycle.errors import LifecycleError

DAYS = 75


@pytest.fixture(scope="module")
def plain_csv(tmp_path_factory):
    """A foreign table: the five contract columns and is_fraud, string ids, frauds with large amounts."""
    rng = np.random.default_rng(1)
    n = 12_000
    start = pd.Timestamp("2024-03-01", tz="UTC")
    frame = pd.DataFrame(
        {
            "transaction_id": [f"t{i}" for i in range(n)],
            "event_time": start + pd.to_timedelta(np.sort(rng.uniform(0, DAYS * 86400, n)).round(3), unit="s"),
            "customer_id": [f"c{i}" for i in rng.integers(0, 200, n)],
            "terminal_id": [f"m{i}" for i in rng.integers(0, 100, n)],
            "amount": rng.lognormal(3, 0.7, n).round(2) + 0.01,
        }
    )
    frame["is_fraud"] = (rng.random(n) < 0.03).astype(int)
    frame.loc[frame["is_fraud"] == 1, "amount"] *= 6
    path = tmp_path_factory.mktemp("own") / "payments.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def own_run(plain_csv, tmp_path_factory):
    """The folder that `run --transactions` leaves, made once for the tests of this module."""
    folder = tmp_path_factory.mktemp("run")
    os.environ["LIFECYCLE_DATA_DIR"], before = str(folder / "data"), os.environ.get("LIFECYCLE_DATA_DIR")
    os.environ["LIFECYCLE_TRIALS"] = "3"
    try:
        assert main(["run", "--transactions", str(plain_csv), "--out", str(folder / "out")]) == 0
    finally:
        del os.environ["LIFECYCLE_TRIALS"]
        os.environ.pop("LIFECYCLE_DATA_DIR")
        if before:
            os.environ["LIFECYCLE_DATA_DIR"] = before
    return folder / "out"


def test_run_on_a_plain_csv_writes_what_the_design_names(own_run, plain_csv):
    for name in ("model.onnx", "feature_schema.json", "report.json", "report.html", "scores.parquet"):
        assert (own_run / name).stat().st_size > 0, name
    assert pd.read_parquet(own_run / "features" / "training_set.parquet").shape[0] > 1_000
    json.loads((own_run / "report.json").read_text())


def test_scores_hold_every_payment_of_the_test_period_once(own_run, plain_csv):
    scores = pd.read_parquet(own_run / "scores.parquet")
    payments = pd.read_csv(plain_csv)
    payments["event_time"] = pd.to_datetime(payments["event_time"], format="ISO8601")
    test_from = pd.Timestamp("2024-03-01", tz="UTC") + pd.Timedelta(days=DAYS - DAYS // 5)
    expected = payments[payments["event_time"] >= test_from]
    assert scores.columns.tolist() == ["transaction_id", "event_time", "score", "is_fraud"]
    assert set(scores["transaction_id"]) == set(expected["transaction_id"]) and len(scores) == len(expected)
    fraud, honest = scores[scores["is_fraud"] == 1], scores[scores["is_fraud"] == 0]
    assert fraud["score"].mean() > 3 * honest["score"].mean()


def test_score_gives_a_score_to_every_row_of_a_file(own_run, plain_csv, tmp_path):
    some = pd.read_csv(plain_csv).tail(50).drop(columns="is_fraud")
    some.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "scored.csv"
    assert main(["score", "--model", str(own_run), "--transactions", str(tmp_path / "new.csv"), "--out", str(out)]) == 0
    scored = pd.read_csv(out)
    assert scored["transaction_id"].tolist() == some["transaction_id"].tolist()
    assert scored["score"].between(0, 1).all()


def test_serve_answers_ping_and_stops_on_sigterm_with_exit_code_0(own_run):
    import httpx

    port = free_port()
    command = [sys.executable, "-m", "lifecycle", "serve", "--model", str(own_run), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            pytest.fail("the service never answered /ping")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_simulate_writes_sources_and_answer_key(tmp_path, capsys):
    arguments = ["simulate", "--out", str(tmp_path / "bank"), "--customers", "60", "--terminals", "120", "--days", "3"]
    assert main(arguments) == 0
    assert (tmp_path / "bank" / "sources" / "bank.sqlite").exists()
    assert (tmp_path / "bank" / "answer_key" / "truth.parquet").exists()
    capsys.readouterr()
    assert main(arguments) == 1, "a folder with something in it must not be overwritten"
    assert "bank" in one_sentence(capsys)


def one_sentence(capsys) -> str:
    """Return what the command printed, after checking that it is one line for a person."""
    printed = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[lifecycle]")]
    assert len(printed) == 1 and printed[0].startswith("lifecycle: "), printed
    return printed[0]


def spoil(plain_csv, tmp_path, change) -> list[str]:
    frame = pd.read_csv(plain_csv).head(2_000)
    path = tmp_path / "spoiled.csv"
    change(frame).to_csv(path, index=False)
    return ["run", "--transactions", str(path), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="amount"), ["'amount'", "missing"]),
        (lambda f: f.assign(amount=f["amount"].where(f.index > 4, -1.0)), ["'amount'", "5 rows", "-1"]),
        (lambda f: f.assign(amount=f["amount"].astype(object).where(f.index != 7, "ten")), ["'amount'", "ten"]),
        (lambda f: f.assign(event_time=f["event_time"].str.slice(0, 19)), ["'event_time'", "zone"]),
        (lambda f: f.assign(transaction_id="same"), ["'transaction_id'", "same"]),
        (lambda f: f.head(0), ["no rows"]),
        (lambda f: f.drop(columns="is_fraud"), ["is_fraud", "file of labels"]),
    ],
    ids=["missing column", "negative", "wrong type", "no zone", "repeated id", "empty", "no labels"],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(plain_csv, tmp_path, capsys, monkeypatch, change, words):
    monkeypatch.setenv("LIFECYCLE_DATA_DIR", str(tmp_path / "data"))
    assert main(spoil(plain_csv, tmp_path, change)) == 1
    sentence = one_sentence(capsys)
    for word in ["spoiled.csv", *words]:
        assert word in sentence, sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02PAR1 not really", b"\xff\xfe\x00garbage\x00"])
def test_an_unreadable_file_is_named(tmp_path, capsys, monkeypatch, content):
    monkeypatch.setenv("LIFECYCLE_DATA_DIR", str(tmp_path / "data"))
    for name in ("broken.csv", "broken.parquet"):
        (tmp_path / name).write_bytes(content)
        assert main(["run", "--transactions", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
        assert name in one_sentence(capsys)


def test_missing_files_and_wrong_folders_are_named(tmp_path, capsys):
    for arguments in (
        ["run", "--transactions", "absent.csv", "--out", str(tmp_path / "out")],
        ["serve", "--model", "absent"],
        ["score", "--model", "absent", "--transactions", "absent.csv", "--out", "x.csv"],
        ["monitor", "--baseline", "absent", "--captured", "absent", "--out", str(tmp_path / "out")],
    ):
        assert main(arguments) == 1
        assert "absent" in one_sentence(capsys)


def test_every_command_has_help(capsys):
    for command in ("simulate", "run", "serve", "score", "monitor"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0 and command in capsys.readouterr().out


def test_data_too_short_for_the_periods_is_one_sentence():
    with pytest.raises(LifecycleError, match="cannot be split into training and test periods"):
        calendar_for(date(2025, 1, 1), date(2025, 1, 8), 7, {})
