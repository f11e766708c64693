"""Events and leaves to bytes and back.

A payload is the canonical JSON (RFC 8785) of an event: keys sorted, no space, integers only, no floating point, so that
the plain encoder's bytes are the canonical ones. A leaf is `{"at":…,"d":"…","v":1}`: small, public at once, and bound
to the payload by `d = SHA-256(salt ‖ payload)`. Stored bytes are what counts; nothing is ever re-serialised.

This module neither hashes leaves into a tree (`gnexec.tlog`) nor gives events a meaning (`gnexec.core`).
"""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from gnexec.core.events import AnyEvent
from gnexec.errors import CorruptLog, UnknownEvent
from gnexec.ids import MAX_SAFE_INT, salted_digest

LEAF_VERSION: Final = 1
SALT_BYTES: Final = 16


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


_encode: Final = msgspec.json.Encoder(order="sorted")
_decode_event: Final[msgspec.json.Decoder[AnyEvent]] = msgspec.json.Decoder(AnyEvent, strict=True)
_decode_leaf: Final = msgspec.json.Decoder(Leaf, strict=True)
_decode_tag: Final = msgspec.json.Decoder(_Tag)


def encode_event(event: AnyEvent) -> bytes:
    """Return the event's payload: canonical JSON."""
    return _encode.encode(event)


def decode_event(payload: bytes) -> AnyEvent:
    """Read a payload.

    Raises:
        UnknownEvent: it is JSON with a tag that this version does not know.
        CorruptLog: it is no event at all.
    """
    try:
        return _decode_event.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        try:
            tag = _decode_tag.decode(payload).t
        except (msgspec.DecodeError, UnicodeDecodeError):
            msg = f"the payload is not an event: {err}"
            raise CorruptLog(msg) from err
        msg = f"event {tag!r} is not known to this version of gnexec, or has an unknown form: {err}"
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
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        msg = f"the leaf cannot be read: {err}"
        raise CorruptLog(msg) from err
    if found.v != LEAF_VERSION:
        msg = f"leaf version {found.v} is not known to this version of gnexec"
        raise UnknownEvent(msg)
    if not 0 <= found.at <= MAX_SAFE_INT or leaf != _encode.encode(found):
        msg = "the leaf is not in canonical form"
        raise CorruptLog(msg)
    return found


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
