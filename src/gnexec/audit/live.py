"""The log of a live server, read over HTTP as files: checkpoint, tiles, entry bundles, and the payloads it shows.

The checkpoint is fetched first, and the log is read up to its size, however it grows meanwhile. A request that fails in
a way that may pass is tried again. Nothing that the server says is believed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from types import TracebackType
from typing import Final, Self

import httpx2
import msgspec
import stamina

from gnexec.audit.lines import Header, Record, Seal
from gnexec.errors import BadConfiguration, CorruptLog, ProofError, Refused, ServerUnreachable, StrangeAnswer
from gnexec.shapes import PayloadLine, Problem
from gnexec.tlog.checkpoint import parse_checkpoint
from gnexec.tlog.merkle import HASH_SIZE, node_hash
from gnexec.tlog.note import parse_note
from gnexec.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, TileName, decode_entries

TIMEOUT_S: Final = 30.0
PATIENCE_S: Final = 20.0
"""How long a request is tried again."""
LARGEST_ANSWER: Final = 256 << 20
"""Bytes of an answer that are read: 256 payloads, each as large as any server makes them."""
_BUSY: Final = frozenset({429, 502, 503, 504})
_HELD_TILES: Final = 64

_decode_payload: Final = msgspec.json.Decoder(PayloadLine)


class _Busy(Exception):
    """It failed in a way that may pass."""


class LiveLog:
    """A server's log; see `gnexec.audit.source.Provable`.

    Attributes:
        note: the signed checkpoint up to which it is read.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        """Fetch the newest checkpoint.

        Args:
            url: the server's address.
            token: access token with the scope audit, or None for what is public.

        Raises:
            BadConfiguration: the address cannot be used.
            ServerUnreachable: no answer.
            StrangeAnswer, ProofError: no log there.
        """
        self.url = url.rstrip("/")
        headers = {"User-Agent": f"gnexec/{version('gnexec')}"}
        self._rights = {"Authorization": f"Bearer {token}"} if token else {}
        self._tiles: dict[str, bytes] = {}
        try:
            self._http = httpx2.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=False)
            self.note = self._get("/checkpoint")
            head = parse_checkpoint(parse_note(self.note).text)
            vkey = self._get("/log.vkey").decode("utf-8", "replace").strip()
        except httpx2.InvalidURL as err:
            msg = f"{url!r} is not the address of a server: {err}."
            raise BadConfiguration(msg) from err
        except BaseException:
            self.close()
            raise
        self.header = Header(origin=head.origin, vkey=vkey, size=head.size)

    def items(self, start: int = 0) -> Iterator[Record | Seal]:
        """Yield the entries from `start` on, then the seal."""
        size = self.header.size
        for first in range(start - start % TILE_WIDTH, size, TILE_WIDTH):
            width = min(TILE_WIDTH, size - first)
            bundle = self._get("/" + TileName(None, first // TILE_WIDTH, width).path)
            try:
                leaves = decode_entries(bundle, width)
            except ProofError as err:
                msg = f"the entry bundle that begins with it cannot be read: {err}"
                raise CorruptLog(msg, seq=first) from err
            hashes = self._tile(0, first // TILE_WIDTH)
            payloads = self._payloads(first, width)
            for at, (leaf, shown) in enumerate(zip(leaves, payloads, strict=True)):
                if first + at >= start:
                    yield Record(first + at, leaf, hashes[at * HASH_SIZE : (at + 1) * HASH_SIZE], *shown)
        yield Seal(self.note)

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree, as `gnexec.tlog.merkle.Node` wants it, from the tile that holds it.

        Raises:
            CorruptLog: the tile has another length than it must.
        """
        level, rise = divmod(height, TILE_HEIGHT)
        tile, at = divmod(index << rise, TILE_WIDTH)
        data = self._tile(level, tile)
        row = [data[i * HASH_SIZE : (i + 1) * HASH_SIZE] for i in range(at, at + (1 << rise))]
        while len(row) > 1:
            row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
        return row[0]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Keep the connections for the length of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _tile(self, level: int, index: int) -> bytes:
        """Fetch a tile, as wide as the log's size makes it; a few are held."""
        width = min(TILE_WIDTH, (self.header.size >> TILE_HEIGHT * level) - index * TILE_WIDTH)
        path = "/" + TileName(level, index, width).path
        data = self._tiles.get(path)
        if data is None:
            data = self._get(path)
            if len(data) != width * HASH_SIZE:
                msg = f"{self.url}{path} does not hold {width} hashes"
                raise CorruptLog(msg, seq=index * TILE_WIDTH if level == 0 else None)
            if len(self._tiles) >= _HELD_TILES:
                del self._tiles[next(iter(self._tiles))]
            self._tiles[path] = data
        return data

    def _payloads(self, first: int, count: int) -> list[tuple[bytes | None, bytes | None]]:
        """Fetch (salt, payload) of `count` entries; (None, None) where they are withheld."""
        data = self._get(f"/log/payloads?start={first}&count={count}", self._rights)
        lines = data.splitlines()[:count]
        if len(lines) < count:
            msg = "the server does not say whether its payload is withheld"
            raise CorruptLog(msg, seq=first + len(lines))
        return [_payload(line, seq) for seq, line in enumerate(lines, first)]

    def _get(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        try:
            for attempt in stamina.retry_context(on=_Busy, attempts=None, timeout=PATIENCE_S):
                with attempt:
                    return self._once(path, headers or {})
        except _Busy as err:
            raise ServerUnreachable(self.url, str(err)) from err.__cause__
        raise AssertionError  # unreachable: the loop above returns or raises

    def _once(self, path: str, headers: dict[str, str]) -> bytes:
        data = bytearray()
        try:
            with self._http.stream("GET", self.url + path, headers=headers) as response:
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > LARGEST_ANSWER:
                        msg = f"{self.url}{path} is larger than {LARGEST_ANSWER} bytes; this is no log of gnexec's."
                        raise StrangeAnswer(msg)
        except httpx2.TransportError as err:
            raise _Busy(str(err) or type(err).__name__) from err
        if response.status_code in _BUSY:
            msg = f"status {response.status_code}"
            raise _Busy(msg)
        if response.status_code != 200:
            raise _refusal(self.url + path, response.status_code, bytes(data))
        return bytes(data)


def _payload(raw: bytes, seq: int) -> tuple[bytes | None, bytes | None]:
    try:
        line = _decode_payload.decode(raw)
        salt, payload = bytes.fromhex(line.salt or ""), (line.payload or "").encode()
    except (ValueError, RecursionError) as err:  # msgspec's errors are ValueErrors too
        msg = f"the server's line with its payload cannot be read: {err}"
        raise CorruptLog(msg, seq=seq) from err
    if line.seq != seq:
        msg = f"the server gives the payload of entry {line.seq} for it"
        raise CorruptLog(msg, seq=seq)
    return (None, None) if line.withheld else (salt, payload)


def _refusal(address: str, status: int, body: bytes) -> Refused | StrangeAnswer:
    try:
        problem = msgspec.json.decode(body, type=Problem)
        return Refused(problem.code, problem.detail, field=problem.field, mend=problem.mend)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return StrangeAnswer(f"{address} answered {status}; this is not how the log of a gnexec server answers.")
