"""What Linux lets a process give up for good, which Python has no words for: prctl(2), capset(2).

Nothing here gives a right, all of it takes some. OSError where the kernel says no.
"""

from __future__ import annotations

import ctypes
import errno
import os

# linux/prctl.h
_SET_DUMPABLE, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 4, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_CAPABILITIES = 64  # more than there are
_VERSION_3 = 0x20080522  # linux/capability.h


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class Kernel:
    """The calls, of this process's C library."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)

    def _prctl(self, option: int, first: int = 0) -> int:
        """Return 0 or the number of an error."""
        failed = self._libc.prctl(option, first, 0, 0, 0) < 0
        return ctypes.get_errno() if failed else 0

    def empty_bounding_set(self) -> None:
        """Let no program that is run gain a capability; nothing without the right to say so."""
        for number in range(_CAPABILITIES):
            code = self._prctl(_CAPBSET_DROP, number)
            if code in (errno.EINVAL, errno.EPERM):
                return  # the last one that there is was before; or CAP_SETPCAP is not ours
            _raise(code)

    def drop_capabilities(self) -> None:
        """Give up all capabilities, the inheritable and ambient ones too."""
        _raise(self._prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL))
        data = (_Data * 2)()
        if self._libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), data) < 0:
            _raise(ctypes.get_errno())

    def forbid_new_privileges(self) -> None:
        """Let no program that is run gain rights by its file's mode."""
        _raise(self._prctl(_SET_NO_NEW_PRIVS, 1))

    def set_dumpable(self, dumpable: bool) -> None:
        """Whether a crash leaves a core, and a process of the same user may trace this one."""
        _raise(self._prctl(_SET_DUMPABLE, int(dumpable)))


def _raise(code: int) -> None:
    if code:
        raise OSError(code, os.strerror(code))
