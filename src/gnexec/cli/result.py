"""`gnexec result`: what a job left behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gnexec.cli.connection import Connection
from gnexec.cli.jobs import JobId
from gnexec.cli.output import Json, facts, json_line, raw, say, table
from gnexec.cli.values import Flag, show_duration, show_size

if TYPE_CHECKING:
    from gnexec.client import Client
    from gnexec.shapes import FileView, ResultView


def result(
    job: JobId,
    /,
    *,
    output: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    stdout: Flag = False,
    stderr: Flag = False,
    server: Connection | None = None,
    json: Json = False,
) -> int:
    """Show a job's result, or fetch its files.

    Succeeds if the job did; the exit status is 75 while it is not decided.

    Args:
        job: Its id.
        output: Write all outputs into this folder, each checked against the accepted result.
        stdout: Print what the job printed, and nothing else.
        stderr: Print what the job printed as errors, and nothing else.
        server: see `Connection`.
        json: see `Json`.
    """
    from gnexec.cli import FAILURE, OK, TRY_LATER

    with (server or Connection()).client() as client:
        view = client.result(job)
        if view.state not in ("succeeded", "failed", "cancelled"):
            say(f"Job {job} is {view.state}. `gnexec wait {job}` waits until it is decided.", style="yellow")
            return TRY_LATER
        if output is not None:
            _download(client, view, output)
        if stdout and view.stdout is not None:
            raw(client.stdout(job))
        if stderr and view.stderr is not None:
            raw(client.stderr(job))
    if json:
        json_line(view)
    elif not (stdout or stderr):
        _show(view)
    return OK if view.state == "succeeded" else FAILURE


def _show(view: ResultView) -> None:
    facts(
        [
            ("job", str(view.id)),
            ("state", view.state),
            ("outcome", view.outcome),
            ("agreeing", f"{view.validated_by} results" if view.validated_by > 1 else ""),
            ("attempt", str(view.attempt or "")),
            ("wall time", show_duration(view.wall_ms / 1000) if view.wall_ms else ""),
            ("cpu time", show_duration(view.cpu_ms / 1000) if view.cpu_ms else ""),
            ("memory", show_size(view.peak_rss_bytes) if view.peak_rss_bytes else ""),
            ("revision", str(view.revision) if view.revision > 1 else ""),
        ]
    )
    files = _files(view)
    if files:
        rows = [(name, show_size(file.size), file.sha256) for name, file in files]
        table(("file", "size", "sha256"), rows, right=("size",))


def _files(view: ResultView) -> list[tuple[str, FileView]]:
    logs = (("stdout", view.stdout), ("stderr", view.stderr))
    return [*view.outputs.items(), *((name, file) for name, file in logs if file is not None)]


def _download(client: Client, view: ResultView, folder: Path) -> None:
    """Write all outputs into `folder`.

    Raises:
        Refused: the server names a file that would lie elsewhere; nothing was written then.
        BadConfiguration: the folder cannot be written.
    """
    from gnexec.cli.follow import transfers
    from gnexec.core.spec import check_path
    from gnexec.errors import BadConfiguration

    places = {name: folder / check_path(name, "outputs") for name in view.outputs}
    with transfers() as begin:
        for name, place in places.items():
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                msg = f"{place.parent} cannot be made: {error.strerror or error}."
                raise BadConfiguration(msg) from error
            client.download(view.id, name, place, result=view, moved=begin(name, view.outputs[name].size))
    say(f"{'1 file is' if len(places) == 1 else f'{len(places)} files are'} in {folder}.")
