"""Values in PostgreSQL's binary forms, as the server's `…send` and `…recv` functions define them.

Arrays are made here, rather than by the driver, as one of n values costs n steps in C instead of n calls in Python;
they carry most of what a batch writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from gnexec.store.contract import Entry

BYTEA: Final = 17
INT8: Final = 20
TEXT: Final = 25

EPOCH_MS: Final = 946_684_800_000
"""PostgreSQL counts time from 2000-01-01, UTC."""

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER: Final = b"\xff\xff"

_ARRAY: Final = struct.Struct("!iiIii")
_LENGTH: Final = struct.Struct("!i").pack
_INT8: Final = struct.Struct("!q")
_SIZED_INT8: Final = struct.Struct("!iq").pack
_ROW: Final = struct.Struct("!hiqi").pack

_TID: Final = struct.Struct("!IH").pack

int8: Final = _INT8.pack


def tid(block: int) -> bytes:
    """Return the place before the first row of a table's block."""
    return _TID(block, 0)


def from_int8(value: bytes | None) -> int:
    """Return a number; `value` must not be NULL."""
    number: int = _INT8.unpack(value or b"")[0]
    return number


def from_timestamp_ms(value: bytes | None) -> int:
    """Return milliseconds since 1970, cut, from a timestamptz."""
    return from_int8(value) // 1000 + EPOCH_MS


def bytea_array(items: Sequence[bytes], *, element: int = BYTEA) -> bytes:
    """Return a bytea[] (or text[], of UTF-8)."""
    sized = chain.from_iterable([(_LENGTH(len(item)), item) for item in items])
    return _header(len(items), element) + b"".join(sized)


def int8_array(items: Sequence[int]) -> bytes:
    """Return a bigint[]."""
    return _header(len(items), INT8) + b"".join([_SIZED_INT8(8, item) for item in items])


def copied_entries(start: int, entries: Iterable[Entry]) -> bytes:
    """Return rows (seq, leaf, salt, payload) of a binary COPY, without its header and trailer."""
    parts: list[bytes] = []
    for seq, (leaf, salt, payload) in enumerate(((e.leaf, e.salt, e.payload) for e in entries), start):
        parts += (_ROW(4, 8, seq, len(leaf)), leaf, _LENGTH(len(salt)), salt, _LENGTH(len(payload)), payload)
    return b"".join(parts)


def _header(count: int, element: int) -> bytes:
    """Return the head of an array of one dimension, from 1, without NULLs."""
    return _ARRAY.pack(1, 0, element, count, 1)
