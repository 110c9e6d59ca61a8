"""The maps' battery over the drivers that Debian ships, in place of those in .venv.

    python -m tests.debian_drivers [WORDS OF PYTEST…]

Debian's packages are put ahead of .venv by links in a folder of their own: the program that runs is
the same, its drivers are those with which a Debian package of ours would run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

MODULES = Path("/usr/lib/python3/dist-packages")
PACKAGES = {
    "redis": "python3-redis", "psycopg": "python3-psycopg", "pymysql": "python3-pymysql",
    "ldap": "python3-ldap", "bsddb3": "python3-bsddb3", "pyodbc": "python3-pyodbc",
}  # fmt: skip
NEEDED = ("python3-deprecated", "python3-wrapt", "python3-async-timeout")  # by Debian's redis
BATTERY = ("tests/popmap/test_contract.py", "tests/ops/test_makedb.py")
KINDS = "redis or postgresql or mysql or odbc or ldap or bdb"

CHECKED = """\
import importlib, sys
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    assert module.__file__.startswith(sys.argv[1]), module.__file__
"""


def _top_level(package: str) -> set[str]:
    """What a package has of its own among Python's modules; nothing: it is not installed."""
    done = subprocess.run(["dpkg", "-L", package], capture_output=True, check=False, text=True)
    paths = (Path(line) for line in done.stdout.splitlines())
    names = {path.relative_to(MODULES).parts[:1] for path in paths if path.is_relative_to(MODULES)}
    return {name for (name,) in filter(None, names) if not name.endswith(("-info", ".egg-info"))}


def main() -> int:
    """Run the battery; its exit status."""
    found = {package: _top_level(package) for package in (*PACKAGES.values(), *NEEDED)}
    lacking = [package for package, names in found.items() if not names]
    asked = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print(sys.version_info[:2])"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.stdout.strip() != str(sys.version_info[:2]):
        lacking.append("a .venv made with Debian's own Python")
    if lacking:
        print(f"Debian's drivers are not tested here: no {', '.join(lacking)}", file=sys.stderr)
        return os.environ.get("CI") == "true"
    with tempfile.TemporaryDirectory(prefix="perdition-drivers-") as folder:
        for names in found.values():
            for name in names:
                (Path(folder) / name).symlink_to(MODULES / name)
        # psycopg's own binary in .venv is of another version; an empty module stands before it.
        for name in ("psycopg_binary", "berkeleydb"):
            (Path(folder) / f"{name}.py").write_text("raise ImportError(__name__)\n")
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        checked = [sys.executable, "-c", CHECKED, folder, *PACKAGES]
        subprocess.run(checked, check=True, env=environment)
        form = "Debian's driver: ${Package} ${Version}\\n"
        subprocess.run(["dpkg-query", "-W", "-f", form, *PACKAGES.values()], check=True)
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", KINDS]
        return subprocess.run(
            [*pytest, *BATTERY, *sys.argv[1:]], env=environment, check=False, cwd=ROOT
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
