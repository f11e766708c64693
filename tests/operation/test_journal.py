"""What servers and workers log: all of it in one form, and nothing in it that is nobody's business."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from gnexec.cli import journal
from gnexec.cli.redaction import GONE, redacted, without_secrets
from gnexec.client import Client
from gnexec.errors import Refused
from gnexec.keys import new_keys
from gnexec.settings import LogFormat, LogLevel
from gnexec.tokens.issued import Scope
from tests.serving import ORIGIN, Server
from tests.worker.agents import until, worker

CRASHING = (sys.executable, str(Path(__file__).with_name("crashing.py")))
JWS = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
WORKER = "testbench-name"
NOBODYS_BUSINESS = ("evelyn", "annabel", "nightingale", "hunter2", "orchid-project", "127.0.0.1:", WORKER)
"""Names of people and their project, a word of the command line, a password, a peer's address, a worker's name."""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """A log in JSON, in memory; everything is as before afterwards."""
    root = logging.getLogger()
    before = (root.handlers, root.level, sys.excepthook, threading.excepthook, logging.raiseExceptions)
    stream = io.StringIO()
    journal.set_up(LogFormat.JSON, LogLevel.INFO, stream)
    yield stream
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers, level, sys.excepthook, threading.excepthook, logging.raiseExceptions = before
    root.setLevel(level)
    logging.getLogger(journal.OURS).setLevel(logging.NOTSET)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Return what was logged; each line must be a JSON document."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_whole_secured_flow_leaves_nothing_in_the_logs_that_is_nobodys_business(tmp_path: Path) -> None:
    """Submission, work, refusals, broken requests, crashes: places and codes are told, people and secrets are not."""
    server = Server(
        tmp_path / "server",
        ("--allow-raw", "--log-format", "json", "--log-level", "debug", "--log-requests"),
        program=CRASHING,
    )
    server.data.mkdir()
    new_keys(server.private_keys, server.data / "public", ORIGIN)
    server.start()
    eve = server.access_token("evelyn", Scope.SUBMIT, Scope.READ, project="orchid-project")
    ann = server.access_token("annabel", Scope.ENROL)
    flags = (
        "--unsafe-no-sandbox",
        "--once",
        "--log-format",
        "json",
        "--log-level",
        "debug",
        "--name",
        "testbench-name",
    )
    with worker(server.url, tmp_path / "worker", *flags, access_token=ann) as volunteer:
        with Client(server.url, eve) as client:
            job = client.submit(["echo", "nightingale"]).id
            assert volunteer.run() == 0, volunteer.text
            assert client.wait(job, timeout_s=60).state == "succeeded"
            for breaks in (client.explain, client.cancel):
                with pytest.raises(Refused, match="failed"):
                    breaks(client.submit(["echo", "nightingale", str(breaks)]).id)
        _misuse(server.url, eve)
        heard = volunteer.text
    until(lambda: "Invalid HTTP" in "".join(server.output), "uvicorn's own words", lambda: "".join(server.output))
    server.kill(signal.SIGTERM)

    told = [json.loads(line) for line in [*server.output, *heard.splitlines()]]
    events = {line["event"] for line in told}
    assert {"a request failed", "a request broke the laws", "an error that nobody caught", "request"} <= events
    assert {"connected", "enrolled", "job started", "result acknowledged"} <= events
    assert any("in explain" in line.get("exception", "") for line in told)
    assert any(line["logger"] == "py.warnings" for line in told)
    routes = {(line["method"], line["route"], line["status"]) for line in told if line["event"] == "request"}
    assert {
        ("POST", "/v1/jobs", 201),
        ("GET", "/jobs/next", 200),
        ("PUT", "/jobs/{job:number}/result", 200),
        ("GET", "/v1/jobs/{job:number}/explain", 500),
        ("GET", "none", 404),
        ("DELETE", "/v1/jobs", 405),
    } <= routes

    written = "".join(server.output) + heard
    own = {f"127.0.0.1:{server.url.rpartition(':')[2]}"}
    for word in NOBODYS_BUSINESS:
        found = {written[at.start() : at.start() + 40] for at in re.finditer(re.escape(word), written)}
        assert all(any(place.startswith(address) for address in own) for place in found), found
    for token in (eve, ann):
        for part in token.split("."):
            assert part not in written
    assert "eyJ" not in written


def _misuse(url: str, token: str) -> None:
    """Do what clients do wrong, with secrets in each place that a careless server would repeat."""
    headers = {"Authorization": f"Bearer {token}"}
    for headers_now in (headers, {"Authorization": f"Bearer {token[:-4]}AAAA"}, {"Cookie": f"session={token}"}, {}):
        httpx2.get(f"{url}/v1/jobs/1", params={"token": token, "who": "evelyn"}, headers=headers_now)
        httpx2.post(f"{url}/v1/jobs", content=b'{"argv": ["nightingale"', headers=headers_now)
        httpx2.put(f"{url}/jobs/1/result", json={"statement": token}, headers=headers_now)
    httpx2.get(f"{url}/no/such/place/{token}/evelyn", headers=headers)
    httpx2.delete(f"{url}/v1/jobs", headers=headers)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"evelyn {token} nightingale\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        while raw.recv(4096):
            pass


def test_events_of_libraries_threads_and_warnings_take_the_same_way(log: io.StringIO) -> None:
    """Whoever speaks, it is one JSON document to a line, and no traceback shows a value."""
    loop = asyncio.new_event_loop()
    loop.call_exception_handler({"message": f"lost {JWS}", "exception": ValueError(f"Bearer {JWS}")})
    loop.close()
    logging.getLogger("uvicorn.error").error("Authorization: Bearer %s", JWS)
    logging.getLogger("httpx2").info("GET http://x/jobs/next?req=1")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn(f"an address: postgresql://me:hunter2@db/x {JWS}", UserWarning, stacklevel=1)
    thread = threading.Thread(target=int, args=(JWS,))
    thread.start()
    thread.join()
    structlog.get_logger("gnexec.test").info("ours", statement=JWS, job=3, when=None, headers=[("a", "b")])
    told = lines(log)
    assert [line["logger"] for line in told] == ["asyncio", "uvicorn.error", "py.warnings", "gnexec", "gnexec.test"]
    assert told[-1] | {"statement": GONE, "job": 3, "when": None, "headers": GONE} == told[-1]
    assert all({"timestamp", "level", "event", "pid"} <= line.keys() for line in told)
    assert "ValueError" in told[3]["exception"]
    assert "hunter2" not in log.getvalue()
    assert "eyJ" not in log.getvalue()


def test_server_that_cannot_start_says_so_in_the_form_that_was_asked_for(tmp_path: Path) -> None:
    """One line, the sentence with its mend; no traceback, no second voice."""
    (tmp_path / "log.sqlite").write_text("no database")
    for form in LogFormat:
        command = [sys.executable, "-m", "gnexec", "serve", "--data", str(tmp_path), "--log-format", form]
        failed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr
        said = json.loads(failed.stderr)["event"] if form is LogFormat.JSON else failed.stderr
        assert "cannot be used as a database" in said


def test_level_holds_for_our_own_events_only(log: io.StringIO) -> None:
    """What is below the level is not told; libraries are heard from warnings on, whatever it is."""
    journal.set_up(LogFormat.JSON, LogLevel.ERROR, log)
    structlog.get_logger("gnexec.test").warning("quiet")
    structlog.get_logger("gnexec.test").error("loud")
    logging.getLogger("uvicorn.error").warning("careful")
    assert [line["event"] for line in lines(log)] == ["loud", "careful"]


def test_text_that_came_from_elsewhere_cannot_pass_a_line_off_or_drive_the_terminal(log: io.StringIO) -> None:
    """For people, too, an event is one line; only a traceback has several."""
    journal.set_up(LogFormat.TEXT, LogLevel.INFO, log)
    structlog.get_logger("gnexec.test").warning("said\n2026 [error] forged", why="\x1b[2Jgone\n2026 forged", job=7)
    (line,) = log.getvalue().splitlines()
    assert "\x1b" not in line
    assert "job=7" in line
    try:
        int("seven")
    except ValueError as err:
        structlog.get_logger("gnexec.test").error("failed", exc_info=err)
    assert log.getvalue().splitlines()[-1].startswith("ValueError: invalid literal")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("nothing to hide: 12 of 14 at /v1/jobs/3", "nothing to hide: 12 of 14 at /v1/jobs/3"),
        (f"token {JWS} refused", f"token {GONE} refused"),
        (f"half a token {JWS.rpartition('.')[0]}", f"half a token {GONE}"),
        (f"Authorization: Bearer {JWS}\nnext line", f"Authorization: {GONE}\nnext line"),
        (f"(b'authorization', b'Basic {'x' * 20}')", f"(b'authorization', {GONE}"),
        ("Cookie: session=1; other=2", f"Cookie: {GONE}"),
        ("sent as bearer abc.def-ghi_jkl", f"sent as bearer {GONE}"),
        ("postgresql+psycopg://me:p@ss/word:1@db:5432/x fails", f"postgresql+psycopg://me:{GONE}@db:5432/x fails"),
        ("host=db user=me password=hunter2 dbname=x", f"host=db user=me password={GONE} dbname=x"),
        ('{"statement": "abc", "n": 1}', f'{{"statement": "{GONE}", "n": 1}}'),
        ("GET /jobs/next?req=abc&wait=3 HTTP/1.1", f"GET /jobs/next?{GONE} HTTP/1.1"),
        ("http://host:80/jobs?req=abc", f"http://host:80/jobs?{GONE}"),
        ("WHERE seq >= ? AND seq < ?", "WHERE seq >= ? AND seq < ?"),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\nafter", f"{GONE}\nafter"),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQ", GONE),
    ],
)
def test_what_has_the_form_of_a_secret_is_removed_and_the_rest_stays(text: str, left: str) -> None:
    """The second net: by form, wherever it stands."""
    assert redacted(text) == left


def test_values_of_events_are_searched_through_and_through() -> None:
    """Lists, mappings and objects hide nothing."""
    found = without_secrets({"a": [JWS, {"b": ("x", ValueError(JWS))}], "token": 3, "n": 1.5})
    assert found == {"a": [GONE, {"b": ["x", GONE]}], "token": 3, "n": 1.5}
