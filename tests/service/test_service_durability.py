"""What is acknowledged stays, and counts once: processes killed, disks full, files damaged, payments sent again."""

import sqlite3

import pandas as pd
import pytest

from lifecycle.deployment import faults, messages
from lifecycle.deployment.endpoint import Endpoint
from lifecycle.deployment.journal import FILE, KEPT, Event, Journal, JournalError

FIRST = pd.Timestamp("2025-03-01", tz="UTC")
PRODUCTION_COPIES = 10


@pytest.fixture(scope="module")
def payments(bank):
    """Payments of the days of service, as a client sends them, with ids of their own."""
    table = bank.tables["transactions"]
    once = messages.as_records(table[table["event_time"] >= FIRST], ["channel"])
    return [
        record | {"transaction_id": 1_000_000 * copy + record["transaction_id"]}
        for copy in range(1, PRODUCTION_COPIES + 1)
        for record in once
    ]


@pytest.fixture
def endpoint(bank, tmp_path):
    endpoint = Endpoint.open(bank.package, tmp_path / "state")
    yield endpoint
    endpoint.close()


def checked(endpoint, records):
    return [messages.check_record(record, 1, endpoint.record_format) for record in records]


def test_a_hundred_kills_under_load_lose_nothing_and_double_nothing(bank, payments):
    outcome = faults.kill_processes(bank.package, payments, times=100)
    assert (outcome.injected, outcome.lost, outcome.doubled) == (100, 0, 0)
    assert outcome.payments > 300, "there was hardly any load"


@pytest.mark.parametrize(
    "drill", [faults.fill_the_disk, faults.forbid_writing, faults.repeat, faults.shuffle, faults.turn_back_the_clock]
)
def test_other_faults_lose_nothing_and_double_nothing(bank, payments, drill):
    outcome = drill(bank.package, payments[:60])
    assert outcome.injected >= 5
    assert (outcome.payments, outcome.lost, outcome.doubled) == (60, 0, 0)


@pytest.mark.parametrize(("words", "waits"), [([], 1), (["--fsync"], 2)])
def test_answers_wait_for_the_disk_when_asked(bank, tmp_path, monkeypatch, words, waits):
    from lifecycle.__main__ import main
    from lifecycle.deployment import service

    opened = []
    real = Endpoint.open
    monkeypatch.setattr(Endpoint, "open", lambda *given: opened.append(real(*given)) or opened[-1])
    monkeypatch.setattr(service._Server, "run", lambda self, sockets: None)
    state = str(tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(service.gc, "freeze", lambda: None)  # it would hold what the other tests have made
        patch.setattr(Endpoint, "close", lambda self: None)
        assert main(["serve", "--model", str(bank.package), "--port", "0", "--state", state, *words]) == 0
    (synchronous,) = opened[0].journal._connection.execute("PRAGMA synchronous").fetchone()
    opened[0].close()
    assert synchronous == waits, "1 is NORMAL, 2 is FULL"


def test_the_drill_notices_an_event_that_was_lost_and_one_that_was_doubled(bank, payments, tmp_path):
    endpoint = Endpoint.open(bank.package, tmp_path)
    few = payments[:20]
    answers = {a["transaction_id"]: a for a in endpoint.score(checked(endpoint, few))}
    lost, doubled = list(answers)[3], list(answers)[5]
    run = endpoint.journal._connection.execute
    run("DELETE FROM events WHERE transaction_id = ?", (lost,))
    columns = [name for name in Event._fields if name != "transaction_id"]
    run(
        f"INSERT INTO events (transaction_id, {', '.join(columns)}) "
        f"SELECT 5, {', '.join(columns)} FROM events WHERE transaction_id = ?",
        (doubled,),
    )
    run("UPDATE events SET micros = micros + 1 WHERE transaction_id = 5")
    endpoint.close()
    few.append(few[5] | {"transaction_id": 5})
    outcome = faults._judge("planted", 1, bank.package, tmp_path, few, answers)
    assert outcome.lost == 1 and outcome.doubled >= 1


def test_a_payment_of_another_content_under_a_known_id_is_refused_alone(endpoint, payments):
    first, second = checked(endpoint, payments[:2])
    (answer,) = endpoint.score([first])
    forged = {**second, "transaction_id": first["transaction_id"]}
    same, refused, other = endpoint.score([first, forged, second])
    assert same == answer and set(other) == {"transaction_id", "score", "decision"}
    assert set(refused) == {"transaction_id", "error"} and "another payment" in refused["error"]


def test_a_payment_that_the_packaged_history_counts_is_scored_and_not_counted_again(bank, endpoint):
    table = bank.tables["transactions"]
    past = messages.as_records(table[table["event_time"] < FIRST].tail(5), ["channel"])
    before = Endpoint.open(bank.package, endpoint.journal._path.parent / "other")
    answers = endpoint.score(checked(endpoint, past))
    assert all(0 <= answer["score"] <= 1 for answer in answers)
    assert endpoint.memory.differs(before.memory) == 0 and not list(endpoint.journal.read())
    before.close()


def test_two_processes_on_one_journal_remember_the_same(bank, payments, tmp_path):
    ours, theirs, alone = (Endpoint.open(bank.package, tmp_path / name) for name in ("both", "both", "alone"))
    for place, record in enumerate(checked(alone, payments[:40])):
        assert (ours, theirs)[place % 2].score([record]) == alone.score([record])
    ours.score(checked(ours, payments[:1]))
    theirs.score(checked(theirs, payments[:1]))
    assert ours.memory.differs(theirs.memory) == alone.memory.differs(theirs.memory) == 0


def test_a_request_that_cannot_be_recorded_changes_no_memory(bank, endpoint, payments):
    before = Endpoint.open(bank.package, endpoint.journal._path.parent / "other")
    endpoint.journal.allow_writing(False)
    with pytest.raises(JournalError, match="write permission"):
        endpoint.score(checked(endpoint, payments[:10]))
    assert endpoint.memory.differs(before.memory) == 0
    endpoint.journal.allow_writing(True)
    assert len(endpoint.score(checked(endpoint, payments[:10]))) == 10
    assert endpoint.memory.differs(before.memory) > 0
    before.close()


def test_a_full_database_is_one_sentence(tmp_path):
    journal = Journal(tmp_path)
    journal._connection.execute("PRAGMA max_page_count = 5")
    events = [Event(number, 1, 2, 0, 1, b"", 0.5, "approve", "v") for number in range(2_000)]
    with pytest.raises(JournalError, match="The disk is full: .*events.db cannot be written"), journal.writing():
        journal.append(events)
    assert not list(journal.read())


@pytest.mark.parametrize("place", [0, 40, 4_096])
def test_a_damaged_journal_is_refused_by_name_and_not_touched(bank, tmp_path, place):
    journal = Journal(tmp_path)
    with journal.writing():
        journal.append(Event(number, 1, 2, 0, 1, b"", 0.5, "approve", "v") for number in range(500))
    journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[place : place + 30] = b"x" * 30
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(JournalError, match="events.db is damaged and was not touched"):
        Endpoint.open(bank.package, tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_state_folder_that_cannot_be_made_is_one_sentence(bank, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match="Cannot write"):
        Endpoint.open(bank.package, tmp_path / "file" / "state")


def test_old_payments_are_dropped_at_the_next_start(tmp_path):
    journal = Journal(tmp_path)
    with journal.writing():
        journal.append(Event(n, 1, 2, n * KEPT, 1, b"", 0.5, "approve", "v") for n in (0, 1, 2))
    journal.close()
    assert [event.transaction_id for event in Journal(tmp_path).read()] == [1, 2]


def test_the_journal_is_plain_sqlite_that_any_tool_reads(endpoint, payments, tmp_path):
    endpoint.score(checked(endpoint, payments[:3]))
    with sqlite3.connect(tmp_path / "state" / FILE) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (3,)
