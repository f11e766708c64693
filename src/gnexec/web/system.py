"""The server about itself: who it is, whether it is well, what it counts, which keys it signs with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from gnexec.core.events import JobState
from gnexec.core.world import World
from gnexec.desk import meters
from gnexec.desk.office import Office
from gnexec.errors import REFUSALS, BadConfiguration, Refused, StoreAway
from gnexec.shapes import HealthView, HeyView, ProblemKind
from gnexec.tokens.jwk import export_set
from gnexec.web.openapi import describe
from gnexec.web.resource import ROOT_LINKS, Operation, encode, reply
from gnexec.web.sharing import Shared

COUNTED_S: Final = 1.0
"""For how long what was counted is shown again: counting walks over all workers."""
PING_S: Final = 3.0
"""A store that takes longer to answer is away, to whoever asks whether the server is ready."""


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


class Checks:
    """What everyone may ask about a running server, and is found out for all of them together.

    Attributes:
        ping: whether the store answers. counted: what the log tells, in gauges. api: the OpenAPI document, encoded.
    """

    def __init__(self, office: Office, operations: list[Operation]) -> None:
        """Begin with nothing asked."""

        async def ping() -> None:
            await asyncio.to_thread(office.store.ping)

        async def count() -> _Counted:
            return await office.desk.ask(lambda view: _count(view.world))

        self.ping = Shared(ping)
        self.counted = Shared(count, COUNTED_S)
        self.api = encode(describe(operations))


async def readyz(request: Request, office: Office) -> Response:
    """Say whether the server can serve: the writer runs, the store answers, the clock has not jumped."""
    trouble = office.desk.trouble()
    if trouble is None:
        checks: Checks = request.app.state.checks
        try:
            await asyncio.wait_for(checks.ping.get(), PING_S)
        except TimeoutError:
            trouble = f"The store has not answered for {PING_S} s."
        except (StoreAway, BadConfiguration) as err:
            trouble = str(err)
    if trouble is not None:
        raise Refused("unready", trouble, mend="See the operator's log.")
    return reply(HealthView(ok=True, detail="ready"))


async def metrics(request: Request, _: Office) -> Response:
    """Count, for Prometheus."""
    checks: Checks = request.app.state.checks
    counted = await checks.counted.get()
    return Response(await asyncio.to_thread(meters.show, counted), media_type=CONTENT_TYPE_LATEST)


async def jwks(_: Request, office: Office) -> Response:
    """Show the public keys of the tokens."""
    return Response(export_set(office.keys.token_public), media_type="application/jwk-set+json")


async def openapi(request: Request, _: Office) -> Response:
    """Describe this interface: OpenAPI 3.1."""
    checks: Checks = request.app.state.checks
    return Response(checks.api, media_type="application/json")


async def problem_kind(request: Request, _: Office) -> Response:
    """Say what a problem's type stands for."""
    code = request.path_params["code"]
    if code not in REFUSALS:
        raise Refused("not_found", "There is no such problem.")
    status, title = REFUSALS[code]
    return reply(ProblemKind(type=f"/problems/{code}", title=title, status=status))


class _Counted(Collector):
    """What the log tells, as gauges: the same wherever it is asked, since every server folds the same log."""

    def __init__(self, gauges: list[GaugeMetricFamily]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Give them."""
        return self._gauges


def _gauge(name: str, told: str, rows: dict[str, float]) -> GaugeMetricFamily:
    """Make a gauge with a row for each state, or with a single one, under ""."""
    gauge = GaugeMetricFamily(name, told, labels=[] if "" in rows else ["state"])
    for state, value in rows.items():
        gauge.add_metric([state] if state else [], value)
    return gauge


def _count(world: World) -> _Counted:
    jobs = {str(state): float(world.jobs.count(state)) for state in (JobState.QUEUED, JobState.RUNNING)}
    outcomes: dict[str, float] = {}
    for worker in world.workers.values():
        for what, n in worker.tally.items():
            outcomes[what] = outcomes.get(what, 0) + n
    decided = {"succeeded": 0.0, "failed": 0.0, "cancelled": 0.0} | {str(k): float(v) for k, v in world.decided.items()}
    attempts = outcomes or {"succeeded": 0.0}
    return _Counted(
        [
            _gauge("gnexec_jobs", "Open jobs by state.", jobs),
            _gauge("gnexec_jobs_decided", "Jobs decided since the log began, by state.", decided),
            _gauge("gnexec_attempts_ended", "Attempts ended since the log began, by outcome.", attempts),
            _gauge("gnexec_hand_outs_open", "Hand-outs that are open.", {"": float(len(world.hand_outs))}),
            _gauge("gnexec_workers", "Workers ever seen.", {"": float(len(world.workers))}),
            _gauge("gnexec_log_entries", "Entries in the log.", {"": float(world.size)}),
        ]
    )


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
