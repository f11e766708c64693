"""What one client and all of them together may take up, and what is shed first when there is too much."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from gnexec.core.events import WorkerEnrolled
from gnexec.desk import dispatcher, history
from gnexec.keys import ServerKeys
from gnexec.tokens.issued import Scope
from gnexec.web import bodies, gate, limits
from gnexec.web.app import make_app
from gnexec.web.gate import LATEST_S, Rank, rank_of
from gnexec.web.limits import Budget, Lobby, Rates, make_lobby, network
from tests.web.logs import Logs
from tests.web.sites import Json, Site, bearer, check_problem, open_site
from tests.web.test_waiting import calling, watched
from tests.web.volunteers import OFFER, volunteer

pytestmark = pytest.mark.anyio


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class Visitor:
    """A connection that notes when it is dismissed."""

    def __init__(self) -> None:
        self.gone = False

    def dismiss(self) -> None:
        """End at once."""
        self.gone = True


# Connections.


def test_lobby_lets_no_address_have_more_than_its_share() -> None:
    """The others are not touched; whoever leaves makes room."""
    time = Time()
    lobby = Lobby(10, 3, time)
    crowd = [Visitor() for _ in range(4)]
    assert [lobby.admit(one, "a") for one in crowd] == [True, True, True, False]
    assert lobby.admit(Visitor(), "b")
    lobby.leave(crowd[0], "a")
    assert lobby.admit(crowd[3], "a")
    assert (len(lobby), lobby.refused) == (4, 1)
    assert not any(one.gone for one in crowd)


def test_lobby_dismisses_who_has_been_idle_for_longest_and_never_who_is_busy() -> None:
    """Half-open sockets make room for requests; what is young, or is being served, stays."""
    time = Time()
    lobby = Lobby(10, 3, time)
    served, old, young = (Visitor() for _ in range(3))
    for one in (served, old):
        assert lobby.admit(one, "a")
    lobby.busy(served, "a")
    time.now += 10
    assert lobby.admit(young, "a")
    fresh = Visitor()
    assert lobby.admit(fresh, "a")
    assert (served.gone, old.gone, young.gone) == (False, True, False)
    assert not lobby.admit(Visitor(), "a"), "what is left is busy or young"
    lobby.leave(old, "a")
    assert len(lobby) == 3, "who was dismissed is not counted twice"
    time.now += 10
    lobby.idle(young, "a")
    assert lobby.admit(Visitor(), "a")
    assert (fresh.gone, young.gone) == (True, False)


def test_lobby_that_is_full_takes_from_the_address_with_most_idle_connections() -> None:
    """Whoever hoards pays."""
    time = Time()
    lobby = Lobby(5, 5, time)
    hoard, single = [Visitor() for _ in range(4)], Visitor()
    assert lobby.admit(single, "b")
    for one in hoard:
        assert lobby.admit(one, "a")
    time.now += 10
    assert lobby.admit(Visitor(), "c")
    assert (single.gone, [one.gone for one in hoard]) == (False, [True, False, False, False])


def test_lobby_forgets_addresses_that_left() -> None:
    """Memory follows who is there."""
    lobby = Lobby(10, 3)
    for i in range(100):
        one = Visitor()
        lobby.admit(one, str(i))
        lobby.busy(one, str(i))
        lobby.leave(one, str(i))
        lobby.idle(one, str(i))
    assert not lobby._rooms
    assert len(lobby) == 0


@pytest.mark.parametrize(
    ("wanted", "each", "files", "most", "most_each"),
    [
        (20_000, 0, 1 << 20, 20_000, 15_000),
        (20_000, 0, 4096, 3584, 2688),
        (100, 500, 4096, 100, 100),
        (64, 0, 0, 16, 12),
    ],
)
def test_lobby_is_no_larger_than_the_system_allows(
    wanted: int, each: int, files: int, most: int, most_each: int
) -> None:
    """Descriptors are left for the store; one address never has all connections unless the operator says so."""
    lobby = make_lobby(wanted, each, files)
    assert (lobby.most, lobby.most_each) == (most, most_each)


@pytest.mark.parametrize(
    ("host", "stands_for"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_network_of_an_address(host: str, stands_for: str) -> None:
    """One machine commonly has a whole /64 of IPv6."""
    assert network(host) == stands_for


# Rates.


def test_rate_is_a_burst_and_then_so_many_a_second() -> None:
    """Whoever is refused is told for how long; another address has a bucket of its own."""
    time = Time()
    rates = Rates(2.0, 4.0, time)
    assert [rates.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rates.take("b") == 0
    time.now += 0.5
    assert [rates.take("a") for _ in range(2)] == [0, 0.5]
    time.now += 1000
    assert [rates.take("a") > 0 for _ in range(5)] == [False] * 4 + [True]


def test_rates_of_many_addresses_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten."""
    monkeypatch.setattr(limits, "MOST_ADDRESSES", 10)
    rates = Rates(1.0, 1.0)
    for i in range(100):
        rates.take(str(i))
    assert list(rates._buckets) == [str(i) for i in range(90, 100)]


async def test_open_mode_limits_the_rate_of_each_address(keys: ServerKeys, tmp_path: Path, logs: Logs) -> None:
    """429 with Retry-After; whether the server is well may always be asked."""
    async with open_site(keys, tmp_path, logs, open_mode=True, open_rate=5) as site:
        replies = [await site.http.get("/hey") for _ in range(20)]
        assert [reply.status_code for reply in replies[:10]] == [200] * 10
        told = [reply for reply in replies if reply.status_code != 200]
        assert told
        for reply in told:
            check_problem(reply, "too_many")
            assert int(reply.headers["retry-after"]) > 0
        assert (await site.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("open_mode", [True, False])
async def test_this_machines_own_clients_are_not_limited_unless_told(
    keys: ServerKeys, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, *, open_mode: bool
) -> None:
    """A laptop's own workers may ask as fast as they can; in secured mode there are tokens instead of rates."""
    monkeypatch.setattr(gate, "DEFAULT_OPEN_RATE", 1)
    async with open_site(keys, tmp_path, logs, open_mode=open_mode) as site:
        assert {(await site.http.get("/hey")).status_code for _ in range(20)} == {200}


# Bodies.


def body_of(size: int) -> bytes:
    """Return a submission of so many bytes."""
    return json.dumps({"argv": ["x"], "name": ""}).encode().ljust(size)


async def test_bodies_of_all_requests_together_are_bounded(keys: ServerKeys, tmp_path: Path, logs: Logs) -> None:
    """The third large body is told to come again while two are held; afterwards nothing is held."""
    async with open_site(
        keys, tmp_path, logs, open_mode=True, max_body_bytes=1 << 16, max_bodies_bytes=(1 << 17) + 1000
    ) as site:
        going_on = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield body_of(60_000)
            await going_on.wait()

        headers = {"Content-Type": "application/json"}
        bodies: Budget = site.app.state.gate.bodies
        slow = [asyncio.create_task(site.http.post("/v1/jobs", content=slowly(), headers=headers)) for _ in range(2)]
        while bodies.held < 120_000:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0)
        reply = await site.http.post("/v1/jobs", content=body_of(60_000), headers=headers)
        check_problem(reply, "overloaded")
        assert int(reply.headers["retry-after"]) > 0
        assert (await site.http.get("/jobs/next")).status_code == 204
        going_on.set()
        assert {(await task).status_code for task in slow} <= {200, 201}
        assert bodies.held == 0
        assert (await site.http.post("/v1/jobs", content=body_of(60_000), headers=headers)).is_success


async def test_forged_token_is_refused_before_the_body_is_read(secured: Site) -> None:
    """Nobody fills memory on the word of a token that was not looked at."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 1000

    headers = {"Content-Type": "application/json", **bearer("a.b.c")}
    for path in ("/jobs/1/result", "/jobs/1/status", "/v1/results", "/v1/jobs", "/v1/workers"):
        method = "POST" if path in ("/v1/jobs", "/v1/workers") else "PUT"
        check_problem(await secured.http.request(method, path, content=endless(), headers=headers), "bad_token")
    assert read <= 10
    assert secured.app.state.gate.bodies.held == 0


async def test_bodies_without_a_token_in_the_header_leave_those_of_workers_their_room(
    keys: ServerKeys, tmp_path: Path, logs: Logs
) -> None:
    """Dripping bodies of nobody's fill a budget of their own: an honest result is taken, one more of theirs is not."""
    async with open_site(keys, tmp_path, logs, max_body_bytes=1 << 16, max_bodies_bytes=gate.MAX_UNPROVEN) as site:
        await site.submit()
        ann = await volunteer(site)
        taken = await ann.take()
        for_ever = asyncio.Event()

        async def drips(size: int) -> AsyncIterator[bytes]:
            for _ in range(size // 1000):
                yield b" " * 1000
            await for_ever.wait()

        def hostile(size: int) -> asyncio.Task[httpx2.Response]:
            headers = {"Content-Type": "application/json"}
            return asyncio.create_task(site.http.put("/jobs/1/result", content=drips(size), headers=headers))

        door = site.app.state.gate
        full = [hostile(65_000) for _ in range(4)] + [hostile(2_000)]
        async with asyncio.timeout(30):
            while door.unproven.held < 262_000:  # noqa: ASYNC110 -- nobody tells
                await asyncio.sleep(0)
        check_problem(await hostile(2_000), "overloaded")
        assert (await ann.finish(taken)).json()["verdict"] == "valid"
        assert door.bodies.held == 0
        for_ever.set()
        for task in full:
            check_problem(await task, "malformed", "no_token")
        assert door.unproven.held == 0


async def test_body_without_a_token_in_the_header_is_given_up_soon(
    secured: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has shown nothing is waited for less long than others."""
    monkeypatch.setattr(bodies, "UNPROVEN_PAUSE_S", 0.01)

    async def stops() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    sent = secured.http.put("/jobs/1/result", content=stops(), headers={"Content-Type": "application/json"})
    check_problem(await asyncio.wait_for(sent, 30), "slow_body")


async def test_open_mode_takes_the_largest_body_though_its_token_is_within(
    keys: ServerKeys, tmp_path: Path, logs: Logs
) -> None:
    """GnExec's own clients bring the whole output with the token, so the small budget has room for one of them."""
    async with open_site(
        keys, tmp_path, logs, open_mode=True, max_body_bytes=1 << 20, max_bodies_bytes=1 << 20
    ) as site:
        job = await site.submit()
        work = (await site.http.get("/jobs/next")).json()
        body = {"token": work["token"], "exit_code": 0, "stdout": "x" * 1_000_000}
        reply = await site.http.put(f"/jobs/{job}/result", json=body)
        assert reply.json()["verdict"] == "valid"


# Shedding.


async def _never() -> Json:
    raise AssertionError


def test_every_operation_has_the_rank_that_its_purpose_has() -> None:
    """New work is shed first, results and signs of life last; health is never shed."""
    ranks = {f"{op.method} {op.path}": rank_of(op.method, op.path) for op in make_app(_never).state.operations}
    of = {rank: {name for name, found in ranks.items() if found is rank} for rank in Rank}
    assert of[Rank.WORK] == {"GET /jobs/next", "GET /v1/jobs/next"}
    assert {"PUT /jobs/{job:number}/result", "PUT /jobs/{job:number}/status", "PUT /v1/results"} <= of[Rank.REPORT]
    assert {"POST /v1/jobs", "POST /v1/workers"} <= of[Rank.SUBMIT]
    assert {"GET /v1/jobs/{job:number}", "GET /checkpoint", "GET /metrics"} <= of[Rank.READ]
    assert {"GET /healthz", "GET /readyz"} == of[Rank.ALWAYS]


@pytest.mark.parametrize("by", ["lateness", "number"])
@pytest.mark.parametrize("shed", range(5))
async def test_more_is_shed_the_later_things_are(
    opened: Site, monkeypatch: pytest.MonkeyPatch, shed: int, by: str
) -> None:
    """Work, submissions, reading, reports: in this order, with a Retry-After; what is not shed is served."""
    bounds = sorted(LATEST_S.values())
    late_s = 0.0 if shed == 0 else bounds[shed - 1] + 0.01
    share = (0.0, 0.2, 0.4, 0.9, 1.1)[shed]
    found = (1, late_s) if by == "lateness" else (int(share * dispatcher.MOST_WAITING), 0.0)
    await opened.submit()
    monkeypatch.setattr(opened.app.state.gate, "_waiting", lambda: found)
    replies = [
        await opened.http.get("/jobs/next"),
        await opened.http.post("/v1/jobs", json={"argv": ["y"]}),
        await opened.http.get("/v1/jobs/1"),
        await opened.http.put("/jobs/1/result", json={"exit_code": 0, "token": "x"}),
    ]
    for i, reply in enumerate(replies):
        if i < shed:
            check_problem(reply, "overloaded")
            assert 2 <= int(reply.headers["retry-after"]) <= 8
        else:
            assert reply.status_code not in (429, 503), i
    assert (await opened.http.get("/healthz")).status_code == 200
    assert sum(opened.app.state.gate.shed.values()) == shed


async def test_retry_after_differs_from_client_to_client(opened: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who were sent away do not all come back at once."""
    monkeypatch.setattr(opened.app.state.gate, "_waiting", lambda: (1, 1000.0))
    told = {(await opened.http.get("/jobs/next")).headers["retry-after"] for _ in range(100)}
    assert len(told) > 3


async def test_lateness_of_the_loop_is_noticed_and_forgotten(opened: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that was held up sheds for a moment, and recovers by itself."""
    found: gate.Gate = opened.app.state.gate
    found._due -= 4.0
    check_problem(await opened.http.get("/jobs/next"), "overloaded")
    found._tick()
    assert 3.0 < found.late_s() < 5.0
    check_problem(await opened.http.post("/v1/jobs", json={"argv": ["x"]}), "overloaded")
    monkeypatch.setattr(gate, "TICK_S", 0.001)
    for _ in range(10):
        found._timer.cancel()
        found._due = found._loop.time()
        found._tick()
    assert (await opened.http.get("/jobs/next")).status_code == 204


async def test_queue_of_the_desk_is_bounded(opened: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes when it is full is refused at once, and what waits is answered."""
    monkeypatch.setattr(dispatcher, "MOST_WAITING", 3)
    monkeypatch.setattr(gate, "FULLEST", dict.fromkeys(LATEST_S, 1000.0))
    replies = await asyncio.gather(*(opened.http.get("/jobs/next") for _ in range(20)))
    refused = [reply for reply in replies if reply.status_code != 204]
    assert 0 < len(refused) < 20
    for reply in refused:
        check_problem(reply, "overloaded")


# What is read or written once for many.


async def test_followers_of_a_job_share_one_reading_for_each_commit(
    secured: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty who watch cost as much as one; each is told everything, once."""
    job = await secured.submit()
    ann = await volunteer(secured)
    read = 0
    tell = history.tell

    async def counted(*args: Json) -> history.Story:
        nonlocal read
        read += 1
        return await tell(*args)

    monkeypatch.setattr(history, "tell", counted)
    async with AsyncExitStack() as stack:
        path = f"/v1/jobs/{job}/events"
        followers = [await stack.enter_async_context(calling(secured, path, secured.person())) for _ in range(20)]
        await watched(secured, 20)
        for call in followers:
            await call.until(b"submitted")
        first = read
        taken = await ann.take()
        for call in followers:
            await call.until(b"started")
        assert read == first + 1
        await ann.finish(taken)
        for call in followers:
            await call.end()
            assert [line["what"] for line in call.lines()] == ["submitted", "started", "reported", "decided"]
    assert read <= first + 4, "three commits: the hand-out, the manifest's grant, the result"
    assert not secured.office.followed


async def test_stream_that_breaks_within_an_entry_goes_on_at_the_very_step(secured: Site) -> None:
    """Each line has a place of its own, the last of an entry the entry's seq: nothing is lost, nothing told twice."""
    job = await secured.submit()
    ann = await volunteer(secured)
    await ann.finish(await ann.take())
    seq = await secured.size() - 1
    happenings = [history.Place(seq, 1), history.Place(seq, 2), history.Place(seq)]
    assert [str(place) for place in happenings] == [f"{seq}.1", f"{seq}.2", f"{seq}"]
    assert [history.Place.parse(str(place)) for place in happenings] == happenings
    for i, place in enumerate(happenings):
        assert [place.before(other) for other in happenings] == [j > i for j in range(3)]
    async with calling(secured, f"/v1/jobs/{job}/events", secured.person()) as call:
        await call.end()
    ids = [line.removeprefix("id: ") for line in call.body.decode().splitlines() if line.startswith("id: ")]
    assert len(set(ids)) == len(ids) == len(call.lines())
    for i, last in enumerate(ids):
        async with calling(secured, f"/v1/jobs/{job}/events", {**secured.person(), "Last-Event-ID": last}) as again:
            await again.end()
        assert again.lines() == call.lines()[i + 1 :]


async def test_enrolling_again_with_nothing_new_writes_nothing(secured: Site) -> None:
    """A worker that starts over and over does not fill the log, and its new token is as good."""
    ann = await volunteer(secured)
    before = await secured.size()
    for _ in range(3):
        assert (await ann.enrol()).status_code == 201
    assert await secured.size() == before
    assert (await ann.ask()).status_code == 204
    access = secured.token("ann", Scope.ENROL)
    body = {"proof": ann.proof(access), "offer": OFFER, "description": {"cpu": "another"}}
    assert (await secured.http.post("/v1/workers", json=body, headers=bearer(access))).status_code == 201
    assert await secured.size() == before + 1
    told = [event.caps for event in await secured.events() if isinstance(event, WorkerEnrolled)]
    assert len(set(told)) == len(told) == 2
