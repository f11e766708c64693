"""The system calls a sandboxed job is refused, as a program for the kernel's packet filter (seccomp, cBPF).

A second wall behind the namespaces: it takes away the calls through which programs have escaped them. It is a list
of refusals, not of permissions, so that R, GEMMA and Python run as they are. Nothing here loads the program:
bubblewrap does.

Rules: a call of another architecture kills; x32 is refused; a refused call returns EPERM, so that a program can say
so; `clone3` returns ENOSYS, because its flags lie behind a pointer that a filter cannot read, and C libraries then
fall back to `clone`, whose flags are checked.

Source: Linux include/uapi/linux/{seccomp,filter,audit}.h, arch/x86/entry/syscalls/syscall_64.tbl,
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import struct
from functools import cache
from typing import Final, NamedTuple

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_KILL: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS
_ERRNO: Final = 0x00050000  # SECCOMP_RET_ERRNO
_ALLOW: Final = 0x7FFF0000  # SECCOMP_RET_ALLOW

_NUMBER: Final = 0  # offsets in struct seccomp_data
_ARCH: Final = 4
_ARGS: Final = 16  # eight bytes each; the low half comes first on both architectures

_X32: Final = 0x40000000  # __X32_SYSCALL_BIT
_TIOCSTI: Final = 0x5412  # puts characters into a terminal's input
_TIOCLINUX: Final = 0x541C  # pastes the console's selection
_CLONE_NEW: Final = 0x7E020000  # CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET} and CLONE_NEWNS
_FAMILIES: Final = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: what the network namespace confines; vsock it does not

_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # name: number on x86_64, number on aarch64
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}


class _Machine(NamedTuple):
    """An architecture: its AUDIT_ARCH value, its column in `_REFUSED`, and the calls that are looked into."""

    arch: int
    column: int
    clone: int
    clone3: int
    ioctl: int
    socket: int


_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, 0, clone=56, clone3=435, ioctl=16, socket=41),
    "aarch64": _Machine(0xC00000B7, 1, clone=220, clone3=435, ioctl=29, socket=198),
}

MACHINES: Final = tuple(_MACHINES)
"""Machines (as `platform.machine` names them) for which there is a filter."""


@cache
def program(machine: str) -> bytes:
    """Assemble the filter.

    Args:
        machine: one of `MACHINES`.

    Returns:
        An array of `struct sock_filter`, 8 bytes each, as `bwrap --seccomp` reads it.

    Raises:
        KeyError: there is no filter for this machine.
    """
    arch, column, clone, clone3, ioctl, socket = _MACHINES[machine]
    refuse = _op(_RETURN, _ERRNO | errno.EPERM)
    allow = _op(_RETURN, _ALLOW)
    code = [_op(_LOAD, _ARCH), _op(_EQUAL, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]
    if machine == "x86_64":
        code += [_op(_AT_LEAST, _X32, 0, 1), refuse]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            code += [_op(_EQUAL, number, 0, 1), refuse]
    code += [_op(_EQUAL, clone3, 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    code += [_op(_EQUAL, clone, 0, 4), _argument(0), _op(_ANY_BIT, _CLONE_NEW, 0, 1), refuse, allow]
    code += [
        _op(_EQUAL, ioctl, 0, 5),
        _argument(1),
        _op(_EQUAL, _TIOCSTI, 1, 0),
        _op(_EQUAL, _TIOCLINUX, 0, 1),
        refuse,
        allow,
    ]
    code += [_op(_EQUAL, socket, 0, 2 + len(_FAMILIES)), _argument(0)]
    code += [_op(_EQUAL, family, len(_FAMILIES) - i, 0) for i, family in enumerate(_FAMILIES)]
    code += [_op(_RETURN, _ERRNO | errno.EAFNOSUPPORT), allow]
    return b"".join(code)


def _argument(index: int) -> bytes:
    return _op(_LOAD, _ARGS + 8 * index)


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, k)
