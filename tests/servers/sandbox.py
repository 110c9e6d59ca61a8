"""Run a command in a unit's sandbox, as far as that goes without systemd as the first process.

User, capabilities, umask, core limit and system call filter are those of the unit's text; name
spaces and read-only folders are not made.

    python sandbox.py FILE COMMAND…     FILE holds the names of the system calls that are allowed
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

_ERRNO = 0x0005_0000 | errno.EPERM  # SCMP_ACT_ERRNO
_ALLOW = 0x7FFF_0000  # SCMP_ACT_ALLOW


def settings(text: str) -> dict[str, list[str]]:
    """Name -> values of a unit's lines, in order; an empty value forgets those before it."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = [*found.get(name, ()), value] if value else []
    return found


def _expand(analyze: str, words: list[str]) -> set[str]:
    """The system calls that names and @sets stand for."""
    calls: set[str] = set()
    for word in words:
        if word.startswith("@"):
            done = subprocess.run(
                [analyze, "syscall-filter", "--no-pager", word], capture_output=True, check=True
            )
            rows = done.stdout.decode().splitlines()[1:]
            members = [row.strip() for row in rows if row.strip() and "#" not in row]
            calls |= _expand(analyze, members)
        else:
            calls.add(word)
    return calls


def allowed_calls(analyze: str, lines: list[str]) -> set[str]:
    """What a list of SystemCallFilter= lets through (systemd.exec(5))."""
    calls = _expand(analyze, ["@default"])
    for line in lines:
        if line.startswith("~"):
            calls -= _expand(analyze, line[1:].split())
        else:
            calls |= _expand(analyze, line.split())
    return calls


def command(text: str, folder: Path, analyze: str, setpriv: str, user: str) -> list[str]:
    """What to put in front of a command to run it in the sandbox; `user` stands for the unit's."""
    unit = settings(text)
    folder.joinpath("calls").write_text(
        "\n".join(sorted(allowed_calls(analyze, unit["SystemCallFilter"])))
    )
    bounds = _capabilities(unit["CapabilityBoundingSet"])
    ambient = _capabilities(unit["AmbientCapabilities"]) if unit["AmbientCapabilities"] else "-all"
    who = [] if unit["User"][-1] == "root" else [f"--reuid={user}", f"--regid={user}"]
    groups = "--clear-groups"
    (core,) = unit["LimitCORE"]
    return [
        "prlimit", f"--core={core}", setpriv, "--bounding-set", bounds, *who, groups,
        "--inh-caps", ambient, "--ambient-caps", ambient, "--no-new-privs",
        sys.executable, __file__, str(folder / "calls"),
    ]  # fmt: skip


def _capabilities(lines: list[str]) -> str:
    """Capabilities as setpriv(1) wants them."""
    words = [word for line in lines for word in line.split()]
    return ",".join(["-all", *(f"+{word[4:].lower()}" for word in words)])


def main() -> None:
    """Load the filter, then be the command."""
    names = Path(sys.argv[1]).read_text().split()
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add.argtypes = (
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint
    )  # fmt: skip
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    context = library.seccomp_init(_ERRNO)
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # others are of other machines
            assert library.seccomp_rule_add(context, _ALLOW, number, 0) == 0, name
    assert library.seccomp_load(context) == 0
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
