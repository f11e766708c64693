"""The shapes of requests and replies over HTTP: one place for server, client, worker and OpenAPI.

Requests are strict: an unknown field is an error that names it. Replies may gain fields, so readers must let unknown ones
pass. Times are milliseconds since 1970 unless the name says otherwise; digests are SHA-256 in hexadecimal.

What the values mean is decided elsewhere (`gnexec.core`); here is only their form.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from gnexec.core.events import Offer
from gnexec.core.spec import Spec
from gnexec.core.terms import DataClass, Needs, Redundancy
from gnexec.ids import MAX_SAFE_INT

MAX_BATCH: Final = 64
"""Attempts in one hand-out, and results in one statement."""
MAX_SUBMIT: Final = 1000
"""Jobs in one submission."""

Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INT)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies: strict."""


class _Reply(msgspec.Struct, frozen=True, omit_defaults=False, kw_only=True):
    """Base of replies."""


def job_links(job: int) -> dict[str, Any]:
    """Return the links of a job's resource (HAL)."""
    own = f"/v1/jobs/{job}"
    names = ("result", "stdout", "stderr", "attempts", "receipt", "explain", "events")
    return {"self": {"href": own}, "cancel": {"href": f"{own}:cancel"}} | {
        name: {"href": f"{own}/{name}"} for name in names
    }


# Handing in.


class JobBody(Spec, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One job to be handed in: its specification, and how it is to be treated.

    Attributes:
        name: a name for people; not part of the job's identity.
        needs: what one attempt may use.
        redundancy: replicas and quorum.
        priority: higher goes first, -1000..1000.
        estimate_s: a guess of one attempt's wall time, seconds.
        data_class: "project" or "public"; None takes the server's default.
        force_recompute: make a new job even if the same one exists.
        recompute_on_error: make a new job if the same one failed.
    """

    name: Annotated[str, Meta(max_length=200)] = ""
    needs: Needs = Needs()
    redundancy: Redundancy = Redundancy()
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    estimate_s: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None
    data_class: DataClass | None = None
    force_recompute: bool = False
    recompute_on_error: bool = False


class ManyJobs(_Request, frozen=True):
    """Several jobs to be handed in together: all or none."""

    jobs: Annotated[list[JobBody], Meta(min_length=1, max_length=MAX_SUBMIT)]


class EtaView(_Reply, frozen=True):
    """When a job is expected to be done, seconds from now, as a range.

    Attributes:
        observations: results that the estimate rests on; 0 for a mere guess of the submitter's.
    """

    likely_s: float
    low_s: float
    high_s: float
    observations: int


class JobView(_Reply, frozen=True):
    """A job as its owner sees it.

    Attributes:
        state: queued, running, succeeded, failed, cancelled.
        created: whether this very request made it (in a reply to a submission).
        reason: what decided it: quorum, failures, attempts, cancelled; "" before.
        outcome: how its accepted (or last failed) execution ended, in words.
        progress: 0..1, the furthest of its running attempts.
        attempts: how many were handed out. agreeing: how many results agree with the accepted one.
        eta: None when it is decided, or nothing is known.
    """

    id: int
    state: str
    created: bool = False
    digest: str = ""
    name: str = ""
    cmd: str = ""
    priority: int = 0
    submitted_ms: int = 0
    decided_ms: int | None = None
    reason: str = ""
    outcome: str = ""
    progress: float = 0.0
    attempts: int = 0
    agreeing: int = 0
    revision: int = 0
    eta: EtaView | None = None
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class ManyJobViews(_Reply, frozen=True):
    """The jobs of a submission, in its order."""

    jobs: list[JobView]
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class AttemptView(_Reply, frozen=True):
    """One attempt of a job."""

    attempt: int
    state: str
    verdict: str
    outcome: str
    worker: str
    started_ms: int
    ended_ms: int | None
    wall_ms: int
    cpu_ms: int
    peak_rss_bytes: int
    progress: float = 0.0


class AttemptsView(_Reply, frozen=True):
    """All attempts of a job."""

    id: int
    attempts: list[AttemptView]
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class FileView(_Reply, frozen=True):
    """A stored file and where to fetch it."""

    sha256: str
    size: int
    href: str


class ResultView(_Reply, frozen=True):
    """A job's result: of the accepted attempt, or of the last one that failed.

    Attributes:
        exit_code: exit status, or None where a signal or limit ended it.
        validated_by: results that agree with it, itself included; 0 if it was not accepted.
    """

    id: int
    state: str
    outcome: str
    exit_code: int | None
    attempt: int | None
    validated_by: int
    revision: int
    outputs: dict[str, FileView]
    stdout: FileView | None
    stderr: FileView | None
    wall_ms: int
    cpu_ms: int
    peak_rss_bytes: int
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class ReceiptView(_Reply, frozen=True):
    """An entry of the log, opened, with the proof that the log holds it; verifiable offline.

    Attributes:
        leaf: the exact bytes of the leaf, as text. salt: hexadecimal. payload: the event's exact bytes, as text.
        proof: C2SP tlog-proof: inclusion proof and signed checkpoint.
    """

    log: str
    seq: int
    leaf: str
    salt: str
    payload: str
    proof: str


class ReceiptsView(_Reply, frozen=True):
    """What the log holds about a job: its submission, its results, its decision."""

    id: int
    receipts: list[ReceiptView]
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class ExplainView(_Reply, frozen=True):
    """Why a job is where it is.

    Attributes:
        needed: attempts that it waits for. ahead: waiting jobs in front of it.
        workers: enrolled workers heard of in the last five minutes; able: those that could take it.
        sentences: the same in words.
    """

    id: int
    state: str
    needed: int
    ahead: int
    workers: int
    able: int
    sentences: list[str]


# Volunteers.


class JobWork(_Reply, frozen=True, omit_defaults=True):
    """One job handed to a worker.

    Attributes:
        cmd: for a shell; argv: the same without one, or None for a raw command line.
        token: the job token (in the single form; several share one beside the list).
        digest: the job digest.
        lease_until: show progress before this, milliseconds since 1970. deadline_s: after this it is too late, seconds.
    """

    id: int
    cmd: str
    token: str | None = None
    attempt: int = 0
    digest: str = ""
    argv: list[str] | None = None
    inputs: dict[str, str] = {}
    outputs: list[str] = []
    env: dict[str, str] = {}
    seed: int | None = None
    needs: Needs | None = None
    lease_until: int = 0
    deadline_s: int = 0


class ManyJobWork(_Reply, frozen=True):
    """A hand-out of several jobs: one token for all."""

    jobs: list[JobWork]
    token: str


class UsageBody(_Request, frozen=True):
    """What an execution has used so far, over its whole process tree."""

    cpu_ms: Count = 0
    wall_ms: Count = 0
    peak_rss_bytes: Count = 0


class StatusBody(_Request, frozen=True):
    """Progress of a job.

    Attributes:
        token: the job token, where it is not in the Authorization header.
        progress: 0..1.
        stdout: output from `stdout_offset` on, bytes that are no UTF-8 replaced.
        stdout_offset: place of its first byte in the UTF-8 text that was sent so far.
    """

    token: str | None = None
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    usage: UsageBody | None = None
    stdout: str | None = None
    stdout_offset: Count = 0


class StatusReply(_Reply, frozen=True):
    """What the worker is to do.

    Attributes:
        directive: "continue" or "stop". reason: why to stop. lease_until: milliseconds since 1970.
    """

    directive: str
    reason: str
    lease_until: int


class InlineFile(_Request, frozen=True):
    """Bytes within a body: base64, or the digest of a blob that was uploaded."""

    base64: str | None = None
    sha256: Digest | None = None


class ResultBody(_Request, frozen=True):
    """A result: a signed statement; or, in open mode, the exit status and the output itself.

    Attributes:
        token: the job token, where it is not in the Authorization header.
        statement: the worker's signed result statement.
        exit_code: open mode: exit status, or 128 + signal.
        limit: open mode: what stopped it, if not itself: cpu, wall, memory, disk, processes, stopped, preempted.
        stdout, stderr: open mode: text, or bytes.
        outputs: open mode: text or bytes by path.
        usage: open mode: what it used.
    """

    token: str | None = None
    statement: str | None = None
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None
    limit: str | None = None
    stdout: str | InlineFile = ""
    stderr: str | InlineFile = ""
    outputs: dict[str, str | InlineFile] = {}
    usage: UsageBody | None = None


class ManyResultsBody(_Request, frozen=True):
    """Results of several jobs of one hand-out, in one signed statement."""

    statement: str
    token: str | None = None


class VerdictView(_Reply, frozen=True):
    """What a result is worth now.

    Attributes:
        verdict: pending, valid, invalid, inconclusive, unneeded; in the list form also too_late, equivocation.
        receipt: the entry that holds the result, with its proof.
    """

    verdict: str
    receipt: ReceiptView | None = None
    job: int = 0


class ManyVerdicts(_Reply, frozen=True):
    """Verdicts in the order of the statement, and the receipt of the entry that holds them."""

    results: list[VerdictView]
    receipts: list[ReceiptView]


class EnrolBody(_Request, frozen=True):
    """A worker that wants to be admitted.

    Attributes:
        proof: `gnexec-enrol+jwt`, made with the worker's key over this server and this access token.
        offer: what it offers.
        description: anything else it tells of itself: system, processor, software; kept as content, erasable.
    """

    proof: str
    offer: Offer
    description: dict[str, str | int | float | bool | list[str]] = {}


class EnrolReply(_Reply, frozen=True):
    """The worker's id and its enrolment token, good until `exp_s`."""

    worker: str
    token: str
    exp_s: int
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class ObstacleView(_Reply, frozen=True):
    """One reason why there was no work."""

    code: str
    jobs: int
    detail: str


class WhyView(_Reply, frozen=True):
    """Why there is no work for this worker now; empty when there is."""

    work: bool
    reasons: list[ObstacleView]


# The server.


class HeyView(_Reply, frozen=True, rename={"i_am": "I am"}):
    """Who answers."""

    i_am: str
    version: str
    origin: str
    open: bool
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class PayloadLine(_Reply, frozen=True, omit_defaults=True):
    """What is shown of an entry beyond its leaf: salt (hexadecimal) and payload, or that they are withheld."""

    seq: int
    salt: str | None = None
    payload: str | None = None
    withheld: bool = False


class HealthView(_Reply, frozen=True):
    """Whether the server lives, or is ready to serve."""

    ok: bool
    detail: str = ""


class ProblemKind(_Reply, frozen=True):
    """What a problem's type stands for."""

    type: str
    title: str
    status: int


class Problem(_Reply, frozen=True, omit_defaults=True):
    """An error (RFC 9457): `type` is stable, `code` is its last part."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    mend: str | None = None
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)
