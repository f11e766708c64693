"""`gnexec serve`: keys, store and office opened, the door of HTTP held open until a signal comes."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import structlog
import uvicorn

from gnexec.desk.office import Office, open_office
from gnexec.errors import BadConfiguration, GnexecError
from gnexec.keys import ServerKeys, load, new_keys
from gnexec.settings import ServerSettings
from gnexec.store import open_store
from gnexec.web.app import make_app
from gnexec.web.protocol import PatientProtocol

log = structlog.get_logger("gnexec.serve")
SHUTDOWN_S = 10
KEEP_ALIVE_S = 75


def serve(settings: ServerSettings) -> None:
    """Serve until a signal comes.

    Raises:
        BadConfiguration: settings, keys, schema or log do not fit together.
    """
    set_up_log()
    keys = server_keys(settings)
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

    listening = _listen(settings.host, settings.port)
    config = uvicorn.Config(
        make_app(opened),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        http=PatientProtocol,
        ws="none",
    )
    server = _Server(config, settings, keys, offices)
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve([listening]))
    except (SystemExit, KeyboardInterrupt):
        if failure:
            raise failure[0] from None
        raise
    if failure:
        raise failure[0]


def set_up_log() -> None:
    """Write the operator's log to standard error, tracebacks without the values of variables: they may be tokens."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def server_keys(settings: ServerSettings) -> ServerKeys:
    """Load the server's keys; make them on first start.

    Raises:
        BadConfiguration: the origin asked for is not that of the keys, or a file cannot be used.
    """
    if not (settings.private_keys / "ring.json").exists():
        origin = settings.origin or f"{socket.gethostname()}/gnexec"
        new_keys(settings.private_keys, settings.data / "public", origin)
    keys = load(settings.private_keys)
    if settings.origin is not None and settings.origin != keys.origin:
        msg = f"The keys in {settings.private_keys} are of {keys.origin}, not of {settings.origin}: leave --origin out."
        raise BadConfiguration(msg)
    return keys


class _Server(uvicorn.Server):
    """Says where it listens, once it does; lets those go who wait for something, before it ends."""

    def __init__(
        self, config: uvicorn.Config, settings: ServerSettings, keys: ServerKeys, offices: list[Office]
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._keys = keys
        self._offices = offices

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started or not sockets:
            return
        host, port = sockets[0].getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"gnexec serves http://{host}:{port}/ as {self._keys.origin}", flush=True)  # noqa: T201 -- for the operator
        print(f"log key: {self._keys.log_verifier.vkey}", flush=True)  # noqa: T201
        if self._settings.open_mode:
            print(  # noqa: T201
                "OPEN MODE: anyone who reaches this address may hand in commands, run them and answer for them. "
                "Use it on a trusted network only.",
                flush=True,
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for office in self._offices:
            office.feed.wake_all()  # or they would hold the shutdown up until they are cut off
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
        listening.settimeout(0)
    except OSError as err:
        msg = f"Cannot listen on {host} port {port}: {err.strerror or err}. Give another --host or --port."
        raise BadConfiguration(msg) from err
    return listening
