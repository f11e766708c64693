"""Attacks on the JSON and the claims in it: what PyJWT would let pass, and what makes no sense."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.errors import Refused
from gnexec.tokens import (
    ALG,
    CLOCK_SKEW_S,
    LONGEST_S,
    AccessClaims,
    Claims,
    EnrolmentClaims,
    JobClaims,
    ResultClaims,
    Scope,
    check_times,
    read_access_token,
    read_enrolment_token,
    read_scope,
    require_scope,
    sign,
    write_scope,
)
from tests.tokens.forgery import (
    ACCESS_CLAIMS,
    ENROLMENT,
    HEX,
    JOB,
    JOBS,
    JTI,
    KEY,
    KEYS,
    KID,
    MANY,
    NOW,
    ORIGIN,
    SAMPLES,
    forge,
    header_of,
    name_of,
    payload_of,
    read,
    refusal,
)


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (f'{{"alg":"none","alg":"{ALG}","kid":"{KID}","typ":"{JOB.TYP}"}}', None),
        (f'{{"alg":"{ALG}","kid":"x","kid":"{KID}","typ":"{JOB.TYP}"}}', None),
        (f'{{"alg":"{ALG}","kid":"{KID}","typ":"JWT","typ":"{JOB.TYP}"}}', None),
        (None, json.dumps(payload_of(JOB)).replace("{", '{"exp": 1, ', 1)),
        (None, json.dumps(payload_of(JOB)).replace("{", '{"\\u0065xp": 1, ', 1)),
        (None, json.dumps(payload_of(JOB)).replace('{"jkt"', '{"jkt": "x", "jkt"')),
    ],
    ids=["alg", "kid", "typ", "exp", "exp escaped", "cnf.jkt"],
)
def test_repeated_member_is_refused_in_header_and_payload(header: str | None, payload: str | None) -> None:
    """Of two members of one name, one reader takes the first and another the last."""
    assert refusal(JOB, forge(header or header_of(JOB), payload or payload_of(JOB))).code == "bad_token"


def test_repeated_member_is_refused_deep_in_a_statement() -> None:
    """Also where names are free, as in the list of software, and within each of many results."""
    text = json.dumps(payload_of(MANY))
    for old, new in [('{"gemma"', '{"gemma": "0.1", "gemma"'), ('{"cpu_ms"', '{"cpu_ms": 1, "cpu_ms"')]:
        assert refusal(MANY, forge(header_of(MANY), text.replace(old, new, 1))).code == "bad_token"


@pytest.mark.parametrize("claim", ["iat", "nbf", "exp", "att", "est"])
@pytest.mark.parametrize(
    "value",
    [
        *('"1700000030"', "1e99", "1e3", "1700000030.0", "1700000030.5", "true", "null", "-1", "NaN", "Infinity"),
        *(str(2**53), "9" * 400, "9" * 3000, "[1]", '{"$date": 1}'),
    ],
)
def test_number_of_a_wrong_form_is_refused(claim: str, value: str) -> None:
    """PyJWT takes `exp` as text or as 1e99, which never comes."""
    payload = json.dumps(payload_of(JOB, **{claim: "HERE"})).replace('"HERE"', value)
    if (claim, value) == ("est", "null"):
        assert read(JOB, forge(header_of(JOB), payload)) == msgspec.structs.replace(JOB, est=None)
    else:
        assert refusal(JOB, forge(header_of(JOB), payload)).code == "bad_token"


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00x", r"\ud800\ud800", r"a\ud800b", r"\ud83d\u0041"])
def test_lone_surrogate_is_refused(text: str) -> None:
    """It is no character: hashing, storing or printing it would fail much later."""
    payload = json.dumps(payload_of(JOB, prog="HERE")).replace("HERE", text)
    assert refusal(JOB, forge(header_of(JOB), payload)).code == "bad_token"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"{",
        b"[" * 2900,
        b'{"aud":' * 400,
        b"\xff\xfe",
        b"\xef\xbb\xbf" + msgspec.json.encode(JOB),
        msgspec.json.encode(JOB).replace(b"lod", b"l\xffd"),
        msgspec.json.encode(JOB).replace(b"lod", b"l\x00d"),
        msgspec.json.encode(JOB).decode().encode("utf-16"),
        msgspec.json.encode(JOB) + b"{}",
        msgspec.json.encode(JOB) + b"\x00",
    ],
    ids=lambda payload: repr(payload[:12]),
)
def test_payload_that_is_no_object_in_utf8_is_refused(payload: bytes) -> None:
    """Nesting, byte order marks, other encodings and trailing bytes included; in the header likewise."""
    assert refusal(JOB, forge(header_of(JOB), payload)).code == "bad_token"
    assert refusal(JOB, forge(payload, payload_of(JOB))).code == "bad_token"


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
def test_claim_that_is_missing_or_unknown_is_refused(claims: Claims) -> None:
    """All claims are required, and none is passed over."""
    optional = {"cnf", "prog", "est"} | ({"att"} if isinstance(claims, ResultClaims) else set())
    payload = payload_of(claims)
    for name in set(payload) - optional:
        rest = {claim: value for claim, value in payload.items() if claim != name}
        if (isinstance(claims, EnrolmentClaims), name) == (True, "scope"):
            continue
        assert refusal(claims, forge(header_of(claims), rest)).code == "bad_token", name
        assert refusal(claims, forge(header_of(claims), payload_of(claims, **{name: None}))).code == "bad_token", name
    assert refusal(claims, forge(header_of(claims), payload_of(claims, admin=True))).code == "bad_token"


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
@pytest.mark.parametrize("aud", [f"{ORIGIN}/", ORIGIN.upper(), "evil.example/log", f" {ORIGIN}"])
def test_token_for_another_server_is_refused(claims: Claims, aud: str) -> None:
    """The audience is compared exactly."""
    error = refusal(claims, forge(header_of(claims), payload_of(claims, aud=aud)))
    assert (error.code, error.status, error.field) == ("wrong_audience", 403, "aud")


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
@pytest.mark.parametrize("aud", [[ORIGIN], [ORIGIN, "evil.example/log"], {"0": ORIGIN}, "", ORIGIN + "\n", True])
def test_audience_that_is_no_single_name_is_refused(claims: Claims, aud: object) -> None:
    """RFC 7519 allows a list; one token for many servers is not wanted."""
    assert refusal(claims, forge(header_of(claims), payload_of(claims, aud=aud))).code == "bad_token"


@pytest.mark.parametrize("claims", [JOB, JOBS, ENROLMENT, ACCESS_CLAIMS], ids=name_of)
def test_token_by_another_issuer_is_refused(claims: Claims) -> None:
    """Also when that issuer's key is known here."""
    error = refusal(claims, forge(header_of(claims), payload_of(claims, iss="evil.example/log")))
    assert (error.code, error.field) == ("wrong_audience", "iss")


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
@pytest.mark.parametrize("jti", ["", "short", JTI + "A", JTI + "\n", JTI[:-1] + "=", 7, None])
def test_jti_of_another_form_is_refused(claims: Claims, jti: object) -> None:
    """Identity is the jti, so it is there, and it is 16 bytes."""
    assert refusal(claims, forge(header_of(claims), payload_of(claims, jti=jti))).field == "jti"


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "0"},
        {"sub": "07"},
        {"sub": "7\n"},
        {"sub": "-7"},
        {"sub": "\u0667"},
        {"sub": 7},
        {"sub": str(2**53)},
        {"att": 0},
        {"dig": HEX.upper()},
        {"dig": HEX + "\n"},
        {"jobs": [[7, 2]]},
        {"sub": None},
        {"sub": None, "jobs": [[7, 2]]},
        {"sub": None, "att": None, "dig": None},
        {"sub": None, "att": None, "dig": None, "jobs": []},
        {"sub": None, "att": None, "dig": None, "jobs": [[7, 2], [7, 3]]},
        {"sub": None, "att": None, "dig": None, "jobs": [[7, 2, 1]]},
        {"sub": None, "att": None, "dig": None, "jobs": [[7]]},
        {"sub": None, "att": None, "dig": None, "jobs": [[0, 1]]},
        {"sub": None, "att": None, "dig": None, "jobs": [[True, 1]]},
        {"sub": None, "att": None, "dig": None, "jobs": [[i, 1] for i in range(1, 66)]},
        {"cnf": {"jkt": "short"}},
        {"cnf": {}},
        {"cnf": {"jkt": KID, "jwk": {}}},
        {"cnf": KID},
        {"prog": ""},
        {"prog": "a\nb"},
        {"nbf": NOW - 1},
        {"nbf": NOW + 60},
        {"exp": NOW},
        {"exp": NOW + LONGEST_S + 1},
    ],
    ids=str,
)
def test_job_claims_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    """One job or several, each named once; a span of time that is neither empty nor for ever."""
    assert refusal(JOB, forge(header_of(JOB), payload_of(JOB, **changes))).code == "bad_token"


def test_job_token_past_its_end_is_still_read() -> None:
    """Whether an answer is late is a decision at the log's time, so reading must not refuse."""
    late = msgspec.structs.replace(JOB, iat=0, nbf=0, exp=1)
    assert read(late, sign(late, KEY)) == late
    with pytest.raises(Refused) as caught:
        check_times(late, 1)
    assert caught.value.code == "token_expired"


@pytest.mark.parametrize("claims", [JOB, ENROLMENT, ACCESS_CLAIMS], ids=name_of)
def test_times_are_judged_to_the_second(claims: JobClaims | EnrolmentClaims | AccessClaims) -> None:
    """The last second is before `exp`; a maker's clock may be ahead by five minutes."""
    check_times(claims, claims.exp - 1)
    check_times(claims, claims.iat - CLOCK_SKEW_S)
    for now_s, code in [(claims.exp, "token_expired"), (claims.iat - CLOCK_SKEW_S - 1, "bad_token")]:
        with pytest.raises(Refused) as caught:
            check_times(claims, now_s)
        assert caught.value.code == code


def test_expired_access_and_enrolment_tokens_are_refused() -> None:
    """These readers judge the time themselves."""
    with pytest.raises(Refused, match="expired") as access:
        read_access_token(sign(ACCESS_CLAIMS, KEY), KEYS, origin=ORIGIN, now_s=ACCESS_CLAIMS.exp)
    with pytest.raises(Refused, match="expired") as enrolment:
        read_enrolment_token(sign(ENROLMENT, KEY), KEYS, origin=ORIGIN, now_s=ENROLMENT.exp)
    assert (access.value.code, enrolment.value.code) == ("token_expired", "token_expired")


@pytest.mark.parametrize(
    "scope", ["", " ", "root", "submit  read", "submit submit", " submit", "Submit", "work", ["read"]]
)
def test_scope_of_a_wrong_form_is_refused(scope: object) -> None:
    """Known words, each once, one space between; and no access token takes jobs."""
    text = forge(header_of(ACCESS_CLAIMS), payload_of(ACCESS_CLAIMS, scope=scope))
    assert refusal(ACCESS_CLAIMS, text).code == "bad_token"


def test_enrolment_token_with_more_than_work_is_refused() -> None:
    """A worker takes jobs and nothing else."""
    for scope in ("work submit", "operate", ""):
        text = forge(header_of(ENROLMENT), payload_of(ENROLMENT, scope=scope))
        assert refusal(ENROLMENT, text).code == "bad_token"


def test_scope_that_is_not_held_is_refused() -> None:
    """What a token does not name, it does not allow."""
    require_scope(ACCESS_CLAIMS, Scope.READ)
    require_scope(ENROLMENT, Scope.WORK)
    refused: list[tuple[AccessClaims | EnrolmentClaims, Scope]] = [
        (ACCESS_CLAIMS, Scope.OPERATE),
        (ENROLMENT, Scope.SUBMIT),
    ]
    for claims, scope in refused:
        with pytest.raises(Refused) as caught:
            require_scope(claims, scope)
        assert (caught.value.code, caught.value.status) == ("wrong_scope", 403)


@given(st.sets(st.sampled_from(Scope), min_size=1))
def test_scopes_survive_their_claim(scopes: set[Scope]) -> None:
    """The text of a set of scopes gives the set back."""
    assert set(read_scope(write_scope(scopes))) == scopes
