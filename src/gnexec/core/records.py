"""What the world keeps of an open hand-out, and of a worker and how it has done."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from gnexec.core.events import Effort, HandedOut, Offer
from gnexec.core.job import Job
from gnexec.ids import ANONYMOUS


class HandOut(msgspec.Struct, frozen=True, kw_only=True):
    """An open hand-out: some of its attempts are open.

    Attributes:
        event: as it was handed out.
        lease_until_ms: as extended since.
        open: (job, attempt) pairs that are still open.
        efforts: what each job had shown when the lease was last extended for it.
        contacted: whether the worker was heard of since.
        noted: codes of refusals that were noted for it.
    """

    event: HandedOut
    lease_until_ms: int
    open: frozenset[tuple[int, int]]
    efforts: dict[int, Effort] = {}
    contacted: bool = False
    noted: frozenset[str] = frozenset()


@dataclass(slots=True)
class WorkerRecord:
    """A worker, and how it has done.

    Attributes:
        x: its public key, base64url; "" for the anonymous worker of open mode.
        offer: what it offers, or None where it did not say.
        caps: salted digest of its description.
        tally: number of its attempts by outcome, and of its equivocations.
        open: number of attempts it holds.
        silent: number of hand-outs that it took one after the other without being heard of since.
        last_ms: time of its last entry.
    """

    id: str
    owner: str
    x: str
    kid: str
    offer: Offer | None
    caps: str = ""
    tally: dict[str, int] = field(default_factory=dict)
    open: int = 0
    silent: int = 0
    last_ms: int = 0

    def count(self, what: str) -> None:
        """Add one to a tally."""
        self.tally[what] = self.tally.get(what, 0) + 1


def series(job: Job) -> str:
    """Name the series for whose statistics a job's times count: same project, same program."""
    return f"{job.project}/{job.terms.program}"


def newcomer(worker_id: str) -> WorkerRecord:
    """Return the record of a worker that has not said anything about itself."""
    return WorkerRecord(worker_id, ANONYMOUS, "", "", None)
