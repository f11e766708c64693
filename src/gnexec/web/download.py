"""Files sent out: whole, in part, or not at all where the client has them already (RFC 9110, sections 13 and 14).

Every file here is named by its digest, so its entity tag is strong and never changes. One range a request is served; a
`Range` that is malformed, or asks for several at once, is passed over, as the RFC allows, and the whole file is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from gnexec.core.spec import Stored
from gnexec.errors import Refused
from gnexec.web.resource import problem

_RANGE: Final = re.compile(r"bytes=([0-9]{1,16})?-([0-9]{1,16})?")
_SAFE: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}


def download(
    request: Request, path: Path, stored: Stored, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response that sends a file, or the part of it that is asked for.

    Args:
        request: GET or HEAD.
        path: where the file lies.
        stored: its digest and size.
        media_type: as what it is sent; never sniffed, never run by a browser.
        headers: to be sent along.
    """
    etag = f'"{stored.sha256}"'
    sent = {**_SAFE, **(headers or {}), "ETag": etag}
    if _has(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=sent)
    if request.headers.get("if-range", etag) == etag and "range" in request.headers:
        wanted = _RANGE.fullmatch(request.headers["range"])
        if wanted is None or wanted[0] == "bytes=-" or _backwards(wanted[1], wanted[2]):
            # FileResponse looks at the request's own headers, and would answer in plain text.
            request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]
        elif not _begins_inside(wanted[1], wanted[2], stored.size):
            refused = problem(Refused("bad_range", f"The file has {stored.size} bytes.", field="Range"))
            refused.headers["Content-Range"] = f"bytes */{stored.size}"
            return refused
    return FileResponse(path, headers=sent, media_type=media_type)


def _has(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return etag in tags or "*" in tags


def _backwards(first: str | None, last: str | None) -> bool:
    return bool(first) and bool(last) and int(first or 0) > int(last or 0)


def _begins_inside(first: str | None, last: str | None, size: int) -> bool:
    if first:
        return int(first) < size
    return int(last or 0) > 0 and size > 0
