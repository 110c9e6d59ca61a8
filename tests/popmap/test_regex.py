r"""Expressions mean what they mean to the C library, whose regcomp(3) Perdition 2.2 used."""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import time
from importlib import import_module, reload
from pathlib import Path

import pytest

from perdition.errors import MapError
from perdition.popmap import regex, regex_libc
from perdition.popmap.base import Query, Stale

_EXTENDED = 1  # regex.h
_GROUPS = 10

_libc = ctypes.CDLL(None)


ENGINES = ("perdition.popmap.regex_re2", "perdition.popmap.regex_libc")


@pytest.fixture(params=ENGINES, ids=lambda name: name.rpartition("_")[2])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RE2, and as where it is not installed."""
    monkeypatch.setattr(regex, "engine", import_module(request.param))


class _Match(ctypes.Structure):
    _fields_ = (("start", ctypes.c_int), ("end", ctypes.c_int))


def _by_libc(expression: bytes, key: bytes) -> str | None:
    """The answer `<$0,$1,$2,$3>` as 2.2 makes it; "refused" when it is no expression."""
    compiled = ctypes.create_string_buffer(256)
    if _libc.regcomp(compiled, expression, _EXTENDED):
        return "refused"
    found = (_Match * _GROUPS)()
    missed = _libc.regexec(compiled, key, _GROUPS, found, 0)
    _libc.regfree(compiled)
    if missed:
        return None
    texts = [key[each.start : each.end].decode() if each.start >= 0 else "" for each in found]
    return f"{key[: found[0].start].decode()}<{','.join(texts[:4])}>"


def _by_ours(path: Path, expression: bytes, key: bytes) -> str | None:
    path.write_bytes(b"'%s' '<$0,$1,$2,$3>@host'\n" % expression)
    popmap = regex.Map(str(path))
    try:
        popmap.open()
    except MapError:
        return "refused"
    route = popmap.lookup(Query(key))
    return None if route is None else route.user.decode()


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize(
    ("expression", "key"),
    [
        (rb"^a", b"ba"), (rb"a$", b"ab"), (rb"\<jo\>", b"x jo"), (rb"\<jo", b"xjo"),
        (rb"\`jo\>", b"jo"), (rb"[\.]", b"a\\"), (rb"[]a]+", b"x]a"), (rb"[^]]", b"x"),
        (rb"[[:alpha:]]+", b"1ab"), (rb"(a|ab)(c|bcd)(d*)", b"abcd"), (rb"(a*)+", b"aa"),
        (rb"a||b", b"b"), (rb"()", b""), (rb"a**", b"aaa"), (rb"*a", b"*a"), (rb"a^b", b"a^b"),
        (rb"a{,2}", b"aaa"), (rb"a{2,3}", b"aaaa"), (rb"a}", b"a}"), (rb"a]", b"a]"),
        (rb"(a", b"(a"), (rb"[z-a]", b"z"), (rb"[a\]", b"\\"), (rb"\w+@", b"jo_1@"),
        (rb"(a)|b", b"b"), (rb"((a)|b)*", b"ab"), (rb"(?:a)", b"a"), (rb"a+?", b"aa"),
        (rb"a{0}", b"a"), (rb"[a-]", b"-"), (rb"\.\-\@\/\\", b".-@/\\"), (rb"(?i)a", b"A"),
        (rb"[[:foo:]]", b"a"), (rb"[a[:digit:]]", b"5"), (rb"(Jo)@X", b"jo@x"),
    ],
)  # fmt: skip
def test_an_expression_as_the_c_library(tmp_path: Path, expression: bytes, key: bytes) -> None:
    assert _by_ours(tmp_path / "re", expression, key) == _by_libc(expression, key)


@pytest.mark.usefixtures("each_engine")
def test_many_expressions_as_the_c_library(tmp_path: Path) -> None:
    """What is matched, and by which expression; texts of groups where they are unambiguous."""
    chance = random.Random(5)
    pieces = ["a", "b", "jo", "@", "[.]", "[ab]", "[^a]", ".", "(ab|b)", "x*", "a+", "b?", ".*"]
    compared = 0
    for _ in range(2200):
        chosen = "".join(chance.choices(pieces, k=chance.randint(1, 5)))
        expression = f"{chance.choice(['', '^'])}{chosen}{chance.choice(['', '$'])}".encode()
        key = "".join(chance.choices("abjo.x@", k=chance.randint(0, 8))).encode()
        expected, ours = _by_libc(expression, key), _by_ours(tmp_path / "re", expression, key)
        assert ours == expected, (expression, key)
        compared += expected is not None
    assert compared > 300


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (rb"(a)\1", "back-references such as \\1 are not supported"),
        (rb"\d+", "\\d means nothing in a POSIX expression"),
        (rb"\<.*", "\\< stands beside no letter or digit; \\b may do"),
        (rb"[[.a.]]", "collating elements such as [.a.] are not supported"),
    ],
)
def test_what_the_engine_can_not_do_is_refused(
    tmp_path: Path, expression: bytes, reason: str
) -> None:
    path = tmp_path / "re"
    path.write_bytes(b"jo host\n'%s' host\n" % expression)
    with pytest.raises(MapError) as trouble:
        regex.Map(str(path)).open()
    assert str(trouble.value) == f"{path}:2: {reason}"


@pytest.mark.usefixtures("each_engine")
def test_the_first_of_many_counts_whatever_their_literal_parts(tmp_path: Path) -> None:
    path = tmp_path / "re"
    rows = [f"^u.*{number:05d}@ 10.0.0.{number % 250 + 1}" for number in range(5000)]
    rows += ["'^[a-z]+$' 10.1.0.1", "'.' 10.2.0.1", "'^U' 10.3.0.1"]
    path.write_text("\n".join(rows) + "\n")
    popmap = regex.Map(str(path))
    popmap.open()
    for key, host in [
        (b"u04999@x", "10.0.0.250"), (b"u02500@x", "10.0.0.1"), (b"jo", "10.1.0.1"),
        (b"U00001", "10.2.0.1"), (b"\xfc", "10.2.0.1"),
    ]:  # fmt: skip
        route = popmap.lookup(Query(key))
        assert route is not None
        assert route.servers[0].host == host
    assert popmap.lookup(Query(b"")) is None


@pytest.mark.usefixtures("each_engine")
def test_expressions_with_letters_beyond_ascii(tmp_path: Path) -> None:
    path = tmp_path / "re"
    path.write_text("'^jürgen@' 10.0.0.1\n'^(é|è).*z$' 10.0.0.2\n")
    popmap = regex.Map(str(path))
    popmap.open()
    for key, host in [("jürgen@x", "10.0.0.1"), ("èz", "10.0.0.2")]:
        route = popmap.lookup(Query(key.encode()))
        assert route is not None
        assert route.servers[0].host == host
    assert popmap.lookup(Query("jÜrgen@x".encode())) is None
    assert popmap.lookup(Query("jürgen@x".encode("latin-1"))) is None


@pytest.mark.usefixtures("each_engine")
def test_expressions_too_large_to_be_searched_together(tmp_path: Path) -> None:
    path = tmp_path / "re"
    long = "".join(f"{number:06d}" for number in range(40))
    path.write_text("".join(f"^{number:05d}{long}$ 10.0.0.{number}\n" for number in range(1, 200)))
    popmap = regex.Map(str(path))
    popmap.open()
    route = popmap.lookup(Query(f"00150{long}".encode()))
    assert route is not None
    assert route.servers[0].host == "10.0.0.150"


@pytest.mark.usefixtures("each_engine")
def test_a_refresh_never_mixes_old_and_new_rules(tmp_path: Path) -> None:
    """Look-ups go on while the file is read in a thread: either file answers, whole."""
    path = tmp_path / "re"
    texts = [
        "".join(f"^user{(number + shift) % 300}$ h{shift}-{(number + shift) % 300}\n"
                for number in range(300))
        for shift in (0, 150)
    ]  # fmt: skip
    path.write_text(texts[0])
    popmap = regex.Map(str(path))
    popmap.open()
    ended = threading.Event()

    def rewrite() -> None:
        for turn in range(1, 20):
            path.write_text(texts[turn % 2])
            popmap.open()
        ended.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    asked = 0
    while not ended.is_set() or not asked:
        try:
            route = popmap.lookup(Query(b"user7"))
        except Stale:
            continue
        asked += 1
        assert route is not None
        assert route.servers[0].host in ("h0-7", "h150-7")
    writer.join()


def test_without_re2_the_c_library_is_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "perdition.popmap.regex_re2", None)
    try:
        assert reload(regex).engine is regex_libc
    finally:
        monkeypatch.undo()
        assert reload(regex).engine is not regex_libc


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (rb"(a)\1", "back-references such as \\1 are not supported"),
        (rb"(a{1,100}){11}", "repeats more than 1000 times"),
        (b"(" * 101 + b"a" + b")" * 101, "more than 100 groups within each other"),
        (b"a" * 8193, "longer than 8192 bytes"),
        (rb"(a", "Unmatched ( or \\("),
    ],
)
def test_what_the_c_library_must_not_be_asked(expression: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as trouble:
        regex_libc.checked(expression)
    assert str(trouble.value) == reason


@pytest.mark.parametrize("accepted", [rb"(a)[\1]", rb"(a{1,100}){10}", rb"\<.*", rb"[[.a.]]{,3}"])
def test_what_the_c_library_can_do(accepted: bytes) -> None:
    assert regex_libc.checked(accepted) == accepted


def test_no_name_stops_the_c_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest name at expressions that take other engines ages, and memory by and by."""
    monkeypatch.setattr(regex_libc, "MEMORY_LIMIT", 3000)  # each is compiled anew twice
    path = tmp_path / "re"
    hard = ["(a|aa)+$", "(x+x+)+y", "(a|b)*a(a|b){20}c", "((.*)@(.*))|((.*)#(.*))", "(.*)(.*)(.*)z"]
    path.write_text("".join(f"'{each}' 10.0.0.1\n" for each in hard))
    popmap = regex_map_by_libc(path)
    chance = random.Random(1)
    began = time.process_time()
    for turn in range(8):
        letters = b"ab" if turn else b"x"
        key = bytes(chance.choices(letters, k=1023)) + b"b"
        assert popmap.lookup(Query(key)) is None
    assert time.process_time() - began < 10
    route = popmap.lookup(Query(b"xxy"))
    assert route is not None
    assert route.servers[0].host == "10.0.0.1"


def regex_map_by_libc(path: Path) -> regex.Map:
    popmap = regex.Map(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regex, "engine", regex_libc)
        popmap.open()
    return popmap
