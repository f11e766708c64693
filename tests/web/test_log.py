"""The log over HTTP: files that any C2SP client reads, payloads only once they are released, receipts to take home."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from typing import Any

import httpx2
import pytest

from gnexec.core.job import Job, fold
from gnexec.desk import releasing
from gnexec.desk.office import Office
from gnexec.ids import salted_digest
from gnexec.store.contract import Entry
from gnexec.tlog.checkpoint import Checkpoint, open_checkpoint
from gnexec.tlog.merkle import leaf_hash, node_hash
from gnexec.tlog.note import Verifier, parse_vkey
from gnexec.tlog.receipt import parse_receipt, verify_receipt
from gnexec.tlog.tiles import decode_entries
from gnexec.tokens.issued import Scope
from gnexec.wire import decode_event
from tests.web.sites import ORIGIN, Site, bearer, check_problem
from tests.web.volunteers import volunteer

pytestmark = pytest.mark.anyio


async def verifier(site: Site) -> Verifier:
    """Fetch the log's verifier key, as a first-time visitor does."""
    return parse_vkey((await site.http.get("/log.vkey")).text.strip())


async def checkpoint(site: Site) -> Checkpoint:
    """Fetch and check the checkpoint."""
    reply = await site.http.get("/checkpoint")
    return open_checkpoint(reply.content, [await verifier(site)], ORIGIN)


async def payloads(site: Site, headers: dict[str, str] | None = None, **params: int) -> list[dict[str, Any]]:
    """Fetch what is shown of the entries."""
    reply = await site.http.get("/log/payloads", headers=headers, params=params)
    assert reply.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in reply.text.splitlines()]


def naive_root(leaves: list[bytes]) -> bytes:
    """Return the tree's root, literally as RFC 6962, section 2.1, has it."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


async def grow(site: Site, size: int) -> None:
    """Let the log have at least `size` entries."""
    while await site.size() < size:
        jobs = [{"argv": ["x", str(await site.size()), str(i)]} for i in range(2)]
        await site.http.post("/v1/jobs", json={"jobs": jobs}, headers=site.person())


async def finished(site: Site, data_class: str, **body: Any) -> int:  # noqa: ANN401 -- any JSON
    """Take a job of a data class to its end."""
    job = await site.submit(data_class=data_class, **body)
    ann = await volunteer(site)
    await ann.finish(await ann.take())
    return job


async def test_checkpoint_commits_to_the_entries_that_are_served(secured: Site) -> None:
    """The root, recomputed from the leaves by the RFC's own words, is the signed one."""
    await finished(secured, "project")
    head = await checkpoint(secured)
    assert head.size == await secured.size()
    reply = await secured.http.get(f"/tile/entries/000.p/{head.size}")
    leaves = list(decode_entries(reply.content, head.size))
    assert len(leaves) == head.size
    assert naive_root(leaves) == head.root
    hashes = (await secured.http.get(f"/tile/0/000.p/{head.size}")).content
    assert hashes == b"".join(map(leaf_hash, leaves))


async def test_full_tiles_are_for_ever_and_the_rest_is_not(secured: Site) -> None:
    """256 entries fill a tile, which never changes; partial ones and the checkpoint are asked for anew."""
    await grow(secured, 300)
    size = await secured.size()
    for path in ("/tile/0/000", "/tile/entries/000"):
        reply = await secured.http.get(path)
        assert reply.status_code == 200
        assert "immutable" in reply.headers["cache-control"]
    for path in ("/checkpoint", f"/tile/0/001.p/{size - 256}", f"/tile/entries/001.p/{size - 256}", "/tile/1/000.p/1"):
        reply = await secured.http.get(path)
        assert reply.status_code == 200
        assert "immutable" not in reply.headers["cache-control"]
    first = (await secured.http.get("/tile/0/000")).content
    assert len(first) == 256 * 32
    leaves = list(decode_entries((await secured.http.get("/tile/entries/000")).content, 256))
    assert (await secured.http.get("/tile/1/000.p/1")).content == naive_root(leaves)
    assert (await secured.http.get("/tile/0/000.p/7")).content == first[: 7 * 32]


@pytest.mark.parametrize(
    "tile",
    ["0/001", "0/000.p/255", "1/000.p/1", "entries/001", "entries/000.p/255", "0/x001/000", "63/000.p/1", "0/000"],
)
async def test_tile_that_the_log_has_not_grown_to_is_404(secured: Site, tile: str) -> None:
    """Nothing is padded, nothing is promised."""
    reply = await secured.http.get(f"/tile/{tile}")
    check_problem(reply, "not_found")
    assert reply.headers["cache-control"] == "no-store"


async def test_project_jobs_payloads_are_withheld_for_ever(secured: Site) -> None:
    """What is not public is committed to, and not shown."""
    await finished(secured, "project")
    shown = {line["seq"] for line in await payloads(secured) if not line.get("withheld")}
    kinds = [type(event).__name__ for event in await secured.events()]
    assert {kinds[seq] for seq in shown} == {"LogOpened", "KeyAdded", "KeyCurrent", "PolicySet", "WorkerEnrolled"}


async def test_public_jobs_payloads_are_released_when_it_is_closed_and_not_before(secured: Site) -> None:
    """While an attempt is open nobody sees who computes what, nor any answer."""
    await secured.submit(data_class="public", redundancy={"replicas": 2, "quorum": 1})
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    fast, slow = await ann.take(), await bob.take()
    await ann.finish(fast)
    hidden = [line for line in await payloads(secured) if line.get("withheld")]
    assert len(hidden) == 5
    assert all(set(line) == {"seq", "withheld"} for line in hidden)
    await bob.finish(slow)
    lines = await payloads(secured)
    assert not any(line.get("withheld") for line in lines)
    leaves = list(decode_entries((await secured.http.get(f"/tile/entries/000.p/{len(lines)}")).content, len(lines)))
    for line, leaf in zip(lines, leaves, strict=True):
        digest = salted_digest(bytes.fromhex(line["salt"]), line["payload"].encode()).hex()
        assert json.loads(leaf)["d"] == digest
        decode_event(line["payload"].encode())


async def test_entry_about_a_public_and_a_project_job_is_withheld(secured: Site) -> None:
    """A hand-out of both is shown only if both may be seen."""
    await secured.submit(argv=["a"], data_class="public")
    await secured.submit(argv=["b"], data_class="project")
    ann = await volunteer(secured)
    assert len((await ann.ask(n=2)).json()["jobs"]) == 2
    for job in (1, 2):
        await secured.http.post(f"/v1/jobs/{job}:cancel", headers=secured.person())
    await secured.pass_s(62)
    kinds = [type(event).__name__ for event in await secured.events()]
    shown = [kinds[line["seq"]] for line in await payloads(secured) if not line.get("withheld")]
    assert shown.count("Submitted") == 1
    assert "HandedOut" not in shown
    assert "AttemptsLapsed" not in shown


async def test_auditor_sees_every_payload_and_nobody_else(secured: Site) -> None:
    """The scope `audit` opens what the data class keeps back."""
    await finished(secured, "project")
    told = await payloads(secured, bearer(secured.token("eve", Scope.AUDIT)))
    assert len(told) == await secured.size()
    assert not any(line.get("withheld") for line in told)
    for wrong in (secured.person(), bearer("x"), {"Authorization": ""}):
        check_problem(await secured.http.get("/log/payloads", headers=wrong), "wrong_scope", "bad_token", "no_token")


async def test_payloads_come_in_pages(secured: Site) -> None:
    """At most 256 at a time, from any entry on; behind the end there are none."""
    await grow(secured, 300)
    size = await secured.size()
    assert [line["seq"] for line in await payloads(secured)] == list(range(256))
    assert [line["seq"] for line in await payloads(secured, start=250, count=100)] == list(range(250, min(size, 350)))
    assert await payloads(secured, start=size) == []
    assert await payloads(secured, start=2**53 - 1) == []
    check_problem(await secured.http.get("/log/payloads?count=257"), "invalid")


async def closed_jobs(site: Site, count: int) -> None:
    """Have public jobs handed out together, withdrawn and closed."""
    jobs = [{"argv": ["x", str(i)], "data_class": "public"} for i in range(count)]
    (await site.http.post("/v1/jobs", json={"jobs": jobs}, headers=site.person())).raise_for_status()
    ann = await volunteer(site)
    assert len((await ann.ask(n=count)).json()["jobs"]) == count
    for job in range(1, count + 1):
        (await site.http.post(f"/v1/jobs/{job}:cancel", headers=site.person())).raise_for_status()
    assert sum(bool(line.get("withheld")) for line in await payloads(site)) == 2 + count
    await site.pass_s(62)


async def test_page_of_many_jobs_folds_each_once_beside_the_writer_and_never_again(
    secured: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for payloads takes nothing from those who work, however many jobs a page tells of."""
    folded: list[tuple[int, str]] = []

    def noted(number: int, story: Any) -> Job | None:  # noqa: ANN401 -- as `fold`
        folded.append((number, threading.current_thread().name))
        return fold(number, story)

    await closed_jobs(secured, 64)
    secured.office.releases._shown.clear()
    monkeypatch.setattr(releasing, "fold", noted)
    lines = await payloads(secured)
    assert len(lines) == await secured.size()
    assert not any(line.get("withheld") for line in lines)
    assert sorted(number for number, _ in folded) == list(range(1, 65))
    assert "gnexec-writer" not in {thread for _, thread in folded}
    assert await payloads(secured) == lines
    assert len(folded) == 64


async def test_job_that_is_open_in_the_world_keeps_its_payloads_back_whatever_the_store_says(secured: Site) -> None:
    """Of two answers the one that shows less is believed."""
    await finished(secured, "public")
    job = await secured.office.desk.ask(lambda view: view.job(1))
    assert job is not None
    assert job.closed
    await secured.office.desk.ask(lambda view: view.world.jobs.__setitem__(1, job))
    assert sum(bool(line.get("withheld")) for line in await payloads(secured)) == 4


async def test_pages_are_made_few_at_a_time_and_others_wait_or_come_again(
    secured: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are made, so many wait, one more is refused; meanwhile everything else is answered."""
    reading, going_on = threading.Semaphore(0), threading.Event()
    entries = secured.office.store.entries

    def slow(start: int, stop: int) -> list[Entry]:
        if threading.current_thread().name != "gnexec-writer":
            reading.release()
            going_on.wait(30)
        return entries(start, stop)

    monkeypatch.setattr(releasing, "MOST_WAITING", 1)
    monkeypatch.setattr(secured.office.store, "entries", slow)
    asked = [asyncio.create_task(secured.http.get("/log/payloads")) for _ in range(releasing.AT_ONCE)]
    for _ in asked:
        assert await asyncio.to_thread(reading.acquire, timeout=30)
    asked.append(asyncio.create_task(secured.http.get("/log/payloads")))
    while not secured.office.releases._waiting:  # noqa: ASYNC110 -- nobody tells
        await asyncio.sleep(0)
    check_problem(await secured.http.get("/log/payloads"), "overloaded")
    assert (await secured.http.get("/checkpoint")).status_code == 200
    assert await secured.submit()
    going_on.set()
    assert [(await task).status_code for task in asked] == [200] * 3


async def test_log_shows_no_command_line_name_or_output(secured: Site) -> None:
    """Content is named by salted digests; the log itself, payloads included, never says it."""
    await finished(secured, "public", argv=["echo", "verysecret"], name="myname", env={"SECRETVAR": "x"})
    entries = await secured.office.desk.ask(lambda view: view.store.entries(0, view.world.size))
    everything = b"".join(entry.leaf + entry.payload for entry in entries)
    for word in (b"verysecret", b"myname", b"SECRETVAR", b"hi\n", b'"ada"', b'"ann"', b"bxd"):
        assert word not in everything
    assert hashlib.sha256(b"verysecret").hexdigest().encode() not in everything


# Receipts.


def check_receipt(told: dict[str, Any], key: Verifier) -> None:
    """Check a receipt with nothing but the log's key: payload to leaf, leaf to tree, tree to signature."""
    assert told["log"] == ORIGIN
    leaf = told["leaf"].encode()
    digest = salted_digest(bytes.fromhex(told["salt"]), told["payload"].encode()).hex()
    assert json.loads(leaf)["d"] == digest
    receipt = parse_receipt(told["proof"].encode())
    assert receipt.index == told["seq"]
    verify_receipt(receipt, leaf, [key], ORIGIN)


async def test_receipt_of_a_result_verifies_offline(secured: Site) -> None:
    """It is complete in the reply: the worker's own statement, in the log, under a signed checkpoint."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    statement = ann.statement(taken, answer.result)
    told = (await ann.put(taken, statement)).json()["receipt"]
    check_receipt(told, await verifier(secured))
    assert json.loads(told["payload"])["statement"] == statement


async def test_receipts_of_a_job_tell_its_submission_results_and_decision(secured: Site) -> None:
    """What an owner may see of a job, each with its proof; results not before the decision."""
    key = await verifier(secured)
    job = await secured.submit(redundancy={"replicas": 2, "quorum": 2})
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")
    path = f"/v1/jobs/{job}/receipt"

    async def tags() -> list[str]:
        told = (await secured.http.get(path, headers=secured.person())).json()["receipts"]
        for one in told:
            check_receipt(one, key)
        return [json.loads(one["payload"])["t"] for one in told]

    await ann.finish(await ann.take())
    assert await tags() == ["submitted/1"]
    await bob.finish(await bob.take())
    assert await tags() == ["submitted/1", "results-reported/1", "results-reported/1", "jobs-decided/1"]


async def test_repeated_result_gets_a_receipt_under_the_newest_checkpoint(secured: Site) -> None:
    """The log has grown since; the proof leads to where it is now."""
    await secured.submit()
    ann = await volunteer(secured)
    taken = await ann.take()
    answer = ann.answer(taken)
    await ann.upload(taken, *answer.blobs)
    statement = ann.statement(taken, answer.result)
    first = (await ann.put(taken, statement)).json()["receipt"]
    await grow(secured, 300)
    again = (await ann.put(taken, statement)).json()["receipt"]
    check_receipt(again, await verifier(secured))
    assert (again["seq"], again["leaf"]) == (first["seq"], first["leaf"])
    sizes = [open_size(told, secured.office) for told in (first, again)]
    assert sizes == [sizes[0], await secured.size()]
    assert sizes[0] < sizes[1]


def open_size(told: dict[str, Any], office: Office) -> int:
    """Return the size of the log that a receipt leads to."""
    note = parse_receipt(told["proof"].encode()).checkpoint
    return open_checkpoint(note, [office.keys.log_verifier], ORIGIN).size


async def test_open_results_receipt_verifies_too(opened: Site) -> None:
    """Nothing was signed by the worker; that it was handed in is proved all the same."""
    job = await opened.submit()
    work = (await opened.http.get("/jobs/next")).json()
    body = {"token": work["token"], "exit_code": 0, "stdout": "hi\n"}
    reply: httpx2.Response = await opened.http.put(f"/jobs/{job}/result", json=body)
    check_receipt(reply.json()["receipt"], await verifier(opened))
