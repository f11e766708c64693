"""Tokens to claims and back: what is checked, in which order, for each kind of token.

The order is that of DESIGN.md §3: length, form and header; the key; the signature; the claims; then for whom they are.
Nothing of the state is looked at, so a forged or misdirected token costs nothing but this.

Rules:
- Times and keys are arguments. A job token's `exp` is *not* judged on reading: whether an answer is late is a decision
  of the core, made at the log's time.
- An unknown `kid` is a refusal, never a reason to fetch keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from typing import Final, NamedTuple, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gnexec.errors import Refused
from gnexec.ids import sha256_hex
from gnexec.tokens.forms import Claims
from gnexec.tokens.issued import AccessClaims, EnrolmentClaims, JobClaims, Scope
from gnexec.tokens.jwk import import_jwk, kid_of
from gnexec.tokens.jws import Envelope, seal, unseal, verify
from gnexec.tokens.statements import JobspecClaims, ProofClaims, ResultClaims
from gnexec.tokens.strict import read_json

CLOCK_SKEW_S: Final = 300
"""How far the clock of whoever made a token may be off, seconds."""

C = TypeVar("C", bound=Claims)
Keys = Mapping[str, Ed25519PublicKey]
"""Known keys by `kid`, their thumbprint."""


class ProvenKey(NamedTuple):
    """A key whose holder has just shown that they hold it."""

    key: Ed25519PublicKey
    jkt: str


def sign(claims: Claims, key: Ed25519PrivateKey) -> str:
    """Make a token.

    Raises:
        ValueError: a reader would refuse these claims: a wrong form, or too long.
    """
    payload = msgspec.json.encode(claims)
    try:
        read_json(payload, type(claims))
    except Refused as err:
        msg = f"these claims cannot be signed: {err}"
        raise ValueError(msg) from err
    text = seal(payload, key, typ=claims.TYP, key_inside=isinstance(claims, ProofClaims))
    if len(text) > claims.MAX_CHARS:
        msg = f"a token of {len(text)} characters cannot be signed: at most {claims.MAX_CHARS} are read"
        raise ValueError(msg)
    return text


def read_job_token(text: str, keys: Keys, *, origin: str) -> JobClaims:
    """Read a job token; whether it has expired is left to the core.

    Raises:
        Refused: bad_token, unknown_key, bad_signature, wrong_audience.
    """
    claims = _read(text, JobClaims, keys, origin)[0]
    _check_issuer(claims.iss, origin)
    return claims


def read_enrolment_token(text: str, keys: Keys, *, origin: str, now_s: int) -> EnrolmentClaims:
    """Read an enrolment token at the time `now_s`.

    Raises:
        Refused: bad_token, unknown_key, bad_signature, wrong_audience, token_expired.
    """
    claims = _read(text, EnrolmentClaims, keys, origin)[0]
    _check_issuer(claims.iss, origin)
    check_times(claims, now_s)
    return claims


def read_access_token(text: str, keys: Keys, *, origin: str, now_s: int) -> AccessClaims:
    """Read an access token at the time `now_s`.

    Raises:
        Refused: bad_token, unknown_key, bad_signature, wrong_audience, token_expired.
    """
    claims = _read(text, AccessClaims, keys, origin)[0]
    _check_issuer(claims.iss, origin)
    check_times(claims, now_s)
    return claims


def read_result_statement(text: str, keys: Keys, *, origin: str, jkt: str) -> ResultClaims:
    """Read a worker's statement over its results.

    Args:
        text: what the worker sent.
        keys: the workers' keys.
        origin: the log's name.
        jkt: the key that the job token names; no other worker may answer for it.

    Raises:
        Refused: bad_token, unknown_key, bad_signature, wrong_audience, wrong_key.
    """
    claims, kid = _read(text, ResultClaims, keys, origin)
    if kid != jkt:
        raise Refused("wrong_key", "The job was handed to the holder of another key.", field="kid")
    return claims


def read_job_statement(text: str, keys: Keys, *, origin: str) -> JobspecClaims:
    """Read a submitter's statement over a job.

    Args:
        text: what the server handed on.
        keys: the submitters whom this worker trusts.
        origin: the log's name.

    Raises:
        Refused: bad_token, unknown_key, bad_signature, wrong_audience, wrong_key.
    """
    claims, kid = _read(text, JobspecClaims, keys, origin)
    if claims.iss != kid:
        raise Refused("wrong_key", "The statement is signed by another key than its issuer's.", field="iss")
    return claims


def read_enrolment_proof(text: str, *, origin: str, now_s: int, access_token: str) -> ProvenKey:
    """Read a worker's proof that it holds the key with which it enrols.

    Args:
        text: what the worker sent; its header carries the key.
        origin: the log's name.
        now_s: the time, seconds since 1970; the proof must be at most 300 s older or younger.
        access_token: the token that it was sent with; a proof fits no other.

    Raises:
        Refused: bad_token (a key that cannot be used, a proof that is old or made for another access token),
            bad_signature, wrong_audience.
    """
    envelope = unseal(text, typ=ProofClaims.TYP, max_chars=ProofClaims.MAX_CHARS, key_inside=True)
    if envelope.header.jwk is None:
        raise Refused("bad_token", "The header must carry the key.", field="jwk")
    key = import_jwk(envelope.header.jwk)
    kid = kid_of(key)
    if envelope.header.kid != kid:
        raise Refused("bad_token", "The kid is not the key's RFC 7638 thumbprint.", field="kid")
    claims = _open(envelope, key, ProofClaims, origin)
    if abs(now_s - claims.iat) > CLOCK_SKEW_S:
        mend = "Set the clock of this machine, and enrol again."
        raise Refused("bad_token", "The proof is not from the last five minutes.", field="iat", mend=mend)
    if not compare_digest(claims.ath, sha256_hex(access_token.encode())):
        raise Refused("bad_token", "The proof was made for another access token.", field="ath")
    return ProvenKey(key, kid)


def check_times(claims: JobClaims | EnrolmentClaims | AccessClaims, now_s: int) -> None:
    """Make sure that a token is valid at `now_s`: begun, within the clocks' skew, and not expired.

    Raises:
        Refused: token_expired, or bad_token when it is from the future.
    """
    begins = claims.nbf if isinstance(claims, JobClaims) else claims.iat
    if begins > now_s + CLOCK_SKEW_S:
        raise Refused("bad_token", "The token is not valid yet.", field="iat", mend="Compare the clocks.")
    if now_s >= claims.exp:
        raise Refused("token_expired", "The token has expired.", field="exp", mend="Ask for a new one.")


def require_scope(claims: EnrolmentClaims | AccessClaims, scope: Scope) -> None:
    """Make sure that a token allows something.

    Raises:
        Refused: wrong_scope.
    """
    if scope not in claims.scopes:
        detail = f"The token does not have the scope {scope.value}."
        raise Refused("wrong_scope", detail, field="scope", mend="Ask the operator for one that has it.")


def _read(text: str, kind: type[C], keys: Keys, origin: str) -> tuple[C, str]:
    envelope = unseal(text, typ=kind.TYP, max_chars=kind.MAX_CHARS)
    kid = envelope.header.kid
    key = keys.get(kid)
    if key is None:
        raise Refused("unknown_key", "The key that the token names is not known here.", field="kid")
    return _open(envelope, key, kind, origin), kid


def _open(envelope: Envelope, key: Ed25519PublicKey, kind: type[C], origin: str) -> C:
    verify(envelope, key)
    claims = read_json(envelope.payload, kind)
    if claims.aud != origin:
        raise Refused("wrong_audience", "The token is meant for another server.", field="aud")
    return claims


def _check_issuer(iss: str, origin: str) -> None:
    if iss != origin:
        raise Refused("wrong_audience", "The token was issued by another server.", field="iss")
