"""A new store of each kind, and a time that the test sets."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from gnexec.store.contract import Store
from tests.desk.house import Time
from tests.store.conftest import make
from tests.store.stores import Make

__all__ = ["make"]


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep what the desk tells its operator."""
    with capture_logs() as told:
        yield told


@pytest.fixture
def time() -> Time:
    """Return clocks that only the test moves."""
    return Time()


@pytest.fixture
def store(make: Make, time: Time) -> Store:
    """Return an empty store on the test's clock that never fails."""
    return make(clock_ms=time.wall)
