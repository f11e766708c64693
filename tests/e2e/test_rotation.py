"""Keys turn while attempts are out: no server is restarted, no token in flight refused, and the whole log verifies."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gnexec.errors import REFUSALS
from gnexec.keys import load, new_keys, retire_log_keys, revoke_token_keys, rotate_log_key, rotate_token_key
from gnexec.tokens.issued import Scope
from tests.databases import shared
from tests.desk.house import run
from tests.e2e.hosts import Remote, hosts, remotes
from tests.serving import Server, running_server
from tests.web.sites import ORIGIN, bearer

LONG_S = 40.0
Play = Callable[[list[Remote]], Awaitable[None]]


@pytest.fixture(params=["sqlite", "postgres"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Server]]:
    """One server over SQLite, or two over PostgreSQL, as on two hosts that share the folder of keys."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            new_keys(tmp_path / "data" / "keys", tmp_path / "data" / "public", ORIGIN)
            yield [stack.enter_context(running_server(tmp_path / "data", "--allow-raw"))]
            return
        database = stack.enter_context(shared().database())
        yield stack.enter_context(hosts(tmp_path / "data", database))


def play(servers: list[Server], scene: Play) -> None:
    """Let something happen at servers."""

    async def main() -> None:
        async with remotes(servers) as opened:
            await scene(opened)

    run(main())


def turn(server: Server, *ways: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401 -- as the functions take it
    """Turn keys as the commands do."""
    for way in ways:
        way(server.private_keys, server.data / "public", now_s=int(time.time()), **options)


def gnexec(home: Path, *arguments: str) -> str:
    """Run a command that must succeed; return what it prints."""
    env = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "gnexec", *arguments], capture_output=True, text=True, env=env, cwd=home, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def taken_up(remote: Remote) -> None:
    """Wait until a server has taken up the ring as it is on disk, and the log says so."""
    keys = load(remote.server.private_keys)
    give_up = time.monotonic() + LONG_S
    while True:
        jwks = (await remote.http.get("/.well-known/jwks.json")).json()["keys"]
        log = (await remote.http.get("/log/keys")).json()["keys"]
        ready = await remote.http.get("/readyz")
        in_force = [key["vkey"] for key in log if key["retired"] is None]
        wanted = [key.vkey for key in keys.log_keys if not key.row.until_s]
        if {key["kid"] for key in jwks} == set(keys.token_public) and in_force == wanted and ready.is_success:
            return
        assert time.monotonic() < give_up, (jwks, log, ready.text, remote.server.output)
        await asyncio.sleep(0.05)


def test_tokens_in_flight_are_good_across_rotations_of_both_kinds(servers: list[Server], tmp_path: Path) -> None:
    """Three rotations in a row, without a pause; every server takes every token at once; every key verifies the log."""
    first = servers[0].vkey

    async def scene(opened: list[Remote]) -> None:
        a, b = opened[0], opened[-1]
        ann = await a.volunteer()
        old_person = a.person()
        for _ in range(8):
            await a.submit()
        held = [await ann.take()]
        for _ in range(3):
            turn(a.server, rotate_token_key, rotate_log_key)
            held.append(await b.lend(ann).take())
            assert (await a.http.get("/v1/jobs/1", headers=old_person)).is_success
            assert (await b.http.get("/v1/jobs/1", headers=b.person())).is_success
            assert (await a.lend(ann).tell(held[0], progress=0.5)).is_success
            bob = await b.volunteer("bob")
            assert (await a.lend(bob).ask()).status_code in (200, 204)
        for i, one in enumerate(held):
            reply = await opened[i % len(opened)].lend(ann).finish(one)
            assert reply.json()["verdict"] == "valid", reply.text
        for remote in opened:
            await taken_up(remote)
        turn(a.server, retire_log_keys)
        for remote in opened:
            await taken_up(remote)
        note = (await b.http.get("/checkpoint")).text
        assert note.count("\n— ") == 1

    play(servers, scene)
    newest = servers[0].vkey
    assert newest != first
    audit = tmp_path / "audit.token"
    audit.touch(mode=0o600)
    audit.write_text(servers[0].access_token("auditor", Scope.AUDIT))
    for key in (first, newest):
        home = tmp_path / f"auditor {key[-4:-1].replace('/', '_')}"
        home.mkdir()
        for server in servers:
            told = json.loads(
                gnexec(home, "log", "verify", server.url, "--vkey", key, "--token-file", str(audit), "--json")
            )
            assert (told["ok"], told["level"], len(told["keys"])) == (True, "full", 4)
    if len(servers) == 1:
        gnexec(tmp_path, "log", "replay", "--data", str(servers[0].data))
    for server in servers:
        assert not any("Traceback" in line for line in server.output), server.output


def test_stolen_token_keys_are_thrown_out_while_servers_run(servers: list[Server]) -> None:
    """Whatever was signed before is refused at every server; with new access tokens all come back, and go on."""

    async def scene(opened: list[Remote]) -> None:
        a, b = opened[0], opened[-1]
        ann, person = await a.volunteer(), a.person()
        job = await a.submit()
        held = await ann.take()
        turn(a.server, revoke_token_keys)
        for remote in opened:
            await taken_up(remote)
            for reply in (
                await remote.http.get(f"/v1/jobs/{job}", headers=person),
                await remote.lend(ann).ask(),
                await remote.lend(ann).tell(held, progress=0.5),
                await remote.lend(ann).put(held, "x"),
            ):
                assert (reply.status_code, reply.json()["code"]) == (REFUSALS["unknown_key"][0], "unknown_key")
        again = b.lend(ann)
        assert (await again.enrol()).is_success
        more = await b.submit()
        assert (await a.lend(again).finish(await a.lend(again).take())).json()["verdict"] == "valid"
        assert (await a.job(more))["state"] == "succeeded"

    play(servers, scene)
    assert "key-revoked" in gnexec(servers[0].data, "log", "show", servers[0].url)


def test_keys_rotated_while_the_server_is_down_are_taken_up_at_its_start(tmp_path: Path) -> None:
    """Private keys of the log that are gone by then are not needed: each vouched for the next when it was made."""
    new_keys(tmp_path / "data" / "keys", tmp_path / "data" / "public", ORIGIN)
    with running_server(tmp_path / "data", "--allow-raw") as server:
        first = server.vkey
        person = bearer(server.access_token("ada", Scope.SUBMIT, Scope.READ))
        server.kill()
        turn(server, rotate_token_key, rotate_log_key, rotate_log_key, rotate_log_key, rotate_token_key)
        turn(server, rotate_log_key, alone=True)
        assert len(list(server.private_keys.glob("log*.pem"))) == 1
        server.start()

        async def scene(opened: list[Remote]) -> None:
            await taken_up(opened[0])
            assert (await opened[0].http.get("/v1/jobs/1", headers=person)).status_code == 404

        play([server], scene)
        for key in (first, server.vkey):
            assert "Verified: full." in gnexec(tmp_path, "log", "verify", str(server.data), "--vkey", key)


def test_host_whose_copy_of_the_keys_lags_is_not_ready_until_it_has_them(tmp_path: Path) -> None:
    """It refuses everything with 503 and says what it lacks; a start with the old copy fails; no restart is needed."""
    with shared().database() as database, ExitStack() as stack:
        flags = ("--database", database, "--allow-raw")
        new_keys(tmp_path / "ahead" / "keys", tmp_path / "ahead" / "public", ORIGIN)
        ahead = stack.enter_context(running_server(tmp_path / "ahead", *flags))
        shutil.copytree(ahead.private_keys, tmp_path / "lags" / "keys")
        lags = stack.enter_context(running_server(tmp_path / "lags", *flags))

        async def scene(opened: list[Remote]) -> None:
            a, b = opened
            ann = await a.volunteer()
            job = await a.submit()
            turn(a.server, rotate_token_key, rotate_log_key)
            await taken_up(a)
            while (told := await b.http.get("/readyz")).is_success:  # noqa: ASYNC110 -- another process makes it so
                await asyncio.sleep(0.05)
            assert "token key" in told.json()["detail"]
            assert "log key" in told.json()["detail"]
            assert "copy the folder" in told.json()["detail"]
            taken = await ann.take()
            for reply in (await b.lend(ann).ask(), await b.lend(ann).tell(taken, progress=0.1)):
                assert (reply.status_code, reply.json()["code"]) == (503, "unready")
            late = Server(tmp_path / "later", flags)
            shutil.copytree(b.server.private_keys, late.private_keys)
            with pytest.raises(AssertionError, match="keys that this server has not got"):
                late.start()
            for path in a.server.private_keys.iterdir():
                shutil.copy2(path, b.server.private_keys)
            await taken_up(b)
            assert (await b.lend(ann).finish(taken)).json()["verdict"] == "valid"
            assert (await b.job(job))["state"] == "succeeded"

        play([ahead, lags], scene)
