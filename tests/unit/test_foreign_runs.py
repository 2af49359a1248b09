"""Two foreign tables of different shapes go through the whole run, and their models score and serve."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from foreign_tables import write_shop, write_transfers

from lifecycle import files
from lifecycle.__main__ import main
from lifecycle.deployment import running


@pytest.fixture(autouse=True)
def few_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFECYCLE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LIFECYCLE_TRIALS", "3")


def test_transfers_without_terminals_are_served_as_they_are_scored(tmp_path: Path) -> None:
    path, labels = write_transfers(tmp_path, rows=5_000)
    out = tmp_path / "out"
    assert main(["run", "--transactions", str(path), "--labels", str(labels), "--out", str(out)]) == 0
    assert "The file has no terminals" in (out / "report.html").read_text()
    # Payments of the first day that the package does not know.
    later = pd.read_parquet(path).tail(60)
    later["transaction_id"] += 1_000_000
    first = pd.Timestamp(files.read_json(out / "package.json")["first_day"], tz="UTC")
    later["event_time"] = pd.date_range(first, periods=len(later), freq="20min")
    later.to_parquet(tmp_path / "later.parquet", index=False)
    scored = tmp_path / "scored.csv"
    asked = ["score", "--model", str(out), "--transactions", str(tmp_path / "later.parquet"), "--out", str(scored)]
    assert main(asked) == 0
    records = [
        {
            "transaction_id": row.transaction_id,
            "event_time": row.event_time.isoformat(),
            "customer_id": row.customer_id,
            "amount": row.amount,
            "x_is_new_payee": int(row.is_new_payee),
        }
        for row in later.itertuples()
    ]
    with running.start(out, clock="event", options=("--state", str(tmp_path / "state"))) as service:
        served = pd.DataFrame(service.invoke(records))
    both = served.merge(pd.read_csv(scored), on="transaction_id", suffixes=("", "_batch"))
    assert len(both) == len(later)
    assert (both["score"] - both["score_batch"]).abs().max() < 1e-6


def test_a_shop_whose_leak_is_dropped_runs_again_and_its_report_says_so(tmp_path: Path) -> None:
    path, words = write_shop(tmp_path, rows=5_000, extras=2)
    words.write_text('drop = ["Refund ref"]\n' + words.read_text())
    out = tmp_path / "out"
    assert main(["run", "--transactions", str(path), "--map", str(words), "--out", str(out)]) == 0
    assert "x_refund_ref" not in files.read_json(out / "feature_schema.json")["features"]
    own = files.read_json(out / "report.json")["own"]
    assert not own["suspects"]
    assert "dropped by the mapping" in (out / "report.html").read_text()
    assert os.listdir(out / "features")
