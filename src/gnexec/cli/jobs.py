"""`gnexec status`, `wait`, `cancel`, `explain`: jobs that were handed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from gnexec.cli.connection import LONG_PATIENCE_S, Connection
from gnexec.cli.output import Json, facts, json_line, line, say, table
from gnexec.cli.values import Duration

if TYPE_CHECKING:
    from gnexec.shapes import JobView

JobId = Annotated[int, Parameter(metavar="JOB", validator=validators.Number(gte=1))]


def status(
    *jobs: Annotated[JobId, Parameter(required=True)], server: Connection | None = None, json: Json = False
) -> int:
    """Say how jobs stand.

    Args:
        jobs: Ids of the jobs.
        server: see `Connection`.
        json: see `Json`.
    """
    with (server or Connection()).client() as client:
        views = [client.job(job) for job in jobs]
    show(views, json=json)
    return 0


def wait(
    *jobs: Annotated[JobId, Parameter(required=True)],
    timeout: Duration | None = None,
    server: Connection | None = None,
    json: Json = False,
) -> int:
    """Wait until jobs are decided.

    Succeeds if and only if all of them do. Interrupted, it leaves them to go on.

    Args:
        jobs: Ids of the jobs.
        timeout: Longest time to wait for each; then the exit status is 75.
        server: see `Connection`.
        json: see `Json`.
    """
    from gnexec.cli import FAILURE, OK, TRY_LATER
    from gnexec.cli.follow import follow
    from gnexec.cli.words import standing

    status = OK
    with (server or Connection()).client() as client:
        client.hey()  # a wrong address is found out soon
        client.patience_s = LONG_PATIENCE_S
        for job in jobs:
            try:
                view = follow(client, job, timeout_s=timeout)
            except TimeoutError as late:
                say(str(late), style="yellow")
                status = TRY_LATER
                continue
            if json:
                json_line(view)
            else:
                line(standing(view))
            if view.state != "succeeded" and status == OK:
                status = FAILURE
    return status


def cancel(
    *jobs: Annotated[JobId, Parameter(required=True)], server: Connection | None = None, json: Json = False
) -> int:
    """Withdraw from jobs; each stops unless somebody else wants it too.

    Args:
        jobs: Ids of the jobs.
        server: see `Connection`.
        json: see `Json`.
    """
    from gnexec.cli.words import standing

    with (server or Connection()).client() as client:
        for job in jobs:
            view = client.cancel(job)
            if json:
                json_line(view)
            else:
                line(standing(view))
    return 0


def explain(job: JobId, /, *, server: Connection | None = None, json: Json = False) -> int:
    """Say why a job is where it is.

    Args:
        job: Its id.
        server: see `Connection`.
        json: see `Json`.
    """
    with (server or Connection()).client() as client:
        view = client.explain(job)
    if json:
        json_line(view)
        return 0
    line(f"Job {view.id} is {view.state}.")
    for sentence in view.sentences:
        line(f"  {sentence}")
    return 0


def show(views: list[JobView], *, json: bool) -> None:
    """Print jobs: one in full, several as a table."""
    from gnexec.cli.words import COLUMNS, RIGHT, job_facts, job_row

    if json:
        for view in views:
            json_line(view)
    elif len(views) == 1:
        facts(job_facts(views[0]))
    else:
        table(COLUMNS, map(job_row, views), right=RIGHT)
