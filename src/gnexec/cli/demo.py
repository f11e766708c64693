"""`gnexec demo`: real work over real processes on this machine, ending with a result that can be checked.

Rules:
- Whatever happens, no process is left: the first signal ends the demo in order, later ones cannot cut that short.
- The log is verified by `gnexec log verify` in a process of its own, over HTTP, with the public key alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from gnexec.cli.output import Json, json_line, line, out, say
from gnexec.demo.plan import Plan, Report, Stage
from gnexec.errors import BadConfiguration

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

    from gnexec.demo.fleet import Fleet
    from gnexec.demo.runner import Progress

app: Final = App(
    name="demo", help="Map a trait over real workers, and check the log.", default_parameter=Parameter(negative=())
)
TEXTS: Final = Path("/usr/share/common-licenses")
"""Texts that every Debian system has."""
Output = Annotated[Path, Parameter(name="--output", help="Folder for the files that the demo writes.")]
PlanMaker = Callable[[Path, str], Plan]
"""Makes a plan from a folder for generated inputs, and the interpreter as jobs see it."""
Tell = Callable[["Progress", Stage], None]
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@app.default
def mapping(*, output: Output = Path("demo-out"), json: Json = False) -> int:
    """Map a trait by a permutation test over a mouse panel made from a seed: 20 jobs, each run by two owners.

    It starts a server and two workers on this machine, hands the jobs in over HTTP, compares the signed results of both
    owners byte for byte, and verifies the server's log with nothing but its public key.
    """
    from gnexec.demo.plans import permutation_plan

    return _run(lambda folder, python: permutation_plan(folder, python=python), output, json=json)


@app.command
def gemma(*, traits: Path | None = None, output: Output = Path("demo-out"), json: Json = False) -> int:
    """Run GEMMA over the BXD mouse strains: kinship first, then the traits. Needs Debian's gemma and gemma-doc.

    Args:
        traits: File of traits to map, a column each, 198 lines; else the example trait and 20 permutations of it.
        output: see `Output`.
        json: see `Json`.
    """
    from gnexec.demo.gemma import find
    from gnexec.demo.plans import gemma_plan

    found = find()
    return _run(lambda folder, _: gemma_plan(folder, found, traits=traits), output, json=json)


@app.command
def words(folder: Path = TEXTS, *, output: Output = Path("demo-out"), json: Json = False) -> int:
    """Count the words in a folder of texts: the files are shared out, and a last job adds up.

    Args:
        folder: The texts.
        output: see `Output`.
        json: see `Json`.
    """
    from gnexec.demo.plans import words_plan

    return _run(lambda _, python: words_plan(folder, python=python), output, json=json)


@dataclass(frozen=True, slots=True)
class _Verified:
    """What became of the log's verification: what was found, or, where it failed, what was said instead."""

    found: dict[str, Any] | None
    said: str

    @property
    def ok(self) -> bool:
        return self.found is not None


def _run(make: PlanMaker, output: Path, *, json: bool) -> int:
    with _ending_in_order(), tempfile.TemporaryDirectory(prefix="gnexec-demo-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o755)  # Workers of root run jobs under another user, who must get through.
        report, progress, verified = _perform(make, home)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file, content in report.files.items():
            (output / file).write_bytes(content)
    except OSError as err:
        msg = f"The demo's files cannot be written to {output}: {err.strerror}. Name another folder with --output."
        raise BadConfiguration(msg) from err
    if json:
        promised = progress.promised_s
        times = {"taken_s": round(progress.taken_s, 1), "promised_s": None if promised is None else round(promised, 1)}
        json_line({**report.facts, **times, "log_verified": verified.ok, "log": verified.found})
    else:
        _print(report, progress, verified, [str(output / file) for file in report.files])
    return 0 if verified.ok else 1


def _perform(make: PlanMaker, home: Path) -> tuple[Report, Progress, _Verified]:
    from stamina.instrumentation import set_on_retry_hooks

    from gnexec.client import Client
    from gnexec.demo.fleet import OWNERS, fleet
    from gnexec.demo.runner import run_plan

    made = home / "inputs"
    made.mkdir()
    python, flags = _interpreter()
    plan = make(made, python)
    say(f"{plan.title}: {len(plan.jobs)} jobs, each by two owners.")
    with fleet(home, flags) as running:
        say(f"Server and log: {running.url}/")
        say(f"Workers: two, of the owners {' and '.join(OWNERS)}.")

        def tend(details: RetryDetails | None = None) -> None:  # noqa: ARG001 -- as stamina calls it
            for name in running.tend():
                say(f"{name} was killed, and is started again.", "yellow")

        set_on_retry_hooks(
            [tend]
        )  # a request that finds no server is tried again: the server may be one that was killed
        with Client(running.url, running.token) as client, _shown(plan) as show:

            def tell(progress: Progress, stage: Stage) -> None:
                tend()
                show(progress, stage)

            outputs, progress = run_plan(client, plan, tell)
        return plan.combine(outputs), progress, _verify(running, home)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let the first signal end the block as Ctrl-C does, and nothing disturb the clearing up after it."""
    ending = False

    def end(_: int, __: FrameType | None) -> None:
        nonlocal ending
        if not ending:
            ending = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interpreter() -> tuple[str, list[str]]:
    """Choose the interpreter that the sandbox can see, and the workers' flags."""
    from gnexec.worker.sandbox import Kind, Sandbox, detect, unprivileged

    system = shutil.which("python3", path="/usr/bin:/bin")
    python = system or str(Path(sys.executable).resolve())
    readable = () if system else (Path(sys.base_prefix).resolve(),)
    found = detect(Sandbox(Kind.BUBBLEWRAP, readable, unprivileged(None)))
    if found.ok:
        return python, [flag for path in readable for flag in ("--readable", str(path))]
    say(f"No sandbox here: {found.reason} {found.mend} The demo's own programs run without one.", "yellow")
    return python, ["--unsafe-no-sandbox"]


@contextmanager
def _shown(plan: Plan) -> Iterator[Tell]:
    """Show progress: a bar on a terminal, a line now and then elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from gnexec.cli.output import err

    if not err().is_terminal:
        yield _in_lines(len(plan.jobs))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[promise]}"),
    )
    with Bar(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("", total=len(plan.jobs), promise="")

        def move(progress: Progress, stage: Stage) -> None:
            bar.update(task, completed=progress.done, description=stage.title, promise=_promise(progress, "of about"))

        yield move


def _in_lines(total: int) -> Tell:
    """Return what prints a line for each stage, for the promise, and for every quarter of the jobs."""
    told: set[object] = set()

    def once(key: object, text: str) -> None:
        if key not in told:
            told.add(key)
            say(text)

    def tell(progress: Progress, stage: Stage) -> None:
        once(stage.title, f"{stage.title} ...")
        quarter = 4 * progress.done // total
        if quarter:
            once(quarter, f"{progress.done} of {total} jobs decided after {progress.taken_s:.0f} s")
        if progress.promised_s is not None:
            once("promise", f"promised: {_promise(progress, 'about')} in all")

    return tell


def _promise(progress: Progress, word: str) -> str:
    return "" if progress.promised_s is None else f"{word} {progress.promised_s:.0f} s"


def _verify(running: Fleet, home: Path) -> _Verified:
    """Verify the live log as any auditor would; once more if the server was killed under the auditor's hands."""
    command = [sys.executable, "-m", "gnexec", "log", "verify", running.url, "--vkey", running.vkey, "--json"]
    env = os.environ | {"XDG_STATE_HOME": str(home / "auditor")}
    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if ran.returncode != 0 and running.tend():
        return _verify(running, home)
    said = (ran.stdout + ran.stderr).strip()
    return _Verified(msgspec.json.decode(ran.stdout) if ran.returncode == 0 else None, said)


def _print(report: Report, progress: Progress, verified: _Verified, files: list[str]) -> None:
    """Print the report; its own text was made from checked data, and may hold colours."""
    sys.stdout.write("\n" + (report.coloured if out().color_system else report.text) + "\n\n")
    sys.stdout.flush()
    taken = f"{progress.taken_s:.0f} s taken"
    if progress.promised_s is not None:
        taken += f", {progress.promised_s:.0f} s promised after {progress.promised_at} of {progress.total} jobs"
    line(f"time   {taken}")
    line(f"files  {', '.join(files)}")
    if verified.found is None:
        line("log    VERIFICATION FAILED")
        line(verified.said)
    else:
        size, statements, level = (verified.found[name] for name in ("size", "statements", "level"))
        line(f"log    verified with its public key alone: {size} entries, {statements} signed results, {level}")
