"""Bodies of requests: read up to their cap, and within a time; JSON is strict.

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
from starlette.requests import Request

from gnexec.errors import Refused

T = TypeVar("T")

JSON_MEDIA: Final = frozenset({"application/json", "application/x-www-form-urlencoded", ""})
MAX_ECHO: Final = 200
"""Characters of a caller's own words that a refusal repeats."""
BODY_PAUSE_S: Final = 60
"""A body that pauses for longer is given up."""
_MAX_LENGTH_DIGITS: Final = 16
_PLACE: Final = re.compile(r" - at `\$?\.?(?P<field>[^`]*)`\Z")


async def read_body(request: Request, most: int) -> bytes:
    """Read a body whole.

    Args:
        request: not yet read.
        most: bytes accepted.

    Raises:
        Refused: too_large.
    """
    check_length_header(request, most)
    found: list[bytes] = []
    size = 0
    async for chunk in chunks(request):
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        found.append(chunk)
    return b"".join(found)


def check_length_header(request: Request, most: int) -> None:
    """Refuse a body that says to be too large, before any of it is read.

    Raises:
        Refused: too_large.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > _MAX_LENGTH_DIGITS or int(length) > most):
        raise _too_large(most)


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it comes.

    Raises:
        Refused: slow_body; nothing came for a while.
    """
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(BODY_PAUSE_S):
                chunk = await anext(stream, None)
        except TimeoutError as err:
            mend = "Send it without such pauses."
            raise Refused("slow_body", f"Nothing came for {BODY_PAUSE_S} s.", field="body", mend=mend) from err
        if chunk is None:
            return
        yield chunk


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


def parse_json(data: bytes, kind: type[T]) -> T:
    """Parse JSON strictly.

    Raises:
        Refused: malformed or invalid.
    """
    try:
        value = msgspec.json.decode(data, type=kind)
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
