"""A universe of one thread: time that only events move, chance from a seed, and what went wrong in it.

Everything that happens is an entry of one agenda, taken in order of its time. Chance has a stream of its own for each
purpose, so that one kind of trouble can be left out without changing the course of the others more than it must.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

KEPT_LINES: Final = 60
"""Lines of the story that are kept for whoever has to read it."""


class Trouble(StrEnum):
    """What may go wrong; each kind can be left out."""

    DROP = "messages and replies are lost"
    DUPLICATE = "messages and replies come twice"
    DELAY = "messages and replies are late, and overtake each other"
    COMMIT = "commits fail, or fail and are kept"
    AWAY = "the store does not answer"
    CRASH = "servers are killed and started again"
    TWO = "two servers share the store"
    RACE = "another server appends between a failed commit and the look at the log"
    SNAPSHOT = "servers start from snapshots"
    CLOCK = "clocks drift and jump"
    PEOPLE = "volunteers are slow, vanish, crash, lie, hoard and contradict themselves"
    CANCEL = "submitters change their minds"
    TURN = "policy and token keys change at a restart"


class Universe:
    """Time, chance, and the agenda.

    Attributes:
        now_ms: true time, since the beginning.
        calm: whether nothing goes wrong any more.
        counts: what happened, by kind.
    """

    def __init__(self, seed: int, troubles: frozenset[Trouble]) -> None:
        """Begin with an empty agenda."""
        self.seed = seed
        self.troubles = troubles
        self.now_ms = 0
        self.calm = False
        self.counts: Counter[str] = Counter()
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._added = 0
        self._streams: dict[str, random.Random] = {}
        self._story: deque[str] = deque(maxlen=KEPT_LINES)
        self._digest = hashlib.sha256()

    def stream(self, name: str) -> random.Random:
        """Return the chance of one purpose."""
        if name not in self._streams:
            self._streams[name] = random.Random(f"{self.seed}/{name}")  # noqa: S311 -- a seed that can be told
        return self._streams[name]

    def strikes(self, trouble: Trouble, share: float) -> bool:
        """Tell whether something goes wrong now."""
        hit = self.stream(trouble.name).random() < share
        if not hit or self.calm or trouble not in self.troubles:
            return False
        self.counts[trouble.value] += 1
        return True

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        """Put something on the agenda."""
        self._added += 1
        heapq.heappush(self._agenda, (self.now_ms + max(1, round(delay_ms)), self._added, action))

    def step(self) -> bool:
        """Let the next thing happen; return False where nothing is left."""
        if not self._agenda:
            return False
        self.now_ms, _, action = heapq.heappop(self._agenda)
        self.counts["steps"] += 1
        action()
        return True

    def say(self, text: str) -> None:
        """Add a line to the story."""
        line = f"{self.now_ms / 1000:10.3f} {text}"
        self._story.append(line)
        self._digest.update(line.encode())

    @property
    def story(self) -> list[str]:
        """The newest lines."""
        return list(self._story)

    @property
    def fingerprint(self) -> str:
        """Digest of the whole story: equal for equal courses."""
        return self._digest.hexdigest()
