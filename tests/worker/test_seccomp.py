"""The filter's program, run by an interpreter of cBPF written from the kernel's manual, for both architectures."""

from __future__ import annotations

import errno
import struct

import pytest

from gnexec.worker.seccomp import MACHINES, program

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000


def refused(number: int) -> int:
    """Return the filter's answer that makes a call fail with an error."""
    return 0x00050000 | number


def judge(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """Run the program over one `struct seccomp_data` (Linux Documentation/networking/filter.rst)."""
    words = [word & 0xFFFFFFFFFFFFFFFF for word in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *words)
    code = list(struct.iter_unpack("<HBBI", program(machine)))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x15:
                at += if_true if accumulator == k else if_false
            case 0x35:
                at += if_true if accumulator >= k else if_false
            case 0x45:
                at += if_true if accumulator & k else if_false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(operation)


@pytest.mark.parametrize("machine", MACHINES)
def test_other_architecture_kills(machine: str) -> None:
    """Numbers mean other calls on another architecture, so that none may pass."""
    for arch in (0x40000003, 0x40000028, *ARCH.values()):
        if arch != ARCH[machine]:
            assert judge(machine, 0, arch=arch) == KILL


def test_x32_is_refused() -> None:
    """The third set of numbers on x86_64 is closed, whatever it would call."""
    assert judge("x86_64", 0x40000000) == refused(errno.EPERM)
    assert judge("x86_64", 0x40000000 | 521) == refused(errno.EPERM)


@pytest.mark.parametrize(
    ("machine", "number"),
    [
        *(("x86_64", number) for number in (0, 1, 57, 59, 231, 318)),
        *(("aarch64", number) for number in (63, 64, 221, 220, 94, 278)),
    ],
)
def test_ordinary_calls_pass(machine: str, number: int) -> None:
    """Reading, writing, starting, ending and drawing random bytes are allowed."""
    assert judge(machine, number, 1, 2, 3) == ALLOW


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("ptrace", 101, 117),
        ("process_vm_readv", 310, 270),
        ("process_vm_writev", 311, 271),
        ("keyctl", 250, 219),
        ("add_key", 248, 217),
        ("request_key", 249, 218),
        ("mount", 165, 40),
        ("umount2", 166, 39),
        ("pivot_root", 155, 41),
        ("move_mount", 429, 429),
        ("unshare", 272, 97),
        ("setns", 308, 268),
        ("bpf", 321, 280),
        ("perf_event_open", 298, 241),
        ("userfaultfd", 323, 282),
        ("kexec_load", 246, 104),
        ("kexec_file_load", 320, 294),
        ("init_module", 175, 105),
        ("finit_module", 313, 273),
        ("delete_module", 176, 106),
        ("clock_settime", 227, 112),
        ("settimeofday", 164, 170),
        ("adjtimex", 159, 171),
        ("clock_adjtime", 305, 266),
        ("open_by_handle_at", 304, 265),
        ("io_uring_setup", 425, 425),
        ("io_uring_enter", 426, 426),
        ("io_uring_register", 427, 427),
    ],
)
def test_dangerous_call_is_refused(name: str, x86_64: int, aarch64: int) -> None:
    """Each call by which programs have left their sandboxes is refused on both architectures."""
    assert judge("x86_64", x86_64) == refused(errno.EPERM), name
    assert judge("aarch64", aarch64) == refused(errno.EPERM), name


@pytest.mark.parametrize(("machine", "clone", "ioctl", "socket"), [("x86_64", 56, 16, 41), ("aarch64", 220, 29, 198)])
def test_calls_are_judged_by_their_arguments(machine: str, clone: int, ioctl: int, socket: int) -> None:
    """New namespaces, terminal injection and odd socket families are refused; threads and TCP are not."""
    assert judge(machine, 435) == refused(errno.ENOSYS)
    assert judge(machine, clone, 0x003D0F00) == ALLOW  # what pthread_create asks for
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(machine, clone, flag | 0x11) == refused(errno.EPERM)
    for request in (0x5412, 0x541C, 0x5412 | 7 << 32):  # the kernel looks at the low half only
        assert judge(machine, ioctl, 0, request) == refused(errno.EPERM)
    assert judge(machine, ioctl, 0x5412, 0x5401) == ALLOW
    assert {family: judge(machine, socket, family) for family in (1, 2, 10)} == dict.fromkeys((1, 2, 10), ALLOW)
    for family in (0, 16, 17, 31, 38, 40):
        assert judge(machine, socket, family) == refused(errno.EAFNOSUPPORT)


def test_machine_without_a_filter_is_an_error() -> None:
    """There is no empty filter."""
    with pytest.raises(KeyError):
        program("riscv64")
