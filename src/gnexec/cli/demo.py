"""`gnexec demo`: real work over real processes on this machine, ending with a result that can be checked."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from gnexec.cli.output import Json, json_line, out, say
from gnexec.demo.plan import Plan, Stage

app: Final = App(
    name="demo", help="Map a trait over real workers, and check the log.", default_parameter=Parameter(negative=())
)
TEXTS: Final = Path("/usr/share/common-licenses")
"""Texts that every Debian system has."""
Output = Annotated[Path, Parameter(name="--output", help="Folder for the files that the demo writes.")]
PlanMaker = Callable[[Path, str], Plan]


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
    """
    from gnexec.demo.plans import words_plan

    return _run(lambda _, python: words_plan(folder, python=python), output, json=json)


def _run(make: PlanMaker, output: Path, *, json: bool) -> int:
    from gnexec.client import Client
    from gnexec.demo.fleet import fleet
    from gnexec.demo.runner import run_plan

    python, flags = _interpreter()
    with tempfile.TemporaryDirectory(prefix="gnexec-demo-") as name:
        home = Path(name)
        home.chmod(0o755)  # Workers of root run jobs under another user, who must get through.
        made = home / "inputs"
        made.mkdir()
        plan = make(made, python)
        say(f"{plan.title}: {len(plan.jobs)} jobs, each run by two owners")
        with fleet(home, flags) as running:
            say(f"server and log at {running.url}/ , 2 workers, of the owners ann and bob")
            with Client(running.url, running.token) as client, _shown(plan) as show:
                outputs, progress = run_plan(client, plan, show)
            report = plan.combine(outputs)
            verified = _verify(running.url, running.vkey, home)
        output.mkdir(parents=True, exist_ok=True)
        for file, content in report.files.items():
            (output / file).write_bytes(content)
    promised = progress.promised_s
    if json:
        times = {"taken_s": round(progress.taken_s, 1), "promised_s": promised and round(promised, 1)}
        json_line({**report.facts, **times, "log_verified": verified})
    else:
        out().print()
        sys.stdout.write((report.coloured if out().color_system else report.text) + "\n\n")
        out().print(
            f"promised after {progress.promised_at} jobs: {promised:.0f} s" if promised else "no promise", end=""
        )
        out().print(f"; taken: {progress.taken_s:.0f} s")
        out().print(f"files: {', '.join(str(output / file) for file in report.files)}")
        out().print("log: verified with its public key alone" if verified else "log: VERIFICATION FAILED")
    return 0 if verified else 1


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
def _shown(plan: Plan) -> Iterator[Callable[..., None]]:
    """Show progress: a bar on a terminal, a line now and then elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from gnexec.cli.output import err

    if not err().is_terminal:
        told: set[tuple[str, int]] = set()

        def line(progress: object, stage: Stage) -> None:
            done = int(getattr(progress, "done", 0))
            step = (stage.title, done // 5)
            if step not in told:
                told.add(step)
                say(f"{stage.title}: {done} of {len(plan.jobs)} jobs decided")

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("", total=len(plan.jobs))

        def move(progress: object, stage: Stage) -> None:
            bar.update(task, completed=int(getattr(progress, "done", 0)), description=stage.title)

        yield move


def _verify(url: str, vkey: str, home: Path) -> bool:
    """Verify the live log as any auditor would, and print what was found."""
    import os
    import subprocess

    command = [sys.executable, "-m", "gnexec", "log", "verify", url, "--vkey", vkey]
    env = os.environ | {"XDG_STATE_HOME": str(home / "auditor")}
    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False)  # noqa: S603 -- our own command
    say((ran.stdout + ran.stderr).strip())
    return ran.returncode == 0
