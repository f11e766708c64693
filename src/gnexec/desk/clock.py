"""The time of entries: the store's clock, watched for jumps.

A wall clock that is set while the server runs would let every lease lapse at once, or none for hours; and time in the
log never goes back. So the wall clock is compared with a clock that nobody can set. While the two have parted, the
steady one goes on alone from where they agreed last, nothing is handed out and no lease lapses.

Time in suspension counts on both clocks (CLOCK_BOOTTIME), so a laptop that slept has not jumped: it had an outage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TOLERANCE_MS: Final = 30_000
"""How far the wall clock may part from the steady one before hand-outs stop; a slewed clock moves 0.5 ms a second."""


def steady_ms() -> int:
    """Return milliseconds since some fixed moment, time in suspension included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Clock:
    """Watches a wall clock against a steady one.

    Attributes:
        trouble: why the wall clock cannot be trusted now, or None.
    """

    def __init__(self, steady: Callable[[], int] = steady_ms) -> None:
        """Begin without a reference: the first reading sets it.

        Args:
            steady: milliseconds that only go forward.
        """
        self._steady = steady
        self._offset_ms: int | None = None
        self.trouble: str | None = None

    def read(self, wall_ms: int) -> int:
        """Take a reading of the wall clock; return the time to go by, milliseconds since 1970.

        The wall clock is trusted again when it is back; slow drift is followed.
        """
        steady = self._steady()
        known = self._offset_ms if self._offset_ms is not None else wall_ms - steady
        jump = wall_ms - steady - known
        if abs(jump) > TOLERANCE_MS:
            self.trouble = (
                f"The clock jumped by {jump / 1000:+.0f} s. Nothing is handed out until it is set right, "
                "or the server is started again."
            )
            return steady + known
        self._offset_ms = wall_ms - steady
        self.trouble = None
        return wall_ms

    def now_ms(self) -> int:
        """Return the time to go by between two readings; some other clock's zero before the first one."""
        return self._steady() + (self._offset_ms or 0)
