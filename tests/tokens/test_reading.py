"""Tokens of every kind: what is signed is read back, and whatever else is sent is refused and nothing worse."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import jwt
import msgspec
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gnexec.core.events import Outcome
from gnexec.errors import Refused
from gnexec.ids import MAX_SAFE_INT, b64url, unb64url
from gnexec.tokens import (
    ALG,
    LONGEST_S,
    MAX_JOBS,
    Claims,
    Environment,
    JobClaims,
    ProofClaims,
    Result,
    ResultClaims,
    Usage,
    claims_digest,
    read_job_token,
    read_result_statement,
    sign,
)
from tests.tokens.forgery import (
    ENROLMENT,
    JOB,
    JOBS,
    JTI,
    KEY,
    KEYS,
    KID,
    MANY,
    NOW,
    ONE,
    ORIGIN,
    RESULT,
    SAMPLES,
    STATEMENT,
    forge,
    header_of,
    name_of,
    payload_of,
    read,
    refusal,
)


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
def test_token_of_every_kind_signed_and_read_gives_the_same_claims(claims: Claims) -> None:
    """What is signed can be read; for an enrolment proof the key itself is what is read."""
    expected = (KEY.public_key(), KID) if isinstance(claims, ProofClaims) else claims
    assert read(claims, sign(claims, KEY)) == expected


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
def test_token_of_every_kind_is_a_jwt_for_another_reader(claims: Claims) -> None:
    """PyJWT, with its own checks, accepts what we sign."""
    found = jwt.decode(
        sign(claims, KEY), KEY.public_key(), algorithms=[ALG], audience=ORIGIN, options={"verify_exp": False}
    )
    assert found == payload_of(claims)


@pytest.mark.parametrize("claims", SAMPLES, ids=name_of)
def test_token_written_in_another_order_and_spacing_is_read_the_same(claims: Claims) -> None:
    """Meaning, not bytes: another signer may write the same claims differently, even with null for what is left out."""
    payload = json.dumps(payload_of(claims), indent=1, sort_keys=True)
    if isinstance(claims, JobClaims):
        payload = payload.replace("{", '{"cnf": null,' if claims.cnf is None else "{", 1)
    assert read(claims, forge(header_of(claims), payload)) == read(claims, sign(claims, KEY))


def test_hand_out_names_its_jobs_in_both_forms() -> None:
    """One job by `sub`, several by `jobs`: asked the same way."""
    assert (JOB.pairs, JOBS.pairs) == (((7, 2),), ((7, 2), (9, 1)))
    assert (JOB.sub, JOB.jobs, JOBS.sub, JOBS.dig) == ("7", None, None, None)
    assert [JOBS.names(job) for job in (7, 8, 9)] == [True, False, True]
    assert (JOB.jkt, JOBS.jkt, ENROLMENT.jkt) == (KID, None, KID)


def test_statement_gives_its_results_in_both_forms() -> None:
    """One result in line or several in a list: asked the same way."""
    assert ONE.results == (RESULT,)
    assert [result.job for result in MANY.results] == [7, 9]


def test_largest_hand_out_and_statement_fit_their_caps() -> None:
    """64 jobs with the largest numbers, names and software lists can be signed and read."""
    pairs = [(MAX_SAFE_INT - i, MAX_SAFE_INT) for i in range(MAX_JOBS)]
    longest = {"origin": "x" * 128, "jti": JTI, "iat": NOW, "exp": NOW + 60, "jkt": KID, "prog": "p" * 128}
    claims = JobClaims.of(pairs, est=MAX_SAFE_INT, **longest)  # type: ignore[arg-type]
    assert read_job_token(sign(claims, KEY), KEYS, origin="x" * 128) == claims
    most = dict.fromkeys(Usage.__struct_fields__, MAX_SAFE_INT)
    env = Environment(os="o" * 64, arch="a" * 64, sandbox="s" * 64, software={f"{i:064}": "v" * 64 for i in range(32)})
    changes = {"att": MAX_SAFE_INT, "usage": Usage(**most), "started_ms": MAX_SAFE_INT, "ended_ms": MAX_SAFE_INT}
    outcome = Outcome(signal="SIGABCDEFGHIJKLMNOP", limit="processes")
    results = [msgspec.structs.replace(RESULT, job=job, outcome=outcome, **changes) for job, _ in pairs]
    statement = ResultClaims.of(results, iat=NOW, env=env, **STATEMENT)
    assert read(statement, sign(statement, KEY)) == statement


@pytest.mark.parametrize(
    ("claims", "changes"),
    [
        (JOB, {"jti": "short"}),
        (JOB, {"att": -1}),
        (JOB, {"exp": NOW + 0.5}),
        (ENROLMENT, {"owner": "Ada Lovelace"}),
        (ONE, {"salt": ""}),
        (MANY, {"env": None}),
    ],
    ids=str,
)
def test_claims_that_no_reader_would_take_are_never_signed(claims: Claims, changes: dict[str, Any]) -> None:
    """A fault of the maker shows where it was made."""
    with pytest.raises(ValueError, match="cannot be signed"):
        sign(msgspec.structs.replace(claims, **changes), KEY)


def test_token_longer_than_its_cap_is_never_signed() -> None:
    """A name of wide characters beside 64 jobs does not fit 4,096."""
    pairs = [(MAX_SAFE_INT - i, MAX_SAFE_INT) for i in range(MAX_JOBS)]
    claims = JobClaims.of(pairs, origin=ORIGIN, jti=JTI, iat=NOW, exp=NOW + 60, prog="\U0001f400" * 128)
    with pytest.raises(ValueError, match="4096"):
        sign(claims, KEY)


NUMBERS: Final = st.integers(1, MAX_SAFE_INT)
NAMES: Final = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)
SIXTEEN: Final = st.binary(min_size=16, max_size=16).map(b64url)
HEXES: Final = st.binary(min_size=32, max_size=32).map(bytes.hex)
PAIRS: Final = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=MAX_JOBS, unique_by=lambda pair: pair[0])


@settings(deadline=None)
@given(
    pairs=PAIRS,
    jti=SIXTEEN,
    iat=st.integers(0, MAX_SAFE_INT - LONGEST_S),
    life=st.integers(1, LONGEST_S),
    dig=HEXES,
    jkt=st.none() | HEXES.map(lambda text: b64url(bytes.fromhex(text))),
    prog=st.none() | NAMES,
)
def test_any_hand_out_survives_its_token(
    pairs: list[tuple[int, int]], jti: str, iat: int, life: int, dig: str, jkt: str | None, prog: str | None
) -> None:
    """Whatever is handed out is read back the same."""
    claims = JobClaims.of(pairs, origin=ORIGIN, jti=jti, iat=iat, exp=iat + life, dig=dig, jkt=jkt, prog=prog)
    try:
        text = sign(claims, KEY)
    except ValueError as err:
        assert "4096" in str(err)  # noqa: PT017 -- a long name outside ASCII beside many jobs may not fit
        return
    found = read_job_token(text, KEYS, origin=ORIGIN)
    assert (found, found.pairs) == (claims, tuple(pairs))


COUNTS: Final = st.integers(0, MAX_SAFE_INT)
WORDS: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+:/ ~()-]{0,63}", fullmatch=True)
OUTCOMES: Final = st.one_of(
    st.builds(Outcome, exit=st.integers(0, 255)),
    st.builds(Outcome, signal=st.sampled_from(["SIGSEGV", "SIGKILL"]), limit=st.none() | st.just("memory")),
    st.builds(Outcome, limit=st.sampled_from(["cpu", "wall", "stopped"])),
)
RESULTS: Final = st.builds(
    Result,
    job=NUMBERS,
    att=st.none() | NUMBERS,
    dig=HEXES,
    outcome=OUTCOMES,
    outs=HEXES,
    canon=HEXES,
    usage=st.builds(Usage, cpu_ms=COUNTS, wall_ms=COUNTS, peak_rss_bytes=COUNTS, write_bytes=st.none() | COUNTS),
    started_ms=st.just(0),
    ended_ms=COUNTS,
)
ENVS: Final = st.builds(
    Environment, os=WORDS, arch=WORDS, sandbox=WORDS, software=st.dictionaries(WORDS, WORDS, max_size=4)
)


@settings(deadline=None)
@given(results=st.lists(RESULTS, min_size=1, max_size=6, unique_by=lambda result: result.job), env=ENVS)
def test_any_statement_survives_its_signature_and_has_a_canonical_digest(
    results: list[Result], env: Environment
) -> None:
    """Whatever a worker reports is read back the same, and its digest is that of RFC 8785."""
    claims = ResultClaims.of(results, iat=NOW, env=env, **STATEMENT)
    found = read_result_statement(sign(claims, KEY), KEYS, origin=ORIGIN, jkt=KID)
    assert (found, found.results) == (claims, tuple(results))
    assert claims_digest(found) == hashlib.sha256(rfc8785.dumps(msgspec.to_builtins(claims))).digest()


@settings(deadline=None, max_examples=300)
@given(claims=st.sampled_from(SAMPLES), place=st.integers(0, 10_000), char=st.characters())
def test_any_character_changed_is_refused(claims: Claims, place: int, char: str) -> None:
    """A token with one character replaced is refused, and nothing but a refusal is raised."""
    text = sign(claims, KEY)
    place %= len(text)
    if text[place] != char:
        refusal(claims, text[:place] + char + text[place + 1 :])


@settings(deadline=None)
@given(claims=st.sampled_from(SAMPLES), place=st.integers(0, 10_000), bit=st.integers(0, 7), part=st.integers(0, 2))
def test_any_bit_flipped_beneath_the_encoding_is_refused(claims: Claims, place: int, bit: int, part: int) -> None:
    """The same for the bytes of header, claims and signature."""
    parts = [bytearray(unb64url(segment)) for segment in sign(claims, KEY).split(".")]
    parts[part][place % len(parts[part])] ^= 1 << bit
    refusal(claims, ".".join(b64url(bytes(segment)) for segment in parts))


@settings(deadline=None)
@given(claims=st.sampled_from(SAMPLES), cut=st.integers(0, 10_000))
def test_any_truncation_is_refused(claims: Claims, cut: int) -> None:
    """A token that lost its end is refused."""
    text = sign(claims, KEY)
    refusal(claims, text[: cut % len(text)])


@given(claims=st.sampled_from(SAMPLES), text=st.text() | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*"))
def test_any_text_is_refused_and_nothing_else(claims: Claims, text: str) -> None:
    """Whatever is sent in place of a token, the answer is a refusal."""
    refusal(claims, text)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(claims=st.sampled_from(SAMPLES), data=st.data(), value=JSON)
@example(claims=MANY, data=None, value={"job": 1})
def test_any_value_in_any_claim_is_read_or_refused(claims: Claims, data: st.DataObject | None, value: object) -> None:
    """A signer with a good key who writes nonsense gets a refusal, never another error."""
    payload = payload_of(claims)
    name = "results" if data is None else data.draw(st.sampled_from(sorted(payload)))
    text = forge(header_of(claims), {**payload, name: [value] if data is None else value})
    try:
        read(claims, text)
    except Refused as err:
        assert err.code in {"bad_token", "wrong_audience", "token_expired", "wrong_key"}  # noqa: PT017 -- may also pass
