"""ManageSieve: sieve-connect, and all of a session in one write."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from tests.clients.place import MODES, REFUSED, Place, Way
from tests.servers.lines import Lines

Need = Callable[[str], str]

SCRIPT = 'require ["fileinto"];\nif header "subject" "äöü" {\n  fileinto "x";\n}\n' + "# ö\n" * 5000


def sieve_connect(
    way: Way, program: str, *action: str, password: str | None = None, status: int = 0
) -> tuple[bytes, str]:
    """Run sieve-connect, which takes STARTTLS wherever it is offered."""
    return way.run(
        program, "-s", way.host, "-p", str(way.port), "-u", way.user, "--passwordfd", "0",
        "--tlscafile", str(way.authority), "--clearchan", *action,
        says=f"{way.password if password is None else password}\n", status=status,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["plain", "starttls"])
def test_sieve_connect(place: Place, need: Need, mode: str) -> None:
    program = need("sieve-connect")

    def work(way: Way) -> list[object]:
        (way.folder / "new.sieve").write_text(SCRIPT)
        (way.folder / "bad.sieve").write_text("frob;\n")
        (way.folder / "commands").write_text(
            "put new.sieve work\nput new.sieve spare\nlist\nactivate work\nlist\n"
            "get work got.sieve\ndeactivate\nrm spare\nlist\n"
        )
        seen: list[object] = [sieve_connect(way, program, "--exec", "commands")]
        seen.append((way.folder / "got.sieve").read_text())
        seen.append(sieve_connect(way, program, "--list"))
        seen.append(sieve_connect(way, program, "--upload", "--localsieve", "bad.sieve",
                                  "--remotesieve", "bad", status=1))  # fmt: skip
        seen.append(sieve_connect(way, program, "--delete", "--remotesieve", "work"))
        seen.append(sieve_connect(way, program, "--list"))
        return seen

    seen = place.same("sieve", mode, work)
    first, got, listed, *_, last = seen
    assert isinstance(first, tuple)
    assert first[0].count(b'"work" ACTIVE\n') == 1
    assert first[0].count(b'"spare"\n') == 2
    assert got == SCRIPT
    assert listed == (b'"work"\n', "")
    assert last == (b"", "")


@pytest.mark.parametrize("mode", ["plain", "starttls"])
def test_sieve_connect_with_a_wrong_password(place: Place, need: Need, mode: str) -> None:
    program = need("sieve-connect")

    def work(way: Way) -> tuple[bytes, str]:
        return sieve_connect(way, program, "--list", password="wrong", status=255)

    _, complaint = place.same("sieve", mode, work, status=REFUSED)
    assert 'Authentication refused by server\n: "Authentication failed."' in complaint


@pytest.mark.parametrize("mode", MODES)
def test_managesieve_pipelined(place: Place, mode: str) -> None:
    def work(way: Way) -> list[bytes]:
        plain = base64.b64encode(f"\0{way.user}\0{way.password}".encode())
        script = SCRIPT.encode()
        lines = Lines.to(way.port, way.context if way.mode == "tls" else None)
        with lines:
            lines.up_to(b"OK")  # capabilities
            if way.mode == "starttls":
                lines.say("STARTTLS")
                assert lines.hear().startswith("OK")
                sock = way.context.wrap_socket(lines.sock, server_hostname=way.host)
                lines = Lines(sock)
                lines.up_to(b"OK")
            with lines:
                lines.say(
                    b'AUTHENTICATE "PLAIN" {%d+}\r\n%b\r\nPUTSCRIPT "a" {%d+}\r\n%b\r\n'
                    b'HAVESPACE "b" 1000\r\nSETACTIVE "a"\r\nLISTSCRIPTS\r\nGETSCRIPT "a"\r\n'
                    b'SETACTIVE ""\r\nRENAMESCRIPT "a" "b"\r\nDELETESCRIPT "b"\r\n'
                    b'NOOP "tag"\r\nDELETESCRIPT "b"' % (len(plain), plain, len(script), script)
                )
                lines.up_to(b"OK")  # and it is in
                answers = lines.up_to(b"NO")
                lines.say("LOGOUT")
                return answers + lines.up_to(b"OK")

    said = place.same("sieve", mode, work)
    assert b'"a" ACTIVE\r\n' in said
    assert SCRIPT.encode() in b"".join(said)
    assert any(line.startswith(b'OK (TAG "tag")') or b"TAG {3}" in line for line in said)
    assert said[-2].startswith(b"NO (NONEXISTENT)")
