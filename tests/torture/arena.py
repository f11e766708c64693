"""The arena: a real server, real workers, a proxy, and the crowd; and the hand that kills them.

A server that dies is started again by the same command, as systemd would do it; nothing else is done to it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import psutil

from gnexec.tokens.issued import Scope
from tests.e2e.proxy import Fate, Proxy, Rule, pass_all, proxy
from tests.serving import Server, running_server
from tests.torture.check import check_blobs, check_log, gnexec
from tests.torture.crowd import Crowd
from tests.torture.faults import Faults
from tests.torture.points import Of, Point
from tests.worker.agents import Worker, until, worker

ROUNDS = int(os.environ.get("GNEXEC_TORTURE", "0"))
"""How many kills, and how many passings of the table, are asked for; 0 for few."""
SEED = os.environ.get("GNEXEC_SEED") or (str(random.SystemRandom().randrange(1 << 32)) if ROUNDS else "1")
"""A short run is the same each time; a long one is another each time, and tells its seed."""
LOST = 0.02
"""Share of the exchanges over the proxy that are lost, each way."""
FLAGS = ("--allow-raw", "--data-class", "public", "--snapshot-every", "100")


@dataclass
class Arena:
    """What is tortured.

    Attributes:
        database: address of a PostgreSQL database, or None for SQLite.
        processes: of the server.
        killed: how often, by point or kind.
        faults: of the server. worker_faults: of each worker.
    """

    server: Server
    proxy: Proxy
    crowd: Crowd
    folder: Path
    faults: Faults
    workers: list[Worker]
    worker_faults: list[Faults]
    database: str | None = None
    processes: int = 1
    killed: Counter[str] = field(default_factory=Counter)
    began_s: float = field(default_factory=time.monotonic)

    @property
    def words(self) -> str:
        """What server and workers have said."""
        return "\n".join(["".join(self.server.output), *(one.text for one in self.workers)])[-20_000:]

    def note(self, trouble: str) -> None:
        """Count a trouble, and tell it: a long run shows where it is, and a failed one what went before."""
        self.killed[trouble] += 1
        print(f"{time.monotonic() - self.began_s:8.1f} s  {trouble}", flush=True)  # noqa: T201 -- as in `report`

    def restart(self) -> None:
        """Start the server anew, which must get ready by itself."""
        self.server.restart()
        self.ready()

    def ready(self) -> None:
        """Wait until the server says that it is ready."""

        def asked() -> bool:
            try:
                return httpx2.get(f"{self.server.url}/readyz").status_code == 200
            except httpx2.HTTPError:
                return False

        until(asked, "a server that is ready", lambda: self.words)

    def kill_server(self) -> None:
        """Kill it, all of its processes, wherever they are."""
        self._kill_family()
        self.note("server, anywhere")
        self.restart()

    def stop_server(self) -> None:
        """Let it end as an operator would, and start it again."""
        status = self.server.kill(signal.SIGTERM)
        assert status in {0, -signal.SIGTERM}, self.words
        self.note("server, by SIGTERM")
        self.restart()

    def kill_child(self, draw: random.Random) -> None:
        """Kill one process of several; the supervisor starts it again."""
        assert self.server.process is not None
        children = [
            one for one in psutil.Process(self.server.process.pid).children() if "gnexec.cli.child" in one.cmdline()
        ]
        if children:
            draw.choice(children).kill()
            self.note("one process of the server, anywhere")

    def kill_server_at(self, point: Point, k: int) -> None:
        """Let the server come to a point, and die there."""
        if point.of is Of.START:
            self._start_dies(point, k)
            return
        self.faults.arm(point, k)
        self._dies(point)
        assert self.server.process is not None
        if self.processes == 1 and point.of is Of.SERVER:
            assert self.server.process.wait(30) == -signal.SIGKILL, self.words
            self.restart()

    def _start_dies(self, point: Point, k: int) -> None:
        self._kill_family()
        self.faults.arm(point, k)
        try:
            self.server.restart()
        except AssertionError:
            self._dies(point)
            self.restart()
        else:  # it was ready before it came to the k-th passing
            self.faults.disarm(point)
            self.crowd.moves(1)
            self._start_dies(point, max(1, k // 2))

    def _kill_family(self) -> None:
        assert self.server.process is not None
        family = psutil.Process(self.server.process.pid).children(recursive=True)
        self.server.kill()
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family)

    def _dies(self, point: Point) -> None:
        def died() -> bool:
            self.crowd.check()
            return not self.faults.armed(point)

        until(died, f"the {point.of} that comes to {point.name!r}", lambda: self.words)
        self.note(f"{point.of}: {point.name}")

    def kill_worker_at(self, number: int, point: Point, k: int) -> None:
        """Let a worker come to a point, and die there."""
        one, faults = self.workers[number], self.worker_faults[number]
        faults.arm(point, k)
        until(lambda: not faults.armed(point), f"the worker that comes to {point.name!r}", lambda: self.words)
        assert one.wait() == -signal.SIGKILL, self.words
        self.note(f"{point.of}: {point.name}")
        one.start()

    def finish(self) -> None:
        """Let all come to their ends, and check everything."""
        self.proxy.rule = pass_all
        self.crowd.finish()
        for one in self.workers:
            one.signal(signal.SIGTERM)
            assert one.wait() == 0, one.text
            assert one.entries == [], one.text
        self.crowd.again()
        gnexec(self.folder, "log", "verify", self.server.url, "--vkey", self.server.vkey)
        self.stop_server()
        self.crowd.again()
        self.server.kill(signal.SIGTERM)
        if self.database is None:
            gnexec(self.folder, "log", "replay", "--data", str(self.server.data))
        url = self.database or f"sqlite:///{self.server.data / 'log.sqlite'}"
        check_log(url, self.server.vkey, self.crowd.record)
        check_blobs(self.server.data / "blobs", self.crowd.record)

    def report(self) -> None:
        """Print the counts."""
        lost = Counter(exchange.fate.value for exchange in self.proxy.exchanges)
        for title, counts in (
            ("killed", self.killed),
            ("clients", self.crowd.record.counts),
            ("over the proxy", lost),
        ):
            print(f"{title}, {sum(counts.values())} in all:")  # noqa: T201 -- these counts are what torture is read by
            for kind, count in sorted(counts.items()):
                print(f"  {count:7d}  {kind}")  # noqa: T201 -- as above


def careless(seed: str) -> Rule:
    """Make a rule that loses a share of all exchanges, on the way there, on the way back, or half way back."""
    draw = random.Random(f"{seed}/proxy")  # noqa: S311 -- a seed that can be told

    def rule(_: str) -> Fate:
        if draw.random() > 3 * LOST:
            return Fate.PASS
        return draw.choice((Fate.DROP, Fate.LOSE, Fate.TEAR))

    return rule


@contextmanager
def arena(
    seed: str,
    *flags: str,
    workers: int = 0,
    env: Mapping[str, str] | None = None,
    database: str | None = None,
    processes: int = 1,
) -> Iterator[Arena]:
    """Have an arena in which all are at work; what it has seen is printed in the end.

    Args:
        seed: of everything that is drawn.
        flags: of `gnexec serve`, beside `FLAGS`.
        workers: real workers, each of an owner of its own.
        env: more of the server's environment.
        database: address of a PostgreSQL database, or None for SQLite.
        processes: of the server; more than one need PostgreSQL.
    """
    print(f"GNEXEC_SEED={seed} GNEXEC_TORTURE={ROUNDS}")  # noqa: T201 -- to run it again
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gnexec-test-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)  # Workers of root run jobs under another user, who must get through.
        faults = Faults(folder / "faults")
        if database is not None:
            flags = ("--database", database, "--processes", str(processes), *flags)
        server = stack.enter_context(
            running_server(folder / "server", *FLAGS, *flags, env={**faults.environment(), **(env or {})})
        )
        between = stack.enter_context(proxy(server.url))
        between.rule = careless(seed)
        crowd = Crowd(server, between.url, seed)
        stack.callback(crowd.close)
        made = Arena(server, between, crowd, folder, faults, [], [], database, processes)
        stack.callback(made.report)
        for number in range(workers):
            its = Faults(folder / f"worker{number}-faults")
            access = server.access_token(f"real{number}", Scope.ENROL, for_s=86_400)
            plain = ("--slots", "2", "--wait", "2s", "--unsafe-no-sandbox")
            one = stack.enter_context(worker(server.url, folder / f"worker{number}", *plain, access_token=access))
            one.env = its.environment()
            made.workers.append(one)
            made.worker_faults.append(its)
            one.start()
        crowd.start()
        yield made
