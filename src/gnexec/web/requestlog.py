"""One line in the operator's log for each request, about the request and about nobody.

It tells the method, the route's template (`/v1/jobs/{job}`, never the path), the status, the bytes sent and the time
taken. It does not tell ids, queries, headers or addresses: a reverse proxy knows those, and its operator decides.
"""

from __future__ import annotations

import time
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("gnexec.request")
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})


class RequestLog:
    """An ASGI application that lets another serve, and tells how it went."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`, whose endpoints tell their `path`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, sent = 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            log.info(
                "request",
                method=scope["method"] if scope["method"] in METHODS else "other",
                route=getattr(scope.get("endpoint"), "path", "none"),
                status=status or "no reply",
                sent_bytes=sent,
                ms=round((time.perf_counter() - began) * 1000, 1),
            )
