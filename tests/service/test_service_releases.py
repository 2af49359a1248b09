"""Shadow, canary and rollback while payments come in: no request fails, no payment gets a score of the wrong model."""

import json
import shutil
import threading
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from lifecycle import features, training
from lifecycle.deployment import messages, packaging, releases, running
from lifecycle.deployment.artifact import open_package
from lifecycle.deployment.endpoint import LEAST, Endpoint
from lifecycle.deployment.scorer import Scorer
from lifecycle.errors import LifecycleError

FIRST = pd.Timestamp("2025-03-01", tz="UTC")


@pytest.fixture(scope="module")
def versions(bank, tmp_path_factory):
    """Packages by name: v1, v2 (another model), and one whose decisions are all other than those of v1."""
    root = tmp_path_factory.mktemp("versions")
    schema = features.load_schema(bank.root / "features")
    train = pd.read_parquet(bank.root / "features" / "training_set.parquet")
    matrix, labels = training.feature_matrix(train, schema), train["is_fraud"].astype(int)
    made = {"v1": bank.package}
    for name, threshold, rounds in (("v2", 0.2, 60), ("contrary", 0.0, 20)):
        model = HistGradientBoostingClassifier(max_iter=rounds, min_samples_leaf=3, random_state=1).fit(matrix, labels)
        (root / f"model-{name}").mkdir()
        training.save_model(model, schema, root / f"model-{name}", matrix[:200], name=name, threshold=threshold)
        packaging.package(root / f"model-{name}", bank.root / "features", bank.tables, "2025-03-01", root / name)
        made[name] = root / name
    return made


@pytest.fixture
def folder(versions, tmp_path):
    for name, package in versions.items():
        releases.add(tmp_path / "releases", package, name)
    return tmp_path / "releases"


@pytest.fixture(scope="module")
def payments(bank):
    table = bank.tables["transactions"]
    once = messages.as_records(table[table["event_time"] >= FIRST], ["channel"])
    return [r | {"transaction_id": 1_000_000 * copy + r["transaction_id"]} for copy in range(1, 30) for r in once]


def settle(endpoint, until, record, seconds=60):
    """Send payments until the endpoint has taken over a change; return the answers."""
    began, number, answers = time.monotonic(), 10**12, []
    while not until():
        assert time.monotonic() - began < seconds, "the change was not taken over"
        answers += endpoint.score([{**record, "transaction_id": number + len(answers)}])
        time.sleep(0.01)
    return answers


def expected_scores(folder, events, payments, format_):
    """Each event scored again by the version that the journal names, in the order of the journal."""
    scorers = {}
    for name in {event.version for event in events}:
        scorers[name] = Scorer.open(
            folder / name, recent=next(iter(scorers.values())).features.recent if scorers else None
        )
    recent = next(iter(scorers.values())).features.recent
    by_id = {record["transaction_id"]: record for record in payments}
    found = []
    for event in events:
        record = messages.check_record(by_id[event.transaction_id], 1, format_)
        made = scorers[event.version].features
        prepared = made.prepare([record])
        seen = [recent.observe_one(*key) for key in prepared.keys]
        found += scorers[event.version].predict(made.finish(prepared, seen))
    return found


def test_a_swap_and_a_rollback_under_load_fail_no_request_and_mis_score_none(folder, payments, tmp_path):
    answers, over, statuses = [], threading.Event(), []

    def client(part, service):
        for record in part:
            if over.is_set():
                return
            status, text = service.call("/invocations", json.dumps(record), "application/json")
            statuses.append(status)
            answers.append((time.time(), json.loads(text)))

    def answered(more):
        wanted = len(answers) + more
        began = time.monotonic()
        while len(answers) < wanted:
            assert time.monotonic() - began < 60
            time.sleep(0.01)

    state = tmp_path / "state"
    with running.start(folder, options=("--state", str(state))) as service:
        clients = [threading.Thread(target=client, args=(payments[start::3], service)) for start in range(3)]
        for one in clients:
            one.start()
        for swap in (lambda: releases.promote(folder, "v2"), lambda: releases.roll_back(folder)) * 2:
            answered(60)
            swap()
            until = time.monotonic() + 60
            while _last_version(state) != releases.read(folder).champion:
                assert time.monotonic() < until, "the alias was not followed"
                time.sleep(0.02)
        answered(60)
        over.set()
        for one in clients:
            one.join()
        assert service.stop() == 0
    assert set(statuses) == {200}
    endpoint = Endpoint.open(folder, state)
    events = list(endpoint.journal.read())
    runs = [
        event.version
        for number, event in enumerate(events)
        if not number or events[number - 1].version != event.version
    ]
    assert runs == ["v1", "v2", "v1", "v2", "v1"], "each swap is one moment, and nothing of the old version after it"
    given = {answer["transaction_id"]: answer["score"] for _, answer in answers}
    scores = expected_scores(folder, events, payments, endpoint.record_format)
    mis_scored = sum(given[event.transaction_id] != score for event, score in zip(events, scores, strict=True))
    assert (len(given), mis_scored) == (len(events), 0)
    assert len({event.score for event in events}) > 50


def _last_version(state):
    import sqlite3

    with sqlite3.connect(state / "events.db") as connection:
        return connection.execute("SELECT version FROM events ORDER BY seq DESC LIMIT 1").fetchone()[0]


def checked(endpoint, records):
    return [messages.check_record(record, 1, endpoint.record_format) for record in records]


def test_a_shadow_decides_nothing_and_its_scores_are_kept(folder, payments, tmp_path):
    endpoint, alone = Endpoint.open(folder, tmp_path / "a"), Endpoint.open(folder / "v1", tmp_path / "b")
    few = checked(endpoint, payments[:60])
    releases.try_out(folder, "v2", "shadow")
    warm = few.pop(0)
    sent = settle(endpoint, lambda: endpoint._plan.candidate is not None, warm)
    alone.score([{**warm, "transaction_id": answer["transaction_id"]} for answer in sent])
    assert [endpoint.score([one]) for one in few] == [alone.score([one]) for one in few]
    kept = [event for event in endpoint.journal.read()][-len(few) :]
    assert {event.version for event in kept} == {"v1"} and {event.other_version for event in kept} == {"v2"}
    assert np.mean([event.score != event.other_score for event in kept]) > 0.5


def test_a_canary_decides_for_its_share_of_the_customers_always_the_same_ones(folder, payments, tmp_path):
    endpoint = Endpoint.open(folder, tmp_path / "a")
    records = checked(endpoint, payments[:400])
    releases.try_out(folder, "v2", "canary", share=30)
    settle(endpoint, lambda: endpoint._plan.candidate is not None, records[0])
    for record in records:
        endpoint.score([record])
    kept = [event for event in endpoint.journal.read()][-300:]
    decided = {event.customer_id for event in kept if event.version == "v2"}
    assert decided and not decided & {event.customer_id for event in kept if event.version == "v1"}
    assert 0.05 < len(decided) / len({event.customer_id for event in kept}) < 0.6
    assert releases.read(folder).candidate.version == "v2", "a canary that agrees stays"


def test_a_canary_that_decides_otherwise_is_rolled_back_by_itself(folder, payments, tmp_path):
    endpoint = Endpoint.open(folder, tmp_path / "a")
    records = checked(endpoint, payments[: 3 * LEAST])
    releases.try_out(folder, "contrary", "canary", share=50)
    settle(endpoint, lambda: endpoint._plan.candidate is not None, records[0])
    assert all("error" not in answer for record in records for answer in endpoint.score([record]))
    assert releases.read(folder).candidate is None and releases.read(folder).champion == "v1"
    assert "decisions differ" in releases.changes(folder)[-1]["why"]
    assert [event.version for event in endpoint.journal.read()][-1] == "v1"


def test_a_canary_that_is_slow_is_rolled_back_by_itself(folder, payments, tmp_path, monkeypatch):
    endpoint = Endpoint.open(folder, tmp_path / "a")
    records = checked(endpoint, payments[: 3 * LEAST])
    releases.try_out(folder, "v2", "canary", share=50)
    settle(endpoint, lambda: endpoint._plan.candidate is not None, records[0])
    quick = endpoint._scorers["v2"].predict

    def slow(matrix):
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass
        return quick(matrix)

    monkeypatch.setattr(endpoint._scorers["v2"], "predict", slow)
    assert all("error" not in answer for record in records for answer in endpoint.score([record]))
    assert releases.read(folder).candidate is None and releases.read(folder).champion == "v1"
    assert "times as long as the champion" in releases.changes(folder)[-1]["why"]
    assert [event.version for event in endpoint.journal.read()][-1] == "v1"


@pytest.mark.parametrize("fault", ["fails", "nan"])
def test_a_canary_that_breaks_is_rolled_back_at_once_and_costs_no_answer(
    folder, payments, tmp_path, monkeypatch, fault
):
    endpoint = Endpoint.open(folder, tmp_path / "a")
    records = checked(endpoint, payments[:10])
    releases.try_out(folder, "v2", "canary", share=100)
    settle(endpoint, lambda: endpoint._plan.candidate is not None, records[0])

    def broken(matrix):
        if fault == "fails":
            raise RuntimeError("no")
        return [float("nan")] * len(matrix)

    monkeypatch.setattr(endpoint._scorers["v2"], "predict", broken)
    (answer,) = endpoint.score(records[:1])
    assert 0 <= answer["score"] <= 1
    assert releases.read(folder).candidate is None
    assert list(endpoint.journal.read())[-1].version == "v1"


def test_a_tampered_release_is_never_followed(folder, payments, tmp_path, caplog):
    endpoint = Endpoint.open(folder, tmp_path / "a")
    with open(folder / "v2" / "model.onnx", "ab") as file:
        file.write(b"\0")
    releases.promote(folder, "v2")
    (record,) = checked(endpoint, payments[:1])
    settle(endpoint, lambda: "model.onnx" in caplog.text, record)
    assert endpoint.version == "v1"
    assert endpoint.score([record])[0]["transaction_id"] == record["transaction_id"]


def test_names_and_modes_are_checked(folder, versions):
    with pytest.raises(LifecycleError, match="no name for a version"):
        releases.add(folder, versions["v1"], "../v9")
    with pytest.raises(LifecycleError, match="There is a version v1"):
        releases.add(folder, versions["v1"], "v1")
    with pytest.raises(LifecycleError, match="There is no version v9"):
        releases.promote(folder, "v9")
    with pytest.raises(LifecycleError, match="A trial is"):
        releases.try_out(folder, "v2", "test")
    with pytest.raises(LifecycleError, match="no version to go back to"):
        releases.roll_back(folder)
    (folder / "aliases.json").write_text("{}")
    with pytest.raises(LifecycleError, match="damaged"):
        Endpoint.open(folder)


def test_a_version_is_a_package_without_the_state_of_the_one_it_was_copied_from(versions, tmp_path):
    served = shutil.copytree(versions["v1"], tmp_path / "served")
    Endpoint.open(served).close()
    assert (served / "state").is_dir()
    releases.add(tmp_path / "releases", served, "v1")
    assert not (tmp_path / "releases" / "v1" / "state").exists()
    assert open_package(tmp_path / "releases" / "v1").digest == open_package(served).digest
