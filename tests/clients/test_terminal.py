"""Mutt and NeoMutt in a terminal: what a person sees is compared."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.clients.place import MODES, REFUSED, Place, Way, letter
from tests.servers.ports import wait_for

Need = Callable[[str], str]
MUTTS = ("mutt", "neomutt")


class Screen:
    """A terminal with a program in it, kept by tmux."""

    def __init__(self, tmux: str, way: Way) -> None:
        self._tmux = [tmux, "-S", str(way.folder / "tmux"), "-f", "/dev/null"]
        self._way = way

    def command(self, *words: str) -> str:
        """Have tmux do something; return what it says."""
        return self._way.run(*self._tmux, *words)[0].decode()

    @property
    def lines(self) -> list[str]:
        """What is to be seen."""
        shown = self.command("capture-pane", "-p").splitlines()
        return [self._way.clean(line).rstrip() for line in shown]

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self.command("send-keys", *keys)

    def shows(self, pattern: str) -> list[str]:
        """Wait until a line matches, and nothing moves; return all but the line for messages."""
        compiled = re.compile(pattern)
        seen: list[str] = []

        def still() -> bool:
            nonlocal seen
            seen = self.lines
            if not any(map(compiled.search, seen)):
                return False
            time.sleep(0.06)  # for a screen that is half drawn
            return seen == self.lines

        try:
            wait_for(still, "", seconds=10)
        except AssertionError:
            raise AssertionError("\n".join([f"no {pattern!r} in", *self.lines])) from None
        return seen[:-1]


@contextmanager
def screen(way: Way, tmux: str, *command: str) -> Iterator[Screen]:
    """Give a terminal in which a command runs."""
    shown = Screen(tmux, way)
    shown.command("new-session", "-d", "-x", "100", "-y", "24", *command)
    try:
        yield shown
    finally:
        subprocess.run([*shown._tmux, "kill-server"], capture_output=True, check=False)


def configured(way: Way, protocol: str, password: str = "") -> None:
    """Write what either Mutt reads."""
    quoted = (password or way.password).replace("\\", "\\\\").replace('"', '\\"')
    scheme = protocol + "s" * (way.mode == "tls")
    url = f"{scheme}://{way.user}@{way.host}:{way.port}"
    starttls = "yes" if way.mode == "starttls" else "no"
    inbox = f"{url}/INBOX" if protocol == "imap" else url
    folder = f"{url}/" if protocol == "imap" else way.folder
    (way.folder / "muttrc").write_text(
        f'set folder="{folder}"\nset spoolfile="{inbox}"\nset {protocol}_pass="{quoted}"\n'
        f"set ssl_ca_certificates_file={way.authority}\nset certificate_file={way.authority}\n"
        f"set ssl_starttls={starttls}\nset ssl_force_tls={starttls}\nset sleep_time=0\n"
        "set quit=yes\nset delete=yes\nset confirmcreate=no\nset confirmappend=no\n"
        "set pop_delete=yes\nset mail_check=600\nset timeout=600\nset charset=utf-8\n"
        'set record=""\nset status_format="%f %m messages"\nset pager_stop=yes\n'
        'set index_format="%3C %Z %s %c"\nset help=no\n'
    )


@pytest.mark.parametrize("program", MUTTS)
@pytest.mark.parametrize("mode", MODES)
def test_mutt_reads_imap(place: Place, need: Need, mode: str, program: str) -> None:
    tmux, path = need("tmux"), need(program)

    def work(way: Way) -> list[object]:
        configured(way, "imap")
        with screen(way, tmux, path, "-n", "-F", str(way.folder / "muttrc")) as shown:
            seen: list[object] = [shown.shows("Letter 3")]
            shown.type("1", "Enter", "Enter")
            seen.append(shown.shows("From here"))
            shown.type("i")
            shown.shows("3 messages")
            shown.type(
                "2", "Enter", "d", "F", "3", "Enter", "C"
            )  # after each the next one is marked
            shown.shows("Copy")
            shown.type("C-u", "=Kept", "Enter")
            shown.shows("3 messages")
            shown.type("$")
            seen.append(shown.shows("2 messages"))
            shown.type("c")
            shown.shows("Open mailbox")
            shown.type("C-u", "=Kept", "Enter")
            seen.append(shown.shows("1 messages"))
            shown.type("q")
            wait_for(lambda: not tmux_lives(shown), "it does not end")
        return [*seen, place.state(way.user)]

    *_, state = place.same("imap", mode, work, letters=3)
    assert isinstance(state, dict)
    assert state == {"INBOX": [("F", letter(3)), ("S", letter(1))], "Kept": [("F", letter(3))]}


def tmux_lives(shown: Screen) -> bool:
    """Whether the program in the terminal still runs."""
    done = subprocess.run(
        [*shown._tmux, "has-session"], capture_output=True, check=False, timeout=10
    )
    return done.returncode == 0


@pytest.mark.parametrize("program", MUTTS)
def test_mutt_reads_pop3(place: Place, need: Need, program: str) -> None:
    tmux, path = need("tmux"), need(program)

    def work(way: Way) -> list[object]:
        configured(way, "pop")
        with screen(way, tmux, path, "-n", "-F", str(way.folder / "muttrc")) as shown:
            seen: list[object] = [shown.shows("Letter 3")]
            shown.type("3", "Enter", "Enter")
            seen.append(shown.shows("From here"))
            shown.type("i")
            shown.shows("3 messages")
            shown.type("1", "Enter", "d", "q")
            wait_for(lambda: not tmux_lives(shown), "it does not end")
        return [*seen, place.state(way.user)]

    *_, state = place.same("pop3", "starttls", work, letters=3)
    assert isinstance(state, dict)
    assert len(state["INBOX"]) == 2


@pytest.mark.parametrize("program", MUTTS)
def test_mutt_with_a_wrong_password(place: Place, need: Need, program: str) -> None:
    tmux, path = need("tmux"), need(program)
    says = {"mutt": "SASL authentication failed", "neomutt": "Unable to open mailbox"}[program]

    def work(way: Way) -> list[str]:
        configured(way, "imap", password="wrong")
        with screen(way, tmux, path, "-n", "-F", str(way.folder / "muttrc")) as shown:
            shown.shows(says)
            return shown.lines

    place.same("imap", "starttls", work, status=REFUSED)
