"""A new store of each kind, closed at the test's end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gnexec.store.clock import wall_ms
from gnexec.store.contract import Store
from gnexec.store.memory import Fault
from tests.store.stores import STORES, Make


@pytest.fixture(params=sorted(STORES))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Make stores of one kind; for tests that ask for faults or a clock."""
    with ExitStack() as stack:
        build = STORES[request.param](tmp_path, stack)

        def made(*, faults: Iterable[Fault | None] = (), clock_ms: Callable[[], int] = wall_ms) -> Store:
            store = build(faults=faults, clock_ms=clock_ms)
            stack.callback(store.close)
            return store

        yield made


@pytest.fixture
def store(make: Make) -> Store:
    """Make an empty store that never fails."""
    return make()
