"""What the worker's tests share: a folder that a job's user can reach, real sandboxes, and one run to its end."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gnexec.worker import cgroup
from gnexec.worker.execute import Ended, Run, start
from gnexec.worker.limits import Limits
from gnexec.worker.sandbox import Kind, Sandbox, detect
from gnexec.worker.workdir import barrier, clear
from tests.requirements import missing, require


@dataclass(frozen=True)
class Result:
    """A run that is over, and what it wrote."""

    ended: Ended
    out: str
    err: str

    @property
    def text(self) -> str:
        """The outcome in words."""
        return self.ended.outcome.text


@dataclass(frozen=True)
class Bench:
    """A place to run commands in one kind of sandbox."""

    folder: Path
    sandbox: Sandbox
    python: str

    @property
    def work(self) -> Path:
        """The work directory."""
        return self.folder / "work"

    @property
    def out(self) -> Path:
        """The file of standard output."""
        return self.folder / "stdout"

    async def start(self, argv: Sequence[str], limits: Limits | None = None, **more: int) -> Run:
        """Start a command."""
        limits = limits or Limits(wall_s=60)
        return await start(argv, self.work, {}, limits, self.sandbox, self.out, self.folder / "stderr", **more)

    def run(
        self, argv: Sequence[str], limits: Limits | None = None, env: Mapping[str, str] | None = None, **more: int
    ) -> Result:
        """Run a command to its end."""

        async def whole() -> Ended:
            err = self.folder / "stderr"
            limit = limits or Limits(wall_s=60)
            return await (await start(argv, self.work, env or {}, limit, self.sandbox, self.out, err, **more)).wait()

        ended = asyncio.run(whole())
        return Result(ended, self.out.read_text(), (self.folder / "stderr").read_text())

    def sh(self, script: str, limits: Limits | None = None, **more: int) -> Result:
        """Run a shell script to its end."""
        return self.run(["/bin/sh", "-c", script], limits, {}, **more)

    def py(self, code: str, *args: str, limits: Limits | None = None) -> Result:
        """Run a Python program to its end."""
        return self.run([self.python, "-I", "-c", code, *args], limits)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder outside pytest's own, which only pytest's user may enter."""
    path = Path(tempfile.mkdtemp(prefix="gnexec-test-"))
    path.chmod(0o755)
    (path / "work").mkdir()
    yield path
    clear(path)


def _bench(folder: Path, kind: Kind) -> Bench:
    python = "/usr/bin/python3"
    readable: tuple[Path, ...] = ()
    if not Path(python).exists():
        python, readable = sys.executable, (Path(sys.base_prefix), Path(sys.prefix))
    sandbox = Sandbox(kind, readable)
    if readable and sandbox.identity and any(barrier(path, sandbox.identity) for path in readable):
        missing("python3 is not installed where every user may read it: apt-get install python3")
    if kind is Kind.BUBBLEWRAP:
        require("bwrap", "bubblewrap")
        found = detect(sandbox)
        if not found.ok:
            missing(f"{found.reason} {found.mend}")
    return Bench(folder, sandbox, python)


@pytest.fixture
def caged(folder: Path) -> Bench:
    """A bench in bubblewrap."""
    return _bench(folder, Kind.BUBBLEWRAP)


@pytest.fixture
def loose(folder: Path) -> Bench:
    """A bench without a sandbox: where an attack succeeds, to show that it is one."""
    return _bench(folder, Kind.PLAIN)


@pytest.fixture(params=list(Kind))
def bench(request: pytest.FixtureRequest, folder: Path) -> Bench:
    """A bench in each kind of sandbox."""
    return _bench(folder, request.param)


@pytest.fixture(params=["kernel", "poll"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Limits held by a control group where one may be made, and by the poll alone where none may."""
    if request.param == "poll":
        monkeypatch.setattr(cgroup, "own_groups", dict)
    return str(request.param)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for a minute at most."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another process changes it, which sets no event here
            await asyncio.sleep(0.01)


@pytest.fixture
def survivors() -> Callable[[str], list[int]]:
    """Find living processes that have a word on their command line."""

    def find(word: str) -> list[int]:
        return [
            process.pid
            for process in psutil.process_iter(["cmdline", "status"])
            if word in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    return find
