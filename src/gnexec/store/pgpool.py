"""A bounded set of connections that read: lent to any thread, opened when first needed, replaced when lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from gnexec.errors import StoreAway
from gnexec.store.pglink import Link, Lost

READERS: Final = 8
"""Most connections of one process that read at the same time; each is a process of the server's."""

PATIENCE_S: Final = 5.0
"""How long a thread waits for a connection."""

Answer = TypeVar("Answer")


class Pool:
    """Connections, and who may have one."""

    def __init__(self, connect: Callable[[], Link]) -> None:
        """Make the set; opens nothing yet.

        Args:
            connect: opens one.
        """
        self._connect = connect
        self._closed = threading.Event()
        self._idle: queue.LifoQueue[Link | None] = queue.LifoQueue()
        for _ in range(READERS):
            self._idle.put(None)

    def read(self, ask: Callable[[Link], Answer]) -> Answer:
        """Ask a connection; if it turns out to be lost, ask a new one, once.

        Raises:
            StoreAway: all are lent out for too long, the server does not answer, or the set is closed.
        """
        with suppress(Lost), self.borrow() as link:
            return ask(link)
        self._drop_idle()  # where one was lost, so were the others
        with self.borrow() as link:
            return ask(link)

    @contextmanager
    def borrow(self) -> Iterator[Link]:
        """Lend a connection to the calling thread.

        Raises:
            StoreAway: as `read`.
        """
        if self._closed.is_set():
            msg = "the store is closed"
            raise StoreAway(msg)
        try:
            link = self._idle.get(timeout=PATIENCE_S)
        except queue.Empty as err:
            msg = f"all {READERS} reading connections are in use"
            raise StoreAway(msg) from err
        try:
            if link is None or link.lost:
                link = None
                link = self._connect()
            yield link
        finally:
            self._idle.put(None if link is None or link.lost else link)
            if self._closed.is_set():
                self.close()

    def close(self) -> None:
        """Close the connections: the idle ones now, those lent out when they come back."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:
                link = self._idle.get_nowait()
                if link is not None:
                    link.close()

    def _drop_idle(self) -> None:
        """Close the idle connections; new ones take their places."""
        idle: list[Link | None] = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for link in idle:
            if link is not None:
                link.close()
            self._idle.put(None)
