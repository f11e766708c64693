"""Waiting on behalf of a client: until something happens, the time is up, or the client has gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import Request


class Patience:
    """How long a request may still wait; knows when its client has gone."""

    def __init__(self, request: Request, seconds: float) -> None:
        """Begin to wait.

        Args:
            request: without a body still to be read.
            seconds: at most this long.
        """
        self._request = request
        self._until = asyncio.get_running_loop().time() + seconds
        self._gone: asyncio.Task[None] | None = None

    @property
    def left_s(self) -> float:
        """Seconds that remain."""
        return max(0.0, self._until - asyncio.get_running_loop().time())

    @property
    def client_gone(self) -> bool:
        """Whether the client has closed the connection."""
        return self._gone is not None and self._gone.done()

    async def until(self, event: asyncio.Event) -> bool:
        """Wait for the event; return False when the time is up or the client has gone."""
        if self._gone is None:
            self._gone = asyncio.create_task(self._watch())
        happens = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({happens, self._gone}, timeout=self.left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            happens.cancel()
        return event.is_set() and not self._gone.done()

    async def close(self) -> None:
        """Stop watching the client."""
        if self._gone is not None:
            self._gone.cancel()
            with suppress(asyncio.CancelledError):
                await self._gone

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
