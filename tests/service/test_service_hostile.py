"""What nobody should send: each request gets an answer below 500, and the service is as it was before."""

import contextlib
import gzip
import itertools
import json
import random
import socket
import time
import zlib

import psutil
import pytest
from service_fakes import payment, scorer, served

from lifecycle.deployment import guard, running, service

LEAST = 10_000
GROWTH_MB = 40

LITERALS = [
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "1e308", "9" * 400, "-" + "9" * 5_000, "0", "-0", "-1",
    "0.0", "-0.0", "1.0", "1.5", str(2**63 - 1), str(2**63), str(-(2**63)), str(2**64), "0x10", "1_000", "007", "1e",
    ".5", "+1", "true", "false", "null", "{}", "[]", "[[]]", '{"a": {"a": {}}}', "[" * 50 + "]" * 50, "[" * 50_000,
    '{"a":' * 20_000, '""', '" "', '"1"', '"1e400"', '"NaN"', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"',
    '"\\ud83d\\ude00"', '"\\u202e"', '"é"', '"' + "x" * 199 + '"', '"' + "x" * 3_000 + '"', '"' + "x" * 100_000 + '"',
    "'1'", "undefined",
    '"2025-02-30T10:00:00Z"', '"2025-03-01T25:00:00Z"', '"2025-03-01"', '"2025-03-01T10:00:00"',
    '"2025-03-01T10:00:00+99:99"', '"9999-12-31T23:59:59.999999-23:59"', '"0001-01-01T00:00:00+23:59"',
    '"2025-W10-1T10:00:00Z"', '"2025-060T10:00:00Z"', '"20250301T100000Z"', '"1e9"', '"2025-03-01T10:00:00.1234567Z"',
    '"2025-03-01T10:00:00Z; DROP TABLE events"', '"../../etc/passwd"', '"${jndi:ldap://x}"', '"<script>"', '"%s%n%x"',
]  # fmt: skip
TYPES = ["application/json", "application/jsonlines", "text/csv"]


def request(body: bytes = b"", content_type: str = "application/json", head: str = "", first: str = "") -> bytes:
    """A request in bytes; `head` holds further header lines, each with its line end."""
    first = first or "POST /invocations HTTP/1.1"
    length = (
        "" if "content-length" in head.lower() or "transfer" in head.lower() else f"Content-Length: {len(body)}\r\n"
    )
    lines = f"{first}\r\nHost: x\r\nContent-Type: {content_type}\r\n{length}{head}\r\n"
    return lines.encode("utf-8", "surrogateescape") + body


def good(number: int) -> dict:
    return payment(number, event_time="2025-03-01T10:00:00Z", customer_id=number % 40, terminal_id=number % 25)


def wrong_values(draw: random.Random, count: int):
    """Good payments with one or two fields whose value is anything but good."""
    fields = list(good(1))
    pairs = list(itertools.product(fields, LITERALS))
    for number in range(count):
        values = {name: json.dumps(value) for name, value in good(number).items()}
        name, literal = pairs[number % len(pairs)]
        values[name] = literal
        if number >= len(pairs):
            values[draw.choice([*fields, "channel", "merchant_text", "score", "__proto__", ""])] = draw.choice(LITERALS)
        body = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in values.items()) + "}"
        yield request((f"[{body}]" if number % 3 == 1 else body).encode(), TYPES[number % 3 == 2])


def broken_bytes(draw: random.Random, count: int):
    """Good bodies, cut, in another encoding, or with bytes turned."""
    encodings = ["utf-16", "utf-16-le", "utf-32", "utf-7", "cp500", "utf-8-sig"]
    for number in range(count):
        kind = TYPES[number // 4 % 3]
        text = json.dumps(good(number) | {"channel": "é\u202e"}, ensure_ascii=False)
        text = ",".join(good(1)) + "\n" + ",".join(map(str, good(number).values())) if kind == "text/csv" else text
        body = bytearray(text.encode())
        if number % 4 == 0:
            body = body[: draw.randrange(len(body))]
        elif number % 4 == 1:
            body = bytearray(text.encode(draw.choice(encodings), "replace"))
        elif number % 4 == 2:
            for _ in range(draw.randint(1, 8)):
                body[draw.randrange(len(body))] = draw.randrange(256)
        else:
            tail = [
                b"\0",
                b"\xff\xfe",
                b"\xc0\xaf",
                b"\xed\xa0\x80",
                b"]",
                b"}",
                b",",
                b'"',
                b"\r",
                b"\xef\xbb\xbf" * 3,
            ]
            at = draw.randrange(len(body))
            body = body[:at] + draw.choice(tail) * draw.randint(1, 50) + body[at:]
        yield request(bytes(body), kind)


def packed(draw: random.Random, count: int):
    """Bodies that say they are compressed: bombs, torn ones, nested ones, and lies."""
    bomb = gzip.compress(b" " * 20_000_000)
    bodies = [
        bomb, gzip.compress(bomb), bomb[:100], gzip.compress(json.dumps(good(1)).encode())[:-6], zlib.compress(b"[]"),
        b"\x1f\x8b", b"PK\x03\x04", json.dumps(good(1)).encode(),
    ]  # fmt: skip
    names = [
        "gzip",
        "GZIP",
        "x-gzip",
        "deflate",
        "br",
        "zstd",
        "gzip, gzip",
        "compress",
        "gzip;q=0",
        "*",
        "\u00e9",
        "none",
    ]
    for _ in range(count):
        yield request(draw.choice(bodies), draw.choice(TYPES), f"Content-Encoding: {draw.choice(names)}\r\n")


def odd_headers(draw: random.Random, count: int):
    """Values of headers that are no values."""
    names = ["Accept", "Content-Type", "Authorization", "X-Amzn-SageMaker-Inference-Id", "Cookie", "Expect", "X-\u00e9"]
    values = ["\u00e9", "\U0001f600", "\udcff\udcfe", "", ";;;", "a" * 9_000, "text/html", "*/*;q=x", "q=1,,,", "\t",
              "application/json\u00e9", "Bearer \udcff", "text/csv; charset=utf-16", "100-continue-not"]  # fmt: skip
    for number in range(count):
        header = f"{draw.choice(names)}: {draw.choice(values)}\r\n"
        yield request(json.dumps(good(number)).encode(), draw.choice(TYPES), header)


BODY = json.dumps(good(1)).encode()
SIZE = len(BODY)
CHUNKED = "Transfer-Encoding: chunked\r\n"
RAW = {
    "two equal lengths": request(BODY, head=f"Content-Length: {SIZE}\r\nContent-Length: {SIZE}\r\n"),
    "two lengths": request(BODY, head=f"Content-Length: {SIZE}\r\nContent-Length: 5\r\n"),
    "a list of lengths": request(BODY, head=f"Content-Length: {SIZE}, {SIZE}\r\n"),
    "a negative length": request(BODY, head="Content-Length: -1\r\n"),
    "a length that is no number": request(BODY, head="Content-Length: 0x10\r\n"),
    "a length of 400 digits": request(BODY, head=f"Content-Length: {'9' * 400}\r\n"),
    "a length of a terabyte": request(BODY, head="Content-Length: 1000000000000\r\n"),
    "a length in other digits": request(BODY, head="Content-Length: \u0661\u0662\r\n"),
    "length and chunks": request(BODY, head=f"Content-Length: {SIZE}\r\nTransfer-Encoding: chunked\r\n"),
    "chunks and other": request(BODY, head="Transfer-Encoding: chunked, identity\r\n"),
    "a chunk that lies": request(b"5\r\n" + BODY + b"\r\n0\r\n\r\n", head=CHUNKED),
    "a chunk of no size": request(b"zz\r\n" + BODY, head=CHUNKED),
    "a chunk below zero": request(b"-5\r\n" + BODY, head=CHUNKED),
    "a chunk of all bytes": request(b"FFFFFFFFFFFFFFFFF\r\n" + BODY, head=CHUNKED),
    "a long name of a chunk": request(b"1;" + b"a" * 100_000 + b"\r\n{\r\n0\r\n\r\n", head=CHUNKED),
    "a hundred kilobytes of headers": request(BODY, head="".join(f"X-{i}: {'a' * 1_000}\r\n" for i in range(100))),
    "one header of a megabyte": request(BODY, head=f"X-A: {'a' * 1_000_000}\r\n"),
    "a name of a megabyte": request(BODY, head=f"{'a' * 1_000_000}: b\r\n"),
    "thousands of headers": request(BODY, head="".join(f"X-{i}: a\r\n" for i in range(9_000))),
    "a path of a megabyte": request(BODY, first=f"POST /{'a' * 1_000_000} HTTP/1.1"),
    "a query of 70 KB": request(BODY, first=f"POST /invocations?{'a' * 70_000} HTTP/1.1"),
    "a header without a name": request(BODY, head=": a\r\n"),
    "a header without a colon": request(BODY, head="just words\r\n"),
    "a folded header": request(BODY, head="X-A: a\r\n b\r\n"),
    "a nought in a header": request(BODY, head="X-A: a\0b\r\n"),
    "a return in a header": request(BODY, head="X-A: a\rb\r\n"),
    "no host": b"GET /ping HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "line feeds alone": b"GET /ping HTTP/1.1\nHost: a\n\n",
    "HTTP/0.9": b"GET /ping\r\n\r\n",
    "HTTP/1.0": b"GET /ping HTTP/1.0\r\n\r\n",
    "HTTP/9.9": b"GET /ping HTTP/9.9\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "an upgrade": b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an upgrade to HTTP/2": b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "a proxy's line": b"GET http://example.com/ping HTTP/1.1\r\nHost: a\r\n\r\n",
    "a proxy's greeting": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /ping HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path that climbs": b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path with a nought": b"GET /%00%ff%2e%2e HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path in other letters": "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "nothing but line ends": b"\r\n" * 50_000,
    "noise": bytes(range(256)) * 20,
}  # fmt: skip
METHODS = [
    "get",
    "post",
    "PUT",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "PROPFIND",
    "FOO",
    "GET\t",
    "",
    "G" * 5_000,
]
PATHS = ["/ping", "/invocations", "/execution-parameters", "/docs", "/openapi.json", "/nope", "//", "/invocations/"]
RAW |= {
    f"{method[:8]} {path}": request(first=f"{method} {path} HTTP/1.1") for method in METHODS for path in PATHS
}  # fmt: skip


class Client:
    """A connection that is kept as long as the service keeps it."""

    def __init__(self, port: int) -> None:
        self.port, self.file, self.statuses = port, None, {}

    def send(self, data: bytes) -> int:
        """Send one request and return the status of its answer."""
        if self.file is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            self.file = self.socket.makefile("rb")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
            self.socket.sendall(data)
        status, keep = self.read(data.startswith(b"HEAD"))
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if not keep:
            self.close()
        return status

    def read(self, no_body: bool) -> tuple[int, bool]:
        first = self.file.readline()
        assert first.startswith(b"HTTP/1.1 "), f"no answer but {first!r}"
        headers = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip().lower()
        self.file.read(0 if no_body else int(headers.get(b"content-length", 0)))
        return int(first.split()[1]), headers.get(b"connection") != b"close"

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.socket.close()
            self.file = None


def test_ten_thousand_hostile_requests_are_answered_and_change_nothing(bank, tmp_path):
    draw = random.Random(5)
    plan = [
        wrong_values(draw, 6_000), broken_bytes(draw, 2_600), packed(draw, 400), odd_headers(draw, 900),
    ]  # fmt: skip
    with running.start(bank.package, tmp_path / "captured", options=("--state", str(tmp_path / "state"))) as server:
        before, process, client = server.invoke(good(10**6)), psutil.Process(server.process.pid), Client(server.port)
        for data in wrong_values(random.Random(6), 500):  # what is allocated once is allocated now
            client.send(data)
        memory = process.memory_info().rss
        for data in itertools.chain(*plan):
            status = client.send(data)
            assert 200 <= status < 500, (status, data[:300])
        for name, data in RAW.items():
            client.close()
            status = client.send(data)
            assert 200 <= status < 500, (status, name)
        client.close()
        assert server.invoke(good(10**6)) == before
        assert 0 <= server.invoke(good(10**6 + 1))["score"] <= 1
        grown = (process.memory_info().rss - memory) / 1e6
        assert server.stop() == 0
    assert sum(client.statuses.values()) >= LEAST and len(client.statuses) >= 7, client.statuses
    assert grown < GROWTH_MB, f"{grown:.0f} MB more after the requests"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.5)
    with served(service.create_app(scorer())) as port:
        yield port


@pytest.mark.parametrize("sent", [b"", b"POST /invo", b"GET /ping HTTP/1.1\r\nHost: a\r\nX-A", b"\r\n"])
def test_a_head_that_stalls_is_told_so_and_ended(impatient, sent):
    with socket.create_connection(("127.0.0.1", impatient), timeout=10) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        assert connection.recv(4_096).startswith(b"HTTP/1.1 408 ")
        assert connection.recv(4_096) == b"" and time.monotonic() - began < 5


def test_a_head_that_drips_is_ended_though_it_never_stalls(impatient):
    with socket.create_connection(("127.0.0.1", impatient), timeout=10) as connection:
        began, answer = time.monotonic(), b""
        connection.settimeout(0.1)
        for byte in itertools.chain(b"GET /ping HTTP/1.1\r\nX: ", itertools.repeat(97)):
            with contextlib.suppress(TimeoutError):
                connection.sendall(bytes([byte]))
                answer = connection.recv(4_096)
                break
            assert time.monotonic() - began < 5
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_slow_second_request_on_a_kept_connection_is_ended_too(impatient):
    with socket.create_connection(("127.0.0.1", impatient), timeout=10) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(4_096).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /pi")
        assert connection.recv(4_096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(("size", "status"), [(60_000, b"200"), (70_000, b"431"), (5_000_000, b"431")])
def test_a_head_may_hold_64_kilobytes(size, status):
    with served(service.create_app(scorer())) as port, socket.create_connection(("127.0.0.1", port), 10) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * size + b"\r\n\r\n")
        assert connection.recv(4_096).split()[1] == status
