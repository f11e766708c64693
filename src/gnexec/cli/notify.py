"""Tells systemd how this process is: ready, alive. Without systemd it tells nobody.

Source: sd_notify(3). `NOTIFY_SOCKET` names a datagram socket, where a leading @ stands for the abstract namespace.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

READY = "READY=1"
ALIVE = "WATCHDOG=1"


def tell(*states: str) -> None:
    """Send states to the service manager; one that does not listen is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.sendto("\n".join(states).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


def watchdog_s() -> float | None:
    """Return how often the service manager wants to hear that this process is alive; None for never.

    Half of what it waits for, as sd_watchdog_enabled(3) advises.
    """
    given = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(given) / 2e6 if meant and given.isdecimal() and int(given) else None


async def stay_alive() -> None:
    """Tell the service manager, for as long as it wants to hear it, that the event loop turns."""
    every_s = watchdog_s()
    while every_s is not None:
        tell(ALIVE)
        await asyncio.sleep(every_s)
