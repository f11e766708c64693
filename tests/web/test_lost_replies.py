"""A reply may be lost behind any call: the caller sends the same again, and it costs at most one lease and no blame.

Three points of loss for each call: the request never arrived, it was decided but the reply was lost, and the commit's
fate was unknown to the server itself (the store failed, in either of its two ways).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gnexec.core.events import AttemptsLapsed, AttemptState, HandedOut, ResultsReported, Submitted
from gnexec.ids import sha256_hex
from gnexec.keys import ServerKeys
from gnexec.store.memory import Fault, MemoryStore
from tests.web.clocks import FakeClock
from tests.web.logs import over
from tests.web.sites import Site, check_problem, open_site
from tests.web.volunteers import volunteer

pytestmark = pytest.mark.anyio


class Faults(Iterator[Fault | None]):
    """Says how each commit goes; set `next_one` to let the next one fail."""

    next_one: Fault | None = None
    came = 0

    def __next__(self) -> Fault | None:
        """Return the fault that was asked for, once."""
        fault, self.next_one = self.next_one, None
        self.came += fault is not None
        return fault


async def blame(site: Site) -> dict[str, int]:
    """Return what workers are blamed for."""
    tallies = await site.office.desk.ask(lambda view: [worker.tally for worker in view.world.workers.values()])
    kept = ("failed", "expired", "abandoned", "equivocated")
    return {what: sum(tally.get(what, 0) for tally in tallies) for what in kept if any(what in t for t in tallies)}


# The reply was lost on the way.


async def test_lost_reply_of_a_submission_is_repeated_by_its_key(secured: Site) -> None:
    """The same key and body give the same job, once; the job would be the same one even without a key."""
    headers = {**secured.person(), "Idempotency-Key": "k1"}
    body = {"argv": ["date"], "force_recompute": True}
    first = await secured.http.post("/v1/jobs", json=body, headers=headers)
    before = await secured.size()
    again = await secured.http.post("/v1/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert await secured.size() == before


async def test_key_that_was_used_for_something_else_is_409(secured: Site) -> None:
    """A key stands for one request."""
    headers = {**secured.person(), "Idempotency-Key": "k1"}
    await secured.submit(headers)
    before = await secured.size()
    check_problem(await secured.http.post("/v1/jobs", json={"argv": ["date"]}, headers=headers), "key_reused")
    assert await secured.size() == before
    assert await secured.submit({**secured.person("bob", "other"), "Idempotency-Key": "k1"}, argv=["date"]) == 2


async def test_lost_reply_of_a_hand_out_is_repeated_by_its_request_id(secured: Site) -> None:
    """The same attempts, the same token, whatever was handed in meanwhile; and no second entry."""
    await secured.submit()
    ann = await volunteer(secured)
    first = await ann.ask(req="r1")
    await secured.submit(argv=["other"])
    before = await secured.size()
    again = await ann.ask(req="r1")
    assert again.json() == first.json()
    assert await secured.size() == before
    assert (await ann.take(req="r2")).job != first.json()["id"]


async def test_lost_reply_of_many_attempts_is_repeated_without_those_that_have_ended(secured: Site) -> None:
    """A worker that comes back is given what is still to be done, under the same token."""
    for word in "abc":
        await secured.submit(argv=[word])
    ann = await volunteer(secured)
    first = (await ann.ask(req="r1", n=3)).json()
    await secured.http.post("/v1/jobs/2:cancel", headers=secured.person())
    again = (await ann.ask(req="r1", n=3)).json()
    assert again["token"] == first["token"]
    assert [work["id"] for work in again["jobs"]] == [1, 2, 3]


async def test_request_id_of_another_worker_gives_nothing_away(secured: Site) -> None:
    """A request's id is the worker's own."""
    await secured.submit()
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    await ann.take(req="r1")
    assert (await bob.ask(req="r1")).status_code == 204


async def test_hand_out_whose_reply_was_lost_for_good_costs_one_lease_and_no_blame(secured: Site) -> None:
    """An attempt without any contact is undelivered: handed out again, outside the job's budget."""
    job = await secured.submit(redundancy={"max_attempts": 1})
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    for _ in range(2):
        assert (await ann.ask()).status_code == 200
        assert (await bob.ask()).status_code == 204
        await secured.pass_s(62)
    ends = [end for event in await secured.events() if isinstance(event, AttemptsLapsed) for end in event.ends]
    assert [end.outcome for end in ends] == [AttemptState.UNDELIVERED] * 2
    assert await blame(secured) == {}
    assert (await bob.finish(await bob.take())).json()["verdict"] == "valid"
    shown = await secured.http.get(f"/v1/jobs/{job}", headers=secured.person())
    assert shown.json()["state"] == "succeeded"


async def test_lost_reply_of_progress_costs_nothing(secured: Site) -> None:
    """The same progress twice is told once; output is counted by its place, not by how often it was sent."""
    job = await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    body = {"progress": 0.5, "usage": {"cpu_ms": 9}, "stdout": "half\n", "stdout_offset": 0}
    first = await ann.tell(taken, **body)
    before = await secured.size()
    assert (await ann.tell(taken, **body)).json() == first.json()
    assert await secured.size() == before
    await ann.tell(taken, stdout="whole\n", stdout_offset=5)
    assert (await secured.http.get(f"/v1/jobs/{job}/stdout", headers=secured.person())).text == "half\nwhole\n"


async def test_lost_reply_of_a_result_is_repeated_and_recorded_once(secured: Site) -> None:
    """The same statement gets the same verdict and the same entry, as often as it is sent."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    statement = ann.statement(taken, answer.result)
    first, again, list_form = (
        await ann.put(taken, statement),
        await ann.put(taken, statement),
        await secured.http.put("/v1/results", json={"statement": statement}, headers=taken.headers),
    )
    assert first.json()["verdict"] == again.json()["verdict"] == list_form.json()["results"][0]["verdict"] == "valid"
    assert first.json()["receipt"]["leaf"] == again.json()["receipt"]["leaf"]
    assert sum(isinstance(event, ResultsReported) for event in await secured.events()) == 1
    assert await blame(secured) == {}


async def test_lost_reply_of_an_upload_is_repeated(secured: Site) -> None:
    """A blob is the same however often it is sent."""
    digest = sha256_hex(b"data")
    for _ in range(2):
        reply = await secured.http.put(f"/v1/blobs/{digest}", content=b"data", headers=secured.person())
        assert reply.status_code == 201
    assert await secured.submit(inputs={"in.txt": digest}) == 1


async def test_lost_reply_of_a_cancel_is_repeated(secured: Site) -> None:
    """What is cancelled stays cancelled."""
    job = await secured.submit()
    before = await secured.size()
    for _ in range(2):
        reply = await secured.http.post(f"/v1/jobs/{job}:cancel", headers=secured.person())
        assert reply.json()["state"] == "cancelled"
        assert await secured.size() == before + 1


async def test_lost_reply_of_an_open_result_is_repeated(opened: Site) -> None:
    """Without a signature, the outcome and the outputs are the answer's identity."""
    await opened.submit()
    work = (await opened.http.get("/jobs/next")).json()
    body = {"token": work["token"], "exit_code": 0, "stdout": "hi\n"}
    first, again = [await opened.http.put(f"/jobs/{work['id']}/result", json=body) for _ in range(2)]
    assert (first.json()["verdict"], again.json()["verdict"]) == ("valid", "valid")
    other = {**body, "stdout": "ho\n"}
    check_problem(await opened.http.put(f"/jobs/{work['id']}/result", json=other), "equivocation")


# The server itself does not know whether it was committed.


@pytest.mark.parametrize("fault", Fault)
async def test_each_call_is_safe_to_repeat_when_the_commit_failed(
    keys: ServerKeys, tmp_path: Path, fault: Fault
) -> None:
    """Each call in turn meets a store that fails; whoever is told to try again does, and nothing happens twice."""
    faults, clock = Faults(), FakeClock()
    store = MemoryStore(faults=faults, clock_ms=clock.wall)

    async with open_site(keys, tmp_path, over(store), clock=clock) as site:

        async def persist(method: str, path: str, **what: object) -> httpx2.Response:
            faults.next_one, came = fault, faults.came
            reply = await site.http.request(method, path, **what)  # type: ignore[arg-type]
            if reply.is_server_error:
                check_problem(reply, "store_away")
                assert int(reply.headers["retry-after"]) > 0
                reply = await site.http.request(method, path, **what)  # type: ignore[arg-type]
            assert faults.came == came + 1
            return reply

        me = {**site.person(), "Idempotency-Key": "k"}
        made = await persist("POST", "/v1/jobs", json={"argv": ["date"], "force_recompute": True}, headers=me)
        assert made.json()["id"] == 1
        ann = await volunteer(site)
        assert (await persist("GET", "/jobs/next?req=r", headers=ann.headers)).status_code == 200
        taken = await ann.take(req="r")
        told = await persist("PUT", "/jobs/1/status", json={"progress": 0.5}, headers=taken.headers)
        assert told.json()["directive"] == "continue"
        answer = ann.answer(taken)
        for blob in answer.blobs:
            put = await persist("PUT", f"/v1/blobs/{sha256_hex(blob)}", content=blob, headers=taken.headers)
            assert put.status_code == 201
        statement = ann.statement(taken, answer.result)
        judged = await persist("PUT", "/jobs/1/result", json={"statement": statement}, headers=taken.headers)
        assert judged.json()["verdict"] == "valid"
        events = await site.events()
        assert [
            sum(isinstance(event, kind) for event in events) for kind in (Submitted, HandedOut, ResultsReported)
        ] == [
            1,
            1,
            1,
        ]
        assert await blame(site) == {}
