"""Operation over PostgreSQL: a backup by its own tools, and the servers of `deploy/compose.yaml`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml  # type: ignore[import-untyped]

from gnexec.client import Client
from tests.databases import Cluster, binaries, shared
from tests.docs.console import ROOT
from tests.operation.test_backup import checkpoint, gnexec, work
from tests.serving import ORIGIN, Server, running_server
from tests.worker.agents import until

OPEN = ("--open",)
SAID = "postgresql://gnexec@db/gnexec"
"""The database of the compose file."""


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a home that knows of no log."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def cluster() -> Cluster:
    """Have a PostgreSQL."""
    return shared()


def tool(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own tools; it must succeed."""
    done = subprocess.run([str(binaries() / name), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dump_of_a_busy_server_restored_elsewhere_goes_on_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    """`pg_dump` first, blobs and keys then: all that the log names is there, and another machine can serve it."""
    data, backup, dump = tmp_path / "data", tmp_path / "backup", tmp_path / "backup.dump"
    with cluster.database() as old, cluster.database() as new:
        with running_server(data, *OPEN, "--database", old) as server:
            first = work(server.url, "kept")
            tool("pg_dump", "--format=custom", f"--file={dump}", old)
            copied = gnexec("db", "backup", str(backup), "--data", str(data), "--database", old, "--without-log")
            assert copied.returncode == 0, copied.stderr
            work(server.url, "lost")
        published = checkpoint(data / "published")
        tool("pg_restore", "--single-transaction", "--no-owner", f"--dbname={new}", str(dump))

        refused = gnexec("serve", "--data", str(data), "--database", new, "--port", "0", "--open")
        assert refused.returncode == 1
        assert f"a checkpoint of {published} was published" in refused.stderr

        elsewhere = tmp_path / "elsewhere"
        assert gnexec("db", "restore", str(backup), "--data", str(elsewhere)).returncode == 0
        with running_server(elsewhere, *OPEN, "--database", new) as server, Client(server.url) as client:
            assert client.stdout(first) == b"kept"
            work(server.url, "goes on")
            assert gnexec("log", "verify", server.url, "--vkey", server.vkey).returncode == 0


def test_database_that_lost_commits_while_it_was_served_stops_the_server(cluster: Cluster, tmp_path: Path) -> None:
    """A replica that was promoted without the newest commits is an old backup, too: nothing is served from it."""
    with cluster.database() as url, running_server(tmp_path, *OPEN, "--database", url) as server:
        work(server.url, "kept")
        with cluster.connect(url.partition("@/")[2].partition("?")[0]) as db:
            before = db.execute("SELECT size, note FROM head").fetchone()
            assert before is not None
            work(server.url, "lost")
            with db.transaction():
                db.execute("DELETE FROM entries WHERE seq >= %s", (before[0],))
                db.execute("DELETE FROM refs WHERE seq >= %s", (before[0],))
                db.execute("UPDATE head SET size = %s, note = %s", before)
        refused = until(lambda: _why_unready(server.url), "the server to notice")
        assert "was published" in refused
        assert httpx2.post(f"{server.url}/v1/jobs", json={"argv": ["echo", "second history"]}).status_code == 503
        server.kill(signal.SIGTERM)
        again = gnexec("serve", "--data", str(tmp_path), "--database", url, "--open", "--port", "0")
        assert again.returncode == 1
        assert "was published" in again.stderr


def _why_unready(url: str) -> str:
    """Return why a server is not ready, or nothing if it is."""
    reply = httpx2.get(f"{url}/readyz")
    return "" if reply.status_code == 200 else str(reply.json()["detail"])


def test_servers_of_the_compose_file_serve_one_log(cluster: Cluster, tmp_path: Path) -> None:
    """Its commands, run as they stand: one sets up, harmless when repeated, and two servers share what it made."""
    with cluster.database() as url, ExitStack() as stack:
        services = _services(url, tmp_path)
        setup = services["setup"]
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        env |= {"GNEXEC_DATA_DIR": str(tmp_path), "GNEXEC_ORIGIN": ORIGIN}
        for _ in range(2):
            command = [*setup["entrypoint"], *(line.replace("$$", "$") for line in setup["command"])]
            done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
            assert done.returncode == 0, done.stderr
        urls = []
        for name in ("one", "two"):
            words = services[name]["command"]
            assert words[:2] == ["serve", "--host"]
            server = Server(tmp_path, (*words[1:], "--open"))
            stack.callback(server.kill)
            server.start()
            urls.append(server.url)
        first = work(urls[0], "one")
        with Client(urls[1]) as client:
            assert client.stdout(first) == b"one"
        assert work(urls[1], "two") == first + 1
        for name in ("one", "two", "setup"):
            assert services[name]["read_only"] is True
            assert services[name]["cap_drop"] == ["ALL"]
            assert "password" not in str(services[name]["command"])


def _services(url: str, data: Path) -> dict[str, Any]:
    """Return the services of the compose file, with this database."""
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    assert SAID in text
    assert "/var/lib/gnexec" in text
    found: dict[str, Any] = yaml.safe_load(text.replace(SAID, url).replace("/var/lib/gnexec", str(data)))["services"]
    return found
