"""A kill at every point of the table, one after the other, over one log that grows all the while."""

from __future__ import annotations

import random

import pytest

from tests.databases import shared
from tests.torture.arena import ROUNDS, SEED, Arena, arena
from tests.torture.points import Of, Point, Store, points

SERVER = (Of.SERVER, Of.START, Of.SNAPSHOT)
FEW = 6
"""Points that a short run draws from each table; all are patched in every process, so none can be gone unseen."""


def test_kill_at_named_points_loses_and_doubles_nothing() -> None:
    """Server and workers die at each point; all that was acknowledged is in the log, once, and the log is in order."""
    with arena(SEED, workers=1) as it:
        servers, workers = set[str](), set[str]()
        for number in range(max(1, ROUNDS)):
            draw = random.Random(f"{SEED}/points/{number}")  # noqa: S311 -- a seed that can be told
            workers |= _kill_worker(it, draw, _table(draw, Of.WORKER))
            servers |= _kill_server(it, draw, _table(draw, *SERVER))
        it.finish()
        assert set(it.faults.fired()) == servers
        assert set(it.worker_faults[0].fired()) == workers


@pytest.mark.parametrize("processes", [1, 2] if ROUNDS else [2])
def test_kill_at_named_points_over_postgres_loses_and_doubles_nothing(processes: int) -> None:
    """The same, with one process and with several; of several, those that go on serve meanwhile."""
    with shared().database() as url, arena(SEED, database=url, processes=processes) as it:
        for number in range(max(1, ROUNDS)):
            draw = random.Random(f"{SEED}/postgres/{processes}/{number}")  # noqa: S311 -- as above
            _kill_server(it, draw, _table(draw, *SERVER, store=Store.POSTGRES))
        it.finish()


def _table(draw: random.Random, *of: Of, store: Store = Store.SQLITE) -> list[Point]:
    """Return the points in an order that is drawn: all of them in a long run, few in a short one."""
    found = points(*of, store=store)
    return draw.sample(found, len(found) if ROUNDS else FEW)


def _kill_server(it: Arena, draw: random.Random, table: list[Point]) -> set[str]:
    """Kill the server at each point; return their names."""
    for number, point in enumerate(table):
        it.crowd.moves(draw.randrange(1, 30))
        it.kill_server_at(point, draw.randint(1, point.most))
        if point.of is Of.SNAPSHOT or (it.processes > 1 and number % 3 == 2):
            it.kill_server()  # and a supervisor that has seen many deaths would wait ever longer
    return {point.name for point in table}


def _kill_worker(it: Arena, draw: random.Random, table: list[Point]) -> set[str]:
    """While the server is there: a worker waits longer each time that it is not, and would come to nothing."""
    for point in table:
        it.kill_worker_at(0, point, draw.randint(1, point.most))
    return {point.name for point in table}
