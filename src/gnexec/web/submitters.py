"""What submitters call: hand in jobs, watch them, fetch their results, cancel them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from gnexec.desk import explaining, history, showing, submitting
from gnexec.desk.office import Caller, Office
from gnexec.shapes import (
    AttemptsView,
    ExplainView,
    JobBody,
    JobView,
    ManyJobs,
    ManyJobViews,
    ReceiptsView,
    ResultView,
)
from gnexec.tokens.issued import Scope
from gnexec.web import bodies, reading
from gnexec.web.download import download
from gnexec.web.resource import Auth, Operation, Param, reply
from gnexec.web.waiting import Patience

_DECIDED = frozenset({"succeeded", "failed", "cancelled"})
_LIVE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_LATER = {"Cache-Control": "private, no-cache"}  # a decision may be revised


class _Many(msgspec.Struct):
    """Tells the two forms of a submission apart."""

    jobs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


async def submit(request: Request, office: Office) -> Response:
    """Hand in one job, or several as {"jobs": […]}: all of them or none."""
    caller = reading.submitter(request, office, Scope.SUBMIT)
    bodies.check_json_media(request)
    data = await bodies.read_body(request, office.settings.max_body_bytes)
    many = bodies.parse_json(data, _Many).jobs is not msgspec.UNSET
    if many:
        asked = bodies.parse_json(data, ManyJobs, checked=True).jobs
    else:
        asked = [bodies.parse_json(data, JobBody, checked=True)]
    key = request.headers.get("idempotency-key")
    reading.check_length("Idempotency-Key", key, 255)
    views, created = await submitting.submit(office, caller, asked, key=key)
    status = 201 if created else 200
    if many:
        return reply(ManyJobViews(jobs=views), status)
    return reply(views[0], status, {"Location": f"/v1/jobs/{views[0].id}"})


async def show(request: Request, office: Office) -> Response:
    """Show a job; with `wait`, as soon as it is decided."""
    caller = reading.submitter(request, office, Scope.READ)
    number, seconds = reading.job_id(request), reading.wait_s(request)
    view = await showing.show(office, caller, number)
    if seconds and view.state not in _DECIDED:
        view = await _wait_for_decision(request, office, caller, number, seconds)
    return reply(view, headers={"Cache-Control": "no-store"})


async def _wait_for_decision(request: Request, office: Office, caller: Caller, number: int, seconds: float) -> JobView:
    patience = Patience(request, seconds)
    try:
        async with office.feed.watching(number) as change:
            view = await showing.show(office, caller, number)
            while view.state not in _DECIDED and not office.feed.closing and await patience.until(change):
                change.clear()
                view = await showing.show(office, caller, number)
        return await showing.show(office, caller, number)
    finally:
        await patience.close()


async def result(request: Request, office: Office) -> Response:
    """Show a job's result; 202 while there is none."""
    caller = reading.submitter(request, office, Scope.READ)
    view = await showing.result(office, caller, reading.job_id(request))
    if view.state in _DECIDED:
        return reply(view)
    return reply(view, 202, {"Retry-After": "2"})


async def stdout(request: Request, office: Office) -> Response:
    """Fetch a job's standard output: of the accepted attempt, or the newest part of what a running one wrote."""
    caller = reading.submitter(request, office, Scope.READ)
    number = reading.job_id(request)
    live = await showing.live_output(office, caller, number)
    if live is not None:
        return Response(live, headers=_LIVE, media_type="text/plain")
    return await _captured(request, office, caller, "stdout")


async def stderr(request: Request, office: Office) -> Response:
    """Fetch a job's standard error."""
    caller = reading.submitter(request, office, Scope.READ)
    return await _captured(request, office, caller, "stderr")


async def output(request: Request, office: Office) -> Response:
    """Fetch an output of a job; ranges are served."""
    caller = reading.submitter(request, office, Scope.READ)
    path, stored = await showing.output(office, caller, reading.job_id(request), request.path_params["name"])
    return download(request, path, stored, "application/octet-stream", _LATER)


async def _captured(request: Request, office: Office, caller: Caller, name: str) -> Response:
    path, stored = await showing.captured(office, caller, reading.job_id(request), name)
    return download(request, path, stored, "text/plain", _LATER)


async def attempts(request: Request, office: Office) -> Response:
    """Show a job's attempts."""
    caller = reading.submitter(request, office, Scope.READ)
    return reply(await showing.attempts(office, caller, reading.job_id(request)))


async def receipt(request: Request, office: Office) -> Response:
    """Fetch what the log holds about a job, with proofs that can be checked offline."""
    caller = reading.submitter(request, office, Scope.READ)
    return reply(await showing.receipts(office, caller, reading.job_id(request)))


async def explain(request: Request, office: Office) -> Response:
    """Say why a job is where it is."""
    caller = reading.submitter(request, office, Scope.READ)
    return reply(await explaining.explain(office, caller, reading.job_id(request)))


async def cancel(request: Request, office: Office) -> Response:
    """Cancel a job; its workers are told to stop."""
    caller = reading.submitter(request, office, Scope.SUBMIT)
    return reply(await submitting.cancel(office, caller, reading.job_id(request)))


async def events(request: Request, office: Office) -> Response:
    """Follow a job as server-sent events; `Last-Event-ID` resumes behind that entry."""
    caller = reading.submitter(request, office, Scope.READ)
    number = reading.job_id(request)
    after = history.Place.parse(request.headers.get("last-event-id", ""))
    await showing.show(office, caller, number)
    return EventSourceResponse(_follow(office, caller, number, after), headers={"Cache-Control": "no-store"})


async def _follow(office: Office, caller: Caller, number: int, after: history.Place) -> AsyncIterator[ServerSentEvent]:
    async with office.feed.watching(number) as change:
        shared = history.follow(office, caller, number)
        while not office.feed.closing:
            change.clear()
            story = await shared.story()
            for place, happening in story.happenings:
                if after.before(place):
                    data: dict[str, Any] = msgspec.to_builtins(happening)
                    yield ServerSentEvent(json.dumps(data), event=happening.what, id=str(place))
                    after = place
            if story.closed:
                return
            await change.wait()


_WAIT = Param("wait", {"type": "number", "minimum": 0, "maximum": 300}, "Wait this many seconds until it is decided.")


def operations() -> list[Operation]:
    """List the operations."""
    job = "/v1/jobs/{job:number}"
    read = Auth.ACCESS
    return [
        Operation(
            "POST",
            "/v1/jobs",
            submit,
            {200: (JobView, ManyJobViews), 201: (JobView, ManyJobViews)},
            read,
            (JobBody, ManyJobs),
        ),
        Operation("POST", f"{job}:cancel", cancel, {200: JobView}, read),
        Operation("GET", job, show, {200: JobView}, read, query=(_WAIT,)),
        Operation("GET", f"{job}/result", result, {200: ResultView, 202: ResultView}, read),
        Operation("GET", f"{job}/stdout", stdout, {200: "text/plain"}, read),
        Operation("GET", f"{job}/stderr", stderr, {200: "text/plain"}, read),
        Operation("GET", f"{job}/outputs/{{name:path}}", output, {200: "application/octet-stream"}, read),
        Operation("GET", f"{job}/attempts", attempts, {200: AttemptsView}, read),
        Operation("GET", f"{job}/receipt", receipt, {200: ReceiptsView}, read),
        Operation("GET", f"{job}/explain", explain, {200: ExplainView}, read),
        Operation("GET", f"{job}/events", events, {200: "text/event-stream"}, read, head=False),
    ]
