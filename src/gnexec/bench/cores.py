"""Which processor core does what: the server under test has one to itself, load and database share the others."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ALL = frozenset(os.sched_getaffinity(0))
"""The cores that this process was started with."""


def server_core() -> int | None:
    """Return the core of the servers under test; None where there is only one."""
    return min(ALL) if len(ALL) > 1 else None


@contextmanager
def beside_the_server() -> Iterator[None]:
    """Keep this process, and those that it starts, off the servers' core meanwhile; let it end in order if it must."""
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the servers would stay
    os.sched_setaffinity(0, ALL - {server_core()} or ALL)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALL)
        signal.signal(signal.SIGTERM, former)
