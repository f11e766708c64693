"""A call whose reply is lost, or that never arrives: each kind of call, at each place, by client and by worker.

Whoever called asks again, and nothing happens twice: one job, one attempt, one result, nobody to blame.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from gnexec.client import Client
from gnexec.tokens.issued import Scope
from tests.e2e.proxy import Fate, Proxy, nth, pass_all, proxy
from tests.serving import Server, running_server
from tests.worker.agents import Worker, until, worker

PLAIN = "--unsafe-no-sandbox"
LOST = (Fate.DROP, Fate.LOSE)


@dataclass
class Scene:
    """A server, a submitter and a worker, each with a proxy of its own before the server."""

    server: Server
    direct: Client
    client: Client
    before_client: Proxy
    worker: Worker
    before_worker: Proxy

    def states(self, job: int) -> list[tuple[str, str]]:
        """Return state and outcome of each attempt."""
        return [(attempt.state, attempt.outcome) for attempt in self.direct.attempts(job).attempts]

    def spooled(self) -> str:
        """Wait until the worker's spool is empty; return what it has said."""
        until(lambda: not self.worker.entries, "an empty spool", lambda: self.worker.text)
        return self.worker.text


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One server for all cases, with a worker that runs."""
    folder = tmp_path_factory.mktemp("lost")
    with ExitStack() as stack:
        server = stack.enter_context(running_server(folder / "server", "--allow-raw"))
        token = server.access_token("submitter", Scope.SUBMIT, Scope.READ)
        before_client = stack.enter_context(proxy(server.url))
        before_worker = stack.enter_context(proxy(server.url))
        volunteer = server.access_token("volunteer", Scope.ENROL)
        flags = ("--slots", "1", "--wait", "3s", PLAIN)
        one = stack.enter_context(worker(before_worker.url, folder / "state", *flags, access_token=volunteer))
        one.start()
        yield Scene(
            server,
            stack.enter_context(Client(server.url, token)),
            stack.enter_context(Client(before_client.url, token)),
            before_client,
            one,
            before_worker,
        )


WORKER_CALLS = [
    ("GET /jobs/next", 1),
    ("GET /v1/blobs/*", 1),
    ("PUT /jobs/*/status", 1),
    ("HEAD /v1/blobs/*", 1),
    *(("PUT /v1/blobs/*", number) for number in (1, 2, 3, 4)),
    ("PUT /jobs/*/result", 1),
]
"""Standard output, standard error, an output and the manifest are uploaded; the output is large enough to be asked
for first."""


@pytest.mark.parametrize("fate", LOST)
@pytest.mark.parametrize(("kind", "number"), WORKER_CALLS)
def test_lost_call_of_a_worker_costs_no_attempt_and_no_blame(scene: Scene, kind: str, number: int, fate: Fate) -> None:
    """The n-th call of a kind is lost while a job is worked on: one attempt, one result, and it is the right one."""
    data = f"{kind} {number} {fate}\n".encode() * 4000
    scene.before_worker.heard.clear()
    scene.before_worker.exchanges.clear()
    scene.before_worker.rule = nth(kind, number, fate)
    if kind == "GET /jobs/next":  # the worker asks before there is a job
        until(lambda: kind in scene.before_worker.heard, "a request for work", lambda: scene.worker.text)
    job = scene.direct.submit(
        ["/bin/sh", "-c", "cat in; tr a-z A-Z <in >out; echo done >&2; sleep 0.7"],
        inputs={"in": data},
        outputs=["out", "stdout"],
        force_recompute=True,
    ).id
    decided = scene.direct.wait(job, timeout_s=60)
    assert (decided.state, decided.outcome) == ("succeeded", "success"), scene.worker.text
    assert scene.direct.output(job, "out") == data.upper()
    assert scene.states(job) == [("succeeded", "success")]
    scene.spooled()
    assert [exchange.kind for exchange in scene.before_worker.exchanges if exchange.fate is fate] == [kind]


@pytest.mark.parametrize("fate", LOST)
def test_lost_enrolment_is_repeated_and_admits_one_worker(scene: Scene, tmp_path: Path, fate: Fate) -> None:
    """Asked twice with one key, the server has one worker more."""
    workers = until(lambda: _entries(scene, "worker-enrolled/1"), "the scene's own worker comes first")
    owner = scene.server.access_token(f"new-{fate}", Scope.ENROL)
    with proxy(scene.server.url) as between, worker(between.url, tmp_path / "new", PLAIN, access_token=owner) as new:
        between.rule = nth("POST /v1/workers", 1, fate)
        assert new.run("--once") == 0, new.text
        assert between.heard.count("POST /v1/workers") == 2
    assert _entries(scene, "worker-enrolled/1") == workers + 1


def test_lost_call_of_a_submitter_makes_no_second_job(scene: Scene) -> None:
    """A whole session (upload, submit, wait, read, cancel) with its k-th call lost, for every k, both ways."""
    scene.before_worker.rule = scene.before_client.rule = pass_all
    kinds = _session(scene, "nothing is lost")
    assert len(kinds) >= 6
    for fate in LOST:
        for k in range(len(kinds)):
            count = 0

            def rule(_: str, *, k: int = k, fate: Fate = fate) -> Fate:
                nonlocal count
                count += 1
                return fate if count == k + 1 else Fate.PASS

            scene.before_client.rule = rule
            heard = _session(scene, f"{fate} {k}")
            assert len(heard) > len(kinds), (fate, kinds[k])


def _session(scene: Scene, text: str) -> list[str]:
    """Go through a submitter's calls; return the kinds of those that were made."""
    scene.before_client.heard.clear()
    ends = _entries(scene, "jobs-decided/1"), _entries(scene, "owner-withdrew/1")
    client = scene.client
    data = text.encode() * 50_000
    view = client.submit(["/bin/sh", "-c", "cat in"], inputs={"in": data}, outputs=["stdout"], force_recompute=True)
    assert client.wait(view.id, timeout_s=60).state == "succeeded"
    assert client.stdout(view.id) == data
    unwanted = client.submit(["/bin/sh", "-c", "sleep 60"], force_recompute=True)
    assert client.cancel(unwanted.id).state == "cancelled"
    assert client.job(unwanted.id).state == "cancelled"
    assert unwanted.id == view.id + 1, "a submission was taken twice"
    assert (_entries(scene, "jobs-decided/1"), _entries(scene, "owner-withdrew/1")) == (ends[0] + 1, ends[1] + 1)
    scene.spooled()
    return list(scene.before_client.heard)


def _entries(scene: Scene, tag: str) -> int:
    """Count the entries of a kind in the server's log."""
    with closing(sqlite3.connect(f"file:{scene.server.data / 'log.sqlite'}?mode=ro", uri=True)) as db:
        found = db.execute("SELECT count(*) FROM entries WHERE instr(payload, CAST(? AS BLOB))", (f'"t":"{tag}"',))
        return int(found.fetchone()[0])
