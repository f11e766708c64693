"""Random bytes that are drawn in blocks are as many as asked for, and never the same twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gnexec.desk.draws import BLOCK_BYTES, draw


def test_draws_have_the_length_asked_for() -> None:
    """None, a few, and more than a block."""
    assert [len(draw(count)) for count in (0, 1, 16, BLOCK_BYTES, 3 * BLOCK_BYTES + 1)] == [
        *(0, 1, 16),
        *(BLOCK_BYTES, 3 * BLOCK_BYTES + 1),
    ]


def test_draws_of_many_threads_never_repeat() -> None:
    """A salt or an id that came twice would tell two things apart no more."""
    with ThreadPoolExecutor(4) as pool:
        drawn = [each for some in pool.map(lambda _: [draw(16) for _ in range(5_000)], range(4)) for each in some]
    assert len(set(drawn)) == len(drawn) == 20_000
