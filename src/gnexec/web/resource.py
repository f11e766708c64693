"""Operations as data, and the one way in which they are served.

An `Operation` says everything about one method of one path: what it reads and replies, which token it wants. Routes and
the OpenAPI description are both made from that list. `Resource` serves the operations of one path: it picks the method,
and turns every error into problem+json, so that no handler has to.

Numbers in a path are `{job:number}`: one too long for a job id is no such path, and is never converted.
"""

from __future__ import annotations

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

from gnexec.desk.office import Office
from gnexec.errors import GnexecError, Refused, StoreAway
from gnexec.shapes import Problem

log = structlog.get_logger("gnexec.web")
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
    """An ASGI application for the operations of one path."""

    def __init__(self, operations: list[Operation]) -> None:
        """Serve these operations, all of one path."""
        self._handlers: dict[str, Handler] = {}
        for operation in operations:
            self._handlers[operation.method] = operation.handler
            if operation.method == "GET" and operation.head:
                self._handlers["HEAD"] = operation.handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        handler = self._handlers.get(scope["method"])
        if handler is None:
            response = problem(Refused("method_not_allowed", f"{scope['method'][:20]} is not possible here."))
            response.headers["Allow"] = ", ".join(sorted(self._handlers))
        else:
            try:
                response = await handler(Request(scope, receive), scope["app"].state.office)
            except ClientDisconnect:
                return
            except Exception as err:  # noqa: BLE001 -- whatever goes wrong must be answered
                response = problem(err)
        await response(scope, receive, send)


class _Number(Convertor[int]):
    """A job id in a path."""

    regex = "[0-9]{1,16}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:  # noqa: ANN401 -- any shape
    """Return a JSON response of one of the shapes."""
    return Response(encode(value), status, headers, "application/json")


def problem(err: Exception) -> Response:
    """Return the problem+json (RFC 9457) for an error; what is not a refusal tells its caller nothing of the inside."""
    if isinstance(err, StoreAway):
        log.error("the store is away", error=str(err))
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
    if err.status == 503:
        headers["Retry-After"] = "2"
    return Response(encode(body), err.status, headers, "application/problem+json")
