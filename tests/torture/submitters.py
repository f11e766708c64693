"""Scripted submitters: they hand in jobs, one or several at a time, repeat themselves, cancel, upload, and look again.

What two replies to the same question may not contradict each other in is checked at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from gnexec.ids import sha256_hex
from gnexec.shapes import JobView, ManyJobViews, ReceiptsView
from tests.torture.line import Line
from tests.torture.record import Asked

FINAL = frozenset({"succeeded", "failed", "cancelled"})
_MOST = 6
_AHEAD = 12


@dataclass
class Submitter:
    """One account, with a line of its own."""

    line: Line
    name: str
    token: str
    draw: random.Random
    bodies: dict[str, bytes] = field(default_factory=dict)
    """What was sent under each key."""
    mine: list[int] = field(default_factory=list)
    made: int = 0

    async def act(self) -> None:
        """Do one thing; but first wait for the oldest job, where too many are open."""
        undecided = [job for job in self.mine if job not in self.line.record.decided]
        if len(undecided) > _AHEAD:
            await self.view(undecided[0], wait_s=2)
        acts = (self.submit, self.repeat, self.join, self.cancel, self.upload, self.look, self.prove)
        (act,) = self.draw.choices(acts, (8, 2, 2, 1, 1, 3, 1))
        await act()

    async def submit(self) -> None:
        """Hand in one job or several, under a key that is new."""
        count = self.draw.choice((1, 1, 1, _MOST))
        forced, quorum = self.draw.random() < 0.5, self.draw.choice((1, 1, 2))
        asked = [
            Asked(f"{self.name}-{i}", f"{self.name}/{self.made}", forced, quorum)
            for i in range(self.made, self.made + count)
        ]
        self.made += count
        jobs = [_job(each) for each in asked]
        self.bodies[asked[0].key] = msgspec.json.encode(jobs[0] if count == 1 else {"jobs": jobs})
        ids = await self._send(asked[0].key)
        record = self.line.record
        assert len(set(ids)) == count
        assert not set(ids) & record.jobs.keys(), "an id was given to two jobs"
        record.jobs |= dict(zip(ids, asked, strict=True))
        record.submissions[asked[0].key] = ids
        record.note("jobs", count)
        self.mine += ids

    async def repeat(self) -> None:
        """Hand in again what was acknowledged, under the same key: the same jobs."""
        if self.bodies:
            key = self.draw.choice(list(self.bodies))
            assert await self._send(key) == self.line.record.submissions[key], "one key, two answers"
            self.line.record.note("repetitions")

    async def join(self) -> None:
        """Hand in again what was acknowledged, under no key: the same job."""
        record = self.line.record
        known = [job for job in self.mine if not record.jobs[job].forced and job not in self.line.cancelling]
        if known:
            job = self.draw.choice(known)
            body = msgspec.json.encode(_job(record.jobs[job]))
            reply = await self.line.call("POST", "/v1/jobs", self.token, lambda: body)
            assert reply.status_code == 200, reply.text
            assert msgspec.json.decode(reply.content, type=JobView).id == job, "one digest, two jobs"
            record.note("joins")

    async def cancel(self) -> None:
        """Withdraw from a job, decided or not."""
        if self.mine:
            job = self.draw.choice(self.mine)
            self.line.cancelling.add(job)
            reply = await self.line.call("POST", f"/v1/jobs/{job}:cancel", self.token)
            assert reply.status_code == 200, reply.text
            self._note(msgspec.json.decode(reply.content, type=JobView))
            self.line.record.note("cancellations")
            assert job in self.line.record.decided

    async def upload(self) -> None:
        """Upload a file, and read it back."""
        data = self.draw.randbytes(self.draw.choice((10, 1_000, 200_000)))
        digest = sha256_hex(data)
        reply = await self.line.call("PUT", f"/v1/blobs/{digest}", self.token, lambda: data, media="octet-stream")
        assert reply.status_code == 201, reply.text
        self.line.record.blobs[digest] = data
        self.line.record.note("blobs of submitters")
        await self.fetch(self.draw.choice([digest, *self.line.record.blobs]))

    async def fetch(self, digest: str) -> None:
        """Read a file that was acknowledged; all submitters are of one account."""
        reply = await self.line.call("GET", f"/v1/blobs/{digest}", self.token)
        assert (reply.status_code, reply.content) == (200, self.line.record.blobs[digest])

    async def look(self) -> None:
        """Look at a job; what was final stays as it is."""
        if self.mine:
            await self.view(self.draw.choice(self.mine))

    async def view(self, job: int, wait_s: int = 0) -> JobView:
        """Return a job as the server sees it."""
        reply = await self.line.call("GET", f"/v1/jobs/{job}", self.token, params={"wait": str(wait_s)})
        assert reply.status_code == 200, reply.text
        return self._note(msgspec.json.decode(reply.content, type=JobView))

    async def prove(self) -> None:
        """Fetch the receipts of a job."""
        if self.mine:
            reply = await self.line.call("GET", f"/v1/jobs/{self.draw.choice(self.mine)}/receipt", self.token)
            assert reply.status_code == 200, reply.text
            found = msgspec.json.decode(reply.content, type=ReceiptsView).receipts
            assert found, "a job without an entry"
            self.line.record.receipts += found
            self.line.record.note("receipts", len(found))

    async def finish(self) -> None:
        """Wait until all of its jobs are decided."""
        for job in self.mine:
            while (await self.view(job, wait_s=5)).state not in FINAL:
                pass

    def _note(self, view: JobView) -> JobView:
        record = self.line.record
        if view.state in FINAL:
            assert record.decided.setdefault(view.id, view.state) == view.state, "what was final has changed"
            assert view.state != "cancelled" or view.id in self.line.cancelling
            if view.state == "cancelled":
                record.cancelled.add(view.id)
        else:
            assert view.id not in record.decided, "what was final is open again"
        return view

    async def _send(self, key: str) -> tuple[int, ...]:
        body = self.bodies[key]
        reply = await self.line.call("POST", "/v1/jobs", self.token, lambda: body, headers={"Idempotency-Key": key})
        assert reply.status_code in {200, 201}, reply.text
        many = body.startswith(b'{"jobs"')
        if many:
            return tuple(view.id for view in msgspec.json.decode(reply.content, type=ManyJobViews).jobs)
        return (msgspec.json.decode(reply.content, type=JobView).id,)


def _job(asked: Asked) -> dict[str, object]:
    return {
        "argv": ["/bin/echo", asked.text],
        "outputs": ["stdout"],
        "redundancy": {"replicas": asked.quorum, "quorum": asked.quorum},
        "force_recompute": asked.forced,
        "needs": {"memory_bytes": 1 << 26, "disk_bytes": 1 << 20},
    }
