"""The recipe for a reverse proxy, with a real nginx: everything that passes through it comes out as it went in."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from threading import Thread

import httpx2
import psutil
import pytest

from gnexec.cli.listening import KEEP_ALIVE_S
from gnexec.tokens.issued import Scope
from gnexec.web.reading import MAX_WAIT_S
from tests.operation.nginx import RECIPE, Nginx, nginx
from tests.serving import Server, running_server
from tests.worker.agents import until, worker

RATE = 3
"""Requests a second of one address in open mode."""
ELSEWHERE = "127.0.0.2"
"""Another address of this machine, for a second client."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Have a server that trusts a proxy on this machine."""
    with running_server(tmp_path / "server", "--allow-raw", "--trusted-proxy", "127.0.0.1", "--max-blob", "4MiB") as it:
        yield it


@pytest.fixture
def front(server: Server, tmp_path: Path) -> Iterator[Nginx]:
    """Have an nginx in front of the server."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx(folder, server.url) as it:
        yield it


def test_client_and_worker_come_through_with_the_certificate_they_are_given(
    front: Nginx, server: Server, tmp_path: Path
) -> None:
    """The whole way, as users type it: submission, work in a real worker, result, verification of the live log."""
    eve = server.access_token("eve", Scope.SUBMIT, Scope.READ)
    trust = {"SSL_CERT_FILE": str(front.certificate)}
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GNEXEC_TOKEN": eve, "GNEXEC_SERVER": front.url}

    def gnexec(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gnexec", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env | more, timeout=120, check=False)

    assert gnexec("submit", "echo", "through").returncode == 75  # whom nobody vouches for is not talked to
    assert gnexec("submit", "echo", "through", **trust).returncode == 0
    flags = ("--unsafe-no-sandbox", "--once")
    with worker(front.url, tmp_path / "worker", *flags, access_token=server.access_token("ann", Scope.ENROL)) as ann:
        ann.env.update(trust)
        assert ann.run() == 0, ann.text
        assert "not encrypted" not in ann.text
    assert gnexec("wait", "1", **trust).returncode == 0
    assert gnexec("result", "1", "--stdout", **trust).stdout == "through\n"
    verified = gnexec("log", "verify", front.url, "--vkey", server.vkey, **trust)
    assert verified.returncode == 0, verified.stderr
    assert httpx2.get(f"{front.plain}/hey").status_code == 308
    assert eve not in front.requests
    assert "req=" not in front.requests


def test_long_poll_is_answered_when_work_comes_and_events_as_they_happen(front: Nginx, server: Server) -> None:
    """Nothing is held back on the way: neither the reply to a waiting client nor the lines of an endless one."""
    token = server.access_token("eve", Scope.SUBMIT, Scope.READ)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=front.url, verify=front.context, headers=headers, timeout=60) as http:
        job = http.post("/v1/jobs", json={"argv": ["sleep", "1000"]}).raise_for_status().json()["id"]
        changed: list[httpx2.Response] = []
        waiter = Thread(target=lambda: changed.append(http.get(f"/v1/jobs/{job}", params={"wait": 50})))
        with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
            lines = stream.iter_lines()
            first = next(line for line in lines if line.startswith("data:"))
            waiter.start()
            http.post(f"/v1/jobs/{job}:cancel").raise_for_status()
            second = next(line for line in lines if line.startswith("data:"))
        waiter.join()
    assert json.loads(first.removeprefix("data:")) != json.loads(second.removeprefix("data:"))
    assert changed[0].json()["state"] == "cancelled"


def test_times_of_the_recipe_fit_those_of_the_server() -> None:
    """The proxy waits longer than the longest poll, and lets go of connections before the server does."""
    recipe = RECIPE.read_text()

    def seconds(name: str, place: str = recipe) -> int:
        found = re.search(rf"\b{name} (\d+)s;", place)
        assert found is not None
        return int(found[1])

    upstream = re.search(r"upstream gnexec {.*?}", recipe, re.DOTALL)
    assert upstream is not None
    assert seconds("proxy_read_timeout") > MAX_WAIT_S
    assert seconds("keepalive_timeout", upstream[0]) < KEEP_ALIVE_S


def test_large_bodies_pass_and_limits_are_told_by_the_server(front: Nginx, server: Server) -> None:
    """What is too large is refused with the server's own words, never with a page of nginx's."""
    headers = {"Authorization": f"Bearer {server.access_token('eve', Scope.SUBMIT, Scope.READ)}"}
    with httpx2.Client(base_url=front.url, verify=front.context, headers=headers, timeout=60) as http:
        blob = secrets.token_bytes(3 << 20)
        name = hashlib.sha256(blob).hexdigest()
        assert http.put(f"/v1/blobs/{name}", content=blob).status_code in (200, 201)
        assert http.get(f"/v1/blobs/{name}").content == blob
        assert http.get(f"/v1/blobs/{name}", headers={"Range": "bytes=5-9"}).content == blob[5:10]
        large = secrets.token_bytes(5 << 20)
        refused = http.put(f"/v1/blobs/{hashlib.sha256(large).hexdigest()}", content=large)
        assert refused.status_code == 413
        assert refused.headers["content-type"] == "application/problem+json"
    # A connection whose body was not taken is closed; the next request comes on another one.
    absent = httpx2.get(f"{front.url}/v1/jobs/99", verify=front.context, headers=headers)
    assert absent.json()["code"] == "not_found"


def test_body_that_is_cut_off_is_cut_off_there_too(front: Nginx, server: Server) -> None:
    """Half an upload is no blob, and the connection it came on is not given the next request."""
    token = server.access_token("eve", Scope.SUBMIT, Scope.READ)
    blob = secrets.token_bytes(1 << 20)
    name = hashlib.sha256(blob).hexdigest()
    host, port = front.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port))) as raw,
        front.context.wrap_socket(raw, server_hostname=host) as tls,
    ):
        head = f"PUT /v1/blobs/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        tls.sendall(f"{head}Content-Length: {len(blob)}\r\n\r\n".encode() + blob[: 1 << 19])
        until(lambda: list((server.data / "blobs" / "uploads").iterdir()), "the upload to begin")
    until(lambda: not list((server.data / "blobs" / "uploads").iterdir()), "the upload to be dropped")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=front.url, verify=front.context, headers=headers) as http:
        assert http.get(f"/v1/blobs/{name}").status_code == 404
        assert http.put(f"/v1/blobs/{name}", content=blob).status_code in (200, 201)
    assert "error" not in "".join(server.output).lower()


def test_connections_to_the_server_are_used_again(front: Nginx, server: Server) -> None:
    """Each client comes on a connection of its own; the server sees few."""

    def ports() -> set[int]:
        assert server.process is not None
        found = psutil.Process(server.process.pid).net_connections("tcp")
        return {each.raddr.port for each in found if each.status == psutil.CONN_ESTABLISHED and each.raddr}

    seen: set[int] = set()
    for _ in range(30):
        assert httpx2.get(f"{front.url}/hey", verify=front.context).status_code == 200
        seen |= ports()
    assert 1 <= len(seen) <= 2 * (os.cpu_count() or 1)


def test_rate_is_that_of_the_client_and_cannot_be_talked_away(tmp_path: Path) -> None:
    """Each address behind the proxy has its own rate, whatever its requests claim; nobody else is believed."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    flags = ("--open", "--open-rate", str(RATE), "--trusted-proxy", "127.0.0.1")
    with running_server(tmp_path / "server", *flags) as server, nginx(folder, server.url) as front:
        claims = [{"X-Forwarded-For": f"192.0.2.{n}"} for n in range(10 * RATE)]
        assert 429 in {_get(front, "127.0.0.1", claim) for claim in claims}
        assert _get(front, ELSEWHERE, {}) == 200
        host, port = server.url.removeprefix("http://").split(":")
        direct = httpx2.HTTPTransport(local_address=ELSEWHERE)
        with httpx2.Client(transport=direct, base_url=f"http://{host}:{port}") as http:
            assert 429 in {http.get("/hey", headers=claim).status_code for claim in claims}


def test_metrics_are_for_this_machine_only(front: Nginx) -> None:
    """What the server counts is no business of a stranger's, whatever address it claims to have."""
    assert _get(front, "127.0.0.1", {}, "/metrics") == 200
    assert _get(front, ELSEWHERE, {"X-Forwarded-For": "127.0.0.1"}, "/metrics") == 403
    assert _get(front, ELSEWHERE, {}) == 200


def _get(front: Nginx, source: str, headers: dict[str, str], path: str = "/hey") -> int:
    """Ask from one of this machine's addresses; return the status."""
    host, port = front.url.removeprefix("https://").split(":")
    connection = HTTPSConnection(host, int(port), context=front.context, source_address=(source, 0), timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
