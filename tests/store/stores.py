"""The stores that the conformance suite runs over, and what the suite fills them with."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from gnexec.store.clock import wall_ms
from gnexec.store.contract import Append, Content, Entry, Store
from gnexec.store.memory import Fault, MemoryStore
from gnexec.store.pglink import Call, Link, Lost
from gnexec.store.postgres import PostgresStore
from gnexec.store.sqlite import SqliteStore
from tests.databases import shared


class FaultySqliteStore(SqliteStore):
    """A SQLite store whose commits fail as told, in the two ways of `Fault`."""

    def __init__(
        self,
        database: Path,
        *,
        create: bool = False,
        faults: Iterable[Fault | None] = (),
        clock_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._faults = iter(faults)
        super().__init__(database, create=create, clock_ms=clock_ms)

    def _commit(self, db: sqlite3.Connection) -> None:
        fault = next(self._faults, None)
        if fault is not Fault.FAILED:
            super()._commit(db)
        if fault is not None:
            msg = "disk I/O error"
            raise sqlite3.OperationalError(msg)


class FaultyPostgresStore(PostgresStore):
    """A PostgreSQL store whose commits fail as told, in the two ways of `Fault`."""

    def __init__(
        self,
        url: str,
        *,
        create: bool = False,
        faults: Iterable[Fault | None] = (),
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self._faults = iter(faults)
        super().__init__(url, create=create, clock_ms=clock_ms)

    def _commit(self, link: Link, rest: list[Call]) -> None:
        fault = next(self._faults, None)
        if fault is not Fault.FAILED:
            super()._commit(link, rest)
        if fault is not None:
            msg = "the network went away"
            raise Lost(msg)


class Make(Protocol):
    """Makes a new and empty store that fails at its commits as told."""

    def __call__(self, *, faults: Iterable[Fault | None] = (), clock_ms: Callable[[], int] = wall_ms) -> Store:
        """Make one."""
        ...


def memory(_folder: Path, _stack: ExitStack) -> Make:
    """Say how a store in memory is made."""
    return MemoryStore


def sqlite(folder: Path, _stack: ExitStack) -> Make:
    """Say how a store in a file of `folder` is made."""

    def make(*, faults: Iterable[Fault | None] = (), clock_ms: Callable[[], int] = wall_ms) -> Store:
        return FaultySqliteStore(folder / "log.db", create=True, faults=faults, clock_ms=clock_ms)

    return make


def postgres(_folder: Path, stack: ExitStack) -> Make:
    """Say how a store in a new database is made, which is dropped with `stack`."""
    url = stack.enter_context(shared().database())

    def make(*, faults: Iterable[Fault | None] = (), clock_ms: Callable[[], int] | None = None) -> Store:
        return FaultyPostgresStore(url, create=True, faults=faults, clock_ms=clock_ms)

    return make


STORES: Final[dict[str, Callable[[Path, ExitStack], Make]]] = {"memory": memory, "sqlite": sqlite, "postgres": postgres}
"""Every store passes the same suite: a new one is a line here."""


def entry(seq: int, *, size: int = 100) -> Entry:
    """Return the entry that tests put at `seq`: anyone can tell from `seq` what must be there."""
    seed = b"%d" % seq
    return Entry(b"leaf %d" % seq, hashlib.sha256(seed).digest()[:16], hashlib.shake_128(seed).digest(size))


def note(size: int) -> bytes:
    """Return what tests put in the place of the signed checkpoint of `size`."""
    return b"gnexec.test/log\n%d\n" % size


def grow(start: int, count: int, *keys: bytes) -> Append:
    """Return `count` entries for a log of `start`, each filed under all `keys`."""
    seqs = range(start, start + count)
    return Append([entry(seq) for seq in seqs], [(key, seq) for seq in seqs for key in keys], [], note(start + count))


def fill(store: Store, count: int, *keys: bytes) -> None:
    """Append `count` entries in one batch, each filed under all `keys`."""
    with store.batch() as batch:
        batch.append(grow(batch.head().size, count, *keys))


def content(data: bytes) -> Content:
    """Return `data` as content, with a salt made from it."""
    salt = hashlib.md5(data, usedforsecurity=False).digest()
    return Content(hashlib.sha256(salt + data).digest(), salt, data)
