"""Which payloads may be shown to everyone.

An entry's leaf is public at once. Its payload is released when every job that it tells of is closed and of the class
public, so that nobody can copy an answer, inspect the workload, or see which attempt is a check. Entries about no job
(keys, policy, workers, outages) are released at once: they hold pseudonyms and public keys only.
"""

from __future__ import annotations

from collections.abc import Callable

from gnexec.core.events import AnyEvent
from gnexec.core.job import Job
from gnexec.core.steps import jobs_of
from gnexec.core.terms import DataClass


def released(event: AnyEvent, job: Callable[[int], Job | None]) -> bool:
    """Tell whether an event's payload may be shown to everyone.

    Args:
        event: of a committed entry.
        job: looks a job up, open or closed.
    """
    for number in jobs_of(event):
        found = job(number)
        if found is None or not found.closed or found.terms.data_class is not DataClass.PUBLIC:
            return False
    return True
