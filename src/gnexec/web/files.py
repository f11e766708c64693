"""Blobs over HTTP: uploaded by those who say their digest, read only by those with a right to them.

A digest alone opens nothing: whoever uploads a blob may name it afterwards; a job token reads its job's inputs. That a blob
exists already spares nobody the upload, or a digest that was overheard would be as good as the file.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from gnexec.desk import volunteering
from gnexec.desk.office import Office
from gnexec.desk.volunteering import JobToken
from gnexec.errors import Refused
from gnexec.ids import check_digest
from gnexec.shapes import FileView
from gnexec.tokens.issued import JobClaims, Scope
from gnexec.tokens.jws import claimed_typ
from gnexec.web import reading
from gnexec.web.resource import Auth, Operation, reply


async def put_blob(request: Request, office: Office) -> Response:
    """Upload a blob under its digest; repeating it is harmless."""
    digest = check_digest(request.path_params["sha256"], "sha256")
    principal = _uploader(request, office)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > office.settings.max_blob_bytes:
        raise Refused("too_large", f"A blob has at most {office.settings.max_blob_bytes} bytes here.", field="body")
    with office.blobs.writer() as writer:
        async for chunk in request.stream():
            writer.write(chunk)
        size = await asyncio.to_thread(writer.finish, digest)
    await volunteering.keep_blob(office, principal, digest)
    return reply(FileView(sha256=digest, size=size, href=f"/v1/blobs/{digest}"), 201)


async def get_blob(request: Request, office: Office) -> Response:
    """Download a blob that one may read; ranges are served."""
    digest = check_digest(request.path_params["sha256"], "sha256")
    token = _job_token(request, office)
    if token is not None:
        allowed = digest in await volunteering.inputs_of(office, token) or bool(
            office.store.granted(token.principal, [digest])
        )
    else:
        caller = reading.submitter(request, office, Scope.READ)
        allowed = bool(office.store.granted(caller.owner, [digest]))
    if not allowed or not office.blobs.has(digest):
        raise Refused("not_found", "There is no such blob here for you.")
    headers = {
        "ETag": f'"{digest}"',
        "Cache-Control": "private, immutable, max-age=31536000",
        "X-Content-Type-Options": "nosniff",
    }
    return FileResponse(office.blobs.path(digest), headers=headers, media_type="application/octet-stream")


def _uploader(request: Request, office: Office) -> str:
    token = _job_token(request, office)
    if token is None:
        return reading.submitter(request, office, Scope.SUBMIT).owner
    if reading.now_s() >= token.claims.exp:
        raise Refused("too_late", "The attempt's deadline has passed.", mend="Ask for new work.")
    return token.principal


def _job_token(request: Request, office: Office) -> JobToken | None:
    """Return the job token, if it is one that was sent."""
    text = reading.bearer(request)
    if text is not None and claimed_typ(text) == JobClaims.TYP:
        return reading.job(request, office)
    return None


def operations() -> list[Operation]:
    """List the operations."""
    path = "/v1/blobs/{sha256}"
    return [
        Operation("PUT", path, put_blob, {201: FileView}, Auth.ACCESS, "application/octet-stream"),
        Operation("GET", path, get_blob, {200: "application/octet-stream"}, Auth.ACCESS),
    ]
