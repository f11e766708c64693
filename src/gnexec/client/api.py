"""The calls of a server for those who hand in work; each method is one of them, but for `wait` and the files.

Shapes of requests and answers are `gnexec.shapes`; this module adds none of its own but the event of a stream.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack
from urllib.parse import quote

from gnexec.client.events import JobEvent, stream
from gnexec.client.files import Moved, download, fetch, upload
from gnexec.client.transport import Transport, TryAgain
from gnexec.core.spec import STDOUT
from gnexec.core.terms import DataClass, Needs, Redundancy
from gnexec.errors import Refused
from gnexec.shapes import (
    AttemptsView,
    ExplainView,
    FileView,
    HeyView,
    JobBody,
    JobView,
    ManyJobs,
    ManyJobViews,
    ReceiptsView,
    ResultView,
)

PATIENCE_S: Final = 45.0
"""How long a request is tried again for, unless the caller says otherwise."""
LONGEST_WAIT_S: Final = 30.0
"""One long poll; the server may answer sooner."""
GLANCE_S: Final = 1.0
"""One long poll where somebody watches the progress."""


class JobOptions(TypedDict, total=False):
    """What may be said of a job beside its command; see `gnexec.shapes.JobBody` and `gnexec.core.spec.Spec`.

    `inputs` takes files and bytes, which are uploaded, as well as digests of what was uploaded before.
    """

    inputs: Mapping[str, str | Path | bytes]
    outputs: Sequence[str]
    env: Mapping[str, str]
    seed: int | None
    numeric_class: str
    name: str
    needs: Needs
    redundancy: Redundancy
    priority: int
    estimate_s: float | None
    data_class: DataClass | None
    force_recompute: bool
    recompute_on_error: bool


class Client:
    """A server, as those see it who hand in work.

    Any method raises `Refused` where the server refuses, `ServerUnreachable` where it does not answer for as long as
    patience lasts, and `StrangeAnswer` where what answers is no gnexec server.
    """

    def __init__(self, url: str, token: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: the server's address, such as "http://127.0.0.1:8000".
            token: an access token; None for a server in open mode.
            patience_s: how long a request is tried again for, seconds; 0 for once only.

        Raises:
            BadConfiguration: the address cannot be used.
        """
        self._transport = Transport(url, token, patience_s=patience_s)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.url

    @property
    def patience_s(self) -> float:
        """How long a request is tried again for, seconds; may be changed at any time."""
        return self._transport.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._transport.patience_s = seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def hey(self) -> HeyView:
        """Ask who answers; needs no token."""
        return self._transport.call("GET", "/hey", HeyView)

    def submit(
        self, command: JobBody | Sequence[str] | str, *, key: str | None = None, **options: Unpack[JobOptions]
    ) -> JobView:
        """Hand in one job.

        Args:
            command: program and arguments; or a line for `sh -c`, where the server allows it; or all of a job.
            key: the idempotency key: with the same one, the same submission is never taken twice. A random one if None.
            options: what else is to be said of it; not with a `JobBody`.

        Returns:
            The job, which may be an old one with the same digest (`created` tells).
        """
        body = self.body(command, **options)
        headers = {"Idempotency-Key": key or secrets.token_urlsafe(16)}
        return self._transport.call("POST", "/v1/jobs", JobView, body=body, headers=headers)

    def submit_many(self, jobs: Sequence[JobBody], *, key: str | None = None) -> list[JobView]:
        """Hand in 1 to 1000 jobs together; all of them are taken or none.

        Args:
            jobs: as `body` makes them.
            key: see `submit`.

        Returns:
            The jobs in the same order.
        """
        headers = {"Idempotency-Key": key or secrets.token_urlsafe(16)}
        many = ManyJobs(jobs=list(jobs))
        return self._transport.call("POST", "/v1/jobs", ManyJobViews, body=many, headers=headers).jobs

    def body(self, command: JobBody | Sequence[str] | str, **options: Unpack[JobOptions]) -> JobBody:
        """Form a job to be handed in, uploading those of its inputs that are files or bytes.

        Args:
            command: see `submit`.
            options: see `submit`.

        Raises:
            TypeError: options beside a `JobBody`, or an unknown one.
        """
        if isinstance(command, JobBody):
            if options:
                msg = "A JobBody has its options inside: msgspec.structs.replace changes them."
                raise TypeError(msg)
            return command
        given: dict[str, Any] = dict(options)
        given["inputs"] = {
            path: source if isinstance(source, str) else self.upload(source)
            for path, source in options.get("inputs", {}).items()
        }
        given["outputs"] = tuple(options.get("outputs", ()))
        given["env"] = dict(options.get("env", {}))
        if isinstance(command, str):
            return JobBody(cmd=command, **given)
        return JobBody(argv=tuple(command), **given)

    def job(self, job: int, *, wait_s: float = 0.0) -> JobView:
        """Look at a job.

        Args:
            job: its id.
            wait_s: how long the server may wait for it to be decided before it answers.
        """
        params = {"wait": f"{wait_s:.3f}"} if wait_s > 0 else None
        return self._transport.call("GET", f"/v1/jobs/{job}", JobView, params=params, wait_s=wait_s)

    def wait(
        self, job: int, *, timeout_s: float | None = None, on_progress: Callable[[JobView], None] | None = None
    ) -> JobView:
        """Wait until a job is decided.

        Args:
            job: its id.
            timeout_s: longest time to wait, seconds; None for as long as it takes.
            on_progress: told about once a second how it stands, and at the end.

        Raises:
            TimeoutError: it is not decided yet.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        step = LONGEST_WAIT_S if on_progress is None else GLANCE_S
        while True:
            left = step if end is None else end - time.monotonic()
            view = self.job(job, wait_s=max(0.0, min(step, left)))
            if on_progress is not None:
                on_progress(view)
            if view.decided_ms is not None:
                return view
            if left <= 0:
                msg = f"Job {job} is {view.state} after {timeout_s:g} s."
                raise TimeoutError(msg)

    def result(self, job: int) -> ResultView:
        """Look at a job's result: what it left behind, and what it cost."""
        return self._transport.call("GET", f"/v1/jobs/{job}/result", ResultView)

    def output(self, job: int, name: str) -> bytes:
        """Return an output's bytes, checked against the accepted result.

        Args:
            job: its id.
            name: as it was declared; also "stdout".
        """
        path, stored = _place(self.result(job), name)
        return fetch(self._transport, path, stored)

    def download(
        self, job: int, name: str, place: Path, *, result: ResultView | None = None, moved: Moved | None = None
    ) -> None:
        """Write an output to a file, checked against the accepted result; all of it or nothing.

        Args:
            job: its id.
            name: see `output`.
            place: the file; what is there already is replaced.
            result: what `result` returned, where it is at hand.
            moved: told of progress, in bytes.

        Raises:
            BadConfiguration: the file cannot be written.
        """
        path, stored = _place(result or self.result(job), name)
        download(self._transport, path, stored, place, moved)

    def stdout(self, job: int) -> bytes:
        """Return a job's standard output, checked against the accepted result."""
        return self._log(job, STDOUT)

    def tail(self, job: int) -> bytes:
        """Return the newest part of what a running job has printed so far; checked by nobody yet."""
        return self._transport.fetch(f"/v1/jobs/{job}/stdout")

    def stderr(self, job: int) -> bytes:
        """Return a job's standard error, checked against the accepted result."""
        return self._log(job, "stderr")

    def attempts(self, job: int) -> AttemptsView:
        """Look at a job's attempts."""
        return self._transport.call("GET", f"/v1/jobs/{job}/attempts", AttemptsView)

    def receipt(self, job: int) -> ReceiptsView:
        """Return what the log holds about a job, with proofs that can be verified offline."""
        return self._transport.call("GET", f"/v1/jobs/{job}/receipt", ReceiptsView)

    def explain(self, job: int) -> ExplainView:
        """Ask why a job is where it is."""
        return self._transport.call("GET", f"/v1/jobs/{job}/explain", ExplainView)

    def cancel(self, job: int) -> JobView:
        """Withdraw from a job; it stops unless somebody else wants it too."""
        return self._transport.call("POST", f"/v1/jobs/{job}:cancel", JobView)

    def events(self, job: int) -> Iterator[JobEvent]:
        """Yield what happened to a job, then what happens to it, until it is closed."""
        last = ""
        while True:
            fresh = False
            try:
                for event in stream(self._transport, f"/v1/jobs/{job}/events", last):
                    fresh, last = True, event.id or last
                    yield event
            except TryAgain as again:
                if not fresh:
                    raise again.error from again
                continue
            # A server that stops ends its streams as well: only one that ends at once and without news has no more.
            if not fresh and self.job(job, wait_s=GLANCE_S).decided_ms is not None:
                return

    def upload(self, source: Path | bytes, *, moved: Moved | None = None) -> str:
        """Make sure that the server holds these bytes, and return their SHA-256 (hexadecimal).

        Args:
            source: a file, or the bytes themselves.
            moved: told of progress, in bytes, where something is sent.

        Raises:
            BadConfiguration: the file cannot be read.
        """
        return upload(self._transport, source, moved)

    def _log(self, job: int, name: str) -> bytes:
        result = self.result(job)
        stored = result.stdout if name == STDOUT else result.stderr
        if stored is None:
            raise _nothing(result, name)
        return fetch(self._transport, f"/v1/jobs/{job}/{name}", stored)


def _place(result: ResultView, name: str) -> tuple[str, FileView]:
    """Return where an output is, and what it is."""
    if name in result.outputs:
        return f"/v1/jobs/{result.id}/outputs/{quote(name)}", result.outputs[name]
    if name == STDOUT and result.stdout is not None:
        return f"/v1/jobs/{result.id}/stdout", result.stdout
    raise _nothing(result, name)


def _nothing(result: ResultView, name: str) -> Refused:
    return Refused("not_found", f"Job {result.id} is {result.state} and has no output {name!r}.")
