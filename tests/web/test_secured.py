"""Secured mode from end to end: enrolment by proof of possession, two owners, a quorum of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import JobsDecided, ResultsReported
from gnexec.ids import b64url
from gnexec.keys import ServerKeys
from gnexec.tokens.issued import AccessClaims, Scope
from gnexec.tokens.jwk import kid_of, public_jwk
from gnexec.tokens.reading import sign
from tests.tokens.forgery import forge
from tests.web.logs import Logs
from tests.web.sites import Json, Site, bearer, check_problem, open_site
from tests.web.volunteers import OFFER, HandOut, Volunteer, claims_of, volunteer

pytestmark = pytest.mark.anyio
TWO = {"redundancy": {"replicas": 2, "quorum": 2}}


async def test_job_with_quorum_of_two_owners_agreeing_is_decided_by_both(secured: Site) -> None:
    """The whole path: submit, two hand-outs to two owners, two signed results, one decision, all readable."""
    job = await secured.submit(**TWO)
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    first = await ann.take()
    assert first.work["cmd"] == "echo hi"
    assert first.work["argv"] == ["echo", "hi"]
    assert (await ann.finish(first)).json()["verdict"] == "pending"
    assert (await ann.ask()).status_code == 204
    why = await secured.http.get("/v1/workers/me/why", headers=ann.headers)
    assert [reason["code"] for reason in why.json()["reasons"]] == ["no_work"]  # and not that the job is checked
    assert (await bob.finish(await bob.take())).json()["verdict"] == "valid"
    me = secured.person()
    shown = (await secured.http.get(f"/v1/jobs/{job}", headers=me)).json()
    assert (shown["state"], shown["reason"], shown["agreeing"]) == ("succeeded", "quorum", 2)
    result = (await secured.http.get(f"/v1/jobs/{job}/result", headers=me)).json()
    assert (result["outcome"], result["exit_code"], result["validated_by"]) == ("success", 0, 2)
    assert (await secured.http.get(f"/v1/jobs/{job}/stdout", headers=me)).text == "hi\n"
    attempts = (await secured.http.get(f"/v1/jobs/{job}/attempts", headers=me)).json()["attempts"]
    assert [(a["attempt"], a["verdict"]) for a in attempts] == [(1, "valid"), (2, "valid")]
    events = await secured.events()
    assert sum(isinstance(event, ResultsReported) and bool(event.statement) for event in events) == 2
    assert [one.canonical for event in events if isinstance(event, JobsDecided) for one in event.decided] == [1]


async def test_third_owner_breaks_a_tie_of_two_that_disagree(secured: Site) -> None:
    """The liar's result is invalid once two others agree."""
    job = await secured.submit(**TWO)
    ann, bob, eve = [await volunteer(secured, name) for name in ("ann", "bob", "eve")]
    lied = await eve.take()
    await eve.finish(lied, b"lie\n")
    await ann.finish(await ann.take())
    assert (await bob.finish(await bob.take())).json()["verdict"] == "valid"
    shown = (await secured.http.get(f"/v1/jobs/{job}/attempts", headers=secured.person())).json()
    assert [a["verdict"] for a in shown["attempts"]] == ["invalid", "valid", "valid"]


async def test_two_workers_of_one_owner_get_one_attempt(secured: Site) -> None:
    """Whoever runs two workers has still one say."""
    await secured.submit(**TWO)
    one, other = await volunteer(secured, "ann"), await volunteer(secured, "ann")
    await one.take()
    assert (await other.ask()).status_code == 204


async def test_many_jobs_in_one_hand_out_are_answered_by_one_statement(secured: Site) -> None:
    """One token for all of them, one statement over all of them, a verdict and a receipt for each entry."""
    jobs = [await secured.submit(argv=["echo", str(i)]) for i in range(3)]
    ann = await volunteer(secured)
    reply = (await ann.ask(n=8)).json()
    assert [work["id"] for work in reply["jobs"]] == jobs
    each = [HandOut(work, reply["token"]) for work in reply["jobs"]]
    answers = [ann.answer(one) for one in each]
    await ann.upload(each[0], *answers[0].blobs)
    statement = ann.statement(each[0], *(answer.result for answer in answers))
    told = await secured.http.put("/v1/results", json={"statement": statement}, headers=each[0].headers)
    assert [(row["job"], row["verdict"]) for row in told.json()["results"]] == [(job, "valid") for job in jobs]
    assert len(told.json()["receipts"]) == 1


async def enrol_with(site: Site, proof: str, access: str, **body: Json) -> httpx2.Response:
    """Send a proof, whoever made it."""
    told = {"proof": proof, "offer": OFFER, **body}
    return await site.http.post("/v1/workers", json=told, headers=bearer(access))


def forged_proof(volunteer: Volunteer, access: str, *, header: dict[str, Any] | None = None, **claims: Json) -> str:
    """Make a proof in which anything may be wrong."""
    jwk = public_jwk(volunteer.key.public_key())
    head = {"alg": "EdDSA", "jwk": jwk, "kid": kid_of(volunteer.key.public_key()), "typ": "gnexec-enrol+jwt"}
    told = {**claims_of(volunteer.proof(access)), **claims}
    return forge({**head, **(header or {})}, told, volunteer.key)


SMALL_ORDER = b64url((1).to_bytes(32, "little"))
"""The neutral element: a signature under it can be made by anybody."""
THIEF = Ed25519PrivateKey.generate()

PROOFS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # attack: code, changes of the header, changes of the claims
    "small_order_key": ("bad_token", {"jwk": {"crv": "Ed25519", "kty": "OKP", "x": SMALL_ORDER}}, {}),
    "key_of_another": ("bad_token", {"jwk": public_jwk(THIEF.public_key())}, {}),
    "key_of_another_with_its_kid": (
        "bad_signature",
        {"jwk": public_jwk(THIEF.public_key()), "kid": kid_of(THIEF.public_key())},
        {},
    ),
    "no_key": ("bad_token", {"jwk": None}, {}),
    "another_type": ("bad_token", {"typ": "gnexec-result+jwt"}, {}),
    "no_algorithm": ("bad_token", {"alg": "none"}, {}),
    "for_another_server": ("wrong_audience", {}, {"aud": "elsewhere/log"}),
    "for_another_access_token": ("bad_token", {}, {"ath": "5e" * 32}),
    "of_an_hour_ago": ("bad_token", {}, {"iat": 1_700_000_000}),
    "of_the_future": ("bad_token", {}, {"iat": 1_900_000_000}),
    "unknown_claim": ("bad_token", {}, {"admin": True}),
}


@pytest.mark.parametrize("attack", PROOFS)
async def test_enrolment_with_a_bad_proof_is_refused_and_changes_nothing(secured: Site, attack: str) -> None:
    """Only who holds the key enrols it, here, now, and with this access token."""
    code, header, claims = PROOFS[attack]
    access = secured.token("ann", Scope.ENROL)
    proof = forged_proof(Volunteer(secured, "ann", Ed25519PrivateKey.generate()), access, header=header, **claims)
    before = await secured.size()
    check_problem(await enrol_with(secured, proof, access), code)
    assert await secured.size() == before


async def test_proof_that_was_overheard_is_of_no_use_with_another_access_token(secured: Site) -> None:
    """A thief who sees an enrolment cannot enrol the worker under his own account."""
    ann = Volunteer(secured, "ann", Ed25519PrivateKey.generate())
    seen = ann.proof(secured.token("ann", Scope.ENROL))
    check_problem(await enrol_with(secured, seen, secured.token("eve", Scope.ENROL)), "bad_token")


async def test_key_of_another_owner_cannot_be_enrolled_again(secured: Site) -> None:
    """A worker's key belongs to the account that enrolled it first."""
    ann = await volunteer(secured, "ann")
    before = await secured.size()
    check_problem(await Volunteer(secured, "eve", ann.key).enrol(), "conflict")
    assert await secured.size() == before


async def test_enrolling_again_keeps_the_worker(secured: Site) -> None:
    """The same key under the same account is the same worker, whatever it offers now."""
    ann = await volunteer(secured)
    worker = ann.worker
    assert (await ann.enrol()).status_code == 201
    assert ann.worker == worker


@pytest.mark.parametrize("offer", [{"cores": 0}, {"cores": -1}, {"memory_bytes": 1 << 53}, {"disk_bytes": 0}])
async def test_offer_out_of_range_is_refused(secured: Site, offer: dict[str, int]) -> None:
    """An offer is a positive number that every reader keeps exactly."""
    ann = Volunteer(secured, "ann", Ed25519PrivateKey.generate())
    access = secured.token("ann", Scope.ENROL)
    reply = await enrol_with(secured, ann.proof(access), access, offer={**OFFER, **offer})
    assert check_problem(reply, "invalid")["field"] == f"offer.{next(iter(offer))}"


SCOPES = [
    # method, path, scopes that do not suffice
    ("POST", "/v1/jobs", (Scope.READ, Scope.ENROL, Scope.AUDIT)),
    ("POST", "/v1/jobs/1:cancel", (Scope.READ,)),
    ("GET", "/v1/jobs/1", (Scope.SUBMIT, Scope.AUDIT)),
    ("GET", "/v1/jobs/1/result", (Scope.SUBMIT,)),
    ("GET", "/v1/jobs/1/stdout", (Scope.SUBMIT,)),
    ("GET", "/v1/jobs/1/stderr", (Scope.SUBMIT,)),
    ("GET", "/v1/jobs/1/outputs/x", (Scope.SUBMIT,)),
    ("GET", "/v1/jobs/1/attempts", (Scope.SUBMIT,)),
    ("GET", "/v1/jobs/1/receipt", (Scope.SUBMIT,)),
    ("GET", "/v1/jobs/1/explain", (Scope.SUBMIT,)),
    ("GET", "/v1/jobs/1/events", (Scope.SUBMIT,)),
    ("POST", "/v1/workers", (Scope.SUBMIT, Scope.READ)),
    ("PUT", "/v1/blobs/" + "5e" * 32, (Scope.READ,)),
    ("GET", "/v1/blobs/" + "5e" * 32, (Scope.SUBMIT,)),
    ("GET", "/log/payloads", (Scope.SUBMIT, Scope.READ, Scope.ENROL)),
]


@pytest.mark.parametrize(
    ("method", "path", "scopes"), SCOPES, ids=[f"{method} {path[:24]}" for method, path, _ in SCOPES]
)
async def test_token_without_the_scope_is_refused(
    secured: Site, method: str, path: str, scopes: tuple[Scope, ...]
) -> None:
    """A token allows what its scope says and nothing else."""
    await secured.submit()
    before = await secured.size()
    headers = bearer(secured.token("ada", *scopes))
    check_problem(await secured.http.request(method, path, headers=headers, json={}), "wrong_scope")
    assert await secured.size() == before


async def test_expired_access_token_is_refused(secured: Site) -> None:
    """From its last second on a token is worth nothing."""
    headers = bearer(secured.token("ada", Scope.READ, for_s=10))
    assert (await secured.http.get("/v1/jobs/1", headers=headers)).status_code == 404
    await secured.pass_s(10)
    check_problem(await secured.http.get("/v1/jobs/1", headers=headers), "token_expired")


async def test_access_token_of_the_future_is_refused(secured: Site) -> None:
    """A token that is not valid yet is not valid."""
    headers = bearer(secured.token("ada", Scope.READ, from_s=3600))
    check_problem(await secured.http.get("/v1/jobs/1", headers=headers), "bad_token")


async def test_expired_enrolment_token_is_refused(secured: Site) -> None:
    """A worker must enrol again in time."""
    ann = await volunteer(secured)
    told = claims_of(ann.token)
    now = secured.office.now_s()
    old = {**told, "iat": now - 100, "exp": now}
    head = {"alg": "EdDSA", "kid": kid_of(secured.office.keys.token_current.public_key()), "typ": "gnexec-worker+jwt"}
    ann.token = forge(head, old, secured.office.keys.token_current)
    check_problem(await ann.ask(), "token_expired")


async def test_token_of_another_kind_opens_nothing(secured: Site) -> None:
    """Each kind of token opens its own doors: an enrolment token reads no jobs, an access token takes none."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    before = await secured.size()
    access = bearer(secured.token("ada", *[scope for scope in Scope if scope is not Scope.WORK]))
    check_problem(await secured.http.get("/v1/jobs/1", headers=ann.headers), "bad_token")
    check_problem(await secured.http.get("/v1/jobs/1", headers=taken.headers), "bad_token")
    check_problem(await secured.http.get("/jobs/next", headers=access), "bad_token")
    check_problem(await secured.http.get("/jobs/next", headers=taken.headers), "bad_token")
    check_problem(await secured.http.put("/jobs/1/status", json={}, headers=access), "bad_token")
    check_problem(await secured.http.put("/jobs/1/status", json={}, headers=ann.headers), "bad_token")
    assert await secured.size() == before


async def test_enrolment_token_with_the_key_of_another_worker_is_refused(secured: Site) -> None:
    """A token that names one worker and another's key fits neither."""
    ann, eve = await volunteer(secured, "ann"), await volunteer(secured, "eve")
    head = {"alg": "EdDSA", "kid": kid_of(secured.office.keys.token_current.public_key()), "typ": "gnexec-worker+jwt"}
    mixed = {**claims_of(ann.token), "cnf": claims_of(eve.token)["cnf"]}
    ann.token = forge(head, mixed, secured.office.keys.token_current)
    check_problem(await ann.ask(), "wrong_key")


async def test_open_modes_job_token_is_worth_nothing_in_secured_mode(secured: Site) -> None:
    """A token without a worker's key would be good for whoever holds it."""
    job = await secured.submit()
    taken = await (await volunteer(secured)).take()
    claims = {name: value for name, value in claims_of(taken.token).items() if name != "cnf"}
    head = {"alg": "EdDSA", "kid": kid_of(secured.office.keys.token_current.public_key()), "typ": "gnexec-job+jwt"}
    bare = forge(head, claims, secured.office.keys.token_current)
    reply = await secured.http.put(f"/jobs/{job}/result", json={"exit_code": 0, "stdout": "x"}, headers=bearer(bare))
    check_problem(reply, "wrong_key")


async def test_raw_command_is_refused_unless_the_operator_allows_it(
    keys: ServerKeys, tmp_path: Path, logs: Logs
) -> None:
    """Volunteers run what the operator lets in."""
    async with open_site(keys, tmp_path, logs, allow_raw=False) as site:
        reply = await site.http.post("/v1/jobs", json={"cmd": "id"}, headers=site.person())
        check_problem(reply, "raw_refused")


async def test_foreign_job_and_unknown_job_are_the_same_404(secured: Site) -> None:
    """Nobody learns from an answer that a job exists; the two differ in the number alone."""
    job = await secured.submit()
    eve = secured.person("eve")
    for path in ("", "/result", "/stdout", "/stderr", "/outputs/x", "/attempts", "/receipt", "/explain", "/events"):
        foreign = await secured.http.get(f"/v1/jobs/{job}{path}", headers=eve)
        unknown = await secured.http.get(f"/v1/jobs/{job + 7}{path}", headers=eve)
        check_problem(foreign, "not_found")
        assert foreign.text == unknown.text.replace(str(job + 7), str(job))
        assert sorted(foreign.headers.keys()) == sorted(unknown.headers.keys())
    foreign, unknown = [await secured.http.post(f"/v1/jobs/{n}:cancel", headers=eve) for n in (job, job + 7)]
    assert foreign.text == unknown.text.replace(str(job + 7), str(job))
    check_problem(foreign, "not_found")


async def test_same_digest_in_another_project_is_another_job(secured: Site) -> None:
    """A project does not learn what others have computed."""
    mine = await secured.submit(secured.person("ada", "bxd"))
    theirs = await secured.submit(secured.person("bob", "hs1940"))
    assert mine != theirs
    assert await secured.submit(secured.person("cem", "bxd")) == mine


async def test_cancel_by_one_of_two_owners_leaves_the_job_to_the_other(secured: Site) -> None:
    """A job has a set of owners; the last one's cancel stops it."""
    job = await secured.submit(secured.person("ada"))
    await secured.submit(secured.person("bob"))
    cancelled = await secured.http.post(f"/v1/jobs/{job}:cancel", headers=secured.person("ada"))
    assert cancelled.json()["state"] == "queued"
    cancelled = await secured.http.post(f"/v1/jobs/{job}:cancel", headers=secured.person("bob"))
    assert cancelled.json()["state"] == "cancelled"
    assert (await secured.http.get(f"/v1/jobs/{job}", headers=secured.person("ada"))).json()["state"] == "cancelled"


async def test_token_of_another_origin_is_refused(secured: Site) -> None:
    """Another server's token is not ours, even under our own key."""
    now = secured.office.now_s()
    claims = AccessClaims(
        iss="other.test/log",
        aud="other.test/log",
        jti="A" * 22,
        sub="ada",
        scope="read",
        project="bxd",
        iat=now,
        exp=now + 60,
    )
    headers = bearer(sign(claims, secured.office.keys.token_current))
    check_problem(await secured.http.get("/v1/jobs/1", headers=headers), "wrong_audience")
