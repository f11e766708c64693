"""What a store is: the log's entries in one order, and what lies beside the log.

One contract, several stores (memory, SQLite, PostgreSQL): each passes the same conformance suite.
A store knows nothing of events, jobs or rules. It keeps bytes, in order, all or nothing.

Rules every store keeps:
- `seq` is the entry's place, 0.., without gaps, in commit order.
- Whatever a `Batch` writes becomes visible when it commits, all of it or none.
- Only one batch is open at a time; it sees the newest head.
- A batch in which a call has failed commits nothing, even when its caller goes on. One that has ended refuses calls.
- Readers see committed state only, from any thread.
- A closed store answers `StoreAway`, so that a request caught in a shutdown may be tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from gnexec.tlog.tiles import Tile


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log, as stored; never re-serialised.

    A struct, since replay makes one for each entry of the log: a tenth of what a frozen dataclass costs.

    Attributes:
        leaf: the exact bytes that the Merkle tree hashes; small, public at once.
        salt: 16 random bytes; with the payload they give the digest in the leaf.
        payload: the event's exact bytes; released later than the leaf, or never.
    """

    leaf: bytes
    salt: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The log's size and the signed checkpoint of exactly that size (b"" for the empty log)."""

    size: int
    note: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """Something erasable that the log names by salted digest only: a command line, a name, a note.

    Attributes:
        digest: SHA-256(salt ‖ data), 32 bytes.
    """

    digest: bytes
    salt: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Grant:
    """A principal (owner, worker) has shown that it holds a blob, by uploading it: a digest alone opens nothing."""

    principal: str
    digest: str


@dataclass(frozen=True, slots=True)
class Append:
    """What one batch adds to the log.

    Attributes:
        entries: new entries, the first at seq = the batch's head size.
        refs: (key, seq) pairs by which entries may be found again, repeats allowed; a cache that the log can rebuild.
        tiles: tiles that these entries filled.
        note: signed checkpoint of the new size.
    """

    entries: Sequence[Entry]
    refs: Sequence[tuple[bytes, int]]
    tiles: Sequence[Tile]
    note: bytes


class Reader(Protocol):
    """Reads that both a store (committed state) and an open batch (its own view) answer."""

    def head(self) -> Head:
        """Return the log's head; size 0 and an empty note for a new log."""
        ...

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries start..stop-1; shorter where the log ends before `stop`."""
        ...

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of every entry filed under `key`, in order of seq; empty if none."""
        ...

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile's 8,192 bytes, or None if it is not yet full."""
        ...


class LogReader(Reader, Protocol):
    """A log that is only read, beside the servers that append to it: it counts as none of them, and takes no lock."""

    def close(self) -> None:
        """Release files and connections."""
        ...


class Batch(Reader, Protocol):
    """The append lock, held: everything written commits together when the batch ends without an error."""

    def clock_ms(self) -> int:
        """Return the store's clock: milliseconds since 1970, not yet made monotonic."""
        ...

    def append(self, what: Append) -> None:
        """Add entries at the head and move the head to `what.note`.

        Raises:
            CorruptLog: such an entry or tile is there already.
            StoreAway: the store does not answer.
        """
        ...

    def keep(self, contents: Iterable[Content], grants: Iterable[Grant]) -> None:
        """Keep content and grants; repeating one is harmless."""
        ...

    def replace_refs(self, refs: Iterable[tuple[bytes, int]]) -> None:
        """Throw all refs away and write these instead (rebuilding the cache)."""
        ...


class Store(Reader, Protocol):
    """A log store. Made by its class's constructor or `open`; closed with `close`."""

    def batch(self) -> AbstractContextManager[Batch]:
        """Take the append lock, read the head, and commit on leaving; roll back on an exception.

        Raises:
            Conflict: another process appended where only one may (SQLite).
            StoreAway: no answer, or the commit's fate is unknown.
        """
        ...

    def content(self, digests: Sequence[bytes]) -> dict[bytes, Content]:
        """Return those of the contents that are there (erased and unknown ones are absent)."""
        ...

    def erase(self, digests: Sequence[bytes]) -> int:
        """Erase contents; return how many were there."""
        ...

    def granted(self, principal: str, digests: Sequence[str]) -> set[str]:
        """Return those of `digests` that `principal` holds a grant for."""
        ...

    def refs(self) -> Iterable[tuple[bytes, int]]:
        """Return all (key, seq) pairs, in order of key, then seq."""
        ...

    def pulse(self, at_ms: int) -> None:
        """Note that a server is alive at `at_ms`; need not be durable at once."""
        ...

    def last_pulse(self) -> int | None:
        """Return the newest noted pulse, or None."""
        ...

    def alone(self) -> bool:
        """Return whether no other process has this store open to append, at this moment.

        A process that was cut off from the store for a while may be missing from the count until it is back.

        Raises:
            StoreAway: no answer.
        """
        ...

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever another process may have appended; it takes the place of a former watcher.

        It is called soon after such a commit, and each time contact was lost and is back, since commits may have been
        missed; also for this process's own commits, as stores need not tell them apart. Calls come from some thread of
        the store's, one at a time: `wake` must be quick, must not raise, and must not call the store. A store that
        serves one process never calls. Calls end with `close`.
        """
        ...

    def ping(self) -> None:
        """Make sure that the store answers.

        Raises:
            StoreAway: it does not.
        """
        ...

    def close(self) -> None:
        """Release files and locks; further calls are errors."""
        ...
