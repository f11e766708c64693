"""beanstalkd with its write-ahead log flushed at each command (-f0): eight clients put, then reserve and delete.

A task here is put, reserved and deleted; there is no such thing as a result.

Source: https://raw.githubusercontent.com/beanstalkd/beanstalkd/master/doc/protocol.txt
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.peers.peer import Peer, Run, need_command, running, until

CLIENTS = 8


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Start the server."""
    command, socket = need_command("beanstalkd", "beanstalkd"), folder / "beanstalkd.sock"
    with (
        running([command, "-l", f"unix:{socket}", "-b", str(folder), "-f0"], folder),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        until(socket.exists, "beanstalkd starts")
        yield lambda tasks: runner.run(_run(socket, tasks))


async def _run(socket: Path, tasks: int) -> None:
    share, more = divmod(tasks, CLIENTS)
    shares = [share + (client < more) for client in range(CLIENTS)]
    links = [await asyncio.open_unix_connection(str(socket)) for _ in shares]
    await asyncio.gather(*(_put(*link, count) for link, count in zip(links, shares, strict=True)))
    await asyncio.gather(*(_work(*link, count) for link, count in zip(links, shares, strict=True)))
    for _, writer in links:
        writer.close()


async def _put(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> None:
    for _ in range(count):
        writer.write(b"put 0 0 60 4\r\ntrue\r\n")
        _expect(await reader.readline(), b"INSERTED ")


async def _work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> None:
    for _ in range(count):
        writer.write(b"reserve\r\n")
        head = await reader.readline()
        _expect(head, b"RESERVED ")
        await reader.readexactly(int(head.split()[2]) + 2)
        writer.write(b"delete %s\r\n" % head.split()[1])
        _expect(await reader.readline(), b"DELETED")


def _expect(said: bytes, wanted: bytes) -> None:
    if not said.startswith(wanted):
        raise ConnectionError(said.decode("ascii", "replace"))


PEER = Peer("beanstalkd", "8 clients; fsync at each command (-f0)", 4_000, opened)
