"""Ed25519 public keys on the wire: JSON Web Keys, their thumbprints, and sets of them.

A key is taken only as `{"kty": "OKP", "crv": "Ed25519", "x": …}` (RFC 8037). What a browser's WebCrypto adds when it
exports a key (`"alg": "Ed25519"`, `key_ops`, `ext`) is allowed and dropped; private parts and any other member are not.

Rules:
- A key's `kid` is always its RFC 7638 thumbprint, never a name that somebody chose.
- Small-order points and non-canonical encodings are refused: under a small-order key one signature fits many messages,
  and `cryptography` would verify it; a second encoding would give one key two thumbprints.
- Nothing is ever fetched: a set of keys is bytes that the caller already has.

This module does not read files (`gnexec.keys`) and verifies no signature (`gnexec.tokens.jws`).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gnexec import ed25519
from gnexec.errors import Refused
from gnexec.ids import b64url, unb64url
from gnexec.tokens.strict import read_json

MAX_SET_BYTES: Final = 65_536
"""Largest key set that is read at all."""


class Jwk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A public key as it stands in JSON; `public_key` and `import_jwk` decide whether it is usable.

    Attributes:
        x: the 32 bytes of RFC 8032 in base64url.
        alg: dropped; WebCrypto says "Ed25519", others "EdDSA".
        d: the private part; here only so that it is refused with the right words.
    """

    crv: str
    kty: str
    x: str
    alg: str | None = None
    d: str | None = None
    ext: bool | None = None
    key_ops: tuple[str, ...] | None = None
    kid: str | None = None
    use: str | None = None


class JwkSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A set of keys (RFC 7517, section 5)."""

    keys: tuple[Jwk, ...]


def public_key(x: str) -> Ed25519PublicKey:
    """Read the `x` of a key: 32 bytes in base64url.

    Raises:
        Refused: bad_token; not 32 bytes, a non-canonical encoding, or a point of small order.
    """
    try:
        raw = unb64url(x)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise Refused("bad_token", "The key is not 32 bytes in base64url.", field="jwk.x")
    if int.from_bytes(raw, "little") & (2**255 - 1) >= ed25519.PRIME:
        raise Refused("bad_token", "The key is not encoded canonically.", field="jwk.x")
    if ed25519.small_order(raw):
        raise Refused(
            "bad_token",
            "The key is a point of small order, which proves nothing.",
            field="jwk.x",
            mend="Make a new key.",
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def public_jwk(key: Ed25519PublicKey) -> dict[str, str]:
    """Return the three members that make up the key, in the order of RFC 7638."""
    return {"crv": "Ed25519", "kty": "OKP", "x": b64url(key.public_bytes_raw())}


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Return the RFC 7638 thumbprint of an Ed25519 key: base64url of 32 bytes, 43 characters."""
    return b64url(sha256(f'{{"crv":"{jwk["crv"]}","kty":"{jwk["kty"]}","x":"{jwk["x"]}"}}'.encode()).digest())


def kid_of(key: Ed25519PublicKey) -> str:
    """Return the `kid` by which a key goes everywhere: its thumbprint."""
    return thumbprint(public_jwk(key))


def import_jwk(jwk: Jwk | Mapping[str, object]) -> Ed25519PublicKey:
    """Read one public key.

    Args:
        jwk: as decoded from JSON; members beyond those of `Jwk` are not allowed.

    Raises:
        Refused: bad_token; another kind of key, a private key, a `kid` that is not the thumbprint, a use other than
            verifying signatures, or what `public_key` refuses.
    """
    if not isinstance(jwk, Jwk):
        try:
            jwk = msgspec.convert(jwk, Jwk, strict=True)
        except msgspec.ValidationError as err:
            raise Refused(
                "bad_token", "The key has a member that is missing, unknown or of a wrong type.", field="jwk"
            ) from err
    if jwk.d is not None:
        mend = "Make a new key, and send its public part only."
        raise Refused(
            "bad_token", "This is a private key; it must now be taken as known to others.", field="jwk.d", mend=mend
        )
    if (jwk.kty, jwk.crv) != ("OKP", "Ed25519") or jwk.alg not in {None, "EdDSA", "Ed25519"}:
        raise Refused("bad_token", "Only Ed25519 keys are accepted (kty OKP, crv Ed25519).", field="jwk")
    if jwk.use not in {None, "sig"} or jwk.key_ops not in {None, ("verify",)}:
        raise Refused("bad_token", "The key is not meant for verifying signatures.", field="jwk.use")
    key = public_key(jwk.x)
    if jwk.kid is not None and jwk.kid != kid_of(key):
        raise Refused("bad_token", "The kid is not the key's RFC 7638 thumbprint.", field="jwk.kid")
    return key


def export_set(keys: Mapping[str, Ed25519PublicKey]) -> bytes:
    """Return the key set that foreign verifiers read, each key with its `kid` and `use`, in the order given."""
    rows = [{**public_jwk(key), "kid": kid, "use": "sig"} for kid, key in keys.items()]
    return msgspec.json.format(msgspec.json.encode({"keys": rows}), indent=2) + b"\n"


def import_set(data: bytes) -> dict[str, Ed25519PublicKey]:
    """Read a key set; either all of it is good, or none of it is taken.

    Returns:
        Keys by `kid`, in the order of the set.

    Raises:
        Refused: bad_token; too large, not a key set, empty, a key without `kid` or `use`, two keys of one `kid`, or a
            key that `import_jwk` refuses (another type, another use).
    """
    if len(data) > MAX_SET_BYTES:
        raise Refused("bad_token", "The key set is too large.", field="keys")
    found: dict[str, Ed25519PublicKey] = {}
    for jwk in read_json(data, JwkSet).keys:
        key = import_jwk(jwk)
        if jwk.kid is None or jwk.use is None:
            raise Refused("bad_token", "Each key of a set needs a kid, and the use sig.", field="keys")
        if jwk.kid in found:
            raise Refused("bad_token", "Two keys of the set have one kid.", field="keys")
        found[jwk.kid] = key
    if not found:
        raise Refused("bad_token", "The key set is empty.", field="keys")
    return found
