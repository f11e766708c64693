"""The log over HTTP, as files: checkpoint, tiles, entry bundles (C2SP tlog-tiles), and the payloads that are released.

Full tiles never change and may be cached for ever. Payloads are not tiles: they are released later than their leaves.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gnexec.desk.dispatcher import View
from gnexec.desk.office import Office
from gnexec.errors import Refused
from gnexec.ids import MAX_SAFE_INT
from gnexec.shapes import LogKeysView, LogKeyView, PayloadLine
from gnexec.store.contract import Entry
from gnexec.tlog.tiles import TILE_WIDTH, TileName, encode_entries, parse_path
from gnexec.tokens.issued import Scope
from gnexec.web import reading
from gnexec.web.resource import Operation, Param, encode, reply

_FOR_EVER = {"Cache-Control": "public, immutable, max-age=31536000"}
_SOON = {"Cache-Control": "no-cache"}


async def checkpoint(_: Request, office: Office) -> Response:
    """Fetch the newest signed checkpoint."""
    note = await office.desk.ask(lambda view: view.sealer.note)
    return Response(note, headers=_SOON, media_type="text/plain")


async def vkey(_: Request, office: Office) -> Response:
    """Fetch the verifier key of the log's checkpoints; better had from somewhere else than the log itself."""
    newest = office.desk.keys().in_force()[-1]
    return Response(newest + "\n", headers=_SOON, media_type="text/plain")


async def keys(_: Request, office: Office) -> Response:
    """List all keys that the log has had; each is vouched for by the one before, so an old one leads to the newest."""
    book = office.desk.keys()
    rows = [
        LogKeyView(vkey=key.vkey, endorsement=key.endorsement or None, added=key.added, retired=key.retired)
        for key in book.log
    ]
    return reply(LogKeysView(origin=book.origin, keys=rows), headers=_SOON)


async def tile(request: Request, office: Office) -> Response:
    """Fetch a tile of hashes, or a bundle of entries."""
    try:
        name = parse_path(f"tile/{request.path_params['name']}")
    except ValueError as err:
        raise Refused("not_found", f"There is no such tile: {err}.") from err
    data = await office.desk.ask(lambda view: _tile(view, name))
    if data is None:
        raise Refused("not_found", "The log has not grown that far.")
    full = name.width == TILE_WIDTH
    return Response(data, headers=_FOR_EVER if full else _SOON, media_type="application/octet-stream")


async def payloads(request: Request, office: Office) -> Response:
    """Fetch salts and payloads of entries, one JSON object a line; what is not released says that it is withheld."""
    start = reading.integer(request, "start", 0, MAX_SAFE_INT) or 0
    count = reading.integer(request, "count", 1, TILE_WIDTH) or TILE_WIDTH
    everything = False
    if request.headers.get("authorization") is not None:
        reading.access(request, office, Scope.AUDIT)
        everything = True
    page = await office.releases.page(start, count, everything=everything)
    lines = (
        _line(seq, entry) if shown else PayloadLine(seq=seq, withheld=True)
        for seq, (entry, shown) in enumerate(page, start)
    )
    return Response(b"".join(encode(line) + b"\n" for line in lines), headers=_SOON, media_type="application/jsonl")


def _tile(view: View, name: TileName) -> bytes | None:
    if name.level is not None:
        return view.sealer.tile(name, view.store)
    first = name.index * TILE_WIDTH
    entries = view.store.entries(first, first + name.width)
    return encode_entries(entry.leaf for entry in entries) if len(entries) == name.width else None


def _line(seq: int, entry: Entry) -> PayloadLine:
    return PayloadLine(seq=seq, salt=entry.salt.hex(), payload=entry.payload.decode())


_START = Param("start", {"type": "integer", "minimum": 0}, "First entry.")
_COUNT = Param("count", {"type": "integer", "minimum": 1, "maximum": TILE_WIDTH}, "At most this many entries.")


def operations() -> list[Operation]:
    """List the operations."""
    return [
        Operation("GET", "/checkpoint", checkpoint, {200: "text/plain"}),
        Operation("GET", "/log.vkey", vkey, {200: "text/plain"}),
        Operation("GET", "/log/keys", keys, {200: LogKeysView}),
        Operation("GET", "/tile/{name:path}", tile, {200: "application/octet-stream"}),
        Operation("GET", "/log/payloads", payloads, {200: "application/jsonl"}, query=(_START, _COUNT)),
    ]
