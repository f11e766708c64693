"""What owners see of their jobs: state, attempts, result, files, receipts.

Each function takes an open office and a caller whose token was checked, and returns the shapes of the HTTP interface.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gnexec.core.events import AttemptState, JobState
from gnexec.core.job import Attempt, Job
from gnexec.core.judge import verdict
from gnexec.core.policy.redundancy import agreeing
from gnexec.core.spec import STDOUT, Manifest, Stored, decode_manifest
from gnexec.desk.dispatcher import View
from gnexec.desk.explaining import Outlook
from gnexec.desk.office import Caller, Office
from gnexec.desk.ownership import own_job
from gnexec.desk.sealer import Opened
from gnexec.errors import Refused
from gnexec.shapes import (
    AttemptsView,
    AttemptView,
    FileView,
    JobView,
    ReceiptsView,
    ReceiptView,
    ResultView,
    job_links,
)
from gnexec.store.contract import Grant
from gnexec.store.live import Heard


async def show(office: Office, caller: Caller, job: int) -> JobView:
    """Show a job to its owner.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> tuple[JobView, set[int]]:
        attempts = own_job(view, caller, job).attempts
        return show_job(office, view, caller, job), {a.number for a in attempts if a.state is AttemptState.OPEN}

    shown, is_open = await office.desk.ask(look)
    if not is_open or shown.state is JobState.SUCCEEDED:
        return shown
    heard = await office.live.heard(job)
    running = [how.progress for number, how in heard.items() if number in is_open]
    return msgspec.structs.replace(shown, progress=max(running, default=0.0))


async def attempts(office: Office, caller: Caller, job_id: int) -> AttemptsView:
    """Show a job's attempts.

    Raises:
        Refused: not_found.
    """
    job = await office.desk.ask(lambda view: own_job(view, caller, job_id))
    is_open = any(attempt.state is AttemptState.OPEN for attempt in job.attempts)
    heard = await office.live.heard(job_id) if is_open else {}
    rows = [_attempt(job, attempt, heard.get(attempt.number)) for attempt in job.attempts]
    return AttemptsView(id=job_id, attempts=rows, links=job_links(job_id, "attempts"))


async def result(office: Office, caller: Caller, job_id: int) -> ResultView:
    """Show a job's result: of the accepted attempt; else of the last that failed; else what state it is in.

    Raises:
        Refused: not_found.
    """
    job, agree = await office.desk.ask(lambda view: (found := own_job(view, caller, job_id), _agreeing(view, found)))
    told = _telling(job)
    manifest = _manifest(office, job)
    if manifest is not None and job.canonical is not None:
        await _grant(office, caller, manifest)
    base = f"/v1/jobs/{job_id}"
    return ResultView(
        id=job_id,
        state=job.state,
        outcome=_outcome(job),
        exit_code=told.outcome.exit if told is not None and told.outcome is not None else None,
        attempt=told.number if told is not None else None,
        validated_by=agree,
        revision=job.revision,
        outputs={
            name: _file(stored, f"{base}/outputs/{name}")
            for name, stored in (manifest.outputs if manifest else {}).items()
        },
        stdout=_file(manifest.stdout, f"{base}/stdout") if manifest else None,
        stderr=_file(manifest.stderr, f"{base}/stderr") if manifest else None,
        wall_ms=told.wall_ms if told is not None else 0,
        cpu_ms=told.cpu_ms if told is not None else 0,
        peak_rss_bytes=told.peak_rss_bytes if told is not None else 0,
        links=job_links(job_id, "result"),
    )


async def output(office: Office, caller: Caller, job_id: int, name: str) -> tuple[Path, Stored]:
    """Find an output of a job: its file, digest and size.

    Args:
        office: the server.
        caller: who asks.
        job_id: the job.
        name: a path among the outputs, or "stdout".

    Raises:
        Refused: not_found; no such job of the caller's, or no such output (yet).
    """
    job = await office.desk.ask(lambda view: own_job(view, caller, job_id))
    manifest = _manifest(office, job)
    found = {**manifest.outputs, STDOUT: manifest.stdout} if manifest is not None else {}
    return _path(office, job, name, found)


async def captured(office: Office, caller: Caller, job_id: int, name: str) -> tuple[Path, Stored]:
    """Find what a job wrote to "stdout" or "stderr", whatever its outputs are called.

    Raises:
        Refused: not_found; no such job of the caller's, or nothing was captured (yet).
    """
    job = await office.desk.ask(lambda view: own_job(view, caller, job_id))
    manifest = _manifest(office, job)
    found = {"stdout": manifest.stdout, "stderr": manifest.stderr} if manifest is not None else {}
    return _path(office, job, name, found)


async def live_output(office: Office, caller: Caller, job_id: int) -> bytes | None:
    """Return the newest part of a running job's output, or None once it has a result.

    Raises:
        Refused: not_found.
    """
    job = await office.desk.ask(lambda view: own_job(view, caller, job_id))
    if _telling(job) is not None:
        return None
    return await office.live.output(job_id)


async def receipts(office: Office, caller: Caller, job_id: int) -> ReceiptsView:
    """Open the entries about a job that its owner may see: its submission, its results once decided, its decision.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> list[Opened]:
        job = own_job(view, caller, job_id)
        seqs = {job.seq}
        if job.decided:
            seqs |= {job.decided_seq} | {attempt.seq for attempt in job.attempts if attempt.seq >= 0}
        return [view.open(seq) for seq in sorted(seqs)]

    opened = await office.desk.ask(look)
    return ReceiptsView(
        id=job_id, receipts=[receipt_view(office, o) for o in opened], links=job_links(job_id, "receipt")
    )


def receipt_view(office: Office, opened: Opened) -> ReceiptView:
    """Show an opened entry with its proof."""
    entry = opened.entry
    return ReceiptView(
        log=office.origin,
        seq=opened.seq,
        leaf=entry.leaf.decode(),
        salt=entry.salt.hex(),
        payload=entry.payload.decode(),
        proof=opened.proof.decode(),
    )


def show_job(office: Office, view: View, caller: Caller, job_id: int) -> JobView:
    """Show a job to its owner, from inside a question; without what its running attempts tell.

    Raises:
        Refused: not_found.
    """
    job = own_job(view, caller, job_id)
    named = office.named_spec(job.spec)
    return JobView(
        id=job_id,
        state=job.state,
        digest=job.digest.hex(),
        name=named.name if named else "",
        cmd=named.spec.command_line if named else "",
        priority=job.terms.priority,
        submitted_ms=job.submitted_ms,
        decided_ms=job.decided_ms or None,
        reason=job.reason,
        outcome=_outcome(job),
        progress=1.0 if job.state is JobState.SUCCEEDED else 0.0,
        attempts=len(job.attempts),
        agreeing=_agreeing(view, job),
        revision=job.revision,
        eta=None if job.decided else Outlook(office, view.world).expected(job),
        links=job_links(job_id),
    )


def _attempt(job: Job, attempt: Attempt, heard: Heard | None) -> AttemptView:
    is_open = attempt.state is AttemptState.OPEN
    return AttemptView(
        attempt=attempt.number,
        state=attempt.state,
        verdict="" if is_open else verdict(job, attempt),
        outcome=attempt.outcome.text if attempt.outcome is not None else _silent(attempt),
        worker=attempt.worker,
        started_ms=attempt.started_ms,
        ended_ms=None if is_open else attempt.ended_ms,
        wall_ms=attempt.wall_ms,
        cpu_ms=heard.cpu_ms if is_open and heard is not None else attempt.cpu_ms,
        peak_rss_bytes=attempt.peak_rss_bytes,
        progress=heard.progress if is_open and heard is not None else 0.0,
    )


def _silent(attempt: Attempt) -> str:
    if attempt.state is AttemptState.ABANDONED:
        return "abandoned (worker unreachable)"
    return "" if attempt.state is AttemptState.OPEN else attempt.state


def _telling(job: Job) -> Attempt | None:
    """Return the attempt that speaks for the job: the accepted one, else, once it failed, the last that counted.

    What came after the decision was taken unseen, since nobody wanted it any more, and never speaks for the job.
    """
    if job.canonical is not None:
        return job.attempts[job.canonical - 1]
    if job.state is not JobState.FAILED:
        return None
    counted = [a for a in job.attempts if a.state in (AttemptState.FAILED, AttemptState.SUCCEEDED)]
    return counted[-1] if counted else None


def _outcome(job: Job) -> str:
    told = _telling(job)
    if told is not None and told.outcome is not None:
        return told.outcome.text
    return "cancelled" if job.state is JobState.CANCELLED else ""


def _agreeing(view: View, job: Job) -> int:
    if job.canonical is None:
        return 0
    return agreeing(job, job.canonical, distinct_owners=view.world.policy.distinct_owners)


def _manifest(office: Office, job: Job) -> Manifest | None:
    """Return what the job's telling attempt left, without files that the job did not declare: nobody voted on those."""
    attempt = _telling(job)
    if attempt is None or attempt.outs is None:
        return None
    with office.blobs.open(attempt.outs.hex()) as file:
        manifest = decode_manifest(file.read())
    named = office.named_spec(job.spec)
    declared = named.spec.outputs if named is not None else ()
    return msgspec.structs.replace(
        manifest, outputs={path: stored for path, stored in manifest.outputs.items() if path in declared}
    )


async def _grant(office: Office, caller: Caller, manifest: Manifest) -> None:
    """Let an owner who may read outputs also name them as inputs of further jobs, without sending them back."""
    wanted = {stored.sha256 for stored in manifest.outputs.values()} | {manifest.stdout.sha256}
    missing = wanted - await office.aside(lambda: office.store.granted(caller.owner, sorted(wanted)))
    if missing:
        await office.desk.keep([Grant(caller.owner, digest) for digest in sorted(missing)])


def _path(office: Office, job: Job, name: str, found: dict[str, Stored]) -> tuple[Path, Stored]:
    if name not in found:
        raise Refused("not_found", f"Job {job.id} is {job.state} and has no output {name[:80]!r}.")
    return office.blobs.path(found[name].sha256), found[name]


def _file(stored: Stored, href: str) -> FileView:
    return FileView(sha256=stored.sha256, size=stored.size, href=href)
