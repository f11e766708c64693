"""HTTP/1.1 connections with a limit on how long, and how long-winded, the head of a request may be.

uvicorn waits for ever for the first byte of a connection and for the end of a request's head, and takes heads of any
size: sockets that say nothing, or never stop, would use the server up. Bodies are limited where they are read
(`gnexec.web.reading`), idle connections by uvicorn's keep-alive time.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S: Final = 20
"""A request's head must be there this long after its connection, or its first line, began."""
MAX_HEAD_BYTES: Final = 64 << 10
"""Request line and headers."""


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a timer and a cap on the head of each request."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the head has become too large."""
        if self._timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._stop_waiting()
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to wait for the head of the next request."""
        super().on_message_begin()
        if self._timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_waiting()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()
