"""Where the log is kept: one contract (`contract`), in memory, a SQLite file or PostgreSQL; and blobs beside it."""

from __future__ import annotations

from typing import Final

from gnexec.store.contract import LogReader, Store
from gnexec.store.live import Live, MemoryLive
from gnexec.store.pgaddress import PgAddress, is_postgres

IN_MEMORY: Final = "memory://"
"""Address of a log that ends with its process, and that no other can see."""


def open_store(url: str, *, create: bool) -> Store:
    """Open the store at `url`.

    Args:
        url: `memory://`, a new and empty log that ends with the process; `sqlite:///FILE`, for one process; or
            `postgresql://…`, for any number of them.
        create: make a SQLite file, and the schema where there is none. A schema that is there is never changed.

    Raises:
        BadConfiguration: an address that is none of these, a database in use, or a schema that is not at head.
        CorruptLog: the log contradicts its head.
        StoreAway: no answer.
    """
    if url == IN_MEMORY:
        from gnexec.store.memory import MemoryStore  # noqa: PLC0415 - SQLite's users need not load it, nor the reverse

        return MemoryStore()
    if is_postgres(url):
        PgAddress.parse(url)  # says what is missing where there is no driver
        from gnexec.store.postgres import PostgresStore  # noqa: PLC0415 - its driver is an extra

        return PostgresStore(url, create=create)
    from gnexec import migrate  # noqa: PLC0415 - SQLAlchemy takes a quarter of a second, and only servers need it
    from gnexec.store.sqlite import SqliteStore  # noqa: PLC0415 - as above

    return SqliteStore(migrate.sqlite_path(url), create=create)


def open_reader(url: str) -> LogReader:
    """Open the log at `url` for reading, beside the servers that append to it.

    Args:
        url: as `open_store` takes it; not `memory://`, which no other process can see.

    Raises:
        BadConfiguration: there is no such database, or its schema is not at head.
        StoreAway: no answer.
    """
    from gnexec import migrate  # noqa: PLC0415 - as above

    if is_postgres(url):
        PgAddress.parse(url)
        from gnexec.store.pgreading import PostgresReader  # noqa: PLC0415 - as above

        return PostgresReader(url)
    from gnexec.store.reading import SqliteReader  # noqa: PLC0415 - as above

    return SqliteReader(migrate.sqlite_path(url))


def open_live(url: str) -> Live:
    """Return what running attempts tell of themselves, shared by the servers over the store at `url`.

    Args:
        url: as `open_store` takes it.

    Raises:
        BadConfiguration: a PostgreSQL address that cannot be understood.
    """
    if not is_postgres(url):
        return MemoryLive()
    from gnexec import migrate  # noqa: PLC0415 - as above
    from gnexec.store.pglive import PostgresLive  # noqa: PLC0415 - as above

    return PostgresLive(PgAddress.parse(url), migrate.head())
