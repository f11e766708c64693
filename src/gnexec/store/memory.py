"""The store of tests, simulations and trials: everything in this process's memory, gone when it ends.

It keeps the rules of `gnexec.store.contract` in full, all or nothing included: a batch writes into a draft, which is
taken over in one step. It can be told to fail at a commit in either of the two ways in which a real store fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from gnexec.errors import CorruptLog, StoreAway
from gnexec.store.clock import wall_ms
from gnexec.store.contract import Append, Content, Entry, Grant, Head


class Fault(StrEnum):
    """What goes wrong at a commit; the caller sees `StoreAway` either way and cannot tell which it was."""

    FAILED = "failed"
    PERSISTED = "failed, but persisted"


@dataclass(slots=True)
class Shelf:
    """What a store holds, or a batch wants to add to it."""

    entries: list[Entry] = field(default_factory=list)
    refs: dict[bytes, set[int]] = field(default_factory=dict)
    tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)
    contents: dict[bytes, Content] = field(default_factory=dict)
    grants: set[tuple[str, str]] = field(default_factory=set)

    def file(self, refs: Iterable[tuple[bytes, int]]) -> None:
        """Add (key, seq) pairs."""
        for key, seq in refs:
            self.refs.setdefault(key, set()).add(seq)


class MemoryBatch:
    """A draft of what to add; see `gnexec.store.contract.Batch`."""

    def __init__(self, base: Shelf, head: Head, clock_ms: Callable[[], int]) -> None:
        """Begin an empty draft on top of `base`, which nobody changes meanwhile."""
        self._base = base
        self._draft = Shelf()
        self._replaced = False
        self._head = head
        self._state = "open"
        self._clock_ms = clock_ms

    def clock_ms(self) -> int:
        """Return the store's clock."""
        return self._clock_ms()

    def head(self) -> Head:
        """Return the head, with what this batch has appended."""
        return self._head

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return entries start..stop-1, with what this batch has appended."""
        with self._use():
            return [self._entry(seq) for seq in range(max(start, 0), min(stop, self._head.size))]

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of all entries filed under `key`, with what this batch has appended."""
        with self._use():
            kept = set() if self._replaced else self._base.refs.get(key, set())
            return [(seq, self._entry(seq)) for seq in sorted(kept | self._draft.refs.get(key, set()))]

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        with self._use():
            return self._draft.tiles.get((level, index)) or self._base.tiles.get((level, index))

    def append(self, what: Append) -> None:
        """Add entries at the head and move it."""
        with self._use():
            self._draft.entries.extend(what.entries)
            self._draft.file(what.refs)
            for tile in what.tiles:
                if self.tile(tile.level, tile.index) is not None:
                    msg = "the store already holds what was to be added (tile)"
                    raise CorruptLog(msg)
                self._draft.tiles[tile.level, tile.index] = tile.data
            self._head = Head(self._head.size + len(what.entries), what.note)

    def keep(self, contents: Iterable[Content], grants: Iterable[Grant]) -> None:
        """Keep content and grants."""
        with self._use():
            self._draft.contents.update((each.digest, each) for each in contents)
            self._draft.grants.update((each.principal, each.digest) for each in grants)

    def replace_refs(self, refs: Iterable[tuple[bytes, int]]) -> None:
        """Throw all refs away and write these instead."""
        with self._use():
            self._replaced = True
            self._draft.refs = {}
            self._draft.file(refs)

    def end(self) -> bool:
        """Let nothing more through this batch; return whether every call of it had succeeded."""
        whole = self._state == "open"
        self._state = "ended"
        return whole

    def settle(self) -> Head:
        """Take the draft over into the base; return the new head."""
        base, draft = self._base, self._draft
        base.entries.extend(draft.entries)
        if self._replaced:
            base.refs = draft.refs
        else:
            for key, seqs in draft.refs.items():
                base.refs.setdefault(key, set()).update(seqs)
        base.tiles.update(draft.tiles)
        base.contents = draft.contents | base.contents
        base.grants |= draft.grants
        return self._head

    def _entry(self, seq: int) -> Entry:
        settled = len(self._base.entries)
        return self._base.entries[seq] if seq < settled else self._draft.entries[seq - settled]

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


class MemoryStore:
    """A log in memory; see `gnexec.store.contract.Store`."""

    def __init__(self, *, faults: Iterable[Fault | None] = (), clock_ms: Callable[[], int] = wall_ms) -> None:
        """Make an empty log.

        Args:
            faults: what befalls each commit of a batch, in order; None is none. After the last, all goes well.
            clock_ms: the store's clock.
        """
        self._faults = iter(faults)
        self._clock_ms = clock_ms
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._shelf = Shelf()
        self._head = Head(0, b"")
        self._pulse: int | None = None
        self._closed = False

    @contextmanager
    def batch(self) -> Iterator[MemoryBatch]:
        """Take the append lock; commit on leaving, roll back on an exception.

        Raises:
            StoreAway: a fault was asked for here, or the store is closed.
        """
        with self._writing:
            self.ping()
            batch = MemoryBatch(self._shelf, self._head, self._clock_ms)
            try:
                yield batch
            finally:
                whole = batch.end()
            if not whole:
                msg = "a call of this batch had failed, so none of it was committed"
                raise StoreAway(msg)
            self._commit(batch)

    def head(self) -> Head:
        """Return the committed head."""
        with self._read():
            return self._head

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return committed entries start..stop-1."""
        with self._read() as shelf:
            return shelf.entries[max(start, 0) : max(stop, 0)]

    def story(self, key: bytes) -> list[tuple[int, Entry]]:
        """Return (seq, entry) of all committed entries filed under `key`."""
        with self._read() as shelf:
            return [(seq, shelf.entries[seq]) for seq in sorted(shelf.refs.get(key, ()))]

    def tile(self, level: int, index: int) -> bytes | None:
        """Return a full tile, or None."""
        with self._read() as shelf:
            return shelf.tiles.get((level, index))

    def content(self, digests: Sequence[bytes]) -> dict[bytes, Content]:
        """Return those of the contents that are there."""
        with self._read() as shelf:
            return {digest: shelf.contents[digest] for digest in digests if digest in shelf.contents}

    def erase(self, digests: Sequence[bytes]) -> int:
        """Erase contents; return how many were there."""
        with self._writing, self._read() as shelf:
            return sum(shelf.contents.pop(digest, None) is not None for digest in digests)

    def granted(self, principal: str, digests: Sequence[str]) -> set[str]:
        """Return those of `digests` that `principal` holds a grant for."""
        with self._read() as shelf:
            return {digest for digest in digests if (principal, digest) in shelf.grants}

    def refs(self) -> list[tuple[bytes, int]]:
        """Return all (key, seq) pairs, in order."""
        with self._read() as shelf:
            return [(key, seq) for key in sorted(shelf.refs) for seq in sorted(shelf.refs[key])]

    def pulse(self, at_ms: int) -> None:
        """Note that a server is alive at `at_ms`."""
        with self._read():
            self._pulse = at_ms if self._pulse is None else max(self._pulse, at_ms)

    def last_pulse(self) -> int | None:
        """Return the newest noted pulse, or None."""
        with self._read():
            return self._pulse

    def alone(self) -> bool:
        """Return True: no other process reaches this memory."""
        with self._read():
            return True

    def watch(self, wake: Callable[[], None]) -> None:
        """Call nobody: no other process appends."""

    def ping(self) -> None:
        """Make sure that the store is not closed."""
        with self._read():
            pass

    def close(self) -> None:
        """End the log; harmless when done twice."""
        self._closed = True

    def _commit(self, batch: MemoryBatch) -> None:
        fault = next(self._faults, None)
        if fault is not Fault.FAILED:
            with self._reading:
                self._head = batch.settle()
        match fault:
            case None:
                return
            case Fault.FAILED | Fault.PERSISTED:
                msg = "a fault was asked for; it is unknown whether the commit was kept"
                raise StoreAway(msg)
            case _:
                assert_never(fault)

    @contextmanager
    def _read(self) -> Iterator[Shelf]:
        with self._reading:
            if self._closed:
                msg = "the store is closed"
                raise StoreAway(msg)
            yield self._shelf
