"""Serving on a socket: keys, store and office opened, the door of HTTP held open until a signal comes.

For a single server (`gnexec.cli.serve`) and for each of several (`gnexec.cli.child`). It starts no other process.

Rules:
- What is wrong with settings, keys, schema or log is raised before anything is answered.
- The end comes in time: `SHUTDOWN_S` for requests, `CLOSE_S` for what is behind them. A process that a hanging store
  keeps for longer ends by force; nothing that was acknowledged is lost by it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import uvicorn

from gnexec.cli import TRY_LATER, notify
from gnexec.desk.office import Office, open_office
from gnexec.errors import BadConfiguration, GnexecError
from gnexec.keys import ServerKeys, load, new_keys
from gnexec.settings import LogFormat, ServerSettings
from gnexec.store import open_store
from gnexec.web.app import make_app
from gnexec.web.limits import make_lobby, raise_file_limit
from gnexec.web.protocol import PatientProtocol, tune
from gnexec.web.requestlog import RequestLog

log = structlog.get_logger("gnexec.serve")
SHUTDOWN_S: Final = 10
"""How long requests may take to end once a signal has come."""
CLOSE_S: Final = 10
"""How long desk and store may take to close after that."""
BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 75


def serve_on(
    settings: ServerSettings, keys: ServerKeys, listening: socket.socket, ready: Callable[[Office], None]
) -> None:
    """Serve on a bound socket until a signal comes; SIGTERM is the ordinary end.

    Args:
        settings: of this server; how many processes there are is no matter here.
        keys: its own.
        listening: bound; listens once the log is open, if it does not yet.
        ready: called once in the event loop, when requests are answered.

    Raises:
        BadConfiguration: settings, keys, schema or log do not fit together.
        KeyboardInterrupt: it was SIGINT.
    """
    # uvicorn raises the signal that ended it once more: what was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    store = open_store(settings.database_url, create=True)
    failure: list[GnexecError] = []
    offices: list[Office] = []

    async def opened() -> Office:
        try:
            offices.append(open_office(settings, keys, store))
        except GnexecError as err:
            failure.append(err)
            raise
        return offices[0]

    app = make_app(opened)
    lobby = make_lobby(settings.max_connections, settings.max_per_address, raise_file_limit())
    config = uvicorn.Config(
        RequestLog(app) if settings.log_requests else app,
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        http=partial(PatientProtocol, lobby=lobby),  # type: ignore[arg-type]  # called as a class would be
        ws="none",
    )
    server = _Server(config, offices, ready)
    logging.getLogger("uvicorn.error").addFilter(lambda _: not failure)  # why it does not start is told once, by us
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve([listening]))
    except (SystemExit, KeyboardInterrupt) as end:
        if failure:
            raise failure[0] from None
        if isinstance(end, KeyboardInterrupt) or end.code:
            raise
    if failure:
        raise failure[0]


def announce(settings: ServerSettings, keys: ServerKeys, listening: socket.socket) -> None:
    """Tell the operator where the server listens, and by which key its log is verified."""
    host, port = listening.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    lines = [f"gnexec serves http://{host}:{port}/ as {keys.origin}", f"log key: {keys.log_verifier.vkey}"]
    if settings.open_mode:
        lines.append(
            "OPEN MODE: anyone who reaches this address may hand in commands, run them and answer for them. "
            "Use it on a trusted network only."
        )
    for line in lines:
        if settings.log_format is LogFormat.JSON:
            log.info(line)
        else:
            print(line, flush=True)  # noqa: T201 -- for the operator
    notify.tell(notify.READY)


def server_keys(settings: ServerSettings) -> ServerKeys:
    """Load the server's keys; make them on first start.

    Raises:
        BadConfiguration: the origin asked for is not that of the keys, or a file cannot be used.
    """
    if not (settings.private_keys / "ring.json").exists():
        origin = settings.origin or f"{socket.gethostname()}/gnexec"
        new_keys(settings.private_keys, settings.data / "public", origin, now_s=int(time.time()))
    keys = load(settings.private_keys)
    if settings.origin is not None and settings.origin != keys.origin:
        msg = f"The keys in {settings.private_keys} are of {keys.origin}, not of {settings.origin}: leave --origin out."
        raise BadConfiguration(msg)
    return keys


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket that has the address, and does not listen yet.

    Args:
        host: name or address.
        port: 0 takes a free one.
        shared: let other processes of this user have it as well: the kernel spreads connections over those that listen.

    Raises:
        BadConfiguration: the address cannot be had.
    """
    bound: socket.socket | None = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        tune(bound)
        bound.bind((host, port))
        bound.settimeout(0)
    except OSError as err:
        if bound is not None:
            bound.close()
        msg = f"Cannot listen on {host} port {port}: {err.strerror or err}. Give another --host or --port."
        raise BadConfiguration(msg) from err
    return bound


class _Server(uvicorn.Server):
    """Says when it serves; lets those go who wait for something, before it ends."""

    def __init__(self, config: uvicorn.Config, offices: list[Office], ready: Callable[[Office], None]) -> None:
        super().__init__(config)
        self._offices = offices
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready(self._offices[0])
            self._alive = asyncio.create_task(notify.stay_alive())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        lifeline = threading.Timer(SHUTDOWN_S + CLOSE_S, _end_by_force)
        lifeline.daemon = True
        lifeline.start()
        for office in self._offices:
            office.feed.wake_all()  # or they would hold the shutdown up until they are cut off
        await super().shutdown(sockets)


def _end_by_force() -> None:
    """End a process that something holds up, most likely a store that does not answer."""
    log.error("the server did not end in time and ends by force", waited_s=SHUTDOWN_S + CLOSE_S)
    os._exit(TRY_LATER)
