"""Caches that are not what the log makes them are found and named; refs can be written anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.audit.local import LocalLog
from gnexec.audit.replay import Replayed, repair_refs, replay
from gnexec.core.refs import job_key
from gnexec.core.world import World
from gnexec.errors import BadConfiguration, CorruptLog
from gnexec.store.memory import MemoryStore
from gnexec.store.sqlite import SqliteStore
from tests.audit.logs import Dispatcher, eventful, long


def tampered(data: Path, sql: str, *values: object) -> Replayed:
    """Change a server's database behind its back, and replay it."""
    with closing(sqlite3.connect(data / "log.sqlite")) as db, db:
        assert db.execute(sql, values).rowcount > 0
    with LocalLog(data / "log.sqlite", still=True) as log:
        return replay(log)


def difference(found: Replayed) -> tuple[str, str]:
    """Return the one difference that was found."""
    (only,) = found.differences
    return only.cache, only.detail


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the data folder of a log with one full tile."""
    return long().store(tmp_path / "data")


def test_store_as_its_server_left_it_is_what_the_log_makes() -> None:
    """An honest store has no difference, and the world folds to where the dispatcher had it."""
    desk = eventful()
    store = MemoryStore()
    with store.batch() as batch:
        batch.append(desk.sealed())
    found = replay(store)
    assert (found.size, found.differences) == (desk.size, ())
    assert (found.open_jobs, found.workers) == (len(desk.world.jobs), 3)
    assert found.refs == len(list(store.refs()))


def test_store_in_use_by_a_server_can_be_replayed(data: Path) -> None:
    """Replay takes no lock."""
    with closing(SqliteStore(data / "log.sqlite")), LocalLog(data / "log.sqlite", still=True) as log:
        assert replay(log).differences == ()


def test_ref_that_is_missing_is_named(data: Path) -> None:
    """A job whose entry is filed nowhere is named, with the entry."""
    found = tampered(data, "DELETE FROM refs WHERE key = ? AND seq = ?", job_key(7), 30)
    assert difference(found) == ("refs", "jobs 0 to 7 at entry 30 is missing (missing: 1, too many: 0)")


def test_ref_that_leads_elsewhere_is_named(data: Path) -> None:
    """A ref that was bent is one that is missing and one that is too many."""
    found = tampered(data, "UPDATE refs SET seq = 1 WHERE key = ? AND seq = ?", job_key(7), 30)
    cache, detail = difference(found)
    assert cache == "refs"
    assert detail == "jobs 0 to 7 at entry 1 is too many (missing: 1, too many: 1)"


def test_all_refs_lost_are_counted(data: Path) -> None:
    """A cache that is gone is counted, not listed."""
    found = tampered(data, "DELETE FROM refs")
    assert f"missing: {found.refs}," in difference(found)[1]


def test_tile_that_was_altered_is_named(data: Path) -> None:
    """A tile whose bytes are not the hashes of its entries is named."""
    found = tampered(data, "UPDATE tiles SET data = zeroblob(8192) WHERE level = 0 AND idx = 0")
    assert difference(found) == ("tiles", "0/0 differs")


def test_tile_that_is_missing_is_named(data: Path) -> None:
    """A full tile that is not there is named."""
    assert difference(tampered(data, "DELETE FROM tiles")) == ("tiles", "0/0 differs")


@pytest.mark.parametrize("tile", [(0, 1), (1, 0)])
def test_tile_that_is_not_due_yet_is_named(data: Path, tile: tuple[int, int]) -> None:
    """A tile that the log has not filled would stand in the way when it does."""
    found = tampered(data, "INSERT INTO tiles (level, idx, data) VALUES (?, ?, zeroblob(8192))", *tile)
    assert difference(found) == ("tiles", f"{tile[0]}/{tile[1]} differs")


def test_head_of_another_log_is_named(data: Path, tmp_path: Path) -> None:
    """A checkpoint that does not commit to these entries is named."""
    other = long(79)
    with LocalLog(other.store(tmp_path / "other") / "log.sqlite") as log:
        note = log.note
    found = tampered(data, "UPDATE head SET note = ?", note)
    assert difference(found)[0] == "head"
    found = tampered(data, "UPDATE head SET note = ?", note.replace(b"\n319\n", b"\n318\n"))
    assert difference(found)[0] == "head"


def test_entry_that_was_altered_is_named(data: Path) -> None:
    """What a leaf does not commit to is no cache: it is damage, at that entry."""
    with pytest.raises(CorruptLog) as caught:
        tampered(data, "UPDATE entries SET salt = zeroblob(16) WHERE seq = 40")
    assert caught.value.seq == 40


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET leaf = CAST(leaf AS TEXT) WHERE seq = 41",
        "UPDATE entries SET salt = CAST(salt AS TEXT) WHERE seq = 41",
        "UPDATE entries SET payload = CAST(payload AS TEXT) WHERE seq = 41",
    ],
)
def test_entry_that_is_text_in_the_database_is_named(data: Path, sql: str) -> None:
    """SQLite keeps text, too, where bytes belong; that is damage, and no traceback."""
    with pytest.raises(CorruptLog, match="not made of bytes") as caught:
        tampered(data, sql)
    assert caught.value.seq == 41


def test_head_or_tile_that_is_text_in_the_database_is_named(data: Path) -> None:
    """The same holds for what is kept beside the entries."""
    assert difference(tampered(data, "UPDATE tiles SET data = 'text'"))[0] == "tiles"
    with pytest.raises(CorruptLog, match="the head"):
        tampered(data, "UPDATE head SET note = 'text'")


def test_entry_that_does_not_follow_is_named(tmp_path: Path) -> None:
    """A log that does not fold is damage, at the entry that does not fit."""
    desk = Dispatcher()
    desk.enrol("ann")
    desk.submit(1)
    event = desk.take("ann")
    data = tmp_path / "data"
    desk.forge(event)
    desk.store(data)
    with pytest.raises(CorruptLog) as caught, LocalLog(data / "log.sqlite") as log:
        replay(log)
    assert caught.value.seq == desk.size - 1


@given(st.data())
def test_repaired_refs_are_those_of_the_log(draw: st.DataObject) -> None:
    """Whatever became of the refs, writing them anew gives what the log makes."""
    store = MemoryStore()
    with store.batch() as batch:
        batch.append(eventful().sealed())
    honest = list(store.refs())
    kept = draw.draw(st.sets(st.sampled_from(honest)))
    strange = draw.draw(st.sets(st.tuples(st.binary(max_size=4), st.integers(0, 40))))
    with store.batch() as batch:
        batch.replace_refs(kept | strange)
    found = replay(store)
    assert bool(found.differences) == ((kept | strange) != set(honest))
    assert repair_refs(store) == len(honest)
    assert list(store.refs()) == honest
    assert replay(store).differences == ()


def test_repair_of_a_damaged_log_changes_nothing() -> None:
    """Refs are not made from entries that cannot be believed."""
    store = MemoryStore()
    desk = eventful()
    append = desk.sealed()
    with store.batch() as batch:
        batch.append(append)
    store._shelf.entries[9] = store._shelf.entries[8]
    before = list(store.refs())
    with pytest.raises(CorruptLog) as caught:
        repair_refs(store)
    assert caught.value.seq == 9
    assert list(store.refs()) == before


def test_database_without_entries_is_refused_with_words(tmp_path: Path) -> None:
    """A log that was never opened has nothing to replay."""
    SqliteStore(tmp_path / "log.sqlite", create=True).close()
    with pytest.raises(BadConfiguration, match="no entry yet"):
        LocalLog(tmp_path / "log.sqlite")
    assert World().size == 0
