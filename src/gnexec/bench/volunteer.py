"""Volunteers for load: they enrol, take jobs, sign results and hand them in, as fast as they can.

They run nothing: the jobs' output is the same empty output, uploaded once. What is measured is the dispatcher's
full durable, signed cycle: hand-out decided and appended, job token signed; token checked, statement verified,
result appended.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.bench.figures import Sample
from gnexec.bench.wire import Wire
from gnexec.core.events import Outcome
from gnexec.core.spec import Manifest, Spec, Stored, encode_manifest, manifest_digests, voted_digest
from gnexec.ids import b64url, sha256_hex, unb64url
from gnexec.tokens.jwk import kid_of
from gnexec.tokens.reading import sign
from gnexec.tokens.statements import Environment, ProofClaims, Result, ResultClaims, Usage

EMPTY = Stored(sha256_hex(b""), 0)
MANIFEST = Manifest(outputs={}, stderr=EMPTY, stdout=EMPTY)
MANIFEST_BYTES = encode_manifest(MANIFEST)
OUTS = sha256_hex(MANIFEST_BYTES)
CANON = voted_digest(Spec(argv=("true",)), 0, manifest_digests(MANIFEST))
ENV = Environment(os="none", arch="none", sandbox="none")
OK = 200


class _Work(msgspec.Struct):
    id: int
    attempt: int
    digest: str


class _One(_Work):
    token: str


class _Many(msgspec.Struct):
    jobs: list[_Work]
    token: str


class _Jti(msgspec.Struct):
    jti: str


_one = msgspec.json.Decoder(_One)
_many = msgspec.json.Decoder(_Many)
_jti = msgspec.json.Decoder(_Jti)


@dataclass(slots=True)
class Volunteer:
    """An enrolled worker with one connection."""

    wire: Wire
    key: Ed25519PrivateKey
    kid: str
    worker: str
    origin: str
    token: bytes

    @classmethod
    async def enrol(cls, host: str, port: int, origin: str, access_token: str) -> Volunteer:
        """Connect and enrol with a new key.

        Raises:
            ConnectionError: the server refuses.
        """
        wire = await Wire.open(host, port)
        key = Ed25519PrivateKey.generate()
        proof = sign(
            ProofClaims(
                aud=origin,
                jti=b64url(secrets.token_bytes(16)),
                iat=int(time.time()),
                ath=sha256_hex(access_token.encode()),
            ),
            key,
        )
        offer = {"cores": 1, "memory_bytes": 1 << 34, "disk_bytes": 1 << 40}
        body = msgspec.json.encode({"proof": proof, "offer": offer})
        status, answer = await wire.call(b"POST", b"/v1/workers", access_token.encode(), body)
        if status >= 300:
            raise ConnectionError(answer.decode())
        told = msgspec.json.decode(answer)
        return cls(wire, key, kid_of(key.public_key()), told["worker"], origin, told["token"].encode())

    async def cycle(self, n: int) -> int:
        """Take up to `n` jobs and hand in their results; return how many, 0 when there is no work.

        Raises:
            ConnectionError: the server refuses.
        """
        path = b"/jobs/next" if n == 1 else b"/jobs/next?n=%d" % n
        status, answer = await self.wire.call(b"GET", path, self.token)
        if status != OK:
            return 0
        if n == 1:
            one = _one.decode(answer)
            jobs: list[_Work] = [one]
            token = one.token
        else:
            many = _many.decode(answer)
            jobs, token = many.jobs, many.token
        body = msgspec.json.encode({"statement": self._statement(jobs, token)})
        path = b"/jobs/%d/result" % jobs[0].id if n == 1 else b"/v1/results"
        status, answer = await self.wire.call(b"PUT", path, token.encode(), body)
        if status == 422:
            await self._upload(token)
            status, answer = await self.wire.call(b"PUT", path, token.encode(), body)
        if status != OK:
            raise ConnectionError(answer.decode())
        return len(jobs)

    async def _upload(self, token: str) -> None:
        for blob in (b"", MANIFEST_BYTES):
            await self.wire.call(b"PUT", b"/v1/blobs/" + sha256_hex(blob).encode(), token.encode(), blob)

    def _statement(self, jobs: list[_Work], token: str) -> str:
        now_ms = time.time_ns() // 1_000_000
        results = [
            Result(
                job=job.id,
                att=job.attempt,
                dig=job.digest,
                outcome=Outcome(exit=0),
                outs=OUTS,
                canon=CANON,
                usage=Usage(cpu_ms=1, wall_ms=1, peak_rss_bytes=1),
                started_ms=now_ms,
                ended_ms=now_ms,
            )
            for job in jobs
        ]
        claims = ResultClaims.of(
            results,
            iss=self.worker,
            aud=self.origin,
            jti=_jti.decode(unb64url(token.split(".")[1])).jti,
            tok=sha256_hex(token.encode()),
            iat=now_ms // 1000,
            salt=b64url(secrets.token_bytes(16)),
            env=ENV,
        )
        payload = b64url(msgspec.json.encode(claims))
        head = b64url(msgspec.json.encode({"alg": "EdDSA", "kid": self.kid, "typ": ResultClaims.TYP}))
        signed = f"{head}.{payload}"
        return f"{signed}.{b64url(self.key.sign(signed.encode()))}"


async def cycles(volunteers: list[Volunteer], n: int, seconds: float) -> Sample:
    """Let the volunteers take `n` jobs at a time and answer for them, until the time is up or there is no more work."""
    for each in volunteers:
        await each.wire.renew()  # others may have had their turn for longer than a server keeps a silent connection
    until = time.perf_counter() + seconds
    done = 0

    async def work(volunteer: Volunteer) -> None:
        nonlocal done
        while time.perf_counter() < until:
            count = await volunteer.cycle(n)
            done += count
            if not count:
                return

    began = time.perf_counter()
    await asyncio.gather(*(work(volunteer) for volunteer in volunteers))
    return Sample(done, time.perf_counter() - began)


async def gets(host: str, port: int, connections: int, seconds: float) -> Sample:
    """Fetch the trivial route over some connections."""
    wires = [await Wire.open(host, port) for _ in range(connections)]
    until = time.perf_counter() + seconds
    done = 0

    async def fetch(wire: Wire) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await wire.call(b"GET", b"/")
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(fetch(wire) for wire in wires))
    wall_s = time.perf_counter() - began
    for wire in wires:
        wire.close()
    return Sample(done, wall_s)
