"""What is measured in this process: appending without a server, signatures.

The rows that are appended are as long as those of real logs, and stand for nothing. "The plain driver" writes the same
rows in groups of the same size into one table, in the same durability, and nothing else: it is what the database and
the disk allow. The store writes refs, tiles and the signed head with them.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec import ed25519
from gnexec.bench import databases
from gnexec.bench.figures import Sample
from gnexec.bench.goals import GROUPS
from gnexec.bench.stations import Measurement, Plan
from gnexec.core.refs import digest_key, job_key
from gnexec.store import open_store
from gnexec.store.contract import Append, Entry, Store
from gnexec.tlog.tiles import TILE_WIDTH, Tile

LEAF_BYTES, SALT_BYTES, PAYLOAD_BYTES, NOTE_BYTES = 97, 16, 647, 180
"""As long as those of a log of single results, on average."""
SHARE = 0.2
"""Part of a measurement's time that each group size, or kind of signature, gets."""
MESSAGE = b"x" * 600
"""As long as a result's statement."""

ENTRIES = [
    Entry(secrets.token_bytes(LEAF_BYTES), secrets.token_bytes(SALT_BYTES), secrets.token_bytes(PAYLOAD_BYTES))
    for _ in range(max(GROUPS))
]
ROWS = [(each.leaf, each.salt, each.payload) for each in ENTRIES]


class Appender:
    """Appends to a store, and remembers how far it is."""

    def __init__(self, store: Store) -> None:
        """Begin with an empty log."""
        self._store = store
        self.size = 0

    def append(self, group: int) -> None:
        """Commit one batch of `group` entries, each with a ref in order and one in none."""
        start, stop = self.size, self.size + group
        refs = [(key, seq) for seq in range(start, stop) for key in (job_key(seq), _random_key())]
        full = range(start // TILE_WIDTH, stop // TILE_WIDTH)
        tiles = [Tile(0, index, bytes(32 * TILE_WIDTH)) for index in full]
        with self._store.batch() as batch:
            batch.append(Append(ENTRIES[:group], refs, tiles, bytes(NOTE_BYTES)))
        self.size = stop


def _random_key() -> bytes:
    return digest_key("bench", secrets.token_hex(32))


@asynccontextmanager
async def sqlite_appends(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer appends to SQLite."""
    folder = plan.folder / "appends"
    folder.mkdir()
    with closing(open_store(f"sqlite:///{folder / 'store.sqlite'}", create=True)) as store, _raw_sqlite(folder) as raw:
        yield _appends("sqlite", Appender(store).append, raw, plan.seconds * SHARE)


@asynccontextmanager
async def postgres_appends(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer appends to PostgreSQL."""
    with databases.postgres(plan.database) as url, ExitStack() as stack:
        store = stack.enter_context(closing(open_store(url, create=True)))
        raw = stack.enter_context(_raw_postgres(url))
        yield _appends("pg", Appender(store).append, raw, plan.seconds * SHARE)


def _appends(
    name: str, ours: Callable[[int], None], raw: Callable[[int], None], seconds: float
) -> Mapping[str, Measurement]:
    """Name the measurements of both ways, for each size of group."""

    def measurement(append: Callable[[int], None], group: int) -> Measurement:
        async def measured() -> Sample:
            return _repeated(lambda: append(group), seconds, group)

        return Measurement(measured, os.getpid())

    ways = (("raw", raw), ("store", ours))
    return {f"{name}-{way}-{group}": measurement(append, group) for group in GROUPS for way, append in ways}


@contextmanager
def _raw_sqlite(folder: Path) -> Iterator[Callable[[int], None]]:
    db = sqlite3.connect(folder / "raw.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, leaf BLOB, salt BLOB, payload BLOB)")
    seqs = count()

    def append(group: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", [(next(seqs), *row) for row in ROWS[:group]])
        db.execute("COMMIT")

    yield append
    db.close()


@contextmanager
def _raw_postgres(url: str) -> Iterator[Callable[[int], None]]:
    import psycopg

    with psycopg.connect(url, prepare_threshold=0) as db:
        db.execute("CREATE SCHEMA plain")
        db.execute("CREATE TABLE plain.entries (seq int8 PRIMARY KEY, leaf bytea, salt bytea, payload bytea)")
        db.commit()
        seqs = count()
        insert = "INSERT INTO plain.entries SELECT * FROM unnest(%b::int8[], %b::bytea[], %b::bytea[], %b::bytea[])"
        columns = [list(column) for column in zip(*ROWS, strict=True)]

        def append(group: int) -> None:
            db.execute(insert, ([next(seqs) for _ in range(group)], *(column[:group] for column in columns)))
            db.commit()

        yield append


@asynccontextmanager
async def growth(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer appending to a log of one size, then to the same one when it has grown to another."""
    folder = plan.folder / "growth"
    folder.mkdir()
    small, large = plan.growth
    window, group = max(small // 5, 1), 128
    with closing(open_store(f"sqlite:///{folder / 'store.sqlite'}", create=True)) as store:
        appender = Appender(store)

        def at(size: int) -> Measurement:
            async def measured() -> Sample:
                plan.tell(f"a log grows to {size:,} entries")
                while appender.size + group < size - window:
                    appender.append(group)
                first, began = appender.size, time.perf_counter()
                while appender.size < size:
                    appender.append(group)
                return Sample(appender.size - first, time.perf_counter() - began)

            return Measurement(measured, os.getpid())

        yield {"append-small": at(small), "append-large": at(large)}


@asynccontextmanager
async def signatures(plan: Plan) -> AsyncIterator[Mapping[str, Measurement]]:
    """Offer Ed25519 by OpenSSL, and as gnexec does it."""
    key = Ed25519PrivateKey.generate()
    public, signature = key.public_key(), key.sign(MESSAGE)

    def ours() -> None:
        if not ed25519.verifies(public, signature, MESSAGE):
            raise InvalidSignature

    ways: dict[str, Callable[[], object]] = {
        "openssl-sign": lambda: key.sign(MESSAGE),
        "sign": lambda: ed25519.sign(key, MESSAGE),
        "openssl-verify": lambda: public.verify(signature, MESSAGE),
        "verify": ours,
    }

    def measurement(way: Callable[[], object]) -> Measurement:
        async def measured() -> Sample:
            return _repeated(way, plan.seconds * SHARE, 1)

        return Measurement(measured, os.getpid())

    yield {name: measurement(way) for name, way in ways.items()}


def _repeated(act: Callable[[], object], seconds: float, each: int) -> Sample:
    """Do something again and again for some seconds, at least once."""
    began = time.perf_counter()
    done = 0
    while True:
        act()
        done += each
        wall_s = time.perf_counter() - began
        if wall_s >= seconds:
            return Sample(done, wall_s)
