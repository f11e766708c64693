"""Specifications of jobs, looked up by job id, and the inputs that a job token opens."""

from __future__ import annotations

from collections.abc import Sequence

from gnexec.core.spec import NamedSpec
from gnexec.desk.dispatcher import View
from gnexec.desk.jobtokens import JobToken
from gnexec.desk.office import Office


async def specs_of_jobs(office: Office, jobs: Sequence[int]) -> dict[int, NamedSpec]:
    """Return the specifications of jobs; absent where the job is unknown or its specification was erased."""

    def look(view: View) -> dict[int, bytes]:
        return {number: job.spec for number in jobs if (job := view.job(number)) is not None}

    held = {number: name for number in jobs if (name := office.spec_names.get(number)) is not None}
    names = held if len(held) == len(jobs) else await office.desk.ask(look)
    specs = await office.find_specs(list(names.values()))
    return {number: specs[name] for number, name in names.items() if name in specs}


async def inputs_of(office: Office, token: JobToken) -> set[str]:
    """Return the digests of the inputs that a job token opens."""
    specs = await specs_of_jobs(office, [job for job, _ in token.claims.pairs])
    return {digest for named in specs.values() for digest in named.spec.inputs.values()}
