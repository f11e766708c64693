"""A real server for auditors, whose output is read to its end and closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.serving import Server, running_server


@contextmanager
def served(data: Path) -> Iterator[Server]:
    """Run a server over a data folder."""
    before = set(threading.enumerate())
    with running_server(data) as server:
        readers = set(threading.enumerate()) - before
        yield server
    for reader in readers:
        reader.join()
    if server.process is not None and server.process.stdout is not None:
        server.process.stdout.close()
