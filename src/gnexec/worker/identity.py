"""Who the worker is: its key, made on the first start, and its enrolment, renewed before it ends.

The key proves that an answer comes from the worker to whom the job was handed; it never leaves its file (mode 0600).
Enrolling takes an access token with the scope enrol, of the account for which the worker computes, and a proof that
it holds the key; it brings an enrolment token, which is kept (mode 0600), so that later starts need no access token.

What is offered may change between two starts: then the worker tells it anew, if it still has the access token.

In open mode there is no identity at all.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gnexec.core.events import Offer
from gnexec.errors import BadConfiguration
from gnexec.ids import attempt_id, sha256_hex
from gnexec.keys import worker_key
from gnexec.keys.files import read_private, replace
from gnexec.shapes import EnrolBody
from gnexec.tokens import ProofClaims, sign
from gnexec.worker.link import Link

RENEW_S: Final = 24 * 3600
"""An enrolment is renewed when less than this remains, or less than a quarter of its life."""

Description = dict[str, str | int | float | bool | list[str]]


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What the server gave; it holds a secret.

    Attributes:
        origin: the server's name.
        worker: the worker's id there.
        token: the enrolment token.
        since_s, exp_s: its life, seconds since 1970 by the server's clock.
        told: SHA-256 of what the worker told of itself.
    """

    origin: str
    worker: str
    token: str
    since_s: int
    exp_s: int
    told: str


@dataclass(slots=True)
class Identity:
    """A worker of one server.

    Attributes:
        origin: the server's name.
        key: the worker's key.
        enrolment: what the server gave, or None before.
    """

    origin: str
    key: Ed25519PrivateKey = field(repr=False)
    enrolment: Enrolment | None = field(repr=False)
    _path: Path
    _access_token: str | None = field(repr=False)

    @classmethod
    def load(cls, origin: str, key: Path, enrolment: Path, access_token: str | None) -> Identity:
        """Read the key and the enrolment, and make the key if there is none.

        Args:
            origin: the server's name, as it says itself.
            key: the key's file.
            enrolment: the enrolment's file.
            access_token: with the scope enrol, or None.

        Raises:
            BadConfiguration: a file cannot be used, or others may read it.
        """
        found = None
        if enrolment.exists():
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # damaged: as if there were none
                found = msgspec.json.decode(read_private(enrolment), type=Enrolment)
        if found is not None and found.origin != origin:
            found = None
        return cls(origin, worker_key(key), found, enrolment, access_token)

    @property
    def worker(self) -> str:
        """The worker's id.

        Raises:
            BadConfiguration: it is not enrolled.
        """
        return self._need().worker

    @property
    def token(self) -> str:
        """The enrolment token.

        Raises:
            BadConfiguration: it is not enrolled.
        """
        return self._need().token

    def due(self, now_s: float, offer: Offer, description: Description) -> bool:
        """Tell whether to enrol now: for the first time, again, or to tell what has changed."""
        if self.enrolment is None:
            return True
        left_s = self.enrolment.exp_s - now_s
        if left_s <= 0:
            return True
        old = left_s < min(RENEW_S, (self.enrolment.exp_s - self.enrolment.since_s) / 4)
        return (old or self.enrolment.told != _told(offer, description)) and self._access_token is not None

    async def enrol(self, link: Link, offer: Offer, description: Description) -> None:
        """Enrol, and keep what the server gives.

        Args:
            link: the server.
            offer: what the worker offers in total.
            description: what else it tells of itself.

        Raises:
            BadConfiguration: there is no access token.
            Refused: the server does not admit it. Away: it did not answer.
        """
        if self._access_token is None:
            msg = (
                "This worker is not enrolled here. Ask the operator for an access token with the scope enrol, and "
                "give it in the variable GNEXEC_TOKEN or in a file with --owner-token-file."
            )
            raise BadConfiguration(msg)
        proof = ProofClaims(
            aud=self.origin,
            iat=int(link.now_s()),
            jti=attempt_id(secrets.token_bytes(16)),
            ath=sha256_hex(self._access_token.encode()),
        )
        body = EnrolBody(proof=sign(proof, self.key), offer=offer, description=description)
        reply = await link.enrol(body, self._access_token)
        self.enrolment = Enrolment(
            origin=self.origin,
            worker=reply.worker,
            token=reply.token,
            since_s=int(link.now_s()),
            exp_s=reply.exp_s,
            told=_told(offer, description),
        )
        replace(self._path, msgspec.json.encode(self.enrolment), 0o600)

    def _need(self) -> Enrolment:
        if self.enrolment is None:
            msg = "the worker is not enrolled"
            raise BadConfiguration(msg)
        return self.enrolment


def _told(offer: Offer, description: Description) -> str:
    return sha256_hex(msgspec.json.encode([offer, description], order="sorted"))
