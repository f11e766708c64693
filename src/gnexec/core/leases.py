"""Which lease passes next, so that looking for lapsed ones does not walk over all hand-outs.

An index of the world, as `gnexec.core.ready` is: it holds no truth of its own. A hand-out's lease only moves forward;
what it was before stays in the heap until it comes to the top, or until most of the heap is such.
"""

from __future__ import annotations

import heapq
from typing import Final

_SLACK: Final = 1024
"""Stale leases that the heap may hold, beyond as many as there are, before they are cleared away."""


class Leases:
    """The leases of open hand-outs, by attempt id (jti)."""

    def __init__(self) -> None:
        """Begin empty."""
        self._until: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def set(self, jti: str, until_ms: int) -> None:
        """Note that the lease of `jti` runs until `until_ms`."""
        if self._until.get(jti) != until_ms:
            self._until[jti] = until_ms
            heapq.heappush(self._heap, (until_ms, jti))
            self._drop_stale()

    def end(self, jti: str) -> None:
        """Forget the lease of `jti`."""
        del self._until[jti]
        self._drop_stale()

    def passed(self, at_ms: int) -> list[str]:
        """Return those whose lease has passed at `at_ms`, the earliest first; changes nothing."""
        if not self._heap or self._heap[0][0] >= at_ms:
            return []
        passed = sorted(lease for lease in self._heap if lease[0] < at_ms)
        return list(dict.fromkeys(jti for until_ms, jti in passed if self._holds(until_ms, jti)))

    def next_ms(self) -> int | None:
        """Return when the next lease may pass, or None while nothing is handed out."""
        return self._heap[0][0] if self._heap else None

    def _holds(self, until_ms: int, jti: str) -> bool:
        return self._until.get(jti) == until_ms

    def _drop_stale(self) -> None:
        if len(self._heap) > 2 * len(self._until) + _SLACK:
            self._heap = [(until_ms, jti) for jti, until_ms in self._until.items()]
            heapq.heapify(self._heap)
        while self._heap and not self._holds(*self._heap[0]):
            heapq.heappop(self._heap)
