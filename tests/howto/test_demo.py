"""`make run`: the demonstration ends well with ONCE=1, and badly when the login fails."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the demonstration once."""
    return subprocess.run(
        [sys.executable, *words], env={**os.environ, "ONCE": "1"}, capture_output=True, text=True,
        check=False, timeout=18,
    )  # fmt: skip


def test_it_shows_a_login_and_the_log() -> None:
    done = run(str(ROOT / "tools/demo.py"))
    assert done.returncode == 0, done.stderr
    for words in (
        "S: * OK [CAPABILITY IMAP4rev1 LOGIN-REFERRALS ID ENABLE IDLE LITERAL+]",
        "OK You are so in",
        'authentication_id="demouser"',
        "Closing session: ",
    ):
        assert words in done.stdout


def test_a_login_that_fails_is_a_failure() -> None:
    wrong = "import sys; sys.path.insert(0, {0!r})\n"
    wrong += "import demo; demo.PASSWORD = 'wrong'; demo.main()"
    done = run("-c", wrong.format(str(ROOT / "tools")), str(ROOT / "tools/demo.py"))
    assert done.returncode == 1
    assert "the login failed" in done.stderr
