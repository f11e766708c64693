"""The clock of a store that runs inside this process.

The one place on this floor that asks the machine for the time; a store that is a server of its own has its own clock.
"""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Return milliseconds since 1970, UTC; may jump either way when the machine's clock is set."""
    return time.time_ns() // 1_000_000
