"""What a SQLite store adds to the contract: a file that outlives its process, and has one owner."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from gnexec import migrate
from gnexec.errors import BadConfiguration, Conflict, CorruptLog, StoreAway
from gnexec.store import open_store
from gnexec.store.connections import READERS, check_durable, connect, open_writer
from gnexec.store.contract import Append, Entry, Head
from gnexec.store.memory import MemoryStore
from gnexec.store.sqlite import SqliteStore
from tests.store.stores import content, entry, fill, note

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Name a file, in a folder whose name a careless address would change."""
    folder = tmp_path / "a log #%25"
    folder.mkdir()
    return folder / "log.db"


@contextmanager
def opened(database: Path) -> Iterator[SqliteStore]:
    """Open a store, and close it."""
    with closing(SqliteStore(database, create=True)) as store:
        yield store


@contextmanager
def appending(database: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that appends to `database` for ever, and kill it at last."""
    command = [sys.executable, "-m", "tests.store.appender", str(database)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> int:
    """Wait for the next size that the process has acknowledged."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def raw(database: Path, statement: str, *values: int) -> None:
    """Change the file behind everybody's back."""
    with closing(connect(database, mode="rw")) as db:
        db.execute(statement, values)


def test_reopened_log_has_the_same_bytes(database: Path) -> None:
    """Closing and opening again changes nothing that can be read."""
    odd = Entry(bytes(range(256)), b"", b"\x00" * 70_000)
    kept = content(b"kept")
    with opened(database) as store:
        with store.batch() as batch:
            batch.append(Append([odd], [(b"\x00", 0)], [], b"\xff note"))
            batch.keep([kept], [])
        store.pulse(17)
    assert [path.name for path in sorted(database.parent.iterdir())] == ["log.db", "log.db.lock"]
    with opened(database) as store:
        assert store.head() == Head(1, b"\xff note")
        assert store.story(b"\x00") == [(0, odd)]
        assert store.content([kept.digest]) == {kept.digest: kept}
        assert store.last_pulse() == 17
        with store.batch() as batch:
            batch.append(Append([entry(1)], [], [], note(2)))
        assert store.entries(0, 2) == [odd, entry(1)]


def test_kill_9_while_appending_loses_nothing_acknowledged(database: Path) -> None:
    """Whatever a killed process had acknowledged is there, byte for byte, and each commit is whole."""
    acknowledged = 0
    for rounds in (20, 1, 77):
        with appending(database) as process:
            assert line(process) >= acknowledged
            for _ in range(rounds):
                acknowledged = line(process)
            process.kill()
            assert process.stdout is not None
            for rest in process.stdout:
                if rest.endswith("\n"):
                    acknowledged = int(rest)
            process.wait()
        with opened(database) as store:
            size = store.head().size
            assert size >= acknowledged
            assert store.head() == Head(size, note(size))
            assert store.entries(0, size + 10) == [entry(seq) for seq in range(size)]
            assert [seq for seq, _ in store.story(b"all")] == list(range(size))


def test_second_process_is_refused_and_told_who_is_first(database: Path) -> None:
    """While one process has the log, another neither opens nor migrates it; when it is gone, both work."""
    with appending(database) as process:
        line(process)
        for attempt in (
            lambda: SqliteStore(database, create=True),
            lambda: migrate.upgrade(f"sqlite:///{database}"),
        ):
            with pytest.raises(BadConfiguration, match=f"in use by process {process.pid}"):
                attempt()
        line(process)
    migrate.upgrade(f"sqlite:///{database}")
    with opened(database) as store:
        assert store.head().size > 0


def test_second_store_under_another_name_is_refused(database: Path) -> None:
    """A symbolic link to a log in use is that log, in this process too; `close` frees it."""
    alias = database.with_name("alias.db")
    alias.symlink_to(database)
    with opened(database):
        for attempt in (lambda: SqliteStore(alias), lambda: migrate.upgrade(f"sqlite:///{alias}")):
            with pytest.raises(BadConfiguration, match="in use by process"):
                attempt()
    SqliteStore(alias).close()


def test_failed_opening_frees_the_lock(database: Path) -> None:
    """A refusal leaves neither lock nor connection behind."""
    with opened(database):
        pass
    raw(database, "UPDATE head SET size = 3")
    for _ in range(2):
        with pytest.raises(CorruptLog, match="3 entries"):
            SqliteStore(database)
    raw(database, "UPDATE head SET size = 0")
    SqliteStore(database).close()


def test_entries_written_by_another_are_a_conflict_once(database: Path) -> None:
    """A head that is not where it was left is not appended to; having been told, the caller goes on from it."""
    with opened(database) as store:
        fill(store, 2)
        raw(database, "INSERT INTO entries (seq, leaf, salt, payload) VALUES (2, x'', x'', x'')")
        raw(database, "UPDATE head SET size = 3")
        with pytest.raises(Conflict, match="3 entries, not 2"):
            fill(store, 1)
        assert store.head().size == 3
        fill(store, 1)
        assert store.head().size == 4


@pytest.mark.parametrize(
    ("damage", "first_bad"),
    [
        ("DELETE FROM entries WHERE seq = 4", 4),
        ("UPDATE head SET size = 9", 5),
        ("UPDATE head SET size = 2", 2),
        ("DELETE FROM head", None),
        ("UPDATE head SET size = 'many'", None),
        ("UPDATE head SET note = 'text'", None),
    ],
)
def test_entries_that_do_not_reach_the_head_are_a_corrupt_log(
    database: Path, damage: str, first_bad: int | None
) -> None:
    """Rows lost or left over at the end are found when the log is opened."""
    with opened(database) as store:
        fill(store, 5)
    raw(database, damage)
    with pytest.raises(CorruptLog) as caught:
        SqliteStore(database)
    assert caught.value.seq == first_bad


@pytest.mark.parametrize(("start", "gone"), [(0, 0), (0, 2), (2, 2), (1, 3)])
def test_entry_lost_from_the_middle_is_a_corrupt_log(database: Path, start: int, gone: int) -> None:
    """Reading over a gap names it, and never moves later entries to earlier places."""
    with opened(database) as store:
        fill(store, 5)
        raw(database, "DELETE FROM entries WHERE seq = ?", gone)
        with pytest.raises(CorruptLog) as caught:
            store.entries(start, 5)
        assert caught.value.seq == gone


def test_entry_beyond_the_head_is_a_corrupt_log(database: Path) -> None:
    """A seq that is taken is never written over."""
    with opened(database) as store:
        raw(database, "INSERT INTO entries (seq, leaf, salt, payload) VALUES (0, x'', x'', x'')")
        with pytest.raises(CorruptLog, match="already"):
            fill(store, 1)
        assert store.head().size == 0


def test_log_locked_by_another_is_away(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that someone keeps out gives up after a while, and works again afterwards."""
    monkeypatch.setattr("gnexec.store.connections.PATIENCE_S", 0.01)
    with opened(database) as store:
        with closing(connect(database, mode="rw")) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreAway, match="locked"):
                fill(store, 1)
        fill(store, 1)
        assert store.head().size == 1


class LosesItsConnection(SqliteStore):
    """A store whose connection is gone when it first commits."""

    lost = False

    def _commit(self, db: sqlite3.Connection) -> None:
        if not self.lost:
            self.lost = True
            db.close()
        super()._commit(db)


def test_connection_lost_in_commit_is_opened_again(database: Path) -> None:
    """A connection that cannot even roll back is replaced; what it had not committed is gone."""
    with closing(LosesItsConnection(database, create=True)) as store:
        with pytest.raises(StoreAway, match="unknown whether"):
            fill(store, 2)
        assert store.head().size == 0
        fill(store, 3)
        assert store.entries(0, 9) == [entry(seq) for seq in range(3)]


def test_damaged_file_is_a_corrupt_log_and_never_store_away(database: Path) -> None:
    """Damage is not something to try again: the page of the entries is overwritten here."""
    with opened(database) as store:
        fill(store, 200)
    with closing(connect(database, mode="ro")) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()
        (page_size,) = db.execute("PRAGMA page_size").fetchone()
    with database.open("r+b") as file:
        file.seek((page - 1) * page_size)
        file.write(b"\xa5" * page_size)
    with pytest.raises(CorruptLog, match="damaged"), closing(SqliteStore(database)) as store:
        store.entries(0, 200)


def test_erased_content_is_in_no_file_any_more(database: Path) -> None:
    """What is erased is overwritten in the database and in the write-ahead log."""
    secret = b"a command line that names a patient " * 200
    with opened(database) as store:
        with store.batch() as batch:
            batch.keep([content(secret), content(b"other" * 900)], [])

        def traces() -> int:
            return sum(secret[:36] in path.read_bytes() for path in database.parent.iterdir())

        assert traces() > 0
        assert store.erase([content(secret).digest]) == 1
        assert traces() == 0
        fill(store, 1)
        assert store.content([content(b"other" * 900).digest])


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.rename(path.with_name("old.db"))])
def test_file_moved_under_a_running_server_is_away(database: Path, change: Callable[[Path], object]) -> None:
    """A log that is no longer at its path is not served from a file that nobody will find again."""
    with opened(database) as store:
        store.ping()
        change(database)
        with pytest.raises(StoreAway, match="moved, replaced or deleted"):
            store.ping()


def test_readers_neither_write_nor_checkpoint(database: Path) -> None:
    """A reading connection refuses to write, and closing it leaves the write-ahead log alone."""
    with opened(database) as store:
        fill(store, 1)
        log = database.with_name("log.db-wal")
        before = (log.stat().st_size, database.stat().st_mtime_ns)
        with store._readers.borrow() as reader:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM entries")
            assert reader.execute("PRAGMA query_only").fetchone() == (1,)
            with suppress(sqlite3.OperationalError):
                reader.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store._readers.close()
        assert (log.stat().st_size, database.stat().st_mtime_ns) == before


def test_readers_beyond_the_bound_wait_and_are_refused(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many readers as there are connections; the next one waits, and is told to try again."""
    monkeypatch.setattr("gnexec.store.connections.PATIENCE_S", 0.01)
    with opened(database) as store:
        fill(store, 2, b"a", b"b")
        slow = [iter(store.refs()) for _ in range(READERS)]
        for reader in slow:
            assert next(reader) == (b"a", 0)
        with pytest.raises(StoreAway, match="in use"):
            store.head()
        for reader in slow:
            assert list(reader) == [(b"a", 1), (b"b", 0), (b"b", 1)]
        assert store.head().size == 2


def test_reader_at_work_during_close_is_closed_when_it_is_done(database: Path) -> None:
    """A listing that a shutdown overtakes still ends, and its connection with it."""
    with opened(database) as store:
        fill(store, 2, b"a")
        listing = iter(store.refs())
        next(listing)
        store.close()
        assert list(listing) == [(b"a", 1)]
        assert store._readers._idle.empty()


def test_readers_of_many_threads_work_at_once(database: Path) -> None:
    """Each thread gets whole answers from whichever connection it is lent."""
    with opened(database) as store, ThreadPoolExecutor(READERS * 2) as threads:
        fill(store, 50, b"all")
        stories = threads.map(lambda _: store.story(b"all"), range(200))
        assert all(story == [(seq, entry(seq)) for seq in range(50)] for story in stories)


def test_files_are_private_to_their_owner(database: Path) -> None:
    """Payloads are not public: no other account of the machine reads any of the files."""
    with opened(database) as store:
        fill(store, 1)
        assert {path.stat().st_mode & 0o077 for path in database.parent.iterdir()} == {0}


def test_weak_durability_is_refused(database: Path) -> None:
    """A connection that does not flush each commit, or keeps no write-ahead log, is not written through."""
    with opened(database):
        pass
    with closing(open_writer(database)) as db:
        check_durable(db)
        db.execute("PRAGMA synchronous = NORMAL")
        with pytest.raises(BadConfiguration, match="synchronous = 1"):
            check_durable(db)
        db.execute("PRAGMA journal_mode = DELETE")
        with pytest.raises(BadConfiguration, match="journal_mode = delete"):
            check_durable(db)


def test_open_store_by_address(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address chooses the store; a relative file is meant from where one stands."""
    assert isinstance(open_store("memory://", create=False), MemoryStore)
    monkeypatch.chdir(database.parent)
    with closing(open_store("sqlite:///log.db", create=True)) as store:
        monkeypatch.chdir("/")
        fill(store, 1)
        assert store.head().size == 1
    assert database.is_file()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "log.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a.db?",
        "sqlite:///file:a.db",
        "mysql://h/db",
    ],
)
def test_address_of_no_store_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no address of a store is bad configuration, and makes no file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfiguration, match="sqlite:///FILE"):
        open_store(url, create=True)
    assert list(tmp_path.iterdir()) == []


def test_password_in_a_refused_address_is_not_shown() -> None:
    """An error message ends up in logs."""
    with pytest.raises(BadConfiguration) as caught:
        open_store("mysql://me:hunter2@host/db", create=True)
    assert "hunter2" not in str(caught.value)


BALLAST: Final = (
    "CREATE TRIGGER a AFTER INSERT ON entries BEGIN INSERT INTO ballast VALUES (zeroblob(100000)); END",
    "CREATE TRIGGER b AFTER DELETE ON contents BEGIN INSERT INTO ballast VALUES (zeroblob(100000)); END",
    "CREATE TRIGGER c AFTER INSERT ON pulse BEGIN INSERT INTO ballast VALUES (zeroblob(100000)); END",
)
"""Makes even the smallest write need room."""


@pytest.mark.parametrize(
    "write",
    [
        lambda store: fill(store, 200),
        lambda store: store.erase([content(b"kept" * 9_000).digest]),
        lambda store: store.pulse(2),
    ],
)
def test_full_disk_is_away_and_changes_nothing(database: Path, write: Callable[[SqliteStore], object]) -> None:
    """A write that finds no room is rolled back; with room again the same write succeeds."""
    with opened(database) as store:
        with store.batch() as batch:
            batch.keep([content(b"kept" * 9_000)], [])
        assert store._db is not None
        # SQLite's own bound on the size of its file stands for the disk's.
        store._db.execute("CREATE TABLE ballast (data BLOB)")
        for trigger in BALLAST:
            store._db.execute(trigger)
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreAway, match="full"):
            write(store)
        assert store.head() == Head(0, b"")
        assert store.content([content(b"kept" * 9_000).digest])
        assert store.last_pulse() is None
        store._db.execute("PRAGMA max_page_count = 1000000")
        write(store)


def test_reading_from_a_file_that_is_gone_is_away(database: Path) -> None:
    """A reader that cannot be opened takes no connection with it: each later one is told the same."""
    with opened(database) as store:
        database.unlink()
        for _ in range(READERS + 1):
            with pytest.raises(StoreAway, match="unable to open"):
                store.head()
