"""Logins through 2.2 and ours before a NIS map, both in the namespaces of the map's domain.

    python -m tests.routing.nis_logins PERDITION FOLDER CERTIFICATES NAME…

Prints for each name where its login arrived through 2.2 and through ours, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.popmap.nis import MAP
from tests.routing.test_golden import Servers, log_in, ours
from tests.servers.perdition2 import perdition_2


def main() -> None:
    """See the module."""
    program, folder, certificates, *names = sys.argv[1:]
    chosen = ("--map_library", "libperditiondb_nis.so.0", "--map_library_opt", MAP)
    default = ("--outgoing_server", "127.0.0.1")
    with Servers() as servers:
        with (
            perdition_2(program, servers.port, Path(certificates), *default, *chosen) as theirs,
            ours(Path(folder), servers.port, chosen, ()) as own,
        ):
            for name in names:
                log_in(theirs, name, f"theirs-{name}")
                log_in(own, name, f"ours-{name}")
        found = servers.arrivals
        print(json.dumps([[found.get(f"{who}-{n}") for who in ("theirs", "ours")] for n in names]))


if __name__ == "__main__":
    main()
