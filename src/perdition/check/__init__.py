"""What is wrong, risky or odd in a configuration, in words: ``--check_config``, start and reload.

`judge` looks at the options and at the files that they name, changes nothing and asks nobody; a
start and a reload use it too. `perdition.server.trial` tries what a start does, `probe` asks the
servers. One rule is one function; `RULES` in `rules.py` is the table of them.
"""

from perdition.check.findings import ERROR, NOTE, WARNING, Finding
from perdition.check.rules import judge

__all__ = ["ERROR", "NOTE", "WARNING", "Finding", "judge"]
