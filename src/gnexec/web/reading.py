"""Reading requests: parameters and tokens; nothing is looked up here but keys."""

from __future__ import annotations

import hashlib
import re
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from gnexec.desk.jobtokens import JobToken, job_token
from gnexec.desk.office import Caller, Office
from gnexec.errors import Refused
from gnexec.ids import MAX_SAFE_INT
from gnexec.tokens.issued import AccessClaims, EnrolmentClaims, Scope
from gnexec.tokens.reading import check_times, read_access_token, read_enrolment_token, require_scope
from gnexec.web.bodies import check_json_media, check_length_header, parse_json, read_body
from gnexec.web.gate import MAX_UNPROVEN

MAX_REQ_CHARS: Final = 128
MAX_WAIT_S: Final = 300.0
_MAX_DIGITS: Final = 16  # longer is out of every range


T = TypeVar("T")


class _InBody(msgspec.Struct):
    """The job token in a body, whatever else is there."""

    token: str | None = None


def check_length(field: str, text: str | None, most: int) -> None:
    """Make sure that an optional text has 1 to `most` characters.

    Raises:
        Refused: invalid.
    """
    if text is not None and not 1 <= len(text) <= most:
        raise Refused("invalid", "The length is wrong.", field=field, mend=f"Give 1 to {most} characters.")


def bearer(request: Request) -> str | None:
    """Return the token in the Authorization header, or None."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise Refused("no_token", "The header is not a bearer token.", field="Authorization", mend="Send Bearer TOKEN.")
    return text.strip()


async def job_and_json(request: Request, office: Office, kind: type[T], most: int) -> tuple[JobToken, T]:
    """Return the job token and the body of a call that needs both; the token is judged first.

    Raises:
        Refused: too_large, bad_media; no_token, bad_token and its like; malformed, invalid.
    """
    check_json_media(request)
    text = bearer(request)
    # Nobody has shown anything yet whose token is still to come in the body, so it is not given much room; but in open
    # mode the whole output comes with it.
    if text is not None:
        check_length_header(request, most)
        token = job_token(office, text)
        return token, parse_json(await read_body(request, most), kind)
    data = await read_body(request, most if office.open_mode else min(most, MAX_UNPROVEN), proven=False)
    text = parse_json(data, _InBody).token
    if not text:
        raise _no_token("job")
    return job_token(office, text), parse_json(data, kind, checked=True)


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
    claims = read_access_token(text, office.keyring.known, origin=office.origin, now_s=office.now_s())
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
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    origin = office.keys.origin  # asked first: if a key was revoked, what was read under it is forgotten
    claims = office.enrolled.get(digest)
    if claims is None:
        claims = read_enrolment_token(text, office.keyring.known, origin=origin, now_s=office.now_s())
        return office.enrolled.put(digest, claims)
    check_times(claims, office.now_s())
    return claims


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
    if not text.isascii() or not text.isdecimal() or len(text) > _MAX_DIGITS or not low <= int(text) <= high:
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


def _no_token(kind: str) -> Refused:
    return Refused(
        "no_token",
        f"This needs the {kind} token.",
        field="Authorization",
        mend="Send it as Authorization: Bearer TOKEN.",
    )
