"""The documentation is true: its commands run, and do what the page shows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from gnexec.cli import COMMANDS
from gnexec.cli.configuration import sources
from tests.docs.console import ROOT, blocks, commands, matches, needs
from tests.docs.stage import PROPS, require_for, stage

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name(page: Path) -> str:
    """Name a page as it is named in the repository."""
    return page.relative_to(ROOT).as_posix()


def pages(*kinds: str) -> list[Path]:
    """Return the pages that have blocks of these kinds."""
    return [page for page in PAGES if any(blocks(page.read_text(encoding="utf-8"), kind) for kind in kinds)]


@pytest.mark.parametrize("page", pages("console", "python"), ids=name)
def test_page_typed_from_top_to_bottom_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Every command of a page succeeds, in order, and prints what the page shows."""
    text = page.read_text(encoding="utf-8")
    listed = commands(text)
    wanted = needs(text)
    assert wanted <= PROPS
    require_for(wanted, "\n".join(command.text for command in listed))
    with stage(wanted, tmp_path) as opened:
        for command, following in zip(listed, [*listed[1:], None], strict=True):
            status, printed = opened.run(command)
            said = f"{name(page)}:{command.line}: $ {command.text}\n{printed}"
            fails = following is not None and following.text == "echo $?"
            assert (status != 0) == fails, f"{said}\nexit status {status}"
            assert not command.shown or matches(command.shown, printed), said


@pytest.mark.parametrize("page", pages("toml"), ids=name)
def test_settings_shown_on_a_page_are_settings(page: Path, tmp_path: Path) -> None:
    """A block of TOML is a settings file that the command line takes."""
    for line, body in blocks(page.read_text(encoding="utf-8"), "toml"):
        file = tmp_path / f"line-{line}.toml"
        file.write_text(body, encoding="utf-8")
        assert tomllib.loads(body)
        assert sources(file, {command for command, *_ in COMMANDS})


@pytest.mark.parametrize("page", pages("json"), ids=name)
def test_json_shown_on_a_page_is_json(page: Path) -> None:
    """A block of JSON can be read as such."""
    for line, body in blocks(page.read_text(encoding="utf-8"), "json"):
        assert json.loads(body), f"{name(page)}:{line}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (("a",), "a\n", True),
        (("a",), "b\n", False),
        (("a",), "a\nb\n", False),
        (("a …",), "a 12 b\n", True),
        (("…", "b"), "a\nb\n", True),
        (("…", "b"), "b\n", True),
        (("a", "…"), "a\nb\n", True),
        (("a", "…"), "a\n", True),
        (("a", "…", "c"), "a\nc\n", True),
        (("…b",), "a\nb\n", False),
        (("a", "…"), "b\n", False),
        (("1.5",), "1x5", False),
    ],
)
def test_shown_output_is_compared_and_not_waved_through(shown: tuple[str, ...], printed: str, *, same: bool) -> None:
    """What a page shows must be printed, but for what stands for anything."""
    assert matches(shown, printed) == same
