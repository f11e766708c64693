"""Waiting on behalf of a client: until something happens, the time is up, or the client has gone.

Ten thousand may wait at a time, so a wait is one future and one timer within the request's own task. Of the client's
end the connection itself tells (`gnexec.web.protocol`); under another server a task listens for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from starlette.requests import Request
from starlette.types import Scope

from gnexec.desk.feed import Signal
from gnexec.desk.meters import LONG_POLLS

WAITED_S: Final = "gnexec.waited_s"
"""Where a request's scope keeps for how many seconds it has waited on purpose."""


class _Connection(Protocol):
    """What our own protocol offers."""

    def on_end(self, call: Callable[[], None]) -> Callable[[], None]: ...

    def drop_body(self, scope: object) -> None: ...


class Patience:
    """How long a request may still wait; knows when its client has gone."""

    def __init__(self, request: Request, seconds: float) -> None:
        """Begin to wait.

        Args:
            request: without a body still to be read.
            seconds: at most this long.
        """
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._signal: Signal | None = None
        self._forget: Callable[[], None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._waited_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.client_gone = False

    @property
    def left_s(self) -> float:
        """Seconds that remain."""
        return max(0.0, self._until - self._loop.time())

    async def until(self, signal: Signal) -> bool:
        """Wait for the signal; return False when the time is up or the client has gone."""
        self._signal = signal
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._stir)
            self._watch_client()
            LONG_POLLS.inc()
            await asyncio.sleep(0)
        if not self.client_gone and self.left_s:
            since = self._loop.time()
            await signal.wait()
            self._waited_s += self._loop.time() - since
            self._request.scope[WAITED_S] = self._waited_s
        if self._listening is not None:
            await asyncio.sleep(0)  # A client that has gone in the same turn is noticed before anything is done for it.
        return signal.is_set() and not self.client_gone

    async def close(self) -> None:
        """Stop watching the client."""
        self._signal = None
        if self._timer is not None:
            self._timer.cancel()
            LONG_POLLS.dec()
        if self._forget is not None:
            self._forget()
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening

    def _watch_client(self) -> None:
        connection = _connection(self._request.scope)
        if connection is not None:
            self._forget = connection.on_end(self._gone)
        else:
            self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._gone()

    def _gone(self) -> None:
        self.client_gone = True
        self._stir()

    def _stir(self) -> None:
        """End the wait, whatever it was for."""
        if self._signal is not None:
            self._signal.stir()


def drop_body(scope: Scope) -> None:
    """Let go of the body of a request that has no use for one."""
    connection = _connection(scope)
    if connection is not None:
        connection.drop_body(scope)


def _connection(scope: Scope) -> _Connection | None:
    found: _Connection | None = scope.get("extensions", {}).get("gnexec.connection")
    return found
