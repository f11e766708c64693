"""The systemd units: what systemd says of them, and what the server they start tells systemd."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gnexec.cli import app
from tests.docs.console import ROOT
from tests.requirements import require
from tests.serving import ORIGIN, Server

PROGRAM = "/opt/gnexec/bin/gnexec"
HERE = str(Path(sys.executable).with_name("gnexec"))
UNITS = {"gnexec.service": 20, "gnexec-worker.service": 50}
"""Most exposure, in tenths, that `systemd-analyze security` may find; 100 is an unconfined service run by root."""
BREAK_THE_SANDBOX = (
    *("RestrictNamespaces", "ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset"),
    *("SystemCallFilter", "ProtectControlGroups", "PrivateUsers", "MemoryDenyWriteExecute"),
)


def unit(name: str) -> str:
    """Return a unit's text, with the program that is tested in the place of the installed one."""
    return (ROOT / "deploy" / name).read_text().replace(PROGRAM, HERE)


def started(name: str) -> list[str]:
    """Return the command that a unit starts."""
    (line,) = [line for line in unit(name).splitlines() if line.startswith("ExecStart=")]
    return shlex.split(line.removeprefix("ExecStart="))


@pytest.mark.parametrize("name", UNITS)
def test_unit_is_accepted_by_systemd_and_confined(name: str, tmp_path: Path) -> None:
    """No line is unknown or wrong, and the exposure that systemd finds is small."""
    analyze = require("systemd-analyze", "systemd")
    (tmp_path / name).write_text(unit(name))
    verified = subprocess.run([analyze, "verify", str(tmp_path / name)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    security = [analyze, "security", "--no-pager", "--offline=true", f"--threshold={UNITS[name]}", str(tmp_path / name)]
    judged = subprocess.run(security, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("name", UNITS)
def test_command_of_a_unit_is_one_of_ours(name: str) -> None:
    """Each option that a unit gives is one that the command takes."""
    _, *words = started(name)
    app.parse_args([word.replace("${GNEXEC_SERVER}", "http://127.0.0.1") for word in words])


def test_server_of_the_unit_tells_when_it_is_ready_and_that_it_is_alive(tmp_path: Path) -> None:
    """`Type=notify` and `WatchdogSec=`: the service manager hears both, from the main process."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(60)
    command = [word.replace("/var/lib/gnexec", str(tmp_path / "state")) for word in started("gnexec.service")]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NOTIFY_SOCKET": str(tmp_path / "notify")}
    env |= {"WATCHDOG_USEC": "200000", "GNEXEC_SERVE_PORT": "0", "GNEXEC_SERVE_ORIGIN": ORIGIN}
    with heard, (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stderr=log, env=env)
        try:
            states = [heard.recv(1024) for _ in range(4)]
            mapped = Path(f"/proc/{running.pid}/maps").read_text().splitlines()
        finally:
            running.send_signal(signal.SIGTERM)
            status = running.wait(30)
    assert sorted(set(states)) == [b"READY=1", b"WATCHDOG=1"]
    assert states.count(b"READY=1") == 1
    assert status == 0, "SIGTERM is the ordinary end, or `Restart=on-failure` would start it again"
    assert not [line for line in mapped if " rwx" in line], "MemoryDenyWriteExecute= would not let it start"
    assert not (tmp_path / "state" / "log.sqlite-wal").exists(), "a clean end leaves nothing to be recovered"


def test_service_manager_that_does_not_listen_stops_nobody(tmp_path: Path) -> None:
    """A socket that is gone, or is none, is no reason to fail."""
    for place in (str(tmp_path / "nobody"), "@gnexec-nobody", "vsock:2:1"):
        server = Server(tmp_path / "data", ("--open",), env={"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "100000"})
        server.data.mkdir(exist_ok=True)
        server.start()
        assert server.kill(signal.SIGTERM) == 0


def test_sandbox_of_jobs_can_be_made_by_what_the_workers_unit_leaves() -> None:
    """Without capabilities and without new privileges bubblewrap works; with a write-protected /proc it does not."""
    text = unit("gnexec-worker.service")
    for option in BREAK_THE_SANDBOX:
        assert f"\n{option}=" not in text, option
    for option in ("NoNewPrivileges=yes", "CapabilityBoundingSet=\n"):
        assert f"\n{option}" in text
    bwrap, setpriv = require("bwrap", "bubblewrap"), require("setpriv", "util-linux")
    confined = [setpriv, "--no-new-privs"]
    if os.geteuid() == 0:
        confined += ["--bounding-set=-all", "--reuid=65534", "--regid=65534", "--clear-groups"]
    box = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    box += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    made = subprocess.run([*confined, *box], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
