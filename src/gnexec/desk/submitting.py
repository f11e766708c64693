"""For those who hand in work: submit and cancel.

Each function takes an open office and a caller whose token was checked, and returns the shapes of the HTTP interface;
it knows nothing of HTTP itself. A job is shown to its owners only; to others it does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gnexec.core.commands import Accepted, Cancel, Cancelled, JobRequest, Submit
from gnexec.core.events import JobState
from gnexec.core.spec import NamedSpec, Spec, check_spec, encode_named, job_digest, series_digest
from gnexec.core.terms import Terms, check_needs, resolve_redundancy
from gnexec.desk.dispatcher import View
from gnexec.desk.explaining import Outlook
from gnexec.desk.office import Caller, Office
from gnexec.desk.showing import show, show_job
from gnexec.errors import Refused
from gnexec.ids import sha256_hex
from gnexec.shapes import JobBody, JobView, job_links
from gnexec.store.contract import Content


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
    if any(body.inputs for body in bodies):
        await office.aside(lambda: _check_held(office, caller, bodies))
    command = Submit(
        owner=caller.owner,
        project=caller.project,
        jobs=tuple(requests),
        body=sha256_hex(msgspec.json.encode(bodies, order="sorted")),
        key=None if key is None else sha256_hex(f"{caller.owner}\0{key}".encode()),
    )
    sealed = await office.desk.do(command, contents=contents)
    answer = sealed.answer
    if not isinstance(answer, Accepted):
        raise TypeError(answer)
    asked = list(zip(bodies, requests, strict=True))
    views = await office.desk.ask(lambda view: _shown(office, view, caller, answer, asked))
    for i, view in enumerate(views):
        if view.state is JobState.RUNNING:
            views[i] = msgspec.structs.replace(await show(office, caller, view.id), created=view.created)
    return views, bool(answer.created)


async def cancel(office: Office, caller: Caller, job_id: int) -> JobView:
    """Withdraw the caller from a job; without owners left it is cancelled, and its workers are told to stop.

    Raises:
        Refused: not_found.
    """
    sealed = await office.desk.do(Cancel(caller.owner, (job_id,)))
    if not isinstance(sealed.answer, Cancelled):
        raise TypeError(sealed.answer)
    return await show(office, caller, job_id)


def _shown(
    office: Office, view: View, caller: Caller, answer: Accepted, asked: Sequence[tuple[JobBody, JobRequest]]
) -> list[JobView]:
    """Show the jobs that answer a submission; what is new is shown as it was asked for."""
    outlook = Outlook(office, view.world)
    shown: list[JobView] = []
    for number, (body, request) in zip(answer.ids, asked, strict=True):
        job = view.world.jobs.find(number) if number in answer.created and not answer.again else None
        if job is None or job.attempts:
            found = show_job(office, view, caller, number)
            shown.append(msgspec.structs.replace(found, created=number in answer.created))
            continue
        shown.append(
            JobView(
                id=number,
                state=job.state,
                created=True,
                digest=request.digest,
                name=body.name,
                cmd=body.command_line,
                priority=body.priority,
                submitted_ms=job.submitted_ms,
                eta=outlook.expected(job),
                links=job_links(number),
            )
        )
    return shown


def _request(office: Office, body: JobBody) -> tuple[JobRequest, Content]:
    spec = check_spec(
        Spec(
            argv=body.argv,
            cmd=body.cmd,
            inputs=body.inputs,
            outputs=body.outputs,
            env=body.env,
            seed=body.seed,
            numeric_class=body.numeric_class,
        )
    )
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
    named = NamedSpec(name=body.name, spec=spec)
    content = office.content(encode_named(named))
    office.specs.put(content.digest, named)
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
    missing = wanted - office.store.granted(caller.owner, sorted(wanted))
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
        size = sum(office.blobs.size(digest) for digest in body.inputs.values())
        if size > body.needs.disk_bytes:
            where = f"jobs[{i}]." if len(bodies) > 1 else ""
            raise Refused(
                "invalid",
                f"The inputs alone have {size} bytes.",
                field=f"{where}needs.disk_bytes",
                mend="Ask for more than that, so that the outputs have room too.",
            )
