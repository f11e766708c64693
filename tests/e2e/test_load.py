"""A real server under hostile clients and under load: it ends when told to, stays small, and goes on serving.

No time is asserted, only that things end, and ratios of what one and the same process uses.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2
import psutil
import pytest

from gnexec.ids import b64url
from gnexec.tokens.issued import Scope
from gnexec.web.limits import raise_file_limit
from tests.requirements import require
from tests.serving import Server, running_server

SOAK_S = int(os.environ.get("GNEXEC_SOAK", "3"))
"""Seconds that each part of the soak lasts; GNEXEC_SOAK=600 soaks for long."""
POLLERS = int(os.environ.get("GNEXEC_POLLERS", "1000"))
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server in open mode."""
    with running_server(tmp_path, "--open") as found:
        yield found


def address(server: Server) -> tuple[str, int]:
    """Return where a server listens."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return host, int(port)


def process(server: Server) -> psutil.Process:
    """Return a running server's process."""
    assert server.process is not None
    return psutil.Process(server.process.pid)


def rss(server: Server) -> int:
    """Return a server's resident memory, bytes."""
    return int(process(server).memory_info().rss)


def cpu_s(server: Server) -> float:
    """Return a server's processor time, seconds."""
    used = process(server).cpu_times()
    return float(used.user + used.system)


def talk(server: Server, *parts: bytes) -> socket.socket:
    """Connect, send, and leave the connection open."""
    found = socket.create_connection(address(server), timeout=60)
    for part in parts:
        found.sendall(part)
    return found


def is_well(server: Server) -> bool:
    """Tell whether a server answers."""
    return httpx2.get(f"{server.url}/readyz", timeout=60).status_code == 200


# Hostile clients.


def test_server_ends_when_told_to_whatever_its_clients_do(server: Server) -> None:
    """Half-open, dripping, waiting, following and never-reading clients: SIGTERM still ends it, and in order."""
    job = httpx2.post(f"{server.url}/v1/jobs", json={"cmd": "true"}).json()["id"]
    assert httpx2.get(f"{server.url}/jobs/next").status_code == 200
    with ExitStack() as stack:
        for head in (
            b"",
            b"GET /he",
            b"PUT /jobs/1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n" + b" " * 500_000,
            b"GET /jobs/next?wait=300 HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET /v1/jobs/{job}?wait=300 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
            f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
            b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 30,
            GET,
        ):
            for _ in range(5):
                stack.enter_context(closing(talk(server, head)))
        assert is_well(server)
        assert server.kill(signal.SIGTERM) == 0, "".join(server.output)
    assert not [line for line in server.output if "Traceback" in line], "".join(server.output)
    server.restart()
    assert is_well(server)


def test_server_that_is_full_of_silent_sockets_serves_whoever_asks(tmp_path: Path) -> None:
    """As many half-open sockets as it takes connections, held for as long as the test lasts."""
    with running_server(tmp_path, "--open", "--max-connections", "200") as server, ExitStack() as stack:
        for i in range(400):
            stack.enter_context(closing(talk(server, b"GET /" if i % 2 else b"")))
        served = 0
        while served < 20:
            try:
                served += is_well(server)
            except httpx2.TransportError:
                served = 0  # All silent ones are still too young to make room.
        assert process(server).num_fds() < 300


def test_a_flood_of_large_bodies_is_shed_and_leaves_no_memory_behind(tmp_path: Path) -> None:
    """Ten times what the server may hold comes at once: each is taken or told to come again, and it stays small."""
    with running_server(tmp_path, "--open", "--max-bodies", "16MiB", "--max-body", "8MiB") as server:
        before = rss(server)
        most = 0

        def send(_: int) -> int:
            nonlocal most
            body = json.dumps({"argv": ["x", secrets.token_hex(8)]}).encode().ljust(8_000_000)
            status = httpx2.post(f"{server.url}/v1/jobs", content=body, timeout=120, headers=kind).status_code
            most = max(most, rss(server))
            return status

        kind = {"Content-Type": "application/json"}
        with ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(send, range(40)))
        assert set(statuses) <= {201, 503}
        assert 201 in statuses
        assert most - before < 10 * (16 << 20), "a body is held some times over while it is parsed, not forty times"
        assert is_well(server)


def test_forged_tokens_are_refused_cheaply_and_leave_nothing_behind(tmp_path: Path) -> None:
    """Each costs a signature at most; no cache, no log entry, no line of the operator's log."""
    with running_server(tmp_path) as server:
        good = server.access_token("ada", Scope.READ).rpartition(".")[0]
        size = httpx2.get(f"{server.url}/checkpoint").text.splitlines()[1]

        def forge(client: httpx2.Client, count: int) -> None:
            for i in range(count):
                # A key that is known, a form that is right, and a signature that is not.
                forged = f"{good}.{b64url(secrets.token_bytes(63) + bytes([i % 16]))}"
                path = ("/v1/jobs/1", "/jobs/next", "/v1/workers/me/why")[i % 3]
                assert client.get(path, headers={"Authorization": f"Bearer {forged}"}).status_code == 401

        with httpx2.Client(base_url=server.url, timeout=60) as client:
            forge(client, 300)
            before, said = rss(server), len(server.output)
            forge(client, 1500)
        assert rss(server) < 1.1 * before
        assert len(server.output) == said
        assert httpx2.get(f"{server.url}/checkpoint").text.splitlines()[1] == size


# Load.


def test_many_who_wait_cost_nothing_and_a_job_wakes_one(server: Server) -> None:
    """Idle long polls use less processor time in a while than it took to let them in; each job wakes one of them."""
    assert raise_file_limit() > POLLERS + 100, "this machine's limit on open files is too low"

    async def main() -> None:
        host, port = address(server)
        start, small = cpu_s(server), rss(server)
        polls = []
        for i in range(POLLERS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET /jobs/next?wait=300&req=r{i} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            polls.append((reader, writer))
        assert is_well(server)
        let_in_s = cpu_s(server) - start
        assert rss(server) - small < POLLERS * 50_000
        quiet = cpu_s(server)
        await asyncio.sleep(2)  # Nothing is awaited: what is measured is what nothing costs.
        assert cpu_s(server) - quiet < 0.25 * let_in_s
        async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
            for i in range(20):
                reply = await client.post("/v1/jobs", json={"cmd": f"echo {i}"})
                assert reply.status_code == 201
        ids = []
        for reader, _ in polls[:20]:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            assert head.startswith(b"HTTP/1.1 200")
            found = re.search(rb"content-length: (\d+)", head)
            assert found is not None
            ids.append(json.loads(await reader.readexactly(int(found[1])))["id"])
        assert sorted(ids) == list(range(1, 21)), "the twenty who waited longest have one each"
        assert is_well(server)
        assert not any(reader._buffer for reader, _ in polls[20:])  # type: ignore[attr-defined]
        for _, writer in polls:
            writer.close()

    asyncio.run(main())


def _wrk(server: Server, path: str, *flags: str, connections: int = 64) -> str:
    """Load a path for a while, without a single error; return what was said."""
    command = [require("wrk", "wrk"), "-t2", f"-c{connections}", f"-d{SOAK_S}s", "--timeout", "60s", "--latency"]
    ran = subprocess.run([*command, *flags, server.url + path], capture_output=True, text=True, check=True)
    print(ran.stdout)  # noqa: T201 -- for whoever wants the figures
    assert "Socket errors" not in ran.stdout, ran.stdout
    assert "Non-2xx" not in ran.stdout, ran.stdout
    assert re.search(r"(\d+) requests in", ran.stdout), ran.stdout
    return ran.stdout


SUBMIT_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"cmd": "echo again"}'
"""


def test_soak_leaves_memory_flat_and_makes_no_error(server: Server, tmp_path: Path) -> None:
    """Reading, polling in vain and submitting the same again: every request is answered, and memory stays."""
    script = tmp_path / "submit.lua"
    script.write_text(SUBMIT_LUA)
    work: list[tuple[str, tuple[str, ...]]] = [
        ("/healthz", ()),
        ("/checkpoint", ()),
        ("/v1/jobs/1", ()),
        ("/jobs/next?wait=0.05", ()),
        ("/v1/jobs", ("-s", str(script))),
    ]
    httpx2.post(f"{server.url}/v1/jobs", json={"cmd": "echo again"})
    assert httpx2.get(f"{server.url}/jobs/next").status_code == 200
    for path, flags in work:
        _wrk(server, path, *flags)
    warm = rss(server)
    for path, flags in work:
        _wrk(server, path, *flags)
    assert rss(server) < 1.1 * warm
    assert is_well(server)
