"""THE option table: one typed field of `Config` for each option, under the option's long name.

The table is one flat dataclass, written in three files because it is long (and as a chain because
slots can't be mixed in): times and sizes in `options_limits.py`, TLS in `options_tls.py`, the rest
here. Nothing is read or opened here. To add an option: one field; the command line, the file, the
manual pages, the sample file and the start-up dump follow.
"""

# ruff: noqa: RUF009 - opt and flag return fields
from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from perdition.config.fields import Option, flag, opt, options_of
from perdition.config.options_limits import LimitOptions
from perdition.config.options_tls import TlsOptions
from perdition.config.readers import (
    absolute,
    domain_states,
    facility,
    local_listener,
    networks,
    number,
    numeric_addresses,
    path_or_none,
    port,
    protocol_name,
    query_keys,
    servers,
    some,
    states,
    text,
    word,
)
from perdition.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from perdition.route import Server
from perdition.username import AddDomain, State

_STATES = (
    "servername_lookup (the key of the popmap), local_authentication, remote_login (what the "
    "server gets), or all"
)
_SIEVE = (
    '"IMPLEMENTATION" "perdition"  '
    '"SIEVE" "comparator-i;octet comparator-i;ascii-casemap fileinto reject envelope '
    "encoded-character vacation subaddress comparator-i;ascii-numeric relational regex imap4flags "
    'copy include variables body enotify environment mailbox date"  '
    '"SASL" "PLAIN"  "NOTIFY" "mailto"  "VERSION" "1.0"'
)


@dataclass(frozen=True, slots=True)
class Config(TlsOptions):
    """Options"""

    # Of the start, not options.
    basename: str = "perdition"  # of argv[0]: ident in the log, title of the processes
    config_path: str = ""  # the file that was read; empty: none
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)  # by anyone

    add_domain: AddDomain = opt(
        AddDomain(),
        domain_states,
        f"Add a domain to a user name that has none, for these uses: {_STATES}. The domain is the "
        "name of the address that the client reached without its first label; a number among the "
        "states says how many labels to cut off instead. See explicit_domain.",
        short="A",
        meta="STATE[,STATE...][,DEPTH]",
        example="servername_lookup,1",
        adds=True,
    )
    authenticate_in: bool = flag(
        "Check the password with PAM (service perdition) before a server is asked.", short="a"
    )
    bind_address: tuple[Server, ...] = opt(
        (),
        servers,
        "Addresses to listen on; listen_port where no port is given. IPv6 in brackets.",
        short="b",
        meta="HOST[:PORT][,...]",
        initial="every address",
        example="127.0.0.1",
    )
    capability: str = opt(
        "",
        text,
        "Old name that sets imap_capability, managesieve_capability and pop_capability.",
        short="I",
        meta="STRING",
        sets=("imap_capability", "managesieve_capability", "pop_capability"),
    )
    check_config: bool = flag(
        "Say what is wrong, risky or odd in the options and in the files that they name, and exit: "
        "0 if there is no error, 1 otherwise. Nothing is started, no mail server is asked.",
        alias="check-config",
        argv_only=True,
        since="3.0",
    )
    client_server_specification: bool = flag(
        "Let users name their server: user@host[:port].", short="c"
    )
    config_file: str = opt(
        "",
        text,
        "Read this configuration file, and no other.",
        short="f",
        meta="FILE",
        initial="by the command's name",
        path=True,
        argv_only=True,
    )
    connection_logging: bool = flag(
        "Log the dialogues up to the login, passwords masked; needs debug.", short="C"
    )
    control_socket: str = opt(
        "",
        path_or_none,
        "The socket through which perditionctl reaches this daemon, for its owner only; none: no "
        "socket.",
        meta="FILE",
        initial="/run/perdition/NAME.PID.sock",
        example="/run/perdition/perdition.sock",
        since="3.0",
    )
    core_dumps: bool = flag(
        "Let a process that crashes leave a core, which may hold passwords and keys.", since="3.0"
    )
    debug: bool = flag("Log more, and all options at the start.", short="d")
    domain_delimiter: str = opt(
        "@",
        some,
        "What stands between user and domain; may be several characters.",
        short="D",
        meta="STRING",
    )
    explain: str = opt(
        "",
        some,
        "Show how the servers of this user are found, each step with its time, and exit. No "
        "password is needed, no mail server is asked.",
        meta="USER",
        argv_only=True,
        since="3.0",
    )
    explain_client: str = opt(
        "",
        text,
        "The client's address and port for --explain, where a query key wants them.",
        meta="ADDRESS[:PORT]",
        argv_only=True,
        since="3.0",
    )
    explain_local: str = opt(
        "",
        text,
        "The address and port that the client reached, for --explain.",
        meta="ADDRESS[:PORT]",
        argv_only=True,
        since="3.0",
    )
    explicit_domain: str = opt(
        "",
        text,
        "The domain for add_domain, instead of one found by address.",
        short="e",
        meta="DOMAIN",
        example="example.org",
    )
    forward_client: str = opt(
        "auto",
        word("auto", "never"),
        "Tell servers the client's address and port, by ID in IMAP4 and XCLIENT in POP3 and "
        "ManageSieve. auto: those that announce the command (Dovecot believes whom it has in "
        "login_trusted_networks); never: none.",
        meta="WHEN",
        since="3.0",
    )
    from_environment: bool = flag(
        "Read options from the environment, too, each as PERDITION_ and its name in capitals. They "
        "outdo the file; the command line outdoes them.",
        argv_only=True,
        since="3.0",
    )
    group: str = opt("nogroup", some, "Group to run as; name or number.", short="g", meta="GROUP")
    help: bool = flag("Show the options and exit.", short="h", argv_only=True)
    hide_server_errors: bool = flag(
        "Do not pass on what a server says when it refuses a login; say the same every time.",
        since="3.0",
    )
    imap_capability: str = opt(
        "IMAP4rev1 LITERAL+ SASL-IR ID AUTH=PLAIN",
        text,
        "Capabilities announced before an IMAP login, separated by blanks. STARTTLS and "
        "LOGINDISABLED come and go by themselves.",
        meta="STRING",
    )
    inetd_mode: bool = flag("Serve one client on standard input and output.", short="i")
    listen_port: str = opt(
        "",
        port,
        "Port to listen on; number or name.",
        short="l",
        meta="PORT",
        initial="the protocol's",
        example="143",
    )
    log_facility: str = opt(
        "mail",
        facility,
        "Where the log goes: a syslog facility, /FILE, - for standard output or + for standard "
        "error. The last two imply no_daemon.",
        short="F",
        meta="FACILITY",
    )
    log_format: str = opt(
        "text",
        word("text", "json"),
        "text, or json for one object a line.",
        meta="FORMAT",
        since="3.0",
    )
    log_passwd: str = opt(
        "never",
        word("never", "fail", "ok", "always"),
        "Show passwords in the lines of which logins: never, fail, ok or always; needs debug.",
        meta="WHEN",
    )
    log_socket: str = opt(
        "/dev/log", some, "The socket of syslog.", meta="FILE", path=True, since="3.0"
    )
    login_disabled: bool = flag("Refuse every login.")
    lower_case: State = opt(
        State.NONE,
        states,
        f"Turn A-Z in user names into a-z, for these uses: {_STATES}.",
        meta="STATE[,STATE...]",
        example="all",
        adds=True,
    )
    managesieve_capability: str = opt(
        _SIEVE,
        text,
        "Capabilities announced before a ManageSieve login; lines with their quotes, separated by "
        "two blanks.",
        meta="STRING",
    )
    map_library: str = opt(
        "libperditiondb_gdbm.so.0",
        text,
        "The kind of popmap, by its name (bdb, cdb, command, daemon, gdbm, http, ldap, mysql, nis, "
        "odbc, popmap, posix_regex, postgresql, redis, sqlite, tcp) or by that of Perdition 2.2's "
        "library for it, in any folder. Empty: no popmap. The default's file may be missing.",
        short="M",
        meta="KIND",
        example="gdbm",
    )
    map_library_opt: str = opt(
        "",
        text,
        "Option of the popmap: its file, socket or database.",
        short="m",
        meta="STRING",
        initial="by kind",
        example="/etc/perdition/popmap.gdbm.db",
        secret=True,
    )
    metrics_listen: str = opt(
        "",
        local_listener,
        "Where to serve metrics (OpenMetrics, GET /metrics): ADDRESS:PORT of the loopback, IPv6 in "
        "brackets, or /SOCKET, which everybody may read who reaches its folder. Each daemon needs "
        "its own. Empty: nowhere.",
        meta="LISTENER",
        initial="nowhere",
        example="127.0.0.1:9143",
        since="3.0",
    )
    no_bind_banner: bool = flag(
        "Greet with the name of this host instead of that of the address the client reached.",
        short="B",
    )
    no_daemon: bool = flag("Stay in the foreground.")
    no_lookup: bool = flag(
        "Look up no names of addresses and ports: greet with a numeric address, and use numbers "
        "as default ports.",
        short="n",
    )
    ok_line: str = opt(
        "You are so in",
        text,
        "What a client hears when it is logged in.",
        short="O",
        meta="STRING",
    )
    outgoing_port: str = opt(
        "",
        port,
        "Port of servers that are given without; number or name.",
        short="p",
        meta="PORT",
        initial="the protocol's",
        example="143",
    )
    outgoing_address: tuple[str, ...] = opt(
        (),
        numeric_addresses,
        "Own addresses from which to connect to servers, in turn. From each, some 28000 sessions "
        "to one port of one server are possible at once.",
        meta="ADDRESS[,...]",
        initial="as the system chooses",
        example="192.0.2.7,192.0.2.8",
        since="3.0",
    )
    outgoing_server: tuple[Server, ...] = opt(
        (),
        servers,
        "Server of the users whom no popmap knows. Of several, each session starts with one by "
        "chance. IPv6 in brackets.",
        short="s",
        meta="HOST[:PORT][,...]",
        initial="none",
        example="192.0.2.10:143",
    )
    pam_folder: str = opt(
        "",
        absolute,
        "Where the file named perdition for authenticate_in is, instead of the system's folders.",
        meta="FOLDER",
        initial="/etc/pam.d",
        since="3.0",
    )
    pid_file: str = opt(
        "",
        absolute,
        "File for the number of the process, named from /; empty: none.",
        meta="FILE",
        initial="/var/run/NAME/NAME.pid",
        example="/var/run/perdition/perdition.pid",
    )
    pop_capability: str = opt(
        "UIDL.USER",
        text,
        "Capabilities announced before a POP3 login, separated by dots; if there is no dot, by "
        "two blanks.",
        meta="STRING",
    )
    probe: bool = flag(
        "With --explain or --check_config: connect to the servers, and read what they say without "
        "a login.",
        alias="explain_probe",
        argv_only=True,
        since="3.0",
    )
    protocol: str = opt(
        DEFAULT_PROTOCOL,
        protocol_name,
        f"What to speak: {', '.join(PROTOCOLS)}.",
        short="P",
        meta="PROTOCOL",
        initial="by the command's name",
        example=DEFAULT_PROTOCOL,
    )
    proxy_protocol_networks: tuple[IPv4Network | IPv6Network, ...] = opt(
        (),
        networks,
        "Clients come through a load balancer in these networks, which tells their addresses by "
        "the PROXY protocol (version 1 or 2). Nobody else may connect.",
        meta="NETWORK[,...]",
        initial="none",
        example="192.0.2.0/24,2001:db8::/32",
        since="3.0",
    )
    proxy_protocol_outgoing: int = opt(
        0,
        number(0, 2),
        "Tell servers who the client is by this version of the PROXY protocol; they must expect "
        "it (Dovecot: haproxy = yes). 0: not.",
        meta="VERSION",
        since="3.0",
    )
    query_key: tuple[str, ...] = opt(
        (),
        query_keys,
        r"Keys to look up in the popmap, one after the other, made from: \U the user's name, \u "
        r"its part before the last delimiter, \d its part after, \D the delimiter, \i \p the "
        r"client's address and port, \I \P ours, \\ a backslash. Quote it in a file.",
        meta="FORMAT[,...]",
        initial=r"\U",
        example=r"\u,\D\d",
    )
    quiet: bool = flag("Log errors only; debug outdoes it.", short="q")
    server_resp_line: bool = flag(
        "Pass on the server's answer to the login as it stands.", short="o", alias="server_ok_line"
    )
    strip_domain: State = opt(
        State.NONE,
        states,
        f"Cut the domain off user names, for these uses: {_STATES}.",
        short="S",
        meta="STATE[,STATE...]",
        example="remote_login",
        adds=True,
    )
    strict: bool = flag(
        "With --check_config: exit with 1 for a warning, too.", argv_only=True, since="3.0"
    )
    tcp_keepalive: bool = flag("Have the kernel probe silent connections (SO_KEEPALIVE).")
    username: str = opt(
        "nobody",
        some,
        "User to run as, when started as root; name or number.",
        short="u",
        meta="USER",
    )
    username_from_database: bool = flag(
        "Log in with the user name that the popmap gives, if it gives one.",
        short="U",
    )
    version: bool = flag("Show the version and exit.", argv_only=True, since="3.0")


# Heading -> options, in the manual's order.
SECTIONS: dict[str, tuple[Option, ...]] = {
    str(table.__doc__): options_of(table) for table in (Config, LimitOptions, TlsOptions)
}
OPTIONS: dict[str, Option] = {
    option.name: option for section in SECTIONS.values() for option in section
}
LONG_NAMES: dict[str, Option] = OPTIONS | {
    option.alias: option for option in OPTIONS.values() if option.alias
}
LETTERS: dict[str, Option] = {option.short: option for option in OPTIONS.values() if option.short}


def unknown(name: str, dashes: str = "") -> str:
    """The complaint about a name that is no option's, with the nearest that is one."""
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, seldom wanted

    wanted = name.lstrip("-").replace("-", "_").lower()
    near = get_close_matches(wanted, LONG_NAMES, n=1, cutoff=0.6)
    return "unknown option" + (f"; did you mean {dashes}{near[0]}?" if near else "")
