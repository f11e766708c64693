"""Enrolment and keys on the wire: proof of possession, keys that prove nothing, sets that mean two things."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gnexec.errors import Refused
from gnexec.ids import b64url, sha256_hex
from gnexec.tokens import (
    ALG,
    CLOCK_SKEW_S,
    export_set,
    import_jwk,
    import_set,
    kid_of,
    public_jwk,
    public_key,
    thumbprint,
)
from tests.tokens.forgery import (
    KEY,
    KEYS,
    KID,
    NOW,
    OTHER,
    PROOF,
    forge,
    payload_of,
    read,
    refusal,
)


def proof(key: Ed25519PrivateKey = KEY, *, signer: Ed25519PrivateKey | None = None, **changes: object) -> str:
    """Make an enrolment proof by hand, with members of its header or its claims changed."""
    public = public_jwk(key.public_key())
    header = {"alg": ALG, "kid": thumbprint(public), "typ": PROOF.TYP, "jwk": public}
    inside = {name: value for name, value in changes.items() if name in payload_of(PROOF)}
    outside = {name: value for name, value in changes.items() if name not in inside}
    return forge({**header, **outside}, payload_of(PROOF, **inside), signer or key)


def test_enrolment_proof_for_another_access_token_is_refused() -> None:
    """A proof that was seen on its way cannot be used by somebody else."""
    assert refusal(PROOF, proof(ath=sha256_hex(b"another"))).field == "ath"


@pytest.mark.parametrize("off_s", [-CLOCK_SKEW_S, 0, CLOCK_SKEW_S])
def test_enrolment_proof_within_five_minutes_is_taken(off_s: int) -> None:
    """Clocks differ."""
    assert read(PROOF, proof(iat=NOW + off_s)) == (KEY.public_key(), KID)


@pytest.mark.parametrize("off_s", [-CLOCK_SKEW_S - 1, CLOCK_SKEW_S + 1])
def test_enrolment_proof_that_is_old_or_from_the_future_is_refused(off_s: int) -> None:
    """A proof cannot be kept for later."""
    assert refusal(PROOF, proof(iat=NOW + off_s)).field == "iat"


def test_enrolment_proof_with_a_key_that_is_not_held_is_refused() -> None:
    """Somebody else's public key is known to all; only its holder can sign with it."""
    assert refusal(PROOF, proof(signer=OTHER)).code == "bad_signature"


def test_enrolment_proof_whose_kid_is_not_its_key_is_refused() -> None:
    """A worker cannot take another's thumbprint."""
    assert refusal(PROOF, proof(kid=kid_of(OTHER.public_key()))).field == "kid"


def test_enrolment_proof_without_a_key_is_refused() -> None:
    """There is nothing to enrol."""
    assert refusal(PROOF, proof(jwk=None)).field == "jwk"


def test_enrolment_proof_with_a_private_key_is_refused_and_says_so() -> None:
    """A key that was sent away is no longer secret."""
    jwk = {**public_jwk(KEY.public_key()), "d": b64url(KEY.private_bytes_raw())}
    error = refusal(PROOF, proof(jwk=jwk))
    assert error.field == "jwk.d"
    assert jwk["d"] not in repr(error)


def test_enrolment_proof_by_a_browser_is_taken() -> None:
    """WebCrypto exports `alg`, `ext` and `key_ops` too; PyJWT refuses that `alg`, we drop it."""
    jwk = {"alg": "Ed25519", "crv": "Ed25519", "ext": True, "key_ops": ["verify"], "kty": "OKP"}
    jwk["x"] = public_jwk(KEY.public_key())["x"]
    with pytest.raises(jwt.PyJWTError):
        jwt.PyJWK(jwk)
    assert read(PROOF, proof(jwk=jwk)) == (KEY.public_key(), KID)


PRIME: Final = 2**255 - 19
EDWARDS_D: Final = -121665 * pow(121666, -1, PRIME) % PRIME
SMALL_ORDER: Final = [
    bytes.fromhex(half) if sign_bit == 0 else bytes.fromhex(half[:-2] + f"{int(half[-2:], 16) | 0x80:02x}")
    for half in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
    for sign_bit in (0, 1)
]
"""Every encoding, canonical or not, of the eight points whose order divides 8."""


def edwards_add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    """Add two points of edwards25519 in affine coordinates (RFC 8032, section 5.1.4)."""
    (x1, y1), (x2, y2) = p, q
    cross = EDWARDS_D * x1 * x2 * y1 * y2 % PRIME
    return (
        (x1 * y2 + x2 * y1) * pow(1 + cross, -1, PRIME) % PRIME,
        (y1 * y2 + x1 * x2) * pow(1 - cross, -1, PRIME) % PRIME,
    )


def edwards_x(y: int) -> int:
    """Return an x for which (x, y) is on the curve (RFC 8032, section 5.1.3)."""
    square = (y * y - 1) * pow(EDWARDS_D * y * y + 1, -1, PRIME) % PRIME
    root = pow(square, (PRIME + 3) // 8, PRIME)
    root = root if root * root % PRIME == square else root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert root * root % PRIME == square
    return root


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_small_order_key_is_refused_at_enrolment(raw: bytes) -> None:
    """Each of the 14 encodings: the point doubled three times is the neutral one, and the key is refused."""
    y = (int.from_bytes(raw, "little") & (2**255 - 1)) % PRIME
    point = (edwards_x(y), y)
    for _ in range(3):
        point = edwards_add(point, point)
    assert point == (0, 1)
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": b64url(raw)}
    assert refusal(PROOF, proof(jwk=jwk, kid=thumbprint(jwk))).field == "jwk.x"
    with pytest.raises(Refused):
        import_jwk(jwk)


def test_small_order_key_would_verify_a_forged_proof() -> None:
    """The trap is real: under the neutral point, one signature that needs no secret fits every message."""
    neutral = SMALL_ORDER[2]
    assert neutral[0] == 1
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"any message at all")


@pytest.mark.parametrize("above", range(19))
def test_non_canonical_key_encoding_is_refused(above: int) -> None:
    """Here y and y + p are one point but two texts, hence two thumbprints."""
    for sign_bit in (0, 1):
        raw = (PRIME + above | sign_bit << 255).to_bytes(32, "little")
        with pytest.raises(Refused):
            public_key(b64url(raw))


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "Ed25519", "x": b64url(bytes(range(32)))},
        {"kty": "OKP", "crv": "Ed448", "x": b64url(bytes(57))},
        {"kty": "OKP", "crv": "X25519", "x": b64url(bytes(range(32)))},
        {"kty": "OKP", "crv": "Ed25519", "x": b64url(bytes(range(31)))},
        {"kty": "OKP", "crv": "Ed25519", "x": b64url(bytes(range(33)))},
        {"kty": "OKP", "crv": "Ed25519", "x": b64url(bytes(range(32))) + "="},
        {"kty": "OKP", "crv": "Ed25519", "x": 7},
        {"kty": "OKP", "crv": "Ed25519"},
        {**public_jwk(KEY.public_key()), "alg": "HS256"},
        {**public_jwk(KEY.public_key()), "use": "enc"},
        {**public_jwk(KEY.public_key()), "key_ops": ["sign"]},
        {**public_jwk(KEY.public_key()), "kid": "mine"},
        {**public_jwk(KEY.public_key()), "x5u": "https://evil.example"},
        [],
        "key",
        None,
    ],
    ids=str,
)
def test_jwk_of_another_kind_is_refused(jwk: Mapping[str, object]) -> None:
    """Only Ed25519, only for verifying, only under its own thumbprint."""
    with pytest.raises(Refused) as caught:
        import_jwk(jwk)
    assert caught.value.code == "bad_token"


def test_thumbprint_equals_the_standards_example() -> None:
    """RFC 8037, appendix A.3, over the key of RFC 8032, section 7.1, test 1."""
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert kid_of(public_key(b64url(raw))) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def key_set(*changes: dict[str, object]) -> bytes:
    """Write a set that has our two keys, with members of the second changed."""
    rows = [{**public_jwk(key), "kid": kid, "use": "sig"} for kid, key in KEYS.items()]
    return json.dumps({"keys": [*rows[:1], *({**rows[1], **change} for change in changes)]}).encode()


def test_key_set_survives_its_json() -> None:
    """Keys come back under their kids, in order; PyJWT reads the same set."""
    data = export_set(KEYS)
    assert list(import_set(data).items()) == list(KEYS.items()) == list(import_set(key_set({})).items())
    assert [key.key_id for key in jwt.PyJWKSet.from_json(data.decode()).keys] == list(KEYS)


@pytest.mark.parametrize(
    "data",
    [
        key_set({}, {}),
        key_set({"kid": KID}),
        key_set({"kid": None}),
        key_set({"use": "enc"}),
        key_set({"use": None}),
        key_set({"kty": "RSA"}),
        key_set({"crv": "Ed448"}),
        key_set({"d": "AA"}),
        key_set({"x": b64url(SMALL_ORDER[0])}),
        key_set({}).replace(b'"use"', b'"use": "enc", "use"', 1),
        b'{"keys": []}',
        b'{"keys": {}}',
        b"[]",
        b"",
        b"<html>",
        key_set({}) + b" " * 65_536,
    ],
    ids=[
        *("twice", "same kid", "no kid", "use enc", "no use", "RSA", "Ed448", "private", "small order"),
        *("repeated member", "empty", "no list", "no object", "nothing", "page", "huge"),
    ],
)
def test_key_set_with_one_bad_key_is_refused_as_a_whole(data: bytes) -> None:
    """Duplicate kids, wrong use and mixed key types are how a set is made to mean two things."""
    with pytest.raises(Refused):
        import_set(data)
