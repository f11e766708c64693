"""One question for all who ask the same: whoever comes while it is in flight waits for the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """An answer that is asked for once at a time, and kept for a while; for one event loop.

    Errors are shared, and not kept. A question goes on when those who asked it have gone.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], keep_s: float = 0.0) -> None:
        """Begin with nothing asked.

        Args:
            ask: gets the answer.
            keep_s: for how long it is good, seconds.
        """
        self._ask = ask
        self._keep_s = keep_s
        self._asking: asyncio.Future[T] | None = None
        self._kept: tuple[float, T] | None = None

    async def get(self) -> T:
        """Return the answer, at most `keep_s` old, or that of the question that is in flight.

        Raises:
            Exception: whatever `ask` raises.
        """
        now = asyncio.get_running_loop().time
        if self._kept is not None and now() < self._kept[0]:
            return self._kept[1]
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(self._answered)
        return await asyncio.shield(self._asking)

    def _answered(self, asking: asyncio.Future[T]) -> None:
        self._asking = None
        if not asking.cancelled() and asking.exception() is None and self._keep_s:
            self._kept = asking.get_loop().time() + self._keep_s, asking.result()
