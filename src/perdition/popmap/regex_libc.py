r"""The regex map's engine where RE2 is not installed: regcomp(3) of the GNU C library, as in 2.2.

It knows expressions that RE2 does not, and tries one after the other. There are no back-references
here either: without them its time grows with the square of the key at most, and its memory with
what it has seen, which is why expressions are compiled anew now and then. Nested repetitions are
held to RE2's bound.
Invariant: bytes are bytes, whatever the locale of the process.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence

from perdition.popmap.regex_rules import PIECE, Found, Rule

LENGTH_LIMIT = 8192  # bytes of an expression
DEPTH_LIMIT = 100  # groups within groups: it goes down by recursion
REPEAT_LIMIT = 1000  # of a piece, all repetitions around it multiplied; as in RE2
MEMORY_LIMIT = 65_536  # bytes of keys until an expression is compiled anew

_EXTENDED, _STARTEND = 1, 4  # regex.h
_SIZE = 256  # of a regex_t; it takes 64
_GROUPS = 10
_CHARACTERS = 1 << 0 | 1 << 3  # locale.h: LC_CTYPE, LC_COLLATE
_INTERVAL = re.compile(rb"\{(\d*)(?:,(\d*))?\}")

_libc = ctypes.CDLL(None)
if not hasattr(_libc, "gnu_get_libc_version"):
    raise ImportError("No module named 're2'")  # other libraries' structures are not these
_libc.newlocale.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_libc.newlocale.restype = _libc.uselocale.restype = ctypes.c_void_p
_libc.uselocale.argtypes = (ctypes.c_void_p,)
_PLAIN = _libc.newlocale(_CHARACTERS, b"C", None)


class _Match(ctypes.Structure):
    _fields_ = (("start", ctypes.c_int), ("end", ctypes.c_int))


class _Expression:
    """One compiled expression; ValueError says what is wrong with it."""

    def __init__(self, text: bytes, seen: int = 0) -> None:
        self._text = text
        self._seen = seen  # bytes of keys
        self._compiled = ctypes.create_string_buffer(_SIZE)
        self._is_compiled = False
        self._compile()

    def _compile(self) -> None:
        mine = _libc.uselocale(_PLAIN)  # of this thread only; what is compiled keeps it
        try:
            failed = _libc.regcomp(self._compiled, self._text, _EXTENDED)
        finally:
            _libc.uselocale(mine)
        if failed:
            said = ctypes.create_string_buffer(200)
            _libc.regerror(failed, self._compiled, said, len(said))
            raise ValueError(said.value.decode("ascii", "replace"))
        self._is_compiled = True

    def __del__(self) -> None:
        if self._is_compiled:
            _libc.regfree(self._compiled)

    def find(self, key: bytes) -> ctypes.Array[_Match] | None:
        """The parts of the key that the whole and its groups match."""
        found = (_Match * _GROUPS)()
        found[0].start, found[0].end = 0, len(key)
        missed = _libc.regexec(self._compiled, key, _GROUPS, found, _STARTEND)
        self._seen += len(key) + 1
        if self._seen > MEMORY_LIMIT:
            self._seen = 0
            _libc.regfree(self._compiled)
            self._is_compiled = False
            self._compile()
        return None if missed else found


class Rules:
    """The file's rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        # Not all are compiled anew at the same time.
        step = max(1, MEMORY_LIMIT // (len(rules) + 1))
        self._rules = [
            (_Expression(rule.expression, number * step % MEMORY_LIMIT), rule.answer)
            for number, rule in enumerate(rules)
        ]

    def first(self, key: bytes) -> Found | None:
        """The first expression that matches, and its answer."""
        for expression, answer in self._rules:
            if (found := expression.find(key)) is not None:
                # What is no group, or did not take part, has -1 for both.
                texts = tuple(key[max(0, each.start) : max(0, each.end)] for each in found)
                return Found(found[0].start, texts, answer)
        return None


def compiled(rules: Sequence[Rule]) -> list[Rules]:
    """The rules, ready to be asked."""
    return [Rules(rules)] if rules else []


def checked(expression: bytes) -> bytes:
    """The expression as this engine takes it; ValueError for what it can't do within bounds."""
    if len(expression) > LENGTH_LIMIT:
        raise ValueError(f"longer than {LENGTH_LIMIT} bytes")
    if b"\0" in expression:
        raise ValueError("a NUL byte")
    groups, last = [1], 1  # the most repetitions within each open group; within the last piece
    end = 0
    for piece in PIECE.finditer(expression):
        if piece.start() < end:
            continue
        end = piece.end()
        text, times = piece[0], 1
        if piece["escaped"] is not None and piece["escaped"].isdigit():
            raise ValueError(f"back-references such as {text.decode()} are not supported")
        if text == b"(":
            groups.append(1)
            continue
        if text == b")" and len(groups) > 1:
            last = groups.pop()
        elif (interval := _INTERVAL.match(expression, piece.start())) is not None:
            times = max(int(count or 1) for count in interval.groups())
            last, end = last * times, interval.end()
        elif text not in (b"*", b"+", b"?"):
            last = 1
        groups[-1] = max(groups[-1], last)
        if last > REPEAT_LIMIT:
            raise ValueError(f"repeats more than {REPEAT_LIMIT} times")
        if len(groups) > DEPTH_LIMIT:
            raise ValueError(f"more than {DEPTH_LIMIT} groups within each other")
    _Expression(expression)
    return expression
