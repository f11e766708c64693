"""The store of many servers: a PostgreSQL database.

It keeps the rules of `gnexec.store.contract`. Any number of processes, on any number of hosts, append in turn: whoever
holds the append lock (`pg_advisory_xact_lock`) reads the newest head first, so the log cannot fork, and nobody leads.

A batch costs two round trips: one takes the lock and reads head and clock, one writes everything and commits. What a
batch adds is therefore held back until it is read again or commits; an error in it shows then.

Rules:
- An acknowledged batch survives a power loss (`pgsession` checks what that rests on, at each connection).
- A commit whose answer did not come is in doubt, `StoreAway`: the caller must read the head again.
- Lost connections are replaced when next needed. What changes nothing is asked again at once, so that a restart of the
  server is felt only by those that were writing.
- The log never gets shorter: a server that comes back with less than was seen is refused.
- It does not migrate a schema that is there, and refuses one that is not at head (see `gnexec.migrate`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from gnexec import migrate
from gnexec.errors import BadConfiguration, CorruptLog, GnexecError, StoreAway
from gnexec.store.contract import Append, Content, Entry, Grant, Head
from gnexec.store.pgaddress import PgAddress
from gnexec.store.pgkeys import Keys
from gnexec.store.pglink import Call, Denied, Link, Lost, Statement
from gnexec.store.pgpool import Pool
from gnexec.store.pgreads import (
    BOUNDS,
    HEAD,
    LAST_PULSE,
    OTHERS,
    ROLLBACK,
    SNAPSHOT,
    head_of,
    read_content,
    read_entries,
    read_granted,
    read_head,
    read_refs,
    read_story,
    read_tile,
)
from gnexec.store.pgsession import open_session
from gnexec.store.pgvalues import bytea_array, from_int8, from_timestamp_ms, int8
from gnexec.store.pgwatch import Watch
from gnexec.store.pgwrites import Pending, add_refs, clear_refs

BEGIN: Final = Statement(b"begin", b"BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE")
LOCK: Final = Statement(b"lock", b"SELECT pg_advisory_xact_lock($1::int8)")
COMMIT: Final = Statement(b"commit", b"COMMIT")
ERASE: Final = Statement(b"erase", b"DELETE FROM contents WHERE digest = ANY ($1::bytea[])")
PULSE: Final = Statement(
    b"pulse",
    b"INSERT INTO pulse (id, at_ms) VALUES (1, $1::int8)"
    b" ON CONFLICT (id) DO UPDATE SET at_ms = greatest(pulse.at_ms, excluded.at_ms)",
)
STANDBY: Final = Statement(b"standby", b"SELECT pg_is_in_recovery()::int4::int8")


Answer = TypeVar("Answer")


class PostgresBatch:
    """An open transaction that holds the append lock; see `gnexec.store.contract.Batch`."""

    def __init__(self, link: Link, keys: Keys, head: Head, clock_ms: Callable[[], int]) -> None:
        """Begin with nothing to write; the transaction has begun."""
        self._link = link
        self._head = head
        self._state = "open"
        self._whole = True
        self._clock_ms = clock_ms
        self._pending = Pending(keys.channel)

    def clock_ms(self) -> int:
        """Return the store's clock."""
        return self._clock_ms()

    def head(self) -> Head:
        """Return the head, with what this batch has appended."""
        return self._head

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries start..stop-1, with what this batch has appended."""
        with self._use():
            self._pending.write(self._link)
            return read_entries(self._link, start, stop)

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of all entries filed under `key`, with what this batch has appended."""
        with self._use():
            self._pending.write(self._link)
            return read_story(self._link, key)

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        with self._use():
            self._pending.write(self._link)
            return read_tile(self._link, level, index)

    def append(self, what: Append) -> None:
        """Add entries at the head and move it; written when the batch reads or ends."""
        with self._use():
            self._pending.append(self._head.size, what)
            self._head = Head(self._head.size + len(what.entries), what.note)

    def keep(self, contents: Iterable[Content], grants: Iterable[Grant]) -> None:
        """Keep content and grants; written when the batch reads or ends."""
        with self._use():
            self._pending.keep(contents, grants)

    def replace_refs(self, refs: Iterable[tuple[bytes, int]]) -> None:
        """Throw all refs away and write these instead."""
        with self._use():
            self._pending.write(self._link)
            clear_refs(self._link)
            add_refs(self._link, refs)

    def end(self) -> None:
        """Let nothing more through this batch."""
        self._whole = self._state == "open"
        self._state = "ended"

    def rest(self) -> list[Call]:
        """Return what is still to be written, in the transaction's last round trip.

        Raises:
            StoreAway: a call of this batch had failed.
        """
        if not self._whole:
            msg = "a call of this batch had failed, so none of it was committed"
            raise StoreAway(msg)
        return self._pending.last(self._link)

    @contextmanager
    def _use(self) -> Iterator[None]:
        if self._state != "open":
            msg = f"this batch has {self._state}"
            raise RuntimeError(msg)
        try:
            yield
        except BaseException:
            self._state = "failed"
            raise


class PostgresStore:
    """A log in a PostgreSQL database; see `gnexec.store.contract.Store`."""

    def __init__(self, url: str, *, create: bool = False, clock_ms: Callable[[], int] | None = None) -> None:
        """Connect, and count as one of the servers that have this log open until `close`.

        Args:
            url: `postgresql://…`; see `gnexec.store.pgaddress`.
            create: make the schema where there is none. A schema that is there is never changed.
            clock_ms: the store's clock; the database's own unless given.

        Raises:
            BadConfiguration: no such database, weak durability, a schema that is not at head, or no driver.
            CorruptLog: the entries do not reach exactly to the head.
            StoreAway: no answer.
        """
        self._address = PgAddress.parse(url)
        migrate.prepare_postgres(self._address, create=create)
        self._revision = migrate.head()
        self._given_clock = clock_ms
        self._closed = False
        self._lock = threading.Lock()
        self._seen = 0
        self._link: Link | None = None
        self._watch: Watch | None = None
        self._keys = Keys(0)
        self._pids: dict[str, int] = {}
        self._readers = Pool(lambda: self._session("reader", writes=False)[0])
        self._started = False
        try:
            self._seen = self._checked_size(self._writer())
        except Denied as err:
            self.close()
            msg = f"{err}. Let the role that connects own the schema and its tables."
            raise BadConfiguration(msg) from err
        except BaseException:
            self.close()
            raise
        self._started = True

    @contextmanager
    def batch(self) -> Iterator[PostgresBatch]:
        """Take the append lock; commit on leaving, roll back on an exception.

        Raises:
            StoreAway: no answer, another process has held the lock for too long, or the commit's fate is unknown.
            CorruptLog: the log is shorter than it was, or holds already what this batch adds.
        """
        with self._lock:
            link, head, clock_ms = self._begin()
            batch = PostgresBatch(link, self._keys, head, clock_ms)
            try:
                self._refuse_shorter(head)
                try:
                    yield batch
                finally:
                    batch.end()
                rest = batch.rest()
                try:
                    self._commit(link, rest)
                except Lost as err:
                    msg = f"{err}; it is unknown whether the commit was kept"
                    raise StoreAway(msg) from err
            except BaseException:
                self._undo(link)
                raise
            self._seen = batch.head().size

    def head(self) -> Head:
        """Return the committed head."""
        return self._readers.read(read_head)

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return committed entries start..stop-1."""
        return self._readers.read(lambda link: read_entries(link, start, stop))

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of all committed entries filed under `key`."""
        return self._readers.read(lambda link: read_story(link, key))

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        return self._readers.read(lambda link: read_tile(link, level, index))

    def content(self, digests: Sequence[bytes]) -> dict[bytes, Content]:
        """Return those of the contents that are there."""
        return self._readers.read(lambda link: read_content(link, digests))

    def erase(self, digests: Sequence[bytes]) -> int:
        """Erase contents; return how many were there.

        They can no longer be read. PostgreSQL overwrites their bytes only later, after a vacuum, and keeps them in its
        write-ahead log, its archive and its standbys for as long as the operator has told it to.
        """
        with self._lock:
            (result,) = self._writer().ask(Call(ERASE, (bytea_array(digests),)))
        return result.command_tuples or 0

    def granted(self, principal: str, digests: Sequence[str]) -> set[str]:
        """Return those of `digests` that `principal` holds a grant for."""
        return self._readers.read(lambda link: read_granted(link, principal, digests))

    def refs(self) -> Iterator[tuple[bytes, int]]:
        """Yield all (key, seq) pairs of one moment; holds a reading connection until exhausted."""
        with self._readers.borrow() as link:
            yield from read_refs(link)

    def pulse(self, at_ms: int) -> None:
        """Note that a server is alive at `at_ms`."""
        with self._lock:
            self._again(lambda link: link.ask(Call(PULSE, (int8(at_ms),))))

    def last_pulse(self) -> int | None:
        """Return the newest noted pulse, or None."""
        (result,) = self._readers.read(lambda link: link.ask(Call(LAST_PULSE)))
        return from_int8(result.get_value(0, 0)) if result.ntuples else None

    def alone(self) -> bool:
        """Return whether no other process has this log open to append.

        Raises:
            StoreAway: no answer.
        """
        (result,) = self._readers.read(lambda link: link.ask(Call(OTHERS, (int8(self._keys.presence),))))
        present = {from_int8(result.get_value(row, 0)) for row in range(result.ntuples)}
        return present <= set(self._pids.values())

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, by a thread of its own, whenever another process may have appended."""
        with self._lock:
            self._refuse_closed()
            former, self._watch = self._watch, Watch(self._listener, self._wrote, wake)
        if former is not None:
            former.close()

    def ping(self) -> None:
        """Make sure that the server answers, and may be written to.

        Raises:
            StoreAway: it does not, or is a standby now.
        """
        (result,) = self._readers.read(lambda link: link.ask(Call(STANDBY)))
        if from_int8(result.get_value(0, 0)):
            msg = f"{self._address.shown} is a standby now"
            raise StoreAway(msg)

    def close(self) -> None:
        """Disconnect; harmless when done twice."""
        with self._lock:
            self._closed = True
            self._readers.close()
            if self._link is not None:
                self._link.close()
                self._link = None
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _commit(self, link: Link, rest: list[Call]) -> None:
        """Write the rest and commit: the point at which tests make a store fail."""
        link.ask(*rest, Call(COMMIT))

    def _begin(self) -> tuple[Link, Head, Callable[[], int]]:
        """Begin a transaction, take the append lock, and read head and clock."""

        def begin(link: Link) -> tuple[Link, Head, Callable[[], int]]:
            try:
                *_, found = link.ask(Call(BEGIN), Call(LOCK, (int8(self._keys.append),)), Call(HEAD))
                head = head_of(found)
            except BaseException:
                self._undo(link)
                raise
            if self._given_clock is not None:
                return link, head, self._given_clock
            at_ms, since = from_timestamp_ms(found.get_value(0, 2)), time.monotonic()
            return link, head, lambda: at_ms + int((time.monotonic() - since) * 1000)

        return self._again(begin)

    def _again(self, ask: Callable[[Link], Answer]) -> Answer:
        """Ask the writing connection what changes nothing or may be done twice; once more if it was lost."""
        try:
            return ask(self._writer())
        except Lost:
            return ask(self._writer())

    def _writer(self) -> Link:
        """Return the writing connection, opened again if it was lost."""
        self._refuse_closed()
        if self._link is None or self._link.lost:
            self._link, self._keys = self._session("writer", writes=True)
        return self._link

    def _wrote(self, pid: int) -> bool:
        """Return whether a notification came from this process: nobody is to be woken by what they did themselves."""
        return pid == self._pids["writer"]

    def _listener(self) -> tuple[Link, str]:
        """Return a new connection for the watcher, and what to listen on."""
        link, keys = self._session("watch", writes=False)
        return link, keys.channel

    def _session(self, use: str, *, writes: bool) -> tuple[Link, Keys]:
        """Open a connection.

        Raises:
            BadConfiguration: before the store was ever open, for what the operator is to mend.
            StoreAway: no answer; or, later, for what the operator is to mend.
        """
        try:
            link, keys = open_session(self._address, self._revision, writes=writes, present=use != "reader")
        except BadConfiguration as err:
            if self._started:
                raise StoreAway(str(err)) from err
            raise
        if use != "reader":
            self._pids[use] = link.pid
        return link, keys

    def _refuse_closed(self) -> None:
        if self._closed:
            msg = "the store is closed"
            raise StoreAway(msg)

    def _refuse_shorter(self, head: Head) -> None:
        """Never go on from a copy that lacks what was committed.

        Raises:
            CorruptLog: the log has fewer entries than this process has seen.
        """
        if head.size < self._seen:
            msg = (
                f"{self._address.shown} has {head.size} entries and had {self._seen}: it was restored from a backup, "
                "or a standby that was behind took over"
            )
            raise CorruptLog(msg)
        self._seen = head.size

    def _undo(self, link: Link) -> None:
        """Leave no transaction open; give up the connection if it will not roll back."""
        if not link.lost:
            try:
                link.ask(Call(ROLLBACK))
            except GnexecError:
                link.close()

    def _checked_size(self, link: Link) -> int:
        """Return the head's size, having made sure that the entries end there."""
        *_, found, bounds, _ = link.ask(Call(SNAPSHOT), Call(HEAD), Call(BOUNDS), Call(ROLLBACK))
        size, end = head_of(found).size, from_int8(bounds.get_value(0, 0))
        if end != size:
            msg = f"the head says {size} entries, the entries end at {end}"
            raise CorruptLog(msg, seq=min(end, size))
        return size
