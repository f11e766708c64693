"""One log key vouches for the next, so that whoever holds an old one can follow the log to its newest.

An endorsement is a signed note (C2SP signed-note) by the older key, with the log's name as its key name, over three
lines: what it is, the log's name, and the newer verifier key. Its first line has spaces, so it is no checkpoint's,
whose first line is the log's name; nor is it a cosignature's.

This module keeps no keys; where the endorsements stand in a log is `gnexec.core.keybook`'s.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.errors import ProofError
from gnexec.tlog.note import SignatureKind, open_note, parse_vkey, sign

CONTEXT: Final = "gnexec log key succession v1"


def endorse(origin: str, vkey: str, older: Ed25519PrivateKey) -> str:
    """Vouch for a log's next key with the one before it.

    Args:
        origin: the log's name.
        vkey: verifier key of the next one.
        older: the private key that signs checkpoints now.
    """
    return sign(_text(origin, vkey), origin, older).decode()


def check_endorsement(endorsement: str, origin: str, vkey: str, older: str) -> None:
    """Make sure that the key `older` vouches for `vkey` as its successor in the log `origin`.

    Args:
        endorsement: the note.
        origin: the log's name.
        vkey: verifier key of the newer one.
        older: verifier key of the one before it.

    Raises:
        ProofError: it does not, or one of them is no key of that log.
    """
    try:
        keys = [parse_vkey(older), parse_vkey(vkey)]
    except ValueError as err:
        raise ProofError(str(err)) from err
    if any((key.name, key.kind) != (origin, SignatureKind.ED25519) for key in keys):
        msg = f"a key of {origin} has its name, and signs checkpoints"
        raise ProofError(msg)
    note = open_note(endorsement.encode(errors="surrogatepass"), keys[:1])
    if note.text != _text(origin, vkey):
        msg = "the endorsement says something else"
        raise ProofError(msg)


def _text(origin: str, vkey: str) -> str:
    return f"{CONTEXT}\n{origin}\n{vkey}\n"
