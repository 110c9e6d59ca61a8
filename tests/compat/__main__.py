"""Write into dialogue files what the daemons say: ``python -m tests.compat FILE …``.

A new dialogue needs its ``C:`` lines only. Reasons that are there stay; new differences get
``D??``, which the tests refuse, until somebody has found out why and written the reason down.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import trustme
from tests.compat.dialogue import NEW, OLD, merge, parse, render
from tests.compat.player import RECORDING, Stage, play


def _need(name: str) -> str:
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, f"{name} is not installed"
    return program


def _certificates(folder: Path) -> Path:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    return folder


def _record(path: Path, number: int, folder: Path) -> None:
    file = parse(path)
    heard = {
        who: play(file, who, Stage(number, folder / f"{number}-{who}", folder, _need), quiet)
        for who, quiet in RECORDING.items()
    }
    for dialogue in file.dialogues:
        name = dialogue.name
        dialogue.lines = merge(dialogue.lines, heard[OLD][name], heard[NEW][name])
    path.write_text(render(file))


def main() -> None:
    """Record each file, all at once."""
    with tempfile.TemporaryDirectory(prefix="perdition-") as name, ThreadPoolExecutor(12) as pool:
        os.chmod(name, 0o755)
        folder = _certificates(Path(name))
        paths = [Path(path) for path in sys.argv[1:]]
        done = [pool.submit(_record, path, n, folder) for n, path in enumerate(paths, 10)]
        for path, future in zip(paths, done, strict=True):
            error = future.exception()
            print(f"{path}: {'written' if error is None else repr(error)}")


if __name__ == "__main__":
    main()
