"""Running a plan: its jobs handed in stage by stage, watched until decided, their outputs fetched.

Everything goes through the public client, as any submitter's work does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gnexec.client import Client
from gnexec.core.terms import Needs, Redundancy
from gnexec.demo.plan import Job, Outputs, Plan, Produced, Stage
from gnexec.errors import GnexecError
from gnexec.shapes import JobBody, JobView

_POLL_S = 0.25


class JobFailed(GnexecError):
    """A job of the plan did not succeed; the message has what it printed."""


@dataclass(slots=True)
class Progress:
    """How a plan goes.

    Attributes:
        done: jobs decided. total: jobs of the plan.
        promised_s: whole time promised when the first estimate could be made, seconds, or None.
        promised_at: jobs that were decided by then. taken_s: time so far.
    """

    total: int
    done: int = 0
    promised_s: float | None = None
    promised_at: int = 0
    taken_s: float = 0.0


def run_plan(client: Client, plan: Plan, tell: Callable[[Progress, Stage], None]) -> tuple[Outputs, Progress]:
    """Run a plan on a server.

    Args:
        client: of a submitter who may hand in commands.
        plan: stages, in order.
        tell: called whenever something was decided.

    Returns:
        The outputs of all jobs by name, and how it went.

    Raises:
        JobFailed: a job failed. Refused, ServerUnreachable: by the server.
    """
    progress = Progress(len(plan.jobs))
    began = time.monotonic()
    outputs: dict[str, Mapping[str, bytes]] = {}
    digests: dict[tuple[str, str], str] = {}
    uploaded: dict[Path, str] = {}
    for stage in plan.stages:
        views = client.submit_many([_body(client, job, digests, uploaded) for job in stage.jobs])
        tell(progress, stage)
        for job, view in zip(stage.jobs, views, strict=True):
            decided = _wait(client, view.id, views, progress, began)
            if decided.state != "succeeded":
                said = client.stderr(view.id).decode(errors="replace").strip()[-2000:]
                msg = f"Job {view.id} ({job['name']}) is {decided.state}: {decided.outcome}. {said}"
                raise JobFailed(msg)
            outputs[job["name"]] = _fetch(client, view.id, job, digests)
            progress.done += 1
            progress.taken_s = time.monotonic() - began
            tell(progress, stage)
    progress.taken_s = time.monotonic() - began
    return outputs, progress


def _body(
    client: Client, job: Job, digests: Mapping[tuple[str, str], str], uploaded: dict[Path, str]
) -> JobBody:
    inputs = {}
    for path, source in job["inputs"].items():
        if isinstance(source, Produced):
            inputs[path] = digests[source.job, source.path]
        else:
            if source not in uploaded:
                uploaded[source] = client.upload(source)
            inputs[path] = uploaded[source]
    told: dict[str, Any] = {**job, "inputs": inputs}
    told["needs"] = msgspec.convert(job["needs"], Needs)
    told["redundancy"] = msgspec.convert(job["redundancy"], Redundancy)
    told["argv"] = tuple(job["argv"])
    told["outputs"] = tuple(job["outputs"])
    return JobBody(**told)


def _wait(client: Client, number: int, views: list[JobView], progress: Progress, began: float) -> JobView:
    """Wait for one job; make the promise as soon as the server has seen enough to estimate."""
    while True:
        view = client.job(number, wait_s=_POLL_S if progress.promised_s is None else 10.0)
        if progress.promised_s is None and progress.done:
            etas = [job.eta for job in (client.job(v.id) for v in views) if job.eta is not None]
            if etas:
                progress.promised_s = time.monotonic() - began + max(eta.likely_s for eta in etas)
                progress.promised_at = progress.done
        if view.state in {"succeeded", "failed", "cancelled"}:
            return view


def _fetch(
    client: Client, number: int, job: Job, digests: dict[tuple[str, str], str]
) -> dict[str, bytes]:
    result = client.result(number)
    found = {}
    for path in job["outputs"]:
        found[path] = client.output(number, path)
        digests[job["name"], path] = result.outputs[path].sha256
    return found
