"""A TCP proxy between a client or worker and its server: it keeps what was said, and loses what it is told to lose.

Each connection carries one exchange (the request is sent on with `Connection: close`), so that the k-th exchange can be
lost without touching another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


class Fate(StrEnum):
    """What becomes of an exchange."""

    PASS = "pass"
    DROP = "drop"
    """The server never hears of the request."""
    LOSE = "lose"
    """The server hears it and answers; the answer never arrives."""
    TEAR = "tear"
    """Half of the answer arrives."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, and the answer as it was relayed.

    Attributes:
        kind: method and path, with `*` for each number and digest, such as "PUT /jobs/*/result".
        path: without its query.
        fate: what was done to it.
        status: of the server's answer; 0 where there was none. answer: its body.
    """

    kind: str
    path: str
    fate: Fate
    status: int
    answer: bytes


Rule = Callable[[str], Fate]


def pass_all(_: str) -> Fate:
    """Lose nothing."""
    return Fate.PASS


class Proxy:
    """Relays to one server.

    Attributes:
        url: its own address, the same for as long as it lives.
        rule: says, of each request's kind, what becomes of it; may be changed at any time.
        heard: kinds of all requests, in the order in which they came.
        exchanges: all that ended, in the order in which they did.
    """

    def __init__(self, upstream: str) -> None:
        """Listen on a free port."""
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.rule: Rule = pass_all
        self.heard: list[str] = []
        self.exchanges: list[Exchange] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(self._listen())
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Break all connections, and new ones as soon as they come."""
        self._do(self._cut())

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = False

    def close(self) -> None:
        """End it."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)

    async def _cut(self) -> None:
        # It goes on listening: a connection that asyncio is just taking when its server closes would hang for ever.
        self._is_cut = True
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        """Cut, and wait until nothing is at work any more."""
        await self._cut()
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._exchange(reader, writer)
        finally:
            self._open.discard(writer)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *headers = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ")
        path = target.partition("?")[0]
        kind = f"{method} {'/'.join('*' if part.isdigit() or len(part) == 64 else part for part in path.split('/'))}"
        body = await reader.readexactly(_length(headers))
        self.heard.append(kind)
        fate = self.rule(kind)
        if fate is Fate.DROP:
            self.exchanges.append(Exchange(kind, path, fate, 0, b""))
            return
        kept = [header for header in headers if not header.lower().startswith(b"connection:")]
        answer = await self._ask(b"\r\n".join([line, *kept, b"Connection: close", b"", b""]) + body, reader)
        if answer and fate in {Fate.PASS, Fate.TEAR}:
            writer.write(answer if fate is Fate.PASS else answer[: len(answer) // 2])
            await writer.drain()
        head, _, content = answer.partition(b"\r\n\r\n")
        self.exchanges.append(Exchange(kind, path, fate, int(head.split(b" ")[1]) if answer else 0, content))

    async def _ask(self, request: bytes, asker: asyncio.StreamReader) -> bytes:
        """Send a request on and return the whole answer; empty where there is none, or nobody waits for it any more."""
        upstream, out = await asyncio.open_connection(*self._upstream)
        try:
            out.write(request)
            answer, gone = asyncio.create_task(upstream.read(-1)), asyncio.create_task(asker.read(1))
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not answer.done():
                answer.cancel()
                return b""
            whole = answer.result()
            return whole if _complete(whole, request) else b""
        finally:
            out.transport.abort()


def _length(headers: list[bytes]) -> int:
    for header in headers:
        name, _, value = header.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
        assert name.strip().lower() != b"transfer-encoding", "this proxy needs to know how long a body is"
    return 0


def _complete(answer: bytes, request: bytes) -> bool:
    """Tell whether all of an answer is there: a killed server may have sent half of it."""
    head, blank, content = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    headers = head.split(b"\r\n")[1:]
    if any(header.lower().startswith(b"transfer-encoding:") for header in headers):
        return content.endswith(b"0\r\n\r\n")
    return request.startswith(b"HEAD ") or len(content) >= _length(headers)


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Have a proxy before a server."""
    made = Proxy(upstream)
    try:
        yield made
    finally:
        made.close()


def nth(kind: str, number: int, fate: Fate) -> Rule:
    """Let the `number`-th request of a kind from now on (counted from 1) have this fate, the rest passes."""
    seen = 0

    def rule(its: str) -> Fate:
        nonlocal seen
        seen += its == kind
        return fate if its == kind and seen == number else Fate.PASS

    return rule
