"""Statements of workers and submitters: whose they are, what they may say, and their digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
import rfc8785

from gnexec.core.events import Outcome
from gnexec.tokens import (
    Claims,
    ResultClaims,
    check_outcome,
    claims_digest,
    sign,
)
from tests.tokens.forgery import (
    ENV,
    HEX,
    JOBSPEC,
    JTI,
    KEY,
    MANY,
    NOW,
    ONE,
    ORIGIN,
    OTHER,
    RESULT,
    SAMPLES,
    STATEMENT,
    forge,
    header_of,
    payload_of,
    read,
    refusal,
)


def test_statement_signed_by_another_worker_is_the_wrong_key() -> None:
    """A known worker cannot answer for the one whose key the job token names."""
    error = refusal(ONE, sign(ONE, OTHER))
    assert (error.code, error.status) == ("wrong_key", 403)


def test_job_statement_signed_by_another_than_its_issuer_is_the_wrong_key() -> None:
    """One trusted submitter cannot speak for another."""
    assert refusal(JOBSPEC, sign(JOBSPEC, OTHER)).code == "wrong_key"


@pytest.mark.parametrize(
    ("exit_", "signal", "limit", "fine"),
    [
        (0, None, None, True),
        (255, None, None, True),
        (None, "SIGSEGV", None, True),
        (None, None, "wall", True),
        (None, "SIGKILL", "memory", True),
        (3, None, "stopped", True),
        (0, None, "wall", True),
        (None, None, None, False),
        (256, None, None, False),
        (-1, None, None, False),
        (1, "SIGSEGV", None, False),
        (None, "sigsegv", None, False),
        (None, "11", None, False),
        (None, "SIG", None, False),
        (None, "SIGSEGV\n", None, False),
        (None, None, "boredom", False),
    ],
)
def test_outcome_is_taken_only_where_it_makes_sense(
    exit_: int | None, signal: str | None, limit: str | None, *, fine: bool
) -> None:
    """An exit status or a signal, not both, or a limit; alike in line and in a list."""
    outcome = {"exit": exit_, "signal": signal, "limit": limit}
    in_line = forge(header_of(ONE), payload_of(ONE, outcome=outcome))
    results = [{**row, "outcome": outcome} for row in json.loads(msgspec.json.encode(MANY.results))]
    in_list = forge(header_of(MANY), payload_of(MANY, results=results))
    if fine:
        check_outcome(Outcome(exit=exit_, signal=signal, limit=limit))
        assert isinstance(read(ONE, in_line), ResultClaims)
        assert isinstance(read(MANY, in_list), ResultClaims)
    else:
        assert refusal(ONE, in_line).code == "bad_token"
        assert refusal(MANY, in_list).code == "bad_token"


@pytest.mark.parametrize(
    "changes",
    [
        {"canon": None},
        {"ended_ms": 4},
        {"outs": None},
        {"sub": "0"},
        {"sub": str(2**53)},
        {"iss": "anonymous"},
        {"iss": ORIGIN},
        {"tok": HEX[:-1]},
        {"salt": ""},
        {"usage": {"cpu_ms": -1, "wall_ms": 1, "peak_rss_bytes": 1}},
        {"usage": {"cpu_ms": 1, "wall_ms": 1}},
        {"usage": {"cpu_ms": True, "wall_ms": 1, "peak_rss_bytes": 1}},
        {"env": {"os": "", "arch": "x", "sandbox": "x"}},
        {"env": {"os": "a\nb", "arch": "x", "sandbox": "x"}},
        {"env": {"os": "x", "arch": "x", "sandbox": "x", "software": {"": "1"}}},
        {"env": {"os": "x", "arch": "x", "sandbox": "x", "software": {str(i): "1" for i in range(33)}}},
        {"results": []},
        {"results": json.loads(msgspec.json.encode([RESULT]))},
    ],
    ids=str,
)
def test_statement_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    """A success names what it is voted on; an end is not before its beginning; a worker is who speaks."""
    assert refusal(ONE, forge(header_of(ONE), payload_of(ONE, **changes))).code == "bad_token"


def test_statement_of_too_many_results_or_of_one_job_twice_is_refused() -> None:
    """64 results at most, each for a job of its own."""
    row = json.loads(msgspec.json.encode(RESULT))
    for results in ([row, row], [{**row, "job": job} for job in range(1, 66)], []):
        assert refusal(MANY, forge(header_of(MANY), payload_of(MANY, results=results))).code == "bad_token"


def test_failure_needs_no_canon() -> None:
    """Only success is voted on."""
    failed = msgspec.structs.replace(RESULT, outcome=Outcome(exit=3), canon=None)
    claims = ResultClaims.of([failed], iat=NOW, env=ENV, **STATEMENT)
    assert read(claims, sign(claims, KEY)) == claims


def test_digest_of_claims_is_that_of_their_canonical_json() -> None:
    """RFC 8785 by another implementation, over what is claimed."""
    for claims in SAMPLES:
        assert claims_digest(claims) == hashlib.sha256(rfc8785.dumps(msgspec.to_builtins(claims))).digest()


def test_digest_of_claims_ignores_bytes_and_sees_every_claim() -> None:
    """Another order, spacing or an explicit null is the same answer; any other value is another."""
    usage = {"write_bytes": None, **json.loads(msgspec.json.encode(ONE.usage))}
    written: list[tuple[Claims, dict[str, object]]] = [
        (ONE, {"results": None, "usage": usage}),
        (MANY, {"att": None, "sub": None}),
    ]
    for claims, changes in written:
        again = read(claims, forge(header_of(claims), json.dumps(payload_of(claims, **changes), indent=3)))
        assert isinstance(again, ResultClaims)
        assert claims_digest(again) == claims_digest(claims)
    others: list[dict[str, Any]] = [
        {"salt": JTI[:-1] + "Q"},
        {"tok": "0" * 64},
        {"iat": NOW + 1},
        {"canon": "0" * 64},
        {"ended_ms": 10},
    ]
    digests = {claims_digest(msgspec.structs.replace(ONE, **other)) for other in others}
    assert len({claims_digest(ONE), *digests}) == 1 + len(others)
