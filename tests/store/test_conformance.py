"""What every store must do: the contract's rules, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import pytest

from gnexec.errors import CorruptLog, StoreAway
from gnexec.store.contract import Append, Batch, Content, Entry, Grant, Head, Store
from gnexec.store.memory import Fault
from gnexec.tlog.tiles import Tile
from tests.store.stores import Make, content, entry, fill, grow, note

DIGEST: Final = "ab" * 32
TILE: Final = Tile(0, 3, bytes(range(256)) * 32)


class Boom(Exception):
    """What a caller's own code raises inside a batch."""


def write_everything(batch: Batch) -> None:
    """Write something of each kind."""
    start = batch.head().size
    batch.append(Append([entry(start)], [(b"job 1", start)], [TILE], note(start + 1)))
    batch.keep([content(b"secret")], [Grant("o1", DIGEST)])


def everything(store: Store) -> tuple[object, ...]:
    """Return all that can be read."""
    return (
        store.head(),
        store.entries(0, 1_000),
        store.story(b"job 1"),
        store.tile(0, 3),
        store.content([content(b"secret").digest]),
        store.granted("o1", [DIGEST]),
        list(store.refs()),
        store.last_pulse(),
    )


NOTHING: Final[tuple[object, ...]] = (Head(0, b""), [], [], None, {}, set(), [], None)
WRITTEN: Final[tuple[object, ...]] = (
    Head(1, note(1)),
    [entry(0)],
    [(0, entry(0))],
    TILE.data,
    {content(b"secret").digest: content(b"secret")},
    {DIGEST},
    [(b"job 1", 0)],
    None,
)


def test_new_store_is_empty(store: Store) -> None:
    """A new log has size 0 and no checkpoint, and nothing can be found in it."""
    assert everything(store) == NOTHING
    store.ping()


def test_batch_leaving_without_error_commits_all_of_it(store: Store) -> None:
    """What a batch wrote is there when it has ended."""
    with store.batch() as batch:
        write_everything(batch)
    assert everything(store) == WRITTEN


def test_seq_over_many_batches_has_no_gap(store: Store) -> None:
    """Entries stand where the order of commits puts them, two appends of one batch included."""
    for count in (1, 3, 0, 2):
        fill(store, count)
    with store.batch() as batch:
        batch.append(grow(6, 2))
        batch.append(grow(8, 1))
    assert store.head() == Head(9, note(9))
    assert store.entries(0, 9) == [entry(seq) for seq in range(9)]


@pytest.mark.parametrize(
    ("start", "stop", "found"),
    [(0, 5, [0, 1, 2, 3, 4]), (1, 3, [1, 2]), (3, 99, [3, 4]), (5, 9, []), (3, 3, []), (4, 2, [])],
)
def test_entries_of_a_range_are_those_in_it(store: Store, start: int, stop: int, found: list[int]) -> None:
    """A range reaches from start to before stop, and ends early where the log does."""
    fill(store, 5)
    assert store.entries(start, stop) == [entry(seq) for seq in found]
    with store.batch() as batch:
        assert batch.entries(start, stop) == [entry(seq) for seq in found]


def test_append_of_no_entries_moves_only_the_note(store: Store) -> None:
    """A checkpoint can be signed anew without an entry."""
    fill(store, 2)
    with store.batch() as batch:
        batch.append(Append([], [], [], b"another note"))
    assert store.head() == Head(2, b"another note")


def test_exception_inside_batch_leaves_nothing(store: Store) -> None:
    """What was written before the caller's error is gone, and the store goes on from where it was."""

    def fail_after_writing() -> None:
        with store.batch() as batch:
            write_everything(batch)
            raise Boom

    with pytest.raises(Boom):
        fail_after_writing()
    assert everything(store) == NOTHING
    with store.batch() as batch:
        write_everything(batch)
    assert everything(store) == WRITTEN


def test_failed_call_that_the_caller_swallows_commits_nothing(store: Store) -> None:
    """A batch that is no longer whole is not committed, whatever its caller makes of the error."""

    def broken() -> Iterator[tuple[bytes, int]]:
        yield b"job 2", 0
        raise Boom

    def carry_on_after_a_failure() -> None:
        with store.batch() as batch:
            write_everything(batch)
            with suppress(Boom):
                batch.replace_refs(broken())

    with pytest.raises(StoreAway, match="had failed"):
        carry_on_after_a_failure()
    assert everything(store) == NOTHING


def test_tile_that_is_there_already_is_a_corrupt_log(store: Store) -> None:
    """A full tile never changes: writing it again contradicts the log, and changes nothing."""
    with store.batch() as batch:
        write_everything(batch)
    with pytest.raises(CorruptLog), store.batch() as batch:
        batch.append(Append([entry(1)], [], [TILE], note(2)))
    assert everything(store) == WRITTEN


@pytest.mark.parametrize(
    "call",
    [
        write_everything,
        lambda batch: batch.keep([], []),
        lambda batch: batch.replace_refs([]),
        lambda batch: batch.entries(0, 1),
        lambda batch: batch.story(b"job 1"),
        lambda batch: batch.tile(0, 3),
    ],
)
def test_ended_batch_refuses_every_call(store: Store, call: Callable[[Batch], object]) -> None:
    """Nothing is written outside a transaction through a batch that was kept too long."""
    with store.batch() as batch:
        pass
    with pytest.raises(RuntimeError, match="ended"):
        call(batch)
    assert everything(store) == NOTHING


def test_batch_sees_what_it_wrote(store: Store) -> None:
    """An open batch reads its own entries, refs and tiles, after those of the log."""
    fill(store, 2, b"job 1")
    with store.batch() as batch:
        assert batch.head() == Head(2, note(2))
        batch.append(Append([entry(2), entry(3)], [(b"job 1", 3), (b"job 2", 2)], [TILE], note(4)))
        assert batch.head() == Head(4, note(4))
        assert batch.entries(1, 4) == [entry(1), entry(2), entry(3)]
        assert [seq for seq, _ in batch.story(b"job 1")] == [0, 1, 3]
        assert batch.story(b"job 2") == [(2, entry(2))]
        assert batch.tile(0, 3) == TILE.data


def test_readers_in_any_thread_see_only_what_is_committed(store: Store) -> None:
    """While a batch is open, nobody else sees any of it; once it has ended, everybody sees all of it."""
    with ThreadPoolExecutor(1) as other:
        with store.batch() as batch:
            write_everything(batch)
            assert other.submit(everything, store).result() == NOTHING
            assert everything(store) == NOTHING
        assert other.submit(everything, store).result() == WRITTEN


def test_batches_of_many_threads_come_one_after_the_other(store: Store) -> None:
    """Each batch sees the newest head, so that no two take the same seq."""

    def work(_: int) -> None:
        for _ in range(10):
            fill(store, 2, b"all")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert store.head() == Head(80, note(80))
    assert store.story(b"all") == [(seq, entry(seq)) for seq in range(80)]


def test_reading_beside_writing_never_shows_a_torn_state(store: Store) -> None:
    """A reader never finds a head whose entries it cannot read."""

    def write() -> None:
        for _ in range(30):
            fill(store, 3)

    with ThreadPoolExecutor(1) as other:
        writing = other.submit(write)
        while not writing.done():
            size = store.head().size
            assert size % 3 == 0
            assert store.entries(0, size) == [entry(seq) for seq in range(size)]
        writing.result()


def test_story_comes_in_order_of_seq(store: Store) -> None:
    """However refs were filed, and repeated, a story is told once and from the beginning."""
    fill(store, 4)
    with store.batch() as batch:
        refs = [(b"k", 5), (b"k", 1), (b"k", 3), (b"k", 5), (b"kk", 2), (b"", 0), (b"\xff\x00", 4)]
        batch.append(Append([entry(4), entry(5)], refs, [], note(6)))
    assert store.story(b"k") == [(seq, entry(seq)) for seq in (1, 3, 5)]
    assert store.story(b"") == [(0, entry(0))]
    assert store.story(b"\xff\x00") == [(4, entry(4))]
    assert store.story(b"K") == []


def test_refs_are_listed_by_key_then_seq(store: Store) -> None:
    """Keys compare as bytes."""
    fill(store, 2, b"b", b"\xff", b"a")
    keys = (b"a", b"b", b"\xff")
    assert list(store.refs()) == [(key, seq) for key in keys for seq in (0, 1)]


def test_replaced_refs_are_the_only_ones(store: Store) -> None:
    """The cache of refs is thrown away and written anew in one step."""
    fill(store, 3, b"old")
    with store.batch() as batch:
        batch.append(grow(3, 1, b"old"))
        batch.replace_refs(iter([(b"new", 3), (b"new", 0)]))
        assert batch.story(b"old") == []
        assert batch.story(b"new") == [(0, entry(0)), (3, entry(3))]
        assert [key for key, _ in store.refs()] == [b"old"] * 3
        batch.append(grow(4, 1, b"new"))
    assert list(store.refs()) == [(b"new", 0), (b"new", 3), (b"new", 4)]


def test_tile_is_found_by_level_and_index_only(store: Store) -> None:
    """A tile is not mistaken for its neighbour."""
    tiles = [Tile(level, index, bytes([level, index]) * 4_096) for level in (0, 1) for index in (0, 1)]
    with store.batch() as batch:
        batch.append(Append([entry(0)], [], tiles, note(1)))
    assert [store.tile(tile.level, tile.index) for tile in tiles] == [tile.data for tile in tiles]
    assert store.tile(0, 2) is None
    assert store.tile(2, 0) is None


def test_content_is_kept_until_erased(store: Store) -> None:
    """Content can be erased, is then absent, and can be kept again; keeping it twice is harmless."""
    one, two, never = content(b"one"), content(b""), content(b"never kept")
    for _ in range(2):
        with store.batch() as batch:
            batch.keep([one, two, one], [])
    assert store.content([one.digest, never.digest, two.digest]) == {one.digest: one, two.digest: two}
    assert store.erase([one.digest, never.digest]) == 1
    assert store.content([one.digest, two.digest]) == {two.digest: two}
    assert store.erase([one.digest]) == 0
    assert store.erase([]) == 0
    with store.batch() as batch:
        batch.keep([one], [])
    assert store.content([one.digest]) == {one.digest: one}


def test_content_is_not_overwritten_by_its_digest(store: Store) -> None:
    """The first bytes kept under a digest stay."""
    one = content(b"one")
    for data in (one.data, b"forged"):
        with store.batch() as batch:
            batch.keep([Content(one.digest, one.salt, data)], [])
    assert store.content([one.digest]) == {one.digest: one}


def test_thousands_of_contents_and_grants_are_found_at_once(store: Store) -> None:
    """No limit on the number of digests asked for."""
    contents = [content(b"%d" % index) for index in range(40_000)]
    digests = [each.digest.hex() for each in contents]
    with store.batch() as batch:
        batch.keep(contents, [Grant("o1", digest) for digest in digests])
    assert len(store.content([each.digest for each in contents])) == 40_000
    assert store.granted("o1", digests) == set(digests)
    assert store.erase([each.digest for each in contents]) == 40_000


def test_grant_holds_for_its_principal_only(store: Store) -> None:
    """Who has uploaded a blob holds a grant for it; nobody else does; saying it twice is harmless."""
    for _ in range(2):
        with store.batch() as batch:
            batch.keep([], [Grant("o1", DIGEST), Grant("w1", "cd" * 32), Grant("o1", DIGEST)])
    assert store.granted("o1", [DIGEST, "cd" * 32]) == {DIGEST}
    assert store.granted("w1", [DIGEST, "cd" * 32]) == {"cd" * 32}
    assert store.granted("O1", [DIGEST]) == set()


def test_pulse_that_is_older_does_not_replace_the_newest(store: Store) -> None:
    """The newest pulse counts, in whichever order they come."""
    for at_ms in (5, 2**52, 7):
        store.pulse(at_ms)
    assert store.last_pulse() == 2**52


def test_clock_of_a_batch_is_the_store_s(make: Make) -> None:
    """The clock is asked at each call and may go back: making it monotonic is the caller's."""
    ticks = iter([1_700_000_000_000, 1_600_000_000_000])
    store = make(clock_ms=lambda: next(ticks))
    with store.batch() as batch:
        assert [batch.clock_ms(), batch.clock_ms()] == [1_700_000_000_000, 1_600_000_000_000]


def test_clock_in_milliseconds_is_the_machine_s_unless_given(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nanoseconds are cut to whole milliseconds, never rounded into the future."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_999_999)
    with store.batch() as batch:
        assert batch.clock_ms() == 1_700_000_000_123


@pytest.mark.parametrize(("fault", "seen"), [(Fault.FAILED, NOTHING), (Fault.PERSISTED, WRITTEN)])
def test_failed_commit_is_store_away_and_all_or_nothing(make: Make, fault: Fault, seen: object) -> None:
    """After a failed commit everything or nothing is there, the caller cannot tell which, and the store goes on."""
    store = make(faults=[fault])
    with pytest.raises(StoreAway), store.batch() as batch:
        write_everything(batch)
    assert everything(store) == seen
    size = store.head().size
    with store.batch() as batch:
        assert batch.head().size == size
        batch.append(grow(size, 1))
    assert store.entries(0, 9) == [entry(seq) for seq in range(size + 1)]


def test_fault_befalls_the_commit_it_was_meant_for(make: Make) -> None:
    """Faults come in order, one a commit, and a batch that rolls back by itself does not use one up."""
    store = make(faults=[None, Fault.FAILED, None, Fault.PERSISTED])
    fill(store, 1)
    with pytest.raises(Boom), store.batch():
        raise Boom
    for size in (1, 2, 3):
        if size != 2:
            with pytest.raises(StoreAway):
                fill(store, 1)
        else:
            fill(store, 1)
    assert store.head().size == 3


@pytest.mark.parametrize("size", [0, 1, 4_096, 1_000_003])
def test_value_of_any_size_and_bytes_comes_back_the_same(store: Store, size: int) -> None:
    """Bytes are kept as they are: none is text, none is too many."""
    leaf, salt, payload = (bytes([first]) * size for first in (0, 39, 255))
    kept = content(bytes(range(256)) * (size // 256 + 1))
    with store.batch() as batch:
        batch.append(Append([Entry(leaf, salt, payload)], [(payload[:500], 0)], [], leaf))
        batch.keep([kept], [])
    assert store.entries(0, 1) == [Entry(leaf, salt, payload)]
    assert store.story(payload[:500]) == [(0, Entry(leaf, salt, payload))]
    assert store.head() == Head(1, leaf)
    assert store.content([kept.digest]) == {kept.digest: kept}


@pytest.mark.parametrize(
    "call",
    [
        lambda store: fill(store, 1),
        lambda store: store.head(),
        lambda store: store.entries(0, 1),
        lambda store: store.story(b""),
        lambda store: store.tile(0, 0),
        lambda store: store.content([b""]),
        lambda store: store.erase([b""]),
        lambda store: store.granted("", []),
        lambda store: list(store.refs()),
        lambda store: store.pulse(1),
        lambda store: store.last_pulse(),
        lambda store: store.ping(),
    ],
)
def test_closed_store_is_away(store: Store, call: Callable[[Store], object]) -> None:
    """A request that a shutdown overtakes may be tried again; closing twice is harmless."""
    fill(store, 1)
    store.close()
    store.close()
    with pytest.raises(StoreAway, match="closed"):
        call(store)
