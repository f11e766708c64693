"""GnExec's version 0.1 by its text: a volunteer who has only curl takes a job, runs it, and returns it.

A real server, the real curl, a shell script. Bodies go out as `curl -d` sends them: under a form's media type.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require
from tests.serving import Server, running_server

VOLUNTEER = {
    "header": r"""
        set -eu
        job=$(curl -sf "$URL/jobs/next")
        id=$(printf %s "$job" | sed 's/.*"id":\([0-9]*\).*/\1/')
        cmd=$(printf %s "$job" | sed 's/.*"cmd":"\([^"]*\)".*/\1/')
        token=$(printf %s "$job" | sed 's/.*"token":"\([^"]*\)".*/\1/')
        auth="Authorization: Bearer $token"
        curl -sf -X PUT -H "$auth" -d '{"progress": 0.5}' "$URL/jobs/$id/status"
        out=$(sh -c "$cmd")
        curl -sf -X PUT -H "$auth" -d "{\"exit_code\": $?, \"stdout\": \"$out\\n\"}" "$URL/jobs/$id/result"
    """,
    "body": r"""
        set -eu
        job=$(curl -sf "$URL/jobs/next")
        id=$(printf %s "$job" | sed 's/.*"id":\([0-9]*\).*/\1/')
        cmd=$(printf %s "$job" | sed 's/.*"cmd":"\([^"]*\)".*/\1/')
        token=$(printf %s "$job" | sed 's/.*"token":"\([^"]*\)".*/\1/')
        curl -sf -X PUT -d "{\"token\": \"$token\", \"progress\": 0.5}" "$URL/jobs/$id/status"
        out=$(sh -c "$cmd")
        result="{\"token\": \"$token\", \"exit_code\": $?, \"stdout\": \"$out\\n\"}"
        curl -sf -X PUT -d "$result" "$URL/jobs/$id/result"
    """,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server in open mode."""
    require("curl", "curl")
    with running_server(tmp_path_factory.mktemp("open"), "--open") as running:
        yield running


def curl(server: Server, path: str, *arguments: str) -> tuple[int, dict[str, str], str]:
    """Call curl; return the status, the headers by lower-case name, and the body."""
    command = ["curl", "-s", "-i", "--max-time", "60", "-H", "Expect:", *arguments, server.url + path]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    head, _, body = told.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, body


def submit(server: Server, **body: Any) -> int:  # noqa: ANN401 -- any JSON
    """Hand in a job with curl."""
    told = json.dumps({"force_recompute": True, **body})
    status, headers, text = curl(server, "/v1/jobs", "-H", "Content-Type: application/json", "-d", told)
    job = json.loads(text)["id"]
    assert (status, headers["location"]) == (201, f"/v1/jobs/{job}")
    return int(job)


@pytest.mark.parametrize("form", VOLUNTEER)
def test_curl_volunteer_takes_a_job_and_returns_it(server: Server, form: str) -> None:
    """With the token in the header, or in the body; the result is there for who asked."""
    job = submit(server, cmd="echo $((6*7)) is the answer")
    run = subprocess.run(
        ["sh", "-c", VOLUNTEER[form]],
        check=False,
        env={"URL": server.url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert '"directive":"continue"' in run.stdout
    assert '"verdict":"valid"' in run.stdout
    assert '"receipt":{' in run.stdout
    told = json.loads(curl(server, f"/v1/jobs/{job}/result")[2])
    assert (told["state"], told["outcome"], told["exit_code"]) == ("succeeded", "success", 0)
    assert curl(server, f"/v1/jobs/{job}/stdout")[2] == "42 is the answer\n"


@pytest.mark.parametrize("root", ["", "/v1"])
def test_next_job_is_what_the_text_says(server: Server, root: str) -> None:
    """`{id: integer, cmd: string, token: string}`, more fields may follow; not to be cached."""
    job = submit(server, argv=["echo", "two words"])
    status, headers, text = curl(server, f"{root}/jobs/next")
    told = json.loads(text)
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "application/json", "no-store")
    assert (told["id"], told["cmd"]) == (job, "echo 'two words'")
    assert isinstance(told["token"], str)
    assert list(told)[:3] == ["id", "cmd", "token"]
    body = json.dumps({"token": told["token"], "exit_code": 0, "stdout": "two words\n"})
    status, _, text = curl(server, f"{root}/jobs/{job}/result", "-X", "PUT", "-d", body)
    assert (status, json.loads(text)["verdict"]) == (200, "valid")


def test_empty_queue_is_204_and_says_when_to_come_again(server: Server) -> None:
    """No body, no error: there is no work now."""
    status, headers, body = curl(server, "/jobs/next")
    assert (status, body) == (204, "")
    assert int(headers["retry-after"]) > 0
    assert headers["link"] == '</v1/workers/me/why>; rel="why"'
    why = json.loads(curl(server, "/v1/workers/me/why")[2])
    assert [reason["code"] for reason in why["reasons"]] == ["no_work"]


def test_head_of_next_is_405_and_hands_out_nothing(server: Server) -> None:
    """A look must not take a job away."""
    job = submit(server, cmd="true")
    status, headers, _ = curl(server, "/jobs/next", "--head")
    assert (status, headers["allow"]) == (405, "GET")
    told = json.loads(curl(server, "/jobs/next")[2])
    assert (told["id"], told["attempt"]) == (job, 1)
    body = json.dumps({"token": told["token"], "exit_code": 0})
    assert curl(server, f"/jobs/{job}/result", "-X", "PUT", "-d", body)[0] == 200


def test_failure_is_a_result_like_any_other(server: Server) -> None:
    """The exit status comes back as it was."""
    job = submit(server, cmd="exit 3")
    token = json.loads(curl(server, "/jobs/next")[2])["token"]
    body = json.dumps({"exit_code": 3, "stderr": "no such trait\n"})
    status, _, _ = curl(server, f"/jobs/{job}/result", "-X", "PUT", "-H", f"Authorization: Bearer {token}", "-d", body)
    assert status == 200
    told = json.loads(curl(server, f"/v1/jobs/{job}/result")[2])
    assert (told["state"], told["outcome"]) == ("failed", "failure (exit 3)")
    assert curl(server, f"/v1/jobs/{job}/stderr")[2] == "no such trait\n"


def test_curl_without_a_token_or_with_another_jobs_is_refused(server: Server) -> None:
    """401, and 403."""
    job = submit(server, cmd="true")
    token = json.loads(curl(server, "/jobs/next")[2])["token"]
    path, put = f"/jobs/{job}/result", ("-X", "PUT", "-d")
    status, headers, body = curl(server, path, *put, '{"exit_code": 0}')
    assert (status, headers["content-type"], json.loads(body)["code"]) == (401, "application/problem+json", "no_token")
    assert headers["www-authenticate"].startswith("Bearer")
    told = json.dumps({"token": token, "exit_code": 0})
    assert curl(server, f"/jobs/{job + 1}/result", *put, told)[0] == 403
    assert curl(server, path, *put, told)[0] == 200


def test_output_files_are_uploaded_with_curl(server: Server, tmp_path: Path) -> None:
    """A file too large for a body goes up under its digest, `curl -T`, and is named in the result."""
    data = bytes(range(256)) * 5000
    (tmp_path / "big.bin").write_bytes(data)
    digest = subprocess.run(
        ["sha256sum", str(tmp_path / "big.bin")], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    job = submit(server, cmd="make big.bin", outputs=["big.bin"])
    token = json.loads(curl(server, "/jobs/next")[2])["token"]
    auth = ("-H", f"Authorization: Bearer {token}")
    assert curl(server, f"/v1/blobs/{digest}", *auth, "-T", str(tmp_path / "big.bin"))[0] == 201
    body = json.dumps({"exit_code": 0, "outputs": {"big.bin": {"sha256": digest}}})
    assert curl(server, f"/jobs/{job}/result", *auth, "-X", "PUT", "-d", body)[0] == 200
    fetched = tmp_path / "fetched.bin"
    subprocess.run(["curl", "-sf", "-o", str(fetched), f"{server.url}/v1/jobs/{job}/outputs/big.bin"], check=True)
    assert fetched.read_bytes() == data


def test_waiting_curl_that_is_stopped_leaves_its_job_to_the_next(server: Server) -> None:
    """A disconnected long poll hands out nothing: the job's first attempt is the next caller's."""
    waiting = subprocess.run(["curl", "-s", "--max-time", "0.5", f"{server.url}/jobs/next?wait=60"], check=False)
    assert waiting.returncode == 28
    job = submit(server, cmd="true")
    told = json.loads(curl(server, "/jobs/next")[2])
    assert (told["id"], told["attempt"]) == (job, 1)
    body = json.dumps({"token": told["token"], "exit_code": 0})
    assert curl(server, f"/jobs/{job}/result", "-X", "PUT", "-d", body)[0] == 200


def test_open_mode_is_said_at_start(server: Server) -> None:
    """Whoever starts it is told what it means."""
    submit(server, cmd="true")
    assert "OPEN MODE" in "".join(server.output)
    assert json.loads(curl(server, "/hey")[2])["open"] is True
