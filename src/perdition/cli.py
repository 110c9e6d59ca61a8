"""argv[0] and argv to a Config, then to inetd mode, the foreground or a daemon; exit codes.

Every problem with the options is told on stderr before a port is opened or a process is forked.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from perdition import __version__
from perdition.config import Config, load
from perdition.errors import ConfigError, StartError
from perdition.log import stderr_line
from perdition.places import HANDOVER

FAILED = 255  # 2.2's status for everything that keeps it from starting


def main() -> None:
    """The console command of every name; see COMMANDS in `perdition.protocols`."""
    sys.exit(run(sys.argv[0], sys.argv[1:]))


def run(argv0: str, argv: list[str]) -> int:
    """Run the command `argv0` with the words `argv`; return its exit status."""
    directory = os.getcwd()
    handover = os.environ.pop(HANDOVER, "")  # before anybody takes it for an option
    try:
        config = load(argv0, argv, directory=directory)
    except ConfigError as error:
        if _asks_for_check(argv):
            return _say_wrong(argv0, error)
        for problem in error.problems:
            stderr_line(f"{os.path.basename(argv0)}: {problem}")
        return FAILED
    if config.help:
        from perdition.config.manual import help_text  # noqa: PLC0415 - not on the way to serving

        print(help_text(), end="")
        return 0
    if config.version:
        print(f"perdition {__version__}")
        return 0
    try:
        if config.check_config:
            return _check(config, argv)
        if config.explain:
            return _explain(config)
        if config.inetd_mode:
            from perdition.server import inetd  # noqa: PLC0415

            return inetd.serve(config)
        return _serve(config, argv0, argv, directory, handover)
    except (StartError, OSError) as error:
        stderr_line(f"{config.basename}: {error}")
        return FAILED


def _asks_for_check(argv: list[str]) -> bool:
    from perdition.check.report import is_asked_for  # noqa: PLC0415 - not on the way to serving

    return is_asked_for(argv)


def _say_wrong(argv0: str, error: ConfigError) -> int:
    from perdition.check.findings import ERROR, Finding  # noqa: PLC0415 - not on the way to serving
    from perdition.check.report import report  # noqa: PLC0415

    found = [Finding(ERROR, "", problem) for problem in error.problems]
    return report(found, {}, f"{os.path.basename(argv0)}: not looked at further")


def _check(config: Config, argv: list[str]) -> int:
    from perdition.check import NOTE, Finding, judge  # noqa: PLC0415 - not on the way to serving
    from perdition.check.places import find_places  # noqa: PLC0415
    from perdition.check.probe import probe  # noqa: PLC0415
    from perdition.check.report import report  # noqa: PLC0415
    from perdition.server.trial import attempt  # noqa: PLC0415

    places, found = find_places(argv, config)
    if not config.config_path:
        found.append(Finding(NOTE, "", "there is no configuration file for this command"))
    found += judge(config)
    failures, popmap = attempt(config)
    found += failures
    if config.probe:
        found += probe(config, popmap)
    heading = f"{config.basename}: {config.config_path or 'no configuration file'}"
    return report(found, places, heading, strict=config.strict)


def _explain(config: Config) -> int:
    import asyncio  # noqa: PLC0415 - neither is on the way to serving

    from perdition.log import Log, open_target  # noqa: PLC0415
    from perdition.ops.explain import explain  # noqa: PLC0415
    from perdition.server.setup import make_popmap, make_routing  # noqa: PLC0415
    from perdition.session.names import ReverseNames  # noqa: PLC0415
    from perdition.tls import outgoing_context  # noqa: PLC0415

    log = Log(open_target("+", ""), config.basename)
    popmap = make_popmap(config)

    async def run() -> int:
        routing = make_routing(config, popmap, log, ReverseNames(asyncio.get_running_loop()))
        context = outgoing_context(config) if config.probe else False
        return await explain(config, routing, context)

    return asyncio.run(run())


def _serve(config: Config, argv0: str, argv: list[str], directory: str, handover: str) -> int:
    from perdition.server.detach import detach  # noqa: PLC0415 - inetd mode starts without them
    from perdition.server.handover import Program, inherited  # noqa: PLC0415
    from perdition.server.master import Master  # noqa: PLC0415

    heritage = inherited(handover)
    reload = partial(load, argv0, argv, directory=directory)
    master = Master(config, reload, Program(argv0, argv, directory), heritage)
    if heritage.rehearsal:
        master.rehearse()
        return 0
    if heritage.there or config.no_daemon or config.log_facility[:1] in ("-", "+"):
        os.chdir("/")
        return master.run(lambda: None)
    daemon = detach(FAILED)
    try:
        return master.run(daemon.came_up)
    except (StartError, OSError) as error:
        master.log.err(str(error))
        daemon.failed(f"{config.basename}: {error}")
        return FAILED
