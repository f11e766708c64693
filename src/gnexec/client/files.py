"""Bytes to a server and back, named by their SHA-256 and checked against it.

Uploads are hashed first, and sent only if the server does not have them from this account yet. Downloads go to a hidden
file beside their place, which is given its name once its digest was checked: what has the name is whole. A connection
that breaks is taken up where it broke.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from gnexec.client.transport import Transport
from gnexec.errors import BadConfiguration, Refused, StrangeAnswer
from gnexec.ids import sha256_hex
from gnexec.shapes import FileView

CHUNK: Final = 1 << 18

Moved = Callable[[int], None]
"""Told how many bytes of a file have been moved so far; may go back when a connection broke."""


def upload(transport: Transport, source: Path | bytes, moved: Moved | None = None) -> str:
    """Make sure that the server holds these bytes for this account, and return their SHA-256 (hexadecimal).

    Args:
        transport: to the server.
        source: a file, or the bytes themselves.
        moved: told of progress, where something is sent.

    Raises:
        BadConfiguration: the file cannot be read.
        Refused: too large, or the file changed while it was sent.
    """
    digest, size = _measure(source)
    path = f"/v1/blobs/{digest}"

    def held() -> bool:
        try:
            with transport.open("HEAD", path):
                return True
        except Refused as err:
            if err.code != "not_found":
                raise
            return False

    def send() -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with (
            _opened(source) as file,
            transport.open("PUT", path, content=_chunks(file, moved), headers=headers) as sent,
        ):
            sent.read()

    if not transport.persist(held):
        transport.persist(send)
    return digest


def fetch(transport: Transport, path: str, stored: FileView) -> bytes:
    """Return the bytes at `path`, whole and with the digest that was announced.

    Raises:
        Refused: it is not there.
        StrangeAnswer: the bytes are not those that were announced.
    """
    into = BytesIO()
    _receive(transport, path, stored, into, None)
    return into.getvalue()


def download(transport: Transport, path: str, stored: FileView, place: Path, moved: Moved | None = None) -> None:
    """Write the bytes at `path` to the file `place`, replacing what is there; all of them or nothing.

    Args:
        transport: to the server.
        path: where the server has them.
        stored: their announced digest and size.
        place: a file in a folder that exists.
        moved: told of progress.

    Raises:
        BadConfiguration: the file cannot be written.
        Refused: it is not there.
        StrangeAnswer: the bytes are not those that were announced.
    """
    aside = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with aside.open("xb+") as file:
            _receive(transport, path, stored, file, moved)
        aside.replace(place)
    except OSError as err:
        msg = f"{place} cannot be written: {err.strerror or err}."
        raise BadConfiguration(msg) from err
    finally:
        aside.unlink(missing_ok=True)


def _receive(transport: Transport, path: str, stored: FileView, into: BinaryIO, moved: Moved | None) -> None:
    """Append what is missing in `into` until it is whole, then check it."""

    def once() -> None:
        have = into.seek(0, os.SEEK_END)
        if have and have >= stored.size:
            return
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with transport.open("GET", path, headers=headers) as response:
            if have and response.status_code != 206:
                have = into.seek(0)
                into.truncate()
            for chunk in response.iter_bytes():
                into.write(chunk)
                have += len(chunk)
                if have > stored.size:
                    break
                if moved is not None:
                    moved(have)

    transport.persist(once)
    into.seek(0)
    found = hashlib.file_digest(into, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != stored.sha256:
        msg = f"{transport.url}{path} does not have the bytes that were announced: {stored.sha256}, but got {found}."
        raise StrangeAnswer(msg)


def _measure(source: Path | bytes) -> tuple[str, int]:
    if isinstance(source, bytes):
        return sha256_hex(source), len(source)
    with _opened(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return digest, file.tell()


def _opened(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    try:
        return source.open("rb")
    except OSError as err:
        msg = f"{source} cannot be read: {err.strerror or err}."
        raise BadConfiguration(msg) from err


def _chunks(file: BinaryIO, moved: Moved | None) -> Iterator[bytes]:
    sent = 0
    while chunk := file.read(CHUNK):
        sent += len(chunk)
        yield chunk
        if moved is not None:
            moved(sent)
