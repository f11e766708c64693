"""Shapes for those who hand in work: jobs, their results, their receipts."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gnexec.core.spec import Spec
from gnexec.core.terms import DataClass, Needs, Redundancy
from gnexec.shapes.forms import MAX_SUBMIT, ReplyBody, RequestBody


def job_links(job: int, part: str = "") -> dict[str, Any]:
    """Return the links of a job's resource, or of a part of it (HAL).

    Args:
        job: the job's id.
        part: "" for the job itself, else the name of one of its resources, such as "result".
    """
    own = f"/v1/jobs/{job}"
    names = ("result", "stdout", "stderr", "attempts", "receipt", "explain", "events")
    links = {name: {"href": f"{own}/{name}"} for name in names}
    return {
        "self": {"href": f"{own}/{part}".rstrip("/")},
        "job": {"href": own},
        "cancel": {"href": f"{own}:cancel"},
    } | links


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


class ManyJobs(RequestBody, frozen=True):
    """Several jobs to be handed in together: all or none."""

    jobs: Annotated[list[JobBody], Meta(min_length=1, max_length=MAX_SUBMIT)]


class EtaView(ReplyBody, frozen=True):
    """When a job is expected to be done, seconds from now, as a range.

    Attributes:
        observations: results that the estimate rests on; 0 for a mere guess of the submitter's.
    """

    likely_s: float
    low_s: float
    high_s: float
    observations: int


class JobView(ReplyBody, frozen=True):
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


class ManyJobViews(ReplyBody, frozen=True):
    """The jobs of a submission, in its order."""

    jobs: list[JobView]
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class AttemptView(ReplyBody, frozen=True):
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


class AttemptsView(ReplyBody, frozen=True):
    """All attempts of a job."""

    id: int
    attempts: list[AttemptView]
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class FileView(ReplyBody, frozen=True):
    """A stored file and where to fetch it."""

    sha256: str
    size: int
    href: str


class ResultView(ReplyBody, frozen=True):
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


class ReceiptView(ReplyBody, frozen=True):
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


class ReceiptsView(ReplyBody, frozen=True):
    """What the log holds about a job: its submission, its results, its decision."""

    id: int
    receipts: list[ReceiptView]
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class ExplainView(ReplyBody, frozen=True):
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
