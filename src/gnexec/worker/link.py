"""The worker's calls to its server, one method each, and how it waits when the server is away.

A call has three ends: its reply; `Refused`, when the server said no in its own words (a problem+json, RFC 9457); or
`Away`, when it is unknown whether the server has heard it, or it asks to come again. Every call here may be repeated
without harm: hand-outs by their `req`, results by their claims, blobs by their digest.

Rules:
- No redirect is followed: a secret goes to the server that was named, or nowhere.
- Nothing is logged here, and no error holds a header or a body.
- The server's clock counts: deadlines are compared with `now_s`, which follows the `Date` of its replies.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx2
import msgspec

from gnexec.errors import REFUSALS, GnexecError, Refused
from gnexec.shapes import (
    EnrolBody,
    EnrolReply,
    HeyView,
    JobWork,
    ManyJobWork,
    Problem,
    ResultBody,
    StatusBody,
    StatusReply,
    VerdictView,
)

T = TypeVar("T")

CALL_S: Final = 30.0
"""Silence of the server after which a call counts as lost, seconds."""
_CHUNK: Final = 1 << 20
_JSON: Final = {"Content-Type": "application/json"}
_COME_AGAIN: Final = frozenset({408, 425, 429})
_BY_STATUS: Final = {
    400: "malformed",
    401: "bad_token",
    403: "wrong_scope",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "too_late",
    413: "too_large",
    415: "bad_media",
    422: "invalid",
}


class Away(GnexecError):
    """The server did not answer, or asks to come again; whether it heard the call is unknown.

    Attributes:
        after_s: when to come again, seconds from now, if the server said so.
    """

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Patience:
    """How long to wait before the next try: twice as long each time, up to a bound, and not in step with others.

    Args:
        first_s: before the second try, on average three quarters of this.
        most_s: bound, unless the server asks for more.
    """

    def __init__(self, first_s: float = 0.5, most_s: float = 30.0) -> None:
        self._first_s = self._next_s = first_s
        self._most_s = most_s

    def wait_s(self, after_s: float | None = None) -> float:
        """Return the next wait; at least `after_s` where the server named a time, and up to a quarter more."""
        wait_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        if after_s is not None:
            return after_s * random.uniform(1.0, 1.25) + random.uniform(0.0, 0.5)  # noqa: S311 - spreads load only
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load only

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._next_s = self._first_s


class NoWork(msgspec.Struct, frozen=True):
    """There is none; come again in `after_s` seconds, 0 where the server did not say when."""

    after_s: float


class Link:
    """One server."""

    def __init__(self, url: str, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """Prepare; nothing is sent.

        Args:
            url: the server's address, such as "https://gnexec.example.org".
            transport: another way to the server, for tests.
        """
        self._http = httpx2.AsyncClient(
            base_url=url,
            transport=transport,
            timeout=httpx2.Timeout(CALL_S, connect=10.0, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            headers={"User-Agent": f"gnexec-worker/{version('gnexec')}", "Accept": "application/json"},
        )
        self._skew_s = 0.0
        self.heard_s = time.monotonic()
        """When the server was last heard of, by the monotonic clock."""

    def now_s(self) -> float:
        """Return the time by the server's clock, within about a second; our own until it was heard of."""
        return time.time() + self._skew_s

    async def hey(self) -> HeyView:
        """Ask who is there."""
        return _read(await self._call("GET", "/hey"), HeyView)

    async def enrol(self, body: EnrolBody, access_token: str) -> EnrolReply:
        """Ask to be admitted as a worker."""
        reply = await self._call("POST", "/v1/workers", access_token, content=msgspec.json.encode(body))
        return _read(reply, EnrolReply)

    async def next_jobs(self, enrolment_token: str | None, *, n: int, wait_s: float, req: str) -> ManyJobWork | NoWork:
        """Ask for work.

        Args:
            enrolment_token: None in open mode.
            n: attempts wanted, 1..64.
            wait_s: how long the server may wait for work to come, seconds.
            req: the request's id; asked again by the same id, the server gives the same attempts.
        """
        reply = await self._call(
            "GET",
            "/jobs/next",
            enrolment_token,
            params={"n": n, "wait": f"{wait_s:.3f}", "req": req},
            timeout=httpx2.Timeout(CALL_S, connect=10.0, read=wait_s + CALL_S, pool=None),
        )
        if reply.status_code == httpx2.codes.NO_CONTENT:
            return NoWork(_after_s(reply) or 0.0)
        work = _read(reply, _Handed)
        if work.jobs is not None and work.token is not None:
            return ManyJobWork(jobs=work.jobs, token=work.token)
        one = _read(reply, JobWork)
        if one.token is None:
            msg = "the server handed out a job without a token"
            raise Away(msg)
        return ManyJobWork(jobs=[one], token=one.token)

    async def status(self, job: int, job_token: str, body: StatusBody) -> StatusReply:
        """Tell how a job goes, and hear whether to go on."""
        reply = await self._call("PUT", f"/jobs/{job}/status", job_token, content=msgspec.json.encode(body))
        return _read(reply, StatusReply)

    async def result(self, job: int, job_token: str, body: ResultBody) -> VerdictView:
        """Answer for an attempt."""
        reply = await self._call("PUT", f"/jobs/{job}/result", job_token, content=msgspec.json.encode(body))
        return _read(reply, VerdictView)

    async def has_blob(self, sha256: str, job_token: str) -> bool:
        """Tell whether the server holds a file."""
        try:
            await self._call("HEAD", f"/v1/blobs/{sha256}", job_token)
        except Refused:
            return False  # a reply to HEAD has no body: whatever stands in the way, sending the file will tell
        return True

    async def put_blob(self, sha256: str, job_token: str, path: Path, size: int) -> None:
        """Send a file of `size` bytes, piece by piece."""

        async def pieces() -> AsyncIterator[bytes]:
            with path.open("rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        await self._call("PUT", f"/v1/blobs/{sha256}", job_token, content=pieces(), headers=headers)

    @asynccontextmanager
    async def blob(self, sha256: str, job_token: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Fetch a file, piece by piece; its digest is for the caller to check."""
        try:
            async with self._http.stream("GET", f"/v1/blobs/{sha256}", headers=_bearer(job_token)) as reply:
                self._note(reply)
                if not reply.is_success:
                    await reply.aread()
                _check(reply)
                yield reply.aiter_bytes()
        except (httpx2.HTTPError, httpx2.InvalidURL) as err:
            raise _away(err) from None

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Use the link for the length of a block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self.close()

    async def _call(
        self,
        method: str,
        path: str,
        secret: str | None = None,
        *,
        headers: Mapping[str, str] = {},
        **more: Any,  # noqa: ANN401 -- httpx2's own
    ) -> httpx2.Response:
        kinds = _JSON if isinstance(more.get("content"), bytes) else {}
        try:
            reply = await self._http.request(method, path, headers={**kinds, **headers, **_bearer(secret)}, **more)
        except (httpx2.HTTPError, httpx2.InvalidURL) as err:
            raise _away(err) from None  # the cause holds the request, and that holds a secret
        self._note(reply)
        _check(reply)
        return reply

    def _note(self, reply: httpx2.Response) -> None:
        if reply.status_code < httpx2.codes.INTERNAL_SERVER_ERROR:
            self.heard_s = time.monotonic()
        if date := email.utils.parsedate_tz(reply.headers.get("Date")):
            # The header is cut to whole seconds: half of one is the likeliest rest.
            skew_s = email.utils.mktime_tz(date) + 0.5 - time.time()
            self._skew_s = skew_s if abs(skew_s) > 1.0 else 0.0


class _Handed(msgspec.Struct):
    """What tells a hand-out of several from one of one."""

    token: str | None = None
    jobs: list[JobWork] | None = None


def _bearer(secret: str | None) -> dict[str, str]:
    return {} if secret is None else {"Authorization": f"Bearer {secret}"}


def _check(reply: httpx2.Response) -> None:
    """Raise what a reply that is no success means."""
    status = reply.status_code
    if reply.is_success:
        return
    if status not in _BY_STATUS or status in _COME_AGAIN:
        msg = f"the server answers {status}"
        raise Away(msg, _after_s(reply))
    try:
        problem = msgspec.json.decode(reply.content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused(_BY_STATUS[status], f"The server answers {status}.") from None
    code = problem.code if REFUSALS.get(problem.code, (0,))[0] == status else _BY_STATUS[status]
    raise Refused(code, problem.detail, field=problem.field, mend=problem.mend)


def _read(reply: httpx2.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        msg = "the answer is not that of a gnexec server"
        raise Away(msg) from None


def _after_s(reply: httpx2.Response) -> float | None:
    """Return the seconds of Retry-After (RFC 9110, section 10.2.3); its other form, a date, counts as none."""
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _away(err: Exception) -> Away:
    return Away(f"the server cannot be reached ({type(err).__name__}: {err})")
