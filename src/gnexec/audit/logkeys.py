"""The keys that a log has had: kept by an auditor, published by an operator, followed from an old one to the newest.

What an auditor keeps comes from a log that was verified, and is believed as it is. What is published beside a key is
followed only as far as each key vouches for the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from gnexec.core.keybook import LogKey
from gnexec.errors import BadConfiguration, ProofError
from gnexec.shapes import LogKeysView, LogKeyView
from gnexec.tlog.succession import check_endorsement


def write_keys(origin: str, keys: Iterable[LogKey]) -> bytes:
    """Return the document that says which keys a log has had, from which entry to which."""
    rows = [
        LogKeyView(vkey=key.vkey, endorsement=key.endorsement or None, added=key.added, retired=key.retired)
        for key in keys
    ]
    return msgspec.json.encode(LogKeysView(origin=origin, keys=rows)) + b"\n"


def read_keys(data: bytes, origin: str) -> list[LogKeyView]:
    """Read such a document; nothing in it is verified. One of another log has no keys of this one.

    Raises:
        BadConfiguration: it is none.
    """
    try:
        found = msgspec.json.decode(data, type=LogKeysView)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        msg = f"This is no list of a log's keys: {err}."
        raise BadConfiguration(msg) from err
    return found.keys if found.origin == origin else []


def followed(origin: str, vkey: str, keys: Sequence[LogKeyView]) -> list[LogKeyView]:
    """Return the key `vkey` and those after it, as far as each is vouched for by the one before; none without it."""
    at = next((i for i, key in enumerate(keys) if key.vkey == vkey), None)
    if at is None:
        return []
    chain = [keys[at]]
    for key in keys[at + 1 :]:
        try:
            check_endorsement(key.endorsement or "", origin, key.vkey, chain[-1].vkey)
        except ProofError:
            break
        chain.append(key)
    return chain


def signed_at(key: LogKeyView, size: int) -> bool:
    """Tell whether a key was in force for the checkpoint of `size` entries, as far as that is known."""
    return (key.added is None or key.added < size) and (key.retired is None or size <= key.retired)
