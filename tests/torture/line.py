"""A client's line to the server: every call is repeated, as it was, until there is a whole reply that is final.

No reply, half a reply, and the statuses by which a server asks for patience are not final. Status 500 is never right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

from tests.torture.record import Record

PATIENCE_S = 120.0
"""A call that has no final reply for so long fails the test."""
_PAUSE_S = 0.25
_LATER = frozenset({429, 502, 503, 504})


@dataclass
class Line:
    """One client's connection; what it learns goes into the common record.

    Attributes:
        cancelling: jobs that somebody is about to cancel, or has cancelled.
    """

    url: str
    record: Record
    cancelling: set[int]
    http: httpx2.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        """Prepare; nothing is sent."""
        self.http = httpx2.AsyncClient(base_url=self.url, timeout=httpx2.Timeout(30.0, connect=5.0))

    async def call(
        self,
        method: str,
        path: str,
        token: str = "",
        body: Callable[[], bytes] | None = None,
        *,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        media: str = "json",
    ) -> httpx2.Response:
        """Ask until there is a final reply.

        Args:
            method: of HTTP.
            path: with its numbers.
            token: any token, or "".
            body: makes the body anew for each try, or None.
            params: query.
            headers: more of them.
            media: subtype of the body's media type.
        """
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            sent["Content-Type"] = f"application/{media}"
        give_up, last = time.monotonic() + PATIENCE_S, ""
        while time.monotonic() < give_up:
            content = None if body is None else body()
            try:
                reply = await self.http.request(method, path, params=params, headers=sent, content=content)
            except httpx2.HTTPError as err:
                last = type(err).__name__
                where = f" to {method} {self.url}{path}" if isinstance(err, httpx2.ReadTimeout) else ""
                self.record.counts[f"no reply: {last}{where}"] += 1
            else:
                assert reply.status_code != 500, (method, path, reply.text)
                if reply.status_code not in _LATER:
                    return reply
                last = reply.text
                self.record.counts[f"status {reply.status_code}"] += 1
            await asyncio.sleep(_PAUSE_S)
        msg = f"{method} {path} has had no final reply for {PATIENCE_S:.0f} s; the last: {last}"
        raise AssertionError(msg)
