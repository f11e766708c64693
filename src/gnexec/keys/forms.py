"""The form of `ring.json`, and what a loaded ring is to a running server. No file is read or written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gnexec.tlog.note import Verifier
from gnexec.tokens import kid_of, public_key

FIRST_LOG_FILE: Final = "log.pem"
"""File of the key that a log is opened with."""


class PastKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A token key that signs no more; `until_s` is when the last token it may have signed has expired.

    Attributes:
        since_s: when it stopped signing; 0 where an older gnexec did not note it. So with every `since_s` here.
    """

    x: str
    until_s: int
    since_s: int = 0


class RevokedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token key that was stolen, and when that was said."""

    x: str
    since_s: int


class LogKeyRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A key that signs, or has signed, checkpoints.

    Attributes:
        file: its file in the private directory, while it is in force.
        endorsement: the note by which the one before it vouches for it; "" for the first.
        until_s: when it was retired; 0 while it is in force.
    """

    x: str
    file: str
    since_s: int = 0
    endorsement: str = ""
    until_s: int = 0


class Ring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What `ring.json` says.

    Attributes:
        next: kid of the token key that signs next. current: of the one that signs now.
        previous: newest first. retired: public keys, oldest first. revoked: as they were revoked.
        log: oldest first; empty while the one in `FIRST_LOG_FILE` has always been the only one.
    """

    origin: str
    next: str
    current: str
    previous: tuple[PastKey, ...] = ()
    retired: tuple[str, ...] = ()
    revoked: tuple[RevokedKey, ...] = ()
    next_since_s: int = 0
    current_since_s: int = 0
    log: tuple[LogKeyRow, ...] = ()


@dataclass(frozen=True, slots=True)
class LogKey:
    """A log key of the ring.

    Attributes:
        row: what the ring says of it.
        vkey: its verifier key.
        private: None once it is retired.
    """

    row: LogKeyRow
    vkey: str
    private: Ed25519PrivateKey | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyLine:
    """One key in a list for people.

    Attributes:
        use: what for, and its role: "log", "token, next", and so on.
        key: kid of a token key, verifier key of a log key.
        since_s: since when it has that role, or None where nobody noted it. until_s: until when, where that is known.
    """

    use: str
    key: str
    since_s: int | None
    until_s: int | None = None


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The keys of a running server, parsed.

    Attributes:
        origin: the log's name, which is also `iss` and `aud` of every token.
        token_current: signs tokens now.
        token_public: next, current and previous token keys by `kid`, in that order: those that a token may be
            signed with.
        pseudonym_secret: 32 bytes; see `gnexec.ids.owner_id`.
        token_next: will sign tokens after the next rotation.
        log_keys: oldest first, retired ones too; the last one is in force.
        ring: what they were made from.
    """

    origin: str
    token_current: Ed25519PrivateKey = field(repr=False)
    token_public: Mapping[str, Ed25519PublicKey]
    pseudonym_secret: bytes = field(repr=False)
    token_next: Ed25519PrivateKey = field(repr=False)
    log_keys: tuple[LogKey, ...]
    ring: Ring

    @property
    def log_key(self) -> Ed25519PrivateKey:
        """The newest key that signs checkpoints."""
        private = self.log_keys[-1].private
        assert private is not None  # noqa: S101 -- the newest one is never retired
        return private

    @property
    def log_verifier(self) -> Verifier:
        """The log's newest public key under its name; its `vkey` is what auditors hold."""
        return Verifier.of(self.origin, self.log_key.public_key())

    @property
    def retired(self) -> frozenset[str]:
        """Kids of the token keys whose last token has expired."""
        return frozenset(kid_of(public_key(x)) for x in self.ring.retired)

    @property
    def revoked(self) -> frozenset[str]:
        """Kids of the token keys that were revoked."""
        return frozenset(kid_of(public_key(key.x)) for key in self.ring.revoked)

    def lines(self) -> list[KeyLine]:
        """Return all keys in a form for people: the log's, newest first, then the tokens'."""
        return [*self._log_lines(), *self._token_lines()]

    def _log_lines(self) -> Iterator[KeyLine]:
        newest, *older = reversed(self.log_keys)
        yield KeyLine("log", newest.vkey, newest.row.since_s or None)
        for key in older:
            use = "log, retired" if key.row.until_s else "log, previous"
            yield KeyLine(use, key.vkey, key.row.since_s or None, key.row.until_s or None)

    def _token_lines(self) -> Iterator[KeyLine]:
        ring = self.ring
        yield KeyLine("token, next", ring.next, ring.next_since_s or None)
        yield KeyLine("token, current", ring.current, ring.current_since_s or None)
        for past in ring.previous:
            yield KeyLine("token, previous", kid_of(public_key(past.x)), past.since_s or None, past.until_s)
        for gone in ring.revoked:
            yield KeyLine("token, revoked", kid_of(public_key(gone.x)), gone.since_s)
        for x in ring.retired:
            yield KeyLine("token, retired", kid_of(public_key(x)), None)
