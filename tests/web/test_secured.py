"""Secured mode from end to end: enrolment by proof of possession, two owners, a quorum of two."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import JobDecided, ResultsReported
from gnexec.ids import b64url
from gnexec.tokens.issued import Scope
from gnexec.tokens.jwk import kid_of, public_jwk
from tests.tokens.forgery import forge
from tests.web.sites import ORIGIN, Site, bearer, check_problem
from tests.web.volunteers import OFFER, Volunteer, random_id, volunteer

pytestmark = pytest.mark.anyio
TWO = {"redundancy": {"replicas": 2, "quorum": 2}}
SMALL_ORDER = bytes(32)
"""The public key y = 0, of order 4."""


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
    assert [reason["code"] for reason in why.json()["reasons"]] == ["owner_has_it"]
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
    assert [event.canonical for event in events if isinstance(event, JobDecided)] == [1]


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
    taken = [type((await_free := None), (), {}) for _ in ()]  # noqa: F841
    from tests.web.volunteers import HandOut

    each = [HandOut(work, reply["token"]) for work in reply["jobs"]]
    answers = [ann.answer(one) for one in each]
    await ann.upload(each[0], *answers[0].blobs)
    statement = ann.statement(each[0], *(answer.result for answer in answers))
    told = await secured.http.put("/v1/results", json={"statement": statement}, headers=each[0].headers)
    assert [(row["job"], row["verdict"]) for row in told.json()["results"]] == [(job, "valid") for job in jobs]
    assert len(told.json()["receipts"]) == 1
