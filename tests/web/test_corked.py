"""Head and body of a reply leave together, and nothing that is written is lost or turned round."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnexec.web.corked import Corked

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recorder:
    """Stands where the kernel's socket would be: notes each call that would be a system call."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        """Note what is sent."""
        self.calls.append(data)

    def close(self) -> None:
        """Note the end."""
        self.calls.append("close")

    def abort(self) -> None:
        """Note the end."""
        self.calls.append("abort")

    def is_closing(self) -> bool:
        """Tell that it goes on."""
        return False

    def get_extra_info(self, name: str) -> str:
        """Give back what is asked for."""
        return name


def corked(recorder: Recorder) -> Corked:
    """Cork a recorder in the running loop."""
    transport: Any = recorder
    return Corked(transport, asyncio.get_running_loop())


@pytest.mark.anyio
async def test_head_and_body_are_one_write() -> None:
    """What is written in one go leaves in one go."""
    recorder = Recorder()
    transport = corked(recorder)
    transport.write(HEAD)
    transport.write(b"body")
    assert recorder.calls == [HEAD + b"body"]
    await asyncio.sleep(0)
    assert recorder.calls == [HEAD + b"body"]


@pytest.mark.anyio
async def test_head_without_a_body_leaves_at_the_next_turn() -> None:
    """A stream's head does not wait for its first event."""
    recorder = Recorder()
    corked(recorder).write(HEAD)
    assert recorder.calls == []
    await asyncio.sleep(0)
    assert recorder.calls == [HEAD]


@pytest.mark.anyio
async def test_close_sends_what_waits_and_abort_does_not() -> None:
    """An orderly end loses nothing; an abort is one."""
    for end, calls in (("close", [HEAD, "close"]), ("abort", ["abort"])):
        recorder = Recorder()
        transport = corked(recorder)
        transport.write(HEAD)
        getattr(transport, end)()
        await asyncio.sleep(0)
        assert recorder.calls == calls


@pytest.mark.anyio
async def test_everything_else_goes_straight_through() -> None:
    """Whoever asks the transport for something else gets its answer."""
    assert corked(Recorder()).get_extra_info("peername") == "peername"


@given(st.lists(st.one_of(st.just(HEAD), st.binary(max_size=9), st.just(b"x" * 70_000), st.none()), max_size=12))
def test_whatever_is_written_arrives_whole_and_in_order(writes: list[bytes | None]) -> None:
    """Any mixture of heads, bodies and turns of the loop (None) gives the same stream of bytes."""

    async def run() -> bytes:
        recorder = Recorder()
        transport = corked(recorder)
        for data in writes:
            if data is None:
                await asyncio.sleep(0)
            else:
                transport.write(data)
        transport.close()
        assert recorder.calls.pop() == "close"
        return b"".join(each for each in recorder.calls if isinstance(each, bytes))

    assert asyncio.run(run()) == b"".join(data for data in writes if data is not None)
