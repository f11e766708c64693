"""How many attempts can run side by side: what predictions divide the queue by.

Not exact: workers are many, so they are counted once for each second of the log's time, and whenever one has enrolled.
"""

from __future__ import annotations

from typing import Final

from gnexec.core.world import World

ACTIVE_MS: Final = 5 * 60 * 1000
"""A worker that was heard of within this time counts as there."""


class Presence:
    """Counts workers; for the writer's thread."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._counted_at = (-1, 0)
        self._there = 0

    def slots(self, world: World) -> int:
        """Return how many attempts are open, or how many workers are there, whichever is more."""
        now = world.at_ms // 1000, len(world.workers)
        if now != self._counted_at:
            self._counted_at = now
            self._there = sum(world.at_ms - worker.last_ms < ACTIVE_MS for worker in world.workers.values())
        return max(sum(world.held.values()), self._there)
