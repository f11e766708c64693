"""Blobs over HTTP: uploaded by those who say their digest, read only by those with a right to them.

A digest alone opens nothing: whoever uploads a blob may name it afterwards; a job token reads its job's inputs, until
its deadline. That a blob exists already spares nobody the upload, or a digest that was overheard would be as good as
the file.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from gnexec.core.spec import Stored
from gnexec.desk import uploads
from gnexec.desk.jobtokens import JobToken, job_token
from gnexec.desk.office import Office
from gnexec.desk.specifications import inputs_of
from gnexec.errors import Refused
from gnexec.ids import check_digest
from gnexec.shapes import FileView
from gnexec.tokens.issued import JobClaims, Scope
from gnexec.tokens.jws import claimed_typ
from gnexec.web import bodies, reading
from gnexec.web.download import download
from gnexec.web.resource import Auth, Operation, reply

_FOR_EVER = {"Cache-Control": "private, immutable, max-age=31536000"}


async def put_blob(request: Request, office: Office) -> Response:
    """Upload a blob under its digest; repeating it is harmless."""
    digest = check_digest(request.path_params["sha256"], "sha256")
    token = _job_token(request, office)
    principal = token.principal if token else reading.submitter(request, office, Scope.SUBMIT).owner
    bodies.check_length_header(request, office.settings.max_blob_bytes)
    with office.blobs.writer() as writer:
        async for chunk in bodies.chunks(request):
            writer.write(chunk)
        size = await asyncio.to_thread(writer.finish, digest)
    await uploads.keep_blob(office, principal, digest)
    return reply(FileView(sha256=digest, size=size, href=f"/v1/blobs/{digest}"), 201)


async def get_blob(request: Request, office: Office) -> Response:
    """Download a blob that one may read; ranges are served."""
    digest = check_digest(request.path_params["sha256"], "sha256")
    token = _job_token(request, office)
    principal = token.principal if token else reading.submitter(request, office, Scope.READ).owner
    allowed = bool(await office.aside(lambda: office.store.granted(principal, [digest])))
    if token is not None and not allowed:
        allowed = digest in await inputs_of(office, token)
    if not allowed or not office.blobs.has(digest):
        raise Refused("not_found", "There is no such blob here for you.")
    stored = Stored(digest, office.blobs.size(digest))
    return download(request, office.blobs.path(digest), stored, "application/octet-stream", _FOR_EVER)


def _job_token(request: Request, office: Office) -> JobToken | None:
    """Return the job token, if it is one that was sent.

    Raises:
        Refused: too_late, past its deadline; bad_token and its like.
    """
    text = reading.bearer(request)
    if text is None or claimed_typ(text) != JobClaims.TYP:
        return None
    token = job_token(office, text)
    if office.now_s() >= token.claims.exp:
        raise Refused("too_late", "The attempt's deadline has passed.", mend="Ask for new work.")
    return token


def operations() -> list[Operation]:
    """List the operations."""
    path = "/v1/blobs/{sha256}"
    return [
        Operation("PUT", path, put_blob, {201: FileView}, Auth.ACCESS, "application/octet-stream"),
        Operation("GET", path, get_blob, {200: "application/octet-stream"}, Auth.ACCESS),
    ]
