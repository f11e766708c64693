"""Bring a database's schema to the form this program needs, and refuse to serve with any other.

The migrations are the files of `alembic/versions/`, run from a checkout or from inside the installed package. Each run
is one transaction, so a database is at one revision or the next, never between. Nothing here migrates by surprise: only
`upgrade` does, and `open_store(create=True)` for a database that has no table at all. Of several processes that do so
at once over PostgreSQL, one does it and the others find it done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from gnexec.errors import BadConfiguration, StoreAway
from gnexec.store.connections import connect
from gnexec.store.lockfile import LockFile
from gnexec.store.pgaddress import PgAddress, is_postgres
from gnexec.store.pgkeys import NO_SERVER, ONE_AT_A_TIME

MEND: Final = "Run `gnexec db upgrade`."

POSTGRES_SETTINGS: Final = (
    # Whatever is the default of a role or a database: a migration may take its time, but waits for nobody for ever.
    "SET statement_timeout = 0",
    "SET lock_timeout = '60s'",
    "SET idle_in_transaction_session_timeout = 0",
    "SET default_transaction_read_only = off",
    "SET default_transaction_isolation = 'read committed'",
    "SET synchronous_commit = on",
)


def script_location() -> Path:
    """Return the folder of the migrations: `gnexec/_alembic` when installed, `alembic/` in a checkout.

    Raises:
        BadConfiguration: there is neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_alembic", package.parents[1] / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    msg = f"The migrations are not in {package}: this copy of gnexec is incomplete. Install it again."
    raise BadConfiguration(msg)


def head() -> str:
    """Return the revision that this program needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        msg = f"There is no migration in {script_location()}. Install gnexec again."
        raise BadConfiguration(msg)
    return revision


def current(url: str) -> str | None:
    """Return the revision that the database at `url` is at, or None for one without a schema or that is not there.

    Raises:
        BadConfiguration: the address or the file is not usable.
    """
    if is_postgres(url):
        with connected_postgres(PgAddress.parse(url)) as connection:
            return _revision(connection)
    database = sqlite_path(url)
    if not database.exists():
        return None
    with connected(database, mode="ro") as connection:
        return _revision(connection)


def check(url: str) -> None:
    """Make sure that the database at `url` is at the revision that this program needs.

    Raises:
        BadConfiguration: it is not; says how to mend it.
    """
    _check(current(url))


def upgrade(url: str) -> None:
    """Bring the database at `url` to this program's revision; make it if it is not there. Harmless when at head.

    Raises:
        BadConfiguration: it is in use by a server, comes from a newer program, or is not usable.
    """
    if is_postgres(url) and current(url) == head():
        return  # servers may be at work
    with writing(url) as connection:
        if is_postgres(url):
            _refuse_newer(_revision(connection))
            with connection.begin():
                _run_migrations(connection)
        else:
            _upgrade(connection)


def prepare_postgres(address: PgAddress, *, create: bool) -> None:
    """Make sure that a PostgreSQL database is at head; make the schema if it has no table at all.

    Args:
        address: of the database, which must be there.
        create: as for `prepare`.

    Raises:
        BadConfiguration: it is not at head, or not usable.
        StoreAway: no answer.
    """
    with connected_postgres(address) as connection:
        revision = _revision(connection)
        if create and revision is None:
            with connection.begin():
                connection.exec_driver_sql(ONE_AT_A_TIME)
                if not inspect(connection).get_table_names():
                    _run_migrations(connection)
            revision = _revision(connection)
        _check(revision)


def prepare(database: Path, *, create: bool) -> None:
    """Make sure that a SQLite file that the caller owns is at head; make file and schema if it has no table at all.

    Args:
        database: the file.
        create: allows the making; without it, and for any schema that is there, this only checks.

    Raises:
        BadConfiguration: it is not at head, or not usable.
    """
    with connected(database, mode="rwc" if create else "rw") as connection:
        if create and not inspect(connection).get_table_names():
            _upgrade(connection)
        _check(_revision(connection))


@contextmanager
def writing(url: str) -> Iterator[Connection]:
    """Connect to the database at `url`, alone: no server has it open meanwhile.

    Raises:
        BadConfiguration: it is in use, or not usable.
    """
    if is_postgres(url):
        address = PgAddress.parse(url)
        with connected_postgres(address) as connection:
            _refuse_servers(connection, address)
            yield connection
        return
    database = sqlite_path(url)
    with LockFile(database), connected(database, mode="rwc") as connection:
        yield connection


@contextmanager
def connected(database: Path, *, mode: str) -> Iterator[Connection]:
    """Connect SQLAlchemy to a SQLite file, in autocommit mode.

    Args:
        database: the file.
        mode: "ro", "rw", or "rwc", which makes the file, readable by its owner only.

    Raises:
        BadConfiguration: the file is not there, may not be opened, or is no database.
    """
    if mode == "rwc":
        _make(database)
        mode = "rw"
    engine = create_engine(
        "sqlite://", creator=lambda: connect(database, mode=mode), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    try:
        with engine.connect() as connection:
            yield connection
    except DatabaseError as err:
        msg = f"{database} cannot be used as a database: {err.orig}."
        raise BadConfiguration(msg) from err
    finally:
        engine.dispose()


def shown(url: str) -> str:
    """Return an address as messages may show it: without a password."""
    return PgAddress.parse(url).shown if is_postgres(url) else url


@contextmanager
def connected_postgres(address: PgAddress) -> Iterator[Connection]:
    """Connect SQLAlchemy to a PostgreSQL database.

    Raises:
        BadConfiguration: it refuses, or does not do as it is told.
        StoreAway: no answer.
    """
    from gnexec.store.pglink import connect_driver  # noqa: PLC0415 - an extra

    engine = create_engine("postgresql+psycopg://", creator=lambda: connect_driver(address), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            for setting in POSTGRES_SETTINGS:
                connection.exec_driver_sql(setting)
            connection.commit()
            yield connection
    except OperationalError as err:
        msg = f"{address.shown}: {' '.join(str(err.orig).split())}"
        raise StoreAway(msg) from err
    except DatabaseError as err:
        msg = f"{address.shown} does not allow what is needed: {' '.join(str(err.orig).split())}."
        raise BadConfiguration(msg) from err
    finally:
        engine.dispose()


def sqlite_path(url: str) -> Path:
    """Return the file that a `sqlite:///FILE` address names; FILE is taken as it stands, nothing in it is escaped.

    Raises:
        BadConfiguration: it is no such address, or one with options.
    """
    scheme, _, file = url.partition(":///")
    if scheme != "sqlite" or not file or "?" in file or file.startswith((":", "file:")):
        # An address may hold a password: only its scheme is shown.
        msg = (
            f"An address that begins with {url.partition(':')[0]!r} is not one of a store here. "
            f"Give sqlite:///FILE, or sqlite:////FILE from the root folder, without options."
        )
        raise BadConfiguration(msg)
    return Path(file)


def _make(database: Path) -> None:
    """Make an empty file, which SQLite takes for an empty database, and make its name durable."""
    try:
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        folder = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        msg = f"{database} cannot be made: {err.strerror}."
        raise BadConfiguration(msg) from err
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _upgrade(connection: Connection) -> None:
    """Run the migrations that a SQLite file misses, in one transaction.

    Alembic takes SQLite's DDL for untransactional, as it is in the Python driver's own transactions; this one is begun
    explicitly, and then SQLite's DDL rolls back like anything else.
    """
    _refuse_newer(_revision(connection))
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        _run_migrations(connection)
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _run_migrations(connection: Connection) -> None:
    """Run the migrations that are missing, in the transaction that the caller has begun."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _refuse_servers(connection: Connection, address: PgAddress) -> None:
    """Make sure that no server has the log open, and keep any from opening it for as long as the connection lasts."""
    (alone,) = connection.exec_driver_sql(NO_SERVER).one()
    connection.rollback()
    if not alone:
        msg = f"{address.shown} is in use by a server. Stop all servers first."
        raise BadConfiguration(msg)


def _revision(connection: Connection) -> str | None:
    revision = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    return revision


def _check(revision: str | None) -> None:
    _refuse_newer(revision)
    if revision != head():
        msg = f"The database's schema is at {revision or 'nothing'}, this gnexec needs {head()}. {MEND}"
        raise BadConfiguration(msg)


def _refuse_newer(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        msg = f"The database's schema is at {revision}, which this gnexec does not know. Use the gnexec that made it."
        raise BadConfiguration(msg)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
