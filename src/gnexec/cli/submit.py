"""`gnexec submit` and `gnexec run`: hand in a job; and wait for it and print what it printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gnexec.cli.connection import LONG_PATIENCE_S, Connection
from gnexec.cli.output import Json, json_line, line, raw, say
from gnexec.cli.values import Duration, Flag, Misused, Size

if TYPE_CHECKING:
    from gnexec.client import Client
    from gnexec.shapes import JobBody, JobView

Command = Annotated[str, Parameter(required=True)]
Repeated = Annotated[tuple[str, ...], Parameter(show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is said of a job beside its command.

    Attributes:
        input: File that the job finds under its own name, or under NAME: PATH or PATH=NAME. May be repeated.
        output: File that the job writes, and that is compared between results. May be repeated.
        env: Environment variable, NAME=VALUE. May be repeated.
        name: A name for people.
        seed: Handed on to the job as GNEXEC_SEED.
        replicas: Attempts wanted; as many as the quorum if not said.
        quorum: Results from different owners that must agree.
        cores: Logical processors that it needs.
        memory: Memory that it needs.
        disk: Disk that it needs, outputs included.
        wall: Longest time that an attempt may take.
        processes: Processes and threads that it needs.
        priority: Higher goes first, -1000 to 1000.
        estimate: How long you guess that it takes.
        public: Let everybody read the job's log entries once it is closed.
        force: Compute it anew, even if the same job was done before.
        retry_failed: Compute it anew if the same job failed before.
        shell: The command is one line for `sh -c`.
        key: Idempotency key: with the same one, a submission is taken once.
    """

    input: Annotated[Repeated, Parameter(metavar="PATH[=NAME]")] = ()
    output: Annotated[Repeated, Parameter(metavar="NAME")] = ()
    env: Annotated[Repeated, Parameter(metavar="NAME=VALUE")] = ()
    name: str | None = None
    seed: int | None = None
    replicas: int | None = None
    quorum: int = 1
    cores: int = 1
    memory: Size = 1 << 30
    disk: Size = 1 << 30
    wall: Duration = 3600
    processes: int = 256
    priority: int = 0
    estimate: Duration | None = None
    public: Flag = False
    force: Flag = False
    retry_failed: Flag = False
    shell: Flag = False
    key: str | None = None


def submit(*command: Command, job: Job | None = None, server: Connection | None = None, json: Json = False) -> int:
    """Hand in a job and print its id.

    Args:
        command: Program and arguments. Put -- before them if they have options of their own.
        job: see `Job`.
        server: see `Connection`.
        json: see `Json`.
    """
    with (server or Connection()).client() as client:
        view = hand_in(client, command, job or Job())
    if json:
        json_line(view)
    else:
        line(str(view.id))
    return 0


def run(*command: Command, job: Job | None = None, server: Connection | None = None, json: Json = False) -> int:
    """Hand in a job, wait for it, and print what it printed.

    Succeeds if and only if the job does. Interrupted, it leaves the job to go on.

    Args:
        command: Program and arguments. Put -- before them if they have options of their own.
        job: see `Job`.
        server: see `Connection`.
        json: Print the result as JSON instead of what the job printed.
    """
    from gnexec.cli.follow import follow
    from gnexec.cli.words import standing

    with (server or Connection()).client() as client:
        view = hand_in(client, command, job or Job())
        client.patience_s = LONG_PATIENCE_S
        try:
            view = follow(client, view.id)
        except KeyboardInterrupt:
            say(f"Job {view.id} goes on. `gnexec wait {view.id}` waits again, `gnexec cancel {view.id}` stops it.")
            raise
        result = client.result(view.id)
        if json:
            json_line(result)
        else:
            if result.stdout is not None:
                raw(client.stdout(view.id))
            if result.stderr is not None and view.state != "succeeded":
                raw(client.stderr(view.id), to_err=True)
    if view.state == "succeeded":
        return 0
    say(standing(view), style="red")
    return 1


def hand_in(client: Client, command: Sequence[str], job: Job) -> JobView:
    """Upload a job's inputs, hand it in, and say what became of it.

    Raises:
        Misused: an option makes no sense.
        Refused: the server refuses the job.
    """
    view = client.submit(form(client, command, job), key=job.key)
    if view.created:
        from gnexec.cli.words import expected

        say(f"Job {view.id} is handed in{expected(view)}.")
    else:
        say(f"The same job was handed in before: it is job {view.id}, {view.state}.")
    return view


def form(client: Client, command: Sequence[str], job: Job) -> JobBody:
    """Form the job to hand in, its inputs uploaded.

    Raises:
        Misused: an option makes no sense.
    """
    from gnexec.core.terms import DataClass, Needs, Redundancy

    if job.shell and len(command) != 1:
        msg = "--shell: the command is one line. Put it into quotes."
        raise Misused(msg)
    if not job.shell and len(command) == 1 and " " in command[0]:
        msg = f"{command[0]!r} is one word. Leave the quotes out, or say --shell for a line that a shell runs."
        raise Misused(msg)
    return client.body(
        command[0] if job.shell else command,
        inputs=_uploaded(client, job.input),
        outputs=job.output,
        env=dict(map(_variable, job.env)),
        seed=job.seed,
        name=job.name or "",
        needs=Needs(
            cores=job.cores,
            memory_bytes=job.memory,
            disk_bytes=job.disk,
            wall_s=job.wall,
            processes=job.processes,
        ),
        redundancy=Redundancy(replicas=job.replicas or job.quorum, quorum=job.quorum),
        priority=job.priority,
        estimate_s=job.estimate,
        data_class=DataClass.PUBLIC if job.public else None,
        force_recompute=job.force,
        recompute_on_error=job.retry_failed,
    )


def _uploaded(client: Client, inputs: Sequence[str]) -> dict[str, str]:
    """Upload inputs; return their digests by the names under which the job finds them."""
    from gnexec.cli.follow import transfers

    with transfers() as begin:
        return {
            name: client.upload(path, moved=begin(path.name, path.stat().st_size if path.is_file() else 0))
            for path, name in map(_named, inputs)
        }


def _named(text: str) -> tuple[Path, str]:
    """Read PATH or PATH=NAME; a path that has an equals sign needs a name."""
    path, sign, name = text.rpartition("=")
    if not sign:
        return Path(text), Path(text).name
    if not path or not name:
        msg = f"--input: {text!r} is not PATH or PATH=NAME."
        raise Misused(msg)
    return Path(path), name


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        msg = f"--env: {text!r} is not NAME=VALUE."
        raise Misused(msg)
    return name, value
