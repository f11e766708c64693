"""One sample of every token, a reader for each, and the means to forge any other.

What is forged here is signed by hand, without the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import Outcome
from gnexec.errors import Refused
from gnexec.ids import b64url, sha256_hex
from gnexec.tokens import (
    ALG,
    AccessClaims,
    Claims,
    Confirmation,
    EnrolmentClaims,
    Environment,
    JobClaims,
    JobspecClaims,
    ProofClaims,
    Result,
    ResultClaims,
    Usage,
    kid_of,
    public_jwk,
    read_access_token,
    read_enrolment_proof,
    read_enrolment_token,
    read_job_statement,
    read_job_token,
    read_result_statement,
)

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KID: Final = kid_of(KEY.public_key())
KEYS: Final = {kid_of(key.public_key()): key.public_key() for key in (KEY, OTHER)}
ORIGIN: Final = "gnexec.example/log"
NOW: Final = 1_700_000_000
JTI: Final = b64url(bytes(16))
WORKER: Final = "w" + JTI
HEX: Final = "5e" * 32
ACCESS: Final = "an.access.token"

USAGE: Final = Usage(cpu_ms=900, wall_ms=1000, peak_rss_bytes=1 << 20, read_bytes=7)
ENV: Final = Environment(os="Debian 12", arch="x86_64", sandbox="bubblewrap 0.8.0", software={"gemma": "0.98.5+dfsg-2"})
RESULT: Final = Result(
    job=7, att=2, dig=HEX, outcome=Outcome(exit=0), outs=HEX, canon=HEX, usage=USAGE, started_ms=5, ended_ms=9
)
STATEMENT: Final = {"iss": WORKER, "aud": ORIGIN, "jti": JTI, "tok": HEX, "salt": JTI}

JOB: Final = JobClaims.of(
    [(7, 2)], origin=ORIGIN, jti=JTI, iat=NOW, exp=NOW + 60, dig=HEX, jkt=KID, prog="lod/1", est=3
)
JOBS: Final = JobClaims.of([(7, 2), (9, 1)], origin=ORIGIN, jti=JTI, iat=NOW, exp=NOW + 60)
ENROLMENT: Final = EnrolmentClaims(
    iss=ORIGIN,
    aud=ORIGIN,
    jti=JTI,
    iat=NOW,
    exp=NOW + 60,
    sub=WORKER,
    cnf=Confirmation(jkt=KID),
    owner="o" + JTI,
    caps=HEX,
)
ACCESS_CLAIMS: Final = AccessClaims(
    iss=ORIGIN, aud=ORIGIN, jti=JTI, iat=NOW, exp=NOW + 60, sub="ada", scope="submit read", project="BXD"
)
ONE: Final = ResultClaims.of([RESULT], iat=NOW, env=ENV, **STATEMENT)
MANY: Final = ResultClaims.of([RESULT, msgspec.structs.replace(RESULT, job=9)], iat=NOW, env=ENV, **STATEMENT)
PROOF: Final = ProofClaims(aud=ORIGIN, jti=JTI, iat=NOW, ath=sha256_hex(ACCESS.encode()))
JOBSPEC: Final = JobspecClaims(iss=KID, aud=ORIGIN, jti=JTI, iat=NOW, sub=HEX, spec=HEX)

READERS: Final[dict[type[Claims], Callable[[str], object]]] = {
    JobClaims: lambda text: read_job_token(text, KEYS, origin=ORIGIN),
    EnrolmentClaims: lambda text: read_enrolment_token(text, KEYS, origin=ORIGIN, now_s=NOW),
    AccessClaims: lambda text: read_access_token(text, KEYS, origin=ORIGIN, now_s=NOW),
    ResultClaims: lambda text: read_result_statement(text, KEYS, origin=ORIGIN, jkt=KID),
    ProofClaims: lambda text: read_enrolment_proof(text, origin=ORIGIN, now_s=NOW, access_token=ACCESS),
    JobspecClaims: lambda text: read_job_statement(text, KEYS, origin=ORIGIN),
}
SAMPLES: Final[list[Claims]] = [JOB, JOBS, ENROLMENT, ACCESS_CLAIMS, ONE, MANY, PROOF, JOBSPEC]
KEYED: Final = [claims for claims in SAMPLES if not isinstance(claims, ProofClaims)]
"""Those whose key the reader already has."""


def name_of(value: object) -> str | None:
    """Name a sample in the report of tests by its kind."""
    return type(value).__name__ if isinstance(value, Claims) else None


def read(claims: Claims, text: str) -> object:
    """Read `text` as that kind of token which `claims` is."""
    return READERS[type(claims)](text)


def header_of(claims: Claims, **changes: object) -> dict[str, object]:
    """Return the header that the token should have, with some members changed."""
    header = {"alg": ALG, "kid": KID, "typ": claims.TYP, **changes}
    return {**header, "jwk": public_jwk(KEY.public_key())} if isinstance(claims, ProofClaims) else header


def payload_of(claims: Claims, **changes: object) -> dict[str, object]:
    """Return the claims as JSON has them, with some changed."""
    return {**json.loads(msgspec.json.encode(claims)), **changes}


def forge(header: object, payload: object, key: Ed25519PrivateKey = KEY) -> str:
    """Sign anything: bytes and text as they are, other values as JSON."""

    def raw(part: object) -> bytes:
        return part if isinstance(part, bytes) else (part if isinstance(part, str) else json.dumps(part)).encode()

    signed = f"{b64url(raw(header))}.{b64url(raw(payload))}"
    return f"{signed}.{b64url(key.sign(signed.encode()))}"


def refusal(claims: Claims, text: str) -> Refused:
    """Read a token that must be refused; no error may show any part of it."""
    with pytest.raises(Refused) as caught:
        read(claims, text)
    assert not any(part in str(caught.value) for part in text.split(".") if len(part) > 8)
    return caught.value
