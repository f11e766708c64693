"""Jobs in words and rows, for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gnexec.cli.values import show_duration, show_time

if TYPE_CHECKING:
    from gnexec.shapes import JobView


def standing(job: JobView) -> str:
    """Say in one sentence how a job stands."""
    return (
        f"Job {job.id} is {standing_words(job)}." if job.decided_ms is None else f"Job {job.id} {standing_words(job)}."
    )


def standing_words(job: JobView) -> str:
    """Say how a job stands, without naming it."""
    if job.decided_ms is None:
        known = f", {job.progress:.0%} done" if job.progress else ""
        return f"{job.state}{known}{expected(job)}"
    agree = f", {job.agreeing} results agree" if job.agreeing > 1 else ""
    plain = job.outcome in ("success", "cancelled", "")
    return f"{job.state}{'' if plain else f': {job.outcome}'}{agree}"


def expected(job: JobView) -> str:
    """Say when it will be done, led by a comma; "" where nothing is known."""
    if job.eta is None:
        return ""
    return f", done in about {show_duration(max(1.0, job.eta.likely_s))}"


def job_facts(job: JobView) -> list[tuple[str, str]]:
    """Return all that an owner may want to know, as names and values."""
    eta = ""
    if job.eta is not None:
        low, high = show_duration(job.eta.low_s), show_duration(job.eta.high_s)
        basis = f"from {job.eta.observations} results" if job.eta.observations else "as you estimated"
        eta = f"in about {show_duration(job.eta.likely_s)} ({low} to {high}, {basis})"
    took = ""
    if job.decided_ms is not None:
        took = f"{show_time(job.decided_ms)}, after {show_duration((job.decided_ms - job.submitted_ms) / 1000)}"
    else:
        age_s = time.time() - job.submitted_ms / 1000
        took = f"not yet, after {show_duration(age_s)}" if age_s > 0 else "not yet"
    return [
        ("job", str(job.id)),
        ("state", standing_words(job)),
        ("name", job.name),
        ("command", job.cmd),
        ("priority", str(job.priority) if job.priority else ""),
        ("submitted", show_time(job.submitted_ms)),
        ("decided", took),
        ("reason", job.reason),
        ("attempts", str(job.attempts)),
        ("expected", eta),
        ("revision", str(job.revision) if job.revision > 1 else ""),
        ("digest", job.digest),
    ]


def job_row(job: JobView) -> list[str]:
    """Return a job as a row under `COLUMNS`."""
    eta = show_duration(job.eta.likely_s) if job.eta is not None else ""
    return [str(job.id), job.state, f"{job.progress:.0%}", str(job.attempts), eta, job.outcome, job.name or job.cmd]


COLUMNS = ("job", "state", "done", "tries", "left", "outcome", "what")
RIGHT = ("job", "done", "tries", "left")
