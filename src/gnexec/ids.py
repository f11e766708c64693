"""Identifiers and digests: their forms, and how they are made from given random bytes.

Nothing here draws randomness: callers pass it in, so that replay and tests see the same ids.

Forms:
- job id: int, 1..2**53 - 1, consecutive.
- attempt number: int, 1.., per job; the fencing number.
- attempt id (`jti`): 128 random bits as 22 characters of base64url, one for each hand-out.
- worker id: "w" and 22 characters; owner id "o" and project id "p" likewise (a keyed hash, never a name).
- digest: SHA-256 as 64 lower-case hexadecimal digits on the wire, 32 bytes in memory where many are held.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final

from gnexec.errors import Refused

MAX_SAFE_INT: Final = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
JTI: Final = re.compile(r"[A-Za-z0-9_-]{22}")
ANONYMOUS: Final = "anonymous"
"""The one owner, and the one worker, of open mode."""


def b64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """Decode base64url without padding.

    Raises:
        ValueError: padding, a character outside the alphabet, an impossible length, or stray bits at the end,
            so that each byte string has exactly one accepted form.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        msg = "not base64url without padding"
        raise ValueError(msg)
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as err:
        raise ValueError(str(err)) from err
    if b64url(data) != text:
        msg = "base64url with stray bits at its end"
        raise ValueError(msg)
    return data


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def salted_digest(salt: bytes, data: bytes) -> bytes:
    """Return SHA-256(salt ‖ data), 32 bytes: the name of an entry's payload or of a piece of content."""
    return hashlib.sha256(salt + data).digest()


def attempt_id(draw: bytes) -> str:
    """Form an attempt id (jti) from 16 random bytes."""
    return b64url(_sixteen(draw))


def worker_id(draw: bytes) -> str:
    """Form a worker id from 16 random bytes."""
    return "w" + b64url(_sixteen(draw))


def pseudonym(kind: str, secret: bytes, name: str) -> str:
    """Form the id under which a name enters the log: HMAC-SHA-256 under the server's pseudonym secret.

    Args:
        kind: "o" for an owner (account), "p" for a project.
        secret: without it nobody can test a guessed name against the log.
        name: the name as its access token has it.
    """
    return kind + b64url(hmac.digest(secret, f"{kind}:{name}".encode(), "sha256")[:16])


def check_digest(text: str, field: str) -> str:
    """Return `text` if it is a SHA-256 in hexadecimal.

    Raises:
        Refused: invalid; names `field`.
    """
    if not DIGEST.fullmatch(text):
        raise Refused(
            "invalid", "This is not a SHA-256 digest.", field=field, mend="Give 64 lower-case hexadecimal digits."
        )
    return text


def _sixteen(draw: bytes) -> bytes:
    if len(draw) != 16:
        msg = f"16 random bytes are needed, got {len(draw)}"
        raise ValueError(msg)
    return draw
