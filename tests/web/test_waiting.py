"""Waiting: long polls for work and for decisions, server-sent events, and what ends a wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gnexec.core.events import HandedOut
from gnexec.desk import volunteering
from gnexec.keys import ServerKeys
from tests.web.logs import Logs
from tests.web.sites import Site, check_problem, open_site
from tests.web.volunteers import Volunteer, volunteer

pytestmark = pytest.mark.anyio


@dataclass(slots=True)
class Call:
    """A request whose client may hang up, and whose reply is seen while it is still being sent."""

    site: Site
    path: str
    headers: dict[str, str]
    query: str = ""
    status: int | None = None
    body: bytes = b""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send the request."""
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:  # noqa: ANN401 -- any ASGI message
            self.status = message.get("status", self.status)
            self.body += message.get("body", b"")
            self.heard.set()

        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        scope = {
            "type": "http",
            "method": "GET",
            "path": self.path,
            "query_string": self.query.encode(),
            "headers": headers,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "server": ("web.test", 80),
            "root_path": "",
        }
        await self.site.app(scope, receive, send)

    async def end(self) -> None:
        """Wait for the end of the reply."""
        assert self.task is not None
        await asyncio.wait_for(self.task, 30)

    async def until(self, text: bytes) -> None:
        """Wait until the reply has `text`."""
        while text not in self.body:
            self.heard.clear()
            await asyncio.wait_for(self.heard.wait(), 30)

    def lines(self) -> list[dict[str, Any]]:
        """Return the data of the server-sent events."""
        text = self.body.decode().replace("\r\n", "\n")
        return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]


@asynccontextmanager
async def calling(site: Site, path: str, headers: dict[str, str], query: str = "") -> AsyncIterator[Call]:
    """Make a call and give it up in the end."""
    call = Call(site, path, headers, query)
    call.start()
    try:
        yield call
    finally:
        assert call.task is not None
        call.task.cancel()
        with suppress(asyncio.CancelledError):
            await call.task


async def idle(site: Site, count: int) -> None:
    """Wait until that many long polls stand in line, each told once that there is nothing."""
    while len(site.office.feed._idle) != count:
        await site.size()
    await site.size()


async def watched(site: Site, count: int) -> None:
    """Wait until that many calls watch a job."""
    while sum(map(len, site.office.feed._watchers.values())) != count:
        await site.size()


@asynccontextmanager
async def polling(site: Site, who: Volunteer, count: int) -> AsyncIterator[Call]:
    """Let a volunteer wait for work, as the last of `count` in line."""
    async with calling(site, "/jobs/next", who.headers, "wait=300") as call:
        await idle(site, count)
        yield call


async def test_long_poll_is_answered_by_the_job_that_comes_in(secured: Site) -> None:
    """Whoever waits for work has it as soon as there is some."""
    ann = await volunteer(secured)
    async with polling(secured, ann, 1) as call:
        job = await secured.submit()
        await call.end()
    assert (call.status, json.loads(call.body)["id"]) == (200, job)


async def test_long_poll_without_work_ends_with_204(secured: Site) -> None:
    """And says when to come again, and where the reasons are."""
    ann = await volunteer(secured)
    reply = await ann.ask(wait="0.01")
    assert reply.status_code == 204
    assert int(reply.headers["retry-after"]) > 0
    assert reply.headers["cache-control"] == "no-store"
    assert "/v1/workers/me/why" in reply.headers["link"]


async def test_longest_waiting_volunteer_gets_the_job(secured: Site) -> None:
    """First come, first served; the others go on waiting."""
    one, two, three = [await volunteer(secured, name) for name in ("a", "b", "c")]
    async with (
        polling(secured, one, 1) as first,
        polling(secured, two, 2) as second,
        polling(secured, three, 3) as third,
    ):
        await secured.submit()
        await first.end()
        await secured.submit(argv=["two"])
        await second.end()
        assert third.status is None
        await idle(secured, 1)
    assert (first.status, second.status) == (200, 200)


async def test_job_that_the_first_in_line_cannot_take_goes_to_the_next(secured: Site) -> None:
    """Being woken in vain passes the call on."""
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    await secured.submit(redundancy={"replicas": 2, "quorum": 2})
    await ann.take()
    await bob.take()
    cem = await volunteer(secured, "cem")
    async with polling(secured, ann, 1) as first, polling(secured, cem, 2) as second:
        await secured.submit(argv=["big"], needs={"cores": 4})
        await first.end()
        await secured.submit(argv=["two"])
        await second.end()
    assert json.loads(first.body)["cmd"] == "big"
    assert json.loads(second.body)["cmd"] == "two"


async def test_second_replica_goes_past_its_owner_to_the_next_in_line(secured: Site) -> None:
    """Two workers of one owner stand before another owner's: the second replica is the other owner's."""
    one, two, other = await volunteer(secured, "ann"), await volunteer(secured, "ann"), await volunteer(secured, "bob")
    async with (
        polling(secured, one, 1) as first,
        polling(secured, two, 2) as second,
        polling(secured, other, 3) as third,
    ):
        await secured.submit(redundancy={"replicas": 2, "quorum": 2})
        await first.end()
        await third.end()
        assert second.status is None
    assert (first.status, third.status) == (200, 200)


async def test_disconnected_long_poll_hands_out_nothing(secured: Site) -> None:
    """The job goes to whoever is still there; nothing is handed to who has gone."""
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    async with polling(secured, ann, 1) as gone, polling(secured, bob, 2) as there:
        gone.gone.set()
        await gone.end()
        await secured.submit()
        await there.end()
    assert there.status == 200
    handed = [event.worker for event in await secured.events() if isinstance(event, HandedOut)]
    assert handed == [bob.worker]


async def test_client_that_hangs_up_as_a_job_comes_in_leaves_it_to_the_next(secured: Site) -> None:
    """Both in one turn of the loop: the one that has gone was woken, and must pass the call on."""
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    async with polling(secured, ann, 1) as gone, polling(secured, bob, 2) as there:
        await asyncio.sleep(0)
        for event in list(secured.office.feed._idle)[:1]:
            event.set()
        gone.gone.set()
        await secured.submit()
        await gone.end()
        await there.end()
    assert there.status == 200
    handed = [event.worker for event in await secured.events() if isinstance(event, HandedOut)]
    assert handed.count(bob.worker) == 1


async def test_job_that_comes_while_the_desk_is_asked_in_vain_is_not_lost(
    secured: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volunteer was woken by a job that does not fit; the one that fits comes in before it lies down again."""
    ann = await volunteer(secured)
    look = volunteering.next_jobs
    between = False

    async def look_and_dawdle(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- whatever is asked
        nonlocal between
        found = await look(*args, **kwargs)
        if found is None and between:
            between = False
            await secured.submit(argv=["fits"])
            await secured.size()
        return found

    async with polling(secured, ann, 1) as call:
        monkeypatch.setattr(volunteering, "next_jobs", look_and_dawdle)
        between = True
        await secured.submit(argv=["big"], needs={"cores": 8})
        await call.end()
    assert json.loads(call.body)["cmd"] == "fits"


async def test_lapsed_lease_wakes_who_waits(secured: Site) -> None:
    """Work that comes back is work: no new submission is needed."""
    await secured.submit()
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    await ann.take()
    async with polling(secured, bob, 1) as call:
        await secured.pass_s(62)
        await call.end()
    assert json.loads(call.body)["attempt"] == 2


async def test_worker_that_is_enrolled_nowhere_here_need_not_wait_to_hear_it(
    secured: Site, keys: ServerKeys, tmp_path: Path, logs: Logs
) -> None:
    """Its token is good, its worker is in another log: with `wait` it is refused at once, as without."""
    async with open_site(keys, tmp_path / "other", logs) as other:
        stranger = await volunteer(other)
    for params in ({}, {"wait": 300}):
        asked = secured.http.get("/jobs/next", params=params, headers=stranger.headers)
        check_problem(await asyncio.wait_for(asked, 30), "unknown_key")


async def test_waiting_for_a_decision_ends_with_it(secured: Site) -> None:
    """`?wait=` answers when the job is decided, not before."""
    job = await secured.submit()
    ann = await volunteer(secured)
    async with calling(secured, f"/v1/jobs/{job}", secured.person(), "wait=300") as call:
        await watched(secured, 1)
        taken = await ann.take()
        await ann.tell(taken, progress=0.5)
        assert call.status is None
        await ann.finish(taken)
        await call.end()
    assert json.loads(call.body)["state"] == "succeeded"


async def test_waiting_for_a_decided_job_returns_at_once(secured: Site) -> None:
    """There is nothing to wait for."""
    job = await secured.submit()
    await secured.http.post(f"/v1/jobs/{job}:cancel", headers=secured.person())
    reply = await secured.http.get(f"/v1/jobs/{job}?wait=300", headers=secured.person())
    assert reply.json()["state"] == "cancelled"


async def test_waiting_for_a_decision_in_vain_returns_the_job_as_it_is(secured: Site) -> None:
    """A wait that runs out is no error."""
    job = await secured.submit()
    reply = await secured.http.get(f"/v1/jobs/{job}?wait=0.01", headers=secured.person())
    assert (reply.status_code, reply.json()["state"]) == (200, "queued")


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "1e3", "x", "", "9" * 5000])
async def test_wait_that_is_no_number_of_seconds_is_refused(secured: Site, wait: str) -> None:
    """A wait is a number of seconds."""
    job = await secured.submit()
    for path, headers in ((f"/v1/jobs/{job}", secured.person()), ("/jobs/next", (await volunteer(secured)).headers)):
        reply = await secured.http.get(path, params={"wait": wait}, headers=headers)
        assert (reply.status_code, reply.json()["field"]) == (422, "wait")


async def test_events_tell_the_whole_story_and_end_with_it(secured: Site) -> None:
    """From the submission to the decision, in the log's order, each under its seq."""
    job = await secured.submit()
    ann = await volunteer(secured)
    async with calling(secured, f"/v1/jobs/{job}/events", secured.person()) as call:
        await call.until(b"submitted")
        taken = await ann.take()
        await call.until(b"started")
        await ann.finish(taken)
        await call.end()
    assert [line["what"] for line in call.lines()] == ["submitted", "started", "reported", "decided"]
    seqs = [line["seq"] for line in call.lines()]
    assert seqs == sorted(seqs)
    assert f"id: {seqs[-1]}" in call.body.decode()


async def test_events_resume_behind_the_last_one_seen(secured: Site) -> None:
    """`Last-Event-ID` is a seq: what was seen is not told again, nothing is left out."""
    job = await secured.submit()
    ann = await volunteer(secured)
    await ann.finish(await ann.take())
    async with calling(secured, f"/v1/jobs/{job}/events", secured.person()) as call:
        await call.end()
    every = call.lines()
    for i, line in enumerate(every):
        headers = {**secured.person(), "Last-Event-ID": str(line["seq"])}
        async with calling(secured, f"/v1/jobs/{job}/events", headers) as again:
            await again.end()
        assert [told["seq"] for told in again.lines()] == [
            told["seq"] for told in every[i + 1 :] if told["seq"] > line["seq"]
        ]


@pytest.mark.parametrize("last", ["-1", "x", "9" * 5000, "²"])
async def test_strange_last_event_id_tells_everything(secured: Site, last: str) -> None:
    """What is no seq was never seen."""
    job = await secured.submit()
    await secured.http.post(f"/v1/jobs/{job}:cancel", headers=secured.person())
    headers = {**secured.person(), "Last-Event-ID": last}
    async with calling(secured, f"/v1/jobs/{job}/events", headers) as call:
        await call.end()
    assert [line["what"] for line in call.lines()] == ["submitted", "withdrawn"]


async def test_shutdown_wakes_everybody_who_waits(secured: Site) -> None:
    """Nobody holds the shutdown up: no work, the job as it is, the end of the stream."""
    job = await secured.submit(needs={"cores": 8})
    ann = await volunteer(secured)
    path = f"/v1/jobs/{job}"
    async with (
        polling(secured, ann, 1) as work,
        calling(secured, path, secured.person(), "wait=300") as decision,
        calling(secured, f"{path}/events", secured.person()) as stream,
    ):
        await watched(secured, 2)
        await stream.until(b"submitted")
        secured.office.feed.wake_all()
        for call in (work, decision, stream):
            await call.end()
    assert (work.status, decision.status, stream.status) == (204, 200, 200)
    assert json.loads(decision.body)["state"] == "queued"


async def test_waiting_is_forgotten_when_it_ends(secured: Site) -> None:
    """Whoever hangs up leaves nothing behind."""
    job = await secured.submit(needs={"cores": 8})
    ann = await volunteer(secured)
    path = f"/v1/jobs/{job}"
    async with polling(secured, ann, 1) as work, calling(secured, path, secured.person(), "wait=300") as decision:
        await watched(secured, 1)
        for call in (work, decision):
            call.gone.set()
            await call.end()
    assert not secured.office.feed._idle
    assert not secured.office.feed._watchers
