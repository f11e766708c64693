"""The list of system packages that `.ci/run` installs is the list of those that tests ask for."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
LIST = TESTS.parent / ".ci" / "packages"


def test_package_required_by_a_test_is_in_the_list() -> None:
    """Every `require(command, package)` in the tests names a package that `.ci/run` installs."""
    listed = {line.partition("#")[0].strip() for line in LIST.read_text(encoding="utf-8").splitlines()} - {""}
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "require":
                assert len(node.args) == 2, f"{path}:{node.lineno}: require() takes a command and its package"
                package = ast.literal_eval(node.args[1])
                for name in package.split():
                    assert name in listed, f"{path}:{node.lineno}: {name} is missing from .ci/packages"
