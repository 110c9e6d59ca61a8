"""Options: from the command line and the configuration file to one frozen `Config`.

`load` does it all; `warnings` says what is worth a word at the start. This room opens no other
file, no socket, and logs nothing.
"""

from perdition.config.checks import warnings
from perdition.config.load import load
from perdition.config.options import Config

__all__ = ["Config", "load", "warnings"]
