"""One request to a server: sent, tried again where that may help, and its answer told apart from an error.

Tried again, within the caller's patience: a connection that fails, and the statuses 429, 502, 503 and 504, after the
time that `Retry-After` asks for. So every request sent through here must be safe to repeat. Redirects are not followed:
the access token is for the one server it was given for.

This module knows no call by name (`gnexec.client.api` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec
import stamina

from gnexec.errors import (
    REFUSALS,
    BadConfiguration,
    GnexecError,
    Refused,
    ServerUnreachable,
    StrangeAnswer,
)
from gnexec.shapes import Problem

T = TypeVar("T")

TIMEOUT_S: Final = 30.0
"""How long a connection, or a silence within an answer, may last; a long poll adds its own time."""
TRY_AGAIN: Final = frozenset({429, 502, 503, 504})
LONGEST_PAUSE_S: Final = 30.0
MOST_PROBLEM_BYTES: Final = 1 << 20


class TryAgain(Exception):
    """Something failed that may go well the next time.

    Attributes:
        error: what to raise if it never does.
        after_s: the pause that the server asked for, or None.
    """

    def __init__(self, error: GnexecError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


class Transport:
    """Requests to one server.

    Attributes:
        url: the server's address, without a slash at its end.
        patience_s: how long a request is tried again for, seconds; 0 for once only.
    """

    def __init__(self, url: str, token: str | None, *, patience_s: float) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: http or https, a host, perhaps a port and a path.
            token: the access token, or None.
            patience_s: see the class.

        Raises:
            BadConfiguration: the address cannot be used.
        """
        self.url = _checked(url)
        self.patience_s = patience_s
        headers = {"User-Agent": f"gnexec/{version('gnexec')}"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=False)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        reply: type[T],
        *,
        params: Mapping[str, str | int | float] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> T:
        """Send a request and return its decoded answer.

        Args:
            method: of HTTP.
            path: from the server's address on, escaped.
            reply: shape of the answer; fields that it does not have are let pass.
            params: query.
            body: encoded as JSON, or None for no body.
            headers: more headers.
            wait_s: how long the server may let the answer wait (long poll).

        Raises:
            Refused: the server refused it.
            ServerUnreachable: it never answered.
            StrangeAnswer: what answered is not understood.
        """
        content = None if body is None else msgspec.json.encode(body)
        more = dict(headers or {}) | ({} if content is None else {"Content-Type": "application/json"})

        def once() -> bytes:
            with self.open(method, path, params=params, content=content, headers=more, wait_s=wait_s) as response:
                return response.read()

        try:
            return msgspec.json.decode(self.persist(once), type=reply)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            msg = f"{self.url} answered {method} {path} in a form that is not understood: {err}."
            raise StrangeAnswer(msg) from err

    def fetch(self, path: str) -> bytes:
        """Return the bytes at `path`, as they are.

        Raises:
            GnexecError: as `call`.
        """

        def once() -> bytes:
            with self.open("GET", path) as response:
                return response.read()

        return self.persist(once)

    def persist(self, once: Callable[[], T]) -> T:
        """Return what `once` returns; call it again while it raises `TryAgain` and patience lasts.

        Raises:
            GnexecError: whatever `once` raises, or the error within the last `TryAgain`.
        """
        timeout = self.patience_s
        try:
            for attempt in stamina.retry_context(
                on=_pause, attempts=None if timeout > 0 else 1, timeout=timeout or None, wait_jitter=0.5
            ):
                with attempt:
                    return once()
        except TryAgain as again:
            raise again.error from again.__cause__
        raise AssertionError  # unreachable: the loop above returns or raises

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | float] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> Iterator[httpx2.Response]:
        """Send a request once and hold its answer open, its body not yet read.

        Raises:
            TryAgain: it failed, also while the caller read the body, in a way that may pass.
            Refused: the server refused it.
            StrangeAnswer: any other status than 2xx, without a problem that is understood.
        """
        timeout = httpx2.Timeout(TIMEOUT_S, read=TIMEOUT_S + wait_s)
        try:
            with self._http.stream(
                method, self.url + path, params=params, content=content, headers=dict(headers or {}), timeout=timeout
            ) as response:
                if not response.is_success:
                    raise self._error(response)
                yield response
        except httpx2.TransportError as err:
            raise TryAgain(ServerUnreachable(self.url, _reason(err))) from err
        except httpx2.HTTPError as err:
            msg = f"{self.url} answered {method} {path} in a form that is not understood: {err}."
            raise StrangeAnswer(msg) from err

    def _error(self, response: httpx2.Response) -> GnexecError | TryAgain:
        """Turn an answer that is no success into the error to raise."""
        problem = _problem(response)
        error: GnexecError
        if problem is not None and problem.code in REFUSALS:
            error = Refused(problem.code, problem.detail, field=problem.field, mend=problem.mend)
        elif problem is not None:
            error = StrangeAnswer(f"{self.url} refused: {problem.title} ({problem.code}): {problem.detail}")
        elif response.request.method == "HEAD" and response.status_code == 404:
            error = Refused("not_found", "There is no such thing here for you.")  # a HEAD has no body to say so
        elif response.status_code in TRY_AGAIN:
            error = ServerUnreachable(self.url, f"status {response.status_code} {response.reason_phrase}")
        else:
            status = f"{response.status_code} {response.reason_phrase}".strip()
            error = StrangeAnswer(f"{self.url} answered {status}; this is not how a gnexec server answers.")
        if response.status_code in TRY_AGAIN:
            return TryAgain(error, _seconds(response.headers.get("Retry-After")))
        return error


def _pause(err: Exception) -> bool | float:
    """Say whether to try again, and after how many seconds where the server asked for it."""
    if not isinstance(err, TryAgain):
        return False
    return True if err.after_s is None else err.after_s


def _seconds(retry_after: str | None) -> float | None:
    """Read a `Retry-After` of seconds (RFC 9110, section 10.2.3); its other form, a date, needs equal clocks."""
    if retry_after is None or not retry_after.isascii() or not retry_after.isdigit():
        return None
    return min(float(retry_after), LONGEST_PAUSE_S)


def _problem(response: httpx2.Response) -> Problem | None:
    """Read an error's body (RFC 9457), or return None if it is none."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/problem+json":
        return None
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > MOST_PROBLEM_BYTES:
            return None
    try:
        return msgspec.json.decode(bytes(data), type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _reason(err: httpx2.TransportError) -> str:
    """Say in a few words why a connection failed."""
    words = str(err).strip().rstrip(".")
    if isinstance(err, httpx2.TimeoutException):
        return "it does not answer in time"
    return words.partition("] ")[2] or words or type(err).__name__


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.username is not None or parts.query or parts.fragment or not url.isprintable() or " " in url:
        msg = f"{url!r} is not the address of a server. Give one like http://127.0.0.1:8000."
        raise BadConfiguration(msg)
    return url.rstrip("/")
