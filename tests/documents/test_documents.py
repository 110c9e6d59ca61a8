"""Every command and every configuration in the documents is run by a test: by which, is said here.

Those of README.md, docs/howto-dmz.md and docs/operate.md are run below on a host of their own, as
they stand there, in their order, by somebody who does what the page says.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.documents.host import Host
from tests.documents.pages import BLOCKS, PAGES, Block, block

from perdition.ops import control, service
from perdition.protocols import COMMANDS

README, HOWTO, INSTALL, OPERATE, POPMAPS = (
    "README.md", "docs/howto-dmz.md", "docs/install.md", "docs/operate.md", "docs/popmaps.md",
)  # fmt: skip
USER, PASSWORD = "demouser", "demopass"
DEB = "../tests_package/test_deb.py::"  # make test-package
HERE = "documents/test_documents.py::"
KINDS = "popmap/test_docs.py::test_the_options_are_understood"
EXAMPLES = "popmap/test_docs.py::test_the_example_works"

# Page, and how a block of it begins -> the test that runs it, or that finds the program saying it.
RUN_BY = {
    (README, "make run"): "howto/test_demo.py::test_it_shows_a_login_and_the_log",
    (README, ""): f"{HERE}test_the_readme",
    (HOWTO, "python3 -m venv"): f"{HERE}test_the_howto",  # but for pip: see there
    (HOWTO, "install -D"): f"{HERE}test_the_howto",
    (HOWTO, "RUN_PERDITION"): f"{HERE}test_the_howto",
    (HOWTO, "outgoing_server"): f"{HERE}test_the_howto",
    (HOWTO, "perdition-service check"): f"{HERE}test_the_howto",
    (HOWTO, "perdition.imaps[4711]: Starting"):
        "howto/test_howto.py::test_one_daemon_listens_and_says_so",
    (HOWTO, "perdition.imaps: /etc"): f"{HERE}test_the_howto",
    (HOWTO, "openssl s_client"): f"{HERE}test_the_howto",
    (HOWTO, "* OK"): "howto/test_howto.py::test_the_transcript",
    (HOWTO, "perdition.imaps[4712]: Connect"): "howto/test_howto.py::test_the_transcript",
    (HOWTO, "login_trusted_networks"):
        "server/test_forward_client.py::test_a_server_that_trusts_us_logs_the_client",
    (HOWTO, "# /etc/fail2ban"): f"{HERE}test_the_jails",
    (OPERATE, "# perditionctl status"): f"{HERE}test_the_page_about_operating",
    (OPERATE, "perditionctl"): f"{HERE}test_the_page_about_operating",
    (OPERATE, "apt-get install"): f"{HERE}test_the_page_about_operating",  # but for apt-get
    (OPERATE, "metrics_listen"): f"{HERE}test_the_page_about_operating",
    (OPERATE, "scrape_configs"):
        "server/test_metrics.py::test_alerts_are_evaluated_and_none_is_pending",
    (OPERATE, "perdition.imap4s --check-config"): f"{HERE}test_the_page_about_operating",
    (OPERATE, "outgoing_server"): "ops/test_check_config.py::test_the_example_in_the_documents",
    (OPERATE, "error: /etc"): "ops/test_check_config.py::test_the_example_in_the_documents",
    (OPERATE, "reload: ssl_cert_file"):
        "ops/test_check_config.py::test_a_reload_refuses_what_the_check_calls_an_error",
    (INSTALL, "make deb"): f"{DEB}test_a_new_host",
    (INSTALL, "perdition-service check"): f"{DEB}test_a_new_host",
    # As pipx does it, without pipx.
    (INSTALL, "pipx install"): "../tests_package/test_wheel.py::test_commands",
    (INSTALL, "cd "): "../tests_package/test_wheel.py::test_pages_units_and_samples_are_in_share",
    # By buildah, and a container of systemd-nspawn in podman's place.
    (INSTALL, "podman "):
        "../tests_package/test_container.py::test_the_image_runs_in_the_foreground",
    ("docs/migrate.md", "apt install"): f"{DEB}test_an_upgrade_from_2_2_and_the_way_back",
    # All of it takes ten minutes: a job of it, by the same program.
    ("docs/performance.md", "make bench"): "bench/test_bench.py::test_measures_nginx",
    (POPMAPS, "perdition.imap4 --explain"): "routing/test_routing.py::test_explain_shows_each_step",
    (POPMAPS, "map_library"): KINDS,
    (POPMAPS, "# FOLDER/popmap"): EXAMPLES,
    (POPMAPS, "make"): EXAMPLES,
    (POPMAPS, "awk"): EXAMPLES,
    (POPMAPS, "python3 -c 'import sqlite3"): EXAMPLES,
    (POPMAPS, "#!/bin/sh"): EXAMPLES,
    **{
        (POPMAPS, first): "popmap/test_docs.py::test_the_example_works_at_its_server"
        for first in (
            "CREATE TABLE tblPerdition", "CREATE TABLE account", "[dbPerdition]", "dn: uid=ann",
            'echo "ann 127.0.0.1:1143" | /usr/lib/yp/', '{"server": "127.0.0.1"', "10:popmap ann,",
            "#!/usr/bin/python3", "SET perdition:ann",
        )
    },
    (POPMAPS, "[project.entry-points"): "popmap/test_lookups.py::test_maps_of_other_projects",
    (POPMAPS, '"""Users by the first letter'):
        "popmap/test_lookups.py::test_maps_of_other_projects",
}  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda each: f"{each.page}: {each.first[:40]}")
def test_every_block_is_run_by_a_test(block: Block) -> None:
    found = [test for (page, first), test in RUN_BY.items()
             if page == block.page and block.first.startswith(first)]  # fmt: skip
    assert found, "which test runs this? Say so in RUN_BY"
    file, _, name = found[0].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    tests = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert name in tests


@pytest.mark.parametrize(("page", "first"), RUN_BY)
def test_nothing_is_said_to_be_run_that_is_not_there(page: str, first: str) -> None:
    assert any(each.page == page and each.first.startswith(first) for each in BLOCKS)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_are_spelt_right(page: str) -> None:
    parsers = {"perditionctl": control.parser(), "perdition-service": service.parser()}
    for code in re.findall(r"`([^`\n]+)`", (ROOT / page).read_text()):
        for part in code.split(" && "):
            command, *words = shlex.split(part) if part.count("'") % 2 == 0 else [part]
            if command in parsers and words and "--help" not in words:
                if not words[0].startswith("-"):
                    assert words[0] in (*control.VERBS, *service.VERBS), code
            elif re.match(r"perdition\.\w+$", command) and words:
                assert command in COMMANDS, code


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_what_make_is_asked_for_is_there(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = re.findall(r"(?:`|^    )make ([a-z][a-z-]*)\b", (ROOT / page).read_text(), re.MULTILINE)
    assert set(asked) <= targets


@pytest.fixture(scope="module")
def machine(folder: Path) -> Iterator[Host]:
    """A host with nothing but the environment in /opt."""
    if os.geteuid() != 0:
        pytest.skip("only root can have a host of its own")
    with Host(folder) as made:
        yield made


@pytest.fixture
def host(machine: Host) -> Iterator[Host]:
    """The host with the commands, as step 1 of the how-to installs them; nothing is configured."""
    machine.run(block(HOWTO, "python3 -m venv").text.splitlines()[-1])
    machine.run(block(HOWTO, "install -D").text)
    yield machine
    machine.run("perdition-service stop", status=None)
    machine.run("rm -r /usr/bin/perdition* /usr/bin/make?*db* /etc/perdition")


def put(host: Host, block: Block, *changes: tuple[str, str], add: bool = False) -> str:
    """Write a file as the page has it, where the paragraph above says."""
    text = block.text
    for theirs, ours in changes:
        assert theirs in text
        text = text.replace(theirs, ours)
    path = re.findall(r"`(/etc/[^`]+)`", block.about)[0]
    host.write(path, text)
    return str(path)


def session(first: str) -> str:
    """What is typed behind ``openssl s_client``, by somebody who waits for answers."""
    lines = block(README, first).text.splitlines()[1:]
    return "".join(f"{line}\n" for line in lines).replace("USER PASSWORD", f"{USER} {PASSWORD}")


def test_the_readme(host: Host) -> None:
    put(host, block(README, "RUN_PERDITION"))
    configuration = put(host, block(README, "outgoing_server"))
    host.run(block(README, "openssl req").text)
    assert "1 " in host.run(block(README, "perdition-service check").text)
    shown = host.run("perditionctl status")
    assert re.search(r"^imaps +\d+ .* \[::\]:993$", shown, re.MULTILINE)
    login = block(README, "openssl s_client").text.splitlines()[0]
    typed = "; ".join(
        f"echo '{line}'; sleep 0.3" for line in session("openssl s_client").splitlines()
    )
    shown = host.run(f"({typed}; sleep 0.3) | {login} 2>/dev/null")
    assert re.search("^a OK ", shown, re.MULTILINE)
    assert re.search(r"^\* 4 EXISTS$", shown, re.MULTILINE)
    assert re.search("^c OK ", shown, re.MULTILINE)
    shown = host.run(block(README, "perdition.imap4s --explain USER").text.replace("USER", USER))
    assert "10.0.0.5:143  10.0.0.5; says '* OK" in shown
    host.run(f"cat >>{configuration}", said=block(README, "map_library").text)
    put(host, block(README, "ann:mail1"))
    host.run("perdition-service reload")
    shown = host.run(block(README, "perdition.imap4s --explain ann").text)
    assert "mail1.example.org:143" in shown


def test_the_howto(host: Host) -> None:
    # What is in /opt/perdition was made by the same words, in tools/setup.sh.
    assert "-m venv" in (ROOT / "tools/setup.sh").read_text()
    for command in ("makegdbm", "makebdb", "perditionctl", "perditiondb_ldap_makedb"):
        host.run(f"{command} --help")
    assert "Perdition mail proxy" in host.run("getent passwd perdition")
    host.run("grep -q RUN_PERDITION=no /etc/default/perdition")
    put(host, block(HOWTO, "RUN_PERDITION"))
    host.run(f"cp {ROOT}/tools/ffdhe2048.pem /etc/perdition/dhparm.pem")
    host.run(block(README, "openssl req").text)
    changes = (("[IP OF DOVECOT SERVER]", "10.0.0.5"), ("/path/to", "/etc/perdition"))
    path = put(host, block(HOWTO, "outgoing_server"), *changes)
    check, start, status = block(HOWTO, "perdition-service check").text.splitlines()
    assert "timeout 30 is under 30 minutes" in host.run(check)
    assert start.startswith("systemctl enable --now perdition ")  # by whom there is systemd
    host.run(start.partition("# or: ")[2])
    assert "perdition.imaps: running, pid " in host.run(status, status=None)
    login = block(HOWTO, "openssl s_client").text.replace("dmz.example.org", "localhost")
    shown = host.run(f"(sleep 0.5; echo a logout; sleep 0.3) | {login} 2>/dev/null")
    assert shown.startswith("* OK [CAPABILITY IMAP4rev1 LOGIN-REFERRALS ID ENABLE IDLE LITERAL+]")
    host.run(f"sed -i s/^connection_limit/conection_limit/ {path}")
    complaint = block(HOWTO, "perdition.imaps: /etc").text.strip()
    assert complaint == host.run("perdition.imaps", status=255).strip()


def test_the_jails(host: Host) -> None:
    host.run("rm -f /etc/fail2ban/jail.d/*; touch /var/log/mail.log")
    jail = block(HOWTO, "# /etc/fail2ban").text
    path = "/etc/fail2ban/jail.d/perdition.conf"
    assert path in jail
    host.write(path, jail)
    shown = host.run("fail2ban-client --dp")
    assert "'add', 'perdition'" in shown
    assert "/var/log/mail.log" in shown
    assert "Re-Authentication Failure" in shown
    host.run("cp share/fail2ban/perdition3.conf /etc/fail2ban/filter.d/")
    host.run(f"cp share/fail2ban/jail.conf {path}")
    assert "'add', 'perdition'" in host.run("fail2ban-client --dp")


# Verbs that say 1 where nobody of that name is there.
_FINDS_NOBODY = ("who ann", "who 192", "kick ")


def test_the_page_about_operating(host: Host) -> None:
    put(host, block(README, "RUN_PERDITION"))
    configuration = put(host, block(README, "outgoing_server"))
    host.run(f"cat >>{configuration}", said=block(OPERATE, "metrics_listen").text)
    host.run(block(README, "openssl req").text)
    host.run(block(OPERATE, "perdition.imap4s --check-config").text)
    host.run("perdition-service start")
    assert "# EOF" in host.run("curl -s http://127.0.0.1:9143/metrics")
    commands = []
    for each in BLOCKS:
        if each.page == OPERATE and "perditionctl" in each.text:
            lines = [line.removeprefix("# ") for line in each.text.splitlines()]
            commands += [line for line in lines if line.startswith("perditionctl ")]
    assert {command.split()[1] for command in commands} == set(control.VERBS)
    commands.sort(key="perditionctl stop".__eq__)  # the last that is answered
    for command in commands:
        finds = not command.split(" ", 1)[1].startswith(_FINDS_NOBODY)
        host.run(f"cd /root; {command}", status=0 if finds else 1)
    host.run("test -e /root/ann.trace")
