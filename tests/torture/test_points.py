"""A kill at every point of the table, one after the other, over one log that grows all the while."""

from __future__ import annotations

import random

import pytest

from tests.databases import shared
from tests.torture.arena import ROUNDS, SEED, Arena, arena
from tests.torture.points import Of, Point, Store, points

SERVER = (Of.SERVER, Of.START, Of.SNAPSHOT)
FEW = 6
"""Points that a short run takes from the table where the whole of it is passed elsewhere."""


def test_kill_at_every_named_point_loses_and_doubles_nothing() -> None:
    """Server and workers die at each point; all that was acknowledged is in the log, once, and the log is in order."""
    with arena(SEED, workers=1) as it:
        for number in range(max(1, ROUNDS)):
            draw = random.Random(f"{SEED}/points/{number}")  # noqa: S311 -- a seed that can be told
            _kill_worker(it, draw)
            _kill_server(it, draw, points(*SERVER))
        it.finish()
        assert set(it.faults.fired()) == {point.name for point in points(*SERVER)}
        assert set(it.worker_faults[0].fired()) == {point.name for point in points(Of.WORKER)}


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_at_named_points_over_postgres_loses_and_doubles_nothing(processes: int) -> None:
    """The same, with one process and with several; of several, those that go on serve meanwhile."""
    table = points(*SERVER, store=Store.POSTGRES)
    with shared().database() as url, arena(SEED, database=url, processes=processes) as it:
        for number in range(max(1, ROUNDS)):
            draw = random.Random(f"{SEED}/postgres/{processes}/{number}")  # noqa: S311 -- as above
            _kill_server(it, draw, table if ROUNDS else draw.sample(table, FEW))
        it.finish()


def _kill_server(it: Arena, draw: random.Random, table: list[Point]) -> None:
    for number, point in enumerate(draw.sample(table, len(table))):
        it.crowd.moves(draw.randrange(1, 30))
        it.kill_server_at(point, draw.randint(1, point.most))
        if point.of is Of.SNAPSHOT or (it.processes > 1 and number % 3 == 2):
            it.kill_server()  # and a supervisor that has seen many deaths would wait ever longer


def _kill_worker(it: Arena, draw: random.Random) -> None:
    """While the server is there: a worker waits longer each time that it is not, and would come to nothing."""
    table = points(Of.WORKER)
    for point in draw.sample(table, len(table)):
        it.kill_worker_at(0, point, draw.randint(1, point.most))
