"""A small HTTP/1.1 client for load: one connection, keep-alive, no more parsing than needed.

Not a general client: it trusts the server under test to answer with Content-Length or without a body.
"""

from __future__ import annotations

import asyncio
from typing import Self


class Wire:
    """One connection to the server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        """Wrap an open connection."""
        self._reader = reader
        self._writer = writer
        self._address = host, port
        self._host = f"{host}:{port}".encode()

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """Connect."""
        reader, writer = await asyncio.open_connection(host, port)
        return cls(reader, writer, host, port)

    async def renew(self) -> None:
        """Connect anew: a server ends what has been idle for long."""
        self.close()
        self._reader, self._writer = await asyncio.open_connection(*self._address)

    async def call(self, method: bytes, path: bytes, token: bytes = b"", body: bytes = b"") -> tuple[int, bytes]:
        """Send a request and return status and body of the reply.

        Raises:
            ConnectionError: the server closed the connection.
        """
        self.send(method, path, token, body)
        try:
            answer = await self._reader.readuntil(b"\r\n\r\n")
            status = int(answer[9:12])
            at = answer.lower().find(b"content-length:")
            length = int(answer[at + 15 : answer.index(b"\r\n", at)]) if at >= 0 else 0
            return status, await self._reader.readexactly(length) if length else b""
        except asyncio.IncompleteReadError as err:
            msg = "the server closed the connection"
            raise ConnectionError(msg) from err

    def send(self, method: bytes, path: bytes, token: bytes = b"", body: bytes = b"") -> None:
        """Send a request, and leave its reply unread."""
        head = b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (method, path, self._host)
        if token:
            head += b"Authorization: Bearer %s\r\n" % token
        if body or method != b"GET":
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        self._writer.write(head + b"\r\n" + body)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
