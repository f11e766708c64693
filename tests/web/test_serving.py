"""What only a real socket shows: heads that never end, a shutdown while clients wait, and the operator's log."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path

import httpx2
import pytest
import uvicorn

from gnexec.tokens.issued import Scope
from gnexec.web import protocol
from tests.serving import running_server
from tests.web.sites import Site, bearer, check_problem

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def listening(site: Site) -> AsyncIterator[int]:
    """Serve a site on a socket, as `gnexec serve` does; give the port."""

    async def app(scope: object, receive: object, send: object) -> None:
        await site.app(scope, receive, send)  # type: ignore[arg-type]

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol.PatientProtocol, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    served = asyncio.create_task(server._serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await served


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send bytes as they are, and return all that comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b""
    finally:
        writer.close()


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
LAST = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET", GET, GET + b"X-Slow: "], ids=["nothing", "a word", "a line", "a header"])
async def test_connection_whose_head_never_ends_is_closed(
    secured: Site, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Sockets that say nothing, or not all of it, do not stay for ever."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    async with listening(secured) as port:
        assert await exchange(port, sent) == b""


async def test_second_head_on_a_connection_is_timed_too(secured: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good first request buys no patience for the next."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    async with listening(secured) as port:
        told = await exchange(port, GET + b"\r\n", b"GET /hea")
        assert told.startswith(b"HTTP/1.1 200")
        assert told.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "head", [GET + b"X-Long: " + b"a" * 100_000, b"GET /" + b"a" * 100_000], ids=["header", "line"]
)
async def test_head_that_is_too_large_is_cut_off(secured: Site, head: bytes) -> None:
    """Before it has ended, however fast it comes."""
    async with listening(secured) as port:
        assert not (await exchange(port, *[head[i : i + 1000] for i in range(0, len(head), 1000)])).startswith(
            b"HTTP/1.1 200"
        )


async def test_request_in_many_pieces_is_served(secured: Site) -> None:
    """Patience enough for a slow line."""
    request = GET + LAST
    async with listening(secured) as port:
        told = await exchange(port, *[request[i : i + 1] for i in range(len(request))])
        assert told.startswith(b"HTTP/1.1 200")


async def test_several_requests_on_one_connection_are_served(secured: Site) -> None:
    """Also when they come all at once."""
    async with listening(secured) as port:
        told = await exchange(port, (GET + b"\r\n") * 3 + GET + LAST)
        assert told.count(b"HTTP/1.1 200") == 4


async def test_strange_request_lines_fail_nothing(secured: Site) -> None:
    """Whatever a line says, the server answers, and serves the next."""
    lines = [
        b"GET /v1/jobs/" + b"9" * 5000,
        b"GET /%ff%fe",
        b"GET /\xff",
        b"GET http://[/",
        b"GET //",
        b"GET /jobs/next?n=" + b"9" * 5000,
        b"FOO /",
        b"GET",
        b"\x16\x03\x01\x02\x00",
    ]
    async with listening(secured) as port:
        for line in lines:
            told = await exchange(port, line + b" HTTP/1.1\r\nHost: [\r\n" + LAST)
            assert told.startswith(b"HTTP/1.1 4"), line
        assert (await exchange(port, GET + LAST)).startswith(b"HTTP/1.1 200")


def test_shutdown_answers_who_waits_for_work_and_for_a_decision(tmp_path: Path) -> None:
    """SIGTERM: both are let go with an answer, not cut off; what was acknowledged is there afterwards."""
    with running_server(tmp_path, "--open") as server:
        job = httpx2.post(f"{server.url}/v1/jobs", json={"cmd": "true"}).json()["id"]
        assert httpx2.get(f"{server.url}/jobs/next").json()["id"] == job
        host = server.url.removeprefix("http://")
        work, decision = HTTPConnection(host, timeout=60), HTTPConnection(host, timeout=60)
        work.request("GET", "/jobs/next?wait=300")
        decision.request("GET", f"/v1/jobs/{job}?wait=300")
        for _ in range(3):  # answered behind them: so they are waiting
            httpx2.get(f"{server.url}/readyz")
        server.kill(signal.SIGTERM)
        assert work.getresponse().status == 204
        assert json.loads(decision.getresponse().read())["state"] == "running"
        work.close()
        decision.close()
        server.restart()
        assert httpx2.get(f"{server.url}/v1/jobs/{job}").json()["state"] == "running"


def test_expired_and_foreign_tokens_are_refused_by_a_real_server(tmp_path: Path) -> None:
    """The machine's clock, the server's own keys."""
    with running_server(tmp_path) as server:
        path = f"{server.url}/v1/jobs/1"
        good = server.access_token("ada", Scope.READ)
        check_problem(httpx2.get(path, headers=bearer(good)), "not_found")
        check_problem(httpx2.get(path), "no_token")
        check_problem(httpx2.get(path, headers=bearer(good[:-8] + "AAAAAAAA")), "bad_signature", "bad_token")
