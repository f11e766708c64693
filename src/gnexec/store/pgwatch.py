"""Who listens for the commits of other processes: a thread with a connection of its own, opened again when lost.

It passes on that something happened, never what: whoever is woken reads the log's head.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gnexec.errors import GnexecError
from gnexec.store.pglink import Call, Link, Statement

PAUSE_S: Final = 0.02
"""After a wake, notifications are left to gather for this long: a busy neighbour costs fifty wakes a second, not a
thousand, and a quiet one is heard at once."""

SILENCE_S: Final = 10.0
"""After this long without a notification the server is asked whether it is still there."""

RETRY_S: Final = 0.5
"""Between attempts to connect."""

STILL_THERE: Final = Statement(b"still_there", b"SELECT 1")


class Watch:
    """The thread, from construction to `close`."""

    def __init__(
        self, connect: Callable[[], tuple[Link, str]], own: Callable[[int], bool], wake: Callable[[], None]
    ) -> None:
        """Start listening.

        Args:
            connect: opens a connection, and names the channel to listen on.
            own: tells by the process id of a notification's connection whether it is this process's own.
            wake: called as `gnexec.store.contract.Store.watch` says.
        """
        self._connect = connect
        self._own = own
        self._wake = wake
        self._stop = threading.Event()
        self._woken, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="gnexec-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; harmless when done twice."""
        if not self._stop.is_set():
            self._stop.set()
            os.write(self._waker, b"x")
            self._thread.join()
            os.close(self._woken)
            os.close(self._waker)

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(GnexecError):
                link, channel = self._connect()
                try:
                    self._listen(link, channel)
                finally:
                    link.close()
            self._stop.wait(RETRY_S)

    def _listen(self, link: Link, channel: str) -> None:
        """Wake for each notification, until told to stop.

        Raises:
            Lost: the connection is gone.
        """
        link.ask(Call(Statement(b"listen", f'LISTEN "{channel}"'.encode())))
        self._wake()  # what was committed before could not be heard
        poll = select.poll()
        poll.register(link.socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not self._stop.is_set():
            heard = link.notified_by()
            if not all(self._own(pid) for pid in heard):
                self._wake()
            if heard:
                self._stop.wait(PAUSE_S)
            elif not poll.poll(SILENCE_S * 1000):
                link.ask(Call(STILL_THERE))
