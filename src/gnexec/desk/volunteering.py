"""For those who do the work: enrol, ask for jobs, tell how they go, hand in results.

Each function takes an open office and claims that were checked, and returns the shapes of the HTTP interface; it knows
nothing of HTTP itself. The order in which a result is judged: form, signature, audience and path before any look-up (the
door and `read_…` here), then the log's own rules (`gnexec.core.judge`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass

import msgspec
import rfc8785

from gnexec.core.commands import (
    Directive,
    Enrol,
    Enrolled,
    Judged,
    NextJobs,
    NoWork,
    Progress,
    Report,
    Verdict,
    Verdicts,
    Work,
)
from gnexec.core.events import AttemptState, Effort, Outcome, Reported
from gnexec.core.handout import asking
from gnexec.core.policy.matching import choose, explain
from gnexec.core.spec import (
    STDOUT,
    Manifest,
    NamedSpec,
    Spec,
    Stored,
    check_path,
    decode_manifest,
    encode_manifest,
    manifest_digests,
    voted_digest,
)
from gnexec.desk.dispatcher import Sealed, View
from gnexec.desk.office import Office
from gnexec.desk.submitting import receipt_view
from gnexec.errors import Refused
from gnexec.ids import ANONYMOUS, b64url, sha256_hex
from gnexec.shapes import (
    EnrolBody,
    EnrolReply,
    InlineFile,
    JobWork,
    ManyVerdicts,
    ObstacleView,
    ResultBody,
    StatusBody,
    StatusReply,
    VerdictView,
    WhyView,
)
from gnexec.store.contract import Grant
from gnexec.tokens.forms import claims_digest
from gnexec.tokens.issued import AccessClaims, Confirmation, EnrolmentClaims, JobClaims, Scope, write_scope
from gnexec.tokens.reading import read_enrolment_proof, read_job_token, read_result_statement, sign
from gnexec.tokens.statements import Result, ResultClaims, check_outcome

ENROLMENT_S = 30 * 24 * 3600
"""How long an enrolment token is good for; a worker enrols again with the same key before that."""
SIGNAL_BASE = 128
"""A shell's exit status for a command that a signal ended is this plus the signal's number."""


@dataclass(frozen=True, slots=True)
class JobToken:
    """A job token that came back, checked.

    Attributes:
        digest: SHA-256 of its text, hexadecimal.
    """

    claims: JobClaims
    digest: str

    def attempt_of(self, job: int) -> int:
        """Return the attempt number of a job that the token names.

        Raises:
            Refused: wrong_path.
        """
        for named, attempt in self.claims.pairs:
            if named == job:
                return attempt
        raise Refused("wrong_path", f"The job token is not for job {job}.", mend="Use the token that came with it.")

    @property
    def principal(self) -> str:
        """Whose uploads count for this hand-out: the worker's key, or the hand-out itself in open mode."""
        return f"k:{self.claims.jkt}" if self.claims.jkt is not None else f"a:{self.claims.jti}"


def job_token(office: Office, text: str) -> JobToken:
    """Check a job token: its form and signature, or that this process made it.

    Raises:
        Refused: bad_token, bad_signature, unknown_key, wrong_audience.
    """
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    claims = office.issued.get(digest)
    if claims is None:
        claims = read_job_token(text, office.keys.token_public, origin=office.origin)
        if claims.jkt is None and not office.open_mode:
            raise Refused("wrong_key", "A job token without a worker's key is good in open mode only.")
        office.issued.put(digest, claims)
    return JobToken(claims, digest.hex())


async def enrol(office: Office, access: AccessClaims, access_token: str, body: EnrolBody, now_s: int) -> EnrolReply:
    """Admit a worker that proves to hold its key.

    Raises:
        Refused: bad_token, bad_signature (the proof); conflict (another owner's worker); invalid (the offer).
    """
    proven = read_enrolment_proof(body.proof, origin=office.origin, now_s=now_s, access_token=access_token)
    for name in ("cores", "memory_bytes", "disk_bytes"):
        if not 0 < getattr(body.offer, name) < 1 << 53:
            raise Refused("invalid", "An offer is a positive number.", field=f"offer.{name}")
    owner = office.caller(access.sub, access.project).owner
    content = office.content(msgspec.json.encode(body.description, order="sorted"))
    command = Enrol(
        owner=owner,
        x=b64url(proven.key.public_bytes_raw()),
        kid=proven.jkt,
        offer=body.offer,
        caps=content.digest.hex(),
        draw=secrets.token_bytes(16),
    )
    answer = (await office.desk.do(command, contents=[content])).answer
    if not isinstance(answer, Enrolled):
        raise TypeError(answer)
    exp_s = now_s + ENROLMENT_S
    claims = EnrolmentClaims(
        iss=office.origin,
        aud=office.origin,
        sub=answer.worker,
        jti=b64url(secrets.token_bytes(16)),
        cnf=Confirmation(jkt=proven.jkt),
        owner=owner,
        caps=content.digest.hex(),
        scope=write_scope([Scope.WORK]),
        iat=now_s,
        exp=exp_s,
    )
    return EnrolReply(
        worker=answer.worker,
        token=sign(claims, office.keys.token_current),
        exp_s=exp_s,
        links={"next": {"href": "/jobs/next"}, "why": {"href": "/v1/workers/me/why"}},
    )


async def next_jobs(
    office: Office, worker: EnrolmentClaims | None, *, n: int, req: str | None
) -> tuple[list[JobWork], str] | None:
    """Hand out up to `n` attempts.

    Args:
        office: the server.
        worker: who asks; None in open mode.
        n: 1..64.
        req: the request's own id, which makes it repeatable, or None.

    Returns:
        The jobs and their one token, or None where there is no work for this worker.

    Raises:
        Refused: unknown_key (not enrolled here); unready (the clock).
    """
    name, owner, jkt = _identity(office, worker)
    command = NextJobs(
        worker=name,
        owner=owner,
        n=n,
        req=None if req is None else sha256_hex(f"{name}\0{req}".encode()),
        draw=secrets.token_bytes(16),
    )
    answer = (await office.desk.do(command)).answer
    if isinstance(answer, NoWork):
        return None
    if not isinstance(answer, Work):
        raise TypeError(answer)
    return _hand_over(office, answer, jkt)


async def why(office: Office, worker: EnrolmentClaims | None) -> WhyView:
    """Say why there is no work for this worker now, or that there is.

    Raises:
        Refused: unknown_key.
    """
    name, owner, _ = _identity(office, worker)

    def look(view: View) -> WhyView:
        record = asking(view.world, name, owner)
        if choose(view.world, record, owner, 1):
            return WhyView(work=True, reasons=[])
        found = explain(view.world, record, owner)
        return WhyView(work=False, reasons=[ObstacleView(code=o.code, jobs=o.jobs, detail=o.detail) for o in found])

    return await office.desk.ask(look)


async def tell_status(office: Office, token: JobToken, job: int, body: StatusBody) -> StatusReply:
    """Take note of a job's progress and output, and tell its worker to go on or to stop.

    Raises:
        Refused: wrong_path; too_late.
    """
    attempt = token.attempt_of(job)
    output = body.stdout.encode() if body.stdout is not None else b""
    usage = body.usage
    effort = Effort(
        progress_ppm=round((body.progress or 0) * 1_000_000),
        cpu_ms=usage.cpu_ms if usage is not None else 0,
        stdout_bytes=body.stdout_offset + len(output),
    )
    command = Progress(token.claims.jti, token.claims.pairs, job, effort, token.claims.exp)
    answer = (await office.desk.do(command)).answer
    if not isinstance(answer, Directive):
        raise TypeError(answer)
    live = office.live.touch(job, attempt)
    if body.progress is not None:
        live.progress = body.progress
    live.cpu_ms = max(live.cpu_ms, effort.cpu_ms)
    if output:
        live.write(output, body.stdout_offset)
    return StatusReply(
        directive="stop" if answer.stop else "continue", reason=answer.reason, lease_until=answer.lease_until_ms
    )


async def hand_in(office: Office, token: JobToken, job: int, body: ResultBody) -> VerdictView:
    """Take the result of one job: a signed statement; in open mode, the output itself.

    Raises:
        Refused: no_token, bad_token, bad_signature, wrong_key, wrong_path, invalid, equivocation, too_late.
    """
    token.attempt_of(job)
    if token.claims.jkt is None:
        sealed = await _report_open(office, token, job, body)
    else:
        if body.statement is None:
            raise Refused(
                "invalid", "A result needs the worker's signed statement here.", field="statement", mend="Sign it."
            )
        statement = _read_statement(office, token, body.statement)
        if [result.job for result in statement.results] != [job]:
            raise Refused("wrong_path", f"The statement is not about job {job} alone.", field="sub")
        sealed = await _report_signed(office, token, statement, body.statement)
    judged = _verdicts(sealed).judged[0]
    _forget(office, judged)
    if judged.verdict is Verdict.TOO_LATE:
        raise Refused("too_late", "The attempt is closed; its result is not taken.", mend="Ask for new work.")
    if judged.verdict is Verdict.EQUIVOCATION:
        raise Refused(
            "equivocation", "Another answer was already given for this attempt.", mend="Send the first one, or none."
        )
    opened = sealed.opened.get(judged.seq)
    return VerdictView(verdict=judged.verdict, receipt=receipt_view(office, opened) if opened else None, job=job)


async def hand_in_many(office: Office, token: JobToken, text: str) -> ManyVerdicts:
    """Take the results of several jobs of one hand-out, in one signed statement; each gets its verdict.

    Raises:
        Refused: bad_token, bad_signature, wrong_key, wrong_path, invalid.
    """
    if token.claims.jkt is None:
        raise Refused("invalid", "In open mode each result is handed in by itself.", field="statement")
    statement = _read_statement(office, token, text)
    sealed = await _report_signed(office, token, statement, text)
    judged = _verdicts(sealed).judged
    for one in judged:
        _forget(office, one)
    return ManyVerdicts(
        results=[VerdictView(verdict=one.verdict, job=one.job) for one in judged],
        receipts=[receipt_view(office, opened) for _, opened in sorted(sealed.opened.items())],
    )


async def inputs_of(office: Office, token: JobToken) -> set[str]:
    """Return the digests of the inputs that a job token opens."""

    def look(view: View) -> list[bytes]:
        return [job.spec for number, _ in token.claims.pairs if (job := view.job(number)) is not None]

    specs = office.specs_of(await office.desk.ask(look))
    return {digest for named in specs.values() for digest in named.spec.inputs.values()}


def _identity(office: Office, worker: EnrolmentClaims | None) -> tuple[str, str, str | None]:
    if worker is None:
        return ANONYMOUS, ANONYMOUS, None
    kid, _ = office.worker_key(worker.sub)
    if kid != worker.jkt:
        raise Refused("wrong_key", "The enrolment token is for another key.", mend="Enrol again.")
    return worker.sub, worker.owner, kid


def _hand_over(office: Office, work: Work, jkt: str | None) -> tuple[list[JobWork], str]:
    event = work.hand_out
    claims = JobClaims.of(
        event.jobs,
        origin=office.origin,
        jti=event.jti,
        iat=work.at_ms // 1000,
        exp=event.exp_s,
        dig=work.jobs[0][0].digest.hex(),
        jkt=jkt,
        est=event.est_s,
    )
    token = sign(claims, office.keys.token_current)
    office.issued.put(hashlib.sha256(token.encode()).digest(), claims)
    specs = office.specs_of([job.spec for job, _ in work.jobs])
    rows = []
    for job, attempt in work.jobs:
        named = specs.get(job.spec)
        spec = named.spec if named is not None else Spec(cmd="")
        office.spec_names.put(job.id, job.spec)
        rows.append(
            JobWork(
                id=job.id,
                cmd=spec.command_line,
                token=token,
                attempt=attempt,
                digest=job.digest.hex(),
                argv=list(spec.argv) if spec.argv is not None else None,
                inputs=spec.inputs,
                outputs=list(spec.outputs),
                env=spec.env,
                seed=spec.seed,
                needs=job.terms.needs,
                lease_until=work.lease_until_ms,
                deadline_s=event.exp_s,
            )
        )
    return rows, token


def _read_statement(office: Office, token: JobToken, text: str) -> ResultClaims:
    """Read a statement and hold it against the job token; no look at the state of any job.

    Raises:
        Refused: bad_token, bad_signature, unknown_key, wrong_audience, wrong_key, wrong_path.
    """
    jkt = token.claims.jkt or ""
    keys = {}
    known = office.desk.worker_by_kid(jkt)
    if known is not None:
        kid, key = office.worker_key(known)
        keys[kid] = key
    statement = read_result_statement(text, keys, origin=office.origin, jkt=jkt)
    if statement.iss != known:
        raise Refused("wrong_key", "The statement was issued by another worker.", field="iss")
    if statement.jti != token.claims.jti or statement.tok != token.digest:
        raise Refused("wrong_path", "The statement is for another job token.", field="tok")
    for result in statement.results:
        if token.attempt_of(result.job) != (result.att or token.attempt_of(result.job)):
            raise Refused("wrong_path", f"Job {result.job} has another attempt number in the job token.", field="att")
    return statement


async def _report_signed(office: Office, token: JobToken, statement: ResultClaims, text: str) -> Sealed:
    results = statement.results
    specs = await _specs(office, [result.job for result in results])
    flaws = {}
    for result in results:
        try:
            _check_outputs(office, token, result, specs.get(result.job))
        except Refused as err:
            flaws[result.job] = err
    command = Report(
        jti=token.claims.jti,
        pairs=token.claims.pairs,
        worker=statement.iss,
        results=tuple(
            Reported(
                job=result.job,
                attempt=token.attempt_of(result.job),
                outcome=result.outcome,
                canon=result.canon,
                outs=result.outs,
                wall_ms=result.usage.wall_ms,
                cpu_ms=result.usage.cpu_ms,
                peak_rss_bytes=result.usage.peak_rss_bytes,
            )
            for result in results
        ),
        statement=text,
        answer=claims_digest(statement).hex(),
        exp_s=token.claims.exp,
        digests={result.job: result.dig for result in results},
        flaws=flaws,
    )
    return await office.desk.do(command)


def _check_outputs(office: Office, token: JobToken, result: Result, named: NamedSpec | None) -> None:
    """Make sure that what a result names was uploaded by its worker, and that its voted digest is that of the outputs.

    Raises:
        Refused: invalid.
    """
    manifest = _uploaded_manifest(office, token.principal, result.outs)
    if result.canon is not None and named is not None:
        exit_status = result.outcome.exit or 0
        if voted_digest(named.spec, exit_status, manifest_digests(manifest)) != result.canon:
            raise Refused("invalid", "The voted digest is not that of the declared outputs.", field="canon")


def _uploaded_manifest(office: Office, principal: str, outs: str) -> Manifest:
    """Return a manifest of which every blob, itself included, was uploaded by `principal`.

    Raises:
        Refused: invalid.
    """
    held = office.manifests.get((principal, outs))
    if held is not None:
        return held
    if not office.store.granted(principal, [outs]):
        raise Refused(
            "invalid", "The manifest was not uploaded.", field="outs", mend=f"PUT it to /v1/blobs/{outs} first."
        )
    with office.blobs.open(outs) as file:
        manifest = decode_manifest(file.read())
    files = [*manifest.outputs.values(), manifest.stdout, manifest.stderr]
    wanted = sorted({stored.sha256 for stored in files})
    missing = set(wanted) - office.store.granted(principal, wanted)
    if missing:
        raise Refused(
            "invalid", f"The manifest names a blob {min(missing)} that was not uploaded.", field="outs", mend="Upload it."
        )
    for stored in files:
        if office.blobs.size(stored.sha256) != stored.size:
            raise Refused("invalid", f"Blob {stored.sha256} has another size than the manifest says.", field="outs")
    return office.manifests.put((principal, outs), manifest)


async def _report_open(office: Office, token: JobToken, job: int, body: ResultBody) -> Sealed:
    if body.statement is not None:
        raise Refused(
            "invalid", "In open mode nothing is signed.", field="statement", mend="Send exit_code and stdout."
        )
    outcome = _open_outcome(body)
    files = {path: _bytes(office, token, value, f"outputs.{path}") for path, value in body.outputs.items()}
    for path in files:
        check_path(path, "outputs")
    logs = {name: _bytes(office, token, getattr(body, name), name) for name in ("stdout", "stderr")}
    if STDOUT in files:
        raise Refused("invalid", "The name stdout is reserved.", field="outputs.stdout", mend="Send it as stdout.")
    manifest = Manifest(
        outputs={path: stored for path, (stored, _) in files.items()},
        stderr=logs["stderr"][0],
        stdout=logs["stdout"][0],
    )
    data = encode_manifest(manifest)
    outs = sha256_hex(data)
    flaws = {}
    canon = None
    named = (await _specs(office, [job])).get(job)
    if outcome.text == "success":
        try:
            canon = voted_digest(named.spec if named else Spec(), outcome.exit or 0, manifest_digests(manifest))
        except Refused as err:
            flaws[job] = err
    usage = body.usage
    command = Report(
        jti=token.claims.jti,
        pairs=token.claims.pairs,
        worker=ANONYMOUS,
        results=(
            Reported(
                job=job,
                attempt=token.attempt_of(job),
                outcome=outcome,
                canon=canon,
                outs=outs,
                wall_ms=usage.wall_ms if usage else 0,
                cpu_ms=usage.cpu_ms if usage else 0,
                peak_rss_bytes=usage.peak_rss_bytes if usage else 0,
            ),
        ),
        statement=None,
        answer=sha256_hex(rfc8785.dumps({"job": job, "outcome": msgspec.to_builtins(outcome), "outs": outs})),
        exp_s=token.claims.exp,
        flaws=flaws,
    )
    if not flaws and await _is_open(office, token, job):
        for blob in [*(blob for _, blob in [*files.values(), *logs.values()] if blob is not None), data]:
            await office.put_blob(blob)
    return await office.desk.do(command)


async def _is_open(office: Office, token: JobToken, job_id: int) -> bool:
    def look(view: View) -> bool:
        job = view.world.jobs.get(job_id)
        attempt = job.attempt(token.attempt_of(job_id)) if job is not None else None
        return attempt is not None and attempt.jti == token.claims.jti and attempt.state is AttemptState.OPEN

    return await office.desk.ask(look)


def _open_outcome(body: ResultBody) -> Outcome:
    if body.exit_code is None and body.limit is None:
        raise Refused("invalid", "A result needs exit_code.", field="exit_code", mend="Give a number from 0 to 255.")
    outcome = Outcome(exit=body.exit_code, limit=body.limit)
    try:
        check_outcome(outcome)
    except ValueError as err:
        raise Refused("invalid", str(err), field="limit") from err
    return outcome


def _bytes(office: Office, token: JobToken, value: str | InlineFile, field: str) -> tuple[Stored, bytes | None]:
    """Return the name and size of an inline file, and its bytes unless they were uploaded before.

    Raises:
        Refused: invalid.
    """
    if isinstance(value, str):
        data = value.encode()
    elif value.base64 is not None and value.sha256 is None:
        try:
            data = base64.b64decode(value.base64, validate=True)
        except (binascii.Error, ValueError) as err:
            raise Refused("invalid", "This is not base64.", field=field) from err
    elif value.sha256 is not None and value.base64 is None:
        if not office.store.granted(token.principal, [value.sha256]):
            raise Refused(
                "invalid", "This blob was not uploaded.", field=field, mend=f"PUT it to /v1/blobs/{value.sha256} first."
            )
        return Stored(value.sha256, office.blobs.size(value.sha256)), None
    else:
        raise Refused("invalid", "Give text, or exactly one of base64 and sha256.", field=field)
    return Stored(sha256_hex(data), len(data)), data


async def _specs(office: Office, jobs: list[int]) -> dict[int, NamedSpec]:
    def look(view: View) -> dict[int, bytes]:
        return {number: job.spec for number in jobs if (job := view.job(number)) is not None}

    held = {number: name for number in jobs if (name := office.spec_names.get(number)) is not None}
    names = held if len(held) == len(jobs) else await office.desk.ask(look)
    specs = office.specs_of(list(names.values()))
    return {number: specs[name] for number, name in names.items() if name in specs}


def _verdicts(sealed: Sealed) -> Verdicts:
    if not isinstance(sealed.answer, Verdicts):
        raise TypeError(sealed.answer)
    return sealed.answer


def _forget(office: Office, judged: Judged) -> None:
    office.live.forget(judged.job, judged.attempt)


async def keep_blob(office: Office, principal: str, digest: str) -> None:
    """Record that a principal uploaded a blob: durable before it is told so."""
    await office.desk.keep([Grant(principal, digest)])
