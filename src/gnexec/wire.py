"""Events and leaves to bytes and back.

A payload is the canonical JSON (RFC 8785) of an event: keys sorted, no space, integers only, no floating point, so that
the plain encoder's bytes are the canonical ones. A leaf is `{"at":…,"d":"…","v":1}`: small, public at once, and bound
to the payload by `d = SHA-256(salt ‖ payload)`. Stored bytes are what counts; nothing is ever re-serialised.

This module neither hashes leaves into a tree (`gnexec.tlog`) nor gives events a meaning (`gnexec.core`).
"""

from __future__ import annotations

import contextlib
import hmac
from typing import Final, get_args

import msgspec

from gnexec.core.events import AnyEvent
from gnexec.core.upcast import OldEvent, upcast
from gnexec.errors import CorruptLog, UnknownEvent
from gnexec.ids import DIGEST, MAX_SAFE_INT, salted_digest

LEAF_VERSION: Final = 1
SALT_BYTES: Final = 16
_AT: Final = len(b'{"at":')


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The public part of an entry.

    Attributes:
        at: when it was decided, milliseconds since 1970; never before the entry ahead of it.
        d: SHA-256(salt ‖ payload), hexadecimal.
        v: version of the leaf's form.
    """

    at: int
    d: str
    v: int = LEAF_VERSION


class _Tag(msgspec.Struct):
    t: str


class _Version(msgspec.Struct):
    v: int


_encode: Final = msgspec.json.Encoder(order="sorted")
_decode_event: Final[msgspec.json.Decoder[AnyEvent | OldEvent]] = msgspec.json.Decoder(AnyEvent | OldEvent, strict=True)
_decode_leaf: Final = msgspec.json.Decoder(Leaf, strict=True)
_decode_tag: Final = msgspec.json.Decoder(_Tag)
_decode_version: Final = msgspec.json.Decoder(_Version)
_KNOWN_TAGS: Final = frozenset(kind.__struct_config__.tag for kind in get_args(AnyEvent | OldEvent))
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that others made."""


def encode_event(event: AnyEvent) -> bytes:
    """Return the event's payload: canonical JSON."""
    return _encode.encode(event)


def decode_event(payload: bytes) -> AnyEvent:
    """Read a payload, of any form that was ever written.

    Raises:
        UnknownEvent: it is JSON with a tag that this version does not know.
        CorruptLog: it is no event at all, or has not the form that its tag promises.
    """
    try:
        return upcast(_decode_event.decode(payload))
    except _UNREADABLE as err:
        try:
            tag = _decode_tag.decode(payload).t
        except _UNREADABLE:
            tag = None
        if tag is None or tag in _KNOWN_TAGS:
            msg = f"the payload is not an event: {err}"
            raise CorruptLog(msg) from err
        msg = f"event {tag!r} is not known to this version of gnexec"
        raise UnknownEvent(msg) from err


def encode_leaf(at_ms: int, salt: bytes, payload: bytes) -> bytes:
    """Return the leaf that commits to `payload` under `salt`."""
    return b'{"at":%d,"d":"%s","v":1}' % (at_ms, salted_digest(salt, payload).hex().encode())


def decode_leaf(leaf: bytes) -> Leaf:
    """Read a leaf.

    Raises:
        CorruptLog: it is not a leaf, or not in the one form that `encode_leaf` writes.
        UnknownEvent: it has a later version.
    """
    try:
        found = _decode_leaf.decode(leaf)
    except _UNREADABLE as err:
        _check_version(leaf)
        msg = f"the leaf cannot be read: {err}"
        raise CorruptLog(msg) from err
    if found.v != LEAF_VERSION:
        _check_version(leaf)
    if not 0 <= found.at <= MAX_SAFE_INT or not DIGEST.fullmatch(found.d) or leaf != _encode.encode(found):
        msg = "the leaf is not in canonical form"
        raise CorruptLog(msg)
    return found


def _check_version(leaf: bytes) -> None:
    with contextlib.suppress(*_UNREADABLE):
        version = _decode_version.decode(leaf).v
        if version != LEAF_VERSION:
            msg = f"leaf version {version} is not known to this version of gnexec"
            raise UnknownEvent(msg)


def open_payload(leaf: Leaf, salt: bytes, payload: bytes) -> AnyEvent:
    """Check that `payload` is what `leaf` committed to, and read it.

    Raises:
        CorruptLog: it is another payload, or the salt is another.
        UnknownEvent: as `decode_event`.
    """
    if len(salt) != SALT_BYTES or not hmac.compare_digest(salted_digest(salt, payload).hex(), leaf.d):
        msg = "the payload is not the one that the leaf commits to"
        raise CorruptLog(msg)
    return decode_event(payload)


def open_entry(leaf: bytes, salt: bytes, payload: bytes) -> tuple[int, AnyEvent]:
    """Read an entry: its time, and its event; as `decode_leaf` and `open_payload`, at half the cost for a good one.

    Raises:
        CorruptLog: the leaf is not in the one form that `encode_leaf` writes, or commits to something else.
        UnknownEvent: the leaf or the event has a later version.
    """
    try:
        at_ms = int(leaf[_AT : leaf.index(b",", _AT)])
    except ValueError:
        at_ms = -1
    # Who writes the same leaf anew has checked its form and its digest at once.
    if 0 <= at_ms <= MAX_SAFE_INT and len(salt) == SALT_BYTES and leaf == encode_leaf(at_ms, salt, payload):
        return at_ms, decode_event(payload)
    found = decode_leaf(leaf)
    return found.at, open_payload(found, salt, payload)
