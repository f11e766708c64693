"""Two servers over one PostgreSQL database, as on two hosts: what one does counts at the other, at once.

Waits are longer than the client's patience: whoever is not woken by what happens at the other server fails.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.databases import shared
from tests.desk.house import run
from tests.e2e.hosts import Remote, hosts, remotes
from tests.serving import Server

WAIT_S = 300
Play = Callable[[Remote, Remote], Awaitable[None]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers for all cases."""
    with shared().database() as database, hosts(tmp_path_factory.mktemp("hosts"), database) as servers:
        yield servers


def play(servers: list[Server], scene: Play) -> None:
    """Let something happen between two servers."""

    async def main() -> None:
        async with remotes(servers) as (a, b):
            await scene(a, b)

    run(main())


def test_worker_enrolled_at_one_host_works_at_the_other_at_once(two: list[Server]) -> None:
    """No host turns away a worker, a token or a key that another has just made known."""

    async def scene(a: Remote, b: Remote) -> None:
        for _ in range(10):
            ann = await a.volunteer()
            job = await a.submit()
            taken = await b.lend(ann).take()
            assert taken.job == job
            reply = await a.lend(ann).finish(taken)
            assert reply.json()["verdict"] == "valid", reply.text
            again = await b.lend(ann).put(taken, ann.statement(taken, ann.answer(taken).result))
            assert again.status_code == 409, "other claims for one attempt, given at another host"

    play(two, scene)


def test_result_of_an_attempt_is_taken_at_any_host(two: list[Server]) -> None:
    """Handed out at one host, uploads at the other, the statement at either, the same answer at both."""

    async def scene(a: Remote, b: Remote) -> None:
        ann = await a.volunteer()
        job = await b.submit()
        taken = await ann.take()
        at_b = b.lend(ann)
        answer = at_b.answer(taken)
        statement = at_b.statement(taken, answer.result)
        await at_b.upload(taken, *answer.blobs)
        first = await ann.put(taken, statement)
        second = await at_b.put(taken, statement)
        assert first.json()["verdict"] == second.json()["verdict"] == "valid"
        assert first.json()["receipt"]["seq"] == second.json()["receipt"]["seq"]
        assert (await b.job(job))["state"] == "succeeded"
        out = await b.http.get(f"/v1/jobs/{job}/stdout", headers=b.person())
        assert out.content == b"hi\n"

    play(two, scene)


def test_submission_repeated_at_both_hosts_at_the_same_time_is_one_job(two: list[Server]) -> None:
    """One idempotency key is one job, wherever and whenever it is used; so is one digest."""

    async def scene(a: Remote, b: Remote) -> None:
        for i in range(10):
            body = {"argv": ["once", str(i)]}
            keyed = [
                at.http.post("/v1/jobs", json=body, headers={**at.person(), "Idempotency-Key": f"key {i}"})
                for at in (a, b, a, b)
            ]
            plain = [at.http.post("/v1/jobs", json=body, headers=at.person("eva")) for at in (a, b)]
            replies = await asyncio.gather(*keyed, *plain)
            assert {reply.status_code for reply in replies} <= {200, 201}
            assert len({reply.json()["id"] for reply in replies[:4]}) == 1
            assert len({reply.json()["id"] for reply in replies[4:]}) == 1
            for who, reply in (("ada", replies[0]), ("eva", replies[4])):
                await b.http.post(f"/v1/jobs/{reply.json()['id']}:cancel", headers=b.person(who))

    play(two, scene)


def test_cancel_at_one_host_stops_the_worker_at_the_other(two: list[Server]) -> None:
    """The directive is given by the host that the worker talks to."""

    async def scene(a: Remote, b: Remote) -> None:
        ann = await a.volunteer()
        job = await a.submit()
        taken = await ann.take()
        assert taken.job == job
        assert (await ann.tell(taken, progress=0.1)).json()["directive"] == "continue"
        reply = await b.http.post(f"/v1/jobs/{job}:cancel", headers=b.person())
        assert reply.json()["state"] == "cancelled"
        told = (await ann.tell(taken, progress=0.2)).json()
        assert (told["directive"], told["reason"]) == ("stop", "cancelled")

    play(two, scene)


@pytest.mark.parametrize("wait", [0, WAIT_S])
def test_request_for_work_repeated_at_the_other_host_brings_the_same(two: list[Server], wait: int) -> None:
    """A reply that was lost costs nothing, though the balancer sends the repetition elsewhere; no wait is sat out."""

    async def scene(a: Remote, b: Remote) -> None:
        ann = await a.volunteer()
        for i in range(10):
            await a.submit()
            first, second = await ann.take(req=f"r{i}", wait=wait), await b.lend(ann).take(req=f"r{i}", wait=wait)
            assert (first.job, first.jti) == (second.job, second.jti)
            assert (await b.lend(ann).finish(second)).json()["verdict"] == "valid"

    play(two, scene)


def test_waiting_submitter_is_woken_by_a_result_at_the_other_host(two: list[Server]) -> None:
    """`?wait=` and the stream of events both hear of it."""

    async def scene(a: Remote, b: Remote) -> None:
        ann = await a.volunteer()
        job = await a.submit()
        taken = await ann.take()
        told: list[str] = []

        async def follow() -> None:
            async with b.http.stream("GET", f"/v1/jobs/{job}/events", headers=b.person()) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        told.append(json.loads(line[5:])["what"])
                        if told[-1] == "started":
                            following.set()

        following = asyncio.Event()
        waiting, stream = asyncio.ensure_future(b.job(job, wait=WAIT_S)), asyncio.ensure_future(follow())
        await following.wait()
        assert not waiting.done()
        await ann.finish(taken)
        assert (await waiting)["state"] == "succeeded"
        await stream
        assert told == ["submitted", "started", "reported", "decided"]

    play(two, scene)


def test_waiting_worker_is_woken_by_a_submission_at_the_other_host(two: list[Server]) -> None:
    """One long poll at each host, and one job: one of them has it, the other goes on waiting for the next."""

    async def scene(a: Remote, b: Remote) -> None:
        ann, bob = await a.volunteer("ann"), await b.volunteer("bob")
        asking = {asyncio.ensure_future(one.ask(wait=WAIT_S)): one for one in (ann, bob)}
        for _ in range(2):
            await a.submit()
            (done, *more), _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            assert not more
            assert done.result().status_code == 200
            del asking[done]
        assert not asking

    play(two, scene)


def test_progress_and_output_told_to_one_host_are_seen_at_the_other(two: list[Server]) -> None:
    """What a running job writes is put together from parts that came to both; it is gone with the attempt."""

    async def scene(a: Remote, b: Remote) -> None:
        ann = await a.volunteer()
        job = await a.submit()
        taken = await ann.take()
        at_b = b.lend(ann)
        await ann.tell(taken, progress=0.25, stdout="one\n", stdout_offset=0, usage={"cpu_ms": 70})
        await at_b.tell(taken, progress=0.5, stdout="ne\ntwo\n", stdout_offset=1)
        await ann.tell(taken, progress=0.4, stdout="three\n", stdout_offset=8)
        for at in (a, b):
            out = await at.http.get(f"/v1/jobs/{job}/stdout", headers=at.person())
            assert out.text == "one\ntwo\nthree\n"
            assert (await at.job(job))["progress"] == 0.4
            (row,) = (await at.http.get(f"/v1/jobs/{job}/attempts", headers=at.person())).json()["attempts"]
            assert (row["progress"], row["cpu_ms"]) == (0.4, 70)
        await at_b.finish(taken)
        assert (await a.job(job))["progress"] == 1.0

    play(two, scene)


def test_metrics_of_the_log_are_the_same_at_every_host(two: list[Server]) -> None:
    """Whoever is scraped, the log says the same; only counters end in _total."""

    async def scene(a: Remote, b: Remote) -> None:
        await a.submit()
        seen = []
        for at in (a, b):
            text = (await at.http.get("/metrics")).text
            kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
            assert {name for name, kind in kinds.items() if name.endswith("_total")} == {
                name for name, kind in kinds.items() if kind == "counter"
            }
            ours = re.compile(r"gnexec_(jobs|attempts|workers|log|hand)")
            seen.append({line for line in text.splitlines() if ours.match(line)})
        assert seen[0] == seen[1]
        assert len(seen[0]) > 5

    play(two, scene)


def test_stopped_host_leaves_the_other_serving(tmp_path: Path) -> None:
    """A host that ends, or is killed, takes nothing with it; one that comes back knows all."""

    async def scene(a: Remote, b: Remote) -> None:
        ann = await a.volunteer()
        job = await a.submit()
        taken = await ann.take()
        a.server.kill()
        assert (await b.lend(ann).finish(taken)).json()["verdict"] == "valid"
        later = await b.submit()
        a.server.restart()
        assert [(await a.job(each))["state"] for each in (job, later)] == ["succeeded", "queued"]
        b.server.kill()
        with pytest.raises(httpx2.TransportError):
            await b.job(job)
        assert (await a.job(later))["state"] == "queued"

    with shared().database() as database, hosts(tmp_path, database) as servers:
        play(servers, scene)
