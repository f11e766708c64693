"""Every error that gnexec raises on purpose, as one tree.

Who is to act tells the branches apart:

- `Refused`: the caller did something wrong. A stable code, an HTTP status, a sentence, and how to mend it.
- `Conflict`: somebody else appended first. Catch up and decide again; never shown to a caller.
- `CorruptLog`: the log contradicts itself. Fatal, never retried; names the first bad seq.
- `StoreAway`: the store does not answer, or it is unknown whether it committed. Try again later.
- `BadConfiguration`: the operator is to act; raised before anything is served.
- `ServerUnreachable`, `StrangeAnswer`: a client's view of a server that is away, or that is none.

This module does no formatting for HTTP or for terminals: the doors do.
"""

from __future__ import annotations

from typing import Final

REFUSALS: Final[dict[str, tuple[int, str]]] = {
    # code: (HTTP status, title). Codes are stable: clients and logs may rely on them.
    "invalid": (422, "The request has a value that cannot be used"),
    "malformed": (400, "The request cannot be parsed"),
    "no_token": (401, "A token is required"),
    "bad_token": (401, "The token is not acceptable"),
    "token_expired": (401, "The token has expired"),
    "bad_signature": (401, "The signature does not verify"),
    "unknown_key": (401, "The signing key is not known here"),
    "wrong_audience": (403, "The token is meant for another server"),
    "wrong_path": (403, "The token is for another job"),
    "wrong_key": (403, "The statement is signed by another key than the token names"),
    "wrong_scope": (403, "The token does not allow this"),
    "raw_refused": (403, "Raw commands are not allowed on this server"),
    "not_found": (404, "There is no such thing here for you"),
    "method_not_allowed": (405, "This resource does not have that method"),
    "slow_body": (408, "The body did not come in time"),
    "conflict": (409, "The request contradicts what is recorded"),
    "equivocation": (409, "Another answer was already given for this attempt"),
    "key_reused": (409, "The idempotency key was used for another request"),
    "too_late": (410, "The attempt is closed"),
    "too_large": (413, "The body is too large"),
    "bad_media": (415, "The media type is not accepted"),
    "bad_range": (416, "The range cannot be served"),
    "too_many": (429, "Too many requests"),
    "internal": (500, "The server failed"),
    "overloaded": (503, "The server has more to do than it can"),
    "unready": (503, "The server is not ready"),
    "store_away": (503, "The store does not answer"),
    "timed_out": (504, "The answer did not come in time"),
}


class GnexecError(Exception):
    """Root of all errors that gnexec raises on purpose."""


class Refused(GnexecError):
    """The caller is to act: what was asked cannot be done.

    Attributes:
        code: a key of `REFUSALS`.
        status: HTTP status that belongs to the code.
        title: the code in words, the same for every occurrence.
        detail: what is wrong this time, one sentence.
        field: the field, parameter or header concerned, or None.
        mend: what to do about it, one sentence, or None.
    """

    def __init__(self, code: str, detail: str, *, field: str | None = None, mend: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = REFUSALS[code]
        self.detail = detail
        self.field = field
        self.mend = mend

    def __str__(self) -> str:
        """Return the sentence, led by the field and followed by the mend."""
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.detail}" + (f" {self.mend}" if self.mend else "")


class IllegalTransition(GnexecError):
    """An event does not fit the state it is applied to; nothing was changed."""


class ProofError(GnexecError):
    """A Merkle proof, checkpoint or note does not verify."""


class Conflict(GnexecError):
    """The log's head is not where the caller expected it; catch up and decide again."""


class CorruptLog(GnexecError):
    """The log contradicts itself or its checkpoint.

    Attributes:
        seq: first entry that is known to be bad, or None where no single entry can be named.
    """

    def __init__(self, reason: str, *, seq: int | None = None) -> None:
        super().__init__(reason if seq is None else f"entry {seq}: {reason}")
        self.seq = seq
        self.reason = reason


class UnknownEvent(CorruptLog):
    """The log holds an event type or version that this program does not know.

    Not damage: the log was written by a newer gnexec. The process must become unready, never skip it.
    """


class StoreAway(GnexecError):
    """The store does not answer, or it is unknown whether it committed."""


class BadConfiguration(GnexecError):
    """The operator is to act: settings, keys, schema or files are not usable."""


class ServerUnreachable(GnexecError):
    """A server does not answer, or what stands before it says that it is away. Try again later.

    Attributes:
        url: the address that was asked.
        reason: what went wrong, without an end mark.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"The server at {url} cannot be reached: {reason}.")
        self.url = url
        self.reason = reason


class StrangeAnswer(GnexecError):
    """What answered at a server's address is no gnexec server, or one that this program does not understand."""
