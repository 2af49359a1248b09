"""The real-time service: the container contract that SageMaker and similar platforms expect.

``GET /ping`` says whether the service is healthy, ``POST /invocations`` scores payments,
``GET /execution-parameters`` tells a batch platform how to call, ``GET /metrics`` what the service has done.
SIGTERM drains: requests under way are answered, captured data is written, and the process ends with exit code 0.

Requests come in one order and the recent-activity features depend on it, so one thread does all the scoring; see
`line`. The event loop stays free, and ``/ping`` answers while a large request is being scored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hmac
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from lifecycle import settings
from lifecycle.deployment import description, messages, workers
from lifecycle.deployment.capture import Capture
from lifecycle.deployment.endpoint import Endpoint
from lifecycle.deployment.guard import GuardedProtocol
from lifecycle.deployment.journal import JournalError
from lifecycle.deployment.line import Asked, Line
from lifecycle.deployment.messages import BadRequest
from lifecycle.deployment.metrics import CONTENT_TYPE as FIGURES
from lifecycle.deployment.metrics import Counted, Figures, Measured
from lifecycle.errors import LifecycleError

MAX_PAYLOAD_MB = 6
DRAIN_SECONDS = 25  # the platform sends SIGKILL 30 s after SIGTERM
FLUSH_SECONDS = 2.0
READ_SECONDS = 20  # for a whole body
MOST_REQUESTS = 128  # under way at once, each with a body of at most MAX_PAYLOAD_MB
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}

_log = logging.getLogger(__name__)


class Gate:
    """Lets a limited number of requests in at once, and only those that bring the token, if there is one.

    Parameters
    ----------
    token
        What an ``Authorization: Bearer`` header must carry; None asks for none.
    most
        Requests under way at most; further ones are told to come again.
    """

    def __init__(self, token: str | None = None, most: int = MOST_REQUESTS) -> None:
        self._token = None if token is None else token.encode()
        self._free = most

    def check(self, authorization: str | None) -> None:
        """Refuse a request without the token. The comparison takes the same time wherever the two differ."""
        if self._token is None:
            return
        scheme, _, given = (authorization or "").partition(" ")
        known = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        if not (known and scheme.lower() == "bearer"):
            raise BadRequest("This service asks for a token: send the header 'Authorization: Bearer TOKEN'.", 401)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Count a request while the block runs."""
        if self._free <= 0:
            raise BadRequest("Too many requests are under way: send this one again in a second.", 429)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class _App(FastAPI):
    """FastAPI with a short way to ``POST /invocations``: its middleware and routes take longer than the scoring."""

    invoke: Callable[[Request], Awaitable[Response]]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/invocations" and scope["method"] == "POST":
            response = await self.invoke(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    scorer: Any, capture: Capture | None = None, max_payload_mb: float = MAX_PAYLOAD_MB, gate: Gate | None = None
) -> FastAPI:
    """Return the service as an ASGI application.

    Parameters
    ----------
    scorer
        What scores the payments: an `Endpoint`, or a `Scorer` where nothing needs to be durable.
    capture
        Where requests and answers are kept, if anywhere.
    max_payload_mb
        Larger bodies get 413.
    gate
        Who may come in; by default everybody, some at a time.
    """
    limit = int(max_payload_mb * 1024 * 1024)
    gate = gate or Gate()
    figures = Figures(scorer)
    line = Line(Counted(scorer, figures), capture)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        flusher = asyncio.create_task(_flush_regularly(capture)) if capture else None
        yield
        if flusher:
            flusher.cancel()
        line.close()
        if capture:
            capture.flush()

    app = _App(title="Fraud detector", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/ping", **description.PING)
    async def ping() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/execution-parameters", **description.EXECUTION_PARAMETERS)
    async def execution_parameters() -> dict[str, Any]:
        return {
            "MaxConcurrentTransforms": 1,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": max(1, int(max_payload_mb)),
        }

    @app.get("/metrics", **description.METRICS)
    async def metrics(request: Request) -> Response:
        try:
            gate.check(request.headers.get("authorization"))
        except BadRequest as error:
            return _refusal(error)
        return Response(figures.text(), media_type=FIGURES)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(description.page(app.openapi()), media_type="text/html")

    @app.post("/invocations", **description.invocations(scorer.record_format))
    async def invocations(request: Request) -> Response:
        try:
            gate.check(request.headers.get("authorization"))
            with gate.entered():
                content_type, accept = _negotiate(request)
                body = await _read(request, limit)
                inference_id = request.headers.get("x-amzn-sagemaker-inference-id")
                answer = await line.answer(Asked(body, content_type, accept, inference_id))
                return Response(answer, media_type=accept)
        except BadRequest as error:
            return _refusal(error)
        except JournalError as error:
            _log.error("a request was not recorded: %s", error)
            sentence = "The service cannot record payments just now; nothing was counted: send this again later."
            return JSONResponse({"error": sentence}, status_code=503, headers={"Retry-After": "5"})
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            # The message of an unforeseen error may repeat the payment, so only its kind and place are logged.
            _log.error("an invocation failed: %s at %s", type(error).__name__, _place(error))
            return JSONResponse({"error": "The service failed; the request was not scored."}, status_code=500)

    app.invoke, app.state.figures = invocations, figures
    return app


def _refusal(error: BadRequest) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status_code=error.status, headers=_HEADERS.get(error.status))


def _negotiate(request: Request) -> tuple[str, str]:
    content_type = messages.media_type(request.headers.get("content-type"))
    if content_type not in messages.CONTENT_TYPES:
        raise BadRequest(f"This Content-Type is not read here: send {', '.join(messages.CONTENT_TYPES)}.", 415)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise BadRequest("A compressed body is not read here: send it without Content-Encoding.", 415)
    return content_type, messages.response_type(request.headers.get("accept"), content_type)


async def _read(request: Request, limit: int) -> bytes:
    """Read the body, and stop as soon as it is too large or too slow."""
    too_large = BadRequest(f"The body is larger than {limit:,} bytes: send fewer payments at once.", 413)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise BadRequest(f"The body did not arrive within {READ_SECONDS} seconds: send it again.", 408) from None
    return b"".join(chunks)


async def _flush_regularly(capture: Capture) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await asyncio.to_thread(capture.flush)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class _Server(uvicorn.Server):
    """A server for which SIGTERM is an orderly end. Uvicorn's own raises the signal again after draining,
    so that the exit code says "killed"."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def server_settings(app: FastAPI) -> uvicorn.Config:
    """Return how the service is served: measured, with limits on heads, and nothing of a request in a log."""
    return uvicorn.Config(
        Measured(app, app.state.figures), http=GuardedProtocol, ws="none", log_level="error", access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=DRAIN_SECONDS,
    )  # fmt: skip


def serve(
    model_dir: Path | str,
    port: int | None = None,
    host: str = "127.0.0.1",
    capture_dir: Path | str | None = None,
    clock: str = "wall",
    state_dir: Path | str | None = None,
    token_file: Path | str | None = None,
    count: int = 1,
    fsync: bool = False,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Parameters
    ----------
    model_dir
        A package: a folder made by `lifecycle.deployment.build`, or unpacked from ``model.tar.gz``; or a folder of
        releases, whose aliases are followed.
    port
        By default that of the platform (``SAGEMAKER_BIND_TO_PORT``), or 8080.
    host
        The address to listen on; by default only this machine can connect.
    capture_dir
        Where to keep requests and answers, if anywhere.
    clock
        See `lifecycle.deployment.capture.Capture`.
    state_dir
        Where the journal of answered payments is; by default ``state/`` in `model_dir`.
    token_file
        A file with the token that callers must bring; by default none is asked for.
    count
        Processes that answer; they share one journal and one port.
    fsync
        Whether an answer waits until its payments are on the disk itself and survive a loss of power; see `Journal`.

    Raises
    ------
    LifecycleError
        If the package or the journal is refused, the token is empty, or the port cannot be used.
    """
    port = settings.serving_port() if port is None else port
    token = _read_token(Path(token_file)) if token_file is not None else None
    first = Endpoint.open(model_dir, state_dir, fsync)  # what cannot be served is refused before anything listens
    if count > 1:
        first.close()  # no file of a database may be open when a process is copied
    with _listening(host, port) as listener:
        print(f"Serving on http://{host}:{port}; stop with Ctrl-C.", file=sys.stderr, flush=True)

        def answer() -> None:
            endpoint = first if count == 1 else Endpoint.open(model_dir, state_dir, fsync)
            capture = Capture(Path(capture_dir), clock) if capture_dir else None
            app = create_app(endpoint, capture, gate=Gate(token))
            gc.collect()
            gc.freeze()  # what is loaded stays: a walk over it at every full collection would hold up answers
            _Server(server_settings(app)).run(sockets=[listener])
            endpoint.close()

        answer() if count == 1 else workers.run(answer, count)


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise LifecycleError(f"The token file {path} cannot be read; check the path.") from None
    if len(token) < 16:
        raise LifecycleError(f"The token in {path} is shorter than 16 characters: a token must be hard to guess.")
    return token


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; the processes of a service share it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError):
        raise LifecycleError(f"The service could not listen on {host}:{port}; choose another port.") from None


def main() -> int:
    """Start the service from ``python -m lifecycle.deployment.service``; `running.start` uses this."""
    parser = argparse.ArgumentParser(prog="python -m lifecycle.deployment.service", description="Serve a model.")
    parser.add_argument("--model", required=True, help="the folder of the package")
    parser.add_argument("--port", type=int, help="default: SAGEMAKER_BIND_TO_PORT, or 8080")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--capture", help="folder for data capture; default: none")
    parser.add_argument("--clock", choices=("wall", "event"), default="wall", help="whose time the capture uses")
    parser.add_argument("--state", help="folder of the journal; default: state/ in the package")
    parser.add_argument("--token-file", help="file with the token that callers must bring; default: none is asked for")
    parser.add_argument("--workers", type=int, default=1, help="processes that answer; default: 1")
    parser.add_argument(
        "--fsync", action="store_true", help="answer when a payment is on the disk: survives a power cut"
    )
    parser.add_argument("--stop-with-stdin", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()
    if options.stop_with_stdin:
        workers.stop_when_closed(0)  # standard input, which closes when whoever started this process is gone
    try:
        serve(
            options.model, options.port, options.host, options.capture, options.clock, options.state,
            options.token_file, options.workers, options.fsync,
        )  # fmt: skip
    except LifecycleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
