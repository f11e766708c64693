"""A worker that cannot reach its server any more: its jobs end, and it comes back by itself."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from gnexec.client import Client
from gnexec.tokens.issued import Scope
from tests.e2e.proxy import proxy
from tests.serving import running_server
from tests.worker.agents import until, worker

PLAIN = "--unsafe-no-sandbox"


def _runs(mark: str) -> bool:
    """Tell whether a process with this mark on its command line is alive."""
    return any(
        mark in " ".join(process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
        for process in psutil.process_iter(["cmdline", "status"])
    )


def test_worker_that_is_cut_off_stops_its_job_and_returns_by_itself(tmp_path: Path) -> None:
    """Connections are refused beyond the lease: the job ends; when the way is free, the same worker does the next."""
    mark = f"gnexec-e2e-{os.getpid()}"
    with running_server(tmp_path / "server", "--allow-raw", "--lease", "2s", "--grace", "1s") as server:
        submitter = server.access_token("submitter", Scope.SUBMIT, Scope.READ)
        owner = server.access_token("volunteer", Scope.ENROL)
        with (
            Client(server.url, submitter) as client,
            proxy(server.url) as between,
            worker(between.url, tmp_path / "state", "--slots", "1", PLAIN, access_token=owner) as one,
        ):
            job = client.submit(["/bin/sh", "-c", f": {mark}; while :; do sleep 0.1; done"]).id
            one.start("--cut-off", "1s", "--grace", "0s")
            until(lambda: _runs(mark), "the job's process", lambda: one.text)
            between.cut()
            until(lambda: not _runs(mark), "the end of the job's process", lambda: one.text)
            assert "the lease has lapsed" in one.text
            until(lambda: client.attempts(job).attempts[0].state != "open", "the server's own end of the attempt")
            client.cancel(job)
            following = client.submit(["/bin/sh", "-c", "echo back"], outputs=["stdout"]).id
            between.mend()
            assert client.wait(following, timeout_s=60).state == "succeeded", one.text
            assert [attempt.state for attempt in client.attempts(following).attempts] == ["succeeded"]
            until(lambda: not one.entries, "an empty spool", lambda: one.text)
