"""A small HTTP/1.1 client for load: one connection, keep-alive, no more parsing than needed.

Not a general client: it trusts the server under test to answer with Content-Length or without a body, and asks one
thing at a time. It must cost far less than what it asks for, or the load would be what is measured.
"""

from __future__ import annotations

import asyncio
from typing import Self

LENGTH = b"\r\ncontent-length:"


class Wire(asyncio.Protocol):
    """One connection to the server under test."""

    def __init__(self, host: str, port: int) -> None:
        """Begin without a connection; see `open`."""
        self._address = host, port
        self._host = f"{host}:{port}".encode()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._awaited = 0
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """Connect."""
        wire = cls(host, port)
        await wire.renew()
        return wire

    async def renew(self) -> None:
        """Connect anew: a server ends what has been idle for long."""
        self.close()
        self._received, self._awaited = b"", 0
        await self._loop.create_connection(lambda: self, *self._address)

    async def call(self, method: bytes, path: bytes, token: bytes = b"", body: bytes = b"") -> tuple[int, bytes]:
        """Send a request and return status and body of the reply.

        Raises:
            ConnectionError: the server closed the connection.
        """
        self._reply = self._loop.create_future()
        self.send(method, path, token, body)
        return await self._reply

    def send(self, method: bytes, path: bytes, token: bytes = b"", body: bytes = b"") -> None:
        """Send a request, and leave its reply unread.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        if self._transport is None:
            msg = "the server has closed the connection"
            raise ConnectionError(msg)
        head = b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (method, path, self._host)
        if token:
            head += b"Authorization: Bearer %s\r\n" % token
        if body or method != b"GET":
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        self._transport.write(head + b"\r\n" + body)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # For the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport  # type: ignore[assignment]  # that of a stream

    def data_received(self, data: bytes) -> None:
        """Collect a reply, and hand it over when it is whole."""
        self._received = self._received + data if self._received else data
        if not self._awaited:
            end = self._received.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            head = self._received[:end].lower()
            at = head.find(LENGTH)
            length = int(head[at + len(LENGTH) : head.index(b"\r\n", at + 2)]) if at >= 0 else 0
            self._awaited = end + length
        if len(self._received) >= self._awaited:
            reply, self._received, self._awaited = self._received[: self._awaited], b"", 0
            if self._reply is not None and not self._reply.done():
                self._reply.set_result((int(reply[9:12]), reply[reply.index(b"\r\n\r\n") + 4 :]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's
        """Tell whoever waits for a reply."""
        self._transport = None
        if self._reply is not None and not self._reply.done():
            msg = "the server closed the connection"
            self._reply.set_exception(ConnectionError(msg))
