"""The envelope of every token: a compact JWS (RFC 7515) under one algorithm, made and opened strictly.

PyJWT makes the envelopes and checks the signatures; it is given one algorithm and knows no other. Envelopes are opened
here, since PyJWT's reader also takes padding, repeated members, any `typ` and any length, and looks at each character
in turn, which a statement of 64 results would pay for with two milliseconds.

Rules:
- Length and alphabet are checked before anything is parsed.
- The header is `alg`, `typ`, `kid` and nothing else (`crit`, `b64`, `jku`, `x5c`, … are refused as a whole); an
  enrolment proof, whose key is not known yet, also carries `jwk`, and nothing else may.
- The key comes from the caller, by `kid`; it is never taken from the token, save in an enrolment proof.
- No error shows any part of a token.

This module gives claims no meaning (`gnexec.tokens.reading`) and judges no time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from gnexec import ed25519
from gnexec.errors import Refused
from gnexec.ids import unb64url
from gnexec.tokens.jwk import Jwk, kid_of, public_jwk
from gnexec.tokens.strict import read_json

ALG: Final = "EdDSA"
"""The one algorithm (RFC 8037; RFC 9864 renames it "Ed25519", which PyJWT 2.15 does not accept)."""

_FORM: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")


class _EdDSA(OKPAlgorithm):
    """PyJWT's algorithm, with our signatures."""

    def sign(self, msg: str | bytes, key: object) -> bytes:
        if not isinstance(key, Ed25519PrivateKey) or isinstance(msg, str):
            raise TypeError(key)
        return ed25519.sign(key, msg)


_JWS: Final = jwt.PyJWS(algorithms=[ALG])
_JWS.unregister_algorithm(ALG)
_JWS.register_algorithm(ALG, _EdDSA())


MAX_ANY_CHARS: Final = 65_536
"""Characters of the longest token of any type."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The protected header; its members in the order in which they are written."""

    alg: str
    jwk: Jwk | None = None
    kid: str
    typ: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """An opened envelope whose signature is not yet verified.

    Attributes:
        signed: the exact bytes that the signature covers.
    """

    header: Header
    payload: bytes
    signed: bytes
    signature: bytes


def seal(payload: bytes, key: Ed25519PrivateKey, *, typ: str, key_inside: bool = False) -> str:
    """Sign `payload` and return the compact form.

    Args:
        payload: the claims, JSON in UTF-8.
        key: the signer's; its thumbprint becomes the `kid`.
        typ: media type of the token, without "application/".
        key_inside: put the public key into the header (enrolment proofs only).
    """
    headers: dict[str, Any] = {"typ": typ, "kid": _kid(key)}
    if key_inside:
        headers["jwk"] = public_jwk(key.public_key())
    return _JWS.encode(payload, key, algorithm=ALG, headers=headers)


def unseal(text: str, *, typ: str, max_chars: int, key_inside: bool = False) -> Envelope:
    """Open an envelope, without verifying its signature.

    Args:
        text: what the caller sent.
        typ: the one type that is wanted here.
        max_chars: length above which nothing is parsed.
        key_inside: whether the header may carry the key (enrolment proofs only).

    Raises:
        Refused: bad_token.
    """
    if len(text) > max_chars:
        raise Refused("bad_token", f"The token is longer than {max_chars} characters.")
    if not _FORM.fullmatch(text):
        raise Refused("bad_token", "The token is not three parts in base64url, without padding, joined by dots.")
    signed, _, signature = text.rpartition(".")
    head, _, payload = signed.partition(".")
    try:
        raw = [unb64url(part) for part in (head, payload, signature)]
    except ValueError:
        raise Refused("bad_token", "A part of the token is not base64url.") from None
    header = read_json(raw[0], Header)
    if header.alg != ALG:
        raise Refused("bad_token", f"Only the algorithm {ALG} is accepted.", field="alg")
    if header.typ != typ:
        raise Refused("bad_token", f"Only a token of the type {typ} is accepted here.", field="typ")
    if header.jwk is not None and not key_inside:
        raise Refused("bad_token", "The header must not carry a key.", field="jwk")
    return Envelope(header=header, payload=raw[1], signed=signed.encode("ascii"), signature=raw[2])


@lru_cache(maxsize=64)
def _kid(key: Ed25519PrivateKey) -> str:
    """Return the thumbprint of a key that signs often; to work it out costs as much as to sign."""
    return kid_of(ed25519.public_key_of(key))


def claimed_typ(text: str) -> str | None:
    """Return the type that a token claims to be, to choose who reads it; nothing is verified, None if it has none."""
    if len(text) > MAX_ANY_CHARS or not _FORM.fullmatch(text):
        return None
    try:
        return read_json(unb64url(text.partition(".")[0]), Header).typ
    except (ValueError, Refused):
        return None


def verify(envelope: Envelope, key: Ed25519PublicKey) -> None:
    """Make sure that `key` signed the envelope.

    Raises:
        Refused: bad_signature.
    """
    if not ed25519.verifies(key, envelope.signature, envelope.signed):
        raise Refused("bad_signature", "The signature is not that of the key which the token names.")
