"""HTTP/1.1 connections whose clients may be slow, silent or greedy, within bounds.

uvicorn waits for ever for the first byte of a connection, for the end of a request's head, for the rest of a body that
nobody wants any more, and for a client to read its reply. It takes heads of any size, and any number of requests ahead
of their replies. Each of these is bounded here; bodies that are wanted are bounded where they are read
(`gnexec.web.bodies`), and how many connections there may be is for `gnexec.web.limits`.

Rules:
- A connection always has a request that is being served, or a timer that ends it.
- Nothing here runs periodically: a connection that waits costs nothing but memory.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gnexec.web.corked import Corked
from gnexec.web.limits import Lobby, network

HEAD_S: Final = 20
"""A request's head must be there this long after its connection, or its first line, began."""
MAX_HEAD_BYTES: Final = 64 << 10
"""Request line and headers."""
MOST_AHEAD: Final = 32
"""Requests that a client may send before it has the reply to the one that is being served."""
READ_S: Final = 60
"""A client must take what has piled up for it, some 64 KiB, within this time."""
GONE_S: Final = 60
"""A client that takes nothing at all for so long has gone, the kernel says."""
LINGER_S: Final = 10
"""How long the rest of a body is still taken in and dropped, so that its sender hears the reply."""
LEAVE_S: Final = 5
"""How long a shutdown waits for replies that depend on the client."""
UNSENT_BYTES: Final = 128 << 10
"""What the kernel holds for a client, beyond what is on its way."""
_FULL: Final = b"HTTP/1.1 %s\r\nRetry-After: %d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def tune(listening: socket.socket) -> None:
    """Let all connections that a socket will accept notice clients that are gone, or take nothing."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", GONE_S),
        ("TCP_KEEPINTVL", 20),
        ("TCP_USER_TIMEOUT", GONE_S * 1000),
        ("TCP_NOTSENT_LOWAT", UNSENT_BYTES),
    ):
        number: int | None = getattr(socket, option, _LINUX.get(option))
        if number is not None:  # Not every system has all of them; the timers below remain.
            with suppress(OSError):
                listening.setsockopt(socket.IPPROTO_TCP, number, value)


_LINUX: Final = {"TCP_NOTSENT_LOWAT": 25} if sys.platform == "linux" else {}
"""Options that Python 3.11 has no name for."""


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds.

    The application finds it in a request's scope under `extensions`, to hear of the client's end without a task of its
    own, and to have an unwanted body dropped.
    """

    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = False
    _in_body = False
    _unwanted = False
    _address = ""
    _served: RequestResponseCycle | None = None

    def __init__(self, *args: Any, lobby: Lobby | None = None, **kwargs: Any) -> None:  # noqa: ANN401 -- uvicorn's own
        """Make the protocol of one connection; without a lobby everybody is let in."""
        super().__init__(*args, **kwargs)
        self._lobby = lobby
        self._ends: set[Callable[[], None]] = set()

    # Connections.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head, or send the client away."""
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]  # all that uvicorn asks of it
        self._address = network(self.client[0]) if self.client else ""
        if self._lobby is not None and not self._lobby.admit(self, self._address):
            crowded = len(self._lobby) >= self._lobby.most
            status = b"503 Service Unavailable" if crowded else b"429 Too Many Requests"
            transport.write(_FULL % (status, random.randint(2, 8)))  # noqa: S311 -- spreads load only
            self._hang_up()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer, and tell who wants to know."""
        self._stop_waiting()
        self._stop_stalling()
        if self._lobby is not None:
            self._lobby.leave(self, self._address)
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._served is not None and not self._served.response_complete:
            # uvicorn tells only the newest of several requests that were sent ahead.
            self._served.disconnected = True
            self._served.message_event.set()
        for end in list(self._ends):
            end()
        self._ends.clear()

    def dismiss(self) -> None:
        """End at once."""
        self.transport.abort()

    def on_end(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called when the connection ends; return what takes that back."""
        self._ends.add(call)
        return lambda: self._ends.discard(call)

    def drop_body(self, scope: object) -> None:
        """Take the body of a request for what nobody wants; in vain if others came behind it already."""
        if self.cycle.scope is scope:
            self._unwanted = True
            self.cycle.body = bytearray()
            self.flow.resume_reading()

    # What comes in.

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the head has become too large."""
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._stop_waiting()
            self._hang_up()
        elif self._timer is None and not self._in_body and self._is_idle() and not self.transport.is_closing():
            self._await_head()  # Bytes between two requests end uvicorn's own patience.

    def on_message_begin(self) -> None:
        """Begin to wait for the head of the next request."""
        super().on_message_begin()
        self.scope["extensions"] = {"gnexec.connection": self}  # type: ignore[dict-item]
        if not self._in_head:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Serve the request, unless too many wait already."""
        self._stop_waiting()
        self._in_body = True
        self._unwanted = False
        if len(self.pipeline) >= MOST_AHEAD:
            self.transport.abort()
            return
        if self._lobby is not None:
            self._lobby.busy(self, self._address)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Keep what is wanted."""
        if not self._unwanted:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._in_body = False
        super().on_message_complete()
        if self._is_idle():
            self._stop_waiting()
            self._await_next()

    # What goes out.

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one's body."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._hang_up()
        elif self._is_idle() and self._in_body:
            self._unset_keepalive_if_required()
            self._start(LINGER_S)
        elif self._is_idle() and self._lobby is not None:
            self._lobby.idle(self, self._address)

    def pause_writing(self) -> None:
        """Give the client some time to read."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(READ_S, self.dismiss)

    def resume_writing(self) -> None:
        """The client has read."""
        if not self.transport.is_closing():
            self._stop_stalling()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        self._hang_up()

    def shutdown(self) -> None:
        """Let the reply that is under way end, but not for ever."""
        super().shutdown()
        self.loop.call_later(LEAVE_S, self.dismiss)

    def _hang_up(self) -> None:
        """Close, and do not wait for ever for the client to take what was sent."""
        if not self.transport.is_closing():
            self.transport.close()
        self._stop_stalling()
        self._stalled = self.loop.call_later(LINGER_S, self.dismiss)

    # Timers.

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None at first

    def _await_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._start(HEAD_S)

    def _await_next(self) -> None:
        if not self.transport.is_closing() and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._lobby is not None:
            self._lobby.idle(self, self._address)

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _stop_waiting(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_stalling(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        self._timer = None
        if self._in_head and self._served is not None and not self._served.response_complete:
            self._start(HEAD_S)  # Nothing more of this head is read before the request ahead of it is served.
        else:
            self._hang_up()
