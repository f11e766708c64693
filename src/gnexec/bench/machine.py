"""What the figures were measured on: the limits of the machine, and the versions that did the work."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version

import psutil

from gnexec import ed25519
from gnexec.bench.cores import ALL

FLUSHES = 50


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run was made on.

    Attributes:
        cores: that this process may use. memory_bytes: of the machine.
        load: average number of processes that wanted to run in the last minute, before the run: other work on it.
        fdatasync_us: to write 4 KiB and have them durable, median, in the folder for temporary files, microseconds.
        ed25519: the library that signs and checks.
    """

    gnexec: str
    python: str
    system: str
    cores: int
    memory_bytes: int
    load: float
    fdatasync_us: float
    sqlite: str
    ed25519: str


def machine() -> Machine:
    """Look at this machine."""
    return Machine(
        gnexec=version("gnexec"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=len(ALL),
        memory_bytes=int(psutil.virtual_memory().total),
        load=round(psutil.getloadavg()[0], 2),
        fdatasync_us=round(_fdatasync_us(), 1),
        sqlite=sqlite3.sqlite_version,
        ed25519=ed25519.LIBRARY,
    )


def _fdatasync_us() -> float:
    with tempfile.TemporaryFile(prefix="gnexec-bench-") as file:
        took = []
        for _ in range(FLUSHES):
            os.write(file.fileno(), bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6
