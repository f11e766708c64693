"""The tables of a log store, in SQLAlchemy Core: the one description that migrations are compared with.

It says what is stored, not how: each store writes its own SQL for the paths that must be fast. There is no object
mapper. A change here needs a new file in `alembic/versions/`; a test compares the two.

Rules:
- `entries`, `head` and `contents` are the truth (the log, and what it names). `refs` and `tiles` follow from the log.
- The database never gives out a seq: sequences leave gaps and invert the order of commits.
- `refs` and `grants` are their own primary key, so they are stored in that order and need no second index.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import DDL, BigInteger, CheckConstraint, Column, Integer, LargeBinary, MetaData, Table, Text, event

metadata: Final = MetaData()

Counter: Final = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere. SQLite takes a key as its row id only where the type is spelt INTEGER."""

entries: Final = Table(
    "entries",
    metadata,
    Column("seq", Counter, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
"""The log: row `seq` is leaf `seq` of the tree."""

head: Final = Table(
    "head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="head_is_one_row"), primary_key=True),
    Column("size", Counter, nullable=False),
    Column("note", LargeBinary, nullable=False),
)
"""One row, made by the migration: the log's size and its signed checkpoint."""

tiles: Final = Table(
    "tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("idx", Counter, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
"""Full tiles of 8,192 bytes; too wide to be worth keeping inside an index."""

refs: Final = Table(
    "refs",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("seq", Counter, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
"""Where to find entries again: a cache."""

contents: Final = Table(
    "contents",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
"""What may be erased."""

grants: Final = Table(
    "grants",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    sqlite_with_rowid=False,
)
"""Who has shown that it holds which blob."""

pulse: Final = Table(
    "pulse",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="pulse_is_one_row"), primary_key=True),
    Column("at_ms", Counter, nullable=False),
)
"""At most one row: when a server was last known to be alive."""

live: Final = Table(
    "live",
    metadata,
    Column("job", Counter, primary_key=True, autoincrement=False),
    Column("attempt", Counter, primary_key=True, autoincrement=False),
    Column("progress_ppm", Counter, nullable=False),
    Column("cpu_ms", Counter, nullable=False),
    Column("heard_ms", Counter, nullable=False),
)
"""How running attempts go; used on PostgreSQL, where it is unlogged. No truth, and no cache of it either."""

live_output: Final = Table(
    "live_output",
    metadata,
    Column("job", Counter, primary_key=True, autoincrement=False),
    Column("attempt", Counter, primary_key=True, autoincrement=False),
    Column("start", Counter, primary_key=True, autoincrement=False),
    Column("heard_ms", Counter, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
"""The newest parts of what running attempts wrote, as `live`."""


for _large in (entries.c.payload, tiles.c.data, contents.c.data):
    # PostgreSQL would compress values of more than 2 kB, which takes longer than writing them.
    _plain = f"ALTER TABLE {_large.table.name} ALTER COLUMN {_large.name} SET STORAGE EXTERNAL"
    event.listen(_large.table, "after_create", DDL(_plain).execute_if(dialect="postgresql"))  # type: ignore[no-untyped-call]
