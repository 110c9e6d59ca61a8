"""login.py PORT [--tls AUTHORITY] USER PASSWORD: one IMAP login on the loopback, to the end.

With --hold in front it says that it is in, waits for a line on standard input, and asks once more.

Run by the tests in another network than theirs, so it knows nothing of them.
"""

from __future__ import annotations

import imaplib
import ssl
import sys


def log_in(port: int, user: str, password: str, *, authority: str = "", hold: bool = False) -> None:
    """Log in, put a mail into the mailbox, leave; say what the server answered."""
    client: imaplib.IMAP4
    if authority:
        context = ssl.create_default_context(cafile=authority)
        client = imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=15)
    else:
        client = imaplib.IMAP4("127.0.0.1", port, timeout=15)
    print(client.welcome.decode())
    print(client.login(user, password)[1][0].decode())
    if hold:
        print("held", flush=True)
        sys.stdin.readline()
        client.noop()
    if client.append("INBOX", "", None, b"Subject: one\r\n\r\ntext\r\n")[0] != "OK":
        raise OSError("the mail was not taken")
    client.logout()


def main() -> None:
    """Exit with status 1 if it did not let us in."""
    hold = sys.argv[1] == "--hold"
    port, *words = sys.argv[1 + hold :]
    authority = words[1] if words[0] == "--tls" else ""
    user, password = words[-2:]
    try:
        log_in(int(port), user, password, authority=authority, hold=hold)
    except (OSError, imaplib.IMAP4.error) as error:
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
