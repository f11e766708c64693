"""What a PostgreSQL store adds to the contract: many processes, and a server that can go away and come back."""

from __future__ import annotations

import builtins
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from gnexec import migrate
from gnexec.errors import BadConfiguration, CorruptLog, StoreAway
from gnexec.store import open_reader, open_store, pgwrites
from gnexec.store.contract import Append, Entry, Grant, Head
from gnexec.store.pgaddress import PgAddress
from gnexec.store.pglink import Call, Link, Lost, Statement
from gnexec.store.pgpool import READERS
from gnexec.store.pgsession import IDLE_S, SETTINGS, check_facts
from gnexec.store.pgvalues import int8
from gnexec.store.pgwrites import COPY_FROM, COPY_FROM_BYTES
from gnexec.store.postgres import PULSE, PostgresStore
from tests.databases import Cluster, shared
from tests.store.stores import content, entry, fill, grow, note

ROOT: Final = Path(__file__).parents[2]

LONG_S: Final = 60.0
"""What has not happened by then does not happen."""


@pytest.fixture
def url() -> Iterator[str]:
    """Lend an empty database of the server that all tests share."""
    with shared().database() as url:
        yield url


@pytest.fixture
def own() -> Iterator[Cluster]:
    """Lend a server that this test may kill."""
    with Cluster() as cluster:
        yield cluster


@contextmanager
def opened(url: str) -> Iterator[PostgresStore]:
    """Open a store, and close it."""
    with closing(PostgresStore(url, create=True)) as store:
        yield store


def raw(url: str, statement: str) -> list[tuple[object, ...]]:
    """Change the database behind everybody's back, or look into it."""
    with psycopg.connect(url, autocommit=True) as db:
        cursor = db.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def whole(url: str) -> int:
    """Make sure that the log has every entry, and return its size."""
    with opened(url) as store:
        size = store.head().size
        assert store.head().note == (note(size) if size else b"")
        assert store.entries(0, size + 1) == [entry(seq) for seq in range(size)]
        assert [seq for seq, _ in store.story(b"all")] == list(range(size))
        return size


@contextmanager
def appending(url: str, *, to: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Start a process that appends, for ever or until the log has `to` entries; kill it at last."""
    command = [sys.executable, "-m", "tests.store.appender", url, str(to)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the sizes that the process has acknowledged."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith("\n"):
            yield int(line)


# Many processes, one log.


def test_two_processes_appending_in_turn_never_fork_the_log(url: str) -> None:
    """Thousands of entries of two processes stand in one order, each acknowledged size once, and none is missing."""
    PostgresStore(url, create=True).close()
    with appending(url, to=4_000) as one, appending(url, to=4_000) as two, ThreadPoolExecutor(2) as threads:
        acknowledged = [list(sizes) for sizes in threads.map(lines, (one, two))]
    assert all(len(sizes) > 100 for sizes in acknowledged), "one of them was kept out"
    together = acknowledged[0][1:] + acknowledged[1][1:]
    assert len(set(together)) == len(together)
    assert all(sizes == sorted(sizes) for sizes in acknowledged)
    assert whole(url) == max(together) >= 4_000


def test_killed_process_frees_the_lock_and_leaves_whole_commits(url: str) -> None:
    """Whoever is killed while appending holds up nobody, and loses nothing acknowledged."""
    with opened(url) as store:
        with appending(url) as process:
            acknowledged = [size for size, _ in zip(lines(process), range(50), strict=False)]
            process.kill()
            acknowledged += lines(process)
        fill(store, 1, b"all")
        assert store.head().size > max(acknowledged)
    whole(url)


def test_servers_starting_at_once_make_the_schema_once(url: str) -> None:
    """Of many that find an empty database, one makes the tables and all open the log."""
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: PostgresStore(url, create=True), range(8)))
    for store in stores:
        fill(store, 1, b"all")
        store.close()
    assert whole(url) == 8
    assert raw(url, "SELECT count(*) FROM alembic_version") == [(1,)]


def test_alone_until_another_has_the_log_open(url: str) -> None:
    """A server knows of every other, also of one that only listens; readers and another schema's log do not count."""
    with opened(url) as one:
        assert one.alone()
        with closing(open_reader(url)), opened(in_schema(url, "elsewhere")):
            assert one.alone()
        with opened(url) as two:
            assert not one.alone()
            assert not two.alone()
            raw(url, f"SELECT pg_terminate_backend({two._pids['writer']})")
            await_that(one.alone)
            two.watch(lambda: None)
            await_that(lambda: not one.alone())
            two.pulse(1)
        await_that(one.alone)
        one.watch(lambda: None)
        await_that(lambda: "watch" in one._pids)
        assert one.alone()


def await_that(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    waiting, until = threading.Event(), time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < until
        waiting.wait(0.01)


def in_schema(url: str, name: str) -> str:
    """Make a schema of that name, and return the address that works in it."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
    return f"{url}&options=-csearch_path%3D%22{name}%22"


def test_logs_in_two_schemas_of_a_database_do_not_meet(url: str) -> None:
    """Neither entries nor locks nor notifications are shared."""
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    with opened(in_schema(url, "One-Log")) as one, opened(in_schema(url, "two")) as two:
        one.watch(lambda: heard.put("one"))
        assert heard.get(timeout=LONG_S) == "one"
        with one.batch() as batch:
            batch.append(grow(0, 3))
            fill(two, 2)
        assert (one.head().size, two.head().size) == (3, 2)
        fill(two, 1)
        with closing(PostgresStore(in_schema(url, "One-Log"))) as other:
            fill(other, 1)
            assert heard.get(timeout=LONG_S) == "one"
        assert heard.empty()
    with opened(url) as store:
        assert store.head().size == 0


def test_commit_of_another_wakes_and_own_does_not(url: str) -> None:
    """Whoever watches hears of others' commits soon, of its own not, and of nothing after `close`."""
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    noticed: queue.SimpleQueue[bool] = queue.SimpleQueue()

    class Noticing(PostgresStore):
        def _wrote(self, pid: int) -> bool:
            own = super()._wrote(pid)
            noticed.put(own)
            return own

    with closing(Noticing(url, create=True)) as one, opened(url) as two:
        one.watch(lambda: heard.put(1))
        heard.get(timeout=LONG_S)
        fill(one, 1)
        assert noticed.get(timeout=LONG_S)
        one.pulse(3)
        with two.batch():
            pass
        fill(two, 1)
        assert not noticed.get(timeout=LONG_S)
        heard.get(timeout=LONG_S)
        assert heard.empty()
        assert noticed.empty()
        one.close()
        fill(two, 1)
        assert heard.empty()
        with pytest.raises(StoreAway, match="closed"):
            one.watch(lambda: None)
        two.watch(lambda: None)
        later: queue.Queue[int] = queue.Queue()
        two.watch(lambda: later.put(1))  # in the place of the former; the first call tells that it listens
        assert later.get(timeout=60) == 1


def test_head_read_under_the_lock_is_the_newest_whatever_the_role_says(url: str) -> None:
    """A role whose transactions see a snapshot of their beginning would read an old head; ours do not."""
    name = conninfo_to_dict(url)["dbname"]
    for setting in (
        "default_transaction_isolation = 'repeatable read'",
        "lock_timeout = 1",
        "DateStyle = 'German'",
        "client_encoding = 'LATIN1'",
        "default_transaction_read_only = on",
    ):
        raw(url, f"ALTER DATABASE {name} SET {setting}")
    with opened(url) as one, opened(url) as two:
        with ThreadPoolExecutor(1) as thread:
            with one.batch() as batch:
                batch.append(grow(0, 2))
                waiting = thread.submit(fill, two, 3)
                await_that(lambda: raw(url, "SELECT 1 FROM pg_locks WHERE NOT granted") != [])
            waiting.result()
        assert two.entries(0, 9) == [entry(seq) for seq in range(5)]


def test_lock_held_too_long_by_another_is_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not get its turn gives up with clear words, and the store goes on afterwards."""
    monkeypatch.setitem(SETTINGS, "lock_timeout", "10ms")
    with opened(url) as one, opened(url) as two:
        with one.batch() as batch:
            batch.append(grow(0, 1))
            with pytest.raises(StoreAway, match="another process has held the lock too long"):
                fill(two, 1)
        fill(two, 1)
        assert one.head().size == 2


def test_process_that_holds_the_lock_in_silence_loses_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stands still, or whose machine vanished, cannot stop all the others; it commits nothing later."""
    assert SETTINGS["idle_in_transaction_session_timeout"] == f"{IDLE_S}s"
    monkeypatch.setitem(SETTINGS, "idle_in_transaction_session_timeout", "50ms")
    with opened(url) as one, opened(url) as two:

        def stand_still() -> None:
            with one.batch() as batch:
                batch.append(grow(0, 1))
                fill(two, 3)

        with pytest.raises(StoreAway, match="unknown whether"):
            stand_still()
        assert one.entries(0, 9) == [entry(seq) for seq in range(3)]
        fill(one, 1)
        assert two.head().size == 4


# A server that goes away and comes back.


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_restart_between_batches_is_felt_by_nobody(own: Cluster, how: str) -> None:
    """After a restart each kind of call works at the first attempt, and the watcher is told that it may have missed."""
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    with opened(own.new_database()) as store, ThreadPoolExecutor(4) as threads:
        fill(store, 2, b"all")
        store.watch(lambda: heard.put(1))
        heard.get(timeout=LONG_S)
        list(threads.map(lambda _: store.head(), range(8)))
        own.restart(how)
        assert store.entries(0, 9) == [entry(0), entry(1)]
        own.restart(how)
        fill(store, 1, b"all")
        own.restart(how)
        store.pulse(7)
        heard.get(timeout=LONG_S)
        assert store.last_pulse() == 7
        assert store.alone()
        assert [seq for seq, _ in store.story(b"all")] == [0, 1, 2]


def test_server_that_is_down_is_away_and_nothing_hangs(own: Cluster) -> None:
    """While the server is down every call says so; when it is up again, every call works."""
    with opened(own.new_database()) as store:
        fill(store, 1)
        own.stop()
        calls: list[Callable[[], object]] = [
            lambda: fill(store, 1), store.head, store.alone, store.ping, lambda: store.pulse(1),
            lambda: list(store.refs()), lambda: store.erase([b"x" * 32]),
        ]  # fmt: skip
        for call in calls:
            for _ in range(2):
                with pytest.raises(StoreAway, match="cannot be reached"):
                    call()
        own.start()
        for call in calls:
            call()
        assert store.head().size == 2


def test_server_killed_in_a_batch_keeps_nothing_of_it(own: Cluster) -> None:
    """A batch whose server dies before the commit is in doubt for the caller, and gone from the log."""
    with opened(own.new_database()) as store:
        fill(store, 2)

        def die_before_the_commit() -> None:
            with store.batch() as batch:
                batch.append(grow(2, 3))
                assert len(batch.entries(0, 9)) == 5
                own.kill()

        with pytest.raises(StoreAway, match="unknown whether"):
            die_before_the_commit()
        own.start()
        assert store.entries(0, 9) == [entry(0), entry(1)]
        fill(store, 3)
        assert store.head() == Head(5, note(5))


class DiesAtItsCommit(PostgresStore):
    """A store whose server dies while a commit is on its way, sooner or later."""

    server: Cluster
    delay_s = -1.0
    killer: threading.Timer | None = None

    def _commit(self, link: Link, rest: list[Call]) -> None:
        if self.killer is None and self.delay_s >= 0:
            self.killer = threading.Timer(self.delay_s, self.server.kill)
            self.killer.start()
        super()._commit(link, rest)


def test_server_killed_at_a_commit_keeps_all_of_it_or_nothing(own: Cluster) -> None:
    """Whatever the moment, each batch is there whole or not at all, and an acknowledged one is there."""
    url = own.new_database()
    store = DiesAtItsCommit(url, create=True)
    store.server = own
    acknowledged = 0
    for delay_ms in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        store.delay_s = delay_ms / 1000
        try:
            while True:
                size = store.head().size
                fill(store, 200, b"all")
                acknowledged = size + 200
        except StoreAway:
            pass
        assert store.killer is not None
        store.killer.join()
        store.delay_s, store.killer = -1.0, None
        own.start()
        size = store.head().size
        assert size % 200 == 0
        assert size >= acknowledged
        acknowledged = size
    store.close()
    assert whole(url) == acknowledged


def test_process_appending_over_restarts_loses_and_doubles_nothing(own: Cluster) -> None:
    """A client that asks again whenever it was in doubt ends with a log that has each entry once."""
    url = own.new_database()
    PostgresStore(url, create=True).close()
    with appending(url) as process:
        sizes = lines(process)
        last = 0
        for how in ("fast", "immediate", "kill"):
            for _ in range(20):
                size = next(sizes)
                assert size >= last
                last = size
            own.kill() if how == "kill" else own.stop(how)
            own.start()
        last = max(next(sizes) for _ in range(20))
        process.kill()
    assert whole(url) >= last


def test_server_that_stands_still_is_away_in_bounded_time(own: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server, or a network, that swallows everything is told from a slow one; then the store goes on."""
    monkeypatch.setattr("gnexec.store.pglink.ANSWER_S", 0.05)
    with opened(own.new_database()) as store:
        fill(store, 1)
        link = store._writer()
        with own.frozen(), pytest.raises(Lost, match="has not answered for"):
            link.ask()
        monkeypatch.setattr("gnexec.store.pglink.ANSWER_S", 20.0)
        fill(store, 1)
        assert store.head().size == 2


def test_watcher_of_a_server_that_stands_still_connects_again(own: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is not taken for peace: the watcher asks, and begins anew."""
    monkeypatch.setattr("gnexec.store.pgwatch.SILENCE_S", 0.05)
    monkeypatch.setattr("gnexec.store.pgwatch.RETRY_S", 0.01)
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    with opened(own.new_database()) as store:
        store.watch(lambda: heard.put(1))
        heard.get(timeout=LONG_S)
        with own.frozen():
            monkeypatch.setattr("gnexec.store.pglink.ANSWER_S", 0.05)
            pid = store._pids["watch"]
            threading.Event().wait(0.3)
            monkeypatch.setattr("gnexec.store.pglink.ANSWER_S", 20.0)
        heard.get(timeout=LONG_S)
        assert store._pids["watch"] != pid


def test_log_that_came_back_shorter_is_corrupt_and_not_appended_to(url: str) -> None:
    """A backup, or a standby that was behind, never becomes a second history of what was acknowledged."""
    with opened(url) as store:
        fill(store, 5)
        raw(url, "DELETE FROM entries WHERE seq >= 3; UPDATE head SET size = 3")
        for _ in range(2):
            with pytest.raises(CorruptLog, match="3 entries and had 5"):
                fill(store, 1)
        assert store.head().size == 3


# What is read and written.


@pytest.mark.parametrize("count", [1, COPY_FROM - 1, COPY_FROM, 3 * COPY_FROM])
def test_batch_of_any_size_is_the_same_log(url: str, count: int) -> None:
    """Whether entries go as arrays or are copied, they are the same bytes."""
    with opened(url) as store:
        fill(store, count, b"all", b"every")
        with store.batch() as batch:
            batch.append(grow(count, count, b"all"))
            assert len(batch.entries(0, 9 * count)) == 2 * count
            batch.append(grow(2 * count, 1, b"all"))
            batch.keep([content(b"x")], [Grant("o", "d")])
        assert store.content([content(b"x").digest])
    assert whole(url) == 2 * count + 1


def test_batch_of_many_bytes_is_copied(url: str) -> None:
    """A few large payloads, and a great many refs, pass PostgreSQL's bounds on one value."""
    large = Entry(b"l", b"s", b"\xa5" * COPY_FROM_BYTES)
    refs = [(b"%d" % key, 0) for key in range(25_000)]
    with opened(url) as store:
        with store.batch() as batch:
            batch.append(Append([large, large], refs, [], note(2)))
        assert store.entries(0, 2) == [large, large]
        assert len(list(store.refs())) == 25_000


def test_copy_that_the_server_refuses_changes_nothing(url: str) -> None:
    """Rows that are there already end a copy, and the connection is of use again."""
    with opened(url) as store:
        raw(url, "INSERT INTO entries VALUES (512, '', '', '')")
        for _ in range(2):
            with pytest.raises(CorruptLog, match="already holds"):
                fill(store, 2 * COPY_FROM)
        assert store.head().size == 0
        fill(store, 1)


def test_entry_beyond_the_head_is_a_corrupt_log(url: str) -> None:
    """A seq that is taken is never written over."""
    with opened(url) as store:
        raw(url, "INSERT INTO entries VALUES (0, '', '', '')")
        with pytest.raises(CorruptLog, match="already"):
            fill(store, 1)
        assert store.head().size == 0


@pytest.mark.parametrize(("start", "gone"), [(0, 0), (0, 2), (2, 2), (1, 3)])
def test_entry_lost_from_the_middle_is_a_corrupt_log(url: str, start: int, gone: int) -> None:
    """Reading over a gap names it, and never moves later entries to earlier places."""
    with opened(url) as store:
        fill(store, 5)
        raw(url, f"DELETE FROM entries WHERE seq = {gone}")  # noqa: S608 - a number of this test's
        with pytest.raises(CorruptLog) as caught:
            store.entries(start, 5)
        assert caught.value.seq == gone


@pytest.mark.parametrize(
    ("damage", "first_bad"),
    [
        ("DELETE FROM entries WHERE seq = 4", 4),
        ("UPDATE head SET size = 9", 5),
        ("UPDATE head SET size = 2", 2),
        ("DELETE FROM head", None),
    ],
)
def test_entries_that_do_not_reach_the_head_are_a_corrupt_log(url: str, damage: str, first_bad: int | None) -> None:
    """Rows lost or left over at the end are found when the log is opened; a refusal leaves no connection behind."""
    with opened(url) as store:
        fill(store, 5)
    raw(url, damage)
    with pytest.raises(CorruptLog) as caught:
        PostgresStore(url)
    assert caught.value.seq == first_bad
    migrate.upgrade(url)
    await_that(lambda: raw(url, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'gnexec'") == [])


def test_clock_is_the_database_s_and_runs_on_within_a_batch(url: str) -> None:
    """Milliseconds of the server, read with the lock, so that servers with other clocks agree."""
    with opened(url) as store, psycopg.connect(url, autocommit=True) as db:

        def theirs() -> int:
            row = db.execute("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::int8").fetchone()
            assert row is not None
            return int(row[0])

        before = theirs()
        with store.batch() as batch:
            first = batch.clock_ms()
            await_that(lambda: batch.clock_ms() > first)
        assert before <= first <= theirs()


def test_readers_beyond_the_bound_wait_and_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many readers as there are connections; the next one waits, and is told to try again."""
    monkeypatch.setattr("gnexec.store.pgpool.PATIENCE_S", 0.01)
    with opened(url) as store:
        fill(store, 2, b"a", b"b")
        slow = [iter(store.refs()) for _ in range(READERS)]
        for reader in slow:
            assert next(reader) == (b"a", 0)
        with pytest.raises(StoreAway, match="in use"):
            store.head()
        for reader in slow:
            assert list(reader) == [(b"a", 1), (b"b", 0), (b"b", 1)]
        assert store.head().size == 2


def test_refs_that_take_longer_than_a_statement_may_are_replaced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are thrown away in steps, none of which comes near the timeout; readers see the old ones until the end."""
    monkeypatch.setitem(SETTINGS, "statement_timeout", "1s")
    monkeypatch.setattr(pgwrites, "BLOCKS", 1)
    with opened(url) as store:
        fill(store, 200, b"k" * 1_000)  # seven to a block
        slow = "BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END"
        raw(url, f"CREATE FUNCTION slow() RETURNS trigger AS '{slow}' LANGUAGE plpgsql")
        raw(url, "CREATE TRIGGER slow BEFORE DELETE ON refs FOR EACH ROW EXECUTE FUNCTION slow()")
        with store.batch() as batch:
            batch.replace_refs([(b"new", 7)])
            assert len(list(store.refs())) == 200
            assert batch.story(b"k" * 1_000) == []
        assert list(store.refs()) == [(b"new", 7)]


def test_readers_cannot_write(url: str) -> None:
    """The server refuses a change through a connection that is for reading."""
    with opened(url) as store, store._readers.borrow() as link, pytest.raises(StoreAway, match="read-only"):
        link.ask(Call(PULSE, (int8(1),)))


def test_plans_made_for_an_empty_log_stay_right_for_a_long_one(url: str) -> None:
    """Each look-up goes by its primary key, however the tables have grown since it was planned."""
    with opened(url) as store:
        fill(store, 2, b"1")
    raw(url, "ANALYZE")  # now PostgreSQL knows how small the tables are
    with opened(url) as store:
        store.entries(0, 1)
        store.story(b"1")
        with store._readers.borrow() as link:
            plans = link.ask(
                *(Call(Statement(name, b"EXPLAIN EXECUTE " + name)) for name in (b"entries(0, 1)", b"story('1')"))
            )
        for plan in plans:
            text = b"\n".join(plan.get_value(row, 0) or b"" for row in range(plan.ntuples))
            assert b"Index Scan" in text
            assert b"Seq Scan" not in text


# What is refused, and how it is said.


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (0, b"130012", "is PostgreSQL 13. Use 14 or newer"),
        (1, b"off", "fsync = off.* Set fsync = on"),
        (2, b"off", "full_page_writes = off.* Set full_page_writes = on"),
        (3, b"off", "synchronous_commit = off.* Set synchronous_commit = on"),
        (5, None, "no schema to work in"),
    ],
)
def test_server_that_may_lose_commits_is_refused(place: int, value: bytes | None, match: str) -> None:
    """Each setting that durability rests on is named, with what to change."""
    facts: list[bytes | None] = [b"160002", b"on", b"on", b"on", b"false", b"public", (7).to_bytes(8)]
    address = PgAddress.parse("postgresql://h/d")
    assert check_facts(address, facts, writes=True).schema == 7
    facts[place] = value
    with pytest.raises(BadConfiguration, match=match):
        check_facts(address, facts, writes=True)


def test_weak_durability_is_refused_at_start_and_at_each_reconnection(own: Cluster) -> None:
    """A real server without fsync is not begun with; one that lost it while in use is away."""
    url = own.new_database()
    with opened(url) as store:
        own.options = ("fsync=off",)
        own.restart()
        with pytest.raises(StoreAway, match="fsync = off"):
            fill(store, 1)
        with pytest.raises(BadConfiguration, match="Set fsync = on"):
            PostgresStore(url)
        own.options = ()
        own.restart()
        fill(store, 1)
    role = "ALTER ROLE postgres SET synchronous_commit = off"
    raw(url, role)
    with pytest.raises(BadConfiguration, match="synchronous_commit = off"):
        PostgresStore(url)


def test_standby_is_away(own: Cluster) -> None:
    """A server in recovery takes no log: after a fail-over its address is not yet the right one."""
    url = own.new_database()
    with opened(url) as store:
        fill(store, 1)
        store.ping()
        own.stop()
        own.become_standby()
        own.start()
        with pytest.raises(StoreAway, match="standby"):
            store.ping()
        with pytest.raises(StoreAway, match="standby"):
            fill(store, 1)
        assert store.head().size == 1
        with closing(open_reader(url)) as reader:
            assert reader.entries(0, 9) == [entry(0)]
        with pytest.raises(StoreAway, match="standby"):
            PostgresStore(url)


def test_role_without_rights_is_told_what_to_mend(url: str) -> None:
    """A role that may not make or use the tables is the operator's to mend, before anything is served."""
    raw(url, "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN")
    guest = url.replace("//postgres@", "//guest@")
    with pytest.raises(BadConfiguration, match="permission denied for schema public"):
        PostgresStore(guest, create=True)
    PostgresStore(url, create=True).close()
    with pytest.raises(BadConfiguration, match="permission denied"):
        PostgresStore(guest)
    raw(url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")
    with closing(PostgresStore(guest)) as store:
        assert store.head().size == 0
        with pytest.raises(StoreAway, match="permission denied"):
            fill(store, 1)
        with pytest.raises(StoreAway, match="permission denied"):
            store.pulse(1)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (("/test_", "/nowhere_"), BadConfiguration, "nowhere_.* cannot be opened:.*does not exist"),
        (("//postgres@", "//nobody@"), BadConfiguration, 'cannot be opened:.*role "nobody" does not exist'),
        (("gnexec-pg-", "no-such-folder-"), StoreAway, "cannot be reached"),
    ],
)
def test_database_that_cannot_be_opened_says_why(
    url: str, change: tuple[str, str], error: type[Exception], match: str
) -> None:
    """No such database or role is the operator's to mend; no server there may pass."""
    for attempt in (
        lambda: open_store(url.replace(*change), create=True),
        lambda: migrate.upgrade(url.replace(*change)),
    ):
        with pytest.raises(error, match=match):
            attempt()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host@h/db",
        "postgresql://me:hunt/er2@h/db",
        "postgresql://me:hunt?er2@h/db",
        "postgresql://me:hunt%er2@h/db",
        "postgresql://me:hunter2/db",
        "postgresql://h/db?hunter2",
        "postgresql://h/db?password=hunter2&color=red",
        "postgresql:me:hunter2@h/db",
        "postgresql+psycopg://me:hunter2@h:hunter2/db",
    ],
)
def test_address_that_cannot_be_understood_is_refused_without_repeating_it(url: str) -> None:
    """A password with a sign that means something in an address ends up anywhere but where it is hidden."""
    for attempt in (lambda: open_store(url, create=True), lambda: migrate.upgrade(url), lambda: migrate.current(url)):
        with pytest.raises(BadConfiguration, match="write @ as %40") as caught:
            attempt()
        assert "hunt" not in str(caught.value)
        assert "er2" not in str(caught.value)


def test_password_is_in_no_message(own: Cluster) -> None:
    """Neither a refused password nor an unreachable host shows it, in any text that an error leads to."""
    secret = "hunter2/@:"
    raw(own.url(), f"CREATE ROLE me LOGIN PASSWORD '{secret}'")
    own.demand_passwords()
    url = own.url().replace("//postgres@", "//me:{}@")
    for password in ("hunter3", "hunter2%2F%40%3A%20"):
        with pytest.raises(BadConfiguration, match="password authentication failed") as caught:
            open_store(url.format(password), create=True)
        assert "hunter" not in "".join(traceback.format_exception(caught.value)).replace("test_password", "")
    address = PgAddress.parse(url.format("hunter2%2F%40%3A"))
    assert "hunter" not in f"{address} {address!r} {address.shown}"
    Link(address).close()
    own.stop()
    with pytest.raises(StoreAway) as away:
        open_store(url.format("hunter2%2F%40%3A"), create=True)
    assert "hunter" not in str(away.value)


def test_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for PostgreSQL without its extra is told the command."""
    real = builtins.__import__

    def without_psycopg(name: str, *rest: Any) -> Any:  # noqa: ANN401 - the shape of `__import__`
        if name.split(".", maxsplit=1)[0] == "psycopg":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_psycopg)
    for attempt in (lambda: open_store("postgresql://h/d", create=True), lambda: migrate.upgrade("postgresql://h/d")):
        with pytest.raises(BadConfiguration, match=r"pip install 'gnexec\[postgresql\]'"):
            attempt()


def test_second_postgresql_version_passes_too() -> None:
    """An older server, as distributions have it, does the same."""
    with Cluster(version=16) as cluster:
        url = cluster.new_database()
        with opened(url) as store:
            for count in (1, 5, 2 * COPY_FROM):
                fill(store, count, b"all")
            assert store.alone()
        assert whole(url) == 6 + 2 * COPY_FROM
