"""`gnexec serve --processes 2` over a real PostgreSQL: children die, the database restarts, nothing is lost or doubled.

GNEXEC_PROCESSES says how many processes, GNEXEC_ROUNDS how often somebody is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread

import httpx2
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gnexec.core.events import AnyEvent, ResultsReported, Submitted
from gnexec.ids import sha256_hex
from gnexec.keys import load
from gnexec.store import open_store
from gnexec.store.contract import Append, Entry
from gnexec.tlog.checkpoint import Checkpoint, sign_checkpoint
from gnexec.tlog.merkle import leaf_hash
from gnexec.tlog.tiles import Tree
from gnexec.wire import decode_event, decode_leaf, encode_leaf
from tests.databases import Cluster, shared
from tests.serving import ORIGIN, Server, running_server
from tests.web.sites import check_problem
from tests.worker.agents import until

PROCESSES = int(os.environ.get("GNEXEC_PROCESSES", "2"))
ROUNDS = int(os.environ.get("GNEXEC_ROUNDS", "2"))
AGAIN = frozenset({500, 503})
UNKNOWN = b'{"t":"from-the-future/1"}'


@contextmanager
def several(folder: Path, database: str, *flags: str) -> Iterator[Server]:
    """Run a supervised server in open mode."""
    flags = ("--open", "--data-class", "public", "--database", database, "--processes", str(PROCESSES), *flags)
    with running_server(folder, *flags) as server:
        yield server


@pytest.fixture
def database() -> Iterator[str]:
    """Lend a new database."""
    with shared().database() as url:
        yield url


def children(server: Server) -> list[psutil.Process]:
    """Return the processes that serve."""
    assert server.process is not None
    mine = psutil.Process(server.process.pid).children()
    return [child for child in mine if _serves(child)]


def _serves(process: psutil.Process) -> bool:
    """Tell whether a process is one that serves, and has not just died."""
    try:
        return "gnexec.cli.child" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def said(server: Server, what: str) -> int:
    """Count the lines that the server's operator was told with `what` in them."""
    return sum(what in line for line in server.output)


def events(database: str) -> list[AnyEvent]:
    """Return everything that the log says."""
    with closing(open_store(database, create=False)) as store:
        return [decode_event(entry.payload) for entry in store.entries(0, store.head().size)]


def gnexec(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing but what it is given."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "gnexec", *arguments], capture_output=True, text=True, env=env, check=False, timeout=120
    )


# The supervisor.


def test_serve_with_several_processes_shares_one_address_and_ends_with_all(tmp_path: Path, database: str) -> None:
    """Each child answers; SIGTERM ends them all, and is no failure."""
    with several(tmp_path, database) as server:
        family = children(server)
        assert len(family) == PROCESSES
        assert said(server, "gnexec serves") == 1
        for _ in range(20):
            assert httpx2.get(f"{server.url}/readyz").status_code == 200
        assert server.kill(signal.SIGTERM) == 0
        assert not any(child.is_running() for child in family)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.url}/hey")


def test_serve_interrupted_ends_as_shells_expect(tmp_path: Path, database: str) -> None:
    """SIGINT: the same end, told by the exit status."""
    with several(tmp_path, database) as server:
        assert server.kill(signal.SIGINT) == 130


def test_single_process_ended_by_sigterm_is_no_failure(tmp_path: Path) -> None:
    """A service manager that stops the server sees that it did as it was told."""
    with running_server(tmp_path) as server:
        assert server.kill(signal.SIGTERM) == 0
        server.restart()
        assert server.kill(signal.SIGINT) == 130


def test_child_that_dies_is_started_again(tmp_path: Path, database: str) -> None:
    """The operator is told; the others serve meanwhile, and the new one has the address too."""
    with several(tmp_path, database) as server:
        before = {child.pid for child in children(server)}
        children(server)[0].kill()
        until(lambda: said(server, "a process serves") == PROCESSES + 1, "a new child", lambda: "".join(server.output))
        after = {child.pid for child in children(server)}
        assert len(after) == PROCESSES
        assert len(before & after) == PROCESSES - 1
        assert said(server, "a process died and is started again") == 1
        for _ in range(20):
            assert httpx2.get(f"{server.url}/readyz").status_code == 200


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path, database: str) -> None:
    """Nobody is left who holds the address."""
    with several(tmp_path, database) as server:
        family = children(server)
        assert server.kill() == -signal.SIGKILL
        assert psutil.wait_procs(family, timeout=60)[1] == []


def test_shutdown_does_not_wait_for_clients_that_are_half_open(tmp_path: Path, database: str) -> None:
    """Silent connections, heads and bodies that never end, and long polls: the end comes in its time."""
    with several(tmp_path, database) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        parts = (
            b"",
            b"GET /hey HTTP/1.1\r\nHost: x\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{",
            b"GET /jobs/next?wait=300 HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        clients = [socket.create_connection((host, int(port))) for _ in range(10) for _ in parts]
        for client, part in zip(clients, parts * 10, strict=True):
            client.sendall(part)
        httpx2.get(f"{server.url}/hey")
        family = children(server)
        assert server.kill(signal.SIGTERM) == 0
        assert said(server, "killed") == 0
        assert not any(child.is_running() for child in family)
        for client in clients:
            client.close()


def test_several_processes_over_sqlite_are_refused(tmp_path: Path) -> None:
    """With a sentence that says what to do."""
    ran = gnexec("serve", "--data", str(tmp_path), "--port", "0", "--processes", "2", home=tmp_path)
    assert ran.returncode == 1
    assert "--database postgresql://" in ran.stderr


def test_address_that_is_taken_is_refused(tmp_path: Path, database: str) -> None:
    """Though children share theirs, another server of the same user does not."""
    with several(tmp_path / "one", database) as server:
        port = server.url.rpartition(":")[2]
        flags = ("--database", database, "--port", port)
        for more in (("--processes", "2"), ()):
            ran = gnexec("serve", "--data", str(tmp_path / "two"), *flags, *more, home=tmp_path)
            assert ran.returncode == 1
            assert "Cannot listen" in ran.stderr


def test_first_child_that_fails_ends_the_command_and_says_why_once(tmp_path: Path) -> None:
    """What is wrong with the settings is told by one process, not by all of them for ever."""
    with shared().database() as database:
        pass
    flags = ("--database", database, "--port", "0", "--processes", "3")
    ran = gnexec("serve", "--data", str(tmp_path), *flags, home=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.count("does not exist") == 1


# Readiness.


def test_readiness_follows_the_database(tmp_path: Path) -> None:
    """While PostgreSQL is away every process says so; when it is back they serve, without having been started again."""
    with Cluster() as cluster, several(tmp_path, cluster.new_database()) as server:
        family = {child.pid for child in children(server)}
        job = httpx2.post(f"{server.url}/v1/jobs", json={"cmd": "true"}).json()["id"]
        cluster.kill()
        for _ in range(10):
            check_problem(httpx2.get(f"{server.url}/readyz", timeout=60), "unready")
            check_problem(httpx2.get(f"{server.url}/v1/jobs/{job}", timeout=60), "store_away", "unready")
            assert httpx2.get(f"{server.url}/healthz").status_code == 200
        cluster.start()

        def well() -> bool:
            return all(httpx2.get(f"{server.url}/readyz", timeout=60).status_code == 200 for _ in range(10))

        until(well, "readiness", lambda: "".join(server.output))
        assert httpx2.get(f"{server.url}/v1/jobs/{job}").json()["state"] == "queued"
        assert {child.pid for child in children(server)} == family


def test_process_that_meets_an_event_of_a_newer_version_is_unready(tmp_path: Path, database: str) -> None:
    """A rolling upgrade: a newer server has written what the old ones cannot read. They say so, and append nothing.

    All but one leave the address to those that can go on, of which there are none: that one stays, and says why.
    """
    with several(tmp_path, database) as server:
        httpx2.post(f"{server.url}/v1/jobs", json={"cmd": "true"})
        family = {child.pid for child in children(server)}
        with closing(open_store(database, create=False)) as store:
            with store.batch() as batch:
                size, tree, salt = batch.head().size, Tree(), bytes(16)
                entries = batch.entries(0, size)
                for entry in entries:
                    tree.append(leaf_hash(entry.leaf))
                leaf = encode_leaf(decode_leaf(entries[-1].leaf).at, salt, UNKNOWN)
                tree.append(leaf_hash(leaf))
                note = sign_checkpoint(Checkpoint(ORIGIN, tree.size, tree.root()), load(server.private_keys).log_key)
                batch.append(Append([Entry(leaf, salt, UNKNOWN)], [], [], note))

            def unready() -> bool:
                replies = [httpx2.get(f"{server.url}/readyz") for _ in range(10)]
                return all(reply.status_code == 503 and "from-the-future/1" in reply.text for reply in replies)

            ended = "a process is ended, since others serve"
            until(lambda: said(server, ended) == PROCESSES - 1, "the end of the others", lambda: "".join(server.output))
            until(lambda: len({child.pid for child in children(server)} & family) == 1, "one that is left")
            until(unready, "unreadiness")
            for _ in range(10):
                check_problem(httpx2.post(f"{server.url}/v1/jobs", json={"cmd": "false"}), "unready")
                check_problem(httpx2.get(f"{server.url}/jobs/next"), "unready")
                assert httpx2.get(f"{server.url}/healthz").status_code == 200
            assert store.head().size == size + 1
        assert len({child.pid for child in children(server)} & family) == 1
        assert server.kill(signal.SIGTERM) == 0


# Metrics.


def served(server: Server, route: str) -> float:
    """Return how many requests for a route were answered, as one scrape tells."""
    text = httpx2.get(f"{server.url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gnexec_http_requests_total" and sample.labels["route"] == route
    )


def test_scrape_of_any_child_gives_the_sums_and_a_death_loses_none(tmp_path: Path, database: str) -> None:
    """Whichever child answers, it tells what all have counted, also one that was killed and started again."""
    with several(tmp_path, database) as server:
        for _ in range(40):
            httpx2.get(f"{server.url}/hey")
        assert {served(server, "/hey") for _ in range(10)} == {40}
        for child in children(server):
            child.kill()
        until(lambda: said(server, "a process serves") == 2 * PROCESSES, "new children")
        for _ in range(2):
            httpx2.get(f"{server.url}/hey")
        assert {served(server, "/hey") for _ in range(10)} == {42}


# Work, and deaths.


@dataclass
class Crowd:
    """Clients that hand jobs in, take them and answer for them, and ask again whenever something goes wrong.

    Attributes:
        jobs: id of each job by its key, as it was acknowledged. answered: attempts whose result was acknowledged.
    """

    url: str
    jobs: dict[str, int] = field(default_factory=dict)
    answered: Counter[int] = field(default_factory=Counter)
    enough: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)
    failures: list[str] = field(default_factory=list)

    def insist(self, ask: Callable[[], httpx2.Response]) -> httpx2.Response:
        """Ask until there is an answer that is one."""

        def answer() -> httpx2.Response | None:
            try:
                reply = ask()
            except httpx2.TransportError:
                return None
            return None if reply.status_code in AGAIN else reply

        found: httpx2.Response = until(answer, "an answer")
        return found

    def cycle(self, me: int) -> None:
        """Hand in a job, take one, answer for it; until it is enough."""
        with httpx2.Client(base_url=self.url, timeout=60) as http:
            turn = 0
            while not self.enough.is_set():
                turn += 1
                key = f"{me}-{turn}"
                body = {"cmd": f"echo {key}"}
                made = self.insist(lambda: http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key}))  # noqa: B023 -- asked at once
                assert made.status_code in (200, 201), made.text
                with self.lock:
                    assert self.jobs.setdefault(key, made.json()["id"]) == made.json()["id"]
                taken = self.insist(lambda: http.get("/jobs/next", params={"req": key}))  # noqa: B023 -- asked at once
                if taken.status_code == 204:
                    continue
                work = taken.json()
                told = {"exit_code": 0, "stdout": sha256_hex(work["cmd"].encode()), "token": work["token"]}
                reply = self.insist(lambda: http.put(f"/jobs/{work['id']}/result", json=told))  # noqa: B023 -- asked at once
                assert reply.json()["verdict"] == "valid", reply.text
                with self.lock:
                    self.answered[work["id"]] += 1

    def work(self, me: int) -> None:
        """As `cycle`; note what went wrong."""
        try:
            self.cycle(me)
        except BaseException as err:  # noqa: BLE001 -- told by the test
            self.failures.append(repr(err))
            self.enough.set()

    @contextmanager
    def working(self, count: int = 8) -> Iterator[None]:
        """Let so many work meanwhile."""
        threads = [Thread(target=self.work, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.enough.set()
            for thread in threads:
                thread.join()
        assert self.failures == []

    def goes_on(self, more: int = 40) -> None:
        """Wait until more results were acknowledged."""
        seen = self.answered.total()
        until(lambda: self.answered.total() >= seen + more or self.failures, "progress")


def check(crowd: Crowd, server: Server, database: str, home: Path) -> None:
    """Make sure that all that was acknowledged is there once, for clients, in the log, and for an auditor."""
    assert set(crowd.answered.values()) == {1}
    assert len(set(crowd.jobs.values())) == len(crowd.jobs)
    with httpx2.Client(base_url=server.url, timeout=60) as http:
        for job in crowd.answered:
            assert http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
    log = events(database)
    submitted = [e.first + i for e in log if isinstance(e, Submitted) for i in range(len(e.jobs))]
    assert len(set(submitted)) == len(submitted)
    assert set(crowd.jobs.values()) <= set(submitted)
    results = Counter(r.job for e in log if isinstance(e, ResultsReported) for r in e.results)
    assert set(crowd.answered) <= set(results)
    assert set(results.values()) == {1}
    ran = gnexec("log", "verify", server.url, "--vkey", server.vkey, home=home)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_children_killed_in_the_middle_lose_nothing_and_double_nothing(tmp_path: Path, database: str) -> None:
    """Work goes on through the deaths of children, one after the other."""
    with several(tmp_path, database) as server:
        crowd = Crowd(server.url)
        with crowd.working():
            crowd.goes_on()
            for turn in range(ROUNDS):
                family = children(server)
                family[turn % len(family)].kill()
                crowd.goes_on()
        until(lambda: len(children(server)) == PROCESSES, "the last child")
        assert said(server, "a process died and is started again") == ROUNDS
        check(crowd, server, database, tmp_path)


def test_restart_of_the_database_in_the_middle_is_survived(tmp_path: Path) -> None:
    """PostgreSQL stops, crashes and comes back: requests are asked again, none is lost or doubled."""
    with Cluster() as cluster, several(tmp_path, database := cluster.new_database()) as server:
        family = {child.pid for child in children(server)}
        crowd = Crowd(server.url)
        with crowd.working():
            crowd.goes_on()
            for how in ("fast", "immediate"):
                cluster.restart(how)
                crowd.goes_on()
            cluster.kill()
            cluster.start()
            crowd.goes_on()
        assert {child.pid for child in children(server)} == family
        check(crowd, server, database, tmp_path)
