"""The logs that the servers of these tests are opened over: an empty one in memory, or in a real PostgreSQL.

A database is made once and emptied for the next server, as making one takes PostgreSQL half a second. Nothing else is
the test's: a server over PostgreSQL has the product's own store, address and live reports, and only its clock is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Final, NamedTuple, TypeAlias

import psycopg
from psycopg import sql

from gnexec.store import schema
from gnexec.store.contract import Store
from gnexec.store.memory import MemoryStore
from gnexec.store.postgres import PostgresStore
from tests.databases import shared


class Log(NamedTuple):
    """An empty log, open.

    Attributes:
        store: holds it.
        settings: what a server's settings say of it.
    """

    store: Store
    settings: dict[str, str]


Logs: TypeAlias = Callable[[Callable[[], int]], AbstractContextManager[Log]]
"""Lends a log whose clock tells milliseconds since 1970 as it is told."""

_free: Final[list[str]] = []
"""Databases that no server uses, as the last one left them."""


@contextmanager
def in_memory(clock_ms: Callable[[], int]) -> Iterator[Log]:
    """Lend a log in this process."""
    with closing(MemoryStore(clock_ms=clock_ms)) as store:
        yield Log(store, {})


@contextmanager
def in_postgresql(clock_ms: Callable[[], int]) -> Iterator[Log]:
    """Lend a log in a database of the server that all tests of this process share."""
    url = _emptied(_free.pop()) if _free else shared().new_database()
    with closing(PostgresStore(url, create=True, clock_ms=clock_ms)) as store:
        yield Log(store, {"database": url})
    _free.append(url)


def over(store: Store) -> Logs:
    """Lend a store of the test's own, with a clock of the test's own."""

    @contextmanager
    def lend(_: Callable[[], int]) -> Iterator[Log]:
        yield Log(store, {})

    return lend


def _emptied(url: str) -> str:
    """Bring a database to where it was made, once the last server's connections are gone."""
    with psycopg.connect(url, autocommit=True) as db:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while db.execute(f"{others} AND backend_type = 'client backend'").fetchone() != (0,):
            time.sleep(0.001)
        with db.transaction():
            for table in set(schema.metadata.tables) - {schema.head.name}:
                db.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
            db.execute("UPDATE head SET size = 0, note = ''")
    return url
