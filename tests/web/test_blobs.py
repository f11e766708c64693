"""Blobs: named by their digest, opened by nothing but an upload of one's own, or a job whose input they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import rfc8785

from gnexec.core.spec import Manifest, encode_manifest
from gnexec.desk import uploads
from gnexec.ids import sha256_hex
from gnexec.keys import ServerKeys
from tests.web.logs import Logs
from tests.web.sites import Json, Site, bearer, check_problem, open_site
from tests.web.volunteers import HandOut, Volunteer, random_id, stored, volunteer

pytestmark = pytest.mark.anyio
DATA = bytes(range(256)) * 40


def path_of(data: bytes) -> str:
    """Return where a blob is."""
    return f"/v1/blobs/{sha256_hex(data)}"


async def put(site: Site, data: bytes, headers: dict[str, str] | None = None) -> httpx2.Response:
    """Upload a blob."""
    return await site.http.put(path_of(data), content=data, headers=site.person() if headers is None else headers)


def kept(site: Site) -> list[Path]:
    """Return all files that the blob store holds, half-finished uploads included."""
    return sorted(path for path in (site.office.settings.data / "blobs").rglob("*") if path.is_file())


# Uploads.


async def test_upload_under_another_digest_is_refused_and_leaves_nothing(secured: Site) -> None:
    """Bytes are kept under their own name or not at all."""
    path = path_of(b"other")
    check_problem(await secured.http.put(path, content=DATA, headers=secured.person()), "invalid")
    assert kept(secured) == []
    check_problem(await secured.http.get(path, headers=secured.person()), "not_found")


@pytest.mark.parametrize("digest", ["x", "5E" * 32, "5e" * 31, "5e" * 33, "..%2f..%2fetc%2fpasswd", "5e" * 31 + "%0a"])
async def test_name_that_is_no_digest_is_refused(secured: Site, digest: str) -> None:
    """What is no digest never becomes a path."""
    for method in ("PUT", "GET"):
        reply = await secured.http.request(method, f"/v1/blobs/{digest}", content=b"", headers=secured.person())
        check_problem(reply, "invalid", "not_found", "method_not_allowed")
    assert kept(secured) == []


async def test_upload_over_the_cap_is_refused_and_leaves_nothing(keys: ServerKeys, tmp_path: Path, logs: Logs) -> None:
    """Said beforehand or found out on the way."""
    async with open_site(keys, tmp_path, logs, max_blob_bytes=1 << 16) as site:
        data = bytes((1 << 16) + 1)

        async def unsaid() -> Any:  # noqa: ANN401 -- an async iterator
            yield data

        check_problem(await put(site, data), "too_large")
        reply = await site.http.put(path_of(data), content=unsaid(), headers=site.person())
        check_problem(reply, "too_large")
        assert kept(site) == []
        assert (await put(site, data[1:])).status_code == 201


async def test_upload_says_what_is_kept(secured: Site) -> None:
    """Digest, size, and where it is."""
    reply = await put(secured, DATA)
    assert (reply.status_code, reply.json()) == (
        201,
        {"sha256": sha256_hex(DATA), "size": len(DATA), "href": path_of(DATA)},
    )


async def test_upload_without_a_token_is_refused(secured: Site) -> None:
    """In secured mode nobody fills the disk unnamed."""
    check_problem(await put(secured, DATA, {}), "no_token")
    check_problem(await put(secured, DATA, (await volunteer(secured)).headers), "bad_token")
    assert kept(secured) == []


async def test_client_that_breaks_off_an_upload_leaves_nothing(secured: Site) -> None:
    """A blob appears whole or not at all."""
    messages: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": DATA, "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:  # noqa: ANN401 -- any ASGI message
        raise AssertionError(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in secured.person().items()]
    scope = {"type": "http", "method": "PUT", "path": path_of(DATA), "query_string": b"", "headers": headers}
    await secured.app({**scope, "root_path": ""}, receive, send)
    assert kept(secured) == []


# Who may name and read them.


async def test_digest_of_another_owners_blob_opens_nothing(secured: Site) -> None:
    """A digest that was overheard is not the file: neither to be read nor to be named as an input."""
    await put(secured, DATA, secured.person("ada"))
    eve = secured.person("eve")
    check_problem(await secured.http.get(path_of(DATA), headers=eve), "not_found")
    before = await secured.size()
    body = {"argv": ["cat", "x"], "inputs": {"x": sha256_hex(DATA)}}
    told = check_problem(await secured.http.post("/v1/jobs", json=body, headers=eve), "invalid")
    assert told["field"] == "inputs.x"
    assert await secured.size() == before


async def test_unknown_blob_and_another_owners_are_the_same_404(secured: Site) -> None:
    """Nobody learns that a file exists."""
    await put(secured, DATA, secured.person("ada"))
    foreign = await secured.http.get(path_of(DATA), headers=secured.person("eve"))
    unknown = await secured.http.get(path_of(b"never"), headers=secured.person("eve"))
    assert foreign.text == unknown.text


async def test_job_token_reads_the_inputs_of_its_job_and_nothing_else(secured: Site) -> None:
    """A worker sees what it needs for what it does."""
    for data in (DATA, b"another input"):
        await put(secured, data)
    await secured.submit(argv=["cat", "x"], inputs={"x": sha256_hex(DATA)})
    await secured.submit(argv=["cat", "y"], inputs={"y": sha256_hex(b"another input")})
    taken = await (await volunteer(secured)).take()
    assert (await secured.http.get(path_of(DATA), headers=taken.headers)).content == DATA
    check_problem(await secured.http.get(path_of(b"another input"), headers=taken.headers), "not_found")


async def test_job_token_past_its_deadline_reads_and_writes_nothing(secured: Site) -> None:
    """`exp` is the end of it."""
    await put(secured, DATA)
    await secured.submit(inputs={"x": sha256_hex(DATA)}, needs={"wall_s": 10})
    taken = await (await volunteer(secured)).take()
    await secured.pass_s(30)
    check_problem(await secured.http.get(path_of(DATA), headers=taken.headers), "too_late")
    check_problem(await put(secured, b"late", taken.headers), "too_late")


async def test_upload_counts_for_the_worker_that_made_it_only(secured: Site) -> None:
    """Who names another worker's blobs as its own outputs has copied, not computed."""
    await secured.submit(redundancy={"replicas": 2, "quorum": 2})
    ann, eve = await volunteer(secured, "ann"), await volunteer(secured, "eve")
    honest, lazy = await ann.take(), await eve.take()
    await ann.finish(honest)
    copied = eve.answer(lazy)
    before = await secured.size()
    check_problem(await eve.put(lazy, eve.statement(lazy, copied.result)), "invalid")
    await eve.upload(lazy, copied.blobs[-1])
    check_problem(await eve.put(lazy, eve.statement(lazy, copied.result)), "invalid")
    check_problem(await secured.http.get(path_of(b"hi\n"), headers=lazy.headers), "not_found")
    assert await secured.size() == before


async def test_worker_keeps_what_it_uploaded_across_its_hand_outs(secured: Site) -> None:
    """The same output of two jobs is sent once."""
    ann = await volunteer(secured)
    for word in "ab":
        await secured.submit(argv=[word])
    first, second = await ann.take(), await ann.take()
    await ann.finish(first)
    again = ann.answer(second)
    assert (await ann.put(second, ann.statement(second, again.result))).json()["verdict"] == "valid"


async def test_output_that_an_owner_has_read_may_be_the_input_of_a_next_job(secured: Site) -> None:
    """Without sending it back; a stranger still may not name it."""
    job = await secured.submit()
    ann = await volunteer(secured)
    await ann.finish(await ann.take(), DATA)
    body = {"argv": ["cat", "x"], "inputs": {"x": sha256_hex(DATA)}}
    check_problem(await secured.http.post("/v1/jobs", json=body, headers=secured.person()), "invalid")
    await secured.http.get(f"/v1/jobs/{job}/result", headers=secured.person())
    assert (await secured.http.post("/v1/jobs", json=body, headers=secured.person())).status_code == 201
    check_problem(await secured.http.post("/v1/jobs", json=body, headers=secured.person("eve")), "invalid")


# Parts, and what a client has already.


@pytest.fixture
async def held(secured: Site) -> Site:
    """Keep a blob of Ada's."""
    await put(secured, DATA)
    return secured


RANGES = [
    ("bytes=0-0", DATA[:1]),
    ("bytes=100-199", DATA[100:200]),
    ("bytes=10000-", DATA[10_000:]),
    ("bytes=-5", DATA[-5:]),
    ("bytes=-99999", DATA),
    ("bytes=10239-99999", DATA[-1:]),
]


@pytest.mark.parametrize(("asked", "part"), RANGES)
async def test_range_is_served(held: Site, asked: str, part: bytes) -> None:
    """An interrupted download goes on where it broke off."""
    reply = await held.http.get(path_of(DATA), headers={**held.person(), "Range": asked})
    assert (reply.status_code, reply.content) == (206, part)
    assert reply.headers["content-range"].endswith(f"/{len(DATA)}")
    head = await held.http.head(path_of(DATA), headers={**held.person(), "Range": asked})
    assert (head.status_code, head.headers["content-length"]) == (206, str(len(part)))


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
async def test_range_outside_the_file_is_416(held: Site, asked: str) -> None:
    """With the size, so that the client knows better."""
    reply = await held.http.get(path_of(DATA), headers={**held.person(), "Range": asked})
    check_problem(reply, "bad_range")
    assert reply.headers["content-range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "asked",
    ["bytes=", "bytes=-", "bytes=5-1", "bytes=a-b", "lines=1-2", "x", "bytes=0-1,5-6", "bytes=" + "9" * 5000 + "-"],
)
async def test_range_that_is_malformed_or_manifold_is_passed_over(held: Site, asked: str) -> None:
    """RFC 9110, section 14.2: a server may ignore it, and send the whole."""
    reply = await held.http.get(path_of(DATA), headers={**held.person(), "Range": asked})
    assert (reply.status_code, reply.content) == (200, DATA)


async def test_empty_blob_has_no_range(secured: Site) -> None:
    """There is no first byte."""
    await put(secured, b"")
    assert (await secured.http.get(path_of(b""), headers=secured.person())).content == b""
    reply = await secured.http.get(path_of(b""), headers={**secured.person(), "Range": "bytes=0-"})
    check_problem(reply, "bad_range")


async def test_blob_that_the_client_has_is_not_sent_again(held: Site) -> None:
    """The entity tag is the digest."""
    etag = (await held.http.get(path_of(DATA), headers=held.person())).headers["etag"]
    assert etag == f'"{sha256_hex(DATA)}"'
    for tags in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        reply = await held.http.get(path_of(DATA), headers={**held.person(), "If-None-Match": tags})
        assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", etag)
    reply = await held.http.get(path_of(DATA), headers={**held.person(), "If-None-Match": '"x"'})
    assert (reply.status_code, reply.content) == (200, DATA)


async def test_range_of_another_version_is_the_whole_file(held: Site) -> None:
    """`If-Range` with another tag: what the client has is of another file."""
    told = {**held.person(), "Range": "bytes=99999-", "If-Range": '"x"'}
    reply = await held.http.get(path_of(DATA), headers=told)
    assert (reply.status_code, reply.content) == (200, DATA)
    told = {**held.person(), "Range": "bytes=1-2", "If-Range": f'"{sha256_hex(DATA)}"'}
    assert (await held.http.get(path_of(DATA), headers=told)).content == DATA[1:3]


async def test_blob_may_be_cached_for_ever_but_by_nobody_else(held: Site) -> None:
    """Its name says what it is; it is private; no browser runs it."""
    headers = (await held.http.get(path_of(DATA), headers=held.person())).headers
    assert "immutable" in headers["cache-control"]
    assert "private" in headers["cache-control"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


# Outputs of a job.


async def test_outputs_and_logs_of_a_job_are_told_apart_whatever_they_are_called(secured: Site) -> None:
    """An output called stderr is an output; standard error is what the job wrote to it."""
    job = await secured.submit(argv=["x"], outputs=["stderr", "a/b.txt"])
    ann = await volunteer(secured)
    taken = await ann.take()
    manifest = Manifest(
        outputs={"stderr": stored(b"file"), "a/b.txt": stored(DATA)}, stdout=stored(b"out"), stderr=stored(b"err")
    )
    data = encode_manifest(manifest)
    answer = ann.answer(taken, outs=sha256_hex(data), canon=canon_of(stderr=b"file", **{"a/b.txt": DATA}))
    await ann.upload(taken, b"file", DATA, b"out", b"err", data)
    assert (await ann.put(taken, ann.statement(taken, answer.result))).json()["verdict"] == "valid"
    own, base = secured.person(), f"/v1/jobs/{job}"
    found = {
        path: (await secured.http.get(f"{base}/{path}", headers=own)).content
        for path in ("stdout", "stderr", "outputs/stderr", "outputs/stdout", "outputs/a/b.txt")
    }
    assert found == {
        "stdout": b"out",
        "stderr": b"err",
        "outputs/stderr": b"file",
        "outputs/stdout": b"out",
        "outputs/a/b.txt": DATA,
    }
    part = await secured.http.get(f"{base}/outputs/a/b.txt", headers={**own, "Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, DATA[5:10])
    links = (await secured.http.get(f"{base}/result", headers=own)).json()["outputs"]
    assert links["a/b.txt"] == {"sha256": sha256_hex(DATA), "size": len(DATA), "href": f"{base}/outputs/a/b.txt"}
    check_problem(await secured.http.get(f"{base}/outputs/other", headers=own), "not_found")


def canon_of(**outputs: bytes) -> str:
    """Return the voted digest of declared outputs, written out by hand."""
    return sha256_hex(rfc8785.dumps({"exit": 0, "outputs": {path: sha256_hex(data) for path, data in outputs.items()}}))


async def standing(site: Site) -> tuple[Volunteer, HandOut]:
    """Hand in a job with an output and let a volunteer take it."""
    await site.submit(argv=["x"], outputs=["o"])
    ann = await volunteer(site)
    return ann, await ann.take()


def raw_manifest(out: bytes, **changes: Json) -> bytes:
    """Write a manifest in which anything may be wrong."""
    one: Json = {"sha256": sha256_hex(out), "size": len(out)}
    return rfc8785.dumps({"outputs": {"o": one}, "stderr": one, "stdout": one, **changes})


LIES: dict[str, Any] = {
    "not a manifest": b"hello",
    "nested without end": b'{"outputs":' * 100_000,
    "another size": raw_manifest(b"hi\n", stdout={"sha256": sha256_hex(b"hi\n"), "size": 4}),
    "a blob that nobody uploaded": raw_manifest(b"hi\n", stderr={"sha256": sha256_hex(b"never"), "size": 5}),
    "no digest": raw_manifest(b"hi\n", stderr={"sha256": "../../keys/log.pem", "size": 5}),
    "a negative size": raw_manifest(b"hi\n", stderr={"sha256": sha256_hex(b"hi\n"), "size": -3}),
    "an output above": raw_manifest(b"hi\n", outputs={"../o": {"sha256": sha256_hex(b"hi\n"), "size": 3}}),
    "an output called stdout": raw_manifest(
        b"hi\n", outputs={name: {"sha256": sha256_hex(b"hi\n"), "size": 3} for name in ("o", "stdout")}
    ),
    "without the declared output": raw_manifest(b"hi\n", outputs={}),
    "an unknown name": raw_manifest(b"hi\n", extra=1),
    "other spacing": raw_manifest(b"hi\n") + b" ",
    "a name twice": raw_manifest(b"hi\n").replace(b'{"outputs"', b'{"outputs":{},"outputs"'),
}


@pytest.mark.parametrize("lie", LIES)
async def test_manifest_that_lies_is_refused_and_the_attempt_stays_open(secured: Site, lie: str) -> None:
    """Nothing is recorded; the honest answer is still taken."""
    ann, taken = await standing(secured)
    data = LIES[lie]
    await ann.upload(taken, b"hi\n", data)
    result = ann.answer(taken, outs=sha256_hex(data), canon=canon_of(o=b"hi\n")).result
    before = await secured.size()
    told = check_problem(await ann.put(taken, ann.statement(taken, result)), "invalid")
    assert told["field"] in ("outs", "outputs")
    assert await secured.size() == before
    assert (await ann.finish(taken)).json()["verdict"] == "valid"


async def test_manifest_that_was_not_uploaded_is_refused_and_the_attempt_stays_open(secured: Site) -> None:
    """The statement names it; so it must be there first."""
    ann, taken = await standing(secured)
    answer = ann.answer(taken)
    statement = ann.statement(taken, answer.result)
    before = await secured.size()
    told = check_problem(await ann.put(taken, statement), "invalid")
    assert (told["field"], "PUT" in told["mend"]) == ("outs", True)
    await ann.upload(taken, answer.blobs[-1])
    check_problem(await ann.put(taken, statement), "invalid")
    assert await secured.size() == before
    await ann.upload(taken, *answer.blobs)
    assert (await ann.put(taken, statement)).json()["verdict"] == "valid"


async def test_manifest_beyond_all_measure_is_not_read(secured: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob of gigabytes must not be taken into memory because a statement calls it a manifest."""
    monkeypatch.setattr(uploads, "MAX_MANIFEST_BYTES", 200)
    ann, taken = await standing(secured)
    data = raw_manifest(b"hi\n")
    assert len(data) > 200
    await ann.upload(taken, b"hi\n", data)
    result = ann.answer(taken, outs=sha256_hex(data), canon=canon_of(o=b"hi\n")).result
    assert "200 bytes" in check_problem(await ann.put(taken, ann.statement(taken, result)), "invalid")["detail"]


async def test_voted_digest_that_lies_is_refused_and_the_attempt_stays_open(secured: Site) -> None:
    """Nobody votes for what they did not hand in."""
    ann, taken = await standing(secured)
    answer = ann.answer(taken, canon="5e" * 32)
    await ann.upload(taken, *answer.blobs)
    before = await secured.size()
    told = check_problem(await ann.put(taken, ann.statement(taken, answer.result)), "invalid")
    assert told["field"] == "canon"
    assert await secured.size() == before
    assert (await ann.finish(taken)).json()["verdict"] == "valid"


# Open mode.


async def test_open_results_files_are_text_base64_or_blobs(opened: Site) -> None:
    """Whichever way they come, they are read the same way."""
    job = await opened.submit(argv=["x"], outputs=["t", "b", "u"])
    work = (await opened.http.get("/jobs/next")).json()
    token = bearer(work["token"])
    await put(opened, DATA, token)
    body = {
        "exit_code": 0,
        "stdout": "out\n",
        "outputs": {"t": "tëxt", "b": {"base64": "/wA="}, "u": {"sha256": sha256_hex(DATA)}},
    }
    reply = await opened.http.put(f"/jobs/{job}/result", json=body, headers=token)
    assert reply.json()["verdict"] == "valid", reply.text
    base = f"/v1/jobs/{job}"
    assert (await opened.http.get(f"{base}/outputs/t")).text == "tëxt"
    assert (await opened.http.get(f"{base}/outputs/b")).content == b"\xff\x00"
    assert (await opened.http.get(f"{base}/outputs/u")).content == DATA


BAD_FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "no base64": ("outputs.o", {"outputs": {"o": {"base64": "%%"}}}),
    "base64 with spaces": ("outputs.o", {"outputs": {"o": {"base64": "/w\nA="}}}),
    "both": ("outputs.o", {"outputs": {"o": {"base64": "", "sha256": "5e" * 32}}}),
    "neither": ("outputs.o", {"outputs": {"o": {}}}),
    "a blob never uploaded": ("outputs.o", {"outputs": {"o": {"sha256": "5e" * 32}}}),
    "a path above": ("outputs", {"outputs": {"o": "x", "../x": "y"}}),
    "a reserved name": ("outputs.stdout", {"outputs": {"o": "x", "stdout": "y"}}),
    "a declared output is missing": ("outputs", {"outputs": {}}),
    "no exit code": ("exit_code", {"exit_code": None, "outputs": {"o": "x"}}),
    "an unknown limit": ("limit", {"limit": "boredom", "outputs": {"o": "x"}}),
    "a statement": ("statement", {"statement": "a.b.c"}),
}


@pytest.mark.parametrize("what", BAD_FILES)
async def test_open_result_that_is_wrong_is_refused_and_the_attempt_stays_open(opened: Site, what: str) -> None:
    """Nothing is recorded, nothing is kept, and the right answer is still taken."""
    field, changes = BAD_FILES[what]
    job = await opened.submit(argv=["x"], outputs=["o"])
    work = (await opened.http.get("/jobs/next")).json()
    path, token = f"/jobs/{job}/result", bearer(work["token"])
    before = await opened.size()
    told = check_problem(await opened.http.put(path, json={"exit_code": 0, **changes}, headers=token), "invalid")
    assert told["field"] == field
    assert (await opened.size(), kept(opened)) == (before, [])
    good = await opened.http.put(path, json={"exit_code": 0, "outputs": {"o": "x"}}, headers=token)
    assert good.json()["verdict"] == "valid"


async def test_late_open_result_leaves_nothing_on_the_disk(opened: Site) -> None:
    """Whoever comes too late does not fill the disk."""
    job = await opened.submit()
    work = (await opened.http.get("/jobs/next")).json()
    await opened.pass_s(62)
    body = {"exit_code": 0, "stdout": random_id()}
    reply = await opened.http.put(f"/jobs/{job}/result", json=body, headers=bearer(work["token"]))
    check_problem(reply, "too_late")
    assert kept(opened) == []


async def test_open_result_after_cancel_is_unneeded(opened: Site) -> None:
    """Even without the outputs that nobody wants any more."""
    job = await opened.submit(argv=["x"], outputs=["o"])
    work = (await opened.http.get("/jobs/next")).json()
    await opened.http.post(f"/v1/jobs/{job}:cancel")
    reply = await opened.http.put(f"/jobs/{job}/result", json={"exit_code": 0}, headers=bearer(work["token"]))
    assert reply.json()["verdict"] == "unneeded", reply.text
