"""Attacks from inside the sandbox: every one must fail.

Each attacker prints "held" when it is stopped and "escaped" when it is not, so that a crash is not taken for safety.
Where an attack can do no harm, it is also run without a sandbox, where it must succeed.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnexec.worker.collect import collect
from gnexec.worker.limits import GIB, MIB, Limits
from tests.requirements import missing
from tests.worker.conftest import Bench

READ = """
import pathlib, sys
try:
    pathlib.Path(sys.argv[1]).read_bytes()
except OSError:
    print("held")
else:
    print("escaped")
"""

SYSCALL = """
import ctypes, errno, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
number = int(sys.argv[1 if platform.machine() == "x86_64" else 2])
libc.syscall.restype = ctypes.c_long
result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(int(word)) for word in sys.argv[4:]))
print("held" if result == -1 and errno.errorcode[ctypes.get_errno()] == sys.argv[3] else f"escaped {result}")
"""

CONNECT = """
import socket, sys
try:
    if sys.argv[1] == "abstract":
        socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[2])
    else:
        socket.create_connection(("127.0.0.1", int(sys.argv[2])), 5)
except OSError:
    print("held")
else:
    print("escaped")
"""


@contextmanager
def listening(family: int, address: object) -> Iterator[socket.socket]:
    """Serve a socket on the host while the attacker tries to reach it."""
    with socket.socket(family) as server:
        server.bind(address)  # type: ignore[arg-type] # the form of an address depends on its family
        server.listen()
        yield server


def test_reading_home_and_its_keys_is_held(caged: Bench) -> None:
    """Neither the home directory nor the keys in it are there."""
    home = Path.home()
    code = "import os, sys\nfor path in sys.argv[1:]:\n    print(os.path.lexists(path))"
    places = [home, home / ".ssh", home / ".ssh/id_ed25519", Path("/root"), Path("/home"), Path("/var"), Path("/run")]
    assert caged.py(code, *map(str, places)).out.split() == ["False"] * len(places)


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/hostname", "/etc/machine-id", "/proc/1/environ", "/dev/mem"])
def test_reading_the_machines_own_files_is_held(caged: Bench, path: str) -> None:
    """What tells the machine or its people apart is not shown; what is shown of processes is the job's own."""
    result = caged.py(READ, path)
    if path == "/proc/1/environ":
        assert caged.sh(f"tr '\\0' '\\n' <{path} | grep -v ^PATH= | grep = | wc -l").out.strip() == "0"
    else:
        assert result.out == "held\n"


def test_reading_another_folder_is_held_though_it_is_open_to_all(caged: Bench, loose: Bench) -> None:
    """A file that every user of the machine may read is out of reach, also by way of /proc."""
    secret = caged.folder / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    assert loose.py(READ, str(secret)).out == "escaped\n"
    assert caged.py(READ, str(secret)).out == "held\n"
    code = """
import glob, sys
ways = glob.glob(f"/proc/*/root{sys.argv[1]}") + glob.glob(f"/proc/*/cwd/../{sys.argv[1]}")
print("escaped" if ways else "held")
"""
    assert caged.py(code, str(secret)).out == "held\n"


def test_proc_1_root_is_held(caged: Bench) -> None:
    """The first process's root is the sandbox's, or closed."""
    code = """
import os, sys
try:
    names = set(os.listdir("/proc/1/root/"))
except OSError:
    names = set()
print("escaped" if names & {"home", "root", "var", "boot", "srv"} else "held")
"""
    assert caged.py(code).out == "held\n"


def test_seeing_or_signalling_the_worker_is_held(caged: Bench) -> None:
    """Processes of the host do not exist inside."""
    code = """
import os, sys
try:
    os.kill(int(sys.argv[1]), 0)
except ProcessLookupError:
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    print("held" if len(pids) < 5 else "escaped")
else:
    print("escaped")
"""
    # A process with the worker's number may exist inside by chance, if that number is small; take one that is not.
    assert caged.py(code, str(max(os.getpid(), 1000))).out == "held\n"


@pytest.mark.parametrize(
    ("x86_64", "aarch64", "arguments", "error"),
    [
        pytest.param(101, 117, (16, 1, 0, 0), "EPERM", id="ptrace-attach-to-the-parent"),
        pytest.param(101, 117, (0, 0, 0, 0), "EPERM", id="ptrace-traceme"),
        pytest.param(310, 270, (1, 0, 0, 0, 0, 0), "EPERM", id="process_vm_readv"),
        pytest.param(250, 219, (0, -3, 0), "EPERM", id="keyctl-session-keyring"),
        pytest.param(272, 97, (0x10000000,), "EPERM", id="unshare-user"),
        pytest.param(272, 97, (0,), "EPERM", id="unshare-nothing"),
        pytest.param(56, 220, (0x10000011, 0, 0, 0, 0), "EPERM", id="clone-newuser"),
        pytest.param(435, 435, (0, 0), "ENOSYS", id="clone3"),
        pytest.param(308, 268, (0, 0), "EPERM", id="setns"),
        pytest.param(165, 40, (0, 0, 0, 0, 0), "EPERM", id="mount"),
        pytest.param(428, 428, (-100, 0, 0), "EPERM", id="open_tree"),
        pytest.param(321, 280, (0, 0, 0), "EPERM", id="bpf"),
        pytest.param(298, 241, (0, 0, -1, -1, 0), "EPERM", id="perf_event_open"),
        pytest.param(323, 282, (1,), "EPERM", id="userfaultfd"),
        pytest.param(425, 425, (1, 0), "EPERM", id="io_uring_setup"),
        pytest.param(304, 265, (0, 0, 0), "EPERM", id="open_by_handle_at"),
        pytest.param(227, 112, (0, 0), "EPERM", id="clock_settime"),
        pytest.param(164, 170, (0, 0), "EPERM", id="settimeofday"),
        pytest.param(159, 171, (0,), "EPERM", id="adjtimex"),
        pytest.param(41, 198, (40, 1, 0), "EAFNOSUPPORT", id="vsock-to-the-hypervisor"),
        pytest.param(41, 198, (16, 3, 0), "EAFNOSUPPORT", id="netlink"),
    ],
)
def test_system_call_is_refused(
    caged: Bench, x86_64: int, aarch64: int, arguments: tuple[int, ...], error: str
) -> None:
    """The filter, not luck, refuses: the error is the filter's own, before the kernel looks at the arguments."""
    assert caged.py(SYSCALL, str(x86_64), str(aarch64), error, *map(str, arguments)).out == "held\n"


def test_changing_the_clock_is_held(caged: Bench) -> None:
    """The clock cannot be set, not even to the time it shows."""
    code = """
import time
try:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
except PermissionError:
    print("held")
else:
    print("escaped")
"""
    assert caged.py(code).out == "held\n"


def test_tiocsti_is_held(caged: Bench) -> None:
    """No character can be pushed into a terminal, not even into one of the job's own."""
    code = """
import errno, fcntl, os, pty, termios
pid, _ = pty.fork()
if pid:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
held = 0
for request in (termios.TIOCSTI, 0x541C):
    try:
        fcntl.ioctl(0, request, b"x")
    except OSError as err:
        held += err.errno == errno.EPERM
os._exit(held)
"""
    assert caged.py(code).text == "failure (exit 2)"


def test_there_is_no_terminal(caged: Bench) -> None:
    """The job has no controlling terminal, whatever the worker has."""
    assert caged.py(READ, "/dev/tty").out == "held\n"


def test_abstract_socket_is_held(caged: Bench, loose: Bench) -> None:
    """An abstract socket of the host, which no file permission guards, cannot be reached."""
    name = f"gnexec-{secrets.token_hex(8)}"
    with listening(socket.AF_UNIX, "\0" + name):
        assert loose.py(CONNECT, "abstract", name).out == "escaped\n"
        assert caged.py(CONNECT, "abstract", name).out == "held\n"


def test_network_is_held(caged: Bench, loose: Bench) -> None:
    """A server on the host's loopback, where services trust whoever connects, cannot be reached."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert loose.py(CONNECT, "tcp", port).out == "escaped\n"
        assert caged.py(CONNECT, "tcp", port).out == "held\n"


def test_environment_of_the_worker_does_not_leak(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the worker's environment reaches the job, in any kind of sandbox."""
    monkeypatch.setenv("GNEXEC_ACCESS_TOKEN", "secret-of-the-worker")
    monkeypatch.setenv("LD_PRELOAD_OF_THE_WORKER", "secret-of-the-worker")
    result = bench.sh("env; cat /proc/$PPID/environ 2>/dev/null | tr '\\0' '\\n'")
    names = {line.partition("=")[0] for line in result.out.splitlines()}
    if bench.sandbox.kind == "bubblewrap":
        assert "secret-of-the-worker" not in result.out
        assert names == {
            *("PATH", "HOME", "TMPDIR", "LANG", "USER", "PWD"),
            *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        }
    else:
        own = bench.sh("env").out
        assert "secret-of-the-worker" not in own


def test_descriptors_of_the_worker_do_not_leak(bench: Bench) -> None:
    """The job holds its three standard streams and nothing else."""
    with (bench.folder / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - the function takes it so
        code = "import os\nprint(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
        assert bench.py(code).out == "[0, 1, 2]\n"


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/etc/x", "/dev/x", "/proc/sys/kernel/hostname", "/bin/sh"])
def test_writing_outside_the_work_directory_is_held(caged: Bench, path: str) -> None:
    """The system is read-only, and so are the file systems in memory that hold the sandbox together."""
    code = "import sys\ntry:\n    open(sys.argv[1], 'a').close()\nexcept OSError:\n    print('held')"
    assert caged.py(code, path).out == "held\n"


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_filling_a_file_system_in_memory_is_held(caged: Bench, place: str) -> None:
    """What can be written in memory is bounded by the job's own memory."""
    result = caged.sh(f"head -c 64M /dev/zero >{place}/x; stat -c %s {place}/x", Limits(memory_bytes=64 * MIB))
    assert int(result.out or 0) <= 16 * MIB


def test_becoming_root_is_held(caged: Bench) -> None:
    """No capability is held, none can be gained, and the user outside is never root."""
    result = caged.sh("grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status; touch owned")
    values = {line.split()[0]: int(line.split()[1], 16) for line in result.out.splitlines()}
    assert values == {"CapPrm:": 0, "CapEff:": 0, "CapBnd:": 0, "NoNewPrivs:": 1, "Seccomp:": 2}
    assert (caged.work / "owned").stat().st_uid != 0


def test_fork_bomb_is_held(bench: Bench, watched: str, survivors: Callable[[str], list[int]]) -> None:
    """A fork bomb ends by its limit, with none of it left."""
    word = f"bomb-{secrets.token_hex(8)}"
    code = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    result = bench.py(code, word, limits=Limits(processes=16, wall_s=60))
    assert result.text == "limit (processes)", watched
    assert survivors(word) == []


def test_hundred_gigabyte_file_is_held(caged: Bench) -> None:
    """A file of 100 GB can be neither declared nor written."""
    code = """
import os
try:
    os.truncate(os.open("big", os.O_CREAT | os.O_RDWR), 100 << 30)
except OSError:
    print("held")
"""
    assert caged.py(code, limits=Limits(disk_bytes=16 * MIB)).out == "held\n"
    assert caged.sh("head -c 100G /dev/zero >big", Limits(disk_bytes=16 * MIB, wall_s=60)).text == "limit (disk)"


def test_many_files_that_make_up_a_big_one_are_held(bench: Bench) -> None:
    """The disk limit is over all files together."""
    script = "i=0; while :; do i=$((i+1)); head -c 1M /dev/zero >f$i; done"
    assert bench.sh(script, Limits(disk_bytes=16 * MIB, wall_s=60)).text == "limit (disk)"


def test_files_without_a_name_are_held(caged: Bench) -> None:
    """Space taken by files that were unlinked while open counts."""
    held = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if os.geteuid() == 0 and held and not int(held[1], 16) >> 19 & 1:
        missing("root without CAP_SYS_PTRACE cannot look into the open files of another user's processes")
    code = """
import os, time
for i in range(8):
    fd = os.open(f"f{i}", os.O_CREAT | os.O_RDWR)
    os.unlink(f"f{i}")
    os.write(fd, bytes(4 << 20))
time.sleep(3600)
"""
    assert caged.py(code, limits=Limits(disk_bytes=16 * MIB, wall_s=60)).text == "limit (disk)"


def test_hiding_files_in_a_closed_directory_is_held(bench: Bench) -> None:
    """A directory that is closed to us does not hide what it holds; root is not stopped from measuring it."""
    script = "mkdir d; cd d; chmod 300 .; i=0; while :; do i=$((i+1)); head -c 1M /dev/zero >f$i; done"
    assert bench.sh(script, Limits(disk_bytes=16 * MIB, wall_s=60)).text == "limit (disk)"


def test_symlinked_output_is_held(caged: Bench) -> None:
    """A link in place of an output is not followed, whether it is the last part of the path or an earlier one."""
    target = caged.folder / "host"
    target.mkdir()
    (target / "secret").write_text("secret")
    assert caged.sh(f"ln -s {target}/secret out; ln -s {target} dir; ln -s /proc/self/root root").text == "success"
    found = collect(caged.work, ["out", "dir/secret", f"root{target}/secret"], caged.folder, GIB)
    assert found.outputs == {}
    assert set(found.refused) == {"out", "dir/secret", f"root{target}/secret"}


def test_setsid_survivor_is_held(bench: Bench, watched: str, survivors: Callable[[str], list[int]]) -> None:
    """A daemon that leaves its session and its parent does not outlive the job."""
    word = f"daemon-{secrets.token_hex(8)}"
    code = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("ready", "w").close()
        time.sleep(3600)
    os._exit(0)
while not os.path.exists("ready"):
    pass
"""
    result = bench.py(code, word)
    assert result.text == "success", watched
    assert (bench.work / "ready").exists()
    assert survivors(word) == []


def test_output_held_open_by_a_survivor_does_not_delay_the_end(bench: Bench) -> None:
    """The end of a job is the end of its first process, whoever still holds its output."""
    result = bench.sh("sleep 3600 & echo done", Limits(wall_s=600))
    assert (result.text, result.out) == ("success", "done\n")
