"""`gnexec serve --processes N`: a supervisor, and N servers over one database and one address.

Each child is a whole server in a fresh process (`gnexec.cli.child`); none leads. The supervisor opens neither the log
nor the database, and answers no request: it starts children, starts those again that die, and hands signals on.

Rules:
- The first child goes ahead: what is wrong with settings, keys or database is told once, and ends the command. The
  others start when it serves, and the address is told when they do.
- Every child has a listening socket of its own on the shared address (SO_REUSEPORT), from when it is ready until it
  ends: the kernel spreads connections evenly, and none waits for a child that is down.
- A child that dies is started again at once; one that keeps dying, after ever longer pauses.
- A child that is silent for `SILENT_S` hangs, and is killed.
- A child whose writer has ended for good (the log has what it cannot read) is ended while another one serves, so that
  it has no share of the connections, and started again. The last one stays, and answers that it is unready, and why.
- A child reads its orders from a pipe that the supervisor holds open: when it closes, the supervisor is gone, however
  it went, and the child ends as on SIGTERM.
- The end comes in time: children that have not ended after `END_S` are killed, as they all are at a second signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir
from typing import Final

import psutil
import structlog

from gnexec.cli import notify
from gnexec.cli.child import BROKEN, READY, Orders
from gnexec.cli.listening import CLOSE_S, SHUTDOWN_S, announce, bind, server_keys
from gnexec.desk import meters
from gnexec.errors import BadConfiguration
from gnexec.keys import ServerKeys
from gnexec.settings import ServerSettings
from gnexec.store.pgaddress import is_postgres

log = structlog.get_logger("gnexec.serve")

CHILD: Final = (sys.executable, "-m", "gnexec.cli.child")
END_S: Final = SHUTDOWN_S + CLOSE_S + 5
"""A child that was told to end is killed after this long."""
SILENT_S: Final = 60.0
"""A child that serves and is not heard for this long is killed."""
MISSED: Final = 2
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
WELL_S: Final = 60.0
"""A child that lived this long died of something new: the pauses begin anew."""


def supervise(settings: ServerSettings) -> int:
    """Serve with several processes until a signal comes; return the exit status.

    Raises:
        BadConfiguration: the database is of one process, or the address cannot be had.
        KeyboardInterrupt: it was SIGINT.
    """
    if not is_postgres(settings.database_url):
        msg = (
            f"The database serves one process, and {settings.processes} were asked for: "
            "give --database postgresql://…, or leave --processes out."
        )
        raise BadConfiguration(msg)
    keys = server_keys(settings)
    _tidy()
    with (
        reserve(settings.host, settings.port) as address,
        TemporaryDirectory(prefix=f"{_METRICS}{os.getpid()}-") as metrics,
    ):
        port = address.getsockname()[1]
        supervisor = Supervisor(replace(settings, port=port), keys, address, metrics)
        return asyncio.run(supervisor.run())


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that keeps the address for the children, and never listens itself.

    Raises:
        BadConfiguration: somebody listens there, or the address cannot be had.
    """
    with bind(host, port) as free:  # a shared bind alone would not notice another server of this user
        port = free.getsockname()[1]
    return bind(host, port, shared=True)


_METRICS: Final = "gnexec-metrics-"
"""Folders in which children count together: behind it stands the process that made one."""


def _tidy() -> None:
    """Remove what supervisors that were killed have left behind."""
    for folder in Path(gettempdir()).glob(f"{_METRICS}*-*"):
        number = folder.name.removeprefix(_METRICS).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            rmtree(folder, ignore_errors=True)


class Supervisor:
    """Keeps the children alive until it is told to end."""

    def __init__(self, settings: ServerSettings, keys: ServerKeys, address: socket.socket, metrics: str) -> None:
        """Prepare; `run` starts the children.

        Args:
            settings: of each child; the port is the real one.
            keys: for the announcement.
            address: keeps the address for the children.
            metrics: folder in which children count together.
        """
        self._settings = settings
        self._keys = keys
        self._address = address
        self._metrics = metrics
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._well: set[int] = set()
        self._broken: set[int] = set()
        self._serving = asyncio.Event()
        self._begun = {number: asyncio.Event() for number in range(1, settings.processes + 1)}
        self._ending = asyncio.Event()
        self._interrupted = False
        self._status = 0

    async def run(self) -> int:
        """Run until a signal comes, or the first child fails; return the exit status.

        Raises:
            KeyboardInterrupt: it was SIGINT.
        """
        loop = asyncio.get_running_loop()
        for told in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(told, self._told_to_end, told)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end())
            group.create_task(self._keep(1))
            await _first(self._serving, self._ending)
            if self._serving.is_set():
                for number in range(2, self._settings.processes + 1):
                    group.create_task(self._keep(number))
                group.create_task(self._announce())
        if self._interrupted:
            raise KeyboardInterrupt
        return self._status

    async def _announce(self) -> None:
        """Tell the address once every child serves, or has failed to: who comes then finds all of them."""
        for begun in self._begun.values():
            await _first(begun, self._ending)
        if self._ending.is_set():
            return
        announce(self._settings, self._keys, self._address)
        alive = asyncio.create_task(notify.stay_alive())
        await self._ending.wait()
        alive.cancel()

    def _told_to_end(self, number: int) -> None:
        if self._ending.is_set():
            self._kill()
        self._interrupted |= number == signal.SIGINT
        self._ending.set()

    async def _keep(self, number: int) -> None:
        """Start a child, and again whenever it dies, until all are to end."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._ending.is_set():
            begun = loop.time()
            status = await self._live(number)
            if self._ending.is_set():
                return
            if not self._serving.is_set():
                self._status = status if status > 0 else 1
                self._ending.set()
                return
            if loop.time() - begun > WELL_S:
                pause_s = FIRST_PAUSE_S
            log.error("a process died and is started again", process=number, status=status, in_s=pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _live(self, number: int) -> int:
        """Start a child and wait for its end; return its exit status, negative for a signal."""
        child = await asyncio.create_subprocess_exec(
            *CHILD,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            process_group=0,  # a terminal's interrupt comes here first, and goes on from here
            env=os.environ | {meters.FOLDER: self._metrics},
        )
        assert child.stdin is not None  # noqa: S101 -- asked for
        assert child.stdout is not None  # noqa: S101 -- asked for
        self._running[number] = child
        try:
            if self._ending.is_set():
                child.terminate()
            with suppress(ConnectionError):
                child.stdin.write(Orders(number, self._settings).encode() + b"\n")
                await child.stdin.drain()
            if await child.stdout.readline() == READY:
                log.info("a process serves", process=number, pid=child.pid)
                self._serving.set()
                self._well.add(number)
                self._end_broken()
            self._begun[number].set()
            await self._listen(number, child, child.stdout)
            return await child.wait()
        finally:
            del self._running[number]
            self._well.discard(number)
            self._broken.discard(number)
            meters.forget(number, self._metrics)

    async def _listen(self, number: int, child: asyncio.subprocess.Process, said: asyncio.StreamReader) -> None:
        """Hear how a child is until it says no more; kill it if it hangs.

        It is missed twice, each time for half as long: once only, and it is this process that stood still.
        """
        missed = 0
        while missed < MISSED:
            try:
                line = await asyncio.wait_for(said.readline(), SILENT_S / MISSED)
            except TimeoutError:
                missed += 1
                continue
            missed = 0
            if not line:
                return
            if line == BROKEN and number in self._well:
                log.error("a process cannot go on with the log", process=number)
                self._well.discard(number)
                self._broken.add(number)
                self._end_broken()
        log.error("a process hangs and is killed", process=number, silent_s=SILENT_S)
        with suppress(ProcessLookupError):
            child.kill()

    def _end_broken(self) -> None:
        """End the children whose writer has ended, if there is one that serves instead."""
        while self._well and self._broken:
            number = self._broken.pop()
            log.warning("a process is ended, since others serve", process=number)
            with suppress(ProcessLookupError):
                self._running[number].terminate()

    async def _end(self) -> None:
        """Wait until all are to end, tell them, and see to it that they do."""
        await self._ending.wait()
        self._address.close()
        for child in self._running.values():
            with suppress(ProcessLookupError):
                child.terminate()
        deadline = asyncio.get_running_loop().time() + END_S
        while self._running and asyncio.get_running_loop().time() < deadline:
            waiting = [asyncio.ensure_future(child.wait()) for child in self._running.values()]
            await asyncio.wait(waiting, timeout=deadline - asyncio.get_running_loop().time())
            await asyncio.sleep(0)
        if self._running:
            log.error("processes did not end in time and are killed", processes=sorted(self._running))
            self._kill()

    def _kill(self) -> None:
        for child in self._running.values():
            with suppress(ProcessLookupError):
                child.kill()


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
