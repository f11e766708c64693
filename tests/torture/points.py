"""The table of points at which a process is killed: name, where, and what must hold afterwards.

A point is a function of gnexec (or of what it stands on), before or after one of its calls. `gnexec.torture.faults`
patches it in the process that is to die; no production code knows of it. A point whose place is gone is an error at the
start of that process: the table cannot rot in silence.

This module imports nothing but the standard library's words: it is read at the very start of every tortured process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class When(StrEnum):
    """On which side of the call."""

    BEFORE = "before"
    AFTER = "after"


class Of(StrEnum):
    """Who passes the point."""

    SERVER = "server"
    """While it serves."""
    START = "start"
    """A server that starts over a log with entries in it."""
    SNAPSHOT = "snapshot"
    """The process that makes one."""
    WORKER = "worker"
    FIRST_START = "first start"
    """A server that has nothing yet: no keys, no schema, no log."""
    ROTATION = "rotation"
    """`gnexec keys rotate`, while a server is at work."""


class Store(StrEnum):
    """Whose point it is, where only one store has it."""

    ANY = "any"
    SQLITE = "sqlite"
    POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class Point:
    """One place to die at.

    Attributes:
        name: what the counts call it.
        target: "module:name" or "module:Class.method", as the caller looks it up.
        when: before the call or after it.
        of: who passes it.
        expected: what is true in the end, in words.
        within: only while this function, in the same form, is at work in the same thread; "" for always.
        only: which calls count, by their positional arguments; None for all.
        most: largest k of the k-th call, which is drawn.
        store: the store that has it.
    """

    name: str
    target: str
    when: When
    of: Of
    expected: str
    within: str = ""
    only: Callable[[tuple[Any, ...]], bool] | None = None
    most: int = 12
    store: Store = Store.ANY


def _head_of_reply(args: tuple[Any, ...]) -> bool:
    return bool(args[1]["type"] == "http.response.start")


NOTHING: Final = "nothing of the batch is in the log; whoever asked asks again, and it is decided once"
ALL: Final = "the batch is in the log; whoever asks again is told what was decided, and nothing is decided twice"
NO_BLOB: Final = "the blob is not there, or whole; no torn file has a name; the upload is repeated"
NO_SNAPSHOT: Final = "there is no new snapshot; the next start folds from an older one, or from the first entry"
SAME: Final = "the next start finds what the last one left, and goes on from there"
GIVEN_BACK: Final = "the attempt is given back as preempted, without blame, and somebody does the job"
SENT: Final = "the result is sent by the next start, once"

_RECORD: Final = "gnexec.desk.ledger:Ledger.record"
_FINISH: Final = "gnexec.store.blobs:BlobWriter.finish"
_LINK: Final = "gnexec.worker.link:Link."
_SPOOL: Final = "gnexec.worker.spool:Spool."
_ENTRY: Final = "gnexec.worker.spool:Entry."
_BATCH: Final = "gnexec.store.sqlite:SqliteBatch."
_PG: Final = "gnexec.store.postgres:"
_KEEP: Final = "gnexec.desk.snapshots:Snapshots.keep"

_B, _A = When.BEFORE, When.AFTER

POINTS: Final = (
    # The way of a request through the desk.
    Point("before deciding", "gnexec.desk.ledger:decide", _B, Of.SERVER, NOTHING, _RECORD),
    Point("decided", "gnexec.desk.ledger:decide", _A, Of.SERVER, NOTHING, _RECORD),
    Point("before sealing", "gnexec.desk.sealer:Sealer.seal", _B, Of.SERVER, NOTHING),
    Point("sealed", "gnexec.desk.sealer:Sealer.seal", _A, Of.SERVER, NOTHING),
    Point("before appending", _BATCH + "append", _B, Of.SERVER, NOTHING, store=Store.SQLITE),
    Point("appended", _BATCH + "append", _A, Of.SERVER, NOTHING, store=Store.SQLITE),
    Point("contents kept", _BATCH + "keep", _A, Of.SERVER, NOTHING, store=Store.SQLITE),
    Point("before committing", "gnexec.store.sqlite:SqliteStore._commit", _B, Of.SERVER, NOTHING, store=Store.SQLITE),
    Point("committed", "gnexec.store.sqlite:SqliteStore._commit", _A, Of.SERVER, ALL, store=Store.SQLITE),
    Point("append lock held", _PG + "PostgresStore._begin", _A, Of.SERVER, NOTHING, store=Store.POSTGRES),
    Point("before committing", _PG + "PostgresStore._commit", _B, Of.SERVER, NOTHING, store=Store.POSTGRES),
    Point("committed", _PG + "PostgresStore._commit", _A, Of.SERVER, ALL, store=Store.POSTGRES),
    Point("before the receipts", "gnexec.desk.ledger:Ledger.receipts", _B, Of.SERVER, ALL),
    Point("before replying", "gnexec.desk.dispatcher:reply", _B, Of.SERVER, ALL),
    Point("replied to the event loop", "gnexec.desk.dispatcher:reply", _A, Of.SERVER, ALL),
    Point(
        "head of the reply sent",
        "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.send",
        _A,
        Of.SERVER,
        ALL,
        only=_head_of_reply,
        most=40,
    ),
    # Blobs.
    Point("blob partly written", "gnexec.store.blobs:BlobWriter.write", _A, Of.SERVER, NO_BLOB),
    Point("before a blob's sync", "os:fsync", _B, Of.SERVER, NO_BLOB, _FINISH),
    Point("before a blob's rename", "pathlib:Path.replace", _B, Of.SERVER, NO_BLOB, _FINISH),
    Point("blob renamed", "pathlib:Path.replace", _A, Of.SERVER, NO_BLOB, _FINISH),
    Point("blob durable, not granted", _FINISH, _A, Of.SERVER, NO_BLOB),
    # The start over a log.
    Point("before folding", "gnexec.desk.ledger:Ledger.refold", _B, Of.START, SAME, most=1),
    Point("folding", "gnexec.core.world:World.apply", _A, Of.START, SAME, "gnexec.desk.ledger:Ledger.refold", most=20),
    Point("folded", "gnexec.desk.ledger:Ledger.refold", _A, Of.START, SAME, most=1),
    Point("outage noted", "gnexec.desk.dispatcher:Dispatcher._alone", _A, Of.START, SAME, most=3),
    # The worker.
    Point("asking kept", _SPOOL + "ask", _A, Of.WORKER, "the same request is asked again", most=3),
    Point("hand-out heard, not kept", _LINK + "next_jobs", _A, Of.WORKER, "the same attempts come again", most=3),
    Point("before a hand-out is kept", _SPOOL + "answered", _B, Of.WORKER, "the same attempts come again", most=3),
    Point("hand-out kept", _SPOOL + "answered", _A, Of.WORKER, GIVEN_BACK, most=3),
    Point("before execution", "gnexec.worker.job:start", _B, Of.WORKER, GIVEN_BACK, most=3),
    Point("executed, not reported", "gnexec.worker.job:answer", _B, Of.WORKER, GIVEN_BACK, most=3),
    Point("result half kept", "gnexec.worker.spool:_sync", _A, Of.WORKER, GIVEN_BACK, _ENTRY + "finish", most=3),
    Point("result kept, not sent", "gnexec.worker.job:answer", _A, Of.WORKER, SENT, most=3),
    Point("before an upload", _LINK + "put_blob", _B, Of.WORKER, SENT, most=3),
    Point("uploaded, not reported", _LINK + "result", _B, Of.WORKER, SENT, most=3),
    Point("acknowledged, still kept", _LINK + "result", _A, Of.WORKER, SENT, most=3),
    Point("half dropped", "shutil:rmtree", _B, Of.WORKER, "what is left is removed", _ENTRY + "drop", most=3),
    # A snapshot, made by a process that the server starts.
    Point("before a snapshot's sync", "os:fsync", _B, Of.SNAPSHOT, NO_SNAPSHOT, _KEEP, most=1),
    Point("before a snapshot's rename", "pathlib:Path.replace", _B, Of.SNAPSHOT, NO_SNAPSHOT, _KEEP, most=1),
    Point("snapshot kept", _KEEP, _A, Of.SNAPSHOT, "the next start begins from it", most=1),
    # The first start of all, and the change of keys.
    Point("keys half made", "gnexec.keys.ring:write_new", _A, Of.FIRST_START, SAME, most=6),
    Point("keys half published", "gnexec.keys.ring:replace", _A, Of.FIRST_START, SAME, most=2),
    Point("keys made, not said to be", "gnexec.keys.ring:remove", _B, Of.FIRST_START, SAME, most=2),
    Point(
        "migrating",
        "sqlalchemy.engine.default:DefaultDialect.do_execute",
        _A,
        Of.FIRST_START,
        SAME,
        "gnexec.migrate:_upgrade",
        most=10,
        store=Store.SQLITE,
    ),
    Point("migrated, not committed", "alembic.command:upgrade", _A, Of.FIRST_START, SAME, most=1),
    Point("opening the log", _BATCH + "append", _A, Of.FIRST_START, SAME, most=1, store=Store.SQLITE),
    Point("new key written", "gnexec.keys.rotation:write_new", _A, Of.ROTATION, SAME, most=1),
    Point("ring replaced", "gnexec.keys.rotation:replace", _A, Of.ROTATION, SAME, most=1),
    Point("before the old key is removed", "gnexec.keys.rotation:remove", _B, Of.ROTATION, SAME, most=1),
    Point("half published", "gnexec.keys.ring:replace", _A, Of.ROTATION, SAME, most=2),
)
"""Every point; names are unique among those of one process."""


def points(*of: Of, store: Store = Store.SQLITE) -> list[Point]:
    """Return the points that such processes over such a store pass."""
    return [point for point in POINTS if point.of in of and point.store in {Store.ANY, store}]
