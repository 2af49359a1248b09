"""The container contract, over HTTP within one process."""

import asyncio
import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_fakes import payment, scorer
from starlette.requests import Request

from lifecycle.deployment.capture import Capture
from lifecycle.deployment.messages import CONTENT_TYPES, BadRequest
from lifecycle.deployment.service import Gate, _read, create_app

JSON, LINES, CSV = CONTENT_TYPES


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(scorer(), max_payload_mb=0.1)) as client:
        yield client


def post(client, body, content_type=JSON, **headers):
    return client.post("/invocations", content=body, headers={"content-type": content_type, **headers})


def test_ping_says_healthy(client):
    assert client.get("/ping").status_code == 200


def test_execution_parameters_have_the_published_names(client):
    answer = client.get("/execution-parameters").json()
    assert set(answer) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert answer["BatchStrategy"] == "MULTI_RECORD"


def test_one_object_gets_one_object(client):
    answer = post(client, json.dumps(payment(amount=750)))
    assert answer.json() == {"transaction_id": 1, "score": 0.75, "decision": "review"}


def test_a_list_gets_a_list_in_the_same_order(client):
    answer = post(client, json.dumps([payment(2), payment(1, amount=600)]))
    assert [(a["transaction_id"], a["decision"]) for a in answer.json()] == [(2, "approve"), (1, "review")]


def test_json_lines_get_json_lines(client):
    answer = post(client, "".join(json.dumps(payment(i)) + "\n" for i in (1, 2)), LINES)
    assert answer.headers["content-type"].startswith(LINES)
    assert [json.loads(line)["transaction_id"] for line in answer.text.splitlines()] == [1, 2]


def test_csv_with_a_header_gets_csv_with_a_header(client):
    record = payment(amount=750)
    answer = post(client, ",".join(record) + "\n" + ",".join(map(str, record.values())) + "\n", CSV)
    assert answer.text == "transaction_id,score,decision\n1,0.75,review\n"


def test_csv_without_a_header_is_read_in_the_order_of_the_contract(client):
    answer = post(client, "1,2025-11-03T10:00:00Z,7,8,750\n", CSV)
    assert answer.text == "1,0.75,review\n"


def test_csv_columns_may_come_in_any_order(client):
    record = dict(reversed(payment(amount=750).items()))
    answer = post(client, ",".join(record) + "\r\n" + ",".join(map(str, record.values())), CSV)
    assert "0.75" in answer.text


def test_the_content_type_may_carry_a_charset(client):
    assert post(client, json.dumps(payment()), "application/json; charset=utf-8").status_code == 200


@pytest.mark.parametrize(
    ("accept", "expected"),
    [(CSV, CSV), ("*/*", JSON), ("application/*", JSON), ("text/html, application/jsonlines;q=0.5", LINES)],
)
def test_accept_chooses_the_type_of_the_answer(client, accept, expected):
    answer = post(client, json.dumps(payment()), accept=accept)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(expected)


def test_an_answer_nobody_can_give_is_406(client):
    assert post(client, json.dumps(payment()), accept="image/png").status_code == 406


@pytest.mark.parametrize("content_type", ["application/x-npy", "text/plain", "application/xml", ""])
def test_other_content_types_are_415(client, content_type):
    answer = post(client, b"x", content_type)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


def test_a_compressed_body_is_415(client):
    assert post(client, b"\x1f\x8b", JSON, **{"content-encoding": "gzip"}).status_code == 415


def without(name):
    return {key: value for key, value in payment().items() if key != name}


BAD_RECORDS = [
    *[(without(name), name, "is missing") for name in payment()],
    (payment(amount=None), "amount", "is missing"),
    (payment(amount="12"), "amount", "must be a number"),
    (payment(amount=True), "amount", "must be a number"),
    (payment(amount=-5), "amount", "greater than 0"),
    (payment(amount=0), "amount", "greater than 0"),
    (payment(amount=1e300), "amount", "larger than"),
    (payment(amount=10**400), "amount", "larger than"),
    (payment(event_time="2025-11-03T10:00:00"), "event_time", "no time zone"),
    (payment(event_time="yesterday"), "event_time", "ISO-8601"),
    (payment(event_time=1762164000), "event_time", "ISO-8601"),
    (payment(event_time="0001-01-01T00:00:00+14:00"), "event_time", "ISO-8601"),
    (payment(event_time="9999-01-01T00:00:00Z"), "event_time", "between"),
    (payment(customer_id="7"), "customer_id", "must be an integer"),
    (payment(customer_id=7.0), "customer_id", "must be an integer"),
    (payment(customer_id=2**63), "customer_id", "64 bits"),
    (payment(terminal_id=[8]), "terminal_id", "must be an integer"),
    (payment(channel=5), "channel", "must be text"),
    (payment(channel="x" * 5000), "channel", "longer than"),
    (payment(channel="\ud800"), "channel", "not text"),
]


@pytest.mark.parametrize(("record", "field", "reason"), BAD_RECORDS)
def test_a_bad_record_is_400_and_names_record_and_field(client, record, field, reason):
    assert post(client, json.dumps(record)).status_code == 400
    answer = post(client, json.dumps([payment(99), record]))
    assert answer.status_code == 200
    assert answer.json()[0] == {"transaction_id": 99, "score": 0.25, "decision": "approve"}
    sentence = answer.json()[1]["error"]
    assert sentence.startswith("Record 2:")
    assert f"'{field}'" in sentence and reason in sentence
    assert sentence.count("\n") == 0


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("content_type", [JSON, LINES])
def test_json_numbers_that_are_not_finite_are_400(client, amount, content_type):
    answer = post(client, json.dumps(payment()).replace("250.0", amount), content_type)
    assert answer.status_code == 400
    assert "finite" in answer.json()["error"]


@pytest.mark.parametrize("amount", ["nan", "inf", "-inf", "ten", "", "1e999"])
def test_csv_numbers_that_are_not_finite_are_400(client, amount):
    answer = post(client, f"1,2025-11-03T10:00:00Z,7,8,{amount}\n", CSV)
    assert answer.status_code == 400
    assert "'amount'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", JSON),
        (b"  \n", LINES),
        (b"\xef\xbb\xbf", CSV),
        (b"[]", JSON),
        (b"transaction_id,event_time,customer_id,terminal_id,amount\n", CSV),
        (b"{", JSON),
        (b"[1, 2]", JSON),
        (b'"text"', JSON),
        (b"null", LINES),
        (b"[" * 100_000, JSON),
        (b'{"a":' * 20_000, LINES),
        (b"1" * 50_000, JSON),
        (b"\xff\xfe{", JSON),
        (b'"', CSV),
        (b"a\x00b,c\n", CSV),
        (b"1,2\n", CSV),
        (b"\xb2\xb2,2025-11-03T10:00:00Z,7,8,1\n", CSV),
        ("\u00b2,2025-11-03T10:00:00Z,7,8,1\n".encode(), CSV),
        (b"--1,2025-11-03T10:00:00Z,7,8,1\n", CSV),
        (b"transaction_id,transaction_id\n1,2\n", CSV),
    ],
)
def test_hostile_bodies_are_400_with_one_sentence(client, body, content_type):
    answer = post(client, body, content_type)
    assert answer.status_code == 400
    assert answer.json()["error"].endswith(".")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps([payment(1), payment(2, amount=-1), payment(3)]), JSON),
        (f"{json.dumps(payment(1))}\n{{half\n{json.dumps(payment(3))}\n", LINES),
        ("1,2025-11-03T10:00:00Z,7,8,250\n2,2025-11-03T10:00:00Z,7\n3,2025-11-03T10:00:00Z,7,8,250\n", CSV),
    ],
)
def test_a_record_that_fails_does_not_fail_the_others(client, body, content_type):
    answer = post(client, body, content_type, accept=JSON)
    assert answer.status_code == 200
    first, second, third = answer.json()
    assert (first["transaction_id"], third["transaction_id"]) == (1, 3)
    assert set(second) == {"error"} and second["error"].endswith((".", "..."))


def test_csv_tells_a_failed_record_in_a_fourth_column(client):
    body = "1,2025-11-03T10:00:00Z,7,8,750\n2,2025-11-03T10:00:00Z,7,8,ten\n"
    assert post(client, body, CSV).text == "1,0.75,review,\n,,,Record 2: field 'amount' must be a number.\n"


@pytest.fixture
def guarded():
    with TestClient(create_app(scorer(), gate=Gate("a-long-enough-token", most=1))) as client:
        yield client


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Basic a-long-enough-token", "Bearer \xff"])
def test_without_the_token_nothing_is_scored(guarded, given):
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    answer = guarded.post("/invocations", content=json.dumps(payment()), headers={"content-type": JSON} | headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/ping").status_code == 200, "a platform asks for health without a token"


def test_with_the_token_payments_are_scored(guarded):
    assert post(guarded, json.dumps(payment()), authorization="Bearer a-long-enough-token").status_code == 200


def test_the_token_is_compared_in_constant_time(guarded, monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or False)
    post(guarded, json.dumps(payment()), authorization="Bearer x")
    assert compared == [(b"x", b"a-long-enough-token")]


def test_one_request_too_many_is_429_and_the_others_are_answered():
    gate = Gate(most=1)
    with TestClient(create_app(scorer(), gate=gate)) as client, gate.entered():
        refused = post(client, json.dumps(payment()))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    with TestClient(create_app(scorer(), gate=gate)) as client:
        assert post(client, json.dumps(payment())).status_code == 200


def test_a_body_that_does_not_arrive_is_408(monkeypatch):
    monkeypatch.setattr("lifecycle.deployment.service.READ_SECONDS", 0.05)

    async def receive():
        await asyncio.sleep(5)

    async def body():
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        await _read(request, 100)

    with pytest.raises(BadRequest, match="did not arrive") as caught:
        asyncio.run(body())
    assert caught.value.status == 408


def test_the_page_describes_what_the_service_takes(client):
    api = client.get("/openapi.json").json()
    body = api["paths"]["/invocations"]["post"]["requestBody"]["content"]
    assert set(body) == set(CONTENT_TYPES)
    answer = client.get("/docs")
    assert answer.status_code == 200 and "text/html" in answer.headers["content-type"]
    for word in ("/invocations", "amount", "415", "413", "/ping"):
        assert word in answer.text
    assert "http://" not in answer.text and "https://" not in answer.text, "the page needs no network"


def test_a_large_body_is_413_with_and_without_a_declared_length(client):
    assert post(client, b" " * 200_000).status_code == 413
    assert post(client, (b" " * 1000 for _ in range(200))).status_code == 413


def test_errors_do_not_repeat_the_payment(client):
    answer = post(client, json.dumps(payment(customer_id="4929-1234")))
    assert "4929" not in answer.text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(payment())), inner),
            max_leaves=10,
        ).map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {}, optional={name: st.sampled_from([0, -1, "", "x", None, [], 1e308]) for name in payment()}
        ).map(lambda changes: json.dumps(payment() | changes).encode()),
    ),
    content_type=st.sampled_from(CONTENT_TYPES),
)
def test_no_body_makes_the_service_fail(client, body, content_type):
    assert post(client, body, content_type).status_code in (200, 400)


def test_an_unforeseen_failure_is_500_and_its_message_is_not_logged(caplog):
    class Broken:
        def transform(self, records):
            raise RuntimeError(f"cannot score {records}")

    broken = scorer()
    broken._features = Broken()
    with TestClient(create_app(broken)) as client:
        answer = post(client, json.dumps(payment(customer_id=4929)))
    assert answer.status_code == 500
    assert "RuntimeError" in caplog.text and "4929" not in caplog.text + answer.text


def test_captured_lines_have_the_published_format(tmp_path):
    with TestClient(create_app(scorer(), Capture(tmp_path, clock="event"))) as client:
        for hour in (10, 11):
            post(client, json.dumps(payment(hour, event_time=f"2025-11-03T{hour}:30:00Z")), JSON)
        post(client, b"bad", JSON)
    found = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert found == [f"fraud-detector/AllTraffic/2025/11/03/{hour}" for hour in (10, 11)]
    line = json.loads(next((tmp_path / found[0]).iterdir()).read_text())
    assert set(line) == {"captureData", "eventMetadata", "eventVersion"}
    assert line["eventVersion"] == "0"
    given, answered = line["captureData"]["endpointInput"], line["captureData"]["endpointOutput"]
    assert set(given) == {"observedContentType", "mode", "data", "encoding"}
    assert (given["mode"], given["encoding"], answered["mode"]) == ("INPUT", "JSON", "OUTPUT")
    assert json.loads(given["data"])["transaction_id"] == json.loads(answered["data"])["transaction_id"] == 10
    assert line["eventMetadata"]["inferenceTime"] == "2025-11-03T10:30:00Z"


def test_of_a_request_that_failed_in_part_what_was_scored_is_captured(tmp_path):
    body = f"{{half\n{json.dumps(payment(3))}\n"
    with TestClient(create_app(scorer(), Capture(tmp_path, clock="event"))) as client:
        assert post(client, body, LINES).status_code == 200
    (path,) = tmp_path.rglob("*.jsonl")
    given, answered = (
        json.loads(path.read_text())["captureData"][side] for side in ("endpointInput", "endpointOutput")
    )
    assert json.loads(given["data"])["transaction_id"] == json.loads(answered["data"])["transaction_id"] == 3


def test_capture_keeps_the_callers_id_and_the_wall_clock_hour(tmp_path):
    with TestClient(create_app(scorer(), Capture(tmp_path))) as client:
        post(client, json.dumps(payment()), **{"X-Amzn-SageMaker-Inference-Id": "abc"})
    (path,) = tmp_path.rglob("*.jsonl")
    assert "2025/11/03" not in path.as_posix()
    assert json.loads(path.read_text())["eventMetadata"]["inferenceId"] == "abc"


def test_a_capture_that_cannot_be_written_does_not_stop_the_service(tmp_path, caplog):
    (tmp_path / "fraud-detector").write_text("in the way")
    with TestClient(create_app(scorer(), Capture(tmp_path, limit=1))) as client:
        assert post(client, json.dumps(payment())).status_code == 200
    assert "lost 1 requests" in caplog.text
