"""What a server can do, asked without a login: greeting, capabilities, STARTTLS, goodbye.

    S: * OK ready                        S: +OK ready          S: "SIEVE" "fileinto …" / OK
    C: a CAPABILITY                      C: CAPA               C: CAPABILITY
    C: b STARTTLS                        C: STLS               C: STARTTLS

One `Dialect` a grammar, data only; who uses it reads until a pattern is found, within bounds.
`lacking` compares with what an option announces, without what the front itself answers for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Dialect(NamedTuple):
    """How one protocol asks; each pattern finds the end of an answer."""

    greeting: re.Pattern[bytes]
    welcome: re.Pattern[bytes]  # matches the answer that is good
    ask: bytes
    answer: re.Pattern[bytes]
    starttls: bytes
    started: re.Pattern[bytes]
    agreed: re.Pattern[bytes]
    goodbye: bytes
    words: Callable[[bytes], set[str]]  # what an answer lists
    announced: Callable[[bytes], set[str]]  # what the option lists
    greets_with_words: bool = False  # the greeting is the list, and comes anew behind STARTTLS


_LINE = re.compile(rb"\n")
_OWN = {  # what a front answers for, before the login only, or that says nothing of commands
    "AUTH", "IMPLEMENTATION", "LOGINDISABLED", "OWNER", "RESP-CODES", "SASL", "SASL-IR",
    "STARTTLS", "STLS", "USER", "VERSION",
}  # fmt: skip


def _tagged_words(answer: bytes) -> set[str]:
    found = re.findall(rb"^\* CAPABILITY ([^\r\n]*)", answer, re.MULTILINE | re.IGNORECASE)
    return _upper(b" ".join(found).split())


def _listed_words(answer: bytes) -> set[str]:
    lines = answer.splitlines()[1:-1]
    return _upper([line.split()[0] for line in lines if line.split()])


def _dotted_words(option: bytes) -> set[str]:
    entries = option.split(b"." if b"." in option else b"  ")
    return _upper([entry.split()[0] for entry in entries if entry.split()])


def _quoted_words(text: bytes) -> set[str]:
    """Names, and each word of those that are lists: ``SIEVE fileinto``."""
    found: set[str] = set()
    for name, _, value in re.findall(rb'"([^"\s]+)"( "([^"]*)")?', text):
        found |= _upper([name + b" " + word for word in value.split()] or [name])
    return found


def _upper(words: list[bytes]) -> set[str]:
    return {word.decode("ascii", "backslashreplace").upper() for word in words}


DIALECTS: dict[str, Dialect] = {
    "imap4": Dialect(
        greeting=_LINE,
        welcome=re.compile(rb"\* OK\b", re.IGNORECASE),
        ask=b"a CAPABILITY\r\n",
        answer=re.compile(rb"^a [^\n]*\n", re.MULTILINE),
        starttls=b"b STARTTLS\r\n",
        started=re.compile(rb"^b [^\n]*\n", re.MULTILINE),
        agreed=re.compile(rb"(?:\* [^\n]*\n)*b OK\b", re.IGNORECASE),
        goodbye=b"c LOGOUT\r\n",
        words=_tagged_words,
        announced=lambda option: _upper(option.split()),
    ),
    "pop3": Dialect(
        greeting=_LINE,
        welcome=re.compile(rb"\+OK\b"),
        ask=b"CAPA\r\n",
        answer=re.compile(rb"\A-[^\n]*\n|^\.\r?\n", re.MULTILINE),
        starttls=b"STLS\r\n",
        started=_LINE,
        agreed=re.compile(rb"\+OK\b"),
        goodbye=b"QUIT\r\n",
        words=_listed_words,
        announced=_dotted_words,
    ),
    "managesieve": Dialect(
        greeting=(_end := re.compile(rb"^(?:OK|NO|BYE)\b[^\n]*\n", re.MULTILINE | re.IGNORECASE)),
        welcome=re.compile(rb'(?:"[^\n]*\n)*OK\b', re.IGNORECASE),
        ask=b"CAPABILITY\r\n",
        answer=_end,
        starttls=b"STARTTLS\r\n",
        started=_end,
        agreed=re.compile(rb"OK\b", re.IGNORECASE),
        goodbye=b"LOGOUT\r\n",
        words=_quoted_words,
        announced=_quoted_words,
        greets_with_words=True,
    ),
}


def lacking(dialect: Dialect, option: str, answer: bytes) -> list[str]:
    """What an option announces and a server's answer does not list."""
    announced = dialect.announced(option.encode())
    missing = announced - dialect.words(answer)
    return sorted(word for word in missing if re.split(r"[= ]", word)[0] not in _OWN)
