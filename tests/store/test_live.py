"""What running attempts tell: the same in memory and in PostgreSQL, bounded, and never a reason to fail."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Iterator
from contextlib import closing, contextmanager

import pytest
from structlog.testing import capture_logs

from gnexec import migrate
from gnexec.store import live, open_live, open_store, pglive
from gnexec.store.live import Heard, Live, MemoryLive, Told
from tests.databases import Cluster, shared

MOST = live.MOST_OUTPUT_BYTES


@contextmanager
def prepared(cluster: Cluster) -> Iterator[str]:
    """Lend a database with our tables."""
    with cluster.database() as url:
        open_store(url, create=True).close()
        yield url


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Lend one database to all cases; they tell of jobs of their own."""
    with prepared(shared()) as found:
        yield found


@pytest.fixture(params=["memory", "postgresql"])
def kept(request: pytest.FixtureRequest) -> Iterator[Live]:
    """Keep what attempts tell, in each way."""
    where = MemoryLive() if request.param == "memory" else open_live(request.getfixturevalue("url"))
    with closing(where) as kept:
        yield kept


def play(scene: Awaitable[None]) -> None:
    """Run a scene, and give up after a minute rather than never."""

    async def bounded() -> None:
        await asyncio.wait_for(scene, 60)

    asyncio.run(bounded())


def test_live_keeps_the_last_progress_and_the_most_cpu(kept: Live) -> None:
    """A message that does not say leaves what was said before; attempts are apart, and so are jobs."""

    async def scene() -> None:
        await kept.tell(Told(1, 1, 0.5, 70))
        await kept.tell(Told(1, 1, None, 40))
        await kept.tell(Told(1, 2, None))
        await kept.tell(Told(2, 1, 0.25))
        assert await kept.heard(1) == {1: Heard(0.5, 70), 2: Heard(0.0, 0)}
        await kept.tell(Told(1, 1, 0.4))
        assert (await kept.heard(1))[1] == Heard(0.4, 70)
        assert await kept.heard(3) == {}

    play(scene())


@pytest.mark.parametrize(
    ("parts", "out"),
    [
        ([(0, b"one\n"), (4, b"two\n")], b"one\ntwo\n"),
        ([(0, b"one\n"), (0, b"one\n"), (4, b"two\n")], b"one\ntwo\n"),
        ([(0, b"one\n"), (2, b"e\ntwo\n")], b"one\ntwo\n"),
        ([(0, b"one\ntwo\n"), (4, b"two\n")], b"one\ntwo\n"),
        ([(0, b"lost"), (9, b"later")], b"later"),
        (
            [(0, b"a" * live.MOST_OUTPUT_BYTES), (live.MOST_OUTPUT_BYTES, b"end")],
            b"a" * (live.MOST_OUTPUT_BYTES - 3) + b"end",
        ),
        ([], b""),
    ],
)
def test_live_puts_output_together(kept: Live, parts: list[tuple[int, bytes]], out: bytes) -> None:
    """Repeated and overlapping parts count once, a gap drops what was before, and the newest mebibyte stays."""

    async def scene() -> None:
        kept.forget([(11, 1)])
        for offset, data in parts:
            await kept.tell(Told(job, 1, output=data, offset=offset))
        assert await kept.output(job) == out

    job = 100 + zlib.crc32(repr(parts).encode())
    play(scene())


def test_live_shows_the_attempt_that_wrote_most(kept: Live) -> None:
    """Of several attempts of a job one output is shown, never a mixture."""

    async def scene() -> None:
        await kept.tell(Told(21, 1, output=b"longer"))
        await kept.tell(Told(21, 2, output=b"short"))
        assert await kept.output(21) == b"longer"

    play(scene())


def test_live_forgets_what_has_ended(kept: Live) -> None:
    """Neither progress nor output of an ended attempt stays; another's does."""

    async def scene() -> None:
        for attempt in (1, 2):
            await kept.tell(Told(31, attempt, 0.5, output=b"x" * attempt))
        kept.forget([(31, 2), (32, 1)])
        while 2 in await kept.heard(31) or await kept.output(31) != b"x":
            pass
        assert set(await kept.heard(31)) == {1}

    play(scene())


def test_live_is_bounded(kept: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """More attempts, and more output, than there is room for: those not heard of for longest go first."""
    monkeypatch.setattr(live, "MOST_ATTEMPTS", 4)
    monkeypatch.setattr(live, "MOST_BYTES", 40)
    monkeypatch.setattr(pglive, "SWEEP_S", 0.0)
    monkeypatch.setattr(pglive, "_SWEEP", pglive.sweep(4, 40 + 4 * pglive.PART_COSTS))

    async def scene() -> None:
        for job in range(41, 49):
            await kept.tell(Told(job, 1, 0.5, output=b"x" * 10))

        async def known() -> tuple[list[bool], list[int]]:
            jobs = range(41, 49)
            return [bool(await kept.heard(job)) for job in jobs], [len(await kept.output(job)) for job in jobs]

        while (found := await known()) != ([False] * 4 + [True] * 4, [0] * 4 + [10] * 4):
            await kept.tell(Told(48, 1, 0.5))
            assert found[1][-1] == 10

    play(scene())


def test_live_that_cannot_be_kept_fails_nobody() -> None:
    """While the database is away nothing is known; when it is back, what is told then is kept. It is told of once."""

    async def scene(cluster: Cluster, kept: Live) -> None:
        await kept.tell(Told(1, 1, 0.5))
        cluster.kill()
        with capture_logs() as told:
            for _ in range(3):
                await kept.tell(Told(1, 1, 0.75))
                assert await kept.heard(1) == {}
                assert await kept.output(1) == b""
        assert [line["event"] for line in told] == ["what running jobs tell cannot be kept just now"]
        cluster.start()
        while not await kept.heard(1):
            await kept.tell(Told(1, 1, 1.0))
        assert (await kept.heard(1))[1].progress == 1.0

    with Cluster() as cluster, prepared(cluster) as url, closing(open_live(url)) as kept:
        play(scene(cluster, kept))


def test_live_tables_are_unlogged_in_postgresql(url: str) -> None:
    """They cost no write-ahead log, and no backup holds what jobs wrote."""
    with shared().connect(url.rpartition("/")[2].partition("?")[0]) as db:
        rows = db.execute("SELECT relname FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'").fetchall()
    assert {name for (name,) in rows} == {"live", "live_output"}
    assert migrate.head()
