"""Results are judged in one order (DESIGN.md §3, "The attempt"): each refusal has its code, and comes before the next.

Every refusal leaves the log as it was, but for the one note that a valid token and statement were refused; that is
noted once for each hand-out and code.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import Equivocated, Outcome, RefusalNoted, ResultsReported
from gnexec.ids import b64url, unb64url
from gnexec.tokens.jwk import kid_of
from gnexec.tokens.statements import ResultClaims
from tests.tokens.forgery import forge
from tests.web.sites import Json, Site, bearer, check_problem
from tests.web.volunteers import HandOut, Volunteer, claims_of, volunteer

pytestmark = pytest.mark.anyio
TWO = {"redundancy": {"replicas": 2, "quorum": 2}}
SHORT = {"needs": {"wall_s": 60}}
STOPPED = Outcome(limit="stopped")


async def taken_by(site: Site, **body: Json) -> tuple[Volunteer, HandOut]:
    """Hand in a job and let a new volunteer take it."""
    await site.submit(**body)
    one = await volunteer(site)
    return one, await one.take()


async def put_raw(site: Site, taken: HandOut, content: bytes, **headers: str) -> httpx2.Response:
    """Send any body as a result."""
    told = {"Content-Type": "application/json", **taken.headers, **headers}
    return await site.http.put(f"/jobs/{taken.job}/result", content=content, headers=told)


def respelled(statement: str, key: Ed25519PrivateKey) -> str:
    """Return a statement that claims the same in other bytes: other order, other spacing, another signature."""
    head, payload, _ = statement.split(".")
    told = json.loads(unb64url(payload))
    other = json.dumps(dict(sorted(told.items(), reverse=True)), indent=1).encode()
    return forge(unb64url(head), other, key)


# Before any look at the state.


async def test_body_over_the_cap_is_413_even_with_a_bad_token(secured: Site) -> None:
    """Size is judged first: no token buys the right to send more."""
    _, taken = await taken_by(secured)
    before = await secured.size()
    huge = b'{"statement":"' + b"A" * (8 << 20) + b'"}'
    check_problem(await put_raw(secured, taken, huge), "too_large")
    check_problem(await put_raw(secured, taken, huge, Authorization="Bearer nonsense"), "too_large")
    assert await secured.size() == before


async def test_wrong_media_type_is_415_even_with_a_bad_token(secured: Site) -> None:
    """The media type is judged before the token."""
    _, taken = await taken_by(secured)
    before = await secured.size()
    for media in ("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/jwt"):
        wrong = {"Content-Type": media}
        check_problem(await put_raw(secured, taken, b"{}", **wrong), "bad_media")
        check_problem(await put_raw(secured, taken, b"{}", Authorization="Bearer no", **wrong), "bad_media")
    assert await secured.size() == before


async def test_bad_token_is_401_before_the_body_is_parsed(secured: Site) -> None:
    """Whoever has no token is told nothing of what the body should be."""
    _, taken = await taken_by(secured)
    before = await secured.size()
    for header in ("Bearer nonsense", f"Bearer {taken.token[:-4]}AAAA", f"Bearer {taken.token}="):
        check_problem(await put_raw(secured, taken, b"{nonsense", Authorization=header), "bad_token", "bad_signature")
    no_token = await secured.http.put("/jobs/1/result", json={"statement": "x"})
    check_problem(no_token, "no_token")
    assert await secured.size() == before


async def test_token_signed_by_a_stranger_is_401(secured: Site) -> None:
    """A key that is not in the set is no reason to look for it."""
    _, taken = await taken_by(secured)
    stranger = Ed25519PrivateKey.generate()
    head = {"alg": "EdDSA", "kid": kid_of(stranger.public_key()), "typ": "gnexec-job+jwt"}
    forged = forge(head, claims_of(taken.token), stranger)
    check_problem(await put_raw(secured, taken, b"{}", Authorization=f"Bearer {forged}"), "unknown_key")
    ours = kid_of(secured.office.keys.token_current.public_key())
    forged = forge({**head, "kid": ours}, claims_of(taken.token), stranger)
    check_problem(await put_raw(secured, taken, b"{}", Authorization=f"Bearer {forged}"), "bad_signature")


async def test_token_of_another_job_is_403_whether_that_job_exists_or_not(secured: Site) -> None:
    """The path is judged by the token alone, before any look-up."""
    ann, taken = await taken_by(secured)
    await secured.submit(argv=["true"])
    statement = ann.statement(taken, ann.answer(taken).result)
    before = await secured.size()
    other, unknown = [await ann.put(taken, statement, job=job) for job in (2, 99)]
    check_problem(other, "wrong_path")
    check_problem(unknown, "wrong_path")
    assert other.text.replace("job 2", "job 99") == unknown.text
    for job in (2, 99):
        told = await secured.http.put(f"/jobs/{job}/status", json={"progress": 0.5}, headers=taken.headers)
        check_problem(told, "wrong_path")
    assert await secured.size() == before


STATEMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    # lie: code, changed claims
    "for another server": ("wrong_audience", {"aud": "other.test/log"}),
    "of another hand-out": ("wrong_path", {"jti": "A" * 22}),
    "for another token": ("wrong_path", {"tok": "5e" * 32}),
    "by another worker": ("wrong_key", {"iss": "w" + "A" * 22}),
}


@pytest.mark.parametrize("lie", STATEMENTS)
async def test_statement_that_is_misdirected_is_403(secured: Site, lie: str) -> None:
    """A statement is for this server, this token and this worker."""
    code, changes = STATEMENTS[lie]
    ann, taken = await taken_by(secured)
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    before = await secured.size()
    check_problem(await ann.put(taken, ann.statement(taken, answer.result, **changes)), code)
    assert await secured.size() == before
    assert (await ann.finish(taken)).status_code == 200


async def test_statement_signed_by_another_worker_is_403(secured: Site) -> None:
    """Whoever steals a job token cannot answer for it: the statement must be signed by the key that it names."""
    ann, taken = await taken_by(secured)
    eve = await volunteer(secured, "eve")
    before = await secured.size()
    check_problem(await eve.put(taken, eve.statement(taken, ann.answer(taken).result)), "wrong_key")
    assert await secured.size() == before


async def test_statement_with_a_forged_signature_is_401(secured: Site) -> None:
    """The key's name alone is not its signature."""
    ann, taken = await taken_by(secured)
    claims = ann.claims(taken, ann.answer(taken).result)
    head = {"alg": "EdDSA", "kid": kid_of(ann.key.public_key()), "typ": ResultClaims.TYP}
    forged = forge(head, msgspec.json.encode(claims), Ed25519PrivateKey.generate())
    before = await secured.size()
    check_problem(await ann.put(taken, forged), "bad_signature")
    wrong_type = forge({**head, "typ": "gnexec-job+jwt"}, msgspec.json.encode(claims), ann.key)
    check_problem(await ann.put(taken, wrong_type), "bad_token")
    check_problem(await ann.put(taken, "A" * 70_000), "bad_token")
    assert await secured.size() == before


async def test_statement_about_another_attempt_is_403(secured: Site) -> None:
    """The attempt number fences: it must be the one of the token."""
    ann, taken = await taken_by(secured)
    result = msgspec.structs.replace(ann.answer(taken).result, att=2)
    before = await secured.size()
    check_problem(await ann.put(taken, ann.statement(taken, result)), "wrong_path")
    assert await secured.size() == before


async def test_statement_about_another_job_digest_is_refused_and_the_attempt_stays_open(secured: Site) -> None:
    """The worker must say what it computed, and it must be what was asked."""
    ann, taken = await taken_by(secured)
    answer = ann.answer(taken, dig="5e" * 32)
    await ann.upload(taken, *answer.blobs)
    before = await secured.size()
    check_problem(await ann.put(taken, ann.statement(taken, answer.result)), "invalid")
    assert await secured.size() == before
    assert (await ann.finish(taken)).json()["verdict"] == "valid"


async def test_result_without_a_statement_is_refused_in_secured_mode(secured: Site) -> None:
    """What nobody signed proves nothing."""
    _, taken = await taken_by(secured)
    check_problem(await put_raw(secured, taken, b'{"exit_code": 0, "stdout": "hi"}'), "invalid")


# Answered before.


async def test_same_claims_again_get_the_current_verdict_even_after_the_deadline(secured: Site) -> None:
    """A repeat is answered, and by what is known now: pending at first, valid once another owner agreed."""
    ann, taken = await taken_by(secured, **TWO, **SHORT)
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    statement = ann.statement(taken, answer.result)
    first = (await ann.put(taken, statement)).json()
    assert first["verdict"] == "pending"
    bob = await volunteer(secured, "bob")
    await bob.finish(await bob.take())
    await secured.pass_s(90)
    assert secured.office.now_s() > claims_of(taken.token)["exp"]
    before = await secured.size()
    again = (await ann.put(taken, statement)).json()
    assert again["verdict"] == "valid"
    assert again["receipt"]["seq"] == first["receipt"]["seq"]
    assert await secured.size() == before


async def test_same_claims_in_other_bytes_are_the_same_answer(secured: Site) -> None:
    """The identity of an answer is its decoded claims, never its bytes."""
    ann, taken = await taken_by(secured)
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    statement = ann.statement(taken, answer.result)
    first = await ann.put(taken, statement)
    before = await secured.size()
    other = respelled(statement, ann.key)
    assert other != statement
    again = await ann.put(taken, other)
    assert again.json()["receipt"]["seq"] == first.json()["receipt"]["seq"]
    assert await secured.size() == before


async def test_another_outcome_for_the_same_attempt_is_409_and_noted_once(secured: Site) -> None:
    """Equivocation is an event, with the proof of it; it is noted once, however often it is tried."""
    ann, taken = await taken_by(secured)
    await ann.finish(taken)
    before = await secured.size()
    for out in (b"other\n", b"another\n", b"other\n"):
        answer = ann.answer(taken, out)
        await ann.upload(taken, *answer.blobs)
        check_problem(await ann.put(taken, ann.statement(taken, answer.result)), "equivocation")
    events = (await secured.events())[before:]
    assert [type(event) for event in events] == [Equivocated, RefusalNoted]
    assert isinstance(events[0], Equivocated)
    assert events[0].statement is not None
    shown = await secured.http.get("/v1/jobs/1", headers=secured.person())
    assert shown.json()["state"] == "succeeded"


async def test_equivocation_is_409_even_after_the_deadline(secured: Site) -> None:
    """Whether an answer was given comes before whether it is late."""
    ann, taken = await taken_by(secured, **SHORT)
    await ann.finish(taken)
    await secured.pass_s(90)
    lie = ann.statement(taken, ann.answer(taken, b"other\n").result)
    check_problem(await ann.put(taken, lie), "equivocation")


# Too late, not needed.


async def test_late_result_is_410_and_noted_once(secured: Site) -> None:
    """A closed attempt takes no result; that a valid statement came too late is noted, once."""
    ann, taken = await taken_by(secured)
    await secured.pass_s(90)
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    before = await secured.size()
    for _ in range(3):
        check_problem(await ann.put(taken, ann.statement(taken, answer.result)), "too_late")
    events = (await secured.events())[before:]
    assert [(type(event), getattr(event, "code", "")) for event in events] == [(RefusalNoted, "too_late")]


async def test_late_result_without_its_blobs_is_410_all_the_same(secured: Site) -> None:
    """What is wrong with the outputs matters only for a result that would be taken."""
    ann, taken = await taken_by(secured)
    await secured.pass_s(90)
    check_problem(await ann.put(taken, ann.statement(taken, ann.answer(taken).result)), "too_late")


async def test_result_after_the_job_was_decided_is_unneeded(secured: Site) -> None:
    """Who was slower is thanked, not blamed."""
    await secured.submit(redundancy={"replicas": 2, "quorum": 1})
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    fast, slow = await ann.take(), await bob.take()
    assert (await ann.finish(fast)).json()["verdict"] == "valid"
    told = await bob.finish(slow)
    assert (told.status_code, told.json()["verdict"]) == (200, "unneeded")
    shown = await secured.http.get("/v1/jobs/1/attempts", headers=secured.person())
    assert [row["state"] for row in shown.json()["attempts"]] == ["succeeded", "unneeded"]


@pytest.mark.parametrize("uploads", [True, False], ids=["uploaded", "not_uploaded"])
async def test_result_after_cancel_is_unneeded_uploaded_or_not(secured: Site, *, uploads: bool) -> None:
    """A worker that was told to stop has perhaps uploaded nothing, and need not."""
    ann, taken = await taken_by(secured)
    await secured.http.post(f"/v1/jobs/{taken.job}:cancel", headers=secured.person())
    answer = ann.answer(taken, outcome=STOPPED, canon=None)
    if uploads:
        await ann.upload(taken, *answer.blobs)
    statement = ann.statement(taken, answer.result)
    for _ in range(2):
        told = await ann.put(taken, statement)
        assert (told.status_code, told.json()["verdict"]) == (200, "unneeded")


# Taken.


async def test_failures_decide_the_job_as_failed(secured: Site) -> None:
    """An exit status other than 0 is a result: the job failed, and says how."""
    ann, taken = await taken_by(secured)
    told = await ann.finish(taken, b"half\n", exit_status=3)
    assert told.json()["verdict"] == "valid"
    result = (await secured.http.get("/v1/jobs/1/result", headers=secured.person())).json()
    assert (result["state"], result["outcome"], result["exit_code"]) == ("failed", "failure (exit 3)", 3)
    assert (await secured.http.get("/v1/jobs/1/stdout", headers=secured.person())).text == "half\n"


async def test_work_given_back_is_handed_out_again_without_blame(secured: Site) -> None:
    """A volunteer that takes its machine back costs the job nothing."""
    ann, taken = await taken_by(secured, redundancy={"max_attempts": 1})
    answer = ann.answer(taken, outcome=Outcome(limit="preempted"), canon=None)
    await ann.upload(taken, *answer.blobs)
    assert (await ann.put(taken, ann.statement(taken, answer.result))).json()["verdict"] == "unneeded"
    again = await ann.take()
    assert (again.job, again.work["attempt"]) == (taken.job, 2)


async def test_half_wrong_statement_over_many_changes_nothing(secured: Site) -> None:
    """All results of a statement are taken or none."""
    await secured.submit(argv=["a"])
    await secured.submit(argv=["b"])
    ann = await volunteer(secured)
    told = (await ann.ask(n=2)).json()
    both = [HandOut(work, told["token"]) for work in told["jobs"]]
    good, bad = ann.answer(both[0]), ann.answer(both[1], canon="5e" * 32)
    await ann.upload(both[0], *good.blobs)
    before = await secured.size()
    statement = ann.statement(both[0], good.result, bad.result)
    reply = await secured.http.put("/v1/results", json={"statement": statement}, headers=both[0].headers)
    check_problem(reply, "invalid")
    assert await secured.size() == before


async def test_statement_over_many_says_of_each_what_became_of_it(secured: Site) -> None:
    """In the list, what comes too late or contradicts is a verdict of its own, and keeps nothing else back."""
    for word in "abc":
        await secured.submit(argv=[word])
    ann = await volunteer(secured)
    told = (await ann.ask(n=3)).json()
    each = [HandOut(work, told["token"]) for work in told["jobs"]]
    await ann.upload(each[0], *ann.answer(each[0]).blobs, *ann.answer(each[0], b"lie\n").blobs)
    await ann.put(each[0], ann.statement(each[0], ann.answer(each[0]).result))
    await secured.http.post("/v1/jobs/2:cancel", headers=secured.person())
    results = [ann.answer(each[0], b"lie\n").result, ann.answer(each[1]).result, ann.answer(each[2]).result]
    statement = ann.statement(each[0], *results)
    reply = await secured.http.put("/v1/results", json={"statement": statement}, headers=each[0].headers)
    assert [row["verdict"] for row in reply.json()["results"]] == ["equivocation", "unneeded", "valid"]
    again = await secured.http.put("/v1/results", json={"statement": statement}, headers=each[0].headers)
    assert [row["verdict"] for row in again.json()["results"]] == ["equivocation", "unneeded", "valid"]
    assert sum(isinstance(event, ResultsReported) for event in await secured.events()) == 2


async def test_list_form_judges_as_strictly_as_the_single_form(secured: Site) -> None:
    """A statement over many is held against the token like any other."""
    ann, taken = await taken_by(secured)
    await secured.submit(argv=["true"])
    eve = await volunteer(secured, "eve")
    theirs = await eve.take()
    path, before = "/v1/results", await secured.size()
    foreign = eve.statement(theirs, eve.answer(theirs).result)
    check_problem(await secured.http.put(path, json={"statement": foreign}, headers=taken.headers), "wrong_key")
    mixed = ann.statement(taken, ann.answer(taken).result, eve.answer(theirs).result)
    check_problem(await secured.http.put(path, json={"statement": mixed}, headers=taken.headers), "wrong_path")
    check_problem(await secured.http.put(path, json={"statement": "x.y.z"}, headers=taken.headers), "bad_token")
    check_problem(await secured.http.put(path, json={"statement": foreign}), "no_token")
    assert await secured.size() == before


async def test_token_in_the_body_is_as_good_as_in_the_header(secured: Site) -> None:
    """GnExec's curl volunteer sends it in the body; the header, where there is one, counts."""
    ann, taken = await taken_by(secured)
    told = await secured.http.put("/jobs/1/status", json={"progress": 0.1, "token": taken.token})
    assert told.json()["directive"] == "continue"
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    body = {"statement": ann.statement(taken, answer.result), "token": taken.token}
    wrong = await secured.http.put("/jobs/1/result", json=body, headers=bearer(b64url(b"x")))
    check_problem(wrong, "bad_token")
    assert (await secured.http.put("/jobs/1/result", json=body)).json()["verdict"] == "valid"


async def test_claims_that_cannot_be_are_refused(secured: Site) -> None:
    """A success without a voted digest, an end before the beginning: never signed by our code, never taken."""
    ann, taken = await taken_by(secured)
    good = json.loads(msgspec.json.encode(ann.claims(taken, ann.answer(taken).result)))
    head = {"alg": "EdDSA", "kid": kid_of(ann.key.public_key()), "typ": ResultClaims.TYP}
    before = await secured.size()
    for change in ({"canon": None}, {"ended_ms": 0, "started_ms": 1}, {"outcome": {"exit": 256}}, {"sub": "01"}):
        check_problem(await ann.put(taken, forge(head, {**good, **change}, ann.key)), "bad_token")
    assert await secured.size() == before
