"""One server in open mode for all tests here, and a volunteer; each test has a home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stamina.instrumentation import set_on_retry_hooks

from tests.cli.volunteer import Volunteer
from tests.serving import Server, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server in open mode."""
    with running_server(tmp_path_factory.mktemp("server"), "--open") as running:
        yield running


@pytest.fixture
def volunteer(server: Server) -> Iterator[Volunteer]:
    """Have a volunteer for that server."""
    made = Volunteer(server.url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test a home of its own, and an environment that says nothing of gnexec."""
    for name in [name for name in os.environ if name.startswith("GNEXEC_")]:
        monkeypatch.delenv(name)
    for kind in ("CONFIG", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    yield tmp_path
    set_on_retry_hooks(None)
