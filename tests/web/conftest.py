"""Servers for the tests of the HTTP door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gnexec.keys import ServerKeys, load, new_keys
from tests.web.logs import Logs, in_memory, in_postgresql
from tests.web.sites import ORIGIN, Site, open_site


@pytest.fixture
def anyio_backend() -> str:
    """Run tests that are coroutines under asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> ServerKeys:
    """Keys of a server."""
    folder = tmp_path_factory.mktemp("keys")
    new_keys(folder / "private", folder / "public", ORIGIN)
    return load(folder / "private")


@pytest.fixture(scope="session", params=[in_memory, in_postgresql], ids=["memory", "postgresql"])
def logs(request: pytest.FixtureRequest) -> Logs:
    """Have each test that opens a server do so over each kind of store."""
    chosen: Logs = request.param
    return chosen


@pytest.fixture
async def secured(keys: ServerKeys, tmp_path: Path, logs: Logs) -> AsyncIterator[Site]:
    """Open a server in secured mode."""
    async with open_site(keys, tmp_path, logs) as site:
        yield site


@pytest.fixture
async def opened(keys: ServerKeys, tmp_path: Path, logs: Logs) -> AsyncIterator[Site]:
    """Open a server in open mode."""
    async with open_site(keys, tmp_path, logs, open_mode=True) as site:
        yield site
