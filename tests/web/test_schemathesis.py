"""Requests made up from the description alone: no failure of the server, and every reply of a described type.

Bounded: some examples of each operation, in both modes and over both stores, the same in each run. Long waits are left
out, and the stream of events with them (see `test_waiting`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from gnexec.keys import ServerKeys
from gnexec.web.openapi import describe
from gnexec.web.resource import Auth
from tests.web.logs import Logs
from tests.web.sites import Json, bearer, open_site
from tests.web.test_hostile import OPERATIONS, Stage, set_stage

DOCUMENT: Final = describe(OPERATIONS)
SCHEMA: Final = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS: Final = [not_a_server_error, content_type_conformance, response_schema_conformance]
MADE_UP: Final = [
    (path, method) for path, item in DOCUMENT["paths"].items() for method in item if not path.endswith("/events")
]
TOKENS: Final = {"access_token": Auth.ACCESS, "enrolment_token": Auth.ENROLMENT, "job_token": Auth.JOB}


class Caller:
    """Calls a server that runs in a loop of its own."""

    def __init__(self, portal: BlockingPortal, stage: Stage) -> None:
        self._portal = portal
        self._stage = stage

    def call(self, path: str, method: str, told: Json) -> httpx2.Response:
        """Send what was made up, with the token that the operation wants."""
        wanted = DOCUMENT["paths"][path][method].get("security", [{}])[0]
        tokens = [self._stage.tokens[TOKENS[name]] for name in wanted if TOKENS[name] in self._stage.tokens]
        content = told.get("data")
        headers = {key: value for key, value in told["headers"].items() if key.lower() != "authorization"}
        sent = partial(
            self._stage.site.http.request,
            told["method"],
            told["url"],
            params={key: value for key, value in (told.get("params") or {}).items() if key != "wait"},
            headers=[(key, str(value).encode()) for key, value in headers.items()]
            + [(key, value.encode()) for token in tokens for key, value in bearer(token).items()],
            **({"json": told["json"]} if "json" in told else {"content": content}),
        )
        return self._portal.call(sent)


@pytest.fixture(scope="module", params=["secured", "open"])
def caller(
    request: pytest.FixtureRequest, keys: ServerKeys, tmp_path_factory: pytest.TempPathFactory, logs: Logs
) -> Iterator[Caller]:
    """Run a server in another thread's loop."""
    folder: Path = tmp_path_factory.mktemp("site")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_site(keys, folder, logs, open_mode=request.param == "open")) as site,
    ):
        yield Caller(portal, portal.call(set_stage, site))


@pytest.mark.parametrize(("path", "method"), MADE_UP, ids=[f"{method} {path}" for path, method in MADE_UP])
def test_made_up_request_gets_a_described_reply(caller: Caller, path: str, method: str) -> None:
    """Never a 5xx; always a media type and a form that the document promises."""

    @settings(
        max_examples=10,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        case: Any = data.draw(SCHEMA[path][method.upper()].as_strategy())
        reply = caller.call(path, method, case.as_transport_kwargs(base_url="http://web.test"))
        case.validate_response(reply, checks=CHECKS)

    run()
