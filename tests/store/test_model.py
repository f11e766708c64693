"""Two stores, one life: whatever happens to a store in memory and a durable one, nobody can tell them apart."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from psycopg.conninfo import conninfo_to_dict

from gnexec.errors import StoreAway
from gnexec.store.contract import Append, Batch, Grant, Store
from gnexec.store.memory import Fault, MemoryStore
from gnexec.store.postgres import PostgresStore
from gnexec.store.sqlite import SqliteStore
from gnexec.tlog.tiles import Tile
from tests.databases import shared
from tests.store.stores import FaultyPostgresStore, FaultySqliteStore, content, entry, note

KEYS = st.sampled_from([b"", b"a", b"ab", b"b", b"\x00", b"\xff"])
NAMES = st.lists(st.sampled_from([b"one", b"two", b"three", b""]), max_size=3)
FAULTS = st.sampled_from([None, None, None, Fault.FAILED, Fault.PERSISTED])


class Abandoned(Exception):
    """A caller's change of mind."""


@cache
def empty_file() -> Path:
    """Migrate one file, which each example copies."""
    path = Path(tempfile.mkdtemp()) / "empty.db"
    SqliteStore(path, create=True).close()
    atexit.register(shutil.rmtree, path.parent)
    return path


@cache
def empty_database() -> str:
    """Migrate one database, which each example copies; return its name."""
    url = shared().new_database()
    PostgresStore(url, create=True).close()
    return str(conninfo_to_dict(url)["dbname"])


class TwoStores(RuleBasedStateMachine):
    """The same calls on both stores, with the same faults; every read agrees after each."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Fault | None = None
        self.memory = MemoryStore(faults=self.faults())
        self.durable: Store | None = None

    @abstractmethod
    def make(self) -> None:
        """Make what an empty durable store opens."""

    @abstractmethod
    def open(self) -> Store:
        """Open the durable store, which may hold something; its commits meet `faults`."""

    @abstractmethod
    def remove(self) -> None:
        """Leave nothing behind."""

    def faults(self) -> Iterator[Fault | None]:
        """Let each store meet the fault that the present rule has chosen."""
        while True:
            yield self.fault

    def stores(self) -> tuple[Store, Store]:
        """Return both."""
        assert self.durable is not None
        return self.memory, self.durable

    def batch(self, write: Callable[[Batch], None], *, fault: Fault | None = None, abandon: bool = False) -> None:
        """Write in a batch of each store, which ends as said."""
        self.fault = fault
        ends: list[tuple[object, ...]] = []
        for store in self.stores():
            try:
                with store.batch() as batch:
                    write(batch)
                    ends.append((batch.head(), batch.entries(0, 999), batch.story(b"a"), batch.tile(0, 0)))
                    if abandon:
                        raise Abandoned  # noqa: TRY301 - the batch's end is what is tested
                ends[-1] = (*ends[-1], "committed")
            except (StoreAway, Abandoned) as err:
                ends[-1] = (*ends[-1], type(err).__name__)
        self.fault = None
        assert ends[0] == ends[1]

    @initialize()
    def begin(self) -> None:
        """Begin with an empty store."""
        self.make()
        self.durable = self.open()

    @rule(count=st.integers(0, 3), keys=st.lists(KEYS, max_size=3), fault=FAULTS, abandon=st.booleans())
    def append(self, count: int, keys: list[bytes], fault: Fault | None, *, abandon: bool) -> None:
        """Append entries, with refs to any entry there is, and a tile to each."""

        def write(batch: Batch) -> None:
            start = batch.head().size
            stop = start + count
            refs = [(key, (start + 7 * place) % stop) for place, key in enumerate(keys) if stop]
            tiles = [Tile(0, seq, b"%d" % seq * 99) for seq in range(start, stop)]
            batch.append(Append([entry(seq) for seq in range(start, stop)], refs, tiles, note(stop)))

        self.batch(write, fault=fault, abandon=abandon)

    @rule(names=NAMES, principal=st.sampled_from(["o1", "w1"]), fault=FAULTS)
    def keep(self, names: list[bytes], principal: str, fault: Fault | None) -> None:
        """Keep content, and grants for it."""
        contents = [content(name) for name in names]
        grants = [Grant(principal, each.digest.hex()) for each in contents]
        self.batch(lambda batch: batch.keep(contents, grants), fault=fault)

    @rule(keys=st.lists(KEYS, max_size=3), fault=FAULTS)
    def replace_refs(self, keys: list[bytes], fault: Fault | None) -> None:
        """Replace all refs by some to the entries that are there."""

        def write(batch: Batch) -> None:
            batch.replace_refs((key, seq) for key in keys for seq in range(0, batch.head().size, 2))

        self.batch(write, fault=fault)

    @rule(names=NAMES)
    def erase(self, names: list[bytes]) -> None:
        """Erase content."""
        erased = [store.erase([content(name).digest for name in names]) for store in self.stores()]
        assert erased[0] == erased[1]

    @rule(at_ms=st.integers(0, 9))
    def pulse(self, at_ms: int) -> None:
        """Give a sign of life."""
        for store in self.stores():
            store.pulse(at_ms)

    @rule()
    def reopen(self) -> None:
        """Close the durable store and open it again."""
        self.stores()[1].close()
        self.durable = self.open()

    @invariant()
    def agree(self) -> None:
        """Compare all that can be read."""
        if self.durable is not None:
            views = [self.view(store) for store in self.stores()]
            assert views[0] == views[1]

    def view(self, store: Store) -> tuple[object, ...]:
        """Read everything."""
        digests = [content(name).digest for name in (b"one", b"two", b"three", b"")]
        size = store.head().size
        assert store.head().note == (note(size) if size else store.head().note)
        return (
            store.head(),
            store.entries(0, size + 1),
            list(store.refs()),
            [store.story(key) for key in (b"", b"a", b"ab", b"b", b"\x00", b"\xff")],
            [store.tile(0, seq) for seq in range(size + 1)],
            store.content(digests),
            [store.granted(principal, [digest.hex() for digest in digests]) for principal in ("o1", "w1")],
            store.last_pulse(),
        )

    def teardown(self) -> None:
        """Leave nothing behind."""
        if self.durable is not None:
            self.durable.close()
            self.remove()


class MemoryAndSqlite(TwoStores):
    """A file beside the memory."""

    def make(self) -> None:
        """Copy an empty file."""
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(empty_file(), self.folder / "log.db")

    def open(self) -> Store:
        """Open the file."""
        return FaultySqliteStore(self.folder / "log.db", create=True, faults=self.faults())

    def remove(self) -> None:
        """Remove the file."""
        shutil.rmtree(self.folder)


class MemoryAndPostgres(TwoStores):
    """A database beside the memory."""

    def make(self) -> None:
        """Copy an empty database."""
        self.url = shared().new_database(template=empty_database())

    def open(self) -> Store:
        """Connect to the database."""
        return FaultyPostgresStore(self.url, create=True, faults=self.faults())

    def remove(self) -> None:
        """Drop the database."""
        shared().drop(self.url)


TestMemoryAndSqlite = MemoryAndSqlite.TestCase
TestMemoryAndSqlite.settings = settings(stateful_step_count=25)
TestMemoryAndPostgres = MemoryAndPostgres.TestCase
# An example takes five times as long as one with a file.
TestMemoryAndPostgres.settings = settings(stateful_step_count=25, max_examples=settings().max_examples // 4)
