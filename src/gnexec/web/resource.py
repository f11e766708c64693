"""Operations as data, and the one way in which they are served.

An `Operation` says everything about one method of one path: what it reads and replies, which token it wants. Routes and
the OpenAPI description are both made from that list. `Resource` serves the operations of one path: it picks the method,
and turns every error into problem+json, so that no handler has to.

Numbers in a path are `{job:number}`: one too long for a job id is no such path, and is never converted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec
import structlog
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gnexec.desk.meters import request_served
from gnexec.desk.office import Office
from gnexec.errors import GnexecError, Refused, StoreAway
from gnexec.shapes import Problem
from gnexec.web.gate import Rank, rank_of
from gnexec.web.waiting import WAITED_S, drop_body

log = structlog.get_logger("gnexec.web")
RETRY_S: Final = {429: (1, 4), 503: (2, 8)}
"""After how long a client should come again, seconds by status: anything between, so that they do not come at once."""
QUIET_S: Final = 10.0
"""A store that nothing was heard against for so long, seconds, is back; what comes then is another outage."""
_MOST_REASONS: Final = 16
encode = msgspec.json.Encoder().encode

Handler = Callable[[Request, Office], Awaitable[Response]]
ROOT_LINKS: Final = {
    "root": {"href": "/"},
    "api": {"href": "/openapi.json"},
    "next": {"href": "/jobs/next"},
    "jobs": {"href": "/v1/jobs"},
}


class Auth(StrEnum):
    """Which token an operation wants."""

    NONE = "none"
    ACCESS = "access token"
    ENROLMENT = "enrolment token"
    JOB = "job token"


@dataclass(frozen=True, slots=True)
class Param:
    """A query parameter.

    Attributes:
        schema: its JSON schema.
    """

    name: str
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        path: as Starlette writes it.
        body: type of the JSON body, a media type for raw bytes, or None.
        replies: by status: type of the JSON reply, a media type, or None for an empty one.
        head: whether HEAD is answered as well (never where GET changes something).
    """

    method: str
    path: str
    handler: Handler
    replies: Mapping[int, Any]
    auth: Auth = Auth.NONE
    body: Any = None
    query: tuple[Param, ...] = ()
    head: bool = True


class Resource:
    """An ASGI application for the operations of one path.

    Attributes:
        path: the path's template, as Starlette writes it.
    """

    def __init__(self, operations: list[Operation]) -> None:
        """Serve these operations, all of one path."""
        self.path = operations[0].path
        self._handlers: dict[str, tuple[Handler, Rank, bool]] = {}
        for operation in operations:
            rank = rank_of(operation.method, operation.path)
            self._handlers[operation.method] = found = operation.handler, rank, operation.body is not None
            if operation.method == "GET" and operation.head:
                self._handlers["HEAD"] = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        found = self._handlers.get(scope["method"])
        if found is None:
            response = problem(Refused("method_not_allowed", f"{scope['method'][:20]} is not possible here."))
            response.headers["Allow"] = ", ".join(sorted(self._handlers))
        else:
            handler, rank, has_body = found
            state = scope["app"].state
            try:
                state.gate.check(rank, scope)
                if not has_body:
                    drop_body(scope)
                response = await handler(Request(scope, receive), state.office)
            except ClientDisconnect:
                return
            except Exception as err:  # noqa: BLE001 -- whatever goes wrong must be answered
                response = problem(err)
            finally:
                state.gate.let_go(scope)
        request_served(scope["method"], self.path, response.status_code, _taken_s(began, scope))
        await response(scope, receive, send)


class _Number(Convertor[int]):
    """A job id in a path."""

    regex = "[0-9]{1,16}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


def _taken_s(began: float, scope: Scope) -> float:
    """Return the seconds since `began` in which the request did not wait on purpose."""
    waited: float = scope.get(WAITED_S, 0.0)
    return max(time.perf_counter() - began - waited, 0.0)


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:  # noqa: ANN401 -- any shape
    """Return a JSON response of one of the shapes."""
    return Response(encode(value), status, headers, "application/json")


class _Outage:
    """Tells the operator once that the store is away, and again where the reason changes, not for each request."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._at_s = 0.0

    def note(self, why: str) -> None:
        """Note that the store did not answer a request."""
        now_s = time.monotonic()
        if now_s - self._at_s > QUIET_S or len(self._told) > _MOST_REASONS:
            self._told.clear()
        self._at_s = now_s
        if why not in self._told:
            self._told.add(why)
            log.error("the store is away", error=why)


_outage: Final = _Outage()


def problem(err: Exception) -> Response:
    """Return the problem+json (RFC 9457) for an error; what is not a refusal tells its caller nothing of the inside."""
    if isinstance(err, StoreAway):
        _outage.note(str(err))
        err = Refused("store_away", "The store does not answer.", mend="Try again.")
    elif not isinstance(err, Refused):
        level = log.critical if isinstance(err, GnexecError) else log.error
        level("a request failed", exc_info=err)
        err = Refused("internal", "The server failed. The operator's log says why.")
    body = Problem(
        type=f"/problems/{err.code}",
        title=err.title,
        status=err.status,
        detail=err.detail,
        code=err.code,
        field=err.field,
        mend=err.mend,
        links=ROOT_LINKS,
    )
    headers = {"Cache-Control": "no-store"}
    if err.status == 401:
        headers["WWW-Authenticate"] = f'Bearer error="{err.code}"'
    if err.status == 408:
        headers["Connection"] = "close"
    if err.status in RETRY_S:
        headers["Retry-After"] = str(random.randint(*RETRY_S[err.status]))  # noqa: S311 -- spreads load only
    return Response(encode(body), err.status, headers, "application/problem+json")
