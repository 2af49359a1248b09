"""Requests that wait together are answered together, and each as if it were alone."""

import asyncio
import json
import sqlite3
import threading
import time

import httpx
import numpy as np
import pandas as pd
import pytest
from service_fakes import payment, scorer

from lifecycle.deployment import line, messages
from lifecycle.deployment.endpoint import Endpoint
from lifecycle.deployment.journal import FILE, Event, Journal
from lifecycle.deployment.line import Asked, Line, answer_together
from lifecycle.deployment.scorer import Scorer
from lifecycle.deployment.service import create_app

FIRST = pd.Timestamp("2025-03-01", tz="UTC")


class Counting:
    """A scorer that waits until it is told to go on, notes each call, and fails for payments of 666."""

    def __init__(self, inner=None):
        self.inner, self.calls, self.go, self.busy = inner or scorer(), [], threading.Event(), threading.Event()
        self.record_format = self.inner.record_format

    def score(self, records):
        self.busy.set()
        assert self.go.wait(10)
        self.calls.append([record["transaction_id"] for record in records])
        if any(record["amount"] == 666 for record in records):
            raise RuntimeError("no")
        return self.inner.score(records)


def asked(*records, one=True):
    body = json.dumps(records[0] if one and len(records) == 1 else list(records))
    return Asked(body.encode(), messages.JSON, messages.JSON)


def answered_while_busy(own, requests, **options):
    """Send one request, the others while it is being scored; return the answers to the others."""

    async def send():
        waiting = Line(own, **options)
        first = asyncio.create_task(waiting.answer(asked(payment(0))))
        await asyncio.to_thread(own.busy.wait, 10)
        others = [asyncio.create_task(waiting.answer(request)) for request in requests]
        await asyncio.sleep(0.05)
        own.go.set()
        answers = await asyncio.gather(*others, return_exceptions=True)
        await first
        await asyncio.to_thread(waiting.close)
        return answers

    return asyncio.run(send())


def test_who_waits_together_is_scored_with_one_call_in_the_order_of_arrival():
    own = Counting()
    answers = answered_while_busy(own, [asked(payment(5)), asked(payment(3), payment(4)), asked(payment(1))])
    assert own.calls == [[0], [5, 3, 4, 1]]
    assert [json.loads(answer) for answer in answers][1][1]["transaction_id"] == 4
    assert json.loads(answers[2]) == {"transaction_id": 1, "score": 0.25, "decision": "approve"}


def test_a_request_that_fails_does_not_fail_those_beside_it():
    own = Counting()
    bad = Asked(b"{", messages.JSON, messages.JSON)
    requests = [asked(payment(1)), bad, asked(payment(2, amount=666)), asked(payment(3, amount=-1)), asked(payment(4))]
    first, unread, broken, refused, last = answered_while_busy(own, requests)
    assert json.loads(first)["transaction_id"] == 1 and json.loads(last)["transaction_id"] == 4
    assert isinstance(unread, messages.BadRequest) and "not valid JSON" in str(unread)
    assert isinstance(broken, RuntimeError)
    assert isinstance(refused, messages.BadRequest) and "'amount'" in str(refused)
    assert own.calls == [[0], [1, 2, 4], [1], [2], [4]]


def test_a_group_is_limited_in_requests_and_in_bytes(monkeypatch):
    monkeypatch.setattr(line, "MOST", 3)
    own = Counting()
    large = asked(*(payment(number) for number in range(100, 1_000)))
    answered_while_busy(own, [*(asked(payment(number)) for number in range(1, 6)), large, asked(payment(6))])
    assert [len(call) for call in own.calls] == [1, 3, 2, 900, 1]


def test_a_line_that_is_closed_has_answered_everybody():
    own = Counting()

    async def close():
        waiting = Line(own)
        tasks = [asyncio.create_task(waiting.answer(asked(payment(number)))) for number in range(20)]
        await asyncio.to_thread(own.busy.wait, 10)
        own.go.set()
        await asyncio.to_thread(waiting.close)
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(close())) == 20


@pytest.fixture(scope="module")
def payments(bank):
    table = bank.tables["transactions"]
    return messages.as_records(table[table["event_time"] >= FIRST], ["channel"])


def test_an_answer_leaves_after_its_payment_is_on_disk(bank, payments, tmp_path):
    endpoint = Endpoint.open(bank.package, tmp_path)
    app = create_app(endpoint)
    missing = []

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:

            async def one(part):
                for record in part:
                    answer = await client.post("/invocations", json=record)
                    assert answer.json()["transaction_id"] == record["transaction_id"]
                    with sqlite3.connect(tmp_path / FILE) as other:
                        query = "SELECT count(*) FROM events WHERE transaction_id = ? AND score = ?"
                        found = other.execute(query, (record["transaction_id"], answer.json()["score"])).fetchone()
                    missing.extend([] if found == (1,) else [record["transaction_id"]])

            await asyncio.gather(*(one(payments[start:160:8]) for start in range(8)))

    asyncio.run(send())
    endpoint.close()
    assert missing == []


def test_a_group_gives_the_answers_and_the_memory_that_its_requests_would_give_alone(bank, payments, tmp_path):
    together, alone = Endpoint.open(bank.package, tmp_path / "a"), Endpoint.open(bank.package, tmp_path / "b")
    repeated = [*payments[:7], payments[2], payments[3] | {"amount": 1.0}, *payments[7:60], payments[0]]
    requests = [asked(record) for record in repeated]
    groups = [requests[start : start + size] for start, size in ((0, 1), (1, 9), (10, 40), (50, 13))]
    ours = [answer for group in groups for answer in answer_together(together, None, group)]
    theirs = [answer for request in requests for answer in answer_together(alone, None, [request])]
    assert len(ours) == len(theirs) == 63
    assert list(map(str, ours)) == list(map(str, theirs))
    assert sum(isinstance(answer, messages.BadRequest) and answer.status == 409 for answer in ours) == 1
    assert together.memory.differs(alone.memory) == 0
    assert list(together.journal.read()) == list(alone.journal.read())
    together.close(), alone.close()


def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(bank, payments, tmp_path, monkeypatch):
    """The journal takes no request with a payment of 666: it stands for the one that no longer fits on the disk."""
    endpoint, fresh = Endpoint.open(bank.package, tmp_path / "a"), Endpoint.open(bank.package, tmp_path / "b")
    write = endpoint.journal.append

    def append(events):
        events = list(events)
        write(events)
        if any(event.units == 6_660_000 for event in events):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(endpoint.journal, "append", append)
    requests = [asked(payments[0]), asked(payments[1] | {"amount": 666.0}), asked(payments[2])]
    first, full, last = answer_together(endpoint, None, requests)
    assert "The disk is full" in str(full)
    assert [json.loads(answer) for answer in (first, last)] == [
        json.loads(answer_together(fresh, None, [request])[0]) for request in (requests[0], requests[2])
    ]
    assert endpoint.memory.differs(fresh.memory) == 0
    endpoint.close(), fresh.close()


@pytest.mark.parametrize("kind", ["logistic_regression", "random_forest", "gradient_boosting"])
def test_a_score_is_the_same_to_the_last_bit_alone_and_in_a_group(bank, tmp_path, kind):
    from lifecycle import features, training

    schema = features.load_schema(bank.root / "features")
    table = pd.read_parquet(bank.root / "features" / "training_set.parquet")
    matrix = training.feature_matrix(table, schema)
    model = training.make_model(kind, features.feature_names(schema), 0)
    model.fit(matrix, table["is_fraud"].astype(int))
    training.save_model(model, schema, tmp_path, matrix[:200], name=kind, threshold=0.2)
    own = Scorer(None, training.load_model(tmp_path, threads=1), 0.2)
    some = matrix[:384]
    alone = [score for row in some for score in own.predict(row[np.newaxis])]
    assert len(set(alone)) > 50
    for size in (2, 3, 4, 7, 16, 64, 384):
        parts = [own.predict(some[start : start + size]) for start in range(0, len(some), size)]
        assert sum(parts, []) == alone, f"{kind} in groups of {size}"


def test_the_journals_log_is_moved_beside_the_answers_and_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr("lifecycle.deployment.journal.LOG_BYTES", 200_000)
    monkeypatch.setattr("lifecycle.deployment.journal.MOVE_SECONDS", 0.01)
    journal, largest = Journal(tmp_path), 0
    assert journal._connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    log = tmp_path / f"{FILE}-wal"
    for number in range(600):
        with journal.writing():
            journal.append([Event(number, 1, 2, 0, 1, b"x" * 50, 0.5, "approve", "v")])
        largest = max(largest, log.stat().st_size)
        time.sleep(0.001)
    assert largest < 2_000_000, "without the mover it would be larger than 7 MB"
    assert sorted(event.transaction_id for event in journal.read()) == list(range(600))
    journal.close()
    assert not log.exists()
    assert len(list(Journal(tmp_path).read())) == 600
