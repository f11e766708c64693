"""Why a job is where it is, and when it is expected to be done."""

from __future__ import annotations

from gnexec.core.job import Job
from gnexec.core.policy.matching import obstacle
from gnexec.core.policy.prediction import estimate
from gnexec.core.records import series
from gnexec.core.world import World
from gnexec.desk.dispatcher import View
from gnexec.desk.office import Caller, Office
from gnexec.desk.ownership import own_job
from gnexec.desk.presence import ACTIVE_MS
from gnexec.shapes import EtaView, ExplainView


async def explain(office: Office, caller: Caller, job_id: int) -> ExplainView:
    """Say why a job is where it is.

    Raises:
        Refused: not_found.
    """

    def look(view: View) -> ExplainView:
        world, job = view.world, own_job(view, caller, job_id)
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


class Outlook:
    """What predictions of one moment rest on, gathered once for however many jobs."""

    def __init__(self, office: Office, world: World) -> None:
        """Count who works, and who could."""
        self._world = world
        self._slots = office.presence.slots(world)

    def expected(self, job: Job) -> EtaView | None:
        """Predict when a job will be decided, from now; None where nothing is known of its like."""
        world = self._world
        seen = world.statistics.get(series(job))
        if seen is None and job.terms.estimate_ms is None:
            return None
        needed = world.needed(job)
        ahead = world.ready.ahead(job.id, world.line_of(job))[1] if needed else 0
        found = estimate(seen, job.terms.estimate_ms, ahead + max(needed, 1), self._slots)
        if found is None:
            return None
        return EtaView(
            likely_s=found.likely_ms / 1000,
            low_s=found.low_ms / 1000,
            high_s=found.high_ms / 1000,
            observations=found.observations,
        )


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
