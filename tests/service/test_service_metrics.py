"""What /metrics says: in Prometheus' own reader, and next to what was really asked."""

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from service_fakes import payment, scorer, served

from lifecycle.deployment import metrics, running, service


def read(text: str) -> dict[tuple, float]:
    """Return the samples by name and labels, without the worker."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type in ("counter", "gauge", "histogram") and family.documentation, family.name
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "worker"}
            assert sample.labels["worker"].isdigit()
            found[sample.name.removeprefix("fraud_service_"), *labels.items()] = sample.value
    return found


def test_every_figure_is_what_was_asked():
    with served(service.create_app(scorer())) as port:
        client = running.Running(None, "127.0.0.1", port, None)
        client.call("/ping")
        client.invoke([payment(1, amount=900.0), payment(2), payment(3, amount=700.0)])
        client.invoke(payment(4))
        status, _ = client.call("/invocations", "no", "application/json")
        assert status == 400
        with socket.create_connection((client.host, client.port)) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            assert b"400" in raw.recv(1_000)
        status, text = client.call("/metrics")
    found = read(text)
    assert status == 200
    assert found["requests_total", ("code", "200")] == 3
    assert found["requests_total", ("code", "400")] == 2
    assert found["payments_total",] == 4 and found["flagged_total",] == 2
    assert found["requests_in_flight",] == 1
    assert found["request_seconds_count",] == found["request_seconds_bucket", ("le", "+Inf")] == 3
    within = [value for (name, *_), value in found.items() if name == "request_seconds_bucket"]
    assert within == sorted(within) and len(within) == len(metrics.BUCKETS) + 1
    assert 0 < found["request_seconds_sum",] < 30
    assert found["release_info", ("release", "none"), ("code", "0.1.0")] == 1


def test_a_package_says_its_release_the_age_of_its_features_and_the_size_of_its_journal(bank, tmp_path):
    from lifecycle.deployment.endpoint import Endpoint

    endpoint = Endpoint.open(bank.package, tmp_path)
    with TestClient(service.create_app(endpoint)) as client:
        answer = client.get("/metrics")
        before = read(answer.text)
        assert answer.headers["content-type"] == metrics.CONTENT_TYPE
        sent = payment(1, event_time="2025-03-01T10:00:00Z", customer_id=7, terminal_id=8)
        assert client.post("/invocations", json=[sent, sent]).status_code == 200
        os.utime(endpoint.online_store, (0, 0))
        after = read(client.get("/metrics").text)
    assert after["release_info", ("release", endpoint.version), ("code", "0.1.0")] == 1
    assert 0 <= before["feature_age_seconds",] < 3_600 < after["feature_age_seconds",]
    assert after["journal_bytes",] > before["journal_bytes",] > 0 or after["journal_bytes",] > 8_000
    assert after["payments_total",] == 2
    endpoint.close()


def test_no_payment_is_in_any_label():
    app = service.create_app(scorer())
    with TestClient(app) as client:
        secret = payment(987654321, customer_id=55501, terminal_id=66602)
        client.post("/invocations", json=secret)
        client.post("/invocations?card=4111111111111111", content=b"4111111111111111")
        client.get("/4111111111111111")
        text = client.get("/metrics").text
    assert not [word for word in ("987654321", "55501", "66602", "4111111111111111", "card") if word in text]


def test_figures_ask_for_the_token_too(tmp_path):
    with TestClient(service.create_app(scorer(), gate=service.Gate("a-long-enough-token"))) as client:
        assert client.get("/metrics").status_code == 401
        answer = client.get("/metrics", headers={"Authorization": "Bearer a-long-enough-token"})
        assert answer.status_code == 200


@pytest.mark.parametrize("release", ['v"1', "a\\b", "line\nend"])
def test_a_strange_release_is_escaped(release):
    odd = scorer()
    odd.version = release
    assert ("release_info", ("release", release), ("code", "0.1.0")) in read(metrics.Figures(odd).text())


def test_each_of_two_workers_says_whose_figures_they_are(bank, tmp_path):
    with (
        running.start(bank.package, options=("--workers", "2", "--state", str(tmp_path))) as server,
        ThreadPoolExecutor(8) as clients,
    ):

        def ask(number: int) -> str:
            server.invoke(payment(number, event_time="2025-03-01T10:00:00Z", customer_id=7, terminal_id=8))
            return server.call("/metrics")[1]

        seen: dict[str, float] = {}
        for first in range(0, 800, 8):  # at a time, so that one worker cannot take every connection
            for text in clients.map(ask, range(first, first + 8)):
                for family in text_string_to_metric_families(text):
                    if family.name == "fraud_service_payments":
                        seen |= {sample.labels["worker"]: sample.value for sample in family.samples}
            if len(seen) == 2:
                break
        assert len(seen) == 2 and json.dumps(seen)
