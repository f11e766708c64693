"""Every event that the log can hold, with its version.

An event is a fact that was decided; it is never edited. Its tag `t` is its name and version ("submitted/1"), so that
one look tells a reader whether it knows the form. A new version is a new class; an old one is upcast when read.

What may stand in an event: pseudonymous ids, digests, numbers, draws, signed statements. What may not: command lines,
names, addresses, output. Those are *content*, named here by salted digests only.

Many is the native form: one event hands out several attempts, one reports several results.
"""

from __future__ import annotations

import msgspec

from gnexec.core.serverevents import (
    KeyAdded,
    KeyCurrent,
    KeyRetired,
    KeyRevoked,
    LogKeyAdded,
    LogKeyRetired,
    LogOpened,
    OutageEnded,
    PolicySet,
)
from gnexec.core.terms import Needs, Terms
from gnexec.core.words import AttemptState, Event, JobState, Outcome, Word


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a worker offers in total; the same units as `Needs`."""

    cores: int
    memory_bytes: int
    disk_bytes: int


class WorkerEnrolled(Event, frozen=True, tag="worker-enrolled/1"):
    """A worker proved that it holds its key and was admitted, or told anew what it offers.

    Attributes:
        x: its Ed25519 public key in base64url: auditors verify its statements with it.
        kid: the key's RFC 7638 thumbprint.
        caps: salted digest (hexadecimal) of its full description, which is content.
    """

    worker: str
    owner: str
    x: str
    kid: str
    caps: str
    offer: Offer


class NewJob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One new job in a submission.

    Attributes:
        digest: the job digest, hexadecimal.
        spec: salted digest (hexadecimal) of its specification, which is content.
        terms: index into the submission's `terms`.
    """

    digest: str
    spec: str
    terms: int


class JoinedJob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One job of a submission that existed already.

    Attributes:
        position: its place in the request, 0...
        job: the job that answers it.
        terms: index into the submission's `terms`; the stricter redundancy holds from here on.
    """

    position: int
    job: int
    terms: int


class Submitted(Event, frozen=True, tag="submitted/1"):
    """Jobs were handed in, in one request.

    Attributes:
        first: id of the first new job; the others follow consecutively.
        key: SHA-256 (hexadecimal) over owner and idempotency key, or None.
        body: SHA-256 of what was asked, so that a key cannot be used for something else.
        terms: the distinct terms of this request.
        jobs: the new ones, in the order of the request.
        joined: those that existed.
    """

    first: int
    owner: str
    project: str
    key: str | None
    body: str
    terms: list[Terms]
    jobs: list[NewJob]
    joined: list[JoinedJob]

    def ids(self) -> list[int]:
        """Return the job ids in the order of the request."""
        places = {row.position: row.job for row in self.joined}
        fresh = iter(range(self.first, self.first + len(self.jobs)))
        return [places[i] if i in places else next(fresh) for i in range(len(self.jobs) + len(places))]


class HandedOut(Event, frozen=True, tag="handed-out/1"):
    """Attempts were given to a worker: one token, one lease for all of them.

    Attributes:
        jti: the attempt id, in the job token.
        owner: who counts as the giver of the results.
        req: SHA-256 (hexadecimal) of the request's id, which makes it repeatable, or None.
        jobs: (job id, attempt number) pairs.
        lease_until_ms: lapses when the clock passes it.
        exp_s: the token's expiry: the hard deadline, never moved.
        est_s: predicted wall time of all of them one after the other, seconds, or None.
    """

    jti: str
    worker: str
    owner: str
    req: str | None
    jobs: list[tuple[int, int]]
    lease_until_ms: int
    exp_s: int
    est_s: int | None


class Effort(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a job has to show for itself; a lease is extended when one of these grew.

    Attributes:
        progress_ppm: progress in parts per million, 0..1,000,000.
        cpu_ms: processor time used.
        stdout_bytes: output received so far.
    """

    progress_ppm: int = 0
    cpu_ms: int = 0
    stdout_bytes: int = 0


class LeaseExtended(Event, frozen=True, tag="lease-extended/1"):
    """The worker made contact for the first time, or showed progress when less than half of the lease remained."""

    jti: str
    job: int
    effort: Effort
    lease_until_ms: int


class Reported(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One result within a report.

    Attributes:
        canon: digest (hexadecimal) of the declared outputs: what is compared; None unless the exit status is 0.
        outs: digest of the manifest of all outputs and logs, or None where nothing was kept.
    """

    job: int
    attempt: int
    outcome: Outcome
    canon: str | None
    outs: str | None
    wall_ms: int
    cpu_ms: int
    peak_rss_bytes: int


class ResultsReported(Event, frozen=True, tag="results-reported/1"):
    """A worker answered for one or more attempts of a hand-out.

    Attributes:
        statement: the worker's signed statement (JWS), or None in open mode.
        answer: SHA-256 (hexadecimal) of the decoded claims: the identity of the answer, whatever its bytes.
    """

    jti: str
    worker: str
    statement: str | None
    answer: str
    results: list[Reported]


class Compared(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Two results of a job were compared.

    Attributes:
        a: attempt number of the earlier result; b: of the later one.
        validator: the comparison and its version.
        why: what differed, in the validator's words; "" when equal.
    """

    job: int
    a: int
    b: int
    equal: bool
    validator: str
    why: str


class ResultsCompared(Event, frozen=True, tag="results-compared/1"):
    """Results were compared, outside the core; decisions only count what was found."""

    found: list[Compared]


class JobDecided(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One job is decided, by the rule in its terms.

    Attributes:
        revision: 1, or one more than the last.
        state: succeeded or failed.
        canonical: attempt number of the accepted result, or None.
        reason: quorum, failures, attempts.
    """

    job: int
    revision: int
    state: JobState
    canonical: int | None
    reason: str


class JobsDecided(Event, frozen=True, tag="jobs-decided/1"):
    """What followed for jobs from one report, or from leases that passed."""

    decided: list[JobDecided]


class LapsedAttempt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One attempt that ended without an answer."""

    jti: str
    job: int
    attempt: int
    outcome: AttemptState


class AttemptsLapsed(Event, frozen=True, tag="attempts-lapsed/1"):
    """Leases passed; these attempts are closed."""

    ends: list[LapsedAttempt]


class OwnerWithdrew(Event, frozen=True, tag="owner-withdrew/1"):
    """An owner wants these jobs no longer; a job without owners is cancelled."""

    owner: str
    jobs: list[int]


class RefusalNoted(Event, frozen=True, tag="refusal-noted/1"):
    """A valid token and statement were refused; noted at most once for each hand-out and code."""

    jti: str
    job: int
    code: str


class Equivocated(Event, frozen=True, tag="equivocated/1"):
    """A worker signed another answer for an attempt that it had answered."""

    jti: str
    worker: str
    job: int
    attempt: int
    statement: str | None
    answer: str


AnyEvent = (
    LogOpened
    | KeyAdded
    | KeyCurrent
    | KeyRetired
    | KeyRevoked
    | LogKeyAdded
    | LogKeyRetired
    | PolicySet
    | WorkerEnrolled
    | Submitted
    | HandedOut
    | LeaseExtended
    | ResultsReported
    | ResultsCompared
    | JobsDecided
    | AttemptsLapsed
    | OwnerWithdrew
    | OutageEnded
    | RefusalNoted
    | Equivocated
)
"""What the log can hold."""

__all__ = [
    "AnyEvent",
    "AttemptState",
    "AttemptsLapsed",
    "Compared",
    "Effort",
    "Equivocated",
    "Event",
    "HandedOut",
    "JobDecided",
    "JobState",
    "JobsDecided",
    "JoinedJob",
    "KeyAdded",
    "KeyCurrent",
    "KeyRetired",
    "KeyRevoked",
    "LapsedAttempt",
    "LeaseExtended",
    "LogKeyAdded",
    "LogKeyRetired",
    "LogOpened",
    "Needs",
    "NewJob",
    "Offer",
    "OutageEnded",
    "Outcome",
    "OwnerWithdrew",
    "PolicySet",
    "RefusalNoted",
    "Reported",
    "ResultsCompared",
    "ResultsReported",
    "Submitted",
    "Word",
    "WorkerEnrolled",
]
