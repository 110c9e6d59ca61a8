"""The bench runs end to end, and leaves nothing running, whichever way it ends."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from bench.report import Figure, Results
from bench.rows import Sample, Target
from tests.conftest import find_program, lacking, required

from bench import page, profile, recorded

ROOT = Path(__file__).parents[2]
NGINX = Path("/usr/lib/nginx/modules/ngx_mail_module.so")


def _need(program: str, present: bool) -> None:
    if not present:
        lacking(f"{program} is not installed")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Gives a bench of one round against nginx; add --only."""
    _need("cc", find_program("cc") is not None)
    _need("libssl-dev", Path("/usr/include/openssl/ssl.h").exists())
    _need("nginx-light", find_program("nginx") is not None)
    _need("libnginx-mod-mail", NGINX.exists())
    results = ["--results", str(tmp_path / "results")]
    return [sys.executable, "-m", "bench", "--quick", "--peers=nginx", "--rounds=1", *results]


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        try:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found[1:]


def _names(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        try:
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize(
    "job", ["login-awake", "login-resumed", "fetch-tls", "append-plain", "start-tls"]
)
def test_measures_nginx(command: list[str], tmp_path: Path, job: str) -> None:
    done = subprocess.run(
        [*command, f"--only={job}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "results").iterdir()
    found = json.loads(path.read_text())
    assert found["failures"] == found["absent"] == {}
    assert found["rows"][job]["peers"]["nginx"]["median"] > 0


def test_the_cpu_of_load_and_back_end_is_known(command: list[str], tmp_path: Path) -> None:
    subprocess.run([*command, "--only=login-tls"], cwd=ROOT, capture_output=True, check=True)
    (path,) = (tmp_path / "results").iterdir()
    row = json.loads(path.read_text())["rows"]["login-tls"]
    (sample,) = row["peers"]["nginx"]["rounds"].values()
    assert 0.1 * sample["cost"] < sample["others"] < 10 * sample["cost"]


def test_where_a_peers_cpu_goes(command: list[str]) -> None:
    required("perf")
    done = subprocess.run(
        [sys.executable, "-m", "bench.profile", "--peers=nginx", "--seconds=0.2"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 2:  # a host that forbids it says so
        assert re.search(r"perf: .*(permi|access|support)", done.stderr, re.IGNORECASE)
        return
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["kernel", "OpenSSL", "C", "library", "program"]
    assert [row.split()[:2] for row in rows] == [[row, "nginx"] for row in profile.ROWS]
    for row in rows:
        parts = [float(part) for part in row.split()[2:] if part != "%"]
        assert sum(parts) == pytest.approx(100, abs=1)
        assert parts[1] > 5, "TLS"


def test_a_part_is_known_by_its_file() -> None:
    found = profile.shares(
        """
        20.50% ,[kernel.kallsyms]
        0.50%  ,[kernel.vmlinux].init.text
        31.00% ,libcrypto.so.3
        4.00%  ,libssl.so.3
        9.00%  ,libc.so.6
        1.00%  ,[vdso]
        30.00% ,python3.11
        4.00%  ,libpcre2-8.so.0
        """
    )
    assert found == pytest.approx(
        {"kernel": 0.21, "OpenSSL": 0.35, "C library": 0.10, "program": 0.34}
    )


def test_interrupted_it_ends_what_it_started(command: list[str]) -> None:
    bench = subprocess.Popen(
        [*command, "--only=login-tls", "--rounds=1000"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 15
    started, names = [bench.pid], set[str]()
    while not {"nginx", "backend", "load"} <= names:
        assert time.monotonic() < end, f"saw only {names}"
        started = _descendants(bench.pid)
        names = _names(started)
    bench.send_signal(signal.SIGINT)
    output = bench.communicate(timeout=15)[0]
    assert bench.returncode == 130, output
    assert _names(started) == set()


def test_a_steady_stream_among_idle_sessions(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.steady", "--sessions=100", "--rate=50", "--seconds=3"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=18,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "100 still alive" in done.stdout


def test_a_soak_of_a_few_seconds(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--logins=400", "--gigabytes=0.04", "--slices=3"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=18,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "396 logins and 0.04 GB" in done.stdout


def _results(ours: float, nginx: float) -> Results:
    results = Results(["nginx", "ours"])
    for turn in range(3):
        results.add("login-plain", "nginx", turn, Sample(nginx))
        results.add("login-plain", "ours", turn, Sample(ours))
    return results


def test_every_burst_of_every_round_counts_for_median_and_noise() -> None:
    results = Results(["ours"])
    results.add("crowd-tls", "ours", 0, Sample(1.0, each=(0.9, 1.0, 1.3)))
    results.add("crowd-tls", "ours", 1, Sample(1.2, each=(1.1, 1.2, 1.25)))
    assert str(results.figure("crowd-tls", Target(1.1))) == "1.15 ± 0.45"
    assert results.median("crowd-tls", "ours") == pytest.approx(1.15)


def test_a_round_is_the_median_of_its_turns() -> None:
    parts = [
        Sample(3.0, 30, 300, 1.0, 5.0, (1, 2)),
        Sample(1.0, 10, 100, 9.0, 7.0, (10, 20)),
        Sample(90.0, 20, 200, 2.0, 6.0, (100, 200)),  # something else was busy
    ]
    assert Sample.of(parts) == Sample(3.0, 20, 200, 2.0, 6.0, (111, 222))


@pytest.mark.parametrize("rounds", [3, 7])
def test_the_noise_is_what_it_says(rounds: int) -> None:
    chance = random.Random(1)

    def run() -> Figure:
        results = Results(["ours"])
        for turn in range(rounds):
            results.add("start-plain", "ours", turn, Sample(chance.lognormvariate(4, 0.2)))
        figure = results.figure("start-plain", Target(1.0))
        assert figure is not None
        return figure

    inside = 0
    for _ in range(2000):
        one, other = run(), run()
        assert one.noise is not None
        inside += abs(one.median - other.median) <= one.noise
    assert 0.98 < inside / 2000 < 0.999


def test_of_a_single_round_no_noise_is_known() -> None:
    results = Results(["ours"])
    results.add("start-plain", "ours", 0, Sample(130.0))
    assert str(results.figure("start-plain", Target(1.0))) == "130"


def test_a_row_that_has_grown_is_measured_again_before_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recorded.json"
    recorded.record(_results(100, 100), path)
    assert json.loads(path.read_text()) == {"login-plain": 1.0}
    asked: list[list[str]] = []
    results = _results(125, 100)
    assert recorded.check(results, lambda rows: asked.append(list(rows)), path) == 0
    assert asked == []
    results = _results(135, 100)
    assert recorded.check(results, lambda rows: asked.append(list(rows)), path) == 1
    assert asked == [["login-plain"], ["login-plain"]]
    assert "login-plain: 1.35× nginx" in capsys.readouterr().out

    def slow_only_once(rows: Iterable[str]) -> None:
        results.samples.update(_results(110, 100).samples)

    assert recorded.check(results, slow_only_once, path) == 0
    results.absent["nginx"] = "missing"
    assert recorded.check(results, slow_only_once, path) == 1


def test_instructions_that_have_grown_fail_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recorded.json"
    results = _results(100, 100)
    results.instructions = {"plain": {"session/login.py": 600.0, "log.py": 400.0}}
    recorded.record(results, path)
    assert json.loads(path.read_text())["instructions-plain"] == 1000
    assert recorded.check(results, lambda rows: None, path) == 0
    results.instructions = {"plain": {"session/login.py": 700.0, "log.py": 401.0}}
    assert recorded.check(results, lambda rows: None, path) == 1
    assert "instructions-plain: 1101" in capsys.readouterr().out


def test_what_a_login_makes_the_interpreter_do_is_the_same_each_time(command: list[str]) -> None:
    def count() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bench.opcodes", "--lines=400"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=18,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, second = count(), count()
    totals = [float(each.split()[0]) for each in (first, second)]
    assert 1000 < totals[0] == pytest.approx(totals[1], rel=0.02)
    assert "Session.hand_over" in first


def test_the_run_names_no_place_of_the_machine_that_it_was_made_on() -> None:
    for files in json.loads(page.RUN.read_text())["instructions"].values():
        assert not [file for file in files if Path(file).is_absolute()]


def test_other_runs_agree_when_the_page_shows_no_difference() -> None:
    target = {"peer": "nginx", "is": {"median": 1.16, "noise": 0.012}}
    of_ours = {"peer": "", "is": {"median": 130.0, "noise": 12.4}}
    run = {
        "rows": {"login-plain": {"targets": [target]}, "start-plain": {"targets": [of_ours]}},
        "others": [
            {"login-plain": [1.148], "start-plain": [142.4]},
            {"login-plain": [1.176], "start-plain": [142.6]},
            {"login-plain": [1.165], "start-plain": [None]},
        ],
    }
    text = page.agreement(run)
    assert "3 other runs 2 of 3 ratios" in text
    assert "1 of 2 other medians" in text
    target["is"] = {"median": 1.16, "noise": None}  # of a run of one round
    assert "3 other runs 0 of 3 ratios" in page.agreement(run)


def test_the_page_shows_the_run_that_it_names() -> None:
    for name, text in page.render(json.loads(page.RUN.read_text()), page.PAGE.read_text()).items():
        assert (page.DOCS / name).read_text() == text, f"python -m bench.page renders {name}"
