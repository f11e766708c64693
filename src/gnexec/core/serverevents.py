"""Events about the server itself: its keys, its policy, its outages. All events together: `gnexec.core.events`."""

from __future__ import annotations

from gnexec.core.words import Event


class LogOpened(Event, frozen=True, tag="log-opened/1"):
    """First entry of every log: its name and the key that signs its checkpoints.

    Attributes:
        origin: the log's name, which is also `iss` and `aud` of every token.
        vkey: verifier key of the checkpoints (C2SP signed-note).
    """

    origin: str
    vkey: str


class KeyAdded(Event, frozen=True, tag="key-added/1"):
    """A key joined the set that signs job, enrolment and access tokens.

    Attributes:
        kid: RFC 7638 thumbprint.
        x: the Ed25519 public key, 32 bytes in base64url.
    """

    kid: str
    x: str


class KeyCurrent(Event, frozen=True, tag="key-current/1"):
    """A key that was announced signs tokens from here on; the one before it is good for reading only."""

    kid: str


class KeyRetired(Event, frozen=True, tag="key-retired/1"):
    """The last token that a key may have signed has expired: nothing is admitted under it any more."""

    kid: str


class KeyRevoked(Event, frozen=True, tag="key-revoked/1"):
    """A key was stolen: no token under it is admitted from here on, whatever its time.

    Hand-outs that are open here were made under such keys; as their workers cannot answer, they lapse without blame.
    """

    kid: str


class LogKeyAdded(Event, frozen=True, tag="log-key-added/1"):
    """From this entry on, checkpoints carry the signature of one more key.

    Attributes:
        vkey: its verifier key (C2SP signed-note).
        endorsement: a signed note by which the newest log key before it vouches for it.
    """

    vkey: str
    endorsement: str


class LogKeyRetired(Event, frozen=True, tag="log-key-retired/1"):
    """From this entry on, checkpoints carry no signature of this key."""

    vkey: str


class PolicySet(Event, frozen=True, tag="policy-set/2"):
    """The operator's numbers that decisions depend on; in force from this entry on.

    Attributes:
        lease_s: length of a lease, seconds.
        grace_s: added to the wall time asked for to give the attempt's hard deadline.
        max_open: attempts that one worker may hold at a time.
        distinct_owners: whether results must come from different owners to agree, and an owner gets a job once.
            False only in open mode with the operator's word that all volunteers are trusted.
        open: whether anyone may work unenrolled, and results need no signature.
        max_owner_open: attempts that all workers of one owner may hold at a time; 0 for no limit.
        silent_halves: whether each hand-out that a worker takes in silence, one after the other, halves what it may
            hold, until it is heard of.
    """

    lease_s: int
    grace_s: int
    max_open: int
    distinct_owners: bool
    open: bool = False
    max_owner_open: int = 0
    silent_halves: bool = False


class OutageEnded(Event, frozen=True, tag="outage-ended/1"):
    """No server ran between these times; open leases were prolonged by that long."""

    since_ms: int
    until_ms: int
