"""Scripted volunteers: they hold real keys, sign real statements, repeat themselves, and never give up.

One asks for one or several jobs by a request id, asks again by the same id where the reply was lost (and now and then
where it was not), answers with what the job would print, and answers again. What differs between two replies to the
same question is an error at once; what is acknowledged goes into the record.
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import Outcome
from gnexec.core.spec import Manifest, Spec, Stored, encode_manifest, manifest_digests, voted_digest
from gnexec.ids import b64url, sha256_hex, unb64url
from gnexec.shapes import EnrolReply, ManyJobWork, ManyVerdicts, VerdictView
from gnexec.tokens.jwk import kid_of
from gnexec.tokens.reading import sign
from gnexec.tokens.statements import Environment, ProofClaims, Result, ResultClaims, Usage
from tests.serving import ORIGIN
from tests.torture.line import Line

_HERE = Environment(os="none", arch="none", sandbox="none")
_OFFER = {"cores": 64, "memory_bytes": 1 << 40, "disk_bytes": 1 << 40}
_MOST = 8


@dataclass
class Volunteer:
    """One worker, with a line of its own."""

    line: Line
    owner: str
    access_token: str
    draw: random.Random
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    worker: str = ""
    token: str = ""
    uploaded: set[str] = field(default_factory=set)

    async def enrol(self) -> None:
        """Enrol; the same key is the same worker, however often it is asked."""

        def body() -> bytes:
            proof = ProofClaims(
                aud=ORIGIN,
                jti=_random_id(),
                iat=int(time.time()),
                ath=sha256_hex(self.access_token.encode()),
            )
            return msgspec.json.encode({"proof": sign(proof, self.key), "offer": _OFFER, "description": {}})

        reply = await self.line.call("POST", "/v1/workers", self.access_token, body)
        assert reply.status_code == 201, reply.text
        told = msgspec.json.decode(reply.content, type=EnrolReply)
        assert self.worker in {"", told.worker}, "one key, two workers"
        self.worker, self.token = told.worker, told.token
        self.line.record.workers[self.worker] = kid_of(self.key.public_key())
        self.line.record.note("enrolments")

    async def cycle(self) -> bool:
        """Take jobs and answer for them; return False where there are none."""
        n = self.draw.choice((1, 1, 3, _MOST))
        req = secrets.token_urlsafe(12)
        work = await self._take(n, req)
        if work is None:
            return False
        if self.draw.random() < 0.2:
            again = await self._take(n, req)
            jobs = None if again is None else [(job.id, job.attempt) for job in again.jobs]
            known = self.line.record.hand_outs[_jti(work.token)][1]
            assert jobs is not None or self._may_be_closed(known), "a repeated request brought nothing"
            assert jobs is None or set(jobs) <= set(known), (jobs, known)
        await self._answer(work)
        if self.draw.random() < 0.1:
            await self.enrol()
        return True

    def _may_be_closed(self, jobs: tuple[tuple[int, int], ...]) -> bool:
        """Tell whether all jobs are such that somebody else's call may have closed them meanwhile."""
        record = self.line.record
        return all(job in record.cancelled or job not in record.jobs or job in self.line.cancelling for job, _ in jobs)

    async def _take(self, n: int, req: str) -> ManyJobWork | None:
        params = {"n": str(n), "req": req, "wait": "1"}
        reply = await self.line.call("GET", "/jobs/next", self.token, params=params)
        if reply.status_code == 204:
            return None
        assert reply.status_code == 200, reply.text
        work = msgspec.json.decode(reply.content, type=ManyJobWork)
        jti, jobs = _jti(work.token), tuple((job.id, job.attempt) for job in work.jobs)
        known = self.line.record.hand_outs.setdefault(jti, (self.worker, jobs))
        assert set(jobs) <= set(known[1]), "one attempt id, two hand-outs"
        self.line.record.note("hand-outs")
        return work

    async def _answer(self, work: ManyJobWork) -> None:
        results, blobs = [], {sha256_hex(b""): b""}
        for job in work.jobs:
            assert job.argv is not None
            out = f"{' '.join(job.argv[1:])}\n".encode()
            stored = Stored(sha256_hex(out), len(out))
            manifest = Manifest(outputs={}, stdout=stored, stderr=Stored(sha256_hex(b""), 0))
            data = encode_manifest(manifest)
            blobs |= {stored.sha256: out, sha256_hex(data): data}
            now_ms = time.time_ns() // 1_000_000
            results.append(
                Result(
                    job=job.id,
                    att=job.attempt,
                    dig=job.digest,
                    outcome=Outcome(exit=0),
                    outs=sha256_hex(data),
                    canon=voted_digest(Spec(outputs=tuple(job.outputs)), 0, manifest_digests(manifest)),
                    usage=Usage(cpu_ms=1, wall_ms=1, peak_rss_bytes=1),
                    started_ms=now_ms,
                    ended_ms=now_ms,
                )
            )
        for digest, data in blobs.items():
            await self._upload(work.token, digest, data)
        if len(results) == 1 or self.draw.random() < 0.3:
            for result in results:
                await self._report_one(work.token, result)
        else:
            await self._report_many(work.token, results)

    async def _upload(self, token: str, digest: str, data: bytes) -> None:
        if digest in self.uploaded:
            return
        reply = await self.line.call("PUT", f"/v1/blobs/{digest}", token, lambda: data, media="octet-stream")
        assert reply.status_code == 201, reply.text
        self.uploaded.add(digest)
        self.line.record.note("blobs of volunteers")

    async def _report_one(self, token: str, result: Result) -> None:
        body = msgspec.json.encode({"statement": self._statement(token, [result])})
        for _ in range(2 if self.draw.random() < 0.2 else 1):
            reply = await self.line.call("PUT", f"/jobs/{result.job}/result", token, lambda: body)
            if reply.status_code == 410:
                self._note_verdict(token, VerdictView(verdict="too_late", job=result.job))
                continue
            assert reply.status_code == 200, reply.text
            verdict = msgspec.json.decode(reply.content, type=VerdictView)
            self._note_verdict(token, msgspec.structs.replace(verdict, job=result.job))
            if verdict.receipt is not None:
                self.line.record.receipts.append(verdict.receipt)

    async def _report_many(self, token: str, results: list[Result]) -> None:
        body = msgspec.json.encode({"statement": self._statement(token, results)})
        reply = await self.line.call("PUT", "/v1/results", token, lambda: body)
        assert reply.status_code == 200, reply.text
        told = msgspec.json.decode(reply.content, type=ManyVerdicts)
        assert len(told.results) == len(results)
        for result, verdict in zip(results, told.results, strict=True):
            self._note_verdict(token, msgspec.structs.replace(verdict, job=result.job))
        self.line.record.receipts += told.receipts

    def _note_verdict(self, token: str, told: VerdictView) -> None:
        assert told.verdict in {"pending", "valid", "unneeded", "too_late"}, told
        self.line.record.verdicts[_jti(token), told.job] = told.verdict
        self.line.record.note(f"verdicts {told.verdict}")

    def _statement(self, token: str, results: list[Result]) -> str:
        claims = ResultClaims.of(
            results,
            iss=self.worker,
            aud=ORIGIN,
            jti=_jti(token),
            tok=sha256_hex(token.encode()),
            iat=int(time.time()),
            salt=_random_id(),
            env=_HERE,
        )
        return sign(claims, self.key)


def _jti(token: str) -> str:
    claims: dict[str, Any] = msgspec.json.decode(unb64url(token.split(".")[1]))
    return str(claims["jti"])


def _random_id() -> str:
    return b64url(secrets.token_bytes(16))
