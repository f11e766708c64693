"""What an entry must be by itself, whatever came before: keys that are keys, digests that are digests, settled terms.

The server's doors see to all of this before the core decides; an auditor does not take it for granted.
"""

from __future__ import annotations

from typing import NoReturn

from gnexec.core.events import (
    AnyEvent,
    JobsDecided,
    KeyAdded,
    PolicySet,
    ResultsCompared,
    ResultsReported,
    Submitted,
    WorkerEnrolled,
)
from gnexec.core.policy.validation import EXACT
from gnexec.core.terms import check_needs, resolve_redundancy
from gnexec.errors import CorruptLog
from gnexec.ids import DIGEST, MAX_SAFE_INT
from gnexec.tokens.jwk import kid_of, public_key
from gnexec.tokens.statements import check_outcome


def check_form(event: AnyEvent) -> None:
    """Check what an event says by itself.

    Raises:
        CorruptLog, Refused, ValueError: a value that no server lets in.
    """
    match event:
        case KeyAdded() | WorkerEnrolled():
            if kid_of(public_key(event.x)) != event.kid:
                _bad(f"the kid {event.kid} is not the thumbprint of its key")
        case PolicySet():
            if min(event.lease_s, event.max_open) < 1 or event.grace_s < 0:
                _bad("no policy has these numbers")
            if not event.distinct_owners and not event.open:
                _bad("only in open mode may results of one owner agree with each other")
        case Submitted():
            _check_submitted(event)
        case ResultsReported():
            _check_results(event)
        case ResultsCompared() if not event.found:
            _bad("an entry of comparisons has none")
        case JobsDecided() if not event.decided:
            _bad("an entry of decisions has none")
        case _:
            pass


def _check_submitted(event: Submitted) -> None:
    for terms in event.terms:
        check_needs(terms.needs)
        if resolve_redundancy(terms.redundancy) != terms.redundancy or terms.validator != EXACT:
            _bad("the terms of a job are not settled")
    used = [*(row.terms for row in event.jobs), *(row.terms for row in event.joined)]
    if not used or not all(0 <= index < len(event.terms) for index in used):
        _bad("the submission has no jobs, or jobs without terms")
    if not all(DIGEST.fullmatch(text) for row in event.jobs for text in (row.digest, row.spec)):
        _bad("a job has no usable digest")
    places = {row.position for row in event.joined}
    if len(places) != len(event.joined) or not places <= set(range(len(used))):
        _bad("the submission answers a request with two jobs, or one that was not made")
    last = event.first + len(event.jobs) - 1
    if last > MAX_SAFE_INT or not all(1 <= row.job <= last for row in event.joined):
        _bad("the submission is answered by a job that does not exist")


def _check_results(event: ResultsReported) -> None:
    for result in event.results:
        check_outcome(result.outcome)
        digests = [text for text in (result.canon, result.outs) if text is not None]
        success = result.outcome.text == "success"
        if not all(map(DIGEST.fullmatch, digests)) or (success and result.canon is None):
            _bad(f"the result of job {result.job} names no usable digest")
    if not event.results or not DIGEST.fullmatch(event.answer):
        _bad("a report has no result, or no digest of its answer")


def _bad(reason: str) -> NoReturn:
    raise CorruptLog(reason)
