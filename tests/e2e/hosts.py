"""Several `gnexec serve` over one PostgreSQL database, as on several hosts with one folder of keys; for tests."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx2

from gnexec.keys import new_keys
from gnexec.tokens.issued import Scope
from tests.serving import Server, running_server
from tests.web.sites import ORIGIN, Json, Site, bearer
from tests.web.volunteers import Volunteer, volunteer


@contextmanager
def hosts(folder: Path, database: str, *flags: str, count: int = 2) -> Iterator[list[Server]]:
    """Run servers over one database, each at an address of its own."""
    new_keys(folder / "keys", folder / "public", ORIGIN)
    with ExitStack() as stack:
        flags = ("--database", database, "--allow-raw", *flags)
        yield [stack.enter_context(running_server(folder, *flags)) for _ in range(count)]


@dataclass(slots=True)
class Remote:
    """A running server, with what `tests.web.volunteers` need of a `Site`."""

    server: Server
    http: httpx2.AsyncClient

    @property
    def office(self) -> Remote:
        """Stand for the server's inside, which is elsewhere: it is asked for the time only."""
        return self

    def now_s(self) -> int:
        """Return the time."""
        return int(time.time())

    def token(self, sub: str, *scopes: Scope) -> str:
        """Issue an access token."""
        return self.server.access_token(sub, *scopes)

    def person(self, sub: str = "ada") -> dict[str, str]:
        """Return the headers of someone who hands in jobs and reads them."""
        return bearer(self.token(sub, Scope.SUBMIT, Scope.READ))

    async def submit(self, **body: Json) -> int:
        """Hand in a job and return its id."""
        asked = {"argv": ["echo", "hi"], "force_recompute": True, **body}
        reply = await self.http.post("/v1/jobs", json=asked, headers=self.person())
        assert reply.status_code in (200, 201), reply.text
        return int(reply.json()["id"])

    async def job(self, job: int, **params: Json) -> Json:
        """Show a job."""
        reply = await self.http.get(f"/v1/jobs/{job}", params=params, headers=self.person())
        assert reply.status_code == httpx2.codes.OK, reply.text
        return reply.json()

    async def volunteer(self, owner: str = "ann") -> Volunteer:
        """Enrol a new worker here."""
        return await volunteer(cast("Site", self), owner)

    def lend(self, one: Volunteer) -> Volunteer:
        """Return the same worker, who asks here from now on."""
        return Volunteer(cast("Site", self), one.owner, one.key, one.worker, one.token, one.uploaded)


@asynccontextmanager
async def remotes(servers: list[Server]) -> AsyncIterator[list[Remote]]:
    """Connect to servers."""
    async with AsyncExitStack() as stack:
        yield [
            Remote(one, await stack.enter_async_context(httpx2.AsyncClient(base_url=one.url, timeout=60)))
            for one in servers
        ]
