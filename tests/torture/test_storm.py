"""Kills, cuts and changes of keys at random moments: of the server, its workers, its database and the way between them.

The moments are counted in replies, not in seconds, and drawn from the seed: as reproducible as real processes are.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.databases import Cluster
from tests.torture.arena import ROUNDS, SEED, Arena, arena
from tests.torture.points import Of, Store, points

TROUBLES = 20 * ROUNDS or 5
WORKERS = 2


ARENAS = [(Store.SQLITE, 1), (Store.POSTGRES, 2), (Store.POSTGRES, 1)]


@pytest.mark.parametrize(("store", "processes"), ARENAS if ROUNDS else ARENAS[:2])
def test_storm_of_kills_and_cuts_loses_and_doubles_nothing(store: Store, processes: int) -> None:
    """Whatever dies whenever: all that was acknowledged is in the log, once, and nobody is blamed."""
    draw = random.Random(f"{SEED}/storm/{store}/{processes}")  # noqa: S311 -- a seed that can be told
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster()) if store is Store.POSTGRES else None
        url = cluster.new_database() if cluster is not None else None
        it = stack.enter_context(arena(SEED, workers=WORKERS, database=url, processes=processes))
        troubles = _troubles(it, draw, store, cluster)
        for number in range(TROUBLES):
            it.crowd.moves(draw.randrange(1, 60))
            draw.choice(troubles)()
            if number % 5 == 4:  # a worker, and a supervisor, wait ever longer for what keeps dying
                it.crowd.moves(100)
        it.ready()
        it.finish()


def _troubles(it: Arena, draw: random.Random, store: Store, cluster: Cluster | None) -> list[Callable[[], None]]:
    table = points(Of.SERVER, Of.START, store=store)

    def kill_at_a_point() -> None:
        point = draw.choice(table)
        it.kill_server_at(point, draw.randint(1, point.most))

    def kill_worker() -> None:
        one = draw.choice(it.workers)
        one.kill()
        it.note("worker, anywhere")
        one.start()

    def cut() -> None:
        it.proxy.cut()
        it.note("all connections of the proxy")
        it.proxy.mend()

    def rotate() -> None:
        env = {"PATH": os.environ["PATH"], "HOME": str(it.folder)}
        command = [sys.executable, "-m", "gnexec", "keys", "rotate", "--data", str(it.server.data)]
        subprocess.run(command, env=env, check=True, capture_output=True)
        it.note("rotation of the token keys")

    def crash_database() -> None:
        assert cluster is not None
        cluster.kill()
        it.note("PostgreSQL, anywhere")
        cluster.start()

    def restart_database() -> None:
        assert cluster is not None
        how = draw.choice(("fast", "immediate"))
        cluster.restart(how)
        it.note(f"PostgreSQL, stopped ({how})")

    found = [it.kill_server, it.stop_server, kill_at_a_point, kill_worker, cut, rotate]
    if cluster is not None:
        found += [crash_database, restart_database]
    if it.processes > 1:
        found.append(lambda: it.kill_child(draw))
    return found
