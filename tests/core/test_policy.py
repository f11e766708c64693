"""The policies by themselves: redundancy over every order of results, prediction, and what the wire allows in terms."""

from __future__ import annotations

import math
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.core.events import AttemptState, JobState
from gnexec.core.job import Attempt, Job
from gnexec.core.policy.matching import unmet
from gnexec.core.policy.prediction import Statistics, attempt_ms, estimate
from gnexec.core.policy.redundancy import (
    FREE_PREEMPTIONS,
    agreeing,
    decision,
    excluded_owners,
    replicas_needed,
    results,
    spent,
)
from gnexec.core.policy.validation import EXACT, missing_comparisons
from gnexec.core.terms import DataClass, Needs, Terms, at_least_as_strict, check_needs
from gnexec.errors import Refused
from tests.core.scene import OFFER, ONE, PAIR, terms


def job(asked: Terms, *attempts: tuple[str, AttemptState, bytes | None]) -> Job:
    """Return a job whose attempts (owner, state, canon) were answered in the order of their numbers."""
    made = tuple(
        Attempt(
            number=number,
            jti=f"jti{number}",
            worker=f"w{owner}",
            owner=owner,
            started_ms=0,
            state=state,
            canon=canon,
            seq=number if state is AttemptState.SUCCEEDED else -1,
        )
        for number, (owner, state, canon) in enumerate(attempts, 1)
    )
    running = any(a.state is AttemptState.OPEN for a in made)
    return Job(
        id=1,
        digest=b"",
        spec=b"",
        terms=asked,
        project="p",
        owners=("olga",),
        submitted_ms=0,
        seq=0,
        state=JobState.RUNNING if running else JobState.QUEUED,
        attempts=made,
    )


def compared(found: Job) -> Job:
    """Return the job with all its comparisons made."""
    pairs = tuple((each.a, each.b, each.equal) for each in missing_comparisons(found))
    return msgspec.structs.replace(found, comparisons=found.comparisons + pairs)


OPEN, GOOD, BAD = AttemptState.OPEN, AttemptState.SUCCEEDED, AttemptState.FAILED
GONE, LOST, STOPPED = AttemptState.ABANDONED, AttemptState.UNDELIVERED, AttemptState.PREEMPTED
SLOW = AttemptState.EXPIRED


@pytest.mark.parametrize(
    ("asked", "attempts", "needed"),
    [
        (ONE, [], 1),
        (PAIR, [], 2),
        (terms(replicas=3, quorum=2), [], 3),
        (PAIR, [("a", OPEN, None)], 1),
        (PAIR, [("a", OPEN, None), ("b", OPEN, None)], 0),
        (PAIR, [("a", GOOD, b"1"), ("b", OPEN, None)], 0),
        (PAIR, [("a", GOOD, b"1"), ("b", GOOD, b"2")], 1),
        (PAIR, [("a", GOOD, b"1"), ("b", GOOD, b"2"), ("c", OPEN, None)], 0),
        (PAIR, [("a", GOOD, b"1"), ("b", GOOD, b"2"), ("c", GOOD, b"3")], 1),
        (PAIR, [("a", BAD, None), ("b", OPEN, None)], 1),
        (PAIR, [("a", LOST, None), ("b", STOPPED, None)], 2),
        (PAIR, [("a", GONE, None), ("b", SLOW, None)], 2),
        (terms(replicas=3, quorum=2), [("a", GOOD, b"1"), ("b", GOOD, b"2"), ("c", OPEN, None)], 0),
        (terms(replicas=3, quorum=3), [("a", GOOD, b"1"), ("b", GOOD, b"2"), ("c", GOOD, b"2")], 1),
        (terms(replicas=2, quorum=2, max_attempts=2), [("a", GOOD, b"1"), ("b", GOOD, b"2")], 0),
        (terms(replicas=2, quorum=2, max_attempts=3), [("a", GONE, None), ("b", GONE, None)], 1),
        (terms(replicas=2, quorum=2, max_attempts=2), [("a", LOST, None), ("b", OPEN, None)], 1),
    ],
)
def test_replicas_needed_by_what_became_of_the_attempts(
    asked: Terms, attempts: list[tuple[str, AttemptState, bytes | None]], needed: int
) -> None:
    """Enough to reach both the replicas and the quorum, never more than the budget leaves."""
    assert replicas_needed(compared(job(asked, *attempts)), distinct_owners=True) == needed


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_replicas_needed_by_a_decided_job_is_none(state: JobState) -> None:
    """A decided job needs nothing more."""
    assert replicas_needed(msgspec.structs.replace(job(PAIR), state=state), distinct_owners=True) == 0


def test_spent_leaves_out_what_is_nobodys_fault() -> None:
    """Undelivered and preempted attempts use up no budget; open ones do until they end so."""
    attempts = [(str(state), state, None) for state in AttemptState]
    assert spent(job(PAIR, *attempts)) == len(AttemptState) - 2


def test_spent_counts_preemptions_beyond_what_is_free() -> None:
    """A job that is given back again and again uses up its budget in the end."""
    attempts = [(f"o{i}", STOPPED, None) for i in range(FREE_PREEMPTIONS)]
    assert spent(job(ONE, *attempts)) == 0
    assert replicas_needed(job(ONE, *attempts), distinct_owners=True) == 1
    more = [(f"p{i}", STOPPED, None) for i in range(ONE.redundancy.max_attempts + 3)]
    assert spent(job(ONE, *attempts, *more)) == len(more)
    assert replicas_needed(job(ONE, *attempts, *more), distinct_owners=True) == 0
    decided = decision(job(ONE, *attempts, *more), distinct_owners=True)
    assert decided is not None
    assert decided.reason == "attempts"


def test_excluded_owners_are_those_with_a_say() -> None:
    """Open, answered and failed attempts use up an owner's say; lapsed and preempted ones do not."""
    attempts = [(str(state), state, None) for state in AttemptState]
    assert excluded_owners(job(PAIR, *attempts), distinct_owners=True) == {"open", "succeeded", "failed"}
    assert excluded_owners(job(ONE, *attempts), distinct_owners=True) == frozenset()
    assert excluded_owners(job(PAIR, *attempts), distinct_owners=False) == frozenset()


def test_canonical_is_the_earliest_result_not_the_lowest_number() -> None:
    """The order in which results came in decides between equally good ones."""
    found = job(PAIR, ("a", GOOD, b"1"), ("b", GOOD, b"1"))
    late_first = msgspec.structs.replace(found.attempts[0], seq=9)
    found = compared(msgspec.structs.replace(found, attempts=(late_first, found.attempts[1])))
    decided = decision(found, distinct_owners=True)
    assert decided is not None
    assert decided.canonical == 2


def test_agreement_is_with_the_canonical_result_not_along_a_chain() -> None:
    """Tolerance is not transitive: a with b and b with c is no quorum of three for a, but is one for b."""
    found = job(terms(replicas=3, quorum=3), ("a", GOOD, b"1"), ("b", GOOD, b"2"), ("c", GOOD, b"3"))
    found = msgspec.structs.replace(found, comparisons=((1, 2, True), (1, 3, False), (2, 3, True)))
    assert [agreeing(found, number, distinct_owners=True) for number in (1, 2, 3)] == [2, 3, 2]
    decided = decision(found, distinct_owners=True)
    assert decided is not None
    assert decided.canonical == 2


def test_two_results_of_one_owner_count_once() -> None:
    """Agreeing with oneself is no confirmation, unless the operator trusts all volunteers."""
    found = compared(job(PAIR, ("a", GOOD, b"1"), ("a", GOOD, b"1")))
    assert decision(found, distinct_owners=True) is None
    assert agreeing(found, 1, distinct_owners=True) == 1
    assert agreeing(found, 1, distinct_owners=False) == 2
    assert decision(found, distinct_owners=False) is not None


def test_results_without_a_voted_digest_agree_with_nothing() -> None:
    """Two results that name no outputs are not equal."""
    found = compared(job(PAIR, ("a", GOOD, None), ("b", GOOD, None)))
    assert [equal for _, _, equal in found.comparisons] == [False]


def test_comparisons_already_made_are_not_made_again() -> None:
    """Each pair is compared once, earlier result first, by the exact validator."""
    found = job(PAIR, ("a", GOOD, b"1"), ("b", GOOD, b"2"), ("c", GOOD, b"1"))
    found = msgspec.structs.replace(found, comparisons=((1, 2, False),))
    missing = missing_comparisons(found)
    assert [(each.a, each.b, each.equal, each.validator) for each in missing] == [
        (1, 3, True, EXACT),
        (2, 3, False, EXACT),
    ]


RESULTS = st.lists(
    st.tuples(
        st.sampled_from("abcde"), st.sampled_from([GOOD, GOOD, BAD, GONE, LOST, OPEN]), st.sampled_from([b"1", b"2"])
    ),
    max_size=6,
)


@given(RESULTS, st.integers(1, 3), st.integers(0, 2))
def test_decision_equals_the_plain_reading_of_the_rule(
    found: list[tuple[str, AttemptState, bytes]], quorum: int, more: int
) -> None:
    """For any outcome of attempts: equal digests are grouped, owners counted, failures and attempts added up."""
    asked = terms(replicas=quorum, quorum=quorum, max_attempts=quorum + more)
    attempts = [(owner, state, canon if state is GOOD else None) for owner, state, canon in found]
    states = [state for _, state, _ in attempts]
    made = compared(job(asked, *attempts))
    good = [(number, owner, canon) for number, (owner, state, canon) in enumerate(attempts, 1) if state is GOOD]
    voters = {canon: {o for _, o, c in good if c == canon} for _, _, canon in good}
    winner = next((number for number, _, canon in good if len(voters[canon]) >= quorum), None)
    decided = decision(made, distinct_owners=True)
    if winner is not None:
        assert decided is not None
        assert (decided.state, decided.canonical, decided.reason) == (JobState.SUCCEEDED, winner, "quorum")
    elif states.count(BAD) >= quorum:
        assert decided is not None
        assert (decided.state, decided.canonical, decided.reason) == (JobState.FAILED, None, "failures")
    elif OPEN not in states and sum(state is not LOST for state in states) >= quorum + more:
        assert decided is not None
        assert (decided.state, decided.canonical, decided.reason) == (JobState.FAILED, None, "attempts")
    else:
        assert decided is None
        assert OPEN in states or replicas_needed(made, distinct_owners=True) > 0
    assert [each.number for each in results(made)] == [number for number, _, _ in good]


def test_strictness_is_of_quorum_and_validator() -> None:
    """A job answers who asks for no larger quorum, under the same validator."""
    assert at_least_as_strict(PAIR, ONE)
    assert not at_least_as_strict(ONE, PAIR)
    assert not at_least_as_strict(PAIR, msgspec.structs.replace(ONE, validator="numeric/1"))


def test_strictness_keeps_what_is_private_private() -> None:
    """A public job does not answer who asks for a closed one; the reverse shows nobody anything."""
    public = msgspec.structs.replace(ONE, data_class=DataClass.PUBLIC)
    assert not at_least_as_strict(public, ONE)
    assert at_least_as_strict(ONE, public)
    assert at_least_as_strict(public, public)


@pytest.mark.parametrize("field", ["cores", "memory_bytes", "disk_bytes", "wall_s", "processes"])
@pytest.mark.parametrize("value", [0, -1, 1 << 51])
def test_needs_out_of_range_are_refused(field: str, value: int) -> None:
    """Every number of the needs has its range."""
    with pytest.raises(Refused) as caught:
        check_needs(Needs(**{field: value}))
    assert caught.value.field == f"needs.{field}"


def test_needs_within_the_offer_are_met() -> None:
    """A worker meets what it offers exactly; one that made no offer meets all."""
    needs = Needs(cores=OFFER.cores, memory_bytes=OFFER.memory_bytes, disk_bytes=OFFER.disk_bytes)
    assert unmet(needs, OFFER) is None
    assert unmet(Needs(cores=4096), None) is None
    assert check_needs(needs) == needs


# Prediction.


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_statistics_equal_those_of_the_standard_library(walls: list[int]) -> None:
    """One pass gives the same mean and deviation as two."""
    found = Statistics()
    for wall in walls:
        found = found.add(wall)
    assert found.n == len(walls)
    assert math.isclose(found.mean_ms, statistics.mean(walls), rel_tol=1e-9, abs_tol=1e-6)
    expected = statistics.stdev(walls) if len(walls) > 1 else 0.0
    assert math.isclose(found.deviation_ms, expected, rel_tol=1e-6, abs_tol=1e-3)


def test_prediction_of_an_unknown_time_is_unknown() -> None:
    """Without an observation and without a guess nothing is promised."""
    assert estimate(None, None, 5, 2) is None
    assert attempt_ms(None, None) is None


def test_prediction_prefers_what_was_seen_to_the_guess() -> None:
    """One observation outweighs the submitter's guess."""
    seen = Statistics().add(4000)
    assert attempt_ms(seen, 1) == 4000
    assert attempt_ms(None, 7) == 7


def test_prediction_counts_rounds_over_the_slots() -> None:
    """Seven attempts over three slots are three rounds; no slot at all counts as one."""
    found = estimate(None, 1000, 7, 3)
    assert found is not None
    assert (found.likely_ms, found.low_ms, found.high_ms, found.observations) == (3000, 1500, 4500, 0)
    alone = estimate(None, 1000, 7, 0)
    assert alone is not None
    assert alone.likely_ms == 7000


def test_prediction_range_follows_the_spread_seen() -> None:
    """Two standard deviations, growing with the root of the rounds; never below zero."""
    seen = Statistics().add(1000).add(3000)
    found = estimate(seen, None, 4, 1)
    assert found is not None
    assert found.likely_ms == 8000
    assert found.high_ms - found.likely_ms == round(8000 + 4 * seen.deviation_ms) - 8000
    assert estimate(seen, None, 1, 1).low_ms == 0  # type: ignore[union-attr]
