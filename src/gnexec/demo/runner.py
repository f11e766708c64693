"""Running a plan: its jobs handed in stage by stage, watched until decided, their outputs fetched.

Everything goes through the public client, as any submitter's work does. The time that it will take is promised once,
by the server's own estimate of when the stage's last job will be done, as soon as that rests on some results.

Rules:
- The first job that fails, or that nobody here can finish, ends the run with what it printed.
- Nothing is waited for without a look, every few seconds, at whether it can still come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gnexec.client import Client
from gnexec.core.terms import Needs, Redundancy
from gnexec.demo.plan import Job, Outputs, Plan, Produced, Stage
from gnexec.errors import GnexecError, Refused
from gnexec.shapes import JobBody, JobView

ENOUGH: Final = 3
"""Decided jobs on which the promise rests."""
GLANCE_S: Final = 1.0
_LAST_WORDS: Final = 2000


class JobFailed(GnexecError):
    """A job of the plan did not succeed; the message has what it printed."""


@dataclass(slots=True)
class Progress:
    """How a plan goes.

    Attributes:
        total: jobs of the plan. done: those that are decided.
        promised_s: whole time promised, seconds, or None where there was too little to see.
        promised_at: jobs that were decided by then.
        taken_s: time so far.
    """

    total: int
    done: int = 0
    promised_s: float | None = None
    promised_at: int = 0
    taken_s: float = 0.0


Tell = Callable[[Progress, Stage], None]


def run_plan(client: Client, plan: Plan, tell: Tell) -> tuple[Outputs, Progress]:
    """Run a plan on a server.

    Args:
        client: of a submitter who may hand in commands.
        plan: stages, in order.
        tell: called about once a second, and whenever a job was decided; what it raises ends the run.

    Returns:
        The outputs of all jobs by name, and how it went.

    Raises:
        JobFailed: a job failed, or cannot be finished. Refused, ServerUnreachable: by the server.
    """
    return _Run(client, plan, tell).all()


class _Run:
    """One run of a plan."""

    def __init__(self, client: Client, plan: Plan, tell: Tell) -> None:
        self._client = client
        self._plan = plan
        self._tell = tell
        self._began = time.monotonic()
        self._progress = Progress(len(plan.jobs))
        self._outputs: dict[str, Mapping[str, bytes]] = {}
        self._digests: dict[tuple[str, str], str] = {}
        self._uploaded: dict[Path, str] = {}

    def all(self) -> tuple[Outputs, Progress]:
        for stage in self._plan.stages:
            self._stage(stage)
        return self._outputs, self._progress

    def _stage(self, stage: Stage) -> None:
        views = self._client.submit_many([self._body(job) for job in stage.jobs])
        later = self._progress.total - self._progress.done - len(views)
        self._note(stage)
        for place, (job, view) in enumerate(zip(stage.jobs, views, strict=True)):
            decided = self._wait(stage, job, view.id)
            if decided.state != "succeeded":
                raise self._failed(decided, job["name"])
            self._outputs[job["name"]] = self._fetch(view.id, job)
            self._progress.done += 1
            self._promise(views[place + 1 :], later)
            self._note(stage)

    def _wait(self, stage: Stage, job: Job, number: int) -> JobView:
        while True:
            view = self._client.job(number, wait_s=GLANCE_S)
            if view.decided_ms is not None:
                return view
            self._note(stage)
            if view.state == "queued":
                self._look_for_workers(job, view)

    def _note(self, stage: Stage) -> None:
        self._progress.taken_s = time.monotonic() - self._began
        self._tell(self._progress, stage)

    def _promise(self, left: Sequence[JobView], later: int) -> None:
        """Promise the whole time, once: what has passed, what this stage still takes, and later ones in proportion."""
        if self._progress.promised_s is not None or self._progress.done < ENOUGH or not left:
            return
        last = self._client.job(left[-1].id)
        if last.eta is not None:
            still_s = last.eta.likely_s * (len(left) + later) / len(left)
            self._progress.promised_s = time.monotonic() - self._began + still_s
            self._progress.promised_at = self._progress.done

    def _look_for_workers(self, job: Job, view: JobView) -> None:
        """Give up on a job that no worker may take, once so many are here that it could be decided.

        Raises:
            JobFailed: it is so.
        """
        told = self._client.explain(view.id)
        if told.state == "queued" and told.needed and not told.able and told.workers >= job["redundancy"]["quorum"]:
            ended = [f"attempt {a.attempt}: {a.outcome or a.state}" for a in self._client.attempts(view.id).attempts]
            msg = f"Job {view.id} ({job['name']}) cannot be decided. {' '.join(told.sentences)} {', '.join(ended)}"
            raise JobFailed(msg.rstrip())

    def _failed(self, view: JobView, name: str) -> JobFailed:
        msg = f"Job {view.id} ({name}) {view.state}: {view.outcome or view.reason}."
        try:
            said = self._client.stderr(view.id).decode(errors="replace").strip()[-_LAST_WORDS:]
        except Refused:
            said = ""
        return JobFailed(f"{msg} It said:\n{said}" if said else f"{msg} It said nothing.")

    def _body(self, job: Job) -> JobBody:
        inputs = {}
        for path, source in job["inputs"].items():
            if isinstance(source, Produced):
                inputs[path] = self._digests[source.job, source.path]
            else:
                if source not in self._uploaded:
                    self._uploaded[source] = self._client.upload(source)
                inputs[path] = self._uploaded[source]
        return JobBody(
            name=job["name"],
            argv=tuple(job["argv"]),
            inputs=inputs,
            outputs=tuple(job["outputs"]),
            env=job["env"],
            needs=msgspec.convert(job["needs"], Needs),
            redundancy=msgspec.convert(job["redundancy"], Redundancy),
        )

    def _fetch(self, number: int, job: Job) -> dict[str, bytes]:
        result = self._client.result(number)
        found = {}
        for path in job["outputs"]:
            found[path] = self._client.output(number, path)
            self._digests[job["name"], path] = result.outputs[path].sha256
        return found
