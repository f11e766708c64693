"""The server about itself: who it is, whether it is well, what it counts, its keys, its problems."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from gnexec.errors import REFUSALS
from gnexec.keys import ServerKeys
from gnexec.store.memory import MemoryStore
from gnexec.tokens.jwk import import_set, kid_of
from tests.web.clocks import FakeClock
from tests.web.sites import ORIGIN, Site, check_problem, open_site
from tests.web.volunteers import volunteer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/", "/hey", "/v1"])
async def test_hey_says_who_answers_and_where_things_are(secured: Site, path: str) -> None:
    """GnExec's greeting, with links that lead somewhere."""
    reply = await secured.http.get(path)
    told = reply.json()
    assert (told["I am"], told["origin"], told["open"]) == ("gnexec", ORIGIN, False)
    for name, link in told["_links"].items():
        found = await secured.http.request("HEAD" if name not in ("next", "jobs") else "OPTIONS", link["href"])
        assert found.status_code in (200, 405)


async def test_open_mode_says_so(opened: Site) -> None:
    """A client knows what it has before it."""
    assert (await opened.http.get("/hey")).json()["open"] is True


async def test_healthz_and_readyz_are_well(secured: Site) -> None:
    """A server that serves says so."""
    for path in ("/healthz", "/readyz"):
        reply = await secured.http.get(path)
        assert (reply.status_code, reply.json()["ok"]) == (200, True)


@pytest.mark.parametrize("jump_s", [-3600, 3600])
async def test_clock_that_jumps_stops_hand_outs_and_says_so(secured: Site, jump_s: int) -> None:
    """No lease lapses, none is given, until the clock is set right."""
    await secured.submit()
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    taken = await ann.take()
    await ann.tell(taken, progress=0.1)
    await secured.submit(argv=["other"])
    secured.clock.jumped_ms = 1000 * jump_s
    before = await secured.size()
    told = check_problem(await secured.http.get("/readyz"), "unready")
    assert f"{jump_s:+d} s" in told["detail"]
    reply = await bob.ask()
    check_problem(reply, "unready")
    assert int(reply.headers["retry-after"]) > 0
    assert (await secured.http.get("/healthz")).status_code == 200
    assert await secured.size() == before
    assert (await ann.finish(taken)).json()["verdict"] == "valid"
    secured.clock.jumped_ms = 0
    await secured.size()
    assert (await secured.http.get("/readyz")).status_code == 200
    assert (await bob.ask()).status_code == 200


async def test_readyz_fails_while_the_store_is_away(keys: ServerKeys, tmp_path: Path) -> None:
    """And every call says 503, with the time to try again; the process lives."""
    clock = FakeClock()
    store = MemoryStore(clock_ms=clock.wall)
    async with open_site(keys, tmp_path, store=store, clock=clock) as site:
        ann = await volunteer(site)
        me = site.person()
        store._closed = True
        check_problem(await site.http.get("/readyz"), "unready", "store_away")
        for reply in (
            await ann.ask(),
            await site.http.get("/v1/jobs/1", headers=me),
            await site.http.post("/v1/jobs", json={"argv": ["x"]}, headers=me),
            await site.http.get("/metrics"),
            await site.http.get("/checkpoint"),
        ):
            assert check_problem(reply, "store_away", "unready")["status"] == 503
            assert int(reply.headers["retry-after"]) > 0
        assert (await site.http.get("/healthz")).status_code == 200
        store._closed = False
        while (await site.http.get("/readyz")).status_code != 200:
            await site.http.get("/healthz")
        assert (await ann.ask()).status_code == 204


async def test_metrics_count_without_naming_anybody(secured: Site) -> None:
    """Jobs, attempts, workers and entries; never a job's or a worker's id as a label."""
    await secured.submit()
    await secured.submit(argv=["other"])
    ann = await volunteer(secured)
    await ann.finish(await ann.take())
    reply = await secured.http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    found = dict(re.findall(r"^(gnexec_\w+(?:\{[^}]*\})?) ([0-9.e+]+)$", reply.text, re.MULTILINE))
    assert float(found['gnexec_jobs{state="queued"}']) == 1
    assert float(found['gnexec_jobs_decided_total{state="succeeded"}']) == 1
    assert float(found['gnexec_attempts_total{state="succeeded"}']) == 1
    assert float(found["gnexec_workers"]) == 1
    assert float(found["gnexec_hand_outs_open"]) == 0
    assert float(found["gnexec_log_entries"]) == await secured.size()
    assert ann.worker not in reply.text
    assert not re.search(r"\{(?!state=)", reply.text)


async def test_jwks_has_the_public_keys_and_only_those(secured: Site) -> None:
    """Anyone may verify tokens; nobody can make them."""
    reply = await secured.http.get("/.well-known/jwks.json")
    assert reply.headers["content-type"] == "application/jwk-set+json"
    assert set(import_set(reply.content)) == set(secured.office.keys.token_public)
    current = secured.office.keys.token_current
    assert kid_of(current.public_key()) in reply.text
    assert all(set(key) <= {"kty", "crv", "x", "kid", "use", "alg"} for key in reply.json()["keys"])
    secret = current.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    assert secret not in reply.content


@pytest.mark.parametrize("code", REFUSALS)
async def test_problems_type_leads_to_what_it_stands_for(secured: Site, code: str) -> None:
    """The `type` of a problem is a link."""
    reply = await secured.http.get(f"/problems/{code}")
    status, title = REFUSALS[code]
    assert reply.json() == {"type": f"/problems/{code}", "title": title, "status": status}


async def test_failure_of_the_server_shows_nothing_of_its_inside(
    secured: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told that it failed; why is the operator's to read."""

    def fail(_: object) -> None:
        msg = "secret inside"
        raise RuntimeError(msg)

    monkeypatch.setattr("gnexec.web.system._count", fail)
    reply = await secured.http.get("/metrics")
    check_problem(reply, "internal")
    assert "inside" not in reply.text
    monkeypatch.undo()
    assert (await secured.http.get("/metrics")).status_code == 200
