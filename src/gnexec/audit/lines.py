"""The export's form: a log as one file of JSON lines, readable with nothing but a JSON reader and SHA-256.

A header, one line for each entry in order, and the signed checkpoint as the last line (docs/reference/export.md). Each
line has exactly one form, so that no byte of the file can change unnoticed: what is read is written again and compared.

This module checks the form only. Whether the entries are those of the checkpoint is `gnexec.audit.verify`'s.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import msgspec

from gnexec.errors import CorruptLog
from gnexec.tlog.merkle import HASH_SIZE, leaf_hash

FORMAT: Final = "gnexec-log/1"

T = TypeVar("T", bound=msgspec.Struct)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """First line: which log, as it says of itself.

    Attributes:
        format: `FORMAT`.
        origin: the log's name.
        vkey: verifier key of its checkpoints; a claim, and no reason to trust it.
        size: entries that follow.
    """

    format: str = FORMAT
    origin: str
    vkey: str
    size: int


class Record(NamedTuple):
    """One entry as an auditor has it.

    Attributes:
        seq: its place, as whoever gave it says.
        leaf: exact bytes.
        h: leaf hash that was kept beside it, 32 bytes, or None; tells which leaf was changed.
        salt: 16 bytes, or None where the payload is withheld.
        payload: exact bytes, or None where it is withheld.
    """

    seq: int
    leaf: bytes
    h: bytes | None = None
    salt: bytes | None = None
    payload: bytes | None = None


class Seal(NamedTuple):
    """What ends a log: its signed checkpoint, a note."""

    note: bytes


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, gc=False):
    seq: int
    leaf: str
    h: str
    salt: str | None = None
    payload: str | None = None
    withheld: bool = False


class _Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    checkpoint: str


_encode: Final = msgspec.json.Encoder()
_decode_header: Final = msgspec.json.Decoder(Header, strict=True)
_decode_line: Final = msgspec.json.Decoder(_Line, strict=True)
_decode_tail: Final = msgspec.json.Decoder(_Tail, strict=True)
_TAIL: Final = b'{"checkpoint":'


def write_header(header: Header) -> bytes:
    """Return the header's line."""
    return _encode.encode(header) + b"\n"


def write_item(item: Record | Seal) -> bytes:
    """Return the line of an entry, or of the checkpoint.

    Raises:
        CorruptLog: the entry's bytes are not UTF-8, so it is none.
    """
    if isinstance(item, Seal):
        return _encode.encode(_Tail(checkpoint=item.note.decode())) + b"\n"
    shown = item.salt is not None and item.payload is not None
    try:
        line = _Line(
            seq=item.seq,
            leaf=item.leaf.decode(),
            h=(item.h or leaf_hash(item.leaf)).hex(),
            salt=item.salt.hex() if item.salt is not None and shown else None,
            payload=item.payload.decode() if item.payload is not None and shown else None,
            withheld=not shown,
        )
    except UnicodeDecodeError as err:
        msg = "the entry is not UTF-8"
        raise CorruptLog(msg, seq=item.seq) from err
    return _encode.encode(line) + b"\n"


def read_header(raw: bytes) -> Header:
    """Read the first line.

    Raises:
        CorruptLog: it is no such header.
    """
    header = _read(_decode_header, raw, None)
    if header.format != FORMAT:
        msg = f"the file has the format {header.format!r}, which is not known here; {FORMAT} is"
        raise CorruptLog(msg)
    return header


def read_item(raw: bytes, place: int) -> Record | Seal:
    """Read a line behind the header.

    Args:
        raw: the line with its newline.
        place: entries before it, to name it by.

    Raises:
        CorruptLog: it is no such line, or not in its one form; names `place` where it ought to be an entry.
    """
    if raw.startswith(_TAIL):
        return Seal(_read(_decode_tail, raw, None).checkpoint.encode())
    line = _read(_decode_line, raw, place)
    shown = line.salt is not None and line.payload is not None
    if line.withheld == shown or (not shown and (line.salt is not None or line.payload is not None)):
        msg = "the line has neither salt and payload nor the word that they are withheld"
        raise CorruptLog(msg, seq=place)
    return Record(
        line.seq,
        line.leaf.encode(),
        _unhex(line.h, place),
        _unhex(line.salt, place) if line.salt is not None else None,
        line.payload.encode() if line.payload is not None else None,
    )


def _read(decoder: msgspec.json.Decoder[T], raw: bytes, place: int | None) -> T:
    """Decode a line that must be exactly what would be written for it."""
    try:
        found = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        msg = f"the line cannot be read: {err}"
        raise CorruptLog(msg, seq=place) from err
    if _encode.encode(found) + b"\n" != raw:
        msg = "the line is not in its one form"
        raise CorruptLog(msg, seq=place)
    return found


def _unhex(text: str, place: int) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if data.hex() != text or len(data) not in (HASH_SIZE, HASH_SIZE // 2):
        msg = "a hash or salt is not lower-case hexadecimal"
        raise CorruptLog(msg, seq=place)
    return data
