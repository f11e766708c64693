"""The crowd: scripted submitters and volunteers, and one who collects checkpoints, in an event loop of their own.

Half of them go through a proxy that loses replies and cuts connections, the others directly to the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread
from typing import Any

import httpx2

from gnexec.tokens.issued import Scope
from tests.serving import Server
from tests.torture.line import Line
from tests.torture.record import Record
from tests.torture.submitters import Submitter
from tests.torture.volunteers import Volunteer
from tests.worker.agents import until

SUBMITTERS = 2
VOLUNTEERS = 4
OWNERS = 3
"""Accounts that the volunteers are of."""
END_S = 240.0
"""How long all may take to come to an end when nobody is killed any more."""
SHOWN = ("", "/attempts", "/explain")


class Crowd:
    """Scripted clients of one server.

    Attributes:
        record: what they were told.
    """

    def __init__(self, server: Server, proxy_url: str, seed: str) -> None:
        """Prepare; nothing is sent.

        Args:
            server: issues their access tokens.
            proxy_url: another way to it.
            seed: of all their choices.
        """
        self.record = Record()
        cancelling: set[int] = set()
        urls = (server.url, proxy_url)
        self._people = [
            Submitter(
                Line(urls[i % 2], self.record, cancelling),
                f"s{i}",
                server.access_token("submitter", Scope.SUBMIT, Scope.READ, for_s=86_400),
                random.Random(f"{seed}/submitter/{i}"),  # noqa: S311 -- a seed that can be told
            )
            for i in range(SUBMITTERS)
        ]
        self._volunteers = [
            Volunteer(
                Line(urls[i % 2], self.record, cancelling),
                f"owner{i % OWNERS}",
                server.access_token(f"owner{i % OWNERS}", Scope.ENROL, for_s=86_400),
                random.Random(f"{seed}/volunteer/{i}"),  # noqa: S311 -- as above
            )
            for i in range(VOLUNTEERS)
        ]
        self._observer = Line(server.url, self.record, cancelling)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="crowd", daemon=True)
        self._enough = asyncio.Event()
        self._done = asyncio.Event()
        self._running: list[Future[None]] = []

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._running = [
            *(self._run(self._hand_in(one)) for one in self._people),
            *(self._run(self._volunteer(one)) for one in self._volunteers),
            self._run(self._observe()),
        ]

    def check(self) -> None:
        """Raise what one of them has found wrong."""
        for one in self._running:
            if one.done():
                one.result()

    def moves(self, count: int) -> None:
        """Wait until so many more replies were acknowledged."""
        goal = self.record.acknowledged + count

        def moved() -> bool:
            self.check()
            return self.record.acknowledged >= goal

        until(moved, f"{count} more acknowledged replies", lambda: str(self.record.counts))

    def finish(self) -> None:
        """Hand in no more; wait until all is decided, then let the volunteers go."""
        self._loop.call_soon_threadsafe(self._enough.set)
        self._wait(self._running[: len(self._people)])
        self._loop.call_soon_threadsafe(self._done.set)
        self._wait(self._running)

    def _wait(self, some: list[Future[None]]) -> None:
        """Wait until some have come to their ends; what any of them has found wrong is raised at once."""
        give_up = time.monotonic() + END_S
        while wait(some, timeout=0.1).not_done:
            self.check()
            assert time.monotonic() < give_up, self._undecided()
        self.check()

    def _undecided(self) -> str:
        """Say which jobs are not decided, and what became of the first one's attempts."""
        record, one = self.record, self._people[0]
        jobs = sorted(record.jobs.keys() - record.decided.keys())
        if not jobs:
            return "all jobs are decided, and yet somebody is busy"
        headers = {"Authorization": f"Bearer {one.token}"}
        told = [httpx2.get(f"{one.line.url}/v1/jobs/{jobs[0]}{part}", headers=headers).text for part in SHOWN]
        return "\n".join([f"these jobs were not decided: {jobs}", *told])

    def again(self) -> None:
        """Ask again for all that was acknowledged: jobs, submissions under their keys, files."""

        async def ask() -> None:
            for one in self._people:
                for key in one.bodies:
                    assert await one._send(key) == self.record.submissions[key], "one key, two answers"
                for job in one.mine:
                    await one.view(job)
            for digest in self.record.blobs:
                await self._people[0].fetch(digest)

        self._run(ask()).result()

    def close(self) -> None:
        """End it, wherever it is."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            lines = [one.line for one in self._people] + [one.line for one in self._volunteers]
            for line in [self._observer, *lines]:
                await line.http.aclose()

        if self._thread.is_alive():
            with suppress(Exception):
                self._run(end()).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(what, self._loop)

    async def _hand_in(self, one: Submitter) -> None:
        while not self._enough.is_set():
            await one.act()
        await one.finish()

    async def _volunteer(self, one: Volunteer) -> None:
        await one.enrol()
        while await one.cycle() or not self._done.is_set():
            pass

    async def _observe(self) -> None:
        while not self._done.is_set():
            reply = await self._observer.call("GET", "/checkpoint")
            assert reply.status_code == 200, reply.text
            if reply.content not in self.record.checkpoints:
                self.record.checkpoints.add(reply.content)
                self.record.note("checkpoints")
            await asyncio.sleep(0.1)
