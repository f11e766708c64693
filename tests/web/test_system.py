"""The server about itself: who it is, whether it is well, what it counts, its keys, its problems."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from gnexec.core.world import World
from gnexec.errors import REFUSALS, StoreAway
from gnexec.keys import ServerKeys
from gnexec.store.memory import MemoryStore
from gnexec.tokens.jwk import import_set, kid_of
from gnexec.web import resource, system
from tests.web.clocks import FakeClock
from tests.web.logs import over
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
    await secured.pass_s(2)  # the writer looks at the clock at least as often as it beats
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
    await secured.pass_s(2)
    assert (await secured.http.get("/readyz")).status_code == 200
    assert (await bob.ask()).status_code == 200


async def test_readyz_fails_while_the_store_is_away(keys: ServerKeys, tmp_path: Path) -> None:
    """And every call says 503, with the time to try again; the process lives."""
    clock = FakeClock()
    store = MemoryStore(clock_ms=clock.wall)
    async with open_site(keys, tmp_path, over(store), clock=clock) as site:
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
    assert float(found['gnexec_jobs_decided{state="succeeded"}']) == 1
    assert float(found['gnexec_attempts_ended{state="succeeded"}']) == 1
    assert float(found["gnexec_workers"]) == 1
    assert float(found["gnexec_hand_outs_open"]) == 0
    assert float(found["gnexec_log_entries"]) == await secured.size()
    assert ann.worker not in reply.text
    samples = [sample for family in text_string_to_metric_families(reply.text) for sample in family.samples]
    labels = {"state", "method", "route", "status", "rank", "le"}
    assert {label for sample in samples for label in sample.labels} <= labels
    routes = {sample.labels["route"] for sample in samples if "route" in sample.labels}
    assert routes <= {operation.path for operation in secured.app.state.operations} | {"none"}


async def test_metrics_count_requests_by_route_and_class_without_the_time_they_waited(secured: Site) -> None:
    """A request is counted once, under its route; a long poll is not taken for a slow one; what is lost is "none"."""
    job = await secured.submit()
    route = "/v1/jobs/{job:number}"

    async def count() -> dict[tuple[str, str], float]:
        text = (await secured.http.get("/metrics")).text
        return {
            (sample.name, sample.labels.get("status", sample.labels.get("le", ""))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("route") == route and sample.labels["method"] == "GET"
        }

    before = await count()
    me = secured.person()
    assert (await secured.http.get(f"/v1/jobs/{job}", headers=me, params={"wait": "1"})).status_code == 200
    assert (await secured.http.get("/v1/jobs/999", headers=me)).status_code == 404
    assert (await secured.http.get(f"/nothing/{job}")).status_code == 404
    after = await count()
    name = "gnexec_http_requests_total"
    assert after[name, "2xx"] - before.get((name, "2xx"), 0) == 1
    assert after[name, "4xx"] - before.get((name, "4xx"), 0) == 1
    sums = after["gnexec_http_request_seconds_sum", ""] - before.get(("gnexec_http_request_seconds_sum", ""), 0)
    assert 0 < sums < 0.85, "the shortest wait"


async def test_metrics_show_who_waits(secured: Site) -> None:
    """A long poll counts while it lasts."""
    ann = await volunteer(secured)

    async def polls() -> float:
        text = (await secured.http.get("/metrics")).text
        return float(re.findall(r"^gnexec_long_polls ([0-9.]+)$", text, re.MULTILINE)[0])

    asking = asyncio.ensure_future(ann.ask(wait=300))
    while await polls() != 1:
        assert not asking.done()
    await secured.submit()
    assert (await asking).status_code == 200
    assert await polls() == 0


async def test_metrics_count_once_for_all_who_ask_at_a_time(secured: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting walks over all workers, so who asks often is told what was counted just before; requests count on."""
    counted = 0
    count = system._count

    def noted(world: World) -> system._Counted:
        nonlocal counted
        counted += 1
        return count(world)

    monkeypatch.setattr(system, "_count", noted)
    monkeypatch.setattr(secured.app.state.checks.counted, "_keep_s", 3600)
    replies = await asyncio.gather(*(secured.http.get("/metrics") for _ in range(10)))
    assert {reply.status_code for reply in replies} == {200}
    assert (await secured.http.get("/metrics")).status_code == 200
    assert counted == 1
    secured.app.state.checks.counted._kept = None
    assert (await secured.http.get("/metrics")).status_code == 200
    assert counted == 2


async def test_readyz_asks_a_store_that_hangs_once_and_says_unready(
    secured: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask, one thread waits for the store, and everybody hears that it does not answer."""
    back, pings = threading.Event(), 0

    def hangs() -> None:
        nonlocal pings
        if threading.current_thread().name != "gnexec-writer":  # whose batches ping a store in memory as well
            pings += 1
            back.wait(30)

    monkeypatch.setattr(system, "PING_S", 0.01)
    monkeypatch.setattr(secured.office.store, "ping", hangs)
    for _ in range(2):
        for reply in await asyncio.gather(*(secured.http.get("/readyz") for _ in range(5))):
            assert "has not answered" in check_problem(reply, "unready")["detail"]
    assert pings == 1
    back.set()
    monkeypatch.setattr(system, "PING_S", 30)
    assert (await secured.http.get("/readyz")).status_code == 200


async def test_description_is_made_once(secured: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never changes while a server runs, and takes long to make."""

    def never(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(system, "describe", never)
    assert (await secured.http.get("/openapi.json")).json()["openapi"].startswith("3.1")


def test_store_that_is_away_is_told_once_and_again_when_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand requests that fail for one reason are one line of the operator's log."""
    monkeypatch.setattr(resource, "_outage", resource._Outage())

    def told(*reasons: str) -> list[str]:
        with capture_logs() as lines:
            for why in reasons:
                assert resource.problem(StoreAway(why)).status_code == 503
        return [line["error"] for line in lines]

    assert told("no route", "no route", "no route") == ["no route"]
    assert told("no route", "no login", "no route", "no login") == ["no login"]
    monkeypatch.setattr(resource, "QUIET_S", -1)
    assert told("no route") == ["no route"]


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
