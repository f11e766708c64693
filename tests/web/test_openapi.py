"""The description of the interface: a valid OpenAPI 3.1 document that says what the server does, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec
import pytest
from openapi_schema_validator import OAS31Validator, validate
from openapi_spec_validator import OpenAPIV31SpecValidator

from gnexec.shapes import Problem
from gnexec.web.resource import Operation
from tests.web.sites import Site, bearer
from tests.web.volunteers import volunteer

pytestmark = pytest.mark.anyio


async def document(site: Site) -> dict[str, Any]:
    """Fetch the description."""
    told: dict[str, Any] = (await site.http.get("/openapi.json")).json()
    return told


async def test_document_is_valid_openapi_31(secured: Site) -> None:
    """By the standard's own schema, references and all."""
    told = await document(secured)
    assert told["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(told).validate()


async def test_document_has_each_operation_that_is_served(secured: Site) -> None:
    """Both are made from one list; each has a summary, its token, and the problem that it may answer with."""
    told = await document(secured)
    operations: list[Operation] = secured.app.state.operations
    described = {(path, method) for path, item in told["paths"].items() for method in item}
    served = {(re.sub(r":\w+\}", "}", op.path), op.method.lower()) for op in operations}
    assert described == served
    names = [op["operationId"] for item in told["paths"].values() for op in item.values()]
    assert len(set(names)) == len(names)
    for item in told["paths"].values():
        for op in item.values():
            assert op["summary"].endswith(".")
            assert "application/problem+json" in op["responses"]["default"]["content"]


async def test_three_calls_of_gnexec_are_at_the_root_and_under_v1(secured: Site) -> None:
    """The same in both places."""
    paths = (await document(secured))["paths"]
    for path in ("/jobs/next", "/jobs/{job}/status", "/jobs/{job}/result"):
        for method, told in paths[path].items():
            assert {**paths[f"/v1{path}"][method], "operationId": told["operationId"]} == told


def check(told: Mapping[str, Any], reply: httpx2.Response, path: str) -> None:
    """Make sure that a reply is one that the document describes."""
    responses = told["paths"][path][reply.request.method.lower()]["responses"]
    described = responses.get(str(reply.status_code), responses["default"])
    if "content" not in described:
        assert reply.content == b""
        return
    media = reply.headers["content-type"].partition(";")[0]
    assert media in described["content"], (path, media)
    if not media.endswith("json"):
        return
    schema = {**described["content"][media]["schema"], "components": told["components"]}
    validate(reply.json(), schema, cls=OAS31Validator)


async def test_each_reply_is_of_the_type_that_is_described(secured: Site) -> None:
    """One pass over the whole interface, each reply held against the document."""
    told = await document(secured)
    me = secured.person()
    ann, bob = await volunteer(secured, "ann"), await volunteer(secured, "bob")

    async def get(path: str, template: str = "", headers: dict[str, str] | None = None) -> httpx2.Response:
        reply = await secured.http.get(path, headers=me if headers is None else headers)
        assert reply.status_code < 300, reply.text
        check(told, reply, template or path.partition("?")[0])
        return reply

    body = {"argv": ["x"], "outputs": ["o"], "name": "n", "estimate_s": 2, "redundancy": {"replicas": 2, "quorum": 2}}
    check(told, await secured.http.post("/v1/jobs", json=body, headers=me), "/v1/jobs")
    many = {"jobs": [body, {"cmd": "y", "data_class": "public"}]}
    check(told, await secured.http.post("/v1/jobs", json=many, headers=me), "/v1/jobs")
    check(told, await ann.enrol(), "/v1/workers")
    job = "/v1/jobs/{job}"
    for rest in ("", "/result", "/attempts", "/receipt", "/explain", "/stdout"):
        await get(f"/v1/jobs/1{rest}", f"{job}{rest}")
    taken = await ann.take()
    both = await get("/v1/jobs/next?n=2", headers=bob.headers)
    await get("/jobs/next", headers=ann.headers)
    assert (await get("/jobs/next", headers=bob.headers)).status_code == 204
    await get("/v1/workers/me/why", headers=ann.headers)
    check(told, await ann.tell(taken, progress=0.5), "/jobs/{job}/status")
    check(told, await ann.finish(taken), "/jobs/{job}/result")
    for rest in ("", "/result", "/attempts", "/receipt", "/explain", "/stdout"):
        await get(f"/v1/jobs/1{rest}", f"{job}{rest}")
    headers = bearer(both.json()["token"])
    assert len(both.json()["jobs"]) == 2
    check(told, await secured.http.put("/v1/results", json={"statement": "x"}, headers=headers), "/v1/results")
    check(told, await secured.http.post("/v1/jobs/1:cancel", headers=me), f"{job}:cancel")
    await secured.pass_s(62)
    for rest in ("/stdout", "/stderr", "/outputs/o", "/events", "/result"):
        reply = await secured.http.get(f"/v1/jobs/1{rest}", headers=me)
        check(told, reply, f"{job}{rest}".replace("/outputs/o", "/outputs/{name}"))
    for path in ("/", "/hey", "/v1", "/healthz", "/readyz", "/metrics", "/checkpoint", "/log.vkey", "/log/payloads"):
        await get(path, headers={})
    await get("/.well-known/jwks.json")
    await get("/tile/0/000.p/1", "/tile/{name}")
    await get("/problems/invalid", "/problems/{code}")
    check(told, await secured.http.get("/v1/jobs/99", headers=me), job)


async def test_links_lead_to_the_resource_itself_and_to_its_parts(secured: Site) -> None:
    """`self` is where it was found; every other link is a resource that exists."""
    job = await secured.submit()
    me = secured.person()
    for part in ("", "/result", "/attempts", "/receipt"):
        path = f"/v1/jobs/{job}{part}"
        links = (await secured.http.get(path, headers=me)).json()["_links"]
        assert links["self"] == {"href": path}
        assert links["job"] == {"href": f"/v1/jobs/{job}"}
    for name, link in links.items():
        reply = await secured.http.request("OPTIONS", link["href"])
        assert reply.headers["allow"] == {"cancel": "POST", "events": "GET", "result": "GET, HEAD, PUT"}.get(
            name, "GET, HEAD"
        )


async def test_problem_in_the_document_is_the_one_that_is_sent(secured: Site) -> None:
    """Required members and all."""
    schema = (await document(secured))["components"]["schemas"]["Problem"]
    assert {"type", "title", "status", "detail", "code"} <= set(schema["required"])
    assert set(schema["properties"]) == set(msgspec.structs.asdict(_problem())) - {"links"} | {"_links"}


def _problem() -> Problem:
    return Problem(type="", title="", status=400, detail="", code="")
