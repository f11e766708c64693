"""Forms of single claims, and what all claims have in common.

A form is a type with its bounds, so that a claim of a wrong form fails while the JSON is read. Integers stay within
2**53 - 1, and text is matched from its first to its last character: in a pattern, a dollar sign would also match before
a final newline, hence the escape Z.

This module knows no token: `gnexec.tokens.issued` and `gnexec.tokens.statements` do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from hashlib import sha256
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from gnexec.ids import MAX_SAFE_INT

MAX_JOBS: Final = 64
"""Jobs in one hand-out, results in one statement."""

Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INT)]
Number = Annotated[int, Meta(ge=1, le=MAX_SAFE_INT)]
"""A job id or an attempt number."""
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Sixteen = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{22}\Z")]
"""16 random bytes in base64url: a jti, a salt."""
Thumbprint = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{43}\Z")]
WorkerId = Annotated[str, Meta(pattern=r"\Aw[A-Za-z0-9_-]{22}\Z")]
OwnerId = Annotated[str, Meta(pattern=r"\A(o[A-Za-z0-9_-]{22}|anonymous)\Z")]
JobSubject = Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,15}\Z")]
"""A job id as `sub` wants it: in decimal."""
Name = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{1,128}\Z")]
"""Printable text of 1 to 128 characters."""
Word = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._+:/ ~()-]{0,63}\Z")]
"""Plain ASCII of 1 to 64 characters, such as "x86_64" or "0.98.5+dfsg-2"."""


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What every token claims.

    Attributes:
        aud: the log's origin; a token for another server is refused.
        iat: when it was made, seconds since 1970.
        jti: 16 random bytes in base64url: the token's identity, whatever its bytes.
        TYP: the `typ` of the header; each kind of token has its own.
        MAX_CHARS: length of the compact form above which it is not even parsed.
    """

    TYP: ClassVar[str]
    MAX_CHARS: ClassVar[int] = 4096

    aud: Name
    iat: Count
    jti: Sixteen


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The key that the bearer must prove to hold (RFC 7800), by thumbprint (RFC 9449, section 6.1)."""

    jkt: Thumbprint


_CANONICAL: Final = msgspec.json.Encoder(order="sorted")


def claims_digest(claims: Claims) -> bytes:
    """Return SHA-256 of the decoded claims in canonical JSON (RFC 8785), 32 bytes.

    Two tokens that claim the same have one digest, whatever the order, spacing and escapes of their JSON, and whether a
    claim without a value was written as null or left out.
    """
    # Keys are ASCII and numbers are integers, so the sorted encoding is the canonical one.
    return sha256(_CANONICAL.encode(claims)).digest()


def job_number(sub: str) -> int:
    """Return the job id in a `sub`.

    Raises:
        ValueError: beyond 2**53 - 1.
    """
    number = int(sub)
    if number > MAX_SAFE_INT:
        msg = "The job id is out of range."
        raise ValueError(msg)
    return number


def each_once(values: Iterable[Hashable]) -> None:
    """Make sure that no value comes twice.

    Raises:
        ValueError: one does.
    """
    listed = list(values)
    if len(set(listed)) != len(listed):
        msg = "A job or a scope is named twice."
        raise ValueError(msg)
