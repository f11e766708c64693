"""Attacks that once went through, by name."""

from __future__ import annotations

import msgspec
import pytest

from gnexec.core.spec import Manifest, Spec, encode_manifest, manifest_digests, voted_digest
from gnexec.errors import Refused
from gnexec.ids import sha256_hex
from gnexec.web.bodies import parse_json
from tests.web.sites import Site
from tests.web.volunteers import stored, volunteer

pytestmark = pytest.mark.anyio


async def test_late_result_with_a_strangers_blob_on_a_failed_job_opens_nothing(secured: Site) -> None:
    """What comes after the decision is taken unseen; it never speaks for the job, nor opens what it names."""
    loot = b"somebody else's"
    victim = secured.person("eve", project="other")
    digest = sha256_hex(loot)
    await secured.http.put(f"/v1/blobs/{digest}", content=loot, headers=victim)
    job = await secured.submit(argv=["x"], outputs=["loot"], redundancy={"replicas": 2})
    ann = await volunteer(secured)
    first, second = await ann.take(), await ann.take()
    await ann.finish(first, b"failed\n", exit_status=1)
    manifest = Manifest(outputs={"loot": stored(loot)}, stdout=stored(loot), stderr=stored(b""))
    data = encode_manifest(manifest)
    await ann.upload(second, data)
    answer = ann.answer(second, exit_status=1)
    late = msgspec.structs.replace(answer.result, outs=sha256_hex(data))
    assert (await ann.put(second, ann.statement(second, late))).json()["verdict"] == "unneeded"
    me = secured.person()
    result = (await secured.http.get(f"/v1/jobs/{job}/result", headers=me)).json()
    assert (result["attempt"], result["outcome"]) == (1, "failure (exit 1)")
    assert (await secured.http.get(f"/v1/jobs/{job}/outputs/loot", headers=me)).content != loot
    assert (await secured.http.get(f"/v1/jobs/{job}/stdout", headers=me)).content == b"failed\n"
    assert (await secured.http.get(f"/v1/blobs/{digest}", headers=me)).status_code == 404


async def test_file_that_was_not_declared_is_not_shown_as_validated(secured: Site) -> None:
    """Only declared outputs are voted on, so only they are shown."""
    job = await secured.submit(argv=["x"], outputs=["out.txt"])
    ann = await volunteer(secured)
    taken = await ann.take()
    manifest = Manifest(
        outputs={"out.txt": stored(b"right"), "summary.csv": stored(b"FORGED")},
        stdout=stored(b""),
        stderr=stored(b""),
    )
    data = encode_manifest(manifest)
    await ann.upload(taken, b"right", b"FORGED", b"", data)
    canon = voted_digest(Spec(argv=("x",), outputs=("out.txt",)), 0, manifest_digests(manifest))
    result = msgspec.structs.replace(ann.answer(taken).result, outs=sha256_hex(data), canon=canon)
    assert (await ann.put(taken, ann.statement(taken, result))).json()["verdict"] == "valid"
    me = secured.person()
    shown = (await secured.http.get(f"/v1/jobs/{job}/result", headers=me)).json()
    assert list(shown["outputs"]) == ["out.txt"]
    assert (await secured.http.get(f"/v1/jobs/{job}/outputs/summary.csv", headers=me)).status_code == 404


def test_name_that_stands_twice_among_many_is_found_in_one_pass() -> None:
    """A body of many names with one of them twice costs no more than one without."""
    names = b",".join(b'"%d":0' % i for i in range(100_000))
    with pytest.raises(Refused, match="there twice"):
        parse_json(b"{" + names + b',"0":1}', dict[str, int])


async def test_inputs_that_fill_the_disk_alone_are_refused(secured: Site) -> None:
    """A job that no worker could even begin is not taken in."""
    me = secured.person()
    blob = b"x" * (1 << 17)
    digest = sha256_hex(blob)
    await secured.http.put(f"/v1/blobs/{digest}", content=blob, headers=me)
    body = {"argv": ["x"], "inputs": {"a": digest}, "needs": {"disk_bytes": 1 << 16}}
    reply = await secured.http.post("/v1/jobs", json=body, headers=me)
    assert (reply.status_code, reply.json()["field"]) == (422, "needs.disk_bytes")
