"""Which keys a log names, and from which entry to which: token keys by their `kid`, log keys in order of adding.

A token key is announced (`key-added`), signs from `key-current` on until another does, stays good for reading until it
is `key-retired`, or is `key-revoked` because it was stolen. A log key signs every checkpoint from the entry that adds
it on, beside those before it, until it is retired; each is endorsed by the one before it (`gnexec.tlog.succession`), so
whoever holds an old one can follow.

Rules:
- A key goes one way only; what is retired or revoked never comes back.
- The newest log key is never retired, so there is always one in force.
- A book is a value: `after` returns the next one. It holds no private key, and knows no clock.
"""

from __future__ import annotations

from typing import NoReturn

import msgspec

from gnexec.core.events import (
    AnyEvent,
    KeyAdded,
    KeyCurrent,
    KeyRetired,
    KeyRevoked,
    LogKeyAdded,
    LogKeyRetired,
    LogOpened,
)
from gnexec.errors import IllegalTransition, ProofError
from gnexec.tlog.succession import check_endorsement


class TokenKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that signs job, enrolment and access tokens.

    Attributes:
        x: the public key, base64url.
        added: seq of the entry that announced it.
        current: seq from which on it signs, or None while it never did.
        ended: seq from which on another one signs, or None.
        closed: seq from which on nothing is admitted under it, or None.
        revoked: whether it was closed because it was stolen.
    """

    x: str
    added: int
    current: int | None = None
    ended: int | None = None
    closed: int | None = None
    revoked: bool = False

    @property
    def state(self) -> str:
        """Its role, in a word: next, current, previous, retired or revoked."""
        if self.closed is not None:
            return "revoked" if self.revoked else "retired"
        if self.ended is not None:
            return "previous"
        return "next" if self.current is None else "current"


class LogKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that signs checkpoints.

    Attributes:
        vkey: the verifier key.
        added: seq of the entry that added it; 0 for the first.
        endorsement: the key before it vouches for it by this note; "" for the first.
        retired: seq of the entry that retired it, or None.
    """

    vkey: str
    added: int = 0
    endorsement: str = ""
    retired: int | None = None

    def signs(self, size: int) -> bool:
        """Tell whether it must have signed the checkpoint of a log of `size` entries."""
        return self.added < size and (self.retired is None or size <= self.retired)


class KeyBook(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that a log names, as of some entry.

    Attributes:
        origin: the log's name; "" before the first entry.
        current: kid of the key that signs tokens; "" where the log does not say (an older one).
        tokens: by kid.
        log: oldest first.
    """

    origin: str = ""
    current: str = ""
    tokens: dict[str, TokenKey] = {}
    log: tuple[LogKey, ...] = ()

    def live(self) -> list[str]:
        """Return the kids under which tokens may be admitted."""
        return [kid for kid, key in self.tokens.items() if key.closed is None]

    def revoked(self) -> set[str]:
        """Return the kids that were revoked."""
        return {kid for kid, key in self.tokens.items() if key.revoked}

    def in_force(self, size: int | None = None) -> list[str]:
        """Return the verifier keys that sign checkpoints, oldest first.

        Args:
            size: those that had to sign the checkpoint of so many entries; None for those that sign now.
        """
        if size is None:
            return [key.vkey for key in self.log if key.retired is None]
        return [key.vkey for key in self.log if key.signs(size)]

    def after(self, event: AnyEvent, seq: int) -> KeyBook:
        """Return the book as it is after entry `seq`; itself, where that is not about keys.

        Raises:
            IllegalTransition: the entry does not fit, or a log key is not endorsed by the one before it.
        """
        match event:
            case LogOpened():
                return KeyBook(origin=event.origin, log=(LogKey(vkey=event.vkey),))
            case KeyAdded():
                if event.kid in self.tokens:
                    _illegal(f"the key {event.kid} was added before")
                fresh = TokenKey(x=event.x, added=seq)
                return msgspec.structs.replace(self, tokens={**self.tokens, event.kid: fresh})
            case KeyCurrent():
                return self._make_current(event.kid, seq)
            case KeyRetired() | KeyRevoked():
                return self._close(event, seq)
            case LogKeyAdded():
                return self._add_log_key(event, seq)
            case LogKeyRetired():
                return self._retire_log_key(event.vkey, seq)
            case _:
                return self

    def _make_current(self, kid: str, seq: int) -> KeyBook:
        key = self.tokens.get(kid)
        if key is None or key.state != "next":
            _illegal(f"the key {kid} cannot become current: it is {key.state if key is not None else 'not announced'}")
        changed = {kid: msgspec.structs.replace(key, current=seq)}
        if self.current:
            changed[self.current] = msgspec.structs.replace(self.tokens[self.current], ended=seq)
        return msgspec.structs.replace(self, current=kid, tokens={**self.tokens, **changed})

    def _close(self, event: KeyRetired | KeyRevoked, seq: int) -> KeyBook:
        key = self.tokens.get(event.kid)
        if key is None or key.closed is not None or event.kid == self.current:
            state = key.state if key is not None else "not announced"
            _illegal(f"the key {event.kid} cannot be closed: it is {state}")
        closed = msgspec.structs.replace(key, closed=seq, revoked=isinstance(event, KeyRevoked))
        return msgspec.structs.replace(self, tokens={**self.tokens, event.kid: closed})

    def _add_log_key(self, event: LogKeyAdded, seq: int) -> KeyBook:
        if not self.log or any(key.vkey == event.vkey for key in self.log):
            _illegal("a log key is added that was there before, or before the log is opened")
        try:
            check_endorsement(event.endorsement, self.origin, event.vkey, self.log[-1].vkey)
        except ProofError as err:
            _illegal(f"the log key {event.vkey} is not endorsed by the one before it: {err}")
        added = LogKey(vkey=event.vkey, added=seq, endorsement=event.endorsement)
        return msgspec.structs.replace(self, log=(*self.log, added))

    def _retire_log_key(self, vkey: str, seq: int) -> KeyBook:
        if vkey not in self.in_force() or vkey == self.log[-1].vkey:
            _illegal(f"the log key {vkey} cannot be retired: it is the newest, or not in force")
        told = (
            msgspec.structs.replace(key, retired=seq) if key.vkey == vkey and key.retired is None else key
            for key in self.log
        )
        return msgspec.structs.replace(self, log=tuple(told))


def _illegal(reason: str) -> NoReturn:
    raise IllegalTransition(reason)
