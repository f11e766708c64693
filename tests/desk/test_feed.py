"""Who waits is told: watchers of a job, and those who wait for work, oldest first."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from gnexec.core.events import AnyEvent, NewJob, OwnerWithdrew, Submitted
from gnexec.core.terms import Needs, Redundancy, Terms
from gnexec.desk.feed import Feed, Signal
from tests.core.scene import POLICY
from tests.desk.house import run


def about(*jobs: int) -> list[AnyEvent]:
    """Return an event that tells of jobs."""
    return [OwnerWithdrew(owner="olga", jobs=list(jobs))]


def new_jobs(count: int, replicas: int = 1) -> list[AnyEvent]:
    """Return an event that brings jobs."""
    terms = Terms(program="", needs=Needs(), redundancy=Redundancy(replicas=replicas))
    rows = [NewJob("", "", 0)] * count
    return [Submitted(first=1, owner="o", project="p", key=None, body="", terms=[terms], jobs=rows, joined=[])]


async def settle() -> None:
    """Let the loop run what was handed to it."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


def test_feed_wakes_the_watchers_of_the_jobs_concerned() -> None:
    """Everybody who watches a job is woken by what is committed about it, and by nothing else."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with feed.watching(1) as first, feed.watching(1) as second, feed.watching(2) as other:
            feed.publish(about(1, 3), 0)
            await settle()
            assert [first.is_set(), second.is_set(), other.is_set()] == [True, True, False]
        async with feed.watching(1) as late:
            feed.publish([POLICY], 0)
            await settle()
            assert not late.is_set()

    run(main())


def test_feed_wakes_as_many_idle_as_there_is_work_the_oldest_first() -> None:
    """Two jobs wake the two who have waited longest; the next job wakes the next."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(feed.idling()) for _ in range(4)]
            feed.publish(new_jobs(2), 2)
            await settle()
            assert [event.is_set() for event in idle] == [True, True, False, False]
            feed.publish(new_jobs(1), 3)
            await settle()
            assert [event.is_set() for event in idle] == [True, True, True, False]
            feed.publish(about(1), 3)
            await settle()
            assert not idle[3].is_set()
            assert feed.ready == 3

    run(main())


def test_feed_woken_one_that_leaves_wakes_the_next() -> None:
    """Who was woken and leaves, with work or without, passes the word on; who was not, does not."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(feed.idling())
            async with feed.idling() as quiet:
                assert not quiet.is_set()
            async with feed.idling() as woken:
                third = await stack.enter_async_context(feed.idling())
                woken.set()
            assert [first.is_set(), third.is_set()] == [False, True]

    run(main())


def test_feed_does_not_ping_pong_when_nobody_can_use_the_work() -> None:
    """Each idle one is woken once for work that suits none of them; waiting on wakes nobody."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        looked = [0, 0, 0]

        async def waiter(which: int) -> None:
            async with feed.idling() as event:
                while True:
                    await event.wait()
                    event.clear()
                    looked[which] += 1  # Asks the desk, finds nothing for itself, and ...
                    feed.pass_on(event)  # ... lets the next one look, before it waits on.

        tasks = [asyncio.create_task(waiter(which)) for which in range(3)]
        await settle()
        feed.publish(new_jobs(1), 1)
        for _ in range(50):
            await settle()
        assert looked == [1, 1, 1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


def test_feed_wakes_one_for_each_replica_and_each_wanted_attempt() -> None:
    """Two replicas of a job wake two; one who wants four at a time stands for four."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(feed.idling(n=n)) for n in (1, 4, 1, 1)]
            feed.publish(new_jobs(1, replicas=2), 1)
            await settle()
            assert [call.is_set() for call in idle] == [True, True, False, False]
            for call in idle:
                call.clear()
            feed.publish(new_jobs(5), 6)
            await settle()
            assert [call.is_set() for call in idle] == [True, True, False, False]

    run(main())


def test_feed_leaves_out_those_for_whom_there_is_no_hope() -> None:
    """Of a kind, one looks in vain for all; the next of another kind is woken, also behind many."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with AsyncExitStack() as stack:
            kinds = ["ann"] * 100 + ["bob", "ann", "bob"]
            idle = [await stack.enter_async_context(feed.idling(kind)) for kind in kinds]
            feed.publish(new_jobs(1), 1)
            await settle()
            for looks in (0, 100):
                assert [i for i, call in enumerate(idle) if call.is_set()] == [looks]
                idle[looks].clear()
                feed.pass_on(idle[looks], idle[looks].kind)
            assert not any(call.is_set() for call in idle)
            feed.publish(new_jobs(1), 2)
            await settle()
            assert idle[0].is_set(), "new work is a new round"

    run(main())


def test_feed_wakes_everybody_when_the_server_closes() -> None:
    """At a shutdown nobody waits on."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with feed.idling() as idle, feed.watching(1) as watching:
            feed.wake_all()
            assert idle.is_set()
            assert watching.is_set()
            assert feed.closing

    run(main())


def test_feed_that_missed_much_wakes_everybody_once() -> None:
    """Who watches anything, and who waits for work if there is any, looks again; waiting is not over."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(feed.idling(n=3)) for _ in range(4)]
            watching = [await stack.enter_async_context(feed.watching(job)) for job in (1, 2)]
            turn = feed.turn(2)
            feed.missed(0)
            await settle()
            assert [signal.is_set() for signal in (*watching, *idle)] == [True, True, False, False, False, False]
            assert feed.turn(2) != turn
            feed.missed(2)
            await settle()
            assert all(call.is_set() for call in idle)
            assert (feed.ready, feed.closing) == (2, False)
            for call in idle:
                call.clear()
            for call in idle:
                feed.pass_on(call)
            assert not any(call.is_set() for call in idle), "all of them were asked already"

    run(main())


def test_feed_of_a_closed_loop_is_no_trouble_to_the_writer() -> None:
    """Whoever waited in a loop that is gone is not told, and the one who tells goes on."""

    async def main() -> Feed:
        feed = Feed(asyncio.get_running_loop())
        feed._watchers[1] = {Signal()}
        return feed

    run(main()).publish(about(1), 1)


def test_feed_forgets_those_who_left() -> None:
    """No record is kept of anybody who waits no longer."""

    async def main() -> None:
        feed = Feed(asyncio.get_running_loop())
        async with feed.idling(), feed.watching(1), feed.watching(1):
            pass
        assert not feed._watchers
        assert not feed._idle

    run(main())
