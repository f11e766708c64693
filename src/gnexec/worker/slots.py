"""What the worker offers, and what of it is taken: slots for attempts; processors, memory and disk for those that run.

The server compares one job at a time with the whole offer. So several jobs of one hand-out may together need more than
there is; they then wait here for each other, first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from gnexec.core.events import Offer
from gnexec.core.terms import Needs

_FIELDS: Final = ("cores", "memory_bytes", "disk_bytes")


@dataclass(slots=True)
class Slots:
    """Slots and resources of one worker.

    Attributes:
        count: attempts that may be here at a time.
        offer: what they may use together.
        busy: attempts that are here.
    """

    count: int
    offer: Offer
    busy: int = 0
    _left: dict[str, int] = field(init=False)
    _waiting: deque[tuple[Needs, asyncio.Future[None]]] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        """Begin with all of the offer."""
        self._left = {name: getattr(self.offer, name) for name in _FIELDS}

    @property
    def free(self) -> int:
        """Attempts that there is room for."""
        return max(0, self.count - self.busy)

    async def take(self, needs: Needs) -> None:
        """Wait until what a job needs is left, and take it.

        Raises:
            ValueError: it never will be: the job needs more than is offered.
        """
        for name in _FIELDS:
            if getattr(needs, name) > getattr(self.offer, name):
                msg = f"the job needs {getattr(needs, name)} {name}, and this worker offers {getattr(self.offer, name)}"
                raise ValueError(msg)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((needs, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(needs)
            raise
        finally:
            self._serve()

    def give(self, needs: Needs) -> None:
        """Give back what `take` took."""
        self._add(needs, 1)
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            needs, turn = self._waiting[0]
            if not turn.done():
                if any(getattr(needs, name) > self._left[name] for name in _FIELDS):
                    return
                self._add(needs, -1)
                turn.set_result(None)
            self._waiting.popleft()

    def _add(self, needs: Needs, sign: int) -> None:
        for name in _FIELDS:
            self._left[name] += sign * getattr(needs, name)
