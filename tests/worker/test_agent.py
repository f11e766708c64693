"""The worker as a process, against a real server: what it runs, what it says, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gnexec.client import Client
from gnexec.core.terms import Needs, Redundancy
from gnexec.ids import sha256_hex
from gnexec.shapes import JobView
from gnexec.tokens.issued import Scope
from gnexec.worker.sandbox import detect
from tests.requirements import missing, require
from tests.serving import ORIGIN, Server, running_server
from tests.worker.agents import Deed, Gateway, Worker, always, gateway, once_each, until, worker

PLAIN = "--unsafe-no-sandbox"
"""What is tested here is the worker; `test_sandbox` and `test_escape` test its sandbox."""


@dataclass
class Scene:
    """A server, somebody who hands in jobs, and a worker that is not started yet."""

    server: Server
    client: Client
    worker: Worker
    gateway: Gateway

    def submit(self, script: str, *, needs: Needs | None = None, outputs: tuple[str, ...] = ("stdout",)) -> int:
        """Hand in a shell script."""
        return self.client.submit(["/bin/sh", "-c", script], outputs=outputs, needs=needs or Needs()).id

    def decided(self, job: int) -> JobView:
        """Wait until a job is decided."""
        until(
            lambda: self.client.job(job).state not in {"queued", "running"},
            f"the end of job {job}",
            lambda: self.worker.text,
        )
        return self.client.job(job)

    def attempts(self, job: int) -> list[tuple[str, str]]:
        """Return state and outcome of each attempt."""
        return [(attempt.state, attempt.outcome) for attempt in self.client.attempts(job).attempts]


def _scene(stack: ExitStack, tmp_path: Path, *serve: str) -> Scene:
    server = stack.enter_context(running_server(tmp_path / "server", *serve))
    is_open = "--open" in serve
    submitter = None if is_open else server.access_token("submitter", Scope.SUBMIT, Scope.READ)
    owner = None if is_open else server.access_token("volunteer", Scope.ENROL)
    between = stack.enter_context(gateway(server.url))
    return Scene(
        server,
        stack.enter_context(Client(server.url, submitter)),
        stack.enter_context(worker(between.url, tmp_path / "state", "--slots", "2", PLAIN, access_token=owner)),
        between,
    )


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Scene]:
    """A server with enrolment."""
    with ExitStack() as stack:
        yield _scene(stack, tmp_path, "--allow-raw")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Scene]:
    """A server in open mode."""
    with ExitStack() as stack:
        yield _scene(stack, tmp_path, "--open")


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Scene]:
    """A server with enrolment and leases of two seconds."""
    with ExitStack() as stack:
        yield _scene(stack, tmp_path, "--allow-raw", "--lease", "2s")


def test_worker_in_bubblewrap_runs_a_job_with_inputs_outputs_and_its_environment(secured: Scene) -> None:
    """The default: sandboxed, the input in its place, the output fetched, only the promised variables there."""
    require("bwrap", "bubblewrap")
    found = detect()
    if not found.ok:
        missing(f"{found.reason} {found.mend}")
    job = secured.client.submit(
        ["/bin/sh", "-c", "rev <data/in.txt >out.txt; cp data/in.txt copy.txt; env | sort"],
        inputs={"data/in.txt": b"stressed\n"},
        outputs=["out.txt", "copy.txt", "stdout"],
        env={"COLOUR": "blue", "GNEXEC_ATTEMPT": "forged"},
        seed=7,
    ).id
    secured.worker.flags = ("--slots", "1")
    assert secured.worker.run("--once") == 0
    assert secured.client.job(job).outcome == "success", secured.worker.text
    assert secured.client.output(job, "out.txt") == b"desserts\n"
    assert secured.client.output(job, "copy.txt") == b"stressed\n"
    env = dict(line.split("=", 1) for line in secured.client.stdout(job).decode().splitlines())
    assert (env["COLOUR"], env["GNEXEC_JOB_ID"], env["GNEXEC_ATTEMPT"], env["GNEXEC_SEED"]) == (
        "blue",
        str(job),
        "1",
        "7",
    )
    assert (env["HOME"], env["TMPDIR"], env["LANG"]) == ("/work", "/tmp", "C.UTF-8")
    assert "GNEXEC_TOKEN" not in env
    assert secured.worker.entries == []


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("echo done", "success"),
        ("exit 3", "failure (exit 3)"),
        ("kill -SEGV $$", "failure (SIGSEGV)"),
        ("sleep 60", "limit (wall)"),
        ("/usr/bin/python3 -c 'import time; x = bytearray(200 << 20); time.sleep(60)'", "limit (memory)"),
    ],
)
def test_worker_reports_how_a_job_ended_in_words(secured: Scene, script: str, outcome: str) -> None:
    """Each kind of end reaches the submitter as the same words."""
    if "python3" in script and not Path("/usr/bin/python3").exists():
        missing("/usr/bin/python3 is not there: apt-get install python3")
    job = secured.submit(script, needs=Needs(memory_bytes=100 << 20, wall_s=1 if outcome == "limit (wall)" else 60))
    assert secured.worker.run("--once") == 0
    assert secured.decided(job).outcome == outcome
    assert [one[1] for one in secured.attempts(job)] == [outcome]


def test_job_without_its_declared_output_is_no_success(secured: Scene) -> None:
    """Exit status 0 does not make up for a missing output; the reason is in standard error."""
    job = secured.submit("ln -s /etc/hostname out.txt", outputs=("out.txt",))
    assert secured.worker.run("--once") == 0
    assert secured.decided(job).outcome == "failure (exit 73)"
    assert b"'out.txt' was not taken: It is a link" in secured.client.stderr(job)


def test_open_server_needs_no_enrolment_and_takes_large_outputs(opened: Scene) -> None:
    """In open mode small outputs travel in the body, large and binary ones arrive byte for byte as well."""
    job = opened.client.submit(
        "printf '\\377\\000' >small; head -c 300000 /dev/zero >large; echo hello", outputs=["small", "large", "stdout"]
    ).id
    assert opened.worker.run("--once") == 0
    assert opened.decided(job).outcome == "success", opened.worker.text
    assert opened.client.output(job, "small") == b"\xff\0"
    assert opened.client.output(job, "large") == bytes(300_000)
    assert opened.client.stdout(job) == b"hello\n"
    assert not (opened.worker.state / "worker.pem").exists()


def test_open_server_gets_128_and_the_signal(opened: Scene) -> None:
    """Open mode has exit statuses only: a signal is reported as shells do."""
    job = opened.submit("kill -SEGV $$")
    assert opened.worker.run("--once") == 0
    assert opened.decided(job).outcome == "failure (exit 139)"


def test_several_jobs_of_one_hand_out_are_reported_one_by_one(secured: Scene) -> None:
    """Four slots take four jobs at one moment, with one token; each result is sent by itself, and arrives."""
    jobs = [secured.submit(f"echo {n}") for n in range(4)]
    secured.worker.flags = ("--slots", "4", PLAIN)
    assert secured.worker.run("--once") == 0
    assert [secured.client.stdout(job) for job in jobs] == [b"0\n", b"1\n", b"2\n", b"3\n"]
    assert len({secured.client.attempts(job).attempts[0].started_ms for job in jobs}) == 1
    assert sum("/result" in request for request in secured.gateway.seen) == 4


def test_secrets_are_private_and_never_said(secured: Scene) -> None:
    """Key and enrolment have mode 0600; no token of any kind is in the output or in a file that others may read."""
    job = secured.submit("sleep 1")
    assert secured.worker.run("--once") == 0
    assert secured.decided(job).outcome == "success"
    state = secured.worker.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for name in ("worker.pem", "enrolment.json"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    enrolment = json.loads((state / "enrolment.json").read_text())["token"]
    assert enrolment not in secured.worker.text
    assert secured.worker.access_token is not None
    assert secured.worker.access_token not in secured.worker.text
    assert "eyJ" not in secured.worker.text  # how every JWS of a JSON header begins


def test_enrolled_worker_starts_again_without_access_token(secured: Scene) -> None:
    """The enrolment is kept: the second start needs no access token, and has the same id."""
    assert secured.worker.run("--once") == 0
    before = (secured.worker.state / "enrolment.json").read_text()
    secured.worker.access_token = None
    job = secured.submit("true")
    assert secured.worker.run("--once") == 0
    assert secured.decided(job).outcome == "success"
    assert (secured.worker.state / "enrolment.json").read_text() == before


def test_worker_without_any_right_ends_with_a_way_to_mend_it(secured: Scene) -> None:
    """No enrolment and no access token: exit status 1 and a sentence."""
    secured.worker.access_token = None
    assert secured.worker.run("--once") == 1
    assert "GNEXEC_TOKEN" in secured.worker.text
    assert "Traceback" not in secured.worker.text


def test_enrolment_that_is_refused_is_renewed_once(secured: Scene) -> None:
    """A 401 for the enrolment token leads to one new enrolment under the same key, and work goes on."""
    assert secured.worker.run("--once") == 0
    path = secured.worker.state / "enrolment.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps(before | {"token": before["token"][:-8] + "AAAAAAAA"}))
    job = secured.submit("true")
    assert secured.worker.run("--once") == 0
    assert secured.decided(job).outcome == "success"
    assert json.loads(path.read_text())["worker"] == before["worker"]


def test_second_worker_on_one_state_directory_is_refused(secured: Scene) -> None:
    """Two processes never answer for each other's attempts."""
    secured.worker.start()
    secured.worker.says("connected")
    with worker(secured.gateway.url, secured.worker.state, PLAIN) as second:
        assert second.run("--once") == 1
        assert secured.worker.process is not None
        assert f"process id {secured.worker.process.pid}" in second.text


def test_worker_without_sandbox_refuses_to_start(secured: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bubblewrap is missing nothing runs, unless the volunteer typed otherwise."""
    monkeypatch.setenv("PATH", "/nonexistent")
    secured.worker.flags = ()
    job = secured.submit("true")
    assert secured.worker.run("--once") == 1
    assert "bubblewrap is not installed" in secured.worker.text
    assert secured.client.job(job).state == "queued"


def test_idle_worker_ends_when_told_so(secured: Scene) -> None:
    """`--idle-exit` ends it with success, after the work that there was."""
    job = secured.submit("true")
    assert secured.worker.run("--idle-exit", "0.5") == 0
    assert secured.decided(job).outcome == "success"


def test_progress_and_output_are_seen_while_the_job_runs(secured: Scene) -> None:
    """The submitter reads the first lines and the progress of a job that has not ended."""
    job = secured.submit('echo first; echo 0.25 >"$GNEXEC_PROGRESS"; echo 0.5 >>"$GNEXEC_PROGRESS"; sleep 300')
    secured.worker.start()
    until(lambda: secured.client.tail(job) == b"first\n", "live output", lambda: secured.worker.text)
    until(lambda: secured.client.job(job).progress == 0.5, "progress", lambda: secured.worker.text)
    assert secured.client.job(job).state == "running"


def test_cancelled_job_that_ignores_sigterm_is_killed(secured: Scene) -> None:
    """`directive: stop` ends the process tree: first SIGTERM, which this job ignores, then SIGKILL."""
    mark = f"gnexec-test-{os.getpid()}"
    job = secured.submit(f"trap 'echo asked' TERM; while :; do sleep 0.1; done; : {mark}")
    secured.worker.start("--grace", "1s")
    until(lambda: _alive(mark), "the job's process")
    secured.client.cancel(job)
    until(lambda: not _alive(mark), "the end of the job's process", lambda: secured.worker.text)
    until(lambda: not secured.worker.entries, "an empty spool", lambda: secured.worker.text)
    assert secured.attempts(job)[0][0] == "cancelled"


def test_sigterm_lets_running_jobs_end_and_takes_no_more(secured: Scene) -> None:
    """A clean finish: what runs is reported, what waits stays with the server, exit status 0."""
    flag = secured.worker.state.parent / "go"
    flag.parent.chmod(0o755)
    secured.worker.flags = ("--slots", "1", PLAIN)
    running = secured.submit(f"while ! [ -e {_passable(flag)} ]; do sleep 0.05; done")
    secured.worker.start()
    secured.worker.says("job started")
    waiting = secured.submit("true")
    secured.worker.signal(signal.SIGTERM)
    secured.worker.says("no more work is asked for")
    _passable(flag).touch()
    assert secured.worker.wait() == 0
    assert secured.decided(running).outcome == "success"
    assert secured.client.job(waiting).state == "queued"
    assert secured.worker.entries == []
    _passable(flag).unlink()


@pytest.mark.parametrize("second", [True, False])
def test_worker_that_leaves_gives_its_jobs_back(secured: Scene, *, second: bool) -> None:
    """A second signal, or the end of the time to drain, gives running jobs back as preempted, at nobody's cost."""
    secured.worker.url = secured.server.url
    job = secured.submit("sleep 300")
    secured.worker.start("--drain", "300" if second else "0", "--grace", "0")
    secured.worker.says("job started")
    secured.worker.signal(signal.SIGINT)
    if second:
        secured.worker.says("no more work is asked for")
        secured.worker.signal(signal.SIGINT)
    assert secured.worker.wait() == 130
    assert secured.attempts(job) == [("preempted", "limit (preempted)")]
    assert secured.client.job(job).state == "queued"
    assert secured.worker.entries == []


def test_worker_killed_between_finishing_and_reporting_delivers_after_restart(secured: Scene) -> None:
    """After kill -9 with a result in the spool: the next start sends it, and the job is not run again."""
    secured.gateway.rule = always(Deed.REFUSE, "PUT", "/result")
    job = secured.submit("echo once")
    secured.worker.start()
    until(lambda: secured.worker.has_result, "a result in the spool", lambda: secured.worker.text)
    secured.worker.says("result kept, not yet acknowledged")
    secured.worker.kill()
    secured.gateway.rule = lambda _, __: Deed.PASS
    assert secured.worker.run("--once") == 0
    assert secured.client.stdout(job) == b"once\n"
    assert secured.attempts(job) == [("succeeded", "success")]
    assert secured.worker.entries == []


def test_worker_killed_while_a_job_runs_gives_it_back_after_restart(secured: Scene) -> None:
    """After kill -9 in the middle of a job, nothing of it is left, and the attempt counts as preempted, not failed."""
    mark = f"gnexec-test-{os.getpid()}"
    secured.worker.url = secured.server.url
    flag = _passable(secured.worker.state / mark)
    job = secured.submit(f"[ -e {flag} ] || exec sleep 300 # {mark}")
    secured.worker.start()
    secured.worker.says("job started")
    secured.worker.kill()
    flag.touch()
    assert secured.worker.run("--once") == 0
    assert secured.decided(job).outcome == "success"
    assert secured.attempts(job) == [("preempted", "limit (preempted)"), ("succeeded", "success")]
    flag.unlink()


def test_server_killed_while_a_result_is_reported_loses_nothing(secured: Scene) -> None:
    """After kill -9 of the server: the worker keeps the result, and sends it when the server is back."""
    job = secured.submit("echo kept")
    secured.gateway.rule = always(Deed.REFUSE, "PUT", "/v1/blobs/")
    secured.worker.start()
    secured.worker.says("result kept, not yet acknowledged")
    secured.server.kill()
    secured.gateway.rule = lambda _, __: Deed.PASS
    secured.server.restart()
    assert secured.decided(job).outcome == "success"
    assert secured.client.stdout(job) == b"kept\n"
    assert secured.attempts(job) == [("succeeded", "success")]
    until(lambda: not secured.worker.entries, "an empty spool", lambda: secured.worker.text)


def test_lost_reply_of_each_call_costs_nothing(secured: Scene) -> None:
    """The server hears each call, the first reply to each is lost: one attempt, one result, nothing twice."""
    job = secured.client.submit(["/bin/sh", "-c", "cat in"], inputs={"in": b"x" * 100_000}, outputs=["stdout"]).id
    calls = ("POST /v1/workers", "GET /jobs/next", "GET /v1/blobs/*", "PUT /v1/blobs/*", "PUT /jobs/*/result")
    secured.gateway.rule = once_each(Deed.LOSE, *calls)
    assert secured.worker.run("--once") == 0
    assert secured.client.stdout(job) == b"x" * 100_000
    assert secured.attempts(job) == [("succeeded", "success")]


def test_input_of_another_digest_is_never_run(secured: Scene) -> None:
    """Bytes that are not what the digest says: the job does not see them, and the attempt is given back."""
    job = secured.client.submit(["/bin/sh", "-c", "cat in"], inputs={"in": b"genuine"}, outputs=["stdout"]).id
    secured.gateway.rule = always(Deed.CHANGE, "GET", "/v1/blobs/")
    secured.worker.start()
    secured.worker.says("the job cannot be run here")
    until(lambda: secured.attempts(job)[:1] == [("preempted", "limit (preempted)")], "the attempt given back")
    assert "job started" not in secured.worker.text
    assert not list((secured.worker.state / "cache").glob("??/*"))
    secured.worker.kill()
    secured.gateway.rule = lambda _, __: Deed.PASS
    assert secured.worker.run("--once") == 0
    assert secured.client.stdout(job) == b"genuine"


def test_worker_that_is_cut_off_stops_its_jobs_and_drops_them(hasty: Scene) -> None:
    """Beyond the lease without a word from the server: the job ends, its folder and its spool entry are gone."""
    mark = f"gnexec-test-{os.getpid()}"
    hasty.submit(f"while :; do sleep 0.1; done; : {mark}")
    hasty.worker.start("--cut-off", "1s", "--grace", "0")
    until(lambda: _alive(mark), "the job's process", lambda: hasty.worker.text)
    hasty.gateway.rule = lambda _, __: Deed.REFUSE
    until(lambda: not _alive(mark), "the end of the job's process", lambda: hasty.worker.text)
    until(lambda: not hasty.worker.entries, "an empty spool", lambda: hasty.worker.text)
    assert "the lease has lapsed" in hasty.worker.text


def test_closed_attempt_is_stopped_and_dropped(hasty: Scene) -> None:
    """A 410 for a status ends the job without a report: its job was given to somebody else long ago."""
    mark = f"gnexec-test-{os.getpid()}"
    job = hasty.submit(f"while :; do sleep 0.1; done; : {mark}")
    hasty.worker.start("--grace", "0")
    until(lambda: _alive(mark), "the job's process", lambda: hasty.worker.text)
    hasty.gateway.rule = lambda _, __: Deed.REFUSE
    until(lambda: hasty.attempts(job)[0][0] in {"abandoned", "undelivered"}, "a lapsed lease")
    hasty.client.cancel(job)
    hasty.gateway.rule = lambda _, __: Deed.PASS
    until(lambda: not _alive(mark), "the end of the job's process", lambda: hasty.worker.text)
    until(lambda: not hasty.worker.entries, "an empty spool", lambda: hasty.worker.text)
    assert "too_late" in hasty.worker.text


def test_spool_of_another_server_is_left_alone(secured: Scene, tmp_path: Path) -> None:
    """A worker pointed at another server does not send it the first one's tokens."""
    secured.gateway.rule = always(Deed.REFUSE, "PUT", "/result")
    secured.submit("true")
    secured.worker.start()
    until(lambda: secured.worker.has_result, "a result in the spool", lambda: secured.worker.text)
    secured.worker.kill()
    with running_server(tmp_path / "other", "--open") as other, gateway(other.url) as between:
        secured.worker.url = between.url
        between.rule = lambda _, __: Deed.PASS
        _rename_origin(secured.worker, "elsewhere.example/gnexec")
        assert secured.worker.run("--once") == 1
        assert ORIGIN in secured.worker.text
        assert between.seen == ["GET /hey"]
    assert secured.worker.has_result


def test_job_that_needs_more_than_is_offered_is_given_back(opened: Scene) -> None:
    """Open mode matches nothing: a job too large for this machine goes back at once, and the worker does not spin."""
    opened.worker.url = opened.server.url
    job = opened.submit("true", needs=Needs(memory_bytes=1 << 30))
    opened.worker.start("--memory", "512MiB")
    opened.worker.says("the job needs 1073741824 memory_bytes")
    opened.worker.says("asking for work again later")
    opened.worker.says("result acknowledged")
    assert opened.attempts(job) == [("preempted", "limit (preempted)")]


def test_two_workers_of_two_owners_reach_a_quorum(secured: Scene, tmp_path: Path) -> None:
    """Two replicas, quorum two: each owner's worker runs one, and the result counts as valid."""
    job = secured.client.submit(
        ["/bin/sh", "-c", "echo same"], outputs=["stdout"], redundancy=Redundancy(replicas=2, quorum=2)
    ).id
    assert secured.worker.run("--once") == 0
    assert secured.client.job(job).state != "succeeded"
    token = secured.server.access_token("another", Scope.ENROL)
    with worker(secured.server.url, tmp_path / "second", PLAIN, access_token=token) as second:
        assert second.run("--once") == 0
        assert "verdict=valid" in second.text
    assert secured.decided(job).agreeing == 2


def _rename_origin(one: Worker, origin: str) -> None:
    """Make a spool that of another server."""
    for entry in one.entries:
        path = entry / "attempt.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"origin": origin}))


def _passable(path: Path) -> Path:
    """Return a place for a flag that the jobs' user can see, whoever runs the tests."""
    return Path("/var/tmp") / f"gnexec-test-{sha256_hex(str(path).encode())[:16]}"


def _alive(mark: str) -> bool:
    """Tell whether a process with this mark on its command line is alive."""
    return any(
        mark in " ".join(process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
        for process in psutil.process_iter(["cmdline", "status"])
    )
