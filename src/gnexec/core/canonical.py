"""Canonical JSON (RFC 8785): the one form of a value that is hashed.

What is hashed here has strings, integers, booleans, null, arrays and objects; no floating point. For such values in
ASCII, the plain encoder with sorted keys writes the canonical form, many times faster than a general one; whatever is
not ASCII takes the general way, since RFC 8785 orders keys by UTF-16 code units.
"""

from __future__ import annotations

from typing import Final

import msgspec
import rfc8785

_encode: Final = msgspec.json.Encoder(order="sorted").encode


def canonical(value: object) -> bytes:
    """Return the canonical JSON of `value`.

    Args:
        value: of builtin types or `msgspec` structs; no floating point.
    """
    plain = _encode(value)
    if plain.isascii():
        return plain
    return rfc8785.dumps(msgspec.to_builtins(value))
