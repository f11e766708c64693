"""`kill -9` of the server and of its workers at random moments, while jobs are handed in, run and answered.

Afterwards nothing that was acknowledged is lost, nothing is there twice, nobody is blamed, and the log is in order. The
moments come from a seed, which is printed: GNEXEC_SEED runs one again. GNEXEC_TORTURE=1000 kills a thousand times.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import msgspec
import pytest

from gnexec.cli.demo import _interpreter
from gnexec.client import Client
from gnexec.core.events import AnyEvent, HandedOut, ResultsReported, Submitted
from gnexec.core.terms import Needs, Redundancy
from gnexec.demo import plans, scan
from gnexec.shapes import JobBody, VerdictView
from gnexec.store import open_store
from gnexec.tlog.note import parse_vkey
from gnexec.tokens.issued import Scope
from gnexec.wire import decode_event
from tests.e2e.proxy import Fate, Proxy, proxy
from tests.serving import Server, running_server
from tests.torture.check import check_receipts, gnexec
from tests.worker.agents import Worker, until, worker

KILLS = int(os.environ.get("GNEXEC_TORTURE", "4"))
SEED = os.environ.get("GNEXEC_SEED") or str(random.SystemRandom().randrange(1 << 32))
OWNERS = ("ann", "bob")
FEWEST_JOBS = 8
PERMUTATIONS = 5
AHEAD = 4
"""Jobs that are handed in before the oldest is waited for."""
BLAMELESS = {"succeeded", "preempted", "unneeded", "undelivered"}


@dataclass
class Arena:
    """What is tortured, and what it has acknowledged.

    Attributes:
        jobs: id of each job by its place, from replies to submissions.
    """

    server: Server
    proxy: Proxy
    workers: list[Worker]
    client: Client
    folder: Path
    jobs: dict[int, int] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What all of them have said."""
        return "\n".join(["".join(self.server.output), *(one.text for one in self.workers)])


@contextmanager
def arena() -> Iterator[Arena]:
    """Run a server, a proxy that takes notes, and a worker for each owner."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gnexec-test-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)  # Workers of root run jobs under another user, who must get through.
        server = stack.enter_context(running_server(folder / "server", "--allow-raw", "--data-class", "public"))
        between = stack.enter_context(proxy(server.url))
        submitter = server.access_token("submitter", Scope.SUBMIT, Scope.READ)
        client = stack.enter_context(Client(server.url, submitter, patience_s=120))
        workers = []
        for owner in OWNERS:
            access = server.access_token(owner, Scope.ENROL)
            flags = ("--slots", "1", "--wait", "5s", *_interpreter()[1])
            workers.append(stack.enter_context(worker(between.url, folder / owner, *flags, access_token=access)))
        yield Arena(server, between, workers, client, folder)


def _command(seed: str, i: int) -> list[str]:
    span = ["--from", str(PERMUTATIONS * i), "--to", str(PERMUTATIONS * (i + 1))]
    return ["scan.py", "--geno", "geno.tsv", "--pheno", "pheno.tsv", "--seed", seed, *span, "--out", "best.tsv"]


def _submit_all(it: Arena, enough: Event) -> None:
    """Hand jobs in, a few ahead of those that are decided, until there are enough; note what is acknowledged."""
    plan = plans.permutation_plan(it.folder, python=_interpreter()[0], seed=SEED, permutations=1, jobs=1)
    inputs = {
        path: it.client.upload(source) for path, source in plan.jobs[0]["inputs"].items() if isinstance(source, Path)
    }
    i = 0
    while not enough.is_set() or i < FEWEST_JOBS:
        body = JobBody(
            argv=(plan.jobs[0]["argv"][0], *_command(SEED, i)),
            inputs=inputs,
            outputs=("best.tsv",),
            needs=msgspec.convert(plans.SMALL, Needs),
            redundancy=Redundancy(replicas=len(OWNERS), quorum=len(OWNERS)),
            force_recompute=True,  # so that nothing but the idempotency key keeps a repetition from being a job
        )
        it.jobs[i] = it.client.submit(body, key=f"key {i}").id
        if i >= AHEAD:
            it.client.wait(it.jobs[i - AHEAD], timeout_s=120)
        i += 1
    for job in it.jobs.values():
        it.client.wait(job, timeout_s=120)


def _torture(it: Arena, draw: random.Random) -> Counter[str]:
    """Kill somebody, wait, start it again; so many times."""
    killed: Counter[str] = Counter()
    names = ["server", *OWNERS]
    for _ in range(KILLS):
        time.sleep(draw.uniform(0.0, 2.0))  # The moment is what is random; nothing is awaited.
        victim = draw.choice(names) if killed["server"] else "server"
        killed[victim] += 1
        if victim == "server":
            it.server.kill()
            time.sleep(draw.uniform(0.0, 0.5))
            it.server.restart()
        else:
            one = it.workers[OWNERS.index(victim)]
            one.kill()
            time.sleep(draw.uniform(0.0, 0.5))
            one.start()
    return killed


def test_kill_at_random_moments_loses_nothing_acknowledged_and_blames_nobody() -> None:
    """Server and workers die and come back; every job succeeds once for each owner, and the log proves it."""
    print(f"GNEXEC_SEED={SEED} GNEXEC_TORTURE={KILLS}")  # noqa: T201 -- to run it again
    with arena() as it:
        for one in it.workers:
            one.start()
        enough = Event()
        with ThreadPoolExecutor(1) as pool:
            submitting = pool.submit(_submit_all, it, enough)
            try:
                killed = _torture(it, random.Random(SEED))  # noqa: S311 -- a seed that can be told
            finally:
                enough.set()
            submitting.result()
        print(f"killed: {dict(killed)}; jobs: {len(it.jobs)}")  # noqa: T201
        for one in it.workers:
            one.signal(signal.SIGTERM)
            assert one.wait() == 0, one.text
            assert one.entries == [], one.text
        _check_jobs(it)
        gnexec(it.folder, "log", "verify", it.server.url, "--vkey", it.server.vkey)
        assert it.server.kill(signal.SIGTERM) in {0, -signal.SIGTERM}
        gnexec(it.folder, "log", "replay", "--data", str(it.server.data))
        _check_log(it)


def _check_jobs(it: Arena) -> None:
    """Make sure that all jobs succeeded with the right outputs, and that no attempt was blamed."""
    assert len(set(it.jobs.values())) == len(it.jobs)
    for i, job in it.jobs.items():
        view = it.client.job(job)
        assert (view.state, view.agreeing) == ("succeeded", len(OWNERS)), it.words
        assert it.client.output(job, "best.tsv") == _expected(it.folder, i)
        attempts = it.client.attempts(job).attempts
        assert {attempt.state for attempt in attempts} <= BLAMELESS, (attempts, it.words)
        answered = [attempt.worker for attempt in attempts if attempt.state == "succeeded"]
        assert len(set(answered)) == len(answered) == len(OWNERS), attempts


def _expected(folder: Path, i: int) -> bytes:
    """Return what a job of the plan gives where nobody is killed."""
    made = folder / "expected.tsv"
    command = _command(SEED, i)[1:]
    for name in ("geno.tsv", "pheno.tsv"):
        command[command.index(name)] = str(folder / name)
    command[command.index("best.tsv")] = str(made)
    assert scan.main(command) == 0
    return made.read_bytes()


def _check_log(it: Arena) -> None:
    """Compare the final log with what was acknowledged on the way: all of it is there, and none of it twice."""
    store = open_store(f"sqlite:///{it.server.data / 'log.sqlite'}", create=False)
    try:
        entries = store.entries(0, store.head().size)
    finally:
        store.close()
    events = [decode_event(entry.payload) for entry in entries]
    assert _submitted(events) == sorted(it.jobs.values())
    owners = {event.jti: event.owner for event in events if isinstance(event, HandedOut)}
    answers = Counter(
        (result.job, owners[event.jti])
        for event in events
        if isinstance(event, ResultsReported)
        for result in event.results
        if result.outcome.text == "success"
    )
    assert set(answers.values()) == {1}, "an owner's result was taken twice"
    assert len(answers) == len(it.jobs) * len(OWNERS)
    receipts = [verdict.receipt for verdict in _acknowledged(it) if verdict.receipt is not None]
    assert len(receipts) >= len(answers)
    check_receipts(receipts, entries, parse_vkey(it.server.vkey))


def _submitted(events: list[AnyEvent]) -> list[int]:
    """Return the ids of all jobs that a log holds."""
    return sorted(
        event.first + offset for event in events if isinstance(event, Submitted) for offset in range(len(event.jobs))
    )


def _acknowledged(it: Arena) -> list[VerdictView]:
    """Return the server's answers to results, as far as they were passed on."""
    return [
        msgspec.json.decode(exchange.answer, type=VerdictView)
        for exchange in it.proxy.exchanges
        if exchange.kind == "PUT /jobs/*/result" and exchange.status == 200 and exchange.fate is Fate.PASS
    ]


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[tuple[Server, Client, Worker]]:
    """A server with leases of three seconds, a submitter, and a worker that is not started."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server(tmp_path / "server", "--allow-raw", "--lease", "3s"))
        submitter = server.access_token("submitter", Scope.SUBMIT, Scope.READ)
        client = stack.enter_context(Client(server.url, submitter, patience_s=60))
        access = server.access_token("volunteer", Scope.ENROL)
        flags = ("--slots", "1", "--unsafe-no-sandbox")
        yield server, client, stack.enter_context(worker(server.url, tmp_path / "state", *flags, access_token=access))


def test_outage_that_is_longer_than_a_lease_prolongs_it(hasty: tuple[Server, Client, Worker]) -> None:
    """The server is away until the lease has passed: the attempt goes on, and its result counts."""
    server, client, one = hasty
    job = client.submit(["/bin/sh", "-c", "sleep 6; echo done"], outputs=["stdout"]).id
    one.start()
    one.says("job started")
    server.kill()
    away_until = time.time() + 4
    until(lambda: time.time() > away_until, "the end of the lease")
    server.restart()
    assert client.wait(job, timeout_s=60).state == "succeeded", one.text
    assert [(attempt.state, attempt.outcome) for attempt in client.attempts(job).attempts] == [("succeeded", "success")]
    assert client.stdout(job) == b"done\n"
