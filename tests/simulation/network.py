"""A network that loses, doubles, delays and overtakes, on the way there and on the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.simulation.universe import Trouble, Universe

Respond = Callable[[Any], None]
"""Takes the answer, or the error, that a server gave."""


class Door(Protocol):
    """Where messages arrive: a server."""

    def receive(self, asked: Any, respond: Respond) -> None:  # noqa: ANN401 -- whatever it understands
        """Take a message; `respond` at any later time, or never."""
        ...


@dataclass
class Network:
    """Carries messages to any of the servers, as a balancer before them would."""

    universe: Universe
    doors: Sequence[Door]
    _sent: int = 0
    _arrived: int = 0

    def call(self, asked: Any, respond: Respond) -> None:  # noqa: ANN401 -- whatever the servers understand
        """Send a message to one of the servers; `respond` is called for each reply that comes through."""
        door = self.universe.stream("balancer").choice(self.doors)
        self._send("messages", lambda: door.receive(asked, lambda told: self._send("replies", lambda: respond(told))))

    def _send(self, kind: str, deliver: Callable[[], None]) -> None:
        universe = self.universe
        universe.counts[kind] += 1
        if universe.strikes(Trouble.DROP, 0.06):
            universe.counts[f"{kind} dropped"] += 1
            return
        copies = 1
        if universe.strikes(Trouble.DUPLICATE, 0.06):
            universe.counts[f"{kind} duplicated"] += 1
            copies = 2
        for _ in range(copies):
            self._sent += 1
            universe.after(self._delay_ms(), self._arrival(self._sent, kind, deliver))

    def _delay_ms(self) -> float:
        chance = self.universe.stream("network")
        delay = chance.uniform(2, 20)
        if self.universe.strikes(Trouble.DELAY, 0.1):
            delay *= chance.choice((10, 100, 3_000))
        return delay

    def _arrival(self, number: int, kind: str, deliver: Callable[[], None]) -> Callable[[], None]:
        def arrive() -> None:
            if number < self._arrived:
                self.universe.counts[f"{kind} reordered"] += 1
            self._arrived = max(self._arrived, number)
            deliver()

        return arrive
