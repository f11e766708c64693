"""Pages hang together: links lead somewhere, what is listed is all there is, and what is claimed has a test."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final, get_args
from urllib.parse import unquote

import pytest

from gnexec.core.events import AnyEvent
from gnexec.errors import REFUSALS
from gnexec.tokens.forms import Claims
from gnexec.tokens.issued import AccessClaims, EnrolmentClaims, JobClaims, Scope
from gnexec.tokens.statements import JobspecClaims, ProofClaims, ResultClaims
from gnexec.web import files, logs, submitters, system, volunteers
from tests.docs import cli_page
from tests.docs.console import ROOT
from tests.docs.test_docs import PAGES, name

DOCS: Final = ROOT / "docs"
TESTS: Final = ROOT / "tests"
NUMBERED: Final = {"GX": 67, "CP": 30, "DT": 37, "BN": 38, "N": 20}
"""How many features each list has; their ids count from 1."""
NAMED: Final = (
    *("Idempotent submit", "Array jobs", "Late materialisation", "Batch object", "Estimate before submit"),
    *("Resource request", "Time request and limit", "Priority", "Matching expression"),
    *("Target a host, user, team, place", "Availability-aware sending", "Self-sizing", "Stragglers", "Host quota"),
    *("Data locality", "Explain", "Replication", "Adaptive replication", "Homogeneous redundancy"),
    *("Validator outcomes", "Deadline and grace", "Heartbeat carries commands", "Cancel", "Four timeouts"),
    *("Retries with blame", "Hold and release", "Fail budget", "Resume points", "Result record", "Input cache"),
    *("Rescue", "Preferences of a volunteer", "Local control", "Worker factory", "Observability", "Engines"),
)
"""The features of the field's best, which have no ids."""
_LINK: Final = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]+)\)")
_TEST: Final = re.compile(r"`(?P<file>[a-z_0-9/]+\.py)(?:::(?P<test>test_\w+))?`")


def text(page: str) -> str:
    """Return a page below docs/."""
    return (DOCS / page).read_text(encoding="utf-8")


def table(page: str) -> list[list[str]]:
    """Return the rows of all tables of a page, as cells."""
    rows = [line for line in text(page).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|"))] for row in rows]


@cache
def functions_of(file: Path) -> frozenset[str]:
    """Return the names of the functions in a file of tests."""
    found = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Every relative link of a page names a file of the repository."""
    for link in _LINK.finditer(page.read_text(encoding="utf-8")):
        place = unquote(link["to"]).partition("#")[0]
        if place and ":" not in place:
            assert (page.parent / place).exists(), f"{name(page)}: {link[0]}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=name)
def test_page_is_found_from_the_index(page: Path) -> None:
    """No page is left out of the tables of contents."""
    listed = "\n".join(
        block for other in PAGES for block in re.findall(r"```{toctree}\n(.*?)```", other.read_text(), re.DOTALL)
    )
    own = page.relative_to(DOCS).with_suffix("").as_posix()
    assert own == "index" or re.search(rf"^({re.escape(own)}|{re.escape(page.stem)})$", listed, re.MULTILINE)


@pytest.mark.parametrize("page", ["features.md", "explanation/trust.md"])
def test_test_that_a_page_names_is_there(page: str) -> None:
    """A claim that is said to be shown by a test is shown by one."""
    named = list(_TEST.finditer(text(page)))
    assert len(named) > 20
    for found in named:
        file = TESTS / found["file"]
        assert file.is_file(), f"{page}: {found[0]}"
        assert found["test"] is None or found["test"] in functions_of(file), f"{page}: {found[0]}"


def test_features_are_those_of_the_lists() -> None:
    """Each feature has its row, once, and no other row is there."""
    ids = [row[0] for row in table("features.md") if row[0] not in ("id", "feature")]
    wanted = [f"{kind}-{n}" for kind, most in NUMBERED.items() for n in range(1, most + 1)]
    assert sorted(ids) == sorted([*wanted, *NAMED])


def test_feature_is_done_only_with_a_test() -> None:
    """A row says both how it is done and what exercises it, or neither."""
    for row in table("features.md"):
        how, shown = row[-2:]
        if row[0] not in ("id", "feature"):
            assert (how == "—") == (shown == "—") == (_TEST.search(shown) is None), row


def test_page_of_commands_is_what_the_commands_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m tests.docs.cli_page > docs/reference/cli.md` would change nothing."""
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert text("reference/cli.md") == cli_page.page()


def test_page_of_http_has_every_call_and_every_error() -> None:
    """An operation that is served is documented, and a code with its status."""
    page = text("reference/http.md")
    for room in (volunteers, submitters, files, logs, system):
        for operation in room.operations():
            path = re.sub(r"\{job:\w+\}", "ID", operation.path)
            path = re.sub(r"\{(\w+)(:path)?\}", lambda found: found[1].upper(), path)
            assert re.search(rf"`({operation.method} )?{re.escape(path)}`", page), f"{operation.method} {path}"
    codes = {row[0]: row[1] for row in table("reference/http.md") if re.fullmatch("[0-9]{3}", row[0])}
    listed = {(code, int(status)) for status, row in codes.items() for code in re.findall(r"`(\w+)`", row)}
    assert listed == {(code, status) for code, (status, _) in REFUSALS.items()}


def test_page_of_the_log_has_every_event() -> None:
    """The table has the tags of all events, and no other."""
    tags = {str(kind.__struct_config__.tag) for kind in get_args(AnyEvent)}
    assert {row[0].strip("`") for row in table("reference/log.md") if re.fullmatch("`[a-z-]+/[0-9]+`", row[0])} == tags


@pytest.mark.parametrize(
    "kind", [JobClaims, EnrolmentClaims, AccessClaims, ProofClaims, ResultClaims, JobspecClaims], ids=lambda k: k.TYP
)
def test_page_of_tokens_has_every_claim(kind: type[Claims]) -> None:
    """Each kind of token is described, with all of its claims, and the scopes of access tokens."""
    sections = re.split(r"^###? ", text("reference/tokens.md"), flags=re.MULTILINE)
    (section,) = (section for section in sections if f"`{kind.TYP}`" in section.partition("\n")[0])
    shown = set(re.findall(r"`(\w+)", section))
    assert set(kind.__struct_encode_fields__) <= shown | {"aud", "iat", "jti"}
    if kind is AccessClaims:
        assert {scope.value for scope in Scope if scope is not Scope.WORK} <= shown


def test_page_of_settings_has_every_option_of_the_server() -> None:
    """What `gnexec serve` takes stands on the page of settings."""
    options = re.search(r"## gnexec serve\n.*?(?=\n## )", text("reference/cli.md"), re.DOTALL)
    assert options is not None
    wanted = set(re.findall(r"^\| `(--[a-z-]+)", options[0], re.MULTILINE))
    assert wanted <= set(re.findall(r"`(--[a-z-]+)", text("reference/settings.md")))
