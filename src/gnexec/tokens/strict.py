"""Strict JSON: one text, one meaning, or a refusal.

`msgspec` reads the text into a typed struct: unknown members, wrong types, booleans or floating point where an integer
belongs, lone surrogates and bad UTF-8 fail there. What it lets pass is a repeated member (the last one would win, while
another reader may take the first), so that is looked for here.

Rules:
- A refusal names the member by its place in *our* struct, never by a word of the sender's, and never shows a value.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeVar

import msgspec

from gnexec.errors import Refused

T = TypeVar("T", bound=msgspec.Struct)

_PLACE: Final = re.compile(r" - at `\$\.?(?P<path>[^`]+)`\Z")
_MISSING: Final = re.compile(r"\AObject missing required field `(?P<name>\w+)`")


def read_json(raw: bytes, kind: type[T]) -> T:
    """Read `raw` as a struct of `kind`.

    Raises:
        Refused: bad_token; anything but one well-formed object of exactly that form, each member once.
    """
    try:
        found = msgspec.json.decode(raw, type=kind, strict=True)
    except msgspec.ValidationError as err:
        raise _refusal(err) from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise Refused("bad_token", "A part of the token is not JSON in UTF-8.") from err
    # Our own encoder never writes a member twice: what it would write the same needs no second look.
    if msgspec.json.encode(found) != raw:
        json.loads(raw.decode(), object_pairs_hook=_each_once)
    return found


def _each_once(pairs: list[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise Refused("bad_token", "A member is repeated within a JSON object.")


def _refusal(err: msgspec.ValidationError) -> Refused:
    text = str(err)
    place, missing = _PLACE.search(text), _MISSING.match(text)
    path = [part["path"] for part in [place] if part] + [part["name"] for part in [missing] if part]
    own_words = isinstance(err.__cause__, ValueError)
    detail = str(err.__cause__) if own_words else "A claim is missing, unknown or of a wrong form."
    return Refused("bad_token", detail, field=".".join(path) or None)
