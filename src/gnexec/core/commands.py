"""What can be asked of the core, and what it answers.

A command carries everything that its decision needs beside the world: checked values, random draws, and facts that were
looked up under the append lock (`past`). The doors make commands; `gnexec.core.decide` answers them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from gnexec.core.events import Effort, HandedOut, Offer, PolicySet, Reported, Submitted
from gnexec.core.job import Job
from gnexec.core.policy.matching import Obstacle
from gnexec.core.terms import Terms
from gnexec.errors import Refused


@dataclass(frozen=True, slots=True)
class Past:
    """Facts about what has left the world, folded from its own entries.

    Attributes:
        noted: codes of refusals noted for the closed hand-out that a job token names.
        jobs: closed jobs by id.
    """

    noted: frozenset[str] = frozenset()
    jobs: dict[int, Job] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RingLogKey:
    """A log key as a server's ring has it.

    Attributes:
        endorsement: the note by which the one before it vouches for it; "" for the first.
        in_force: whether it is to sign checkpoints.
    """

    vkey: str
    endorsement: str = ""
    in_force: bool = True


@dataclass(frozen=True, slots=True)
class TurnKeys:
    """A server's ring of keys has changed: bring the log up to it.

    Attributes:
        tokens: public keys (base64url) by kid, under which tokens may be admitted: next, current, previous.
        current: kid of the one that is to sign.
        retired: kids whose last token has expired. revoked: kids that were stolen.
        log: oldest first; those that were retired are still named.
    """

    tokens: dict[str, str]
    current: str
    retired: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()
    log: tuple[RingLogKey, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenLog:
    """Begin the log, or bring keys and policy up to what the operator set.

    Attributes:
        vkey: the log key to open a new log with; for a log that is there, one of its keys, old or new.
        keys: token keys to announce, by kid.
        turn: the whole ring, where there is one.
    """

    origin: str
    vkey: str
    keys: dict[str, str]
    policy: PolicySet
    turn: TurnKeys | None = None


@dataclass(frozen=True, slots=True)
class EndOutage:
    """A server starts; none was alive since `since_ms`."""

    since_ms: int


@dataclass(frozen=True, slots=True)
class Lapse:
    """Close what has lapsed."""


@dataclass(frozen=True, slots=True)
class Enrol:
    """Admit a worker that proved to hold its key; repeating it tells anew what it offers.

    Attributes:
        draw: 16 random bytes for its id.
        caps: salted digest (hexadecimal) of its description.
    """

    owner: str
    x: str
    kid: str
    offer: Offer
    caps: str
    draw: bytes


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One job of a submission.

    Attributes:
        digest: job digest, hexadecimal. spec: salted digest of its specification.
        force: make a new job even if the digest is known.
        retry_failed: make a new job if the known one failed.
    """

    digest: str
    spec: str
    terms: Terms
    force: bool = False
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand in jobs.

    Attributes:
        key: SHA-256 over owner and idempotency key, or None.
        body: SHA-256 of the request.
        known: newest job of each digest that exists in the project, open or closed.
        repeated: body and answer of the submission that used the key before, or None.
    """

    owner: str
    project: str
    jobs: tuple[JobRequest, ...]
    body: str
    key: str | None = None
    known: dict[str, Job] = field(default_factory=dict)
    repeated: tuple[str, Accepted] | None = None


@dataclass(frozen=True, slots=True)
class NextJobs:
    """A worker asks for work.

    Attributes:
        owner: for whom it is enrolled.
        n: attempts wanted, 1..64.
        req: SHA-256 of the request's id, or None.
        draw: 16 random bytes for the attempt id.
    """

    worker: str
    owner: str
    n: int
    req: str | None
    draw: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """A worker tells how a job goes, by a job token that was verified.

    Attributes:
        pairs: (job, attempt) pairs of the token.
        job: the one it tells about.
        exp_s: the token's expiry.
    """

    jti: str
    pairs: tuple[tuple[int, int], ...]
    job: int
    effort: Effort
    exp_s: int
    past: Past = field(default_factory=Past)


@dataclass(frozen=True, slots=True)
class Report:
    """A worker answers for attempts, by a job token and (secured) a statement that were verified.

    Attributes:
        answer: SHA-256 (hexadecimal) of the decoded claims.
        digests: job digest (hexadecimal) by job, as the statement has it.
        flaws: what is wrong with a job's outputs; refused with only if the result would be taken.
    """

    jti: str
    pairs: tuple[tuple[int, int], ...]
    worker: str
    results: tuple[Reported, ...]
    statement: str | None
    answer: str
    exp_s: int
    digests: dict[int, str] = field(default_factory=dict)
    flaws: dict[int, Refused] = field(default_factory=dict)
    past: Past = field(default_factory=Past)


@dataclass(frozen=True, slots=True)
class Cancel:
    """An owner wants jobs no longer; jobs that are decided already stay as they are."""

    owner: str
    jobs: tuple[int, ...]
    past: Past = field(default_factory=Past)


Command = OpenLog | TurnKeys | EndOutage | Lapse | Enrol | Submit | NextJobs | Progress | Report | Cancel


class Verdict(StrEnum):
    """What a result is worth, as far as is known now."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    INCONCLUSIVE = "inconclusive"
    TOO_LATE = "too_late"
    UNNEEDED = "unneeded"
    EQUIVOCATION = "equivocation"


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to tell."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The worker's id, and whether it is new."""

    worker: str
    created: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """Job ids in the order of the request, and which of them are new.

    Attributes:
        again: whether the same request had been answered so before.
    """

    ids: tuple[int, ...]
    created: frozenset[int]
    again: bool = False

    @classmethod
    def of(cls, event: Submitted) -> Accepted:
        """Return the answer to the submission that made `event`."""
        return cls(tuple(event.ids()), frozenset(range(event.first, event.first + len(event.jobs))))


@dataclass(frozen=True, slots=True)
class Work:
    """A hand-out, new or repeated, with its lease as it stands.

    Attributes:
        jobs: (job, attempt number) for those that are still open in it; the job may be as it was just before.
        at_ms: when it was handed out.
    """

    hand_out: HandedOut
    jobs: tuple[tuple[Job, int], ...]
    lease_until_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class NoWork:
    """Why there is none for this worker now."""

    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True, slots=True)
class Directive:
    """What the worker should do: go on, or stop for a reason."""

    stop: bool
    reason: str
    lease_until_ms: int


class Judged(msgspec.Struct, frozen=True, gc=False):
    """One result's verdict.

    Attributes:
        seq: log entry that holds the result, or -1 where it was refused.
    """

    job: int
    attempt: int
    verdict: Verdict
    seq: int


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts in the order of the report."""

    judged: tuple[Judged, ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The jobs as they are after it."""

    jobs: tuple[Job, ...]


Answer = Done | Enrolled | Accepted | Work | NoWork | Directive | Verdicts | Cancelled
