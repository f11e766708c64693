"""What one client, and all of them together, may take up: connections, requests a second, memory for bodies.

Everything here belongs to one event loop, and is bounded itself: whoever comes with many addresses makes the oldest
entries go, not the memory grow.

Rules:
- Who has sent nothing, or nothing more, makes room for who has: the connection that has been idle for longest goes
  first. One that is being served is never closed to let another in.
- An address of IPv6 stands for its /64 network, since one machine commonly has all of it.
"""

from __future__ import annotations

import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final, Protocol

YOUNG_S: Final = 2.0
"""A connection that is younger, or was busy so shortly ago, does not make room for others."""
SPARE_FILES: Final = 512
"""Descriptors kept for the store, for blobs, and for connections that are being closed."""
MOST_ADDRESSES: Final = 65_536
"""Addresses whose rate is remembered."""


class Guest(Protocol):
    """A connection."""

    def dismiss(self) -> None:
        """End at once."""


@dataclass(slots=True)
class _Room:
    """The connections of one address; the idle ones with since when, longest first."""

    guests: set[Guest] = field(default_factory=set)
    idle: dict[Guest, float] = field(default_factory=dict)


class Lobby:
    """Counts connections, by address and together, and lets in what there is room for."""

    def __init__(self, most: int, most_each: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty.

        Args:
            most: connections at a time, 1...
            most_each: of one address, 1...
            clock: steady, seconds.
        """
        self.most = most
        self.most_each = most_each
        self.refused = 0
        self._clock = clock
        self._rooms: dict[str, _Room] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many are in."""
        return self._count

    def admit(self, guest: Guest, address: str) -> bool:
        """Let a connection in, as idle; return False if there is no room for it."""
        room = self._rooms.get(address)
        if (room is not None and len(room.guests) >= self.most_each and not self._make_room(address)) or (
            self._count >= self.most and not self._make_room(self._fullest())
        ):
            self.refused += 1
            return False
        room = self._rooms.setdefault(address, _Room())
        room.guests.add(guest)
        room.idle[guest] = self._clock()
        self._count += 1
        return True

    def busy(self, guest: Guest, address: str) -> None:
        """Note that a connection is being served."""
        room = self._rooms.get(address)
        if room is not None:
            room.idle.pop(guest, None)

    def idle(self, guest: Guest, address: str) -> None:
        """Note that a connection waits for its next request."""
        room = self._rooms.get(address)
        if room is not None and guest in room.guests:
            room.idle.pop(guest, None)
            room.idle[guest] = self._clock()

    def leave(self, guest: Guest, address: str) -> None:
        """Note that a connection has ended; harmless for one that was never let in."""
        room = self._rooms.get(address)
        if room is None or guest not in room.guests:
            return
        room.guests.discard(guest)
        room.idle.pop(guest, None)
        self._count -= 1
        if not room.guests:
            del self._rooms[address]

    def _make_room(self, address: str) -> bool:
        """Dismiss the connection of an address that has been idle for longest, if it has been for long enough."""
        room = self._rooms[address]
        oldest = next(iter(room.idle), None)
        if oldest is None or self._clock() - room.idle[oldest] < YOUNG_S:
            return False
        self.leave(oldest, address)
        oldest.dismiss()
        return True

    def _fullest(self) -> str:
        return max(self._rooms, key=lambda address: len(self._rooms[address].idle))


class Rates:
    """A bucket of requests for each address, filled at a steady rate."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            per_s: requests a second in the long run, > 0.
            burst: as many may come at once, >= 1.
            clock: steady, seconds.
        """
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> float:
        """Take one request out of an address's bucket; return 0, or in how many seconds there will be one."""
        now = self._clock()
        left, at = self._buckets.get(address, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        short = 1.0 - left
        self._buckets[address] = (left if short > 0 else left - 1.0, now)
        self._buckets.move_to_end(address)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return max(0.0, short / self._per_s)


class Budget:
    """Bytes that all requests together may hold."""

    def __init__(self, most: int) -> None:
        """Begin with nothing held.

        Args:
            most: bytes.
        """
        self.most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """Hold so many bytes more; return False, and hold nothing, if that is too much."""
        if self.held + size > self.most:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """Hold so many bytes less."""
        self.held -= size


def network(host: str) -> str:
    """Return what stands for a client's address: itself, or the /64 network of an IPv6 address."""
    if ":" not in host:
        return host
    with suppress(ValueError):
        address = IPv6Address(host.partition("%")[0])
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return host


def raise_file_limit() -> int:
    """Let this process open as many files as it may, and return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # Some systems name a hard limit that they do not grant.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft


def make_lobby(max_connections: int, max_each: int, files: int) -> Lobby:
    """Return the lobby of a server.

    Args:
        max_connections: as the operator set it; never more than there are descriptors for.
        max_each: of one address; 0 for three quarters of all, so that no address can keep the others out.
        files: descriptors that the process may open, from `raise_file_limit`.
    """
    most = max(16, min(max_connections, files - SPARE_FILES))
    return Lobby(most, min(max_each, most) or max(1, most * 3 // 4))
