"""Whose job it is: a job is shown to those who handed it in, and to others it does not exist."""

from __future__ import annotations

from gnexec.core.job import Job
from gnexec.desk.office import Caller
from gnexec.desk.requests import View
from gnexec.errors import Refused


def own_job(view: View, caller: Caller, job_id: int) -> Job:
    """Return a job of the caller's, open or closed; one that they withdrew from stays readable.

    Raises:
        Refused: not_found, in the same words for a job that is another's and for one that never was.
    """
    job = view.job(job_id)
    if job is None or caller.owner not in (*job.owners, *job.former_owners):
        raise Refused("not_found", f"There is no job {job_id} of yours.")
    return job
