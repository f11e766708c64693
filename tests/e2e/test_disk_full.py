"""A server whose disk is full: it says so, loses nothing that it has acknowledged, and goes on when there is room."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from gnexec.client import Client
from gnexec.errors import Refused, ServerUnreachable
from gnexec.ids import sha256_hex
from gnexec.tokens.issued import Scope
from tests.requirements import missing
from tests.serving import running_server
from tests.worker.agents import until, worker

SIZE = "8m"
LEFT_BYTES = 256 << 10
ENOUGH = 1000
"""Submissions that do not fit into that."""


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        missing(f"a small disk cannot be mounted ({mounted.stderr.strip()}): run the tests as root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that holds 8 MiB and no more."""
    with _small_disk(tmp_path / "disk") as place:
        yield place


def _fill(disk: Path) -> Path:
    """Use up what is left of the disk, but for so little that a few more submissions fit."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
        file.truncate(file.tell() - LEFT_BYTES)
    return filler


def test_server_with_a_full_disk_refuses_and_recovers_without_loss(disk: Path, tmp_path: Path) -> None:
    """Submissions and uploads get a 5xx problem until there is room; what was acknowledged is there, and runs."""
    with running_server(disk / "server", "--allow-raw", "--data-class", "public") as server:
        token = server.access_token("submitter", Scope.SUBMIT, Scope.READ)
        with Client(server.url, token, patience_s=0) as client:
            acknowledged = [client.submit(["/bin/echo", "first"], outputs=["stdout"]).id]
            filler = _fill(disk)
            refusals: list[Refused] = []
            for i in range(ENOUGH):
                try:
                    acknowledged.append(client.submit(["/bin/echo", str(i)], outputs=["stdout"]).id)
                except Refused as err:
                    refusals.append(err)
                    if len(refusals) == 5:
                        break
            assert {err.status for err in refusals} <= {503, 507}, refusals
            assert len(refusals) == 5
            assert len(acknowledged) > 1
            _check_upload_is_refused(server.url, token)
            with pytest.raises((Refused, ServerUnreachable)):
                client.submit(["/bin/echo", "still full"])
            filler.unlink()
            until(lambda: _submits(client), "room again", lambda: "".join(server.output))
            assert httpx2.get(f"{server.url}/readyz").status_code == 200
            for job in acknowledged:
                assert client.job(job).state == "queued"
        owner = server.access_token("volunteer", Scope.ENROL)
        with worker(server.url, tmp_path / "state", "--unsafe-no-sandbox", access_token=owner) as one:
            assert one.run("--once") == 0, one.text
        with Client(server.url, token) as client:
            assert {client.job(job).state for job in acknowledged} == {"succeeded"}
            assert client.stdout(acknowledged[0]) == b"first\n"
        env = {"HOME": str(tmp_path)}
        verify = [sys.executable, "-m", "gnexec", "log", "verify", server.url, "--vkey", server.vkey]
        verified = subprocess.run(verify, capture_output=True, text=True, env=env, check=False)
        assert verified.returncode == 0, verified.stderr
    with running_server(disk / "server", "--allow-raw") as server, Client(server.url, token) as client:
        assert {client.job(job).state for job in acknowledged} == {"succeeded"}


def _check_upload_is_refused(url: str, token: str) -> None:
    """A blob for which there is no room is not taken, and leaves nothing behind."""
    data = b"x" * (1 << 20)
    place = f"{url}/v1/blobs/{sha256_hex(data)}"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    reply = httpx2.put(place, content=data, headers=headers)
    assert reply.status_code in {503, 507}, reply.text
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert httpx2.head(place, headers=headers).status_code in {404, 503}


def _submits(client: Client) -> bool:
    try:
        return client.submit(["/bin/echo", "room again"], outputs=["stdout"]).id > 0
    except Refused:
        return False
