"""What all shapes have in common: how strict they are, and the forms of single values."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gnexec.ids import MAX_SAFE_INT

MAX_BATCH: Final = 64
"""Attempts in one hand-out, and results in one statement."""
MAX_SUBMIT: Final = 1000
"""Jobs in one submission."""

Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INT)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class RequestBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies: strict."""


class ReplyBody(msgspec.Struct, frozen=True, omit_defaults=False, kw_only=True):
    """Base of replies."""
