"""The batch job in processes of its own: killed at random moments, and with more rows than it may hold."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lifecycle.deployment import batch, resuming
from lifecycle.errors import ContractError, LifecycleError

JOBS = Path(__file__).resolve().parents[1] / "batch_jobs.py"
KILLS = 12


def made_up(rows: int, days: int, seed: int = 2) -> pd.DataFrame:
    """Payments of the tiny bank's customers, in no order of time."""
    rng = np.random.default_rng(seed)
    micros = rng.integers(0, days * 86_400_000_000, rows)
    return pd.DataFrame(
        {
            "transaction_id": np.arange(rows) + 10_000_000,
            "event_time": pd.to_datetime("2025-03-01", utc=True) + pd.to_timedelta(micros, unit="us"),
            "customer_id": rng.integers(0, 40, rows),
            "terminal_id": rng.integers(0, 25, rows),
            "amount": rng.gamma(2.0, 20.0, rows).round(2) + 0.01,
            "channel": rng.choice(["pos", "online"], rows),
        }
    )


def job(*arguments: object) -> dict:
    done = subprocess.run([sys.executable, JOBS, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(("suffix", "seed", "kills"), [(".csv", 1, KILLS), (".parquet", 2, 2)])
def test_a_killed_job_that_is_started_again_writes_the_same_bytes(bank, tmp_path, suffix, seed, kills):
    made_up(1_200, 8).to_csv(tmp_path / "payments.csv", index=False)
    found = job("kill", bank.package, tmp_path / "payments.csv", tmp_path / f"out{suffix}", seed, kills)
    assert found["kills"] >= kills and found["outputs"] >= 2
    assert found["different"] == 0 and found["left"] == []
    told = (tmp_path / "out.told").read_text()
    assert "Going on with" in told and "anew" not in told


def test_memory_does_not_grow_with_the_file(bank, tmp_path):
    peaks = {}
    for rows in (15_000, 120_000):
        made_up(rows, 30).to_csv(tmp_path / f"{rows}.csv.gz", index=False)
        peaks[rows] = job("measure", bank.package, tmp_path / f"{rows}.csv.gz", tmp_path / f"{rows}.csv")["peak_mb"]
        assert len(pd.read_csv(tmp_path / f"{rows}.csv", usecols=["score"])) == rows
    assert peaks[120_000] - peaks[15_000] < 80, peaks


@pytest.fixture
def parts(monkeypatch):
    """Jobs in parts of 500 payments."""
    monkeypatch.setattr(batch, "ROWS_PER_MB", 10)


def test_rows_in_any_order_and_in_parts_get_the_scores_of_the_whole_table(bank, tmp_path, parts):
    payments = made_up(1_800, 5).assign(event_time=lambda frame: frame["event_time"].dt.floor("h"))
    payments.to_parquet(tmp_path / "in.parquet", index=False)
    assert batch.score_file(bank.package, tmp_path / "in.parquet", tmp_path / "out.parquet", memory=50) == 1_800
    scores = pd.read_parquet(tmp_path / "out.parquet")
    expected = batch.score_frame(bank.package, payments)
    pd.testing.assert_frame_equal(scores, expected.astype({"event_time": scores["event_time"].dtype}))
    assert expected["score"].nunique() > 100


def test_changed_input_starts_anew_and_says_so(bank, tmp_path, parts, monkeypatch):
    made_up(1_200, 5).to_csv(tmp_path / "in.csv", index=False)
    told = []

    def score():
        return batch.score_file(bank.package, tmp_path / "in.csv", tmp_path / "out.csv", memory=50, tell=told.append)

    with monkeypatch.context() as broken:
        broken.setattr(resuming.Unfinished, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score()
    assert not (tmp_path / "out.csv").exists() and (tmp_path / ".out.csv.unfinished" / "part-000002").exists()
    made_up(1_300, 5, seed=3).to_csv(tmp_path / "in.csv", index=False)
    assert score() == 1_300
    assert len(told) == 1 and "begun with another file of payments: starting anew" in told[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    # And with the same input, the steps that are there are used: no feature is computed again.
    with monkeypatch.context() as broken:
        broken.setattr(resuming.Unfinished, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score()
    with monkeypatch.context() as frozen:
        frozen.setattr(batch, "write_features", lambda *_: pytest.fail("computed again"))
        assert score() == 1_300
    assert len(told) == 2 and "Going on with" in told[1]


def test_two_jobs_do_not_write_one_output(bank, tmp_path):
    made_up(10, 1).to_csv(tmp_path / "in.csv", index=False)
    with (
        resuming.Unfinished(tmp_path / "out.csv", {}, print),
        pytest.raises(LifecycleError, match="Another process is writing"),
    ):
        batch.score_file(bank.package, tmp_path / "in.csv", tmp_path / "out.csv")


LATE = {
    "amount": (lambda frame: frame.assign(amount=frame["amount"].where(frame.index != 700, -1.0)), "'amount'"),
    "repeated": (lambda frame: pd.concat([frame, frame.head(1)]), "'transaction_id' is repeated in 2 rows"),
}


@pytest.mark.parametrize("case", LATE)
def test_a_mistake_far_down_the_file_is_named_and_leaves_nothing_behind(bank, tmp_path, parts, case):
    change, reason = LATE[case]
    change(made_up(1_200, 5)).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(ContractError, match=reason) as caught:
        batch.score_file(bank.package, tmp_path / "in.csv", tmp_path / "out.csv", memory=50)
    assert case == "repeated" or "in.csv, rows 501 to 1,000" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_zipped_file_that_was_cut_is_one_sentence(bank, tmp_path):
    whole = gzip.compress(made_up(500, 5).to_csv(index=False).encode())
    (tmp_path / "in.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LifecycleError, match="in.csv.gz cannot be read"):
        batch.score_file(bank.package, tmp_path / "in.csv.gz", tmp_path / "out.csv")


def test_too_little_memory_is_refused(bank, tmp_path):
    with pytest.raises(LifecycleError, match="at least 50"):
        batch.score_file(bank.package, tmp_path / "in.csv", tmp_path / "out.csv", memory=10)
