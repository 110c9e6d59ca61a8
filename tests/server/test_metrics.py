"""Metrics of a daemon with two workers and TLS, read as Prometheus reads them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from prometheus_client.openmetrics import parser
from tests.conftest import ROOT
from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.lines import Lines
from tests.servers.ports import end, free_port, listens, wait_for

from perdition.config import load
from perdition.errors import ConfigError

RULES = "share/prometheus/perdition.rules.yml"
USERS = {"ann": "canary-ann", "bob": "canary-bob"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Watched(Daemon):
    """A daemon with two workers, TLS for clients, a map and metrics."""

    def __init__(self, folder: Path, dovecot: Dovecot, certificates: Path, *more: str) -> None:
        self.metrics_port = free_port()
        folder.mkdir(exist_ok=True)
        popmap = folder / "popmap"
        popmap.write_text(f"ann:127.0.0.1:{dovecot.port}\nbob:127.0.0.1:{free_port()}\n")
        super().__init__(
            folder, f"outgoing_server 127.0.0.1:{dovecot.port}", "workers 2", "failure_delay 0",
            "map_library popmap", f"map_library_opt {popmap}", "ssl_mode ssl_listen",
            f"ssl_cert_file {certificates}/cert.pem", f"ssl_key_file {certificates}/key.pem",
            f"metrics_listen 127.0.0.1:{self.metrics_port}", *more,
        )  # fmt: skip
        self.context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))

    def client(self) -> Lines:
        client = Lines.to(self.port, self.context)
        client.hear()
        return client

    def log_in(self, user: str = "ann", password: str = "") -> Lines:
        client = self.client()
        client.ask(f"a LOGIN {user} {password or USERS[user]}")
        return client

    def http(self, request: bytes) -> tuple[str, str]:
        """Head and body of an answer."""
        with socket.create_connection(("127.0.0.1", self.metrics_port), 10) as sock:
            sock.sendall(request)
            with sock.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
        return head.decode(), body.decode()

    def scrape(self) -> str:
        head, body = self.http(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in head
        assert f"Content-Length: {len(body.encode())}" in head
        return body

    def samples(self) -> Samples:
        return samples(self.scrape())


def samples(text: str) -> Samples:
    """Each sample's value by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.fixture(scope="module")
def daemon(dovecot: Dovecot, folder: Path, certificates: Path) -> Iterator[Watched]:
    """A daemon that all tests of this file may ask."""
    with Watched(folder / "daemon", dovecot, certificates) as running:
        yield running


def test_what_happens_is_counted(daemon: Watched, dovecot: Dovecot) -> None:
    before = daemon.samples()
    clients = [daemon.log_in() for _ in range(6)]
    with daemon.log_in(password="wrong"), daemon.log_in("bob"), daemon.client():
        pass
    session = None
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", daemon.port), 10) as sock:
            name = "localhost"
            with daemon.context.wrap_socket(sock, server_hostname=name, session=session) as front:
                front.recv(1000)
                session = front.session
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", daemon.port)) as sock:
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
    during = daemon.samples()
    for client in clients:
        client.ask("b NOOP")
        client.ask("c LOGOUT")
        client.__exit__()
    wait_for(lambda: not value(daemon.samples(), "perdition_sessions"), "sessions stay")
    after = daemon.samples()

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert value(during, "perdition_sessions") >= 6
    assert value(during, "perdition_server_sessions", server=f"127.0.0.1:{dovecot.port}") == 6
    assert value(during, "perdition_server_up", server=f"127.0.0.1:{dovecot.port}") == 1
    assert value(during, "perdition_servers", state="up") == 1
    assert more("perdition_logins_total", result="ok", reason="accepted") == 6
    assert more("perdition_logins_total", result="failed", reason="refused") == 1
    assert more("perdition_logins_total", result="failed", reason="unreachable") == 1
    assert more("perdition_login_seconds_count", result="ok") == 6
    assert more("perdition_login_seconds_bucket", result="ok", le="+Inf") == 6
    assert 0 < more("perdition_login_seconds_sum", result="ok") < 10
    assert more("perdition_login_seconds_count", result="failed") == 2
    assert more("perdition_lookups_total", result="found") == 8
    assert more("perdition_lookup_seconds_count") == 8
    assert more("perdition_connections_total") == 12
    tls = {"peer": "client", "version": "TLSv1.3"}
    assert more("perdition_tls_handshakes_total", **tls, resumed="no") == 10
    assert more("perdition_tls_handshakes_total", **tls, resumed="yes") == 1
    assert more("perdition_tls_failures_total", peer="client") == 1
    assert more("perdition_relayed_bytes_total", direction="received") > 6 * 10
    assert more("perdition_relayed_bytes_total", direction="sent") > 6 * 20
    assert value(after, "perdition_workers", state="alive") == 2
    assert value(after, "perdition_workers", state="silent") == 0
    assert value(after, "perdition_info", version="3.0.0", ident="perdition.imap4",
                 protocol="IMAP4") == 1  # fmt: skip


def test_nobody_can_be_found_in_the_text(daemon: Watched) -> None:
    with daemon.log_in() as client, daemon.log_in("eve-unknown", "x"):
        text = daemon.scrape()
        port = client.sock.getsockname()[1]
    assert not re.search(rf"ann|eve|canary|{port}", text)
    assert len(text.splitlines()) < 250


def test_a_popmap_that_is_asked_over_a_wire_has_its_cache_counted(
    dovecot: Dovecot, folder: Path, certificates: Path
) -> None:
    program = folder / "map"
    program.write_text(f"#!/bin/sh\necho 127.0.0.1:{dovecot.port}\n")
    program.chmod(0o755)
    options = ("map_library command", f"map_library_opt {program}", "map_cache_lifetime 600",
               "workers 1", "connect_relog 1")  # fmt: skip
    with Watched(folder / "cached", dovecot, certificates, *options) as daemon:
        first, second = daemon.log_in(), daemon.log_in()
        found = daemon.samples()
        assert value(found, "perdition_map_cache_total", result="miss") == 1
        assert value(found, "perdition_map_cache_total", result="hit") == 1
        assert value(found, "perdition_lookup_seconds_count") == 1

        def counted() -> float:
            return value(daemon.samples(), "perdition_relayed_bytes_total", direction="sent")

        before = counted()
        first.ask("b NOOP")  # counted while the session lasts, too
        wait_for(lambda: counted() > before, "bytes count at the end only", 5)
        first.__exit__()
        second.__exit__()


def test_counts_of_a_dead_worker_stay(daemon: Watched) -> None:
    for _ in range(6):
        with daemon.log_in():
            pass
    before = daemon.samples()
    os.kill(daemon.workers[0], signal.SIGKILL)
    restarts = value(before, "perdition_worker_restarts_total")
    wait_for(
        lambda: value(daemon.samples(), "perdition_worker_restarts_total") == restarts + 1,
        "no restart",
    )
    wait_for(lambda: len(daemon.workers) == 2, "no other worker")
    after = daemon.samples()
    for (name, labels), count in before.items():
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert after[name, labels] >= count
    assert value(after, "perdition_logins_total", result="ok", reason="accepted") >= 6


def test_limits_are_counted(dovecot: Dovecot, folder: Path, certificates: Path) -> None:
    options = ("connection_limit 2", "failed_login_limit 1", "authenticate_timeout 1", "timeout 1",
               "connect_timeout 1", "greeting_timeout 1", "login_timeout 1")  # fmt: skip
    with Watched(folder / "limited", dovecot, certificates, *options) as daemon:
        with daemon.log_in() as idle, daemon.client() as late, daemon.client():
            assert late.hear().startswith("* BYE")
            assert idle.hear() == ""
        with daemon.log_in("ann", "wrong") as client:
            assert client.hear().startswith("* BYE")
        found = daemon.samples()
    assert value(found, "perdition_refused_connections_total") == 1
    assert value(found, "perdition_sessions_limit") == 2
    for limit in ("failed_login_limit", "authenticate_timeout", "timeout"):
        assert value(found, "perdition_limits_total", limit=limit) == 1, limit


# -- scrapers -------------------------------------------------------------------------------


def test_slow_scrapers_hold_up_nobody(daemon: Watched) -> None:
    slow = []
    for request in (b"", b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\n\r\n") * 8:
        slow.append(socket.create_connection(("127.0.0.1", daemon.metrics_port), 10))
        slow[-1].sendall(request)
    begin = time.monotonic()
    for _ in range(4):
        with daemon.log_in():
            pass
    daemon.samples()
    assert time.monotonic() - begin < 2
    for sock in slow:
        sock.close()


def test_a_worker_that_hangs_is_named_and_holds_up_no_scrape_for_long(daemon: Watched) -> None:
    first = daemon.workers[0]
    os.kill(first, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        found = daemon.samples()
        assert time.monotonic() - begin < 4
    finally:
        os.kill(first, signal.SIGCONT)
    assert value(found, "perdition_workers", state="silent") == 1
    assert value(found, "perdition_workers", state="wanted") == 2


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", "404 Not Found"),
        (b"GET /metrics?x=1 HTTP/1.0", "200 OK"),
        (b"HEAD /metrics HTTP/1.1", "200 OK"),
        (b"POST /metrics HTTP/1.1", "400 Bad Request"),
        (b"\x16\x03\x01\x00", "400 Bad Request"),
        (b"", "400 Bad Request"),
    ],
)
def test_requests_of_all_kinds(daemon: Watched, request_line: bytes, status: str) -> None:
    head, body = daemon.http(request_line + b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}\r\n")
    assert bool(body) == (not request_line.startswith(b"HEAD"))


def test_a_socket_instead_of_a_port_and_a_reload(
    dovecot: Dovecot, folder: Path, certificates: Path
) -> None:
    path = folder / "metrics.sock"
    with Watched(folder / "moved", dovecot, certificates) as daemon:
        daemon.reload(f"metrics_listen {path}")
        with pytest.raises(ConnectionRefusedError):
            daemon.samples()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            with sock.makefile("rb") as answer:
                text = answer.read().partition(b"\r\n\r\n")[2].decode()
        assert value(samples(text), "perdition_reloads_total", result="ok") == 1
        daemon.write(f"metrics_listen 127.0.0.1:{dovecot.port}")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_log("^reload: metrics_listen: .*: Address already in use$")
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("setting", ["0.0.0.0:9143", "192.0.2.1:9143", "localhost:1", "127.0.0.1",
                                     "127.0.0.1:0", ":9143", "metrics"])  # fmt: skip
def test_the_world_gets_no_metrics(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load("perdition.imap4", ["--metrics_listen", setting], config_dir=str(tmp_path))


# -- share/ ---------------------------------------------------------------------------------

_SELECTOR = re.compile(r"\bperdition_\w+(?:\{[^}]*\})?")


def shown(name: str) -> list[str]:
    """All expressions of a dashboard, or of rules."""
    text = (ROOT / name).read_text()
    if name.endswith(".json"):
        panels = json.loads(text)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
        return [e.replace("$__rate_interval", "5m").replace("$instance", ".*") for e in found]
    return re.findall(r"expr: (?:\|\n)?(.+\n(?: {12}.*\n)*)", text)


class Prometheus:
    """A Prometheus with our rules that scrapes a daemon, as the documents have it. A context."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self.port = free_port()
        page = (ROOT / "docs/operate.md").read_text()
        scrapes = textwrap.dedent(
            re.findall(r"^    scrape_configs:\n(?:    .*\n)+", page, re.MULTILINE)[0]
        ).replace('"127.0.0.1:9143", "127.0.0.1:9144"', f'"127.0.0.1:{port}"')
        assert f":{port}" in scrapes
        (folder / "prometheus.yml").write_text(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n"
            f"rule_files: [{ROOT}/share/prometheus/perdition.rules.yml]\n{scrapes}"
        )
        self.process = subprocess.Popen(
            [program, f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"],
        )  # fmt: skip

    def __enter__(self) -> Prometheus:
        wait_for(lambda: listens(self.port), "Prometheus does not listen")
        wait_for(lambda: self.ask("query", query="perdition_sessions")["result"], "no scrape")
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def ask(self, what: str, **words: str) -> Any:
        """The data of an answer."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urlencode(words)}"
        try:
            with urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            if error.code == 503:
                return {"result": []}  # it starts
            raise AssertionError(error.read().decode()) from None


@pytest.fixture(scope="module")
def prometheus(daemon: Watched, folder: Path, need: Callable[[str], str]) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a daemon where somebody has logged in."""
    daemon.log_in().__exit__()
    with Prometheus(need("prometheus"), folder, daemon.metrics_port) as running:
        yield running


@pytest.mark.parametrize("name", ["share/grafana/perdition.json", RULES])
def test_every_expression_finds_what_it_is_about(prometheus: Prometheus, name: str) -> None:
    expressions = shown(name)
    assert len(expressions) > 10
    for expression in expressions:
        prometheus.ask("query", query=expression)
        for selector in _SELECTOR.findall(expression):
            assert prometheus.ask("query", query=selector)["result"], selector


def test_alerts_are_evaluated_and_none_is_pending(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        (group,) = prometheus.ask("rules")["groups"]
        found: list[dict[str, Any]] = group["rules"]
        return found

    wait_for(lambda: all(rule["health"] != "unknown" for rule in rules()), "not evaluated")
    assert len(rules()) == len(shown(RULES))
    assert {(rule["name"], rule.get("lastError")) for rule in rules() if rule["health"] != "ok"} \
        == set()  # fmt: skip
    assert [rule["name"] for rule in rules() if rule["state"] == "firing"] == []


def test_the_rules_are_in_order(need: Callable[[str], str]) -> None:
    done = subprocess.run(
        [need("promtool"), "check", "rules", ROOT / RULES], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documents_name_every_metric_and_no_other(daemon: Watched) -> None:
    daemon.log_in().__exit__()
    known = {re.sub("_(bucket|sum|count)$", "", sample) for sample, _ in daemon.samples()}
    page = (ROOT / "docs/operate.md").read_text()
    assert set(re.findall(r"\bperdition_\w+", page)) == known
