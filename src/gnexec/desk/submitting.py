"""For those who hand in work: submit, read, explain, cancel.

Each function takes an open office and a caller whose token was checked, and returns the shapes of the HTTP interface; it
knows nothing of HTTP itself. A job is shown to its owners only; to others it does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import rfc8785

from gnexec.core.commands import Accepted, Cancel, Cancelled, JobRequest, Submit
from gnexec.core.events import AttemptState, JobState
from gnexec.core.job import Attempt, Job
from gnexec.core.judge import verdict
from gnexec.core.policy.matching import obstacle
from gnexec.core.policy.prediction import Estimate, estimate
from gnexec.core.policy.redundancy import agreeing
from gnexec.core.spec import (
    STDOUT,
    Manifest,
    NamedSpec,
    Spec,
    Stored,
    check_spec,
    decode_manifest,
    encode_named,
    job_digest,
    series_digest,
)
from gnexec.core.terms import Terms, check_needs, resolve_redundancy
from gnexec.desk.dispatcher import View
from gnexec.desk.office import Caller, Office
from gnexec.desk.sealer import Opened
from gnexec.errors import Refused
from gnexec.ids import sha256_hex
from gnexec.shapes import (
    AttemptsView,
    AttemptView,
    EtaView,
    ExplainView,
    FileView,
    JobBody,
    JobView,
    ReceiptsView,
    ReceiptView,
    ResultView,
    job_links,
)
from gnexec.store.contract import Content, Grant

ACTIVE_MS = 5 * 60 * 1000
"""A worker that was heard of within this time counts as there."""
_SPEC_FIELDS = tuple(field.name for field in msgspec.structs.fields(Spec))


async def submit(
    office: Office, caller: Caller, bodies: Sequence[JobBody], *, key: str | None
) -> tuple[list[JobView], bool]:
    """Take jobs in; all of them or none.

    Args:
        office: the server.
        caller: becomes an owner of each.
        bodies: 1..1000 jobs.
        key: the idempotency key, or None.

    Returns:
        The jobs in the order of the request, and whether any of them is new.

    Raises:
        Refused: invalid, raw_refused, key_reused, too_large.
    """
    many = len(bodies) > 1
    requests: list[JobRequest] = []
    contents: list[Content] = []
    for i, body in enumerate(bodies):
        try:
            request, content = _request(office, body)
        except Refused as err:
            if many:
                raise Refused(err.code, err.detail, field=f"jobs[{i}].{err.field or ''}", mend=err.mend) from err
            raise
        requests.append(request)
        contents.append(content)
    _check_held(office, caller, bodies)
    command = Submit(
        owner=caller.owner,
        project=caller.project,
        jobs=tuple(requests),
        body=sha256_hex(rfc8785.dumps([msgspec.to_builtins(body) for body in bodies])),
        key=None if key is None else sha256_hex(f"{caller.owner}\0{key}".encode()),
    )
    sealed = await office.desk.do(command, contents=contents)
    answer = sealed.answer
    if not isinstance(answer, Accepted):
        raise TypeError(answer)
    views = await office.desk.ask(lambda view: [_show(office, view, caller, job) for job in answer.ids])
    return [msgspec.structs.replace(view, created=view.id in answer.created) for view in views], bool(answer.created)


async def show(office: Office, caller: Caller, job: int) -> JobView:
    """Show a job to its owner.

    Raises:
        Refused: not_found.
    """
    return await office.desk.ask(lambda view: _show(office, view, caller, job))


async def attempts(office: Office, caller: Caller, job_id: int) -> AttemptsView:
    """Show a job's attempts.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> AttemptsView:
        job = _own(view, caller, job_id)
        rows = [_attempt(office, view, job, attempt) for attempt in job.attempts]
        return AttemptsView(id=job_id, attempts=rows, links=job_links(job_id))

    return await office.desk.ask(look)


async def result(office: Office, caller: Caller, job_id: int) -> ResultView:
    """Show a job's result: of the accepted attempt; else of the last that failed; else what state it is in.

    Raises:
        Refused: not_found.
    """
    job, agree = await office.desk.ask(
        lambda view: (found := _own(view, caller, job_id), _agreeing(view, found))
    )
    told = _telling(job)
    manifest = _manifest(office, told)
    if manifest is not None:
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
            name: _file(stored, f"{base}/outputs/{name}") for name, stored in (manifest.outputs if manifest else {}).items()
        },
        stdout=_file(manifest.stdout, f"{base}/stdout") if manifest else None,
        stderr=_file(manifest.stderr, f"{base}/stderr") if manifest else None,
        wall_ms=told.wall_ms if told is not None else 0,
        cpu_ms=told.cpu_ms if told is not None else 0,
        peak_rss_bytes=told.peak_rss_bytes if told is not None else 0,
        links=job_links(job_id),
    )


async def output(office: Office, caller: Caller, job_id: int, name: str) -> tuple[Path, Stored]:
    """Find an output of a job: its file, digest and size.

    Args:
        name: a path among the outputs, or "stdout" or "stderr".

    Raises:
        Refused: not_found; no such job of the caller's, or no such output (yet).
    """
    job = await office.desk.ask(lambda view: _own(view, caller, job_id))
    manifest = _manifest(office, _telling(job))
    logs = {STDOUT: manifest.stdout, "stderr": manifest.stderr} if manifest else {}
    stored = {**manifest.outputs, **logs}.get(name) if manifest else None
    if stored is None:
        raise Refused("not_found", f"Job {job_id} is {job.state} and has no output {name[:80]!r}.")
    return office.blobs.path(stored.sha256), stored


async def live_output(office: Office, caller: Caller, job_id: int) -> bytes | None:
    """Return the newest part of a running job's output, or None once it has a result.

    Raises:
        Refused: not_found.
    """
    job = await office.desk.ask(lambda view: _own(view, caller, job_id))
    if _telling(job) is not None:
        return None
    told = [live.output for a in job.attempts if (live := office.live.get(job_id, a.number)) is not None]
    return bytes(max(told, key=len, default=b""))


async def receipts(office: Office, caller: Caller, job_id: int) -> ReceiptsView:
    """Open the entries about a job that its owner may see: its submission, its results once decided, its decision.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> list[Opened]:
        job = _own(view, caller, job_id)
        seqs = {job.seq}
        if job.decided:
            seqs |= {job.decided_seq} | {attempt.seq for attempt in job.attempts if attempt.seq >= 0}
        return [view.open(seq) for seq in sorted(seqs)]

    opened = await office.desk.ask(look)
    return ReceiptsView(id=job_id, receipts=[receipt_view(office, o) for o in opened], links=job_links(job_id))


async def explain(office: Office, caller: Caller, job_id: int) -> ExplainView:
    """Say why a job is where it is.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> ExplainView:
        world, job = view.world, _own(view, caller, job_id)
        needed = world.needed(job)
        line = world.line_of(job)
        recent = [w for w in world.workers.values() if w.kid and world.at_ms - w.last_ms < ACTIVE_MS]
        kept: dict[str, int] = {}
        for worker in recent:
            code = obstacle(line, worker, worker.owner)
            if code is not None:
                kept[code] = kept.get(code, 0) + 1
        able = len(recent) - sum(kept.values())
        ahead = world.ready.ahead(job_id, line)[0] if needed else 0
        return ExplainView(
            id=job_id,
            state=job.state,
            needed=needed,
            ahead=ahead,
            workers=len(recent),
            able=able,
            sentences=_sentences(office, job, needed, ahead, kept, able),
        )

    return await office.desk.ask(look)


async def cancel(office: Office, caller: Caller, job_id: int) -> JobView:
    """Withdraw the caller from a job; without owners left it is cancelled, and its workers are told to stop.

    Raises:
        Refused: not_found.
    """
    sealed = await office.desk.do(Cancel(caller.owner, (job_id,)))
    if not isinstance(sealed.answer, Cancelled):
        raise TypeError(sealed.answer)
    return await show(office, caller, job_id)


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


def _request(office: Office, body: JobBody) -> tuple[JobRequest, Content]:
    spec = check_spec(Spec(**{name: getattr(body, name) for name in _SPEC_FIELDS}))
    if not office.settings.raw_allowed:
        raise Refused(
            "raw_refused",
            "Raw commands are not allowed on this server.",
            field="cmd" if spec.cmd is not None else "argv",
            mend="Ask the operator to start it with --allow-raw.",
        )
    redundancy = resolve_redundancy(body.redundancy)
    if office.open_mode and redundancy.quorum > 1 and not office.settings.open_trust_all:
        raise Refused(
            "invalid",
            "In open mode all results have one owner, so no two can agree.",
            field="redundancy.quorum",
            mend="Ask for a quorum of 1, or let the operator trust all volunteers with --open-trust-all.",
        )
    terms = Terms(
        program=series_digest(spec),
        needs=check_needs(body.needs),
        redundancy=redundancy,
        priority=body.priority,
        estimate_ms=None if body.estimate_s is None else round(body.estimate_s * 1000),
        data_class=body.data_class or office.settings.default_class,
    )
    content = office.content(encode_named(NamedSpec(name=body.name, spec=spec)))
    request = JobRequest(
        digest=job_digest(spec),
        spec=content.digest.hex(),
        terms=terms,
        force=body.force_recompute,
        retry_failed=body.recompute_on_error,
    )
    return request, content


def _check_held(office: Office, caller: Caller, bodies: Sequence[JobBody]) -> None:
    """Make sure that the caller itself holds every input: a digest alone opens nothing."""
    wanted = {digest for body in bodies for digest in body.inputs.values()}
    missing = wanted - office.store.granted(caller.owner, sorted(wanted)) if wanted else set()
    for i, body in enumerate(bodies):
        for path, digest in body.inputs.items():
            if digest in missing:
                where = f"jobs[{i}]." if len(bodies) > 1 else ""
                raise Refused(
                    "invalid",
                    f"You have not uploaded a blob {digest}.",
                    field=f"{where}inputs.{path}",
                    mend=f"PUT it to /v1/blobs/{digest} first.",
                )


def _own(view: View, caller: Caller, job_id: int) -> Job:
    job = view.job(job_id)
    if job is None or caller.owner not in (*job.owners, *job.former_owners):
        raise Refused("not_found", f"There is no job {job_id} of yours.")
    return job


def _show(office: Office, view: View, caller: Caller, job_id: int) -> JobView:
    job = _own(view, caller, job_id)
    named = office.named_spec(job.spec)
    running = [
        live.progress
        for a in job.attempts
        if a.state is AttemptState.OPEN and (live := office.live.get(job_id, a.number)) is not None
    ]
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
        progress=1.0 if job.state is JobState.SUCCEEDED else max(running, default=0.0),
        attempts=len(job.attempts),
        agreeing=_agreeing(view, job),
        revision=job.revision,
        eta=None if job.decided else _eta(view, job),
        links=job_links(job_id),
    )


def _eta(view: View, job: Job) -> EtaView | None:
    world = view.world
    needed = world.needed(job)
    ahead = world.ready.ahead(job.id, world.line_of(job))[1] if needed else 0
    running = sum(worker.open for worker in world.workers.values())
    there = sum(1 for worker in world.workers.values() if world.at_ms - worker.last_ms < ACTIVE_MS)
    found: Estimate | None = estimate(
        world.statistics.get(job.terms.program), job.terms.estimate_ms, ahead + max(needed, 1), max(running, there)
    )
    if found is None:
        return None
    return EtaView(
        likely_s=found.likely_ms / 1000,
        low_s=found.low_ms / 1000,
        high_s=found.high_ms / 1000,
        observations=found.observations,
    )


def _attempt(office: Office, view: View, job: Job, attempt: Attempt) -> AttemptView:
    live = office.live.get(job.id, attempt.number)
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
        cpu_ms=live.cpu_ms if is_open and live is not None else attempt.cpu_ms,
        peak_rss_bytes=attempt.peak_rss_bytes,
        progress=live.progress if is_open and live is not None else 0.0,
    )


def _silent(attempt: Attempt) -> str:
    if attempt.state is AttemptState.ABANDONED:
        return "abandoned (worker unreachable)"
    return "" if attempt.state is AttemptState.OPEN else attempt.state


def _telling(job: Job) -> Attempt | None:
    """Return the attempt that speaks for the job: the accepted one, else, once it failed, the last that answered."""
    if job.canonical is not None:
        return job.attempts[job.canonical - 1]
    if job.state is not JobState.FAILED:
        return None
    answered = [a for a in job.attempts if a.outcome is not None and a.state is not AttemptState.PREEMPTED]
    return answered[-1] if answered else None


def _outcome(job: Job) -> str:
    told = _telling(job)
    if told is not None and told.outcome is not None:
        return told.outcome.text
    return "cancelled" if job.state is JobState.CANCELLED else ""


def _agreeing(view: View, job: Job) -> int:
    if job.canonical is None:
        return 0
    return agreeing(job, job.canonical, distinct_owners=view.world.policy.distinct_owners)


def _manifest(office: Office, attempt: Attempt | None) -> Manifest | None:
    if attempt is None or attempt.outs is None:
        return None
    with office.blobs.open(attempt.outs.hex()) as file:
        return decode_manifest(file.read())


async def _grant(office: Office, caller: Caller, manifest: Manifest) -> None:
    """Let an owner who may read outputs also name them as inputs of further jobs, without sending them back."""
    wanted = {stored.sha256 for stored in manifest.outputs.values()} | {manifest.stdout.sha256}
    missing = wanted - office.store.granted(caller.owner, sorted(wanted))
    if missing:
        await office.desk.keep([Grant(caller.owner, digest) for digest in sorted(missing)])


def _file(stored: Stored, href: str) -> FileView:
    return FileView(sha256=stored.sha256, size=stored.size, href=href)


def _sentences(office: Office, job: Job, needed: int, ahead: int, kept: dict[str, int], able: int) -> list[str]:
    if job.decided:
        return [f"The job is {job.state}: {job.reason}."]
    found = []
    if job.open_attempts:
        found.append(f"{job.open_attempts} of its attempts are running.")
    if needed:
        found.append(f"It waits for {needed} more attempts; {ahead} waiting jobs are in front of it.")
        if office.open_mode:
            found.append("The server is in open mode: any client may take it.")
        elif able:
            found.append(f"{able} workers that were here in the last five minutes could take it.")
        else:
            found.append("No worker that was here in the last five minutes can take it.")
        words = {
            "owner_has_it": "have an owner who has a say on it already",
            "cores": "offer too few cores",
            "memory_bytes": "offer too little memory",
            "disk_bytes": "offer too little disk",
        }
        found.extend(f"{n} workers {words[code]}." for code, n in kept.items())
    return found
