"""Running one command to its end: outcomes, limits, stopping, logs."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gnexec.worker import cgroup
from gnexec.worker.execute import outcome_of
from gnexec.worker.limits import MIB, Limits
from gnexec.worker.sandbox import Kind, Sandbox, SandboxUnavailable
from tests.requirements import require
from tests.worker.conftest import Bench, until


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("true", "success"),
        ("exit 3", "failure (exit 3)"),
        ("exit 255", "failure (exit 255)"),
        ("kill -SEGV $$", "failure (SIGSEGV)"),
        ("kill -KILL $$", "failure (SIGKILL)"),
        ("kill -ABRT $$", "failure (SIGABRT)"),
        ("no-such-command", "failure (exit 127)"),
    ],
)
def test_outcome_of_a_script_is_said_in_words(bench: Bench, script: str, text: str) -> None:
    """The same end has the same name in every kind of sandbox."""
    assert bench.sh(script).text == text


def test_command_that_does_not_exist_is_the_jobs_failure(bench: Bench) -> None:
    """A command that cannot be found is a failure of the job, never of the sandbox."""
    assert bench.run(["/no/such/command"]).text == "failure (exit 127)"


def test_arguments_reach_the_command_unchanged(bench: Bench) -> None:
    """No shell looks at the arguments."""
    words = ["a b", "$HOME", "'", '"', "*", "", "-n", "\n", "ü"]
    code = "import sys\nprint(ascii(sys.argv[1:]))"
    assert bench.py(code, *words).out == ascii(words) + "\n"


def test_environment_is_what_was_asked_for(bench: Bench) -> None:
    """The job's own variables are set, and outrank the defaults."""
    result = bench.run(["/bin/sh", "-c", 'echo "$SEED $LANG $OMP_NUM_THREADS"'], None, {"SEED": "4 2", "LANG": "C"})
    assert result.out == "4 2 C 1\n"


@pytest.mark.parametrize("argv", [[], ["echo", "a\0b"]])
def test_start_with_an_impossible_command_is_refused(bench: Bench, argv: list[str]) -> None:
    """A command without a word, or with a NUL in one, is refused before anything is made."""
    with pytest.raises(ValueError, match="at least one word"):
        bench.run(argv)
    assert not bench.out.exists()


@pytest.mark.parametrize("name", ["", "A=B"])
def test_start_with_an_impossible_variable_is_refused(bench: Bench, name: str) -> None:
    """A variable whose name cannot be one is refused before anything is made."""
    with pytest.raises(ValueError, match="environment variable"):
        bench.run(["true"], None, {name: "x"})


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "success"),
        (1, "failure (exit 1)"),
        (-signal.SIGSEGV, "failure (SIGSEGV)"),
        (128 + signal.SIGSEGV, "failure (SIGSEGV)"),
        (128 + signal.SIGTERM, "failure (SIGTERM)"),
        (128, "failure (exit 128)"),
        (128 + signal.SIGCHLD, f"failure (exit {128 + signal.SIGCHLD})"),
        (128 + signal.SIGXCPU, "limit (cpu)"),
        (-signal.SIGXFSZ, "limit (disk)"),
        (255, "failure (exit 255)"),
        (-99, "failure (SIG99)"),
    ],
)
def test_exit_code_is_read_as_shells_write_it(code: int, text: str) -> None:
    """128 + n means signal n only where n is a signal that ends programs."""
    assert outcome_of(code).text == text


def test_wall_limit_ends_a_sleeper(bench: Bench, watched: str) -> None:
    """Time on the wall counts, used or not."""
    assert bench.sh("sleep 3600", Limits(wall_s=0.3)).text == "limit (wall)", watched


def test_cpu_limit_counts_the_whole_tree(bench: Bench, watched: str) -> None:
    """Processor time is summed over processes, none of which exceeds the limit alone."""
    script = "for i in 1 2 3 4; do (while :; do :; done) & done; wait"
    result = bench.sh(script, Limits(cpu_s=1, wall_s=60, cores=2))
    assert result.text == "limit (cpu)", watched
    assert result.ended.usage.cpu_ms >= 1000


def test_cpu_used_by_children_that_have_ended_counts(bench: Bench, watched: str) -> None:
    """Processor time of ended children is not forgotten."""
    code = "import time\nwhile time.process_time() < 0.2: pass"
    result = bench.sh(f"for i in 1 2 3; do {bench.python} -I -c '{code}'; done")
    assert result.text == "success", watched
    assert result.ended.usage.cpu_ms >= 600


def test_memory_limit_counts_the_whole_tree(bench: Bench, watched: str) -> None:
    """Memory is summed over processes, none of which exceeds the limit alone."""
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        break
kept = bytearray(os.urandom(1) * (60 << 20))
time.sleep(3600)
"""
    assert bench.py(code, limits=Limits(memory_bytes=128 * MIB, wall_s=60)).text == "limit (memory)", watched


def test_memory_shared_by_forks_is_counted_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks that share their parent's pages do not exceed a limit that the pages themselves keep."""
    code = """
import os, time
kept = bytearray(b"x" * (60 << 20))
for _ in range(3):
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
for _ in range(3):
    os.wait()
"""
    monkeypatch.setattr("gnexec.worker.cgroup.own_groups", dict)
    result = bench.py(code, limits=Limits(memory_bytes=128 * MIB, wall_s=60))
    assert result.text == "success"
    assert result.ended.usage.peak_rss_bytes > 60 * MIB


def test_process_limit_counts_threads(bench: Bench, watched: str) -> None:
    """Threads are tasks like processes."""
    code = """
import threading, time
for _ in range(40):
    try:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    except RuntimeError:
        pass
time.sleep(3600)
"""
    assert bench.py(code, limits=Limits(processes=8, wall_s=60)).text == "limit (processes)", watched


def test_limits_on_files_and_core_are_set_inside(bench: Bench) -> None:
    """Open files are bounded, and no core is dumped."""
    assert bench.sh("ulimit -n; ulimit -c", Limits(files=99)).out.split() == ["99", "0"]


def test_job_has_the_lowest_priority(bench: Bench) -> None:
    """The machine's owner comes first."""
    assert bench.sh("nice").out == "19\n"


@pytest.mark.parametrize(
    "limits",
    [{"cores": 0}, {"memory_bytes": -1}, {"wall_s": float("nan")}, {"cpu_s": 0.0}, {"wall_s": float("inf")}],
)
def test_limits_that_nothing_can_run_under_are_refused(limits: dict[str, float]) -> None:
    """A limit is a positive, finite number."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)  # type: ignore[arg-type] # that is the point


async def _ready(bench: Bench) -> None:
    await until(lambda: bench.out.read_text().startswith("ready"))


def test_stop_lets_a_job_finish_within_its_grace(bench: Bench) -> None:
    """SIGTERM reaches every process of the job, and what it still says is kept."""

    async def scenario() -> str:
        run = await bench.start(
            ["/bin/sh", "-c", "trap 'sleep 0.5; echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"]
        )
        await _ready(bench)
        await run.stop("preempted", 60)
        return (await run.wait()).outcome.text

    assert asyncio.run(scenario()) == "limit (preempted)"
    assert bench.out.read_text() == "ready\nbye\n"


def test_stop_kills_a_job_that_ignores_sigterm(bench: Bench, survivors: Callable[[str], list[int]]) -> None:
    """After its grace a job is killed, and its children with it."""
    word = f"stubborn-{secrets.token_hex(8)}"
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print("ready", flush=True)
while True:
    time.sleep(3600)
"""

    async def scenario() -> str:
        run = await bench.start([bench.python, "-I", "-c", code, word])
        await _ready(bench)
        await run.stop("stopped", 0.2)
        return (await run.wait()).outcome.text

    assert asyncio.run(scenario()) == "limit (stopped)"
    assert survivors(word) == []


def test_stop_after_the_end_changes_nothing(bench: Bench) -> None:
    """A run that has ended keeps its outcome."""

    async def scenario() -> str:
        run = await bench.start(["/bin/sh", "-c", "exit 3"])
        first = await run.wait()
        await run.stop("stopped", 60)
        assert await run.wait() == first
        return first.outcome.text

    assert asyncio.run(scenario()) == "failure (exit 3)"


def test_stop_for_a_limit_is_refused(bench: Bench) -> None:
    """Only the watch may say that a limit was exceeded."""

    async def scenario() -> None:
        run = await bench.start(["/bin/sh", "-c", "exit 0"])
        with pytest.raises(ValueError, match="memory"):
            await run.stop("memory", 0)
        await run.wait()

    asyncio.run(scenario())


def test_wait_that_is_cancelled_does_not_touch_the_run(bench: Bench) -> None:
    """Who loses interest does not end the job."""

    async def scenario() -> str:
        run = await bench.start(["/bin/sh", "-c", "echo ready; read -r never </dev/zero; exit 4"])
        waiting = asyncio.create_task(run.wait())
        await _ready(bench)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await run.stop("stopped", 0)
        return (await run.wait()).outcome.text

    assert asyncio.run(scenario()) == "limit (stopped)"


def test_usage_is_seen_while_the_job_runs(bench: Bench, watched: str) -> None:
    """Processor time and memory are live."""

    async def scenario() -> None:
        run = await bench.start(["/bin/sh", "-c", "while :; do :; done"])
        await until(lambda: run.usage().cpu_ms >= 300 and run.usage().peak_rss_bytes > 0)
        assert run.usage().wall_ms > 0, watched
        await run.stop("stopped", 0)
        assert (await run.wait()).usage.cpu_ms >= 300

    asyncio.run(scenario())


def test_output_beyond_its_cap_is_cut_off_and_the_job_goes_on(bench: Bench) -> None:
    """The log ends with one line that says so; the job ends as it would have."""
    result = bench.sh("head -c 3000000 /dev/zero | tr '\\0' x; echo more >&2; exit 3", max_log_bytes=100_000)
    assert result.text == "failure (exit 3)"
    assert result.out == "x" * 100_000 + "\n[gnexec: cut off after 100000 bytes]\n"
    assert result.err == "more\n"


def test_output_that_fills_its_cap_exactly_is_whole(bench: Bench) -> None:
    """Nothing is said where nothing was cut off."""
    assert bench.sh("head -c 1000 /dev/zero | tr '\\0' x", max_log_bytes=1000).out == "x" * 1000


def test_output_is_there_while_the_job_runs(bench: Bench) -> None:
    """Who streams the log by offset sees it grow."""

    async def scenario() -> None:
        run = await bench.start(["/bin/sh", "-c", "echo ready; sleep 3600"])
        await _ready(bench)
        await run.stop("stopped", 0)
        await run.wait()

    asyncio.run(scenario())


def test_log_that_is_a_link_is_refused(bench: Bench) -> None:
    """A link in place of a log is not followed, and nothing runs."""
    victim = bench.folder / "victim"
    victim.write_text("precious")
    bench.out.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        bench.sh("touch ran")
    assert victim.read_text() == "precious"
    assert not (bench.work / "ran").exists()


def test_runs_side_by_side_do_not_mix(bench: Bench) -> None:
    """Several slots of one worker keep their outcomes and processes apart."""

    async def scenario() -> list[str]:
        runs = []
        for i in range(4):
            work = bench.folder / f"w{i}"
            work.mkdir()
            own = Bench(bench.folder / f"w{i}", bench.sandbox, bench.python)
            own.work.mkdir()
            runs.append(await own.start(["/bin/sh", "-c", f"setsid sleep 3600 & echo {i}; exit {i}"]))
        return [(await run.wait()).outcome.text for run in runs]

    assert asyncio.run(scenario()) == ["success", "failure (exit 1)", "failure (exit 2)", "failure (exit 3)"]
    assert [(bench.folder / f"w{i}/stdout").read_text() for i in range(4)] == ["0\n", "1\n", "2\n", "3\n"]


def test_worker_killed_takes_its_job_with_it(bench: Bench, survivors: Callable[[str], list[int]]) -> None:
    """A worker that is killed without warning leaves no job behind."""
    require("setpriv", "util-linux")
    word = f"orphan-{secrets.token_hex(8)}"
    code = f"""
import asyncio
from pathlib import Path
from gnexec.worker.execute import start
from gnexec.worker.limits import Limits
from gnexec.worker.sandbox import Kind, Sandbox

async def main():
    folder = Path({str(bench.folder)!r})
    argv = ["sh", "-c", "while :; do read -r line </dev/zero; done", {word!r}]
    sandbox = Sandbox(Kind({bench.sandbox.kind.value!r}))
    run = await start(argv, folder / "work", {{}}, Limits(), sandbox, folder / "stdout", folder / "stderr")
    print("ready", flush=True)
    await run.wait()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        job = [psutil.Process(pid) for pid in survivors(word)]
        worker.kill()
    assert job
    assert psutil.wait_procs(job, timeout=60)[1] == []
    assert survivors(word) == []
    group = cgroup.make("next", Limits())  # sweeps up what the worker that was killed has left
    if group:
        group.remove()
    assert [path for folder in cgroup.own_groups().values() for path in folder.glob(f"gnexec-{worker.pid}-*")] == []


def test_job_of_a_root_worker_is_not_root(bench: Bench) -> None:
    """Root's worker gives up root for its jobs, whatever the sandbox."""
    assert bench.sh("touch made; id -u").out.strip() != "0"
    assert (bench.work / "made").stat().st_uid == (
        bench.sandbox.identity.uid if bench.sandbox.identity else os.geteuid()
    )
    assert (bench.sandbox.identity is not None) == (os.geteuid() == 0)


def test_sandbox_that_fails_after_its_start_is_no_outcome(caged: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that breaks while it is set up gives the attempt back, with bubblewrap's own words."""
    monkeypatch.setattr("gnexec.worker.seccomp.program", lambda _machine: b"no filter")
    with pytest.raises(SandboxUnavailable, match="seccomp"):
        caged.sh("touch ran")
    assert not (caged.work / "ran").exists()


def test_sandbox_that_is_killed_from_outside_is_no_outcome(caged: Bench) -> None:
    """Where bubblewrap itself is killed, the job is not blamed."""

    async def scenario() -> None:
        run = await caged.start(["/bin/sh", "-c", "echo ready; sleep 3600"])
        await _ready(caged)
        os.kill(run._child.process.pid, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable, match="outside"):
            await run.wait()

    asyncio.run(scenario())


def test_without_bubblewrap_nothing_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing sandbox is an error that names the package, never a plain process."""
    monkeypatch.setenv("PATH", str(folder))
    bench = Bench(folder, Sandbox(Kind.BUBBLEWRAP), "python3")
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        bench.run(["/bin/sh", "-c", "touch ran"])
    assert not (bench.work / "ran").exists()
