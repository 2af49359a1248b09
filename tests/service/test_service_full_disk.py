"""A disk that is really full: a small file system of its own, where the machine lets one be mounted."""

import json
import os
import subprocess

import pandas as pd
import pytest

from lifecycle.deployment import batch, faults, messages, running
from lifecycle.errors import LifecycleError

FIRST = pd.Timestamp("2025-03-01", tz="UTC")


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system; the drill with a limit on file sizes runs everywhere")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, left):
    """Leave so many bytes free, and return the file that takes the others."""
    ballast = disk / "ballast"
    with open(ballast, "ab") as file:
        state = os.statvfs(disk)
        file.write(bytes(max(state.f_bavail * state.f_frsize - left, 0)))
    return ballast


@pytest.fixture
def payments(bank):
    table = bank.tables["transactions"]
    return messages.as_records(table[table["event_time"] >= FIRST], ["channel"])


def test_a_service_on_a_full_disk_refuses_and_goes_on_when_there_is_space(bank, payments, disk):
    answers, refused = {}, []
    with running.start(bank.package, options=("--state", str(disk / "state"))) as server:

        def send(record):
            status, text = server.call("/invocations", json.dumps(record), "application/json")
            if status == 200:
                answers[record["transaction_id"]] = json.loads(text)
            else:
                assert status == 503 and "nothing was counted" in text, (status, text)
                refused.append(record)

        for record in payments[:20]:
            send(record)
        assert not refused
        ballast = fill(disk, 0)
        for record in payments[20:]:
            send(record)
            if len(refused) >= 10:
                break
        sent = payments[: 20 + len(answers) - 20 + len(refused)]
        assert len(refused) >= 10 and server.call("/ping")[0] == 200
        ballast.unlink()
        for record in list(refused):
            send(record)
        assert len(answers) == len(sent) and server.stop() == 0
    outcome = faults._judge("disk full", len(refused), bank.package, disk / "state", sent, answers)
    assert (outcome.payments, outcome.lost, outcome.doubled) == (len(sent), 0, 0)


def test_a_service_is_told_in_a_sentence_that_it_cannot_begin_on_a_full_disk(bank, disk):
    fill(disk, 0)
    with (
        pytest.raises(LifecycleError, match="disk is full|could not|cannot be written"),
        running.start(bank.package, options=("--state", str(disk / "state"))),
    ):
        pass


def test_a_batch_job_on_a_full_disk_ends_with_a_sentence_and_goes_on_later(bank, payments, disk, tmp_path):
    many = pd.concat([pd.DataFrame(payments).assign(copy=number) for number in range(20)], ignore_index=True)
    many["transaction_id"] = range(5_000_000, 5_000_000 + len(many))
    many.to_csv(tmp_path / "in.csv", index=False)
    batch.score_file(bank.package, tmp_path / "in.csv", tmp_path / "expected.csv")
    for left in (10_000, 60_000, 200_000):
        ballast = fill(disk, left)
        with pytest.raises(LifecycleError, match="disk is full"):
            batch.score_file(bank.package, tmp_path / "in.csv", disk / "out.csv")
        assert not (disk / "out.csv").exists()
        ballast.unlink()
    assert batch.score_file(bank.package, tmp_path / "in.csv", disk / "out.csv") == len(many)
    assert (disk / "out.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
