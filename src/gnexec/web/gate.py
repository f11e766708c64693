"""Shedding: what a server with too much to do answers at once, so that it can go on with the rest.

What is asked for falls into ranks. While the load grows they are refused one after the other, with `overloaded` and a
`Retry-After` that differs from client to client: first those who ask for new work, which costs nobody anything; then
new jobs; then looking; last of all results and signs of life, since work that was done is the dearest thing here.
Whether the server is well can always be asked.

The load is told by two things: how late the event loop runs, and what waits for the desk. Nothing is predicted.

In open mode, where there are no accounts, each address has a rate as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from starlette.types import Scope

from gnexec.desk import meters
from gnexec.desk.dispatcher import MOST_WAITING
from gnexec.desk.office import Office
from gnexec.errors import Refused
from gnexec.settings import DEFAULT_OPEN_RATE
from gnexec.web.limits import Budget, Rates, network

HELD: Final = "gnexec.held"
"""Where a request's scope keeps out of which budget its body holds how many bytes."""
MAX_UNPROVEN: Final = 256 << 10
"""Bytes of a body that are read before any token was seen."""
UNPROVEN_PART: Final = 8
"""All such bodies together may hold this part of what bodies may hold."""
TICK_S: Final = 0.25
"""How often the event loop's lateness is measured."""


class Rank(IntEnum):
    """What is asked for; lower ranks are shed first."""

    WORK = 0
    SUBMIT = 1
    READ = 2
    REPORT = 3
    ALWAYS = 4


LATEST_S: Final = {Rank.WORK: 2.0, Rank.SUBMIT: 3.0, Rank.READ: 5.0, Rank.REPORT: 20.0}
"""Lateness, seconds, above which a rank is shed."""
FULLEST: Final = {Rank.WORK: 0.125, Rank.SUBMIT: 0.25, Rank.READ: 0.5, Rank.REPORT: 1.0}
"""Share of the desk's queue above which a rank is shed."""
_WELL: Final = frozenset({"/healthz", "/readyz"})


def rank_of(method: str, path: str) -> Rank:
    """Return the rank of an operation, by its method and its path as the routes write it."""
    if path in _WELL:
        return Rank.ALWAYS
    if path.endswith("/jobs/next"):
        return Rank.WORK
    if method == "PUT":
        return Rank.REPORT
    return Rank.READ if method in ("GET", "HEAD") else Rank.SUBMIT


class Gate:
    """What requests have to pass before they are looked at.

    Attributes:
        bodies: bytes of bodies that are held in memory.
        unproven: the same for bodies that come before any token, so that they take nothing from those of workers.
        shed: how many requests were refused, by rank.
        throttled: how many were refused for their address's rate.
    """

    def __init__(self, office: Office) -> None:
        """Begin to measure; must be called with a running event loop."""
        settings = office.settings
        self.bodies = Budget(max(settings.max_bodies_bytes, settings.max_body_bytes))
        # In open mode whole outputs come this way: the largest must fit in.
        largest = settings.max_body_bytes if settings.open_mode else MAX_UNPROVEN
        self.unproven = Budget(max(self.bodies.most // UNPROVEN_PART, largest))
        self.shed: dict[Rank, int] = dict.fromkeys(LATEST_S, 0)
        self.throttled = 0
        self._waiting: Callable[[], tuple[int, float]] = office.desk.waiting
        per_s = settings.open_rate or DEFAULT_OPEN_RATE
        self._rates = Rates(per_s, 2 * per_s) if settings.open_mode else None
        self._local_free = settings.open_rate is None
        self._loop = asyncio.get_running_loop()
        self._late_s = 0.0
        self._due = self._loop.time() + TICK_S
        self._timer = self._loop.call_at(self._due, self._tick)

    def close(self) -> None:
        """Measure no longer."""
        self._timer.cancel()

    def hold(self, scope: Scope, size: int, *, proven: bool) -> bool:
        """Count bytes of a request's body until `let_go`; return False, and count nothing, if that is too much.

        Args:
            scope: the request's.
            size: bytes.
            proven: whether a token was seen; always the same for one request.
        """
        budget = self.bodies if proven else self.unproven
        if not budget.take(size):
            return False
        _, held = scope.get(HELD, (budget, 0))
        scope[HELD] = budget, held + size
        return True

    def let_go(self, scope: Scope) -> None:
        """Count a request's body no longer."""
        budget, held = scope.pop(HELD, (self.bodies, 0))
        budget.give(held)

    def late_s(self) -> float:
        """Return how late things are, seconds: of the event loop, or of the desk."""
        return max(self._late_s, self._loop.time() - self._due, self._waiting()[1])

    def check(self, rank: Rank, scope: Scope) -> None:
        """Let a request pass, or not.

        Raises:
            Refused: overloaded; too_many.
        """
        if rank is Rank.ALWAYS:
            return
        waiting, stuck_s = self._waiting()
        late_s = max(self._late_s, self._loop.time() - self._due, stuck_s)
        if late_s > LATEST_S[rank] or waiting > FULLEST[rank] * MOST_WAITING:
            self.shed[rank] += 1
            meters.SHED.labels(rank.name.lower()).inc()
            raise Refused("overloaded", "The server has too much to do now.", mend="Come again after Retry-After.")
        if self._rates is not None:
            self._throttle(self._rates, scope)

    def _throttle(self, rates: Rates, scope: Scope) -> None:
        client = scope.get("client")
        if client is None or (self._local_free and client[0] in _LOOPBACK):
            return
        if rates.take(network(client[0])) > 0:
            self.throttled += 1
            meters.THROTTLED.inc()
            raise Refused("too_many", "Your address asks too often.", mend="Come again after Retry-After.")

    def _tick(self) -> None:
        now = self._loop.time()
        # A loop that was late once is believed to be late a little longer, not for ever.
        self._late_s = max(now - self._due, self._late_s / 2 if self._late_s > TICK_S else 0.0)
        self._due = now + TICK_S
        self._timer = self._loop.call_at(self._due, self._tick)


_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
