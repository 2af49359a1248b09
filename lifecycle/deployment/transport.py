"""How the service writes to a connection: the head and the body of an answer in one call to the system."""

from __future__ import annotations

import asyncio
from typing import Any


class Joined:
    """A transport that sends together what is written within one turn of the event loop.

    Uvicorn writes the head of an answer and then its body; sent one by one, they wake the receiver twice.

    Parameters
    ----------
    transport
        What sends.
    loop
        The event loop.

    Examples
    --------
    >>> class Shown:
    ...     def write(self, data):
    ...         print(data)
    >>> async def write():
    ...     joined = Joined(Shown(), asyncio.get_running_loop())
    ...     joined.write(b"head ")
    ...     joined.write(b"body")
    >>> asyncio.run(write())
    b'head body'
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send some bytes before the event loop goes on waiting."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)
