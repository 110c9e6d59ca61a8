"""One password checked with PAM, by the C library's own interface.

Python's bindings that Debian has can't tell PAM the client's address, on which pam_access and
pam_faillock decide. Blocks as long as the modules do: called in a helper process only.
Invariant: the password is given to prompts that are not echoed, the user's name to no one else.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_void_p

from perdition.errors import StartError

_SUCCESS, _CONV_ERR = 0, 19
_PROMPT_ECHO_OFF = 1
_RHOST = 4
_SILENT = 0x8000
# The user is not let in: PAM_AUTH_ERR, CRED_INSUFFICIENT, USER_UNKNOWN, MAXTRIES,
# NEW_AUTHTOK_REQD, ACCT_EXPIRED, CRED_EXPIRED, PERM_DENIED. Anything else is PAM's own trouble.
_REFUSALS = frozenset((7, 8, 10, 11, 12, 13, 16, 6))


class _Message(Structure):
    _fields_ = (("style", c_int), ("text", c_char_p))


class _Response(Structure):
    _fields_ = (("text", c_void_p), ("code", c_int))


_CONVERSE = CFUNCTYPE(
    c_int, c_int, POINTER(POINTER(_Message)), POINTER(POINTER(_Response)), c_void_p
)


class _Conversation(Structure):
    _fields_ = (("converse", _CONVERSE), ("data", c_void_p))


class Pam:
    """The library, for one service in /etc/pam.d."""

    def __init__(self, service: str, folder: str = "") -> None:
        """Load the library; StartError when there is none. `folder` stands for /etc/pam.d."""
        self._service = service.encode()
        self._folder = folder.encode()
        try:
            self._pam = ctypes.CDLL("libpam.so.0")
        except OSError:
            raise StartError("authenticate_in: there is no libpam (Debian: libpam0g)") from None
        self._libc = ctypes.CDLL(None)
        self._libc.calloc.restype = c_void_p
        self._libc.calloc.argtypes = (c_size_t, c_size_t)
        self._libc.strdup.restype = c_void_p
        self._libc.strdup.argtypes = (c_char_p,)
        for name in ("pam_authenticate", "pam_acct_mgmt", "pam_end"):
            getattr(self._pam, name).argtypes = (c_void_p, c_int)
        self._pam.pam_set_item.argtypes = (c_void_p, c_int, c_char_p)

    def check(self, user: bytes, password: bytes, host: str) -> bool | None:
        """Whether PAM lets the user in from `host`; None: PAM itself is in trouble."""

        def converse(count: int, messages: object, responses: object, _: object) -> int:
            # PAM frees what it gets, so it must come from malloc.
            block = self._libc.calloc(count, ctypes.sizeof(_Response))
            if not block:
                return _CONV_ERR
            answers = ctypes.cast(block, POINTER(_Response))
            for index in range(count):
                if messages[index].contents.style == _PROMPT_ECHO_OFF:  # type: ignore[index]
                    answers[index].text = self._libc.strdup(password)
            responses[0] = answers  # type: ignore[index]
            return _SUCCESS

        conversation = _Conversation(_CONVERSE(converse), None)
        handle = c_void_p()
        if self._start(user, conversation, handle) != _SUCCESS:
            return None
        code = self._pam.pam_set_item(handle, _RHOST, host.encode()) if host else _SUCCESS
        if code == _SUCCESS:
            code = self._pam.pam_authenticate(handle, _SILENT)
        if code == _SUCCESS:
            code = self._pam.pam_acct_mgmt(handle, _SILENT)
        self._pam.pam_end(handle, code)
        return True if code == _SUCCESS else False if code in _REFUSALS else None

    def _start(self, user: bytes, conversation: _Conversation, handle: c_void_p) -> int:
        if not self._folder:
            code = self._pam.pam_start(self._service, user, byref(conversation), byref(handle))
        else:
            code = self._pam.pam_start_confdir(
                self._service, user, byref(conversation), self._folder, byref(handle)
            )
        return int(code)
