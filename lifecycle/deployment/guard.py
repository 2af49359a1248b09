"""Limits on the head of a request, which uvicorn leaves open: its size, and the time it may take to arrive.

Everything after the head (the size of the body, the time for it, how many requests at once) is limited by `service`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lifecycle.deployment.metrics import Measured
from lifecycle.deployment.transport import Joined

MOST_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 20.0

_SENTENCES = {
    400: "The request is not HTTP/1.1 as it is read here: check its first line, its headers and its length.",
    408: f"The head of the request did not arrive within {HEAD_SECONDS:.0f} seconds: send it again.",
    431: f"The head of the request is larger than {MOST_HEAD_BYTES:,} bytes: send fewer or shorter headers.",
}


class _HeadTooLarge(Exception):
    """Ends the parsing of a request whose head is too large."""


class GuardedProtocol(HttpToolsProtocol):
    """Uvicorn's connection, with a limit on the size of a head and on the time until it is whole.

    A head that is too large gets 431, one that stalls 408, and what is not HTTP 400, each with a sentence in JSON;
    the connection is closed then.
    """

    _in_head, _head_bytes, _status = True, 0, 400
    _all_head = True  # whether the bytes just read end inside the head that they began in
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for the first head."""
        super().connection_made(Joined(transport, self.loop))
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Read some bytes, unless they are too many for a head."""
        if self._in_head:
            self._await_head()
        self._all_head = self._in_head
        super().data_received(data)
        if self._all_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(431)

    def on_message_begin(self) -> None:
        """Count the bytes of the head from here on."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, unless there are too many bytes of them."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MOST_HEAD_BYTES:
            self._status = 431
            raise _HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let the request in."""
        self._all_head = False
        self._stop_waiting()
        if len(self.url) > MOST_HEAD_BYTES:
            self._status = 431
            raise _HeadTooLarge
        super().on_headers_complete()
        self._in_head = False

    def on_message_complete(self) -> None:
        """Expect the head of the next request."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what could not be parsed, in JSON like every other refusal."""
        self._refuse(self._status)

    def _await_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._refuse, 408)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int) -> None:
        """Say why and close, unless the answer to an earlier request would be mistaken for this one."""
        self._stop_waiting()
        earlier = self.cycle is not None and not self.cycle.response_complete
        if earlier and not (self._in_head or self.pipeline):
            earlier = self.cycle.response_started  # the mistake is in the body of this very request
        if not (earlier or self.transport.is_closing()):
            body = json.dumps({"error": _SENTENCES[status]}).encode()
            head: list[Any] = [STATUS_LINE[status], b"content-type: application/json\r\nconnection: close\r\n"]
            head.append(b"content-length: " + str(len(body)).encode() + b"\r\n\r\n")
            self.transport.write(b"".join([*head, body]))
            if isinstance(self.app, Measured):
                self.app.count_refused(status)
        self.transport.close()
