"""The application: all operations of all rooms, as one ASGI app over an open office."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gnexec.desk.meters import request_served
from gnexec.desk.office import Office
from gnexec.errors import Refused
from gnexec.web import files, logs, submitters, system, volunteers
from gnexec.web.gate import Gate
from gnexec.web.resource import Operation, Resource, problem

OpenOffice = Callable[[], Awaitable[Office]]


def make_app(open_office: OpenOffice) -> Starlette:
    """Make the application.

    Args:
        open_office: called when the server starts; what it returns is closed when the server stops.
    """
    operations = [op for room in (volunteers, submitters, files, logs, system) for op in room.operations()]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.office = office = await open_office()
        app.state.gate = gate = Gate(office)
        app.state.checks = system.Checks(office, operations)
        try:
            yield
        finally:
            gate.close()
            office.close()

    app = Starlette(routes=routes(operations), lifespan=lifespan, exception_handlers={HTTPException: _no_route})
    app.router.redirect_slashes = False
    app.state.operations = operations
    return app


def routes(operations: list[Operation]) -> list[Route]:
    """Make one route for each path; the more particular path goes first."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, Resource(ops)) for path, ops in by_path.items()]


async def _no_route(request: Request, _: Exception) -> Response:
    request_served(request.method, "none", 404, 0.0)
    return problem(Refused("not_found", f"There is nothing at {request.scope['path'][:200]}."))
