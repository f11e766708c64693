"""A clock that tests set: the wall's and the steady one, which agree until a test lets the wall clock jump."""

from __future__ import annotations

from dataclasses import dataclass

BEGIN_MS = 1_800_000_000_000


@dataclass(slots=True)
class FakeClock:
    """Milliseconds that pass only when told.

    Attributes:
        steady_ms: since some moment.
        jumped_ms: by how much the wall clock was set.
    """

    steady_ms: int = 1_000_000
    jumped_ms: int = 0

    def wall(self) -> int:
        """Return milliseconds since 1970, as the store's clock says."""
        return BEGIN_MS - 1_000_000 + self.steady_ms + self.jumped_ms

    def steady(self) -> int:
        """Return milliseconds that nobody can set."""
        return self.steady_ms
