"""The real-time service: the container contract that SageMaker and similar platforms expect.

``GET /ping`` says whether the service is healthy, ``POST /invocations`` scores payments,
``GET /execution-parameters`` tells a batch platform how to call. SIGTERM drains: requests under way are
answered, captured data is written, and the process ends with exit code 0.

Requests come in one order and the recent-activity features depend on it, so one thread does all the scoring.
The event loop stays free, and ``/ping`` answers while a large request is being scored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from lifecycle import settings
from lifecycle.deployment import messages
from lifecycle.deployment.capture import Capture
from lifecycle.deployment.messages import BadRequest
from lifecycle.deployment.scorer import Scorer
from lifecycle.errors import LifecycleError

MAX_PAYLOAD_MB = 6
DRAIN_SECONDS = 25  # the platform sends SIGKILL 30 s after SIGTERM
FLUSH_SECONDS = 2.0

_log = logging.getLogger(__name__)


def create_app(scorer: Scorer, capture: Capture | None = None, max_payload_mb: float = MAX_PAYLOAD_MB) -> FastAPI:
    """Return the service as an ASGI application.

    Parameters
    ----------
    scorer
        What scores the payments.
    capture
        Where requests and answers are kept, if anywhere.
    max_payload_mb
        Larger bodies get 413.
    """
    limit = int(max_payload_mb * 1024 * 1024)
    one_thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        flusher = asyncio.create_task(_flush_regularly(capture, one_thread)) if capture else None
        yield
        if flusher:
            flusher.cancel()
        one_thread.shutdown(wait=True)
        if capture:
            capture.flush()

    app = FastAPI(title="Fraud detector", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/execution-parameters")
    async def execution_parameters() -> dict[str, Any]:
        return {"MaxConcurrentTransforms": 1, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": int(max_payload_mb)}

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        try:
            content_type, accept = _negotiate(request)
            body = await _read(request, limit)
            inference_id = request.headers.get("x-amzn-sagemaker-inference-id")
            loop = asyncio.get_running_loop()
            work = (scorer, capture, body, content_type, accept, inference_id)
            return Response(await loop.run_in_executor(one_thread, _answer, *work), media_type=accept)
        except BadRequest as error:
            return JSONResponse({"error": str(error)}, status_code=error.status)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            # The message of an unforeseen error may repeat the payment, so only its kind and place are logged.
            _log.error("an invocation failed: %s at %s", type(error).__name__, _place(error))
            return JSONResponse({"error": "The service failed; the request was not scored."}, status_code=500)

    return app


def _negotiate(request: Request) -> tuple[str, str]:
    content_type = messages.media_type(request.headers.get("content-type"))
    if content_type not in messages.CONTENT_TYPES:
        raise BadRequest(f"This Content-Type is not read here: send {', '.join(messages.CONTENT_TYPES)}.", 415)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise BadRequest("A compressed body is not read here: send it without Content-Encoding.", 415)
    return content_type, messages.response_type(request.headers.get("accept"), content_type)


async def _read(request: Request, limit: int) -> bytes:
    """Read the body, and stop as soon as it is too large."""
    too_large = BadRequest(f"The body is larger than {limit:,} bytes: send fewer payments at once.", 413)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(
    scorer: Scorer, capture: Capture | None, body: bytes, content_type: str, accept: str, inference_id: str | None
) -> bytes:
    """Turn the bytes of a request into the bytes of its answer."""
    records = messages.parse(body, content_type, scorer.record_format)
    answer = messages.render(
        scorer.score(records),
        accept,
        single=messages.is_single(body, content_type),
        header=messages.has_header(body, content_type),
    )
    if capture is not None:
        latest: datetime = max(record["event_time"] for record in records)
        capture.add(content_type, body, accept, answer, latest, inference_id)
    return answer


async def _flush_regularly(capture: Capture, thread: ThreadPoolExecutor) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await asyncio.get_running_loop().run_in_executor(thread, capture.flush)


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


def serve(
    model_dir: Path | str,
    port: int | None = None,
    host: str = "127.0.0.1",
    capture_dir: Path | str | None = None,
    clock: str = "wall",
) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Parameters
    ----------
    model_dir
        A package: a folder made by `lifecycle.deployment.build`, or unpacked from ``model.tar.gz``.
    port
        By default that of the platform (``SAGEMAKER_BIND_TO_PORT``), or 8080.
    host
        The address to listen on; by default only this machine can connect.
    capture_dir
        Where to keep requests and answers, if anywhere.
    clock
        See `lifecycle.deployment.capture.Capture`.

    Raises
    ------
    LifecycleError
        If the package is refused or the port cannot be used.
    """
    port = settings.serving_port() if port is None else port
    scorer = Scorer.open(model_dir)
    capture = Capture(Path(capture_dir), clock) if capture_dir else None
    config = uvicorn.Config(
        create_app(scorer, capture),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    print(f"Serving on http://{host}:{port}; stop with Ctrl-C.", file=sys.stderr, flush=True)
    try:
        _Server(config).run()
    except SystemExit:
        raise LifecycleError(f"The service could not listen on {host}:{port}; choose another port.") from None


def _stop_when_abandoned() -> None:
    """Ask for an orderly end when standard input closes, which is when whoever started this process is gone."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Start the service from ``python -m lifecycle.deployment.service``; `running.start` uses this."""
    parser = argparse.ArgumentParser(prog="python -m lifecycle.deployment.service", description="Serve a model.")
    parser.add_argument("--model", required=True, help="the folder of the package")
    parser.add_argument("--port", type=int, help="default: SAGEMAKER_BIND_TO_PORT, or 8080")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--capture", help="folder for data capture; default: none")
    parser.add_argument("--clock", choices=("wall", "event"), default="wall", help="whose time the capture uses")
    parser.add_argument("--stop-with-stdin", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()
    if options.stop_with_stdin:
        _stop_when_abandoned()
    try:
        serve(options.model, options.port, options.host, options.capture, options.clock)
    except LifecycleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
