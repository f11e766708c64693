"""Slots: what runs together never takes more than is offered, and nobody is passed over."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.core.events import Offer
from gnexec.core.terms import Needs
from gnexec.worker.slots import Slots

OFFER = Offer(cores=4, memory_bytes=1000, disk_bytes=1000)
NEEDS = st.builds(Needs, cores=st.integers(1, 4), memory_bytes=st.integers(1, 1000), disk_bytes=st.integers(1, 1000))


@given(st.lists(st.tuples(NEEDS, st.integers(0, 3), st.booleans()), max_size=20))
def test_jobs_together_never_take_more_than_is_offered(jobs: list[tuple[Needs, int, bool]]) -> None:
    """Whatever comes, stays and is cancelled: sums stay within the offer, the order is kept, nothing is lost."""
    slots, running, began = Slots(20, OFFER), list[Needs](), list[int]()

    async def job(number: int, needs: Needs, turns: int) -> None:
        await slots.take(needs)
        began.append(number)
        running.append(needs)
        for field in ("cores", "memory_bytes", "disk_bytes"):
            assert sum(getattr(one, field) for one in running) <= getattr(OFFER, field)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            running.remove(needs)
            slots.give(needs)

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(job(number, *rest[:2])) for number, rest in enumerate(jobs)]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, jobs, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number, task in enumerate(tasks) if not task.cancelled() and number not in began] == []
        await asyncio.wait_for(slots.take(Needs(cores=4, memory_bytes=1000, disk_bytes=1000)), 5)

    asyncio.run(all_of_them())
    assert began == sorted(began)


def test_large_job_is_not_passed_over_by_small_ones() -> None:
    """First come, first served: a job that waits for the whole machine gets it before those that came later."""

    async def scene() -> list[str]:
        slots, order = Slots(4, OFFER), list[str]()

        async def job(name: str, cores: int) -> None:
            await slots.take(Needs(cores=cores, memory_bytes=1, disk_bytes=1))
            order.append(name)

        await job("first", 1)
        later = [asyncio.create_task(job("large", 4)), asyncio.create_task(job("small", 1))]
        await asyncio.sleep(0)
        assert order == ["first"]
        slots.give(Needs(cores=1, memory_bytes=1, disk_bytes=1))
        await later[0]
        slots.give(Needs(cores=4, memory_bytes=1, disk_bytes=1))
        await later[1]
        return order

    assert asyncio.run(scene()) == ["first", "large", "small"]


def test_job_that_never_fits_is_refused_at_once() -> None:
    """Waiting would be for ever: the need is named."""
    with pytest.raises(ValueError, match="memory_bytes"):
        asyncio.run(Slots(1, OFFER).take(Needs(memory_bytes=1001, disk_bytes=1)))
