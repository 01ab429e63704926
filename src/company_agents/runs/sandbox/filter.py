"""
What the kernel refuses to a sandboxed process: a seccomp filter, as the bytes of a program for its classic BPF.

Namespaces take away what there is to reach; this takes away parts of the kernel that an agent has no use for and that had
more faults than others. It is a second fence: the sandbox does not stand or fall with it.
"""

from __future__ import annotations

import errno
import os
import struct

# The number of each call on x86_64 and on aarch64 (None: there is none), as in the kernel's tables.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Keys of a user or session lie outside of every namespace but one.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # More namespaces, and mounts in them.
    "unshare": (272, 97),
    "setns": (308, 268),
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
    # Files by number instead of by path.
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # The machine itself.
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    # Programs in the kernel, and what watches it.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Memory of the kernel's that no limit of a process counts.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # Other processes' memory and files.
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "ptrace": (101, 117),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
}
# A call that is answered as if this kernel did not know it, so that the C library takes the older one, whose flags show.
_UNKNOWN = {"clone3": (435, 435)}
_CLONE, _IOCTL = (56, 220), (16, 29)

# What `uname` calls a machine, which of the two numbers above it has, and its AUDIT_ARCH.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_NAMESPACES = 0x7E020000
"""CLONE_NEW…: of mounts, cgroups, names, messages, users, processes, and networks."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_X32 = 0x40000000

# struct bpf_insn of linux/filter.h, and seccomp_data.
_LOAD, _EQUAL, _ABOVE, _ANY_OF, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def seccomp_filter(machine: str | None = None) -> bytes:
    """The filter for a kind of machine, this one's without a word; empty for one whose numbers are not known here."""
    known = _MACHINES.get(machine or os.uname().machine)
    if known is None:
        return b""
    column, arch = known
    refuse, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    # A program for another kind of machine has other numbers: 32-bit calls on a 64-bit kernel would pass by this list.
    program = [*_load(_ARCH), *_if(_EQUAL, arch, skip=1), *_answer(_KILL), *_load(_NUMBER)]
    if arch == _MACHINES["x86_64"][1]:
        program += [*_unless(_ABOVE, _X32), *_answer(unknown)]
    for answer, calls in ((refuse, _REFUSED), (unknown, _UNKNOWN)):
        for numbers in calls.values():
            number = numbers[column]
            if number is not None:
                program += [*_unless(_EQUAL, number), *_answer(answer)]
    # The lower half of an argument is all of it here: flags and commands have 32 bits, and the kernel looks at no more.
    program += [*_unless(_EQUAL, _CLONE[column], 3), *_load(_FIRST), *_unless(_ANY_OF, _NAMESPACES), *_answer(refuse)]
    program += [*_load(_NUMBER), *_unless(_EQUAL, _IOCTL[column], 5), *_load(_SECOND)]
    for command in (_TIOCSTI, _TIOCLINUX):
        program += [*_unless(_EQUAL, command), *_answer(refuse)]
    program += _answer(_ALLOW)
    return b"".join(program)


def _load(offset: int) -> list[bytes]:
    return [struct.pack("HBBI", _LOAD, 0, 0, offset)]


def _answer(value: int) -> list[bytes]:
    return [struct.pack("HBBI", _RETURN, 0, 0, value)]


def _if(test: int, value: int, *, skip: int) -> list[bytes]:
    """Skip so many instructions where the test holds."""
    return [struct.pack("HBBI", test, skip, 0, value)]


def _unless(test: int, value: int, skip: int = 1) -> list[bytes]:
    """Skip so many instructions where it does not."""
    return [struct.pack("HBBI", test, 0, skip, value)]
