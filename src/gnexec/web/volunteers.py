"""What volunteers call: the three calls of GnExec, many results at once, enrolment, and why there was no work."""

from __future__ import annotations

import random
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gnexec.desk import results, volunteering
from gnexec.desk.office import Office
from gnexec.shapes import (
    MAX_BATCH,
    EnrolBody,
    EnrolReply,
    JobWork,
    ManyJobWork,
    ManyResultsBody,
    ManyVerdicts,
    ResultBody,
    StatusBody,
    StatusReply,
    VerdictView,
    WhyView,
)
from gnexec.tokens.issued import EnrolmentClaims, Scope
from gnexec.web import bodies, reading
from gnexec.web.resource import Auth, Operation, Param, reply
from gnexec.web.waiting import Patience

RETRY_S: Final = (3, 8)
"""After how long one who got no work should ask again, seconds: anything between."""
SHORTEST: Final = 0.85
"""Least part of the time that a client would wait for work."""
_NO_STORE = {"Cache-Control": "no-store"}
_STATEMENTS = 256 << 10
_ENROLMENT = 64 << 10


async def next_jobs(request: Request, office: Office) -> Response:
    """Ask for work: one job, or up to `n` with one token for all of them."""
    worker = reading.enrolment(request, office)
    n = reading.integer(request, "n", 1, MAX_BATCH)
    req = reading.request_id(request)
    wait = reading.wait_s(request)
    if wait:
        found = await _wait_for_work(request, office, worker, n or 1, req, wait)
    else:
        found = await volunteering.next_jobs(office, worker, n=n or 1, req=req)
    if found is None:
        after_s = random.randint(*RETRY_S)  # noqa: S311 -- spreads load only
        links = {"Retry-After": str(after_s), "Link": '</v1/workers/me/why>; rel="why"'}
        return Response(status_code=204, headers=_NO_STORE | links)
    jobs, token = found
    return reply(jobs[0] if n is None else ManyJobWork(jobs=jobs, token=token), headers=_NO_STORE)


async def _wait_for_work(
    request: Request, office: Office, worker: EnrolmentClaims | None, n: int, req: str | None, seconds: float
) -> tuple[list[JobWork], str] | None:
    """Wait in line for work; a client that has gone is given none.

    Waits that begin together end apart, so that those who wait do not all come again at once.
    """
    patience = Patience(request, seconds * random.uniform(SHORTEST, 1.0))  # noqa: S311 -- spreads load only
    kind = volunteering.kind(office, worker)
    try:
        async with office.feed.idling(kind, n) as call:
            found = None
            if volunteering.may_have_work(office, worker, req):
                found = await volunteering.next_jobs(office, worker, n=n, req=req)
            while found is None and not _is_closing(office) and await patience.until(call):
                if _is_closing(office):
                    break
                call.clear()  # first: a call that comes while the desk is asked is a new one
                found = await volunteering.next_jobs(office, worker, n=n, req=req)
                if found is None:
                    office.feed.pass_on(call, volunteering.kind(office, worker))
                elif len(found[0]) < n:
                    office.feed.pass_on(call)
            if found is None and volunteering.was_answered(office, worker, req):
                found = await volunteering.next_jobs(office, worker, n=n, req=req)
        return found
    finally:
        await patience.close()


def _is_closing(office: Office) -> bool:
    return office.feed.closing


async def put_status(request: Request, office: Office) -> Response:
    """Tell how a job goes; the reply says whether to go on."""
    token, body = await reading.job_and_json(request, office, StatusBody, office.settings.max_body_bytes)
    return reply(await volunteering.tell_status(office, token, reading.job_id(request), body), headers=_NO_STORE)


async def put_result(request: Request, office: Office) -> Response:
    """Hand in the result of a job."""
    token, body = await reading.job_and_json(request, office, ResultBody, office.settings.max_body_bytes)
    return reply(await results.hand_in(office, token, reading.job_id(request), body), headers=_NO_STORE)


async def put_results(request: Request, office: Office) -> Response:
    """Hand in the results of several jobs of one hand-out, in one signed statement."""
    token, body = await reading.job_and_json(request, office, ManyResultsBody, _STATEMENTS)
    return reply(await results.hand_in_many(office, token, body.statement), headers=_NO_STORE)


async def enrol(request: Request, office: Office) -> Response:
    """Enrol a worker: it proves to hold its key, and tells what it offers."""
    claims, text = reading.access(request, office, Scope.ENROL)
    body = await bodies.read_json(request, EnrolBody, _ENROLMENT)
    reply_body = await volunteering.enrol(office, claims, text, body, office.now_s())
    return reply(reply_body, 201, _NO_STORE)


async def why(request: Request, office: Office) -> Response:
    """Say why there is no work for this worker now."""
    return reply(await volunteering.why(office, reading.enrolment(request, office)), headers=_NO_STORE)


_N = Param(
    "n", {"type": "integer", "minimum": 1, "maximum": MAX_BATCH}, "Ask for up to this many; replies in list form."
)
_WAIT = Param("wait", {"type": "number", "minimum": 0, "maximum": 300}, "Wait this many seconds for it.")
_REQ = Param(
    "req", {"type": "string", "minLength": 1, "maxLength": 128}, "The request's own id: repeating it repeats the reply."
)


def operations() -> list[Operation]:
    """List the operations; GnExec's three calls stand at the root and under /v1."""
    found = []
    for root in ("", "/v1"):
        found += [
            Operation(
                "GET",
                f"{root}/jobs/next",
                next_jobs,
                {200: (JobWork, ManyJobWork), 204: None},
                Auth.ENROLMENT,
                query=(_N, _WAIT, _REQ),
                head=False,
            ),
            Operation(
                "PUT", f"{root}/jobs/{{job:number}}/status", put_status, {200: StatusReply}, Auth.JOB, StatusBody
            ),
            Operation(
                "PUT", f"{root}/jobs/{{job:number}}/result", put_result, {200: VerdictView}, Auth.JOB, ResultBody
            ),
        ]
    return [
        *found,
        Operation("PUT", "/v1/results", put_results, {200: ManyVerdicts}, Auth.JOB, ManyResultsBody),
        Operation("POST", "/v1/workers", enrol, {201: EnrolReply}, Auth.ACCESS, EnrolBody),
        Operation("GET", "/v1/workers/me/why", why, {200: WhyView}, Auth.ENROLMENT),
    ]
