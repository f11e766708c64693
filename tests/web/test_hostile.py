"""Hostile requests, over all operations: each gets its problem+json, none a 5xx, and none changes anything.

The operations are read from the application itself, so that a new one is walked over as soon as it exists.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from gnexec.ids import b64url, sha256_hex, unb64url
from gnexec.keys import ServerKeys
from gnexec.tokens.issued import Scope
from gnexec.web.app import make_app
from gnexec.web.resource import Auth, Operation
from tests.web.logs import Logs
from tests.web.sites import Site, bearer, check_problem, open_site
from tests.web.volunteers import OFFER, HandOut, volunteer

pytestmark = pytest.mark.anyio
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "X" * 100)
DEEP: Final = 100_000
DATA: Final = b"some input"


async def _never() -> Any:  # noqa: ANN401 -- never called
    raise AssertionError


OPERATIONS: Final[list[Operation]] = make_app(_never).state.operations
JSON: Final = [op for op in OPERATIONS if op.body is not None and not isinstance(op.body, str)]


def name(op: Operation) -> str:
    """Name an operation in the report."""
    return f"{op.method} {op.path}"


@dataclass(slots=True)
class Stage:
    """A server with a job that is running, and a caller for each kind of token."""

    site: Site
    taken: HandOut
    tokens: dict[Auth, str]

    def path(self, op: Operation) -> str:
        """Return a path of the operation's at which there is something."""
        known = {"{job:number}": str(self.taken.job), "{sha256}": sha256_hex(DATA), "{code}": "invalid"}
        path = op.path.replace("/tile/{name:path}", "/tile/entries/000.p/1").replace("{name:path}", "out.txt")
        for place, value in known.items():
            path = path.replace(place, value)
        return path

    def headers(self, op: Operation) -> dict[str, str]:
        """Return the header with the token that the operation wants."""
        return bearer(self.tokens[op.auth]) if op.auth in self.tokens else {}

    async def send(
        self, op: Operation, content: bytes | None = None, headers: dict[str, str] | None = None, /, **told: str
    ) -> httpx2.Response:
        """Call the operation."""
        given = {"Content-Type": "application/json", **(self.headers(op) if headers is None else headers), **told}
        return await self.site.http.request(op.method, self.path(op), content=content, headers=given)


async def set_stage(site: Site) -> Stage:
    """Bring a server to where every operation has something to do."""
    await site.http.put(f"/v1/blobs/{sha256_hex(DATA)}", content=DATA, headers=site.person())
    await site.submit(
        argv=["cat", "in.txt"], inputs={"in.txt": sha256_hex(DATA)}, outputs=["out.txt"], force_recompute=True
    )
    if site.office.open_mode:
        work = (await site.http.get("/jobs/next")).json()
        return Stage(site, HandOut(work, work["token"]), {Auth.JOB: work["token"]})
    ann = await volunteer(site)
    taken = await ann.take()
    every = site.token("ada", *[scope for scope in Scope if scope is not Scope.WORK])
    return Stage(site, taken, {Auth.ACCESS: every, Auth.ENROLMENT: ann.token, Auth.JOB: taken.token})


@pytest.fixture(params=["secured", "open"])
async def stage(request: pytest.FixtureRequest, keys: ServerKeys, tmp_path: Path, logs: Logs) -> AsyncIterator[Stage]:
    """Set the stage in both modes."""
    async with open_site(keys, tmp_path, logs, open_mode=request.param == "open") as site:
        yield await set_stage(site)


@pytest.fixture
async def guarded(secured: Site) -> Stage:
    """Set the stage in secured mode, where tokens are asked for."""
    return await set_stage(secured)


# Methods and paths.


async def test_method_that_a_resource_does_not_have_is_405(stage: Stage) -> None:
    """With the methods that it has in `Allow`; HEAD too, where GET changes something."""
    before = await stage.site.size()
    by_path: dict[str, set[str]] = {}
    for op in OPERATIONS:
        allowed = by_path.setdefault(stage.path(op), set())
        allowed |= {op.method, "HEAD"} if op.method == "GET" and op.head else {op.method}
    assert "HEAD" not in by_path["/jobs/next"]
    for path, allowed in by_path.items():
        for method in set(METHODS) - allowed:
            reply = await stage.site.http.request(method, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, ", ".join(sorted(allowed))), path
            if method != "HEAD":
                check_problem(reply, "method_not_allowed")
    assert await stage.site.size() == before


PATHS: Final = [
    "/nothing",
    "/v2/jobs",
    "/jobs",
    "/jobs/next/",
    "/v1/jobs/",
    "/v1/jobs/x",
    "/v1/jobs/-1",
    "/v1/jobs/1.0",
    "/v1/jobs/0x1",
    "/v1/jobs/%D9%A1",
    "/v1/jobs/1%00",
    "/v1/jobs/" + "9" * 5000,
    "/v1/jobs/" + "9" * 5000 + "/events",
    "/v1/jobs/99999999999999999",
    "/v1/jobs/1/nothing",
    "/v1/jobs/1:resurrect",
    "/v1/blobs",
    "/v1/blobs/x/y",
    "/tile",
    "/tile/0/x1",
    "/tile/entries/000.p/0",
    "/tile/../../etc/passwd",
    "/tile/%2e%2e/%2e%2e/etc/passwd",
    "/tile/entries/" + "9" * 5000,
    "/problems/nothing",
    "/problems/%ff%fe",
    "/%00",
    "/" + "a" * 10_000,
    "/openapi.json/",
    "/healthz%0d%0aSet-Cookie:%20a=b",
]


@pytest.mark.parametrize("path", PATHS, ids=[path[:40] for path in PATHS])
async def test_path_that_leads_nowhere_is_404(guarded: Stage, path: str) -> None:
    """Whatever is asked for: never a 5xx, never a redirect, never a file of the machine's."""
    before = await guarded.site.size()
    for method in ("GET", "PUT", "POST"):
        reply = await guarded.site.http.request(method, path, headers=bearer(guarded.tokens[Auth.ACCESS]))
        check_problem(reply, "not_found", "method_not_allowed")
    assert await guarded.site.size() == before


@pytest.mark.parametrize("host", ["[", "", "a b", "\x80", "a" * 10_000])
async def test_strange_host_header_changes_no_answer(guarded: Stage, host: str) -> None:
    """The server knows its own name."""
    headers = [(b"host", host.encode("latin-1"))]
    check_problem(await guarded.site.http.get("/nothing", headers=headers), "not_found")


@pytest.mark.parametrize("job", [0, 2, 2**53 - 1, 2**53])
async def test_job_that_does_not_exist_is_404_for_each_of_its_resources(guarded: Stage, job: int) -> None:
    """Zero, the next one, the last possible one, and one beyond."""
    for op in OPERATIONS:
        if op.auth is Auth.ACCESS and "{job:number}" in op.path:
            path = guarded.path(op).replace("/1", f"/{job}", 1).replace(f"/{job}/", f"/{job}/")
            path = op.path.replace("{job:number}", str(job)).replace("{name:path}", "x")
            check_problem(await guarded.site.http.request(op.method, path, headers=guarded.headers(op)), "not_found")


# Tokens.


def wrong_tokens(good: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and a token that has it."""
    head, payload, signature = good.split(".")
    told = json.loads(unb64url(head))

    def with_head(**changes: object) -> str:
        return f"{b64url(json.dumps({**told, **changes}).encode())}.{payload}.{signature}"

    yield "empty", ""
    yield "nonsense", "nonsense"
    yield "two parts", f"{head}.{payload}"
    yield "four parts", f"{good}.x"
    yield "padded", f"{good}="
    yield "spaced", f"{head}. {payload}.{signature}"
    yield "not ascii", f"{good}\xff"
    yield "no signature", f"{head}.{payload}."
    yield "another signature", f"{head}.{payload}.{b64url(bytes(64))}"
    yield "short signature", f"{head}.{payload}.{b64url(bytes(8))}"
    yield "alg none", with_head(alg="none")
    yield "alg HS256", with_head(alg="HS256")
    yield "alg Ed25519", with_head(alg="Ed25519")
    yield "another typ", with_head(typ="JWT")
    yield "unknown kid", with_head(kid="A" * 43)
    yield "kid as a path", with_head(kid="../../keys/log.pem")
    yield "key in the header", with_head(jwk={"crv": "Ed25519", "kty": "OKP", "x": "A" * 43})
    yield "key by address", with_head(jku="http://evil.test/jwks.json")
    yield "critical", with_head(crit=["exp"])
    yield "huge", f"{head}.{'A' * 20_000}.{signature}"
    yield "deep", f"{b64url(b'[' * 3000)}.{payload}.{signature}"
    yield "other claims", f"{head}.{b64url(b'{}')}.{signature}"


async def test_wrong_token_of_any_kind_is_401_everywhere(guarded: Stage) -> None:
    """No operation that asks for a token lets one pass that the server did not sign for just that purpose."""
    before = await guarded.site.size()
    for op in OPERATIONS:
        if op.auth is Auth.NONE:
            continue
        reply = await guarded.send(op, b"{}", {})
        check_problem(reply, "no_token")
        for scheme in ("Basic YTpi", "Bearer", "bearer", "Token x", ""):
            check_problem(await guarded.send(op, b"{}", {"Authorization": scheme}), "no_token")
        for _, wrong in wrong_tokens(guarded.tokens[op.auth]):
            header = b"Bearer " + wrong.encode("latin-1")
            reply = await guarded.site.http.request(
                op.method, guarded.path(op), content=b"{}", headers=[(b"authorization", header)]
            )
            codes = ("no_token", "bad_token", "bad_signature", "unknown_key")
            assert check_problem(reply, *codes)["status"] == 401
    assert await guarded.site.size() == before


async def test_wrong_job_token_in_the_body_is_401(guarded: Stage) -> None:
    """The body is no way around the header's checks."""
    before = await guarded.site.size()
    for path in ("/jobs/1/status", "/jobs/1/result"):
        for _, wrong in wrong_tokens(guarded.taken.token):
            body = {"token": wrong, "statement": "x"} if path.endswith("result") else {"token": wrong}
            reply = await guarded.site.http.put(path, json=body)
            check_problem(reply, "no_token", "bad_token", "bad_signature", "unknown_key")
    assert await guarded.site.size() == before


# Bodies.

HOPELESS: Final[dict[str, bytes]] = {
    "empty": b"",
    "unfinished": b'{"a": ',
    "null": b"null",
    "a number": b"1",
    "a string": b'"x"',
    "a list": b"[]",
    "two values": b"{}{}",
    "single quotes": b"{'a': 1}",
    "a comment": b"{} // done",
    "a trailing comma": b'{"token": "x",}',
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep lists within": b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep lists within a field": b'{"jobs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "not UTF-8": b'{"cmd": "\xff\xfe"}',
    "overlong UTF-8": b'{"cmd": "\xc0\x80"}',
    "a lone surrogate": b'{"cmd": "\\ud800", "token": "\\ud800", "statement": "\\ud800", "proof": "\\udfff"}',
    "a surrogate in UTF-8": b'{"cmd": "\xed\xa0\x80", "token": "\xed\xa0\x80"}',
    "a control character": b'{"cmd": "\x01"}',
    "UTF-16": '{"cmd": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"progress": NaN, "priority": NaN, "exit_code": NaN}',
    "Infinity": b'{"progress": Infinity, "priority": -Infinity}',
    "an unknown name": b'{"unknown": 1}',
    "a very long unknown name": b'{"' + b"n" * 1_000_000 + b'": 1}',
    "a very long number": b'{"unknown": ' + b"9" * 100_000 + b"}",
    "a number beyond floating point": b'{"unknown": 1e999999}',
    "a form": b"cmd=id&token=x",
    "a bomb of names": b"{" + b",".join(b'"%d":0' % i for i in range(100_000)) + b"}",
}


@pytest.mark.parametrize("what", HOPELESS)
async def test_body_that_cannot_be_read_is_refused_everywhere(stage: Stage, what: str) -> None:
    """400, 413 or 422, with a short answer, whatever is sent and wherever."""
    before = await stage.site.size()
    for op in JSON:
        if stage.site.office.open_mode and "workers" in op.path:
            continue  # open mode has no access tokens to come past the door with
        reply = await stage.send(op, HOPELESS[what])
        assert check_problem(reply)["status"] in (400, 413, 422), (name(op), reply.text)
        assert "Traceback" not in reply.text
    assert await stage.site.size() == before


GOOD: Final[dict[str, dict[str, Any]]] = {
    "POST /v1/jobs": {
        "argv": ["echo", "hi"],
        "inputs": {},
        "outputs": ["o.txt"],
        "env": {"A": "b"},
        "seed": 1,
        "numeric_class": "any",
        "name": "n",
        "needs": {"cores": 1, "memory_bytes": 1 << 30, "disk_bytes": 1 << 30, "wall_s": 60, "processes": 16},
        "redundancy": {"replicas": 1, "quorum": 1, "max_attempts": 3, "max_failures": 1},
        "priority": 0,
        "estimate_s": 1.5,
        "data_class": "project",
        "force_recompute": False,
        "recompute_on_error": False,
    },
    "PUT /jobs/{job:number}/status": {
        "progress": 0.5,
        "usage": {"cpu_ms": 1, "wall_ms": 1, "peak_rss_bytes": 1},
        "stdout": "x",
        "stdout_offset": 0,
    },
    "PUT /jobs/{job:number}/result": {
        "exit_code": 1,
        "limit": "cpu",
        "stdout": "x",
        "stderr": {"base64": "eA=="},
        "outputs": {"a": "b", "c": {"base64": "eA=="}},
        "usage": {"cpu_ms": 1, "wall_ms": 1, "peak_rss_bytes": 1},
    },
    "POST /v1/workers": {"proof": "a.b.c", "offer": OFFER, "description": {"a": 1}},
    "PUT /v1/results": {"statement": "a.b.c"},
}
STRANGE: Final[list[bytes]] = [
    *(b"null", b"true", b"1.5", b"-1", b"0", b"[]", b"{}", b'""', b'"x"', b"[null]", b'{"": null}', b'"\\u0000"'),
    *(b"9007199254740992", b"18446744073709551616", b"9" * 400, b"9" * 5000, b"-9007199254740992", b"1e308", b"1e-400"),
    *(b'"' + b"x" * 100_000 + b'"', b'["../etc/passwd"]', b'{"../x": "y"}', b'{"/etc/passwd": "y"}', b'["a", "a"]'),
    *(b"[" * DEEP + b"]" * DEEP, b"NaN", b'"\\ud800"', b'"\xff"', '"\U0001f9ec"'.encode(), b'["", ""]', b'"=:;{}"'),
]


def mutations(good: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield bodies in which one value, at any depth, was replaced by a strange one."""
    for key, value in good.items():
        rest = {other: told for other, told in good.items() if other != key}
        head = json.dumps(rest)[:-1].encode() + (b", " if rest else b"") + json.dumps(key).encode() + b": "
        for strange in STRANGE:
            yield f"{key} = {strange[:30]!r}", head + strange + b"}"
        if isinstance(value, dict):
            for where, inner in mutations(value):
                yield f"{key}.{where}", head + inner + b"}"


@pytest.mark.parametrize("op", [op for op in JSON if name(op) in GOOD], ids=name)
async def test_strange_value_in_any_field_is_refused_or_taken_whole(stage: Stage, op: Operation) -> None:
    """No value of any field, however strange, makes the server fail; what is refused changes nothing."""
    if stage.site.office.open_mode and op.auth is Auth.ACCESS and "workers" in op.path:
        return
    for what, body in mutations(GOOD[name(op)]):
        before = await stage.site.size()
        reply = await stage.send(op, body)
        if reply.is_success and op.path.endswith("result"):
            stage = await set_stage(stage.site)
        assert reply.status_code < 500, (what, reply.text)
        if reply.is_error:
            check_problem(reply)
            assert await stage.site.size() == before, what


async def test_every_operation_with_a_json_body_has_an_example_here() -> None:
    """A new operation is to be attacked as the others are."""
    assert {name(op).replace("/v1/jobs/{", "/jobs/{") for op in JSON} == set(GOOD)


@pytest.mark.parametrize("op", JSON, ids=name)
async def test_name_that_stands_twice_is_refused(guarded: Stage, op: Operation) -> None:
    """Two readers would understand two things."""
    good = GOOD[name(op).replace("/v1/jobs/{", "/jobs/{")]
    before = await guarded.site.size()
    body = json.dumps(good).encode()
    for twice in (body[:-1] + b", " + body[1:], body.replace(b'"cpu_ms": 1', b'"cpu_ms": 1, "cpu_ms": 2')):
        if twice != body:
            told = check_problem(await guarded.send(op, twice), "malformed")
            assert "twice" in told["detail"]
    assert await guarded.site.size() == before


@pytest.mark.parametrize("op", JSON, ids=name)
async def test_media_type_that_is_not_json_is_415(stage: Stage, op: Operation) -> None:
    """JSON, or what curl says by default; the latter not from a page in a browser, which says where it is from."""
    if stage.site.office.open_mode and "workers" in op.path:
        return
    before = await stage.site.size()
    for media in (
        "text/plain",
        "application/xml",
        "text/json",
        "application/jsonp",
        "*/*",
        "x",
        "application/json-seq",
    ):
        check_problem(await stage.send(op, b"{}", **{"Content-Type": media}), "bad_media")
    for media in ("application/x-www-form-urlencoded", ""):
        told = {"Content-Type": media, "Origin": "http://evil.test"}
        check_problem(await stage.send(op, b"{}", **told), "bad_media")
    assert await stage.site.size() == before


@pytest.mark.parametrize("op", JSON, ids=name)
async def test_body_over_the_cap_is_413_however_it_is_sent(stage: Stage, op: Operation) -> None:
    """Said beforehand or not: what is too much is refused as soon as that is known."""
    if stage.site.office.open_mode and "workers" in op.path:
        return
    before = await stage.site.size()
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 1 << 30:
            read += 1 << 20
            yield b" " * (1 << 20)

    headers = {"Content-Type": "application/json", **stage.headers(op)}
    reply = await stage.site.http.request(op.method, stage.path(op), content=endless(), headers=headers)
    check_problem(reply, "too_large")
    assert read <= 10 << 20
    for length in (1 << 40, "9" * 5000):
        reply = await stage.send(op, b"{}", **{"Content-Length": str(length)})
        check_problem(reply, "too_large")
    assert await stage.site.size() == before


def stops_after_a_byte() -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return a client that begins a body and then says nothing more."""
    asked = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> dict[str, Any]:
        return next(asked, None) or await asyncio.get_running_loop().create_future()

    return receive


def collects(messages: list[Any]) -> Callable[[Any], Awaitable[None]]:
    """Return a client's side of the reply."""

    async def send(message: Any) -> None:  # noqa: ANN401 -- any ASGI message
        messages.append(message)

    return send


async def test_body_that_never_comes_is_given_up(guarded: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that stops holds nothing up for ever."""
    monkeypatch.setattr("gnexec.web.bodies.BODY_PAUSE_S", 0.01)
    before = await guarded.site.size()
    for op in OPERATIONS:
        if op.body is None:
            continue
        replies: list[Any] = []
        headers = {"content-type": "application/json", **guarded.headers(op)}
        scope = {
            "type": "http",
            "method": op.method,
            "path": guarded.path(op),
            "query_string": b"",
            "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
            "root_path": "",
        }
        await guarded.site.app(scope, stops_after_a_byte(), collects(replies))
        assert replies[0]["status"] == 408
        assert (b"connection", b"close") in replies[0]["headers"]
        assert json.loads(replies[1]["body"])["code"] == "slow_body"
    assert await guarded.site.size() == before


# Parameters and headers.


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op.query], ids=name)
async def test_strange_parameter_is_refused_or_passed_over(stage: Stage, op: Operation) -> None:
    """Numbers that are none, numbers out of range, bytes that are no text: a problem, or no matter."""
    for param in op.query:
        for value in ("", "-1", "1e3", "x", "9" * 5000, "%00", "%ff", "%D9%A1", "0x1", "1&" + param.name + "=0", "nan"):
            path = f"{stage.path(op)}?{param.name}={value}"
            before = await stage.site.size()
            reply = await stage.site.http.request(op.method, path, headers=stage.headers(op))
            assert reply.status_code < 500
            if reply.is_error:
                check_problem(reply, "invalid", "not_found")
                assert await stage.site.size() == before


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"k" * 100_000])
async def test_idempotency_key_of_a_wrong_length_is_refused(guarded: Stage, key: bytes) -> None:
    """1 to 255 characters."""
    headers = [(b"authorization", f"Bearer {guarded.tokens[Auth.ACCESS]}".encode()), (b"idempotency-key", key)]
    before = await guarded.site.size()
    reply = await guarded.site.http.post("/v1/jobs", json={"argv": ["x"]}, headers=headers)
    check_problem(reply, "invalid")
    assert await guarded.site.size() == before


async def test_idempotency_key_of_any_bytes_is_a_key(guarded: Stage) -> None:
    """It is hashed, never shown."""
    token = f"Bearer {guarded.tokens[Auth.ACCESS]}".encode()
    headers = [(b"authorization", token), (b"idempotency-key", b"\xff\x01\x7f'\";--")]
    replies = [
        await guarded.site.http.post("/v1/jobs", json={"argv": ["x"], "force_recompute": True}, headers=headers)
        for _ in range(2)
    ]
    assert replies[0].json()["id"] == replies[1].json()["id"]


async def test_submission_of_many_is_refused_as_a_whole(guarded: Stage) -> None:
    """All of them or none; the field says which one was wrong; more than a thousand is too many."""
    before = await guarded.site.size()
    headers = bearer(guarded.tokens[Auth.ACCESS])
    jobs = [{"argv": ["a"]}, {"argv": ["b"]}, {"argv": [""]}]
    reply = await guarded.site.http.post("/v1/jobs", json={"jobs": jobs}, headers=headers)
    assert check_problem(reply, "invalid")["field"] == "jobs[2].argv"
    for wrong in ([], [{"argv": ["x"]}] * 1001, [None], "x"):
        reply = await guarded.site.http.post("/v1/jobs", json={"jobs": wrong}, headers=headers)
        check_problem(reply, "invalid")
    assert await guarded.site.size() == before


BAD_JOBS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    # what is wrong: field that is named, body
    "both forms": ("argv", {"argv": ["x"], "cmd": "x"}),
    "neither form": ("argv", {"name": "x"}),
    "empty words": ("argv", {"argv": []}),
    "a NUL": ("argv", {"argv": ["a\0b"]}),
    "no name for a variable": ("env", {"argv": ["x"], "env": {"A=B": "c"}}),
    "a NUL in a variable": ("env.A", {"argv": ["x"], "env": {"A": "\0"}}),
    "an output above": ("outputs", {"argv": ["x"], "outputs": ["../x"]}),
    "an output at the root": ("outputs", {"argv": ["x"], "outputs": ["/x"]}),
    "an output twice": ("outputs", {"argv": ["x"], "outputs": ["x", "x"]}),
    "a file that is a folder": ("outputs", {"argv": ["x"], "outputs": ["x", "x/y"]}),
    "an input that is no digest": ("inputs.a", {"argv": ["x"], "inputs": {"a": "b"}}),
    "an input above": ("inputs", {"argv": ["x"], "inputs": {"../a": "5e" * 32}}),
    "an input called stdout": ("inputs", {"argv": ["x"], "inputs": {"stdout": "5e" * 32}}),
    "a quorum over the replicas": ("redundancy.replicas", {"argv": ["x"], "redundancy": {"quorum": 2}}),
    "no core": ("needs.cores", {"argv": ["x"], "needs": {"cores": 0}}),
    "a second too long": ("needs.wall_s", {"argv": ["x"], "needs": {"wall_s": 30 * 86400 + 1}}),
    "a seed that is not exact": ("seed", {"argv": ["x"], "seed": 2**53}),
    "an unknown class": ("data_class", {"argv": ["x"], "data_class": "secret"}),
    "an estimate of nothing": ("estimate_s", {"argv": ["x"], "estimate_s": 0}),
    "a priority out of range": ("priority", {"argv": ["x"], "priority": 1001}),
}


@pytest.mark.parametrize("what", BAD_JOBS)
async def test_job_that_cannot_be_run_is_refused_and_names_the_field(guarded: Stage, what: str) -> None:
    """What is wrong, where, and how to mend it."""
    field, body = BAD_JOBS[what]
    before = await guarded.site.size()
    reply = await guarded.site.http.post("/v1/jobs", json=body, headers=bearer(guarded.tokens[Auth.ACCESS]))
    told = check_problem(reply, "invalid")
    assert told["field"] == field
    assert await guarded.site.size() == before


async def test_quorum_is_refused_in_open_mode(opened: Site, keys: ServerKeys, tmp_path: Path, logs: Logs) -> None:
    """One owner, `anonymous`, cannot agree with itself; unless the operator says that all are trusted."""
    body = {"argv": ["x"], "redundancy": {"replicas": 2, "quorum": 2}}
    told = check_problem(await opened.http.post("/v1/jobs", json=body), "invalid")
    assert "--open-trust-all" in told["mend"]
    async with open_site(keys, tmp_path / "trusting", logs, open_mode=True, open_trust_all=True) as site:
        assert (await site.http.post("/v1/jobs", json=body)).status_code == 201
