"""Rings of keys for tests of the laws: log keys that can really vouch for each other, token keys by name alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.commands import RingLogKey, TurnKeys
from gnexec.tlog.note import Verifier
from gnexec.tlog.succession import endorse
from tests.core.scene import ORIGIN

COUNT: Final = 5


@dataclass
class Rings:
    """Log keys of one log, each endorsed by the one before it; the same ones each time."""

    origin: str = ORIGIN

    def __post_init__(self) -> None:
        """Make the keys."""
        seeds = [hashlib.sha256(f"log key {i}".encode()).digest() for i in range(COUNT)]
        self.private = [Ed25519PrivateKey.from_private_bytes(seed) for seed in seeds]
        self.vkeys = [Verifier.of(self.origin, key.public_key()).vkey for key in self.private]

    def endorsement(self, i: int, by: int | None = None) -> str:
        """Return the note by which a key vouches for key `i`: the one before it, or another."""
        return endorse(self.origin, self.vkeys[i], self.private[i - 1 if by is None else by])

    def log(self, count: int, ended: int = 0) -> tuple[RingLogKey, ...]:
        """Return the first `count` log keys, of which the first `ended` are retired."""
        return tuple(
            RingLogKey(self.vkeys[i], self.endorsement(i) if i else "", in_force=i >= ended) for i in range(count)
        )

    def ring(
        self,
        *kids: str,
        current: str,
        retired: Iterable[str] = (),
        revoked: Iterable[str] = (),
        log: int = 1,
        ended: int = 0,
    ) -> TurnKeys:
        """Return what a server with such a ring asks for."""
        tokens = {kid: f"x-{kid}" for kid in kids}
        return TurnKeys(tokens, current, frozenset(retired), frozenset(revoked), self.log(log, ended))
