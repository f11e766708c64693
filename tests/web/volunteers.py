"""Volunteers for tests: they hold real keys, sign real statements, and lie only where a test wants them to."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import Outcome
from gnexec.core.spec import Manifest, Spec, Stored, encode_manifest, manifest_digests, voted_digest
from gnexec.ids import b64url, sha256_hex, unb64url
from gnexec.tokens.issued import Scope
from gnexec.tokens.jwk import kid_of
from gnexec.tokens.reading import sign
from gnexec.tokens.statements import Environment, ProofClaims, Result, ResultClaims, Usage
from tests.web.sites import ORIGIN, Json, Site, bearer

OFFER: Final = {"cores": 4, "memory_bytes": 1 << 33, "disk_bytes": 1 << 33}
HERE: Final = Environment(os="Debian 12", arch="x86_64", sandbox="none")


def claims_of(token: str) -> dict[str, Any]:
    """Read a token's claims without checking anything."""
    read: dict[str, Any] = json.loads(unb64url(token.split(".")[1]))
    return read


def random_id() -> str:
    """Return 16 random bytes in base64url."""
    return b64url(secrets.token_bytes(16))


@dataclass(slots=True)
class HandOut:
    """A job that was handed out."""

    work: dict[str, Any]
    token: str

    @property
    def job(self) -> int:
        """The job's id."""
        return int(self.work["id"])

    @property
    def jti(self) -> str:
        """The attempt id."""
        return str(claims_of(self.token)["jti"])

    @property
    def headers(self) -> dict[str, str]:
        """The job token, as a header."""
        return bearer(self.token)


@dataclass(slots=True)
class Answer:
    """A result, ready to be signed; and the blobs that go before it, the manifest last."""

    result: Result
    blobs: list[bytes]


@dataclass(slots=True)
class Volunteer:
    """A worker that is enrolled."""

    site: Site
    owner: str
    key: Ed25519PrivateKey
    worker: str = ""
    token: str = ""
    uploaded: set[str] = field(default_factory=set)

    @property
    def headers(self) -> dict[str, str]:
        """The enrolment token, as a header."""
        return bearer(self.token)

    def proof(self, access: str, **changes: Json) -> str:
        """Prove to hold the key, for one access token."""
        claims = ProofClaims(aud=ORIGIN, jti=random_id(), iat=self.site.office.now_s(), ath=sha256_hex(access.encode()))
        return sign(msgspec.structs.replace(claims, **changes), self.key)

    async def enrol(self) -> httpx2.Response:
        """Enrol, or enrol again."""
        access = self.site.token(self.owner, Scope.ENROL)
        body = {"proof": self.proof(access), "offer": OFFER, "description": {"cpu": "test"}}
        reply = await self.site.http.post("/v1/workers", json=body, headers=bearer(access))
        if reply.is_success:
            self.worker, self.token = reply.json()["worker"], reply.json()["token"]
        return reply

    async def ask(self, **params: Json) -> httpx2.Response:
        """Ask for work."""
        return await self.site.http.get("/jobs/next", params=params, headers=self.headers)

    async def take(self, **params: Json) -> HandOut:
        """Ask for one job, and get it."""
        reply = await self.ask(**params)
        assert reply.status_code == httpx2.codes.OK, reply.text
        return HandOut(reply.json(), reply.json()["token"])

    def answer(self, taken: HandOut, out: bytes = b"hi\n", *, exit_status: int = 0, **changes: Json) -> Answer:
        """Make the result of a job that wrote `out`; `changes` replace what the result says."""
        work = taken.work
        manifest = Manifest(
            outputs={path: stored(out) for path in work.get("outputs", [])}, stdout=stored(out), stderr=stored(b"")
        )
        data = encode_manifest(manifest)
        spec = Spec(argv=("x",), outputs=tuple(work.get("outputs", [])))
        result = Result(
            job=work["id"],
            att=work["attempt"],
            dig=work["digest"],
            outcome=Outcome(exit=exit_status),
            outs=sha256_hex(data),
            canon=voted_digest(spec, 0, manifest_digests(manifest)) if exit_status == 0 else None,
            usage=Usage(cpu_ms=5, wall_ms=7, peak_rss_bytes=1 << 20),
            started_ms=1,
            ended_ms=8,
        )
        return Answer(msgspec.structs.replace(result, **changes), [out, b"", data])

    def claims(self, taken: HandOut, *results: Result, **changes: Json) -> ResultClaims:
        """Make a statement's claims; `changes` replace what it says beside the results."""
        told: dict[str, Any] = {
            "iss": self.worker,
            "aud": ORIGIN,
            "jti": taken.jti,
            "tok": sha256_hex(taken.token.encode()),
            "iat": self.site.office.now_s(),
            "salt": random_id(),
            "env": HERE,
            **changes,
        }
        return ResultClaims.of(results, **told)

    def statement(self, taken: HandOut, *results: Result, **changes: Json) -> str:
        """Sign a statement."""
        return sign(self.claims(taken, *results, **changes), self.key)

    async def upload(self, taken: HandOut, *blobs: bytes) -> None:
        """Upload blobs."""
        for blob in blobs:
            digest = sha256_hex(blob)
            reply = await self.site.http.put(f"/v1/blobs/{digest}", content=blob, headers=taken.headers)
            assert reply.status_code == httpx2.codes.CREATED, reply.text

    async def put(self, taken: HandOut, statement: str, job: int | None = None) -> httpx2.Response:
        """Send a statement."""
        path = f"/jobs/{taken.job if job is None else job}/result"
        return await self.site.http.put(path, json={"statement": statement}, headers=taken.headers)

    async def finish(self, taken: HandOut, out: bytes = b"hi\n", *, exit_status: int = 0) -> httpx2.Response:
        """Upload and answer as an honest worker does."""
        answer = self.answer(taken, out, exit_status=exit_status)
        await self.upload(taken, *answer.blobs)
        return await self.put(taken, self.statement(taken, answer.result))

    async def tell(self, taken: HandOut, **body: Json) -> httpx2.Response:
        """Tell how a job goes."""
        return await self.site.http.put(f"/jobs/{taken.job}/status", json=body, headers=taken.headers)


def stored(data: bytes) -> Stored:
    """Name a blob as a manifest does."""
    return Stored(sha256_hex(data), len(data))


async def volunteer(site: Site, owner: str = "ann") -> Volunteer:
    """Enrol a new worker of an owner's."""
    one = Volunteer(site, owner, Ed25519PrivateKey.generate())
    reply = await one.enrol()
    assert reply.status_code == httpx2.codes.CREATED, reply.text
    return one


__all__ = ["Answer", "HandOut", "Volunteer", "claims_of", "kid_of", "random_id", "stored", "volunteer"]
