"""The server about itself: who it is, whether it is well, what it counts, which keys it signs with."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from gnexec.core.events import JobState
from gnexec.core.world import World
from gnexec.desk.office import Office
from gnexec.errors import REFUSALS, Refused, StoreAway
from gnexec.shapes import HealthView, HeyView, ProblemKind
from gnexec.tokens.jwk import export_set
from gnexec.web.openapi import describe
from gnexec.web.resource import ROOT_LINKS, Operation, reply


async def hey(_: Request, office: Office) -> Response:
    """Say who answers, and where things are."""
    return reply(
        HeyView(
            i_am="gnexec",
            version=version("gnexec"),
            origin=office.origin,
            open=office.open_mode,
            links=ROOT_LINKS | {"checkpoint": {"href": "/checkpoint"}, "keys": {"href": "/.well-known/jwks.json"}},
        )
    )


async def healthz(_: Request, office: Office) -> Response:
    """Say that the process lives."""
    return reply(HealthView(ok=True, detail=f"{office.origin} lives"))


async def readyz(_: Request, office: Office) -> Response:
    """Say whether the server can serve: the writer runs, the store answers, the clock has not jumped."""
    trouble = office.desk.trouble()
    if trouble is None:
        try:
            await asyncio.to_thread(office.store.ping)
        except StoreAway as err:
            trouble = str(err)
    if trouble is not None:
        raise Refused("unready", trouble, mend="See the operator's log.")
    return reply(HealthView(ok=True, detail="ready"))


async def metrics(_: Request, office: Office) -> Response:
    """Count, for Prometheus."""
    counted = await office.desk.ask(lambda view: _count(view.world))
    registry = CollectorRegistry()
    for (name, help_text), rows in counted.items():
        gauge = Gauge(name, help_text, ["state"] if "" not in rows else [], registry=registry)
        for label, value in rows.items():
            (gauge.labels(label) if label else gauge).set(value)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def jwks(_: Request, office: Office) -> Response:
    """Show the public keys of the tokens."""
    return Response(export_set(office.keys.token_public), media_type="application/jwk-set+json")


async def openapi(request: Request, _: Office) -> Response:
    """Describe this interface: OpenAPI 3.1."""
    return reply(describe(request.app.state.operations))


async def problem_kind(request: Request, _: Office) -> Response:
    """Say what a problem's type stands for."""
    code = request.path_params["code"]
    if code not in REFUSALS:
        raise Refused("not_found", "There is no such problem.")
    status, title = REFUSALS[code]
    return reply(ProblemKind(type=f"/problems/{code}", title=title, status=status))


def _count(world: World) -> dict[tuple[str, str], dict[str, float]]:
    jobs = {str(state): float(world.jobs.count(state)) for state in (JobState.QUEUED, JobState.RUNNING)}
    outcomes: dict[str, float] = {}
    for worker in world.workers.values():
        for what, n in worker.tally.items():
            outcomes[what] = outcomes.get(what, 0) + n
    decided = {"succeeded": 0.0, "failed": 0.0, "cancelled": 0.0} | {str(k): float(v) for k, v in world.decided.items()}
    return {
        ("gnexec_jobs", "Open jobs by state."): jobs,
        ("gnexec_jobs_decided_total", "Jobs decided since the log began, by state."): decided,
        ("gnexec_attempts_total", "Attempts ended since the log began, by outcome."): outcomes or {"succeeded": 0.0},
        ("gnexec_hand_outs_open", "Hand-outs that are open."): {"": float(len(world.hand_outs))},
        ("gnexec_workers", "Workers ever seen."): {"": float(len(world.workers))},
        ("gnexec_log_entries", "Entries in the log."): {"": float(world.size)},
    }


def operations() -> list[Operation]:
    """List the operations."""
    return [
        *(Operation("GET", path, hey, {200: HeyView}) for path in ("/", "/hey", "/v1")),
        Operation("GET", "/healthz", healthz, {200: HealthView}),
        Operation("GET", "/readyz", readyz, {200: HealthView}),
        Operation("GET", "/metrics", metrics, {200: "text/plain"}),
        Operation("GET", "/.well-known/jwks.json", jwks, {200: "application/jwk-set+json"}),
        Operation("GET", "/openapi.json", openapi, {200: "application/json"}),
        Operation("GET", "/problems/{code}", problem_kind, {200: ProblemKind}),
    ]
