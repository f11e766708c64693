"""gnexec itself: one server over SQLite, volunteers that sign every result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import uvloop

from bench.peers.peer import Peer, Run
from gnexec.bench.servers import HOST, ORIGIN, access_token, gnexec_server
from gnexec.bench.stations import PER_POST, hand_in
from gnexec.bench.volunteer import Volunteer, cycles
from gnexec.tokens.issued import Scope

LONGEST_S = 3600.0


def gnexec(n: int, connections: int, tasks: int) -> Peer:
    """Return gnexec with `connections` volunteers that take `n` jobs a request."""
    words = "one job" if n == 1 else f"{n} jobs"
    how = f"{words} a request, {connections} connections; SQLite, fsync each commit; every result signed"
    return Peer(f"gnexec, n={n}, {connections} connections", how, tasks, _opener(n, connections))


def _opener(n: int, connections: int) -> Callable[[Path], AbstractContextManager[Run]]:
    @contextmanager
    def opened(folder: Path) -> Iterator[Run]:
        with gnexec_server(folder) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            enrol, submit = access_token(folder, "bench", Scope.ENROL), access_token(folder, "bench", Scope.SUBMIT)

            async def enrolled() -> list[Volunteer]:
                return [await Volunteer.enrol(HOST, server.port, ORIGIN, enrol) for _ in range(connections)]

            volunteers = runner.run(enrolled())

            async def run(tasks: int) -> None:
                posted = await hand_in(server.port, submit, -(-tasks // PER_POST) * PER_POST)
                done = await cycles(volunteers, n, LONGEST_S)
                if done.count != posted.count:
                    msg = f"{posted.count} jobs were handed in, {done.count} were done"
                    raise RuntimeError(msg)

            yield lambda tasks: runner.run(run(tasks))

    return opened
