"""Slow, silent, greedy and absent clients on real sockets: each costs a bounded time and a bounded memory."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import pytest
import uvicorn

from gnexec.web import bodies, limits, protocol
from gnexec.web.limits import Lobby
from tests.web.sites import Site, bearer
from tests.web.test_serving import GET, LAST, exchange
from tests.web.test_waiting import idle
from tests.web.volunteers import volunteer

pytestmark = pytest.mark.anyio
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
POLL = b"GET /jobs/next?wait=300 HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def serving(site: Site, lobby: Lobby | None = None) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """Serve a site on a socket, as `gnexec serve` does; give the port and the server."""

    async def app(scope: object, receive: object, send: object) -> None:
        await site.app(scope, receive, send)  # type: ignore[arg-type]

    listener = socket.socket()
    protocol.tune(listener)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=partial(protocol.PatientProtocol, lobby=lobby),  # type: ignore[arg-type]
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    served = asyncio.create_task(server._serve([listener]))
    while not server.started:  # noqa: ASYNC110 -- nobody tells
        await asyncio.sleep(0)
    try:
        yield listener.getsockname()[1], server
    finally:
        site.office.feed.wake_all()
        server.should_exit = True
        await served


class Client:
    """A raw connection that reads only when told to."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(0)

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self) -> bytes:
        """Read until the server hangs up."""
        found = b""
        try:
            while data := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 1 << 16), 30):
                found += data
        except ConnectionError:
            pass
        self.socket.close()
        return found

    async def status(self) -> int:
        """Read the head of a reply."""
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 1 << 16), 30)
        return int(data.split()[1])


Connect: TypeAlias = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Give a way to connect; all connections are closed in the end."""
    clients: list[Client] = []

    def connected(port: int, receive_buffer: int | None = None) -> Client:
        clients.append(Client(port, receive_buffer))
        return clients[-1]

    yield connected
    for client in clients:
        client.socket.close()


async def gone(server: uvicorn.Server, count: int = 0) -> None:
    """Wait until the server has no more than so many connections."""
    async with asyncio.timeout(30):
        while len(server.server_state.connections) > count:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0.01)


# Slow and endless bodies.


async def test_body_that_drips_is_given_up_though_it_never_pauses(
    opened: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then does not hold a request for days; the client hears why."""
    monkeypatch.setattr(bodies, "BODY_PAUSE_S", 0.3)
    async with serving(opened) as (port, _):
        client = connect(port)
        await client.send(POST + b"Content-Length: 1000000\r\n\r\n")

        async def drip() -> None:
            while True:
                await client.send(b" ")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        told = await client.read()
        await asyncio.wait({dripping})
        assert isinstance(dripping.exception(), OSError)
    assert told.startswith(b"HTTP/1.1 408")
    assert b"slow_body" in told


async def test_body_that_is_slow_but_steady_is_taken(
    opened: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes at the least rate, or more, may take as long as it needs."""
    monkeypatch.setattr(bodies, "BODY_PAUSE_S", 0.5)
    monkeypatch.setattr(bodies, "SLOWEST", 10)
    data = json.dumps({"argv": ["x"]}).encode().ljust(100)
    async with serving(opened) as (port, _):
        client = connect(port)
        await client.send(POST + b"Connection: close\r\nContent-Length: 100\r\n\r\n")
        for i in range(100):
            await client.send(data[i : i + 1])
            await asyncio.sleep(0.01)
        assert (await client.read()).startswith(b"HTTP/1.1 201")


async def test_body_that_nobody_wants_any_more_is_dropped_and_then_cut_off(
    secured: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal arrives though the sender goes on; it cannot go on for ever."""
    monkeypatch.setattr(protocol, "LINGER_S", 0.3)
    async with serving(secured) as (port, server):
        client = connect(port)
        head = POST + b"Authorization: Bearer a.b.c\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head)
        assert await client.status() == 401

        async def endless() -> None:
            while True:
                await client.send(b"1000\r\n" + bytes(4096) + b"\r\n")

        with pytest.raises(OSError):  # noqa: PT011 -- reset or broken pipe
            await asyncio.wait_for(endless(), 30)
        await gone(server)


async def test_rest_of_a_refused_body_does_not_spoil_the_next_request(secured: Site, connect: Connect) -> None:
    """A client that sends all of it may go on with the same connection."""
    async with serving(secured) as (port, _):
        client = connect(port)
        await client.send(POST + b"Authorization: Bearer a.b.c\r\nContent-Length: 100000\r\n\r\n")
        assert await client.status() == 401
        await client.send(bytes(100_000) + GET + b"\r\n")
        assert await client.status() == 200
        client.socket.close()


async def test_body_of_a_request_that_has_no_use_for_one_is_not_kept(secured: Site, connect: Connect) -> None:
    """A long poll that brings megabytes holds none of them, and still hears of its client's end."""
    ann = await volunteer(secured)
    async with serving(secured) as (port, server):
        client = connect(port)
        token = f"Authorization: Bearer {ann.token}\r\n".encode()
        await client.send(POLL + token + b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000))
        await idle(secured, 1)
        (connection,) = server.server_state.connections
        assert not connection.cycle.body  # type: ignore[union-attr]
        client.socket.close()
        await idle(secured, 0)


async def test_body_behind_another_request_is_not_taken_for_an_unwanted_one(opened: Site) -> None:
    """A submission sent together with a look at the server arrives whole."""
    data = b'{"argv": ["x"]}'
    async with serving(opened) as (port, _):
        head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data)
        told = await exchange(port, GET + b"\r\n" + head + data)
        assert re.findall(rb"HTTP/1.1 (\d+)", told) == [b"200", b"201"]


# Connections that do nothing, or too much.


@pytest.mark.parametrize("sent", [b"\r\n", b"\r\n\r\n\r\n"])
async def test_empty_lines_between_requests_do_not_keep_a_connection(
    secured: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """They are no request, and buy no more time than any other silence."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    async with serving(secured) as (port, server):
        client = connect(port)
        await client.send(GET + b"\r\n")
        assert await client.status() == 200
        await client.send(sent)
        await gone(server)
        client.socket.close()


async def test_requests_far_ahead_of_their_replies_are_cut_off(secured: Site, connect: Connect) -> None:
    """A quarter of a megabyte of tiny requests does not become fifty megabytes of waiting ones."""
    ann = await volunteer(secured)
    async with serving(secured) as (port, server):
        client = connect(port)
        ahead = (GET + b"\r\n") * 5_000
        await client.send(POLL + f"Authorization: Bearer {ann.token}\r\n\r\n".encode() + ahead)
        assert await client.read() == b""
        await gone(server)


@pytest.mark.parametrize("buffer", [4096, 65536])
async def test_client_that_never_reads_is_cut_off(
    opened: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    """Its replies do not pile up for ever, however many it asks for."""
    monkeypatch.setattr(protocol, "READ_S", 0.3)
    monkeypatch.setattr(protocol, "MOST_AHEAD", 1_000_000)
    async with serving(opened) as (port, server):
        client = connect(port, buffer)

        async def ask_on_and_on() -> None:
            while True:
                await client.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 10)

        with pytest.raises(OSError):  # noqa: PT011 -- reset or broken pipe
            await ask_on_and_on()
        await gone(server)


async def test_follower_that_never_reads_is_cut_off(
    opened: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of events to nobody ends, and its watcher is forgotten."""
    monkeypatch.setattr(protocol, "READ_S", 0.3)
    job = await opened.submit()

    async def flood(*_: Any) -> AsyncIterator[str]:  # noqa: ANN401 -- as the real one is called
        async with opened.office.feed.watching(job):
            while True:
                yield "x" * 10_000
                await asyncio.sleep(0)

    monkeypatch.setattr("gnexec.web.submitters._follow", flood)
    async with serving(opened) as (port, server):
        client = connect(port, 4096)
        await client.send(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(30):
            while not opened.office.feed._watchers:  # noqa: ASYNC110 -- nobody tells
                await asyncio.sleep(0)
        await gone(server)
        async with asyncio.timeout(30):
            while opened.office.feed._watchers:  # noqa: ASYNC110 -- nobody tells
                await asyncio.sleep(0)
        client.socket.close()


async def test_client_of_a_long_poll_that_leaves_is_forgotten_without_a_task_for_it(
    secured: Site, connect: Connect
) -> None:
    """A wait is one task, and ends with its client."""
    ann = await volunteer(secured)
    async with serving(secured) as (port, server):
        before = len(asyncio.all_tasks())
        clients = [connect(port) for _ in range(50)]
        for client in clients:
            await client.send(POLL + f"Authorization: Bearer {ann.token}\r\n\r\n".encode())
        await idle(secured, 50)
        assert len(asyncio.all_tasks()) == before + 50
        for client in clients:
            client.socket.close()
        await idle(secured, 0)
        await gone(server)
        assert len(asyncio.all_tasks()) == before


async def test_part_of_a_head_behind_a_long_poll_does_not_cut_the_poll_off(
    opened: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not read yet cannot be late."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    async with serving(opened) as (port, _):
        client = connect(port)
        await client.send(b"GET /jobs/next?wait=1 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        assert await client.status() == 204
        assert await client.read() == b""


async def test_connection_that_is_cut_while_requests_wait_behind_its_first_ends_in_order(
    opened: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is being served is told, and those behind it are not begun."""
    failed: list[str] = []
    async with serving(opened) as (port, server):
        client = connect(port)
        await client.send(POLL + b"\r\n" + (GET + b"\r\n") * 5)
        await idle(opened, 1)
        (connection,) = server.server_state.connections
        assert isinstance(connection, protocol.PatientProtocol)
        monkeypatch.setattr(connection.logger, "error", lambda *args, **_: failed.append(str(args)))
        connection.dismiss()
        await idle(opened, 0)
        await gone(server)
        while server.server_state.tasks:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0)
    assert not failed


# How many there may be.


async def test_address_with_too_many_connections_is_told_so(secured: Site, connect: Connect) -> None:
    """429 and a Retry-After at once; whoever is served already is not touched."""
    async with serving(secured, Lobby(100, 3)) as (port, server):
        clients = [connect(port) for _ in range(3)]
        for client in clients:
            await client.send(GET + b"\r\n")
            assert await client.status() == 200
        told = await connect(port).read()
        assert told.startswith(b"HTTP/1.1 429")
        assert b"\r\nRetry-After: " in told
        await gone(server, 3)
        for client in clients:
            await client.send(GET + b"\r\n")
            assert await client.status() == 200
        clients.pop().socket.close()
        await gone(server, 2)
        assert (await exchange(port, GET + LAST)).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.socket.close()


async def test_half_open_connections_make_room_for_requests(
    secured: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets that say nothing do not starve the server, though they fill it."""
    monkeypatch.setattr(limits, "YOUNG_S", 0.0)
    async with serving(secured, Lobby(10, 10)) as (port, server):
        silent = [connect(port) for _ in range(60)]
        for client in silent[::2]:
            await client.send(GET)
        for _ in range(20):
            assert (await exchange(port, GET + LAST)).startswith(b"HTTP/1.1 200")
        assert len(server.server_state.connections) <= 10
        for client in silent:
            client.socket.close()


async def test_long_polls_do_not_make_room_for_others(
    secured: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is being served is never cut off to let another in."""
    monkeypatch.setattr(limits, "YOUNG_S", 0.0)
    ann = await volunteer(secured)
    async with serving(secured, Lobby(5, 5)) as (port, _):
        polls = [connect(port) for _ in range(5)]
        for client in polls:
            await client.send(POLL + f"Authorization: Bearer {ann.token}\r\n\r\n".encode())
        await idle(secured, 5)
        assert (await connect(port).read()).startswith(b"HTTP/1.1 503")
        for _ in polls:
            await secured.submit(force_recompute=True)
        assert [await client.status() for client in polls] == [200] * 5
        for client in polls:
            client.socket.close()


# Shutdown.


async def test_shutdown_ends_though_clients_hold_on(
    secured: Site, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-open, dripping and waiting clients: all are gone within the bound, without an error in the log."""
    monkeypatch.setattr(protocol, "LEAVE_S", 0.3)
    ann = await volunteer(secured)
    async with serving(secured) as (port, server):
        half, drip, poll = connect(port), connect(port), connect(port)
        await half.send(GET)
        access = bearer(ann.token)["Authorization"].encode()
        await drip.send(b"PUT /v1/results HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await poll.send(POLL + b"Authorization: " + access + b"\r\n\r\n")
        await idle(secured, 1)
        assert len(server.server_state.connections) == 3
    assert not server.server_state.connections
    assert not server.server_state.tasks
    assert await poll.status() == 204
