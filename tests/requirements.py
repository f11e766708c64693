"""What a test needs of the machine, said in one place.

A missing system package is a skip that names the package, unless `GNEXEC_REQUIRE_ALL=1`: then it is a failure,
so that continuous integration cannot pass by leaving something out.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip this test for `reason`, or fail where everything is required."""
    if os.environ.get("GNEXEC_REQUIRE_ALL") == "1":
        pytest.fail(f"required, but {reason}")
    pytest.skip(reason)


def require(command: str, package: str) -> str:
    """Return the path of `command`, which Debian's `package` brings; skip or fail when it is missing."""
    found = shutil.which(command)
    if found is None:
        missing(f"{command} is not installed: apt-get install {package}")
    return found


def shared_data(name: str) -> Path:
    """Return the folder of reference data `name`, from `GNEXEC_DATA` or `../shared/data`; skip or fail without it."""
    root = Path(os.environ.get("GNEXEC_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (root / name).is_dir():
        missing(f"the reference data set {name!r} is not in {root}: set GNEXEC_DATA to the folder that holds it")
    return root / name
