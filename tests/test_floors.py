"""The house stands: imports go down only, and the two lowest floors are pure.

Read from the syntax trees of the installed package, so that no import can hide in a function or under
`TYPE_CHECKING`. A new module must be given its floor in `FLOORS`. What cannot be seen this way is an object that was
handed in: purity of what a caller passes is the caller's.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import gnexec

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOORS: Final[dict[str, int]] = {
    # name under `gnexec`: floor (DESIGN.md, section 2; docs/architecture.md)
    "errors": 0,
    "ids": 0,
    "core": 1,
    "ed25519": 1,
    "tlog": 1,
    "tokens": 1,
    "wire": 1,
    "shapes": 1,
    "store": 2,
    "keys": 2,
    "settings": 2,
    "migrate": 2,
    "_alembic": 2,  # the top-level alembic/ of the checkout, as the wheel carries it
    "desk": 3,
    "web": 4,
    "worker": 4,
    "client": 4,
    "audit": 4,
    "cli": 4,
    "demo": 4,
    "bench": 4,
    "__main__": 4,
    "": 4,  # gnexec/__init__.py, what the package shows to the world
}
DOORS: Final = 4
DOOR_TO_DOOR: Final[dict[str, frozenset[str]]] = {
    # Doors know nothing of each other, but for these.
    "": frozenset({"client"}),
    "__main__": frozenset({"cli"}),
    "cli": frozenset({"", "web", "worker", "client", "audit", "demo", "bench"}),
    "demo": frozenset({"client"}),
    "bench": frozenset({"client"}),
}

PURE: Final = 1
"""Floors 0..PURE have no clock, randomness, logging, files or network."""

IMPURE_MODULES: Final = frozenset(
    {
        *("time", "sched", "zoneinfo"),
        *("random", "secrets", "uuid", "uuid_utils"),
        *("logging", "structlog", "warnings"),
        *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fcntl", "mmap", "sqlite3", "sqlalchemy", "alembic"),
        *("socket", "ssl", "select", "selectors", "http", "urllib", "httpx2", "starlette", "uvicorn"),
        *("threading", "asyncio", "concurrent", "multiprocessing", "subprocess", "psutil"),
        "importlib",
    }
)
IMPURE_CALLS: Final = frozenset(
    {
        *("open", "input", "print", "breakpoint", "exec", "eval", "__import__"),
        *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """One module as text: its dotted name, whether it is a package's `__init__`, and its code."""

    name: str
    is_package: bool
    code: str


def faults(sources: list[Source]) -> list[str]:
    """Return a sentence for each rule of the house that `sources` break, in order of module and line."""
    known = {source.name for source in sources}
    found: list[str] = []
    for source in sources:
        here = _room(source.name)
        if here not in FLOORS:
            found.append(f"{source.name}: has no floor; give {here!r} one in FLOORS")
            continue
        tree = ast.parse(source.code)
        for line, target in _imports(tree, source, known):
            reason = _import_fault(here, target)
            if reason:
                found.append(f"{source.name}:{line}: imports {target}: {reason}")
        if FLOORS[here] <= PURE:
            found.extend(
                f"{source.name}:{line}: calls {call}: floors 0 and 1 are pure"
                for line, call in _calls(tree)
                if call in IMPURE_CALLS
            )
    return found


def _room(module: str) -> str:
    """Return the first name under `gnexec`, "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def _import_fault(here: str, target: str) -> str | None:
    """Say why the room `here` may not import `target`, or None if it may."""
    root = target.partition(".")[0]
    if root != "gnexec":
        return "floors 0 and 1 are pure" if FLOORS[here] <= PURE and root in IMPURE_MODULES else None
    there = _room(target)
    if there == here:
        return None
    if there not in FLOORS:
        return f"{there!r} has no floor"
    if FLOORS[there] > FLOORS[here]:
        return f"floor {FLOORS[there]} is above floor {FLOORS[here]}"
    if FLOORS[here] == DOORS == FLOORS[there] and there not in DOOR_TO_DOOR.get(here, frozenset()):
        return "a door may not lean on this door"
    return None


def _imports(tree: ast.Module, source: Source, known: set[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) for every import, wherever it stands; relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = source.name.split(".")
                kept = parents[: len(parents) - node.level + source.is_package]
                base = ".".join([*kept, base]) if base else ".".join(kept)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                # `from gnexec import store` names a room, `from gnexec.store import Entry` something in one.
                is_module = inner in known or (base == "gnexec" and alias.name in FLOORS)
                yield node.lineno, inner if is_module else base


def _calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for every call by name, with aliases of imports undone."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom):
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            dotted = ast.unparse(node.func)
            head, dot, rest = dotted.partition(".")
            yield node.lineno, names.get(head, head) + dot + rest


def _installed() -> list[Source]:
    """Read every module of the package under test."""
    top = Path(gnexec.__file__).parent
    sources = []
    for path in sorted(top.rglob("*.py")):
        parts = ["gnexec", *path.relative_to(top).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        sources.append(Source(name, is_package, path.read_text(encoding="utf-8")))
    return sources


def test_house_as_installed_imports_only_downwards() -> None:
    """No module of the package breaks a rule of the house."""
    sources = _installed()
    assert {"gnexec.errors", "gnexec.ids"} <= {source.name for source in sources}
    assert faults(sources) == []


@pytest.mark.parametrize(
    ("name", "code", "fault"),
    [
        ("gnexec.core.decide", "import gnexec.store", "floor 2 is above floor 1"),
        ("gnexec.core.decide", "from gnexec import store", "floor 2 is above floor 1"),
        ("gnexec.core.decide", "from gnexec.store.contract import Entry", "floor 2 is above floor 1"),
        ("gnexec.core.decide", "from ..store import contract", "floor 2 is above floor 1"),
        ("gnexec.core.decide", "if TYPE_CHECKING:\n    from gnexec.desk import Desk", "floor 3 is above floor 1"),
        ("gnexec.core.decide", "def f():\n    from gnexec.web import app", "floor 4 is above floor 1"),
        ("gnexec.errors", "from gnexec.core import job", "floor 1 is above floor 0"),
        ("gnexec.core.decide", "from gnexec import __version__", "floor 4 is above floor 1"),
        ("gnexec.web.app", "from gnexec.worker import loop", "a door may not lean on this door"),
        ("gnexec.worker.loop", "from ..client import Client", "a door may not lean on this door"),
        ("gnexec.desk.clerk", "from gnexec.attic import trunk", "'attic' has no floor"),
        ("gnexec.attic", "", "has no floor"),
        ("gnexec.tokens", "import time", "floors 0 and 1 are pure"),
        ("gnexec.tlog.tiles", "from pathlib import Path", "floors 0 and 1 are pure"),
        ("gnexec.wire", "import os.path", "floors 0 and 1 are pure"),
        ("gnexec.ids", "def f():\n    return open('/etc/hostname').read()", "calls open"),
        ("gnexec.core.job", "import datetime as dt\ndt.datetime.now()", "calls datetime.datetime.now"),
        ("gnexec.core.job", "from datetime import datetime as when\nwhen.now()", "calls datetime.datetime.now"),
        ("gnexec.core.job", "from datetime import date\ndate.today()", "calls datetime.date.today"),
    ],
)
def test_planted_violation_is_found(name: str, code: str, fault: str) -> None:
    """Each kind of violation, planted in one module, gives exactly one fault that names it."""
    found = faults([Source(name, is_package=False, code=code)])
    assert len(found) == 1
    assert found[0].startswith(name)
    assert fault in found[0]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gnexec.core.decide", "from gnexec.ids import b64url\nfrom . import job\nimport hashlib"),
        ("gnexec.tlog.note", "from gnexec import wire\nfrom gnexec.tokens import claims"),
        ("gnexec.desk.clerk", "import time\nfrom gnexec.store import contract\nopen('x')"),
        ("gnexec.cli.demo", "from gnexec.demo import show\nfrom gnexec.worker import loop"),
        ("gnexec.demo.show", "from gnexec.client import Client"),
        ("gnexec.core.job", "from datetime import UTC, datetime\ndatetime.fromtimestamp(0, UTC)"),
    ],
)
def test_lawful_import_is_left_alone(name: str, code: str) -> None:
    """What the house allows gives no fault: downwards, sideways below the doors, and the listed doors."""
    assert faults([Source(name, is_package=False, code=code)]) == []


def test_alembic_folder_beside_the_library_does_not_shadow_it() -> None:
    """The checkout's alembic/ is no package: `import alembic` finds the library, even with the checkout on the path."""
    folder = Path(__file__).resolve().parents[1] / "alembic"
    assert folder.is_dir()
    assert not (folder / "__init__.py").exists()
    library = importlib.import_module("alembic")
    assert library.__file__ is not None
    assert not Path(library.__file__).is_relative_to(folder)
