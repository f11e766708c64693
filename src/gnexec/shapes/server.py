"""Shapes in which the server speaks of itself, of its log, and of what went wrong."""

from __future__ import annotations

from typing import Any

import msgspec

from gnexec.shapes.forms import ReplyBody


class HeyView(ReplyBody, frozen=True, rename={"i_am": "I am"}):
    """Who answers."""

    i_am: str
    version: str
    origin: str
    open: bool
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class PayloadLine(ReplyBody, frozen=True, omit_defaults=True):
    """What is shown of an entry beyond its leaf: salt (hexadecimal) and payload, or that they are withheld."""

    seq: int
    salt: str | None = None
    payload: str | None = None
    withheld: bool = False


class LogKeyView(ReplyBody, frozen=True):
    """A key that signs, or has signed, the log's checkpoints.

    Attributes:
        endorsement: a signed note by which the key before it vouches for it; null for the first.
        added: the entry from which on it signs. retired: the entry from which on it does no more. Both null where the
            log was not asked.
    """

    vkey: str
    endorsement: str | None = None
    added: int | None = None
    retired: int | None = None


class LogKeysView(ReplyBody, frozen=True):
    """All keys of a log, the oldest first."""

    origin: str
    keys: list[LogKeyView]


class HealthView(ReplyBody, frozen=True):
    """Whether the server lives, or is ready to serve."""

    ok: bool
    detail: str = ""


class ProblemKind(ReplyBody, frozen=True):
    """What a problem's type stands for."""

    type: str
    title: str
    status: int


class Problem(ReplyBody, frozen=True, omit_defaults=True):
    """An error (RFC 9457): `type` is stable, `code` is its last part."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    mend: str | None = None
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)
