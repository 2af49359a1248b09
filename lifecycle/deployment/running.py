"""Start the service as a process of its own, put load on it, and stop it: for notebooks, tests and benchmarks."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle.errors import LifecycleError

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Running:
    """A service that is running.

    Parameters
    ----------
    process
        The process.
    host, port
        Where it listens.
    log
        The file with its messages.
    """

    process: subprocess.Popen
    host: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://{self.host}:{self.port}"

    def call(
        self, path: str, body: bytes | str | None = None, content_type: str | None = None, accept: str | None = None
    ) -> tuple[int, str]:
        """Send one request, POST if there is a body and GET if not; return status and body."""
        headers = {"Content-Type": content_type, "Accept": accept}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            data = body.encode() if isinstance(body, str) else body
            connection.request(
                "GET" if body is None else "POST", path, data, {name: value for name, value in headers.items() if value}
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def invoke(self, records: Any) -> Any:
        """Score one record (dict) or several (list of dict, sent as JSON lines); return the answers.

        Raises
        ------
        LifecycleError
            If the service refuses; the message is the service's own.
        """
        if isinstance(records, dict):
            status, text = self.call("/invocations", json.dumps(records), "application/json")
            answers = [json.loads(text)]
        else:
            lines = "".join(json.dumps(record) + "\n" for record in records)
            status, text = self.call("/invocations", lines, "application/jsonlines")
            answers = [json.loads(line) for line in text.splitlines()]
        if status != 200:
            raise LifecycleError(answers[0]["error"])
        return answers[0] if isinstance(records, dict) else answers

    def stop(self, timeout: float = 30.0) -> int:
        """Send SIGTERM, wait for the end, and return the exit code. Stopping twice does no harm."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            if self.process.stdin is not None:
                self.process.stdin.close()


@contextlib.contextmanager
def start(
    model_dir: Path | str,
    capture_dir: Path | str | None = None,
    clock: str = "wall",
    timeout: float = 120.0,
    command: Sequence[str] = (sys.executable, "-m", "lifecycle.deployment.service"),
    options: Sequence[str] = (),
) -> Iterator[Running]:
    """Run the service on a free port for the time of a ``with`` block.

    Parameters
    ----------
    model_dir
        The package to serve.
    capture_dir, clock
        See `lifecycle.deployment.service.serve`.
    timeout
        Seconds to wait for a healthy ``/ping``.
    command
        What to start; it gets ``--model``, ``--clock``, ``--capture`` and ``--port``.
    options
        Further arguments, such as ``("--workers", "2")``.

    Raises
    ------
    LifecycleError
        If the service ends before it is healthy; the message is its last line.
    """
    whole = [*command, "--model", str(model_dir), "--clock", clock, "--stop-with-stdin", *options]
    if capture_dir is not None:
        whole += ["--capture", str(capture_dir)]
    # One thread for each numeric library: the service scores single rows, and threads would only wait for each other.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory(prefix="service-") as folder:
        log = Path(folder) / "service.log"
        running = _launch(whole, threads, log, timeout)
        try:
            yield running
        finally:
            running.stop()


def _launch(command: Sequence[str], environment: dict[str, str], log: Path, timeout: float) -> Running:
    """Start the process; if another one takes the free port first, try another port."""
    for attempt in range(5):
        port = free_port()
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                stdin=subprocess.PIPE,  # closed by the system when this process ends, however it ends
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
            )
        running = Running(process, "127.0.0.1", port, log)
        if _wait_healthy(running, timeout):
            return running
        running.stop()
        lines = log.read_text().strip().splitlines() or ["it said nothing"]
        if "listen on" not in lines[-1] or attempt == 4:
            raise LifecycleError(f"The service did not start: {lines[-1]}")
    raise AssertionError("unreachable")


def _wait_healthy(running: Running, timeout: float) -> bool:
    until = time.monotonic() + timeout
    while time.monotonic() < until and running.process.poll() is None:
        try:
            if running.call("/ping")[0] == 200:
                return running.process.poll() is None
        except OSError:
            time.sleep(0.05)
    return False


def free_port() -> int:
    """Return a port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class LoadResult:
    """What a load test measured.

    Parameters
    ----------
    latencies
        Seconds from sending a request to having its whole answer, float64, in order of sending.
    seconds
        How long the test took.
    failures
        How many answers had another status than 200.
    """

    latencies: np.ndarray
    seconds: float
    failures: int

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, q: float) -> float:
        """Return the q-th percentile of the latency, in milliseconds."""
        import numpy as np

        return float(np.percentile(self.latencies, q) * 1000)

    def summary(self) -> dict[str, float]:
        """Return p50, p95 and p99 in milliseconds, requests per second, requests and failures."""
        return {
            **{f"p{q}_ms": self.percentile(q) for q in (50, 95, 99)},
            "requests_per_second": self.throughput,
            "requests": len(self.latencies),
            "failures": self.failures,
        }


def load(
    running: Running,
    bodies: Sequence[bytes | str],
    connections: int = 4,
    content_type: str = "application/json",
    rate: float | None = None,
) -> LoadResult:
    """Send requests over keep-alive connections, from a process of its own, and time every one.

    Each connection sends its next request when it has the answer to the one before. With a `rate`, requests are due
    at fixed times, whatever the service does, and the time of each is counted from when it was due.

    Parameters
    ----------
    running
        The service.
    bodies
        One request each, sent in this order.
    connections
        How many requests are under way at once.
    content_type
        Of all requests.
    rate
        Requests a second; by default as many as the service answers.

    Raises
    ------
    LifecycleError
        If there is nothing to send, or the client process fails, as when the service goes away.
    """
    import numpy as np  # here, because the client process has no need of it

    if not bodies:
        raise LifecycleError("There are no requests to send: give at least one body.")
    work = {
        "host": running.host,
        "port": running.port,
        "connections": connections,
        "content_type": content_type,
        "rate": rate,
        "bodies": [body if isinstance(body, str) else body.decode() for body in bodies],
    }
    client = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(work), capture_output=True, text=True, check=False
    )
    if client.returncode != 0:
        lines = client.stderr.strip().splitlines() or ["no message"]
        raise LifecycleError(f"The load test failed: {lines[-1]}")
    result = json.loads(client.stdout)
    return LoadResult(np.array(result["latencies"]), result["seconds"], result["failures"])


class _Load:
    """The client: bare sockets and a few lines of HTTP, so that it costs much less than what it measures."""

    def __init__(self, work: dict[str, Any]) -> None:
        head = f"POST /invocations HTTP/1.1\r\nHost: service\r\nContent-Type: {work['content_type']}\r\n"
        bodies = [body.encode() for body in work["bodies"]]
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._pause = 0.0 if work["rate"] is None else 1 / work["rate"]
        self._ready = selectors.DefaultSelector()
        self._free: list[socket.socket] = []
        self._under_way: dict[socket.socket, tuple[int, float, bytes]] = {}
        for _ in range(work["connections"]):
            self._free.append(socket.create_connection((work["host"], work["port"]), timeout=60))
            self._free[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ready.register(self._free[-1], selectors.EVENT_READ)
        self._next, self._failures, self._latencies = 0, 0, [0.0] * len(bodies)

    def run(self) -> dict[str, Any]:
        """Send everything; return the latencies, the seconds and the number of failures."""
        self._began = time.perf_counter()
        while True:
            wait = self._send_due()
            if not self._under_way and self._next == len(self._requests):
                break
            for key, _ in self._ready.select(wait):
                self._receive(key.fileobj)
        seconds = time.perf_counter() - self._began
        return {"latencies": self._latencies, "seconds": seconds, "failures": self._failures}

    def _send_due(self) -> float | None:
        """Send what is due while a connection is free; return how long to wait for the next, if it is known."""
        while self._free and self._next < len(self._requests):
            now = time.perf_counter()
            due = self._began + self._next * self._pause if self._pause else now
            if due > now:
                return due - now
            connection = self._free.pop()
            self._under_way[connection] = (self._next, due, b"")
            connection.sendall(self._requests[self._next])
            self._next += 1
        return None

    def _receive(self, connection: Any) -> None:
        data = connection.recv(65_536)
        if not data or connection not in self._under_way:
            raise ConnectionError("the service closed a connection or sent what nobody asked for")
        number, began, before = self._under_way[connection]
        head, end, body = (before + data).partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            self._under_way[connection] = (number, began, before + data)
            return
        self._latencies[number] = time.perf_counter() - began
        self._failures += not head.startswith(b"HTTP/1.1 200")
        del self._under_way[connection]
        self._free.append(connection)


if __name__ == "__main__":
    json.dump(_Load(json.load(sys.stdin)).run(), sys.stdout)
