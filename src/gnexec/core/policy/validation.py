"""Comparing two results, as far as digests alone can tell.

The validator "exact/1" needs only the voted digests, which are in the log, so it is decided here. Validators that must
open blobs are run outside the core and hand in what they found as a `Compared`; both look the same to decisions.
"""

from __future__ import annotations

from gnexec.core.events import Compared
from gnexec.core.job import Attempt, Job
from gnexec.core.policy.redundancy import results

EXACT = "exact/1"


def compare_exact(job: Job, a: Attempt, b: Attempt) -> Compared:
    """Compare two results byte for byte, by their voted digests."""
    equal = a.canon is not None and a.canon == b.canon
    return Compared(
        job=job.id,
        a=a.number,
        b=b.number,
        equal=equal,
        validator=EXACT,
        why="" if equal else "the digests of the declared outputs differ",
    )


def missing_comparisons(job: Job) -> list[Compared]:
    """Return the comparisons of result pairs that are not yet recorded, earlier result first."""
    done = {(a, b) for a, b, _ in job.comparisons}
    have = results(job)
    return [compare_exact(job, a, b) for j, b in enumerate(have) for a in have[:j] if (a.number, b.number) not in done]
