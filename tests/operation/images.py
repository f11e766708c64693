"""Images of containers for tests: the real `deploy/Containerfile`, built by buildah, without a network.

What is not real is the image that it starts from. It is made of this machine: its /usr, and the Python that runs the
tests with the packages it has, are shown to the build, read-only. So nothing is fetched, and what is installed is what
is tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.docs.console import ROOT
from tests.requirements import missing, require

FILE: Final = ROOT / "deploy" / "Containerfile"
BASE: Final = "localhost/base"
PACKAGES: Final = "/packages"
_LINKS: Final = ("bin", "sbin", "lib", "lib64")
_FOLDERS: Final = ("dev", "etc", "opt", "proc", "root", "run", "sys", "usr", "var")


@dataclass(frozen=True, slots=True)
class Builder:
    """buildah, with images and containers of its own."""

    folder: Path

    def command(self, *words: str) -> list[str]:
        """Return a command of buildah's."""
        own = ("--storage-driver=vfs", f"--root={self.folder / 'root'}", f"--runroot={self.folder / 'run'}")
        return [require("buildah", "buildah"), *own, *words]

    def __call__(self, *words: str) -> str:
        """Run a command and return what it prints; it must succeed."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    @property
    def shown(self) -> list[str]:
        """What of this machine is shown, as options of `build` and `run`."""
        places = {"/usr": "/usr", sys.base_prefix: sys.base_prefix, str(self.folder / "packages"): PACKAGES}
        site = sysconfig.get_path("platlib")
        places |= {site: site}
        return [f"--volume={here}:{there}:ro" for here, there in places.items() if not _within(here, "/usr")]

    def config(self, image: str) -> dict[str, Any]:
        """Return an image's configuration."""
        found: dict[str, Any] = json.loads(self("inspect", "--type=image", image))["Docker"]["config"]
        return found

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Have a container of an image; return its name."""
        name = self("from", "--pull-never", image)
        try:
            yield name
        finally:
            self("rm", name)


def builder(folder: Path) -> Builder:
    """Return a builder that has the base image; skip, or fail where all is required, if it can make none."""
    buildah = Builder(folder)
    _make_packages(folder / "packages")
    root = folder / "base"
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for name in _LINKS:
        (root / name).symlink_to(f"usr/{name}")
    for place in (sys.base_prefix, sysconfig.get_path("platlib"), PACKAGES):
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    tried = subprocess.run(buildah.command("from", "scratch"), capture_output=True, text=True, check=False)
    if tried.returncode:
        missing(f"buildah can make no container here: {tried.stderr.strip()}")
    name = tried.stdout.strip()
    buildah("copy", "--quiet", name, str(root), "/")
    environment = {
        "PATH": f"{sys.base_prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": PACKAGES,
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    buildah("config", *(f"--env={name}={value}" for name, value in environment.items()), name)
    buildah("commit", "--quiet", "--rm", name, BASE)
    return buildah


def _make_packages(folder: Path) -> None:
    """Link the packages that the tests have, but for ours and for the installer."""
    folder.mkdir()
    for path in Path(sysconfig.get_path("platlib")).iterdir():
        if not path.name.startswith(("gnexec", "pip", "_editable", "__editable")):
            (folder / path.name).symlink_to(path)


def _within(path: str, folder: str) -> bool:
    """Tell whether `path` lies below `folder`, and so is shown with it."""
    return path != folder and Path(path).is_relative_to(folder)
