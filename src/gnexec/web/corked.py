"""A transport that lets the head of a reply wait for its body, so that both leave in one packet and one system call.

uvicorn writes them one after the other, and the transport sends each at once. The system call is a good part of what a
small reply costs, and the client would be woken twice.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_HEAD: Final = b"HTTP/1."
_LARGE: Final = 64 << 10
"""A body of so many bytes is not copied behind its head."""


class Corked:
    """Wraps the transport of one connection; all but writing and ending goes straight through."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Wrap an open transport."""
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send `data`; the head of a reply only with what follows, or when the event loop comes round without it."""
        if self._head is not None:
            head, self._head = self._head, None
            if len(data) < _LARGE:
                data = head + data
            else:
                self._transport.write(head)
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._send_head)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what waits, and end."""
        self._send_head()
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._head = None
        self._transport.abort()

    def _send_head(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- whatever the transport has
        """Return what else the transport can do."""
        return getattr(self._transport, name)
