"""The image of `deploy/Containerfile`, built and run: without rights, with a read-only root, healthy, and stoppable."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.operation.images import BASE, FILE, Builder, builder
from tests.worker.agents import until

IMAGE = "localhost/gnexec"
DATA = "/var/lib/gnexec"


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Have the image, built as the file says."""
    made = builder(tmp_path_factory.mktemp("images"))
    options = ["--isolation=chroot", "--format=docker", f"--build-arg=PYTHON={BASE}", "--pull-never", *made.shown]
    made("build", *options, "-f", str(FILE), "-t", IMAGE, ".")
    yield made
    made("rmi", "--all", "--force")


def test_image_runs_without_rights_from_a_named_base(buildah: Builder) -> None:
    """Its account is nobody on the host, and nothing in the file depends on what a registry calls newest."""
    config = buildah.config(IMAGE)
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == [DATA]
    text = FILE.read_text()
    bases = re.findall(r"^ARG PYTHON=(\S+)$", text, re.MULTILINE)
    assert [re.fullmatch(r"docker\.io/library/python:\d\.\d+-slim-[a-z]+", base) is not None for base in bases] == [
        True
    ]
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${PYTHON}", "${PYTHON}"]
    assert not re.search(r"^ADD|:latest|sudo|--trusted-host", text, re.MULTILINE)


def test_container_serves_is_healthy_and_writes_nothing_but_its_volume(buildah: Builder, tmp_path: Path) -> None:
    """What the image starts by itself answers; its root may be read-only; SIGTERM is an ordinary end."""
    config = buildah.config(IMAGE)
    port = _free_port()
    with buildah.container(IMAGE) as name:
        root = Path(buildah("mount", name))
        before = _listing(root)
        options = ["run", "--isolation=chroot", *buildah.shown, name, "--"]
        command = [*config["Entrypoint"], *config["Cmd"], "--port", str(port)]
        with (tmp_path / "said").open("wb") as said:
            running = subprocess.Popen(buildah.command(*options, *command), stdout=said, stderr=said)
        try:
            health = [word.replace(":8000", f":{port}") for word in config["Healthcheck"]["Test"]]
            assert health.pop(0) == "CMD"
            check = buildah.command(*options, *health)
            until(lambda: _serves(port) or running.poll() is not None, "the server", (tmp_path / "said").read_text)
            assert subprocess.run(check, capture_output=True, check=False).returncode == 0
            served = _process(running.pid)
            assert served.uids().real == 10001
            served.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0, (tmp_path / "said").read_text()
            assert subprocess.run(check, capture_output=True, check=False).returncode != 0
        finally:
            for each in [*psutil.Process(running.pid).children(recursive=True)] if running.poll() is None else []:
                each.kill()
            running.kill()
            running.wait(30)
        assert _listing(root) == before
        (database,) = (buildah.folder / "root" / "vfs-containers").rglob(
            "log.sqlite"
        )  # in the volume, and nowhere else
        assert database.stat().st_uid == 10001
        assert (database.parent / "keys").stat().st_mode & 0o077 == 0
        buildah("umount", name)


def _process(pid: int) -> psutil.Process:
    """Return the server among the descendants of a process."""
    below = psutil.Process(pid).children(recursive=True)
    return next(each for each in below if "serve" in each.cmdline() and "buildah" not in each.cmdline()[0])


def _serves(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/hey").status_code == 200
    except httpx2.TransportError:
        return False


def _listing(root: Path) -> list[tuple[str, int, int]]:
    """Return all files of a container with size and time, but for what the runtime mounts over."""
    mounted = {"dev", "proc", "sys", "run", "etc"}
    return sorted(
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns)
        for top in root.iterdir()
        if top.name not in mounted
        for path in [top, *top.rglob("*")]
        if path.is_file()
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
