"""A whole server within the test: real office, real store, real signatures; only the clock is the test's.

The application is called in process, so that a test may look into the office and tell the time; what a socket adds is
tested in `test_serving`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx2
from starlette.applications import Starlette

from gnexec.core.events import AnyEvent
from gnexec.desk.clock import Clock
from gnexec.desk.office import Office, open_office
from gnexec.errors import REFUSALS
from gnexec.ids import b64url
from gnexec.keys import ServerKeys
from gnexec.settings import ServerSettings
from gnexec.tokens.issued import AccessClaims, Scope, write_scope
from gnexec.tokens.reading import sign
from gnexec.web.app import make_app
from gnexec.wire import decode_event
from tests.web.clocks import FakeClock
from tests.web.logs import Logs

Json: TypeAlias = Any
"""What JSON can say, and what tests put in its place."""
ORIGIN: Final = "web.test/gnexec"
STEP_MS: Final = 2_000
"""Time passes in steps that the desk does not take for an outage."""


@dataclass(slots=True)
class Site:
    """An open server and a client of it."""

    app: Starlette
    office: Office
    clock: FakeClock
    http: httpx2.AsyncClient

    async def size(self) -> int:
        """Return the number of entries in the log."""
        return await self.office.desk.ask(lambda view: view.world.size)

    async def events(self) -> list[AnyEvent]:
        """Return everything that the log says."""
        entries = await self.office.desk.ask(lambda view: view.store.entries(0, view.world.size))
        return [decode_event(entry.payload) for entry in entries]

    async def pass_s(self, seconds: float) -> None:
        """Let time pass while the server runs; leases lapse on the way."""
        left = round(seconds * 1000)
        while left:
            step = min(left, STEP_MS)
            self.clock.steady_ms += step
            left -= step
            await self.office.desk.ask(lambda view: view.world.size)

    def token(self, sub: str, *scopes: Scope, project: str = "bxd", from_s: int = 0, for_s: int = 3600) -> str:
        """Issue an access token; with `from_s`, that many seconds from now."""
        iat = self.office.now_s() + from_s
        claims = AccessClaims(
            iss=ORIGIN,
            aud=ORIGIN,
            jti=b64url(secrets.token_bytes(16)),
            sub=sub,
            scope=write_scope(scopes),
            project=project,
            iat=iat,
            exp=iat + for_s,
        )
        return sign(claims, self.office.keys.token_current)

    def person(self, sub: str = "ada", project: str = "bxd") -> dict[str, str]:
        """Return the headers of someone who hands in jobs and reads them; none in open mode."""
        return {} if self.office.open_mode else bearer(self.token(sub, Scope.SUBMIT, Scope.READ, project=project))

    async def submit(self, headers: dict[str, str] | None = None, /, **body: Json) -> int:
        """Hand in a job and return its id."""
        asked = body if "cmd" in body else {"argv": ["echo", "hi"], **body}
        reply = await self.http.post("/v1/jobs", json=asked, headers=self.person() if headers is None else headers)
        assert reply.status_code in (200, 201), reply.text
        return int(reply.json()["id"])


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def open_site(
    keys: ServerKeys, data: Path, logs: Logs, *, clock: FakeClock | None = None, **settings: Json
) -> AsyncIterator[Site]:
    """Open a server over a log of `logs`; leases are a minute long, deadlines 20 s behind the wall time."""
    told = clock or FakeClock()
    with logs(told.wall) as log:
        given = {"lease_s": 60, "grace_s": 20, "allow_raw": True, **log.settings, **settings}
        chosen = ServerSettings(data=data, **given)

        async def opened() -> Office:
            return open_office(chosen, keys, log.store, Clock(told.steady))

        app = make_app(opened)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://web.test") as client,
        ):
            yield Site(app, app.state.office, told, client)


def check_problem(reply: httpx2.Response, *codes: str) -> dict[str, Any]:
    """Make sure that a reply is a problem of RFC 9457 with all that we promise, of one of these codes; return it."""
    assert reply.headers["content-type"] == "application/problem+json", (reply.status_code, reply.text[:500])
    told: dict[str, Any] = reply.json()
    assert {"type", "title", "status", "detail", "code"} <= set(told)
    assert told["type"] == f"/problems/{told['code']}"
    assert (told["status"], told["title"]) == REFUSALS[told["code"]]
    assert told["status"] == reply.status_code
    assert told["detail"]
    assert not codes or told["code"] in codes, told
    if reply.status_code == httpx2.codes.UNAUTHORIZED:
        assert reply.headers["www-authenticate"].startswith("Bearer")
    assert len(reply.content) < 4096
    return told
