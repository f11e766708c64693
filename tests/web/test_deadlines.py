"""Leases and deadlines: what lapses, what prolongs, what comes too late, and when a worker is told to stop."""

from __future__ import annotations

import pytest

from gnexec.core.events import AttemptsLapsed, AttemptState, LeaseExtended
from tests.web.sites import Site, check_problem
from tests.web.volunteers import claims_of, volunteer

pytestmark = pytest.mark.anyio
LEASE_S = 60
GRACE_S = 20


async def outcomes(site: Site) -> list[AttemptState]:
    """Return how attempts ended that nobody answered for."""
    return [end.outcome for event in await site.events() if isinstance(event, AttemptsLapsed) for end in event.ends]


async def test_token_ends_at_the_hard_deadline_and_the_lease_before_it(secured: Site) -> None:
    """The token's `exp` is the wall time asked for and the grace; the lease is shorter, and lives in the log."""
    await secured.submit(needs={"wall_s": 600})
    taken = await (await volunteer(secured)).take()
    now = secured.clock.wall()
    assert taken.work["deadline_s"] == claims_of(taken.token)["exp"] == now // 1000 + 600 + GRACE_S
    assert taken.work["lease_until"] == now + 1000 * LEASE_S


async def test_lapsed_lease_gives_the_job_to_the_next_with_a_new_attempt_number(secured: Site) -> None:
    """Attempt 2 goes out under another token; what attempt 1 still says is too late, whatever it says."""
    await secured.submit()
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    old = await ann.take()
    await ann.tell(old, progress=0.1)
    assert (await bob.ask()).status_code == 204
    await secured.pass_s(LEASE_S + 1)
    new = await bob.take()
    assert (new.job, new.work["attempt"]) == (old.job, 2)
    assert await outcomes(secured) == [AttemptState.ABANDONED]
    before = await secured.size()
    check_problem(await ann.tell(old, progress=0.9), "too_late")
    assert await secured.size() == before
    check_problem(await ann.finish(old), "too_late")
    assert (await bob.finish(new)).json()["verdict"] == "valid"


async def test_progress_extends_the_lease_only_when_less_than_half_remains(secured: Site) -> None:
    """Early progress is noted in memory alone: the log is not written at every heartbeat."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    until = taken.work["lease_until"]
    assert (await ann.tell(taken, progress=0.1)).json()["lease_until"] == until
    before = await secured.size()
    await secured.pass_s(28)
    assert (await ann.tell(taken, progress=0.2)).json()["lease_until"] == until
    assert await secured.size() == before
    await secured.pass_s(4)
    longer = (await ann.tell(taken, progress=0.3)).json()["lease_until"]
    assert longer == secured.clock.wall() + 1000 * LEASE_S
    assert await secured.size() == before + 1


@pytest.mark.parametrize(
    "body",
    [{}, {"progress": 0.1}, {"usage": {"cpu_ms": 5}}, {"stdout": "a"}],
    ids=["none", "progress", "cpu", "stdout"],
)
async def test_heartbeat_without_progress_does_not_extend_the_lease(secured: Site, body: dict[str, object]) -> None:
    """A job that hangs says the same for ever; its lease runs out."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    await ann.tell(taken, progress=0.1, usage={"cpu_ms": 5}, stdout="a", stdout_offset=0)
    await secured.pass_s(40)
    assert (await ann.tell(taken, **body)).json()["lease_until"] == taken.work["lease_until"]
    await secured.pass_s(LEASE_S - 40 + 1)
    check_problem(await ann.tell(taken, **body), "too_late")


@pytest.mark.parametrize(
    "body",
    [{"progress": 0.2}, {"usage": {"cpu_ms": 6}}, {"stdout": "b", "stdout_offset": 1}],
    ids=["progress", "cpu", "stdout"],
)
async def test_any_real_progress_extends_the_lease(secured: Site, body: dict[str, object]) -> None:
    """More progress, more processor time or more output: each shows that the job lives."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    await ann.tell(taken, progress=0.1, usage={"cpu_ms": 5}, stdout="a", stdout_offset=0)
    await secured.pass_s(40)
    told = (await ann.tell(taken, **body)).json()
    assert told["lease_until"] == secured.clock.wall() + 1000 * LEASE_S


async def test_lease_is_never_extended_beyond_the_hard_deadline(secured: Site) -> None:
    """However much progress a job makes, its attempt ends at `exp`: expired, not abandoned."""
    await secured.submit(needs={"wall_s": 100})
    ann = await volunteer(secured)
    taken = await ann.take()
    exp_ms = 1000 * claims_of(taken.token)["exp"]
    progress = 0.0
    while secured.clock.wall() < exp_ms - 10_000:
        progress += 0.01
        told = await ann.tell(taken, progress=progress)
        assert told.json()["lease_until"] <= exp_ms
        await secured.pass_s(10)
    assert (await ann.tell(taken, progress=0.99)).json()["lease_until"] == exp_ms
    await secured.pass_s(12)
    check_problem(await ann.tell(taken, progress=1.0), "too_late")
    check_problem(await ann.put(taken, ann.statement(taken, ann.answer(taken).result)), "too_late")
    assert await outcomes(secured) == [AttemptState.EXPIRED]


async def test_untrue_output_place_stays_within_what_every_reader_keeps(secured: Site) -> None:
    """A lie of 2^53 bytes is cut to the largest exact integer; nothing larger enters the log."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    told = await ann.tell(taken, stdout="abc", stdout_offset=2**53 - 1)
    assert told.status_code == 200
    noted = [event.effort.stdout_bytes for event in await secured.events() if isinstance(event, LeaseExtended)]
    assert noted == [2**53 - 1]


async def test_worker_is_told_to_stop_when_its_job_is_cancelled(secured: Site) -> None:
    """And what it then sends is not needed, but no fault of its."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    assert (await ann.tell(taken, progress=0.1)).json()["directive"] == "continue"
    await secured.http.post("/v1/jobs/1:cancel", headers=secured.person())
    told = (await ann.tell(taken, progress=0.2)).json()
    assert (told["directive"], told["reason"]) == ("stop", "cancelled")
    assert (await ann.finish(taken)).json()["verdict"] == "unneeded"


async def test_second_replica_is_told_to_stop_when_the_first_has_decided(secured: Site) -> None:
    """Nobody computes what is known."""
    await secured.submit(redundancy={"replicas": 2, "quorum": 1})
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    fast, slow = await ann.take(), await bob.take()
    await bob.tell(slow, progress=0.5)
    await ann.finish(fast)
    assert (await bob.tell(slow, progress=0.6)).json()["directive"] == "stop"
    assert (await bob.finish(slow)).json()["verdict"] == "unneeded"


async def test_replica_that_stays_silent_after_the_decision_is_not_blamed(secured: Site) -> None:
    """Its lease lapses as unneeded."""
    await secured.submit(redundancy={"replicas": 2, "quorum": 1})
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    fast, slow = await ann.take(), await bob.take()
    await bob.tell(slow, progress=0.5)
    await ann.finish(fast)
    await secured.pass_s(LEASE_S + 1)
    assert await outcomes(secured) == [AttemptState.UNNEEDED]


async def test_job_fails_when_its_attempts_are_used_up(secured: Site) -> None:
    """A worker that falls silent after it was heard of uses up the budget."""
    job = await secured.submit(redundancy={"max_attempts": 2})
    ann = await volunteer(secured)
    for _ in range(2):
        await ann.tell(await ann.take(), progress=0.1)
        await secured.pass_s(LEASE_S + 1)
    shown = (await secured.http.get(f"/v1/jobs/{job}", headers=secured.person())).json()
    assert (shown["state"], shown["reason"]) == ("failed", "attempts")
    assert (await ann.ask()).status_code == 204


async def test_one_deadline_and_one_lease_hold_for_all_attempts_of_a_hand_out(secured: Site) -> None:
    """Progress of one job keeps the whole hand-out."""
    for word in "ab":
        await secured.submit(argv=[word], needs={"wall_s": 100})
    ann = await volunteer(secured)
    told = (await ann.ask(n=2)).json()
    now_s = secured.clock.wall() // 1000
    assert {work["deadline_s"] for work in told["jobs"]} == {now_s + 2 * 100 + GRACE_S}
    headers = {"Authorization": f"Bearer {told['token']}"}
    await secured.pass_s(40)
    reply = await secured.http.put("/jobs/1/status", json={"progress": 0.5}, headers=headers)
    assert reply.json()["lease_until"] == secured.clock.wall() + 1000 * LEASE_S
    await secured.pass_s(40)
    assert (await secured.http.put("/jobs/2/status", json={}, headers=headers)).json()["directive"] == "continue"


async def test_more_jobs_than_the_quota_are_not_handed_to_one_worker(secured: Site) -> None:
    """`n` is a wish; it never exceeds 64."""
    await secured.submit()
    ann = await volunteer(secured)
    for n in ("0", "65", "-1", "x", "1e1", "", "9" * 5000):
        check_problem(await ann.ask(n=n), "invalid")
    assert len((await ann.ask(n=64)).json()["jobs"]) == 1
