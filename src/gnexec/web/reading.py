"""Reading requests: bodies, parameters and tokens; nothing is looked up here but keys.

A body is read up to its cap before anything else; JSON is strict. `curl -d` sends JSON under a form's media type, so the
three calls of GnExec take that too.
"""

from __future__ import annotations

import json
import re
import time
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from gnexec.desk.office import Caller, Office
from gnexec.desk.volunteering import JobToken, job_token
from gnexec.errors import Refused
from gnexec.ids import MAX_SAFE_INT
from gnexec.tokens.issued import AccessClaims, EnrolmentClaims, Scope
from gnexec.tokens.reading import read_access_token, read_enrolment_token, require_scope

T = TypeVar("T")

JSON_MEDIA: Final = frozenset({"application/json", "application/x-www-form-urlencoded", ""})
MAX_REQ_CHARS: Final = 128
MAX_WAIT_S: Final = 300.0
_FIELD: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<field>[^`]*)`)?$", re.DOTALL)


async def read_body(request: Request, most: int) -> bytes:
    """Read a body whole.

    Args:
        request: not yet read.
        most: bytes accepted.

    Raises:
        Refused: too_large.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json(request: Request, kind: type[T], most: int) -> T:
    """Read a JSON body of the type `kind`.

    Raises:
        Refused: too_large; bad_media; malformed (no JSON, or a name twice); invalid (names the field).
    """
    check_json_media(request)
    return parse_json(await read_body(request, most), kind)


def check_json_media(request: Request) -> None:
    """Make sure that the body says to be JSON, or says what curl says by default.

    Raises:
        Refused: bad_media.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in JSON_MEDIA:
        raise Refused("bad_media", f"A body of {media} cannot be read.", field="Content-Type", mend="Send JSON.")


def check_length(field: str, text: str | None, most: int) -> None:
    """Make sure that an optional text has 1 to `most` characters.

    Raises:
        Refused: invalid.
    """
    if text is not None and not 1 <= len(text) <= most:
        raise Refused("invalid", "The length is wrong.", field=field, mend=f"Give 1 to {most} characters.")


def parse_json(data: bytes, kind: type[T]) -> T:
    """Parse JSON strictly.

    Raises:
        Refused: malformed or invalid.
    """
    try:
        value = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as err:
        found = _FIELD.match(str(err))
        what, field = (found["what"], found["field"]) if found else (str(err), None)
        raise Refused("invalid", f"{what}.", field=field or "body", mend="See /openapi.json for the form.") from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise Refused("malformed", f"The body is not JSON: {err}.", field="body") from err
    try:
        json.loads(data, object_pairs_hook=_once)
    except _TwiceError as err:
        raise Refused("malformed", f"The name {err.args[0][:80]!r} is there twice.", field="body") from err
    return value


def bearer(request: Request) -> str | None:
    """Return the token in the Authorization header, or None."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise Refused("no_token", "The header is not a bearer token.", field="Authorization", mend="Send Bearer TOKEN.")
    return text.strip()


def submitter(request: Request, office: Office, scope: Scope) -> Caller:
    """Return who asks, by the access token; in open mode, anybody.

    Raises:
        Refused: no_token, bad_token and its like, wrong_scope.
    """
    if office.open_mode:
        return office.anonymous()
    claims, _ = access(request, office, scope)
    return office.caller(claims.sub, claims.project)


def access(request: Request, office: Office, scope: Scope) -> tuple[AccessClaims, str]:
    """Return the access token's claims and text.

    Raises:
        Refused: no_token, bad_token and its like, wrong_scope.
    """
    text = bearer(request)
    if text is None:
        raise _no_token("access")
    claims = read_access_token(text, office.keys.token_public, origin=office.origin, now_s=now_s())
    require_scope(claims, scope)
    return claims, text


def enrolment(request: Request, office: Office) -> EnrolmentClaims | None:
    """Return the enrolment token's claims; None in open mode.

    Raises:
        Refused: no_token, bad_token and its like.
    """
    if office.open_mode:
        return None
    text = bearer(request)
    if text is None:
        raise _no_token("enrolment")
    return read_enrolment_token(text, office.keys.token_public, origin=office.origin, now_s=now_s())


def job(request: Request, office: Office, in_body: str | None = None) -> JobToken:
    """Return the job token, from the header or else from the body.

    Raises:
        Refused: no_token, bad_token and its like.
    """
    text = bearer(request) or in_body
    if not text:
        raise _no_token("job")
    return job_token(office, text)


def job_id(request: Request) -> int:
    """Return the job id in the path; one that no job can have is not found."""
    number = int(request.path_params["job"])
    if not 1 <= number <= MAX_SAFE_INT:
        raise Refused("not_found", f"There is no job {str(number)[:20]} of yours.")
    return number


def integer(request: Request, name: str, low: int, high: int) -> int | None:
    """Return an integer query parameter, or None without it.

    Raises:
        Refused: invalid.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or not low <= int(text) <= high:  # noqa: PLR2004 -- longer is out of every range
        raise Refused(
            "invalid", "This is not a number in range.", field=name, mend=f"Give a whole number from {low} to {high}."
        )
    return int(text)


def wait_s(request: Request) -> float:
    """Return how long to wait, 0..300 seconds.

    Raises:
        Refused: invalid.
    """
    text = request.query_params.get("wait", "0")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise Refused("invalid", "This is not a number of seconds.", field="wait", mend="Give seconds, like 30.")
    return min(float(text), MAX_WAIT_S)


def request_id(request: Request) -> str | None:
    """Return the request's own id, or None.

    Raises:
        Refused: invalid.
    """
    text = request.query_params.get("req")
    check_length("req", text, MAX_REQ_CHARS)
    return text


def now_s() -> int:
    """Return the time by which tokens are judged, seconds since 1970."""
    return int(time.time())


class _TwiceError(ValueError):
    """A name stands twice in a JSON object."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError(next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1))
    return found


def _no_token(kind: str) -> Refused:
    return Refused(
        "no_token", f"This needs the {kind} token.", field="Authorization", mend="Send it as Authorization: Bearer TOKEN."
    )


def _too_large(most: int) -> Refused:
    return Refused("too_large", f"The body has more than {most} bytes.", field="body", mend="Upload large data as blobs.")
