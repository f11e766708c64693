"""Shapes for those who do the work: hand-outs, progress, results, enrolment."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gnexec.core.events import Offer
from gnexec.core.terms import Needs
from gnexec.shapes.forms import Count, Digest, ReplyBody, RequestBody
from gnexec.shapes.jobs import ReceiptView


class JobWork(ReplyBody, frozen=True, omit_defaults=True):
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
    inputs: dict[str, str] = msgspec.field(default_factory=dict)
    outputs: list[str] = msgspec.field(default_factory=list)
    env: dict[str, str] = msgspec.field(default_factory=dict)
    seed: int | None = None
    needs: Needs | None = None
    lease_until: int = 0
    deadline_s: int = 0


class ManyJobWork(ReplyBody, frozen=True):
    """A hand-out of several jobs: one token for all."""

    jobs: list[JobWork]
    token: str


class UsageBody(RequestBody, frozen=True):
    """What an execution has used so far, over its whole process tree."""

    cpu_ms: Count = 0
    wall_ms: Count = 0
    peak_rss_bytes: Count = 0


class StatusBody(RequestBody, frozen=True):
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


class StatusReply(ReplyBody, frozen=True):
    """What the worker is to do.

    Attributes:
        directive: "continue" or "stop". reason: why to stop. lease_until: milliseconds since 1970.
    """

    directive: str
    reason: str
    lease_until: int


class InlineFile(RequestBody, frozen=True):
    """Bytes within a body: base64, or the digest of a blob that was uploaded."""

    base64: str | None = None
    sha256: Digest | None = None


class ResultBody(RequestBody, frozen=True):
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
    outputs: dict[str, str | InlineFile] = msgspec.field(default_factory=dict)
    usage: UsageBody | None = None


class ManyResultsBody(RequestBody, frozen=True):
    """Results of several jobs of one hand-out, in one signed statement."""

    statement: str
    token: str | None = None


class VerdictView(ReplyBody, frozen=True):
    """What a result is worth now.

    Attributes:
        verdict: pending, valid, invalid, inconclusive, unneeded; in the list form also too_late, equivocation.
        receipt: the entry that holds the result, with its proof.
    """

    verdict: str
    receipt: ReceiptView | None = None
    job: int = 0


class ManyVerdicts(ReplyBody, frozen=True):
    """Verdicts in the order of the statement, and the receipt of the entry that holds them."""

    results: list[VerdictView]
    receipts: list[ReceiptView]


class EnrolBody(RequestBody, frozen=True):
    """A worker that wants to be admitted.

    Attributes:
        proof: `gnexec-enrol+jwt`, made with the worker's key over this server and this access token.
        offer: what it offers.
        description: anything else it tells of itself: system, processor, software; kept as content, erasable.
    """

    proof: str
    offer: Offer
    description: dict[str, str | int | float | bool | list[str]] = msgspec.field(default_factory=dict)


class EnrolReply(ReplyBody, frozen=True):
    """The worker's id and its enrolment token, good until `exp_s`."""

    worker: str
    token: str
    exp_s: int
    links: dict[str, Any] = msgspec.field(name="_links", default_factory=dict)


class ObstacleView(ReplyBody, frozen=True):
    """One reason why there was no work."""

    code: str
    jobs: int
    detail: str


class WhyView(ReplyBody, frozen=True):
    """Why there is no work for this worker now; empty when there is."""

    work: bool
    reasons: list[ObstacleView]
