"""For those who do the work: enrol, ask for jobs, tell how they go.

Each function takes an open office and claims that were checked, and returns the shapes of the HTTP interface; it knows
nothing of HTTP itself. Results come in through `gnexec.desk.results`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import Final

import msgspec

from gnexec.core.commands import Directive, Enrol, Enrolled, NextJobs, NoWork, Progress, Work
from gnexec.core.events import Effort
from gnexec.core.handout import asking
from gnexec.core.policy.matching import NO_WORK, choose, explain, room
from gnexec.core.spec import NamedSpec, Spec
from gnexec.core.world import World
from gnexec.desk.dispatcher import View
from gnexec.desk.draws import draw
from gnexec.desk.jobtokens import JobToken
from gnexec.desk.office import Office
from gnexec.errors import Refused
from gnexec.ids import ANONYMOUS, MAX_SAFE_INT, b64url, sha256_hex
from gnexec.shapes import EnrolBody, EnrolReply, JobWork, ObstacleView, StatusBody, StatusReply, WhyView
from gnexec.store.contract import Content
from gnexec.store.live import Told
from gnexec.tokens.forms import Confirmation
from gnexec.tokens.issued import AccessClaims, EnrolmentClaims, JobClaims, Scope, write_scope
from gnexec.tokens.reading import read_enrolment_proof, sign

ENROLMENT_S: Final = 30 * 24 * 3600
"""How long an enrolment token is good for; a worker enrols again with the same key before that."""


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
    description = msgspec.json.encode(body.description, order="sorted")
    content = await office.aside(lambda: _described(office, proven.jkt, description))
    command = Enrol(
        owner=owner,
        x=b64url(proven.key.public_bytes_raw()),
        kid=proven.jkt,
        offer=body.offer,
        caps=content.digest.hex(),
        draw=draw(16),
    )
    answer = (await office.desk.do(command, contents=[content])).answer
    if not isinstance(answer, Enrolled):
        raise TypeError(answer)
    exp_s = now_s + ENROLMENT_S
    claims = EnrolmentClaims(
        iss=office.origin,
        aud=office.origin,
        sub=answer.worker,
        jti=b64url(draw(16)),
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
    name, owner, jkt = await _identity(office, worker)
    command = NextJobs(
        worker=name,
        owner=owner,
        n=n,
        req=None if req is None else _request(name, req),
        draw=draw(16),
    )
    answer = (await office.desk.do(command)).answer
    if isinstance(answer, NoWork):
        return None
    if not isinstance(answer, Work):
        raise TypeError(answer)
    specs = await office.find_specs([job.spec for job, _ in answer.jobs])
    return _hand_over(office, answer, jkt, specs)


def _described(office: Office, kid: str, description: bytes) -> Content:
    """Return a worker's description as content: what the log names already, if it still says the same."""

    def look(world: World) -> str:
        record = world.workers.get(world.worker_by_kid.get(kid, ""))
        return record.caps if record is not None else ""

    caps = office.desk.hint(look)
    if caps:
        known = office.store.content([bytes.fromhex(caps)]).get(bytes.fromhex(caps))
        if known is not None and known.data == description:
            return known
    return office.content(description)


def may_have_work(office: Office, worker: EnrolmentClaims | None, req: str | None) -> bool:
    """Tell whether asking the desk can bring work: some waits, or the request was answered before.

    Where it cannot, whoever waits in line is woken by what changes that. Which requests another process has answered
    just now is not known here, so those are asked about; so are those of workers that are not enrolled here, who need
    not wait to be refused.
    """
    return (
        office.feed.ready != 0
        or (office.shared and req is not None)
        or was_answered(office, worker, req)
        or office.desk.trouble() is not None
        or _is_stranger(office, worker)
    )


def _is_stranger(office: Office, worker: EnrolmentClaims | None) -> bool:
    """Tell whether a worker is not enrolled here, or with another key."""
    if worker is None:
        return False
    known = office.desk.worker_key(worker.sub)
    return known is None or known[0] != worker.jkt


def was_answered(office: Office, worker: EnrolmentClaims | None, req: str | None) -> bool:
    """Tell whether a repeatable request has its hand-out already."""
    if req is None:
        return False
    name = ANONYMOUS if worker is None else worker.sub
    key = name, _request(name, req)
    return office.desk.hint(lambda world: key in world.requests)


def kind(office: Office, worker: EnrolmentClaims | None) -> Hashable:
    """Return the same for workers of whom one can be given nothing that the others could not; None for one of its own.

    Those are of one owner and offer the same, and may take something at all.
    """
    if worker is None:
        return ANONYMOUS

    def look(world: World) -> Hashable:
        record = world.workers.get(worker.sub)
        return None if record is None or room(world, record) <= 0 else (record.owner, record.offer)

    return office.desk.hint(look)


async def why(office: Office, worker: EnrolmentClaims | None) -> WhyView:
    """Say why there is no work for this worker now, or that there is.

    Raises:
        Refused: unknown_key.
    """
    name, owner, _ = await _identity(office, worker)

    def look(view: View) -> WhyView:
        record = asking(view.world, name, owner)
        if choose(view.world, record, owner, 1):
            return WhyView(work=True, reasons=[])
        # Whether an owner has a say on a job already tells which jobs are checked: a volunteer must not know.
        found = [o for o in explain(view.world, record, owner) if o.code != "owner_has_it"] or [NO_WORK]
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
        stdout_bytes=min(body.stdout_offset + len(output), MAX_SAFE_INT),
    )
    command = Progress(token.claims.jti, token.claims.pairs, job, effort, token.claims.exp)
    answer = (await office.desk.do(command)).answer
    if not isinstance(answer, Directive):
        raise TypeError(answer)
    await office.live.tell(Told(job, attempt, body.progress, effort.cpu_ms, output, body.stdout_offset))
    return StatusReply(
        directive="stop" if answer.stop else "continue", reason=answer.reason, lease_until=answer.lease_until_ms
    )


def _request(worker: str, req: str) -> str:
    """Return what the log calls a request."""
    return sha256_hex(f"{worker}\0{req}".encode())


async def _identity(office: Office, worker: EnrolmentClaims | None) -> tuple[str, str, str | None]:
    if worker is None:
        return ANONYMOUS, ANONYMOUS, None
    await office.meet(office.desk.worker_key(worker.sub))
    kid, _ = office.worker_key(worker.sub)
    if kid != worker.jkt:
        raise Refused("wrong_key", "The enrolment token is for another key.", mend="Enrol again.")
    return worker.sub, worker.owner, kid


def _hand_over(
    office: Office, work: Work, jkt: str | None, specs: Mapping[bytes, NamedSpec]
) -> tuple[list[JobWork], str]:
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
