"""Attacks on the envelope: algorithm, signature, header, key and length."""

from __future__ import annotations

import hmac
import itertools
import json
from collections.abc import Callable

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gnexec.ids import b64url, unb64url
from gnexec.tokens import (
    ALG,
    Claims,
    jws,
    kid_of,
    public_jwk,
    sign,
)
from tests.tokens.forgery import (
    JOB,
    KEY,
    KEYED,
    KID,
    ONE,
    OTHER,
    READERS,
    SAMPLES,
    forge,
    header_of,
    name_of,
    payload_of,
    read,
    refusal,
)


@pytest.mark.parametrize("claims", KEYED, ids=name_of)
@pytest.mark.parametrize("alg", ["none", "None", "", "HS256", "ES256", "RS256", "Ed25519", "Ed448", "eddsa", None, 1])
def test_alg_other_than_ours_is_refused(claims: Claims, alg: object) -> None:
    """`alg: none` and its kin are refused even with a good signature."""
    assert refusal(claims, forge(header_of(claims, alg=alg), payload_of(claims))).code == "bad_token"


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
def test_alg_none_without_signature_is_refused(claims: Claims) -> None:
    """An unsecured JWS has an empty third part."""
    text = forge(header_of(claims, alg="none"), payload_of(claims))
    assert refusal(claims, text[: text.rindex(".") + 1]).code == "bad_token"


@pytest.mark.parametrize("alg", ["HS256", ALG])
@pytest.mark.parametrize("encoding", ["raw", "pem"])
def test_alg_confusion_with_the_public_key_as_hmac_secret_is_refused(alg: str, encoding: str) -> None:
    """The public key is no secret: a MAC made with it signs nothing."""
    public = KEY.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = public.public_bytes_raw() if encoding == "raw" else pem
    signed = forge(header_of(JOB, alg=alg), payload_of(JOB)).rpartition(".")[0]
    mac = b64url(hmac.digest(secret, signed.encode(), "sha256"))
    assert refusal(JOB, f"{signed}.{mac}").code == ("bad_signature" if alg == ALG else "bad_token")


def test_padded_signature_is_refused() -> None:
    """PyJWT accepts padding, which would give one token several texts."""
    text = sign(JOB, KEY)
    assert jwt.PyJWS().decode(text + "==", KEY.public_key(), algorithms=[ALG])
    for padded in (text + "=", text + "==", text.replace(".", "==.", 1), text.replace(".", "=.")):
        assert refusal(JOB, padded).code == "bad_token"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "",
        lambda _: ".",
        lambda _: "..",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: "Bearer " + text,
        lambda text: text + ".",
        lambda text: text + ".AA.AA",
        lambda text: text.rpartition(".")[0],
        lambda text: text.replace(".", ".\x00", 1),
        lambda text: text[:-1] + "é",
        lambda text: text[:-1] + "\ud800",
        lambda text: text[:-2] + "+/",
        lambda text: text + "A",
        lambda text: text[:-4],
    ],
)
def test_envelope_of_another_form_is_refused(spoil: Callable[[str], str]) -> None:
    """Three parts in base64url and nothing else."""
    assert refusal(JOB, spoil(sign(JOB, KEY))).code in {"bad_token", "bad_signature"}


def test_stray_bits_in_the_last_character_of_the_signature_are_refused() -> None:
    """86 characters carry 516 bits for 512: the four spare ones must be zero."""
    text = sign(JOB, KEY)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for stray in range(1, 16):
        assert refusal(JOB, text[:-1] + alphabet[alphabet.index(text[-1]) + stray]).code == "bad_token"


def test_malleated_signature_is_refused() -> None:
    """S + L is the same scalar modulo the order L; RFC 8032 forbids it, so that one claim has one signature."""
    signed, _, signature = sign(JOB, KEY).rpartition(".")
    raw = unb64url(signature)
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(raw[32:], "little") + order
    assert refusal(JOB, f"{signed}.{b64url(raw[:32] + scalar.to_bytes(32, 'little'))}").code == "bad_signature"


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
def test_huge_token_is_refused_before_any_parsing(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MB would cost most of a second to parse; their length alone decides."""

    def touched(*_: object) -> None:
        pytest.fail("parsed a token that is too long")

    monkeypatch.setattr(jws, "unb64url", touched)
    monkeypatch.setattr(jws, "read_json", touched)
    for text in ("A" * 10_000_000, "A" * (claims.MAX_CHARS + 1), sign(claims, KEY) + "A" * claims.MAX_CHARS):
        assert refusal(claims, text).code == "bad_token"


def test_cap_of_each_kind_is_4096_characters_save_for_statements() -> None:
    """Only a statement over many results may be long; a longer job token is refused although it is well signed."""
    assert {kind.__name__: kind.MAX_CHARS for kind in READERS if kind.MAX_CHARS != 4096} == {"ResultClaims": 65_536}
    padded = json.dumps(payload_of(JOB)) + " " * 4000
    assert refusal(JOB, forge(header_of(JOB), padded)).code == "bad_token"
    assert read(ONE, forge(header_of(ONE), json.dumps(payload_of(ONE)) + " " * 4000)) == ONE


@pytest.mark.parametrize("claims", KEYED, ids=name_of)
def test_unknown_kid_is_refused_and_never_fetched(claims: Claims) -> None:
    """A key that is not known here cannot be learnt from the token."""
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert refusal(claims, sign(claims, stranger)).code == "unknown_key"
    for kid in ("", "../../etc/passwd", "https://evil.example/key", "' OR 1=1 --"):
        assert refusal(claims, forge(header_of(claims, kid=kid), payload_of(claims))).code == "unknown_key"


@pytest.mark.parametrize("claims", KEYED, ids=name_of)
def test_kid_that_is_missing_or_no_text_is_refused(claims: Claims) -> None:
    """There is no default key to fall back on."""
    header = header_of(claims)
    assert refusal(claims, forge({k: v for k, v in header.items() if k != "kid"}, payload_of(claims))).field == "kid"
    for kid in (None, 1, [KID], {"kid": KID}):
        assert refusal(claims, forge(header_of(claims, kid=kid), payload_of(claims))).code == "bad_token"


@pytest.mark.parametrize("claims", KEYED, ids=name_of)
def test_kid_of_another_known_key_is_a_bad_signature(claims: Claims) -> None:
    """The named key must be the one that signed."""
    text = forge(header_of(claims, kid=kid_of(OTHER.public_key())), payload_of(claims))
    assert refusal(claims, text).code == "bad_signature"


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["MIIB"]},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"enc": "A256GCM"},
    ],
    ids="+".join,
)
def test_header_with_any_further_member_is_refused(claims: Claims, extra: dict[str, object]) -> None:
    """`crit`, `b64`, `jku` and their like ask the reader to behave otherwise; it does not."""
    assert refusal(claims, forge(header_of(claims, **extra), payload_of(claims))).code == "bad_token"


def test_unencoded_payload_with_b64_false_is_refused() -> None:
    """RFC 7797 leaves the payload out of the text; nothing here is signed that was not sent."""
    head = b64url(json.dumps(header_of(JOB, b64=False, crit=["b64"])).encode())
    signature = b64url(KEY.sign(f"{head}.".encode() + msgspec.json.encode(JOB)))
    assert refusal(JOB, f"{head}..{signature}").code == "bad_token"


@pytest.mark.parametrize("claims", KEYED, ids=name_of)
def test_embedded_jwk_is_refused_outside_enrolment(claims: Claims) -> None:
    """A token cannot bring the key that it is to be verified with (RFC 8725, section 2.1)."""
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    for key in (KEY, stranger):
        header = header_of(claims, jwk=public_jwk(key.public_key()), kid=kid_of(key.public_key()))
        assert refusal(claims, forge(header, payload_of(claims), key)).code == "bad_token"


@pytest.mark.parametrize(
    ("made", "wanted"), [(a, b) for a, b in itertools.permutations(SAMPLES, 2) if type(a) is not type(b)], ids=name_of
)
def test_token_of_one_kind_is_refused_as_any_other(made: Claims, wanted: Claims) -> None:
    """Each kind has a `typ` of its own; none stands in for another (RFC 8725, section 3.11)."""
    assert refusal(wanted, sign(made, KEY)).code == "bad_token"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "GNEXEC-JOB+JWT", "application/gnexec-job+jwt", "", None])
def test_typ_of_another_spelling_is_refused(typ: str | None) -> None:
    """The type is compared exactly."""
    assert refusal(JOB, forge(header_of(JOB, typ=typ), payload_of(JOB))).code == "bad_token"


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
def test_claimed_type_only_chooses_the_reader(claims: Claims) -> None:
    """A forged token has the type that it claims, and is then refused by the reader of that type."""
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    text = forge(header_of(claims), payload_of(claims), stranger)
    assert jws.claimed_typ(text) == claims.TYP
    assert refusal(claims, text).code == "bad_signature"


@pytest.mark.parametrize("text", ["", "a.b.c", "A" * 10_000_000, "e30.e30.AA", "W10.e30.AA", "gnexec-job+jwt"])
def test_text_that_is_no_token_claims_no_type(text: str) -> None:
    """Nothing is raised, whatever is sent."""
    assert jws.claimed_typ(text) is None
