"""The private keys that the writer seals with, and whether they are all that the log names.

What a server holds is a value: when its ring of keys changes, another one is put in its place at once (`Sealer.held`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.commands import OpenLog, RingLogKey, TurnKeys
from gnexec.core.events import PolicySet
from gnexec.core.keybook import KeyBook
from gnexec.core.turn import lacking
from gnexec.ids import b64url
from gnexec.keys import ServerKeys
from gnexec.tlog.note import Verifier


class Held:
    """Log keys, and the kids of the token keys beside them.

    Attributes:
        signers: private log keys by verifier key.
    """

    def __init__(
        self, origin: str, log_keys: Iterable[Ed25519PrivateKey], tokens: Collection[str] | None = None
    ) -> None:
        """Hold keys.

        Args:
            origin: the log's name.
            log_keys: private keys that checkpoints may be signed with.
            tokens: kids of all token keys that the ring knows, retired ones too; None where they do not matter.
        """
        self.signers = {Verifier.of(origin, key.public_key()).vkey: key for key in log_keys}
        self._tokens = tokens
        self._judged: tuple[KeyBook, str | None] | None = None

    def trouble(self, book: KeyBook) -> str | None:
        """Say which keys of the log are missing here, or None if none is."""
        if self._judged is None or self._judged[0] is not book:
            missing = lacking(book, self._tokens, self.signers)
            if missing is not None:
                missing = (
                    f"The log names keys that this server has not got: {missing}. Keys were rotated elsewhere, and its "
                    "own ring is older: copy the folder of private keys from where `gnexec keys rotate` was run."
                )
            self._judged = book, missing
        return self._judged[1]

    def of(self, vkeys: Sequence[str] | None) -> list[Ed25519PrivateKey]:
        """Return the private keys of `vkeys`, in their order, or all.

        Raises:
            LookupError: one is missing; `trouble` tells before.
        """
        return list(self.signers.values()) if vkeys is None else [self.signers[vkey] for vkey in vkeys]


def ring_of(keys: ServerKeys) -> TurnKeys:
    """Return a ring as the core asks for it."""
    return TurnKeys(
        tokens={kid: b64url(key.public_bytes_raw()) for kid, key in keys.token_public.items()},
        current=keys.ring.current,
        retired=keys.retired,
        revoked=keys.revoked,
        log=tuple(RingLogKey(key.vkey, key.row.endorsement, not key.row.until_s) for key in keys.log_keys),
    )


def opening_of(keys: ServerKeys, policy: PolicySet) -> OpenLog:
    """Return the first command of a server with these keys and numbers.

    A new log is opened with the oldest key in force.
    """
    first = next(key.vkey for key in keys.log_keys if key.private is not None)
    return OpenLog(keys.origin, first, {}, policy, ring_of(keys))
