"""Bodies of requests: read up to their cap, within a time, and within what all of them may hold; JSON is strict.

`curl -d` sends JSON under a form's media type, so that is taken for JSON too, but not from a page in a browser: another
site's page could send it without asking first (CORS), and in open mode nothing else would hold it back.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from gnexec.errors import Refused
from gnexec.web.gate import Gate

T = TypeVar("T")

JSON_MEDIA: Final = frozenset({"application/json", "application/x-www-form-urlencoded", ""})
MAX_ECHO: Final = 200
"""Characters of a caller's own words that a refusal repeats."""
BODY_PAUSE_S: Final = 60
"""A body that pauses for longer is given up; so is one that comes more slowly than this and `SLOWEST` allow."""
UNPROVEN_PAUSE_S: Final = 10
"""The same for a body that comes before any token."""
SLOWEST: Final = 1024
"""Bytes a second that a body must come at, in the long run."""
_MAX_LENGTH_DIGITS: Final = 16
_PLACE: Final = re.compile(r" - at `\$?\.?(?P<field>[^`]*)`\Z")


async def read_body(request: Request, most: int, *, proven: bool = True) -> bytes:
    """Read a body whole.

    Args:
        request: not yet read.
        most: bytes accepted.
        proven: whether its sender has shown a token, or none is needed; the others share a small part of the room.

    Raises:
        Refused: too_large; slow_body; overloaded (all bodies together are too much).
    """
    check_length_header(request, most)
    found: list[bytes] = []
    size = 0
    async for chunk in chunks(request, BODY_PAUSE_S if proven else min(BODY_PAUSE_S, UNPROVEN_PAUSE_S)):
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        _hold(request, len(chunk), proven=proven)
        found.append(chunk)
    return found[0] if len(found) == 1 else b"".join(found)


def check_length_header(request: Request, most: int) -> None:
    """Refuse a body that says to be too large, before any of it is read.

    Raises:
        Refused: too_large.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > _MAX_LENGTH_DIGITS or int(length) > most):
        raise _too_large(most)


async def chunks(request: Request, pause_s: float | None = None) -> AsyncIterator[bytes]:
    """Yield the body as it comes.

    Args:
        request: not yet read.
        pause_s: the longest pause, seconds; None for `BODY_PAUSE_S`.

    Raises:
        Refused: slow_body; nothing came for a while, or too little.
        ClientDisconnect: nothing more will come.
    """
    now = asyncio.get_running_loop().time
    pause_s = BODY_PAUSE_S if pause_s is None else pause_s
    until = now() + pause_s
    more = True
    while more:
        try:
            async with asyncio.timeout(min(pause_s, until - now())):
                message = await request.receive()
        except TimeoutError as err:
            mend = f"Send it without long pauses, and at {SLOWEST} bytes a second at least."
            raise Refused("slow_body", "The body comes too slowly.", field="body", mend=mend) from err
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        until += len(chunk) / SLOWEST
        more = message.get("more_body", False)
        if chunk:
            yield chunk


def _hold(request: Request, size: int, *, proven: bool) -> None:
    gate: Gate = request.app.state.gate
    if not gate.hold(request.scope, size, proven=proven):
        raise Refused("overloaded", "All requests together hold too much.", field="body", mend="Send it again later.")


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
    if media not in JSON_MEDIA or (media != "application/json" and "origin" in request.headers):
        raise Refused("bad_media", f"A body of {media} cannot be read.", field="Content-Type", mend="Send JSON.")


def parse_json(data: bytes, kind: type[T], *, checked: bool = False) -> T:
    """Parse JSON strictly.

    Args:
        data: the body.
        kind: what it must be.
        checked: whether it was parsed here before, as something else: no name is there twice.

    Raises:
        Refused: malformed or invalid.
    """
    try:
        value = msgspec.json.decode(data, type=kind)
        if not checked:
            json.loads(data, object_pairs_hook=_once, parse_int=_short)
    except msgspec.ValidationError as err:
        place = _PLACE.search(str(err))
        what = str(err)[: place.start()] if place else str(err)
        field = place["field"] if place else ""
        mend = "See /openapi.json for the form."
        raise Refused("invalid", f"{what[:MAX_ECHO]}.", field=field[:MAX_ECHO] or "body", mend=mend) from err
    except _TwiceError as err:
        raise Refused("malformed", f"The name {err.args[0][:MAX_ECHO]!r} is there twice.", field="body") from err
    except RecursionError as err:
        raise Refused("malformed", "The body is nested too deeply.", field="body") from err
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        what = f"The body is not JSON: {str(err)[:MAX_ECHO]}." if data else "The body is empty."
        raise Refused("malformed", what, field="body", mend="Send JSON, such as '{\"progress\": 0.5}'.") from err
    return value


class _TwiceError(ValueError):
    """A name stands twice in a JSON object."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found


def _short(digits: str) -> int:
    """Stand in for an integer whose value nobody needs here, so that a long one costs nothing."""
    return len(digits)


def _too_large(most: int) -> Refused:
    return Refused(
        "too_large", f"The body has more than {most} bytes.", field="body", mend="Upload large data as blobs."
    )
