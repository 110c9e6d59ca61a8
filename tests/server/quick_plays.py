"""The plays of `test_quick`, in the language of `tests.servers.plays`, by the daemon's options."""

from __future__ import annotations

GREETS = "server comes\nserver: * OK [CAPABILITY IMAP4rev1] hi"
GREETS_ID = "server comes\nserver: * OK [CAPABILITY IMAP4rev1 ID] hi"
ASKS = "client < ready\nclient: a LOGIN ann secret"
OPENED = f"{ASKS}\n{GREETS}\nserver < secret"
TALK = "client < a OK\nclient: z NOOP\nserver < z NOOP\nserver: z OK\nclient < z OK"
USUAL = f"{OPENED}\nserver: flim07 OK [CAPABILITY IMAP4rev1 X] in\n{TALK}"
WITH_ID = f"{ASKS}\n{GREETS_ID}\nserver < flim07 ID\nserver < flim08 LOGIN"

PLAYS: dict[str, dict[str, str]] = {
    "plain": {
        "login first": USUAL,
        "twice": f"{USUAL}\nclient: y LOGOUT\nserver < y LOGOUT",
        "who the client is": f"{WITH_ID}\nserver: flim07 OK ID\\nflim08 OK in\n{TALK}",
        "answers in pieces": f"""{WITH_ID}
            server: * ID NIL\\nflim07 OK ID
            who ann
            server: flim08 OK [CAPA\\c
            who ann
            server: BILITY X] in
            {TALK}""",
        "a line ahead of the verdict": f"""{OPENED}
            server: * OK [ALERT] full
            who ann
            server: flim07 OK in
            client < full
            {TALK}""",
        "a greeting in pieces": f"""{ASKS}
            server comes
            server: * OK [CAPABILITY IMAP4\\c
            who ann
            server: rev1] hi
            server < secret
            server: flim07 OK in
            {TALK}""",
        "a greeting without capabilities": f"""{ASKS}
            server comes
            server: * OK hi
            server < flim07 CAPABILITY
            server: * CAPABILITY IMAP4rev1\\nflim07 OK
            server < flim08 LOGIN
            server: flim08 OK in
            {TALK}""",
        "capability then login": f"""client < ready
            client: b CAPABILITY
            client < b OK
            client: a LOGIN ann secret
            {GREETS}
            server < secret
            server: flim07 OK in
            {TALK}""",
        "authenticate plain": f"""client < ready
            client: a AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=
            {GREETS}
            server < LOGIN "ann" "secret"
            server: flim07 OK in
            {TALK}""",
        "authenticate plain in two steps": f"""client < ready
            client: a AUTHENTICATE PLAIN
            client < +
            client: AGFubgBzZWNyZXQ=
            {GREETS_ID}
            server < LOGIN "ann" "secret"
            server: flim08 OK in
            {TALK}""",
        "for somebody else": """client < ready
            client: a AUTHENTICATE PLAIN Ym9iAGFubgBzZWNyZXQ=
            client < a NO
            client: b AUTHENTICATE PLAIN YW5uAGJvYgBzZWNyZXQ=
            server comes
            server: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi
            server < PLAIN YW5uAGJvYgBzZWNyZXQ=
            server: flim07 OK in
            client < b OK""",
        "login and a command in one packet": f"""client < ready
            client: a LOGIN ann secret\\nb SELECT INBOX
            {GREETS}
            server < secret
            server: flim07 OK in
            server < b SELECT
            {TALK}""",
        "a login in two packets": f"""client < ready
            client: a LOGIN ann\\c
            who 127.0.0.1
            client:  secret
            {GREETS}
            server < secret
            server: flim07 OK in
            {TALK}""",
        "early, before the greeting": f"""{ASKS}
            server comes
            client: b SELECT INBOX
            who ann
            server: * OK [CAPABILITY IMAP4rev1] hi
            server < secret
            server: flim07 OK in
            server < b SELECT
            {TALK}""",
        "early, after the login was sent": f"""{WITH_ID}
            client: b SELECT INBOX
            who ann
            server: flim07 OK
            client: c NOOP
            who ann
            server: flim08 OK in
            server < b SELECT
            server < c NOOP
            {TALK}""",
        "early, and more than one packet": f"""client < ready
            client: b NOOP
            client < b OK
            client: a LOGIN ann secret
            {GREETS}
            server < secret
            client: c NOOP
            who ann
            client: d NOOP
            who ann
            server: flim07 OK in
            server < d NOOP
            {TALK}""",
        "early, and refused": f"""{OPENED}
            client: b NOOP
            who ann
            server: flim07 NO wrong
            client < a NO wrong
            client < b OK""",
        "the client half-closes before the greeting": f"""{ASKS}
            server comes
            client ends
            who ann
            server: * OK [CAPABILITY IMAP4rev1] hi
            server < secret
            server: flim07 OK in
            client < a OK""",
        "the client half-closes after the login": f"""{OPENED}
            client ends
            who ann
            server: flim07 OK in
            client < a OK""",
        "the client half-closes and is refused": f"""{WITH_ID}
            client ends
            who ann
            server: flim07 OK\\nflim08 NO wrong
            client < a NO wrong""",
        "the client half-closes, then the server": f"""{OPENED}
            client ends
            who ann
            server ends
            client < a NO""",
        "the client goes before the greeting": f"""{ASKS}
            server comes
            client goes
            who ann
            server: * OK [CAPABILITY IMAP4rev1] hi
            server < secret
            server: flim07 NO wrong""",
        "the client resets before the greeting": f"""{ASKS}
            server comes
            client resets
            log Closing NULL session.*client gone""",
        "the client resets after the login": f"""{OPENED}
            client resets
            log Closing NULL session.*client gone
            server < LOGOUT""",
        "the client says something and resets": f"""client < ready
            client: b NOOP
            client < b OK
            client: a LOGIN ann secret
            {GREETS_ID}
            server < secret
            client resets
            log Closing NULL session.*client gone
            server < LOGOUT""",
        "the client goes at once": "client < ready\nclient goes",
        "the client resets at once": "client < ready\nclient resets",
        "the client logs out": "client < ready\nclient: a LOGOUT\nclient < a OK",
        "the client talks nonsense": "client < ready\nclient: \\xe9\nclient < BAD\nclient ends",
        "refused, then right": f"""{OPENED}
            server: flim07 NO [AUTHENTICATIONFAILED] wrong
            client < a NO [AUTHENTICATIONFAILED] wrong
            client: b LOGIN ann other
            server2 comes
            server2: * OK [CAPABILITY IMAP4rev1] hi
            server2 < "other"
            server2: flim07 OK in
            client < b OK""",
        "not now": f"{OPENED}\nserver: flim07 NO [UNAVAILABLE] later\nclient < a NO [UNAVAIL",
        "the server says BYE": f"{ASKS}\nserver comes\nserver: * BYE full\nclient < a NO [UNAV",
        "the server says PREAUTH": f"{ASKS}\nserver comes\nserver: * PREAUTH hi\nclient < a NO",
        "the server says BYE, then goes": f"""{OPENED}
            server: * BYE full
            who ann
            server ends
            client < a NO [UNAVAILABLE] full""",
        "the server is something else": f"{ASKS}\nserver comes\nserver: 220 smtp\nclient < a NO",
        "the server closes at once": f"{ASKS}\nserver comes\nserver ends\nclient < a NO [UNAVAIL",
        "the server resets at once": f"{ASKS}\nserver comes\nserver resets\nclient < a NO [UNAV",
        "the server closes after its greeting": f"""{ASKS}
            {GREETS}
            server ends
            client < a NO [UNAVAILABLE]
            server < secret""",
        "the server closes in an answer": f"""{WITH_ID}
            server: flim07 OK ID\\nflim08 OK i\\c
            who ann
            server ends
            client < a NO [UNAVAILABLE]""",
        "the server resets after the login": f"{OPENED}\nserver resets\nclient < a NO [UNAVAIL",
        "the server accepts and closes": f"{OPENED}\nserver: flim07 OK in\nserver ends\n"
        "client < a OK",
        "bytes behind the verdict": f"""{OPENED}
            server: flim07 OK in\\n* 3 EXISTS
            client < a OK
            client < 3 EXISTS
            {TALK.replace("client < a OK", "")}""",
        "an answer to nothing": f"{OPENED}\nserver: flim99 OK in\nclient < a NO [UNAVAILABLE]",
        "a very long answer": f"""{OPENED}
            server: * OK {"x" * 5000}
            server: flim07 OK in
            client < xxx
            {TALK}""",
        "nobody there": "client < ready\nclient: a LOGIN bob secret\nclient < a NO [UNAVAILABLE]",
        "nobody there, by AUTHENTICATE": """client < ready
            client: a AUTHENTICATE PLAIN AGJvYgBzZWNyZXQ=
            client < a NO [UNAVAILABLE]
            client: b NOOP
            client < b OK""",
        "nobody at the first server": f"""client < ready
            client: a LOGIN cat secret
            {GREETS}
            server < secret
            server: flim07 OK in
            {TALK}""",
        "nobody there, then somebody": f"""client < ready
            client: b LOGIN bob secret
            client < b NO [UNAVAILABLE]
            client: a LOGIN ann secret
            {GREETS}
            server < secret
            server: flim07 OK in
            {TALK}""",
        "a map that knows no such port": "client < ready\nclient: a LOGIN dan x\nclient < a NO",
        "no such name": "client < ready\nclient: a LOGIN fay secret\nclient < a NO [UNAVAILABLE]",
        "a name": f"client < ready\nclient: a LOGIN gus secret\n{GREETS}\nserver < secret\n"
        "server: flim07 OK in\nclient < a OK",
        "a name again": f"client < ready\nclient: a LOGIN gus secret\n{GREETS}\nserver < secret\n"
        "server: flim07 OK in\nclient < a OK",
        "nobody knows the user": f"client < ready\nclient: a LOGIN ike secret\n{GREETS}\n"
        "server < secret\nserver: flim07 OK in\nclient < a OK",
        "a very long greeting": f"""{ASKS}
            server comes
            server: * OK [CAPABILITY IMAP4rev1] {"x" * 5000}
            server < secret
            server: flim07 OK in
            {TALK}""",
        "much, and early": f"""{OPENED}
            client: {"b NOOP" + "x" * 5000}
            who ann
            client: {"c NOOP" + "x" * 70000}
            server: flim07 OK in
            server < c NOOP
            {TALK}""",
        "early, an end": f"""{OPENED}
            client: b LOGOUT
            who ann
            server: flim07 NO wrong
            client < a NO wrong
            client < b OK LOGOUT""",
        "quoted": f"""client < ready
            client: a LOGIN "a n" "s\\"t\\\\"
            {GREETS}
            server < LOGIN "a n" "s\\"t\\\\"
            server: flim07 OK in
            {TALK}""",
        "literal": f"""client < ready
            client: a LOGIN {{3}}
            client < +
            client: ann {{6+}}\\nsecret
            {GREETS}
            server < LOGIN "ann" "secret"
            server: flim07 OK in
            {TALK}""",
        "literal for the server": f"""client < ready
            client: a LOGIN ann s\\xe9t
            {GREETS}
            server < {{3}}
            server: + go
            server < {{3}}
            server: + go
            server: flim07 OK in
            {TALK}""",
        "kicked": f"{OPENED}\nkick ann\nclient < * BYE\nserver < LOGOUT",
        "kicked before the greeting": f"{ASKS}\nserver comes\nkick ann\nclient < * BYE",
        "kicked without a login": "client < ready\nlog Connect\nkick 127.0.0.1\nclient < * BYE",
        "kicked when it is in": f"{USUAL}\nkick ann\nclient ends",
        "traced": "trace ann\nother comes\nother < ready\nother: a LOGIN ann secret\n"
        f"{GREETS}\nserver < secret\nserver: flim07 OK in\nother < a OK\ntrace ann --stop",
    },
    "untold": {
        "login first": USUAL.replace("< a OK", "< a OK in"),
        "ID is not wanted": f"{ASKS}\n{GREETS_ID}\nserver < flim07 LOGIN\n"
        f"server: flim07 OK in\n{TALK}",
        "down, then tried last": f"""client < ready
            client: a LOGIN cat secret
            {GREETS}
            server < secret
            server: flim07 OK in
            {TALK}
            other comes
            other: a LOGIN cat secret
            server2 comes
            server2: * OK [CAPABILITY IMAP4rev1] hi
            server2 < secret
            server2: flim07 OK in
            other < a OK""",
        "refused": f"{OPENED}\nserver: flim07 BAD no\nclient < a BAD no\nclient < Too many failed",
    },
    "names": {
        "another user": f"client < ready\nclient: a LOGIN hal secret\n{GREETS}\n"
        'server < LOGIN "jim" "secret"\nserver: flim07 OK in\nclient < a OK',
        "a server of the user's": f"client < ready\nclient: a LOGIN ann@127.0.0.1 secret\n"
        f'{GREETS}\nserver < LOGIN "ann" "secret"\nserver: flim07 OK in\nclient < a OK',
        "no such server": "client < ready\nclient: a LOGIN ann@/ secret\nclient < a NO",
        "login first": USUAL,
    },
    "no way out": {
        "refused": f"{ASKS}\nclient < a NO [UNAVAILABLE]",
        "refused again": f"{ASKS}\nclient < a NO [UNAVAILABLE]\nservers",
    },
    "header": {
        "login first": f"client: PROXY TCP4 192.0.2.9 192.0.2.10 40000 143\n{USUAL}",
        "login first, IPv6": f"client: PROXY TCP6 2001:db8::1 2001:db8::2 40000 143\n{WITH_ID}\n"
        f"server: flim08 OK in\n{TALK}",
        "nobody knows whose": f"client: PROXY UNKNOWN\n{WITH_ID}\nserver: flim08 OK in\n{TALK}",
        "all in one packet": f"client: PROXY TCP4 192.0.2.9 192.0.2.10 40000 143\\n"
        f"a LOGIN ann secret\n{GREETS}\nserver < secret\nserver: flim07 OK in\n{TALK}",
    },
    "slow map": {
        "waited for": USUAL,
        "the client goes on": f"{ASKS}\nclient: b NOOP\n{GREETS}\n"
        f"server < secret\nserver: flim07 OK in\nserver < b NOOP\n{TALK}",
        "the client resets": f"{ASKS}\nwho ann\nclient resets\nlookups 1",
        "the client ends": f"{ASKS}\nclient ends\n{GREETS}\nserver < secret\n"
        "server: flim07 OK in\nclient < a OK",
        "kicked": f"{ASKS}\nwho ann\nkick ann\nclient < * BYE\nlookups 1",
        "no answer": "client < ready\nclient: a LOGIN bob secret\nclient < a NO [UNAVAILABLE]",
        "reloaded": f"{WITH_ID}\nreload\nserver: flim08 OK in\n{TALK}",
        "and again": USUAL,
        "told to end": f"{OPENED}\nTERM\nuntil 4: client < * BYE [UNAVAILABLE]\nserver < LOGOUT",
    },
    "server limit": {
        "reached, then free": f"""{USUAL}
            other comes
            other: b LOGIN ann secret
            other < b NO [UNAVAILABLE]
            client ends
            server ends
            log Closing session
            other: c LOGIN ann secret
            server2 comes
            server2: * OK [CAPABILITY IMAP4rev1] hi
            server2 < secret
            server2: flim07 OK in
            other < c OK""",
        "free again after a refusal": f"{OPENED}\nserver: flim07 NO no\nclient < a NO",
        "free again after a reset": f"{OPENED}\nclient resets\nlog Closing NULL.*client gone",
        "free again": f"{USUAL}\nservers",
    },
    "address limit": {
        "one too many": f"""{OPENED}
            other comes
            other < * BYE [UNAVAILABLE]
            server: flim07 OK in
            {TALK}""",
        "free again": USUAL,
        "free after a kick": f"{OPENED}\nkick ann\nclient < * BYE",
        "free once more": USUAL,
    },
    "delay": {
        "wrong, then right elsewhere": f"""{OPENED}
            server: flim07 NO wrong
            log Re-Authentication Failure
            other comes
            other: a LOGIN ann secret
            after 0.7: server2 comes
            server2: * OK [CAPABILITY IMAP4rev1] hi
            server2 < secret
            server2: flim07 OK in
            other < a OK
            client < a NO wrong""",
        "forgiven": USUAL,
    },
    "tls": {
        "login first": USUAL,
        "capability first": f"client < ready\nclient: b CAPABILITY\nclient < b OK\n"
        f"client: a LOGIN ann secret\n{GREETS_ID}\nserver < secret\nserver: flim08 OK in\n{TALK}",
        "early": f"{OPENED}\nclient: b NOOP\nwho ann\nserver: flim07 OK in\n"
        f"server < b NOOP\n{TALK}",
        "the client goes": f"{OPENED}\nclient goes\nwho ann\nserver ends",
        "in the middle of a handshake": """client < ready
            mute comes
            kick 127.0.0.1
            client < * BYE
            mute is gone""",
        "the handshake fails": f"client < ready\nstranger comes\nlog SSL connection\n"
        f"client: a LOGIN ann secret\n{GREETS}\nserver < secret\nserver: flim07 OK in\n{TALK}",
    },
    "timeouts": {
        "each of them": """client < ready
            client: a LOGIN eve secret
            other comes
            other < ready
            other: b LOGIN ann silent
            server comes
            third comes
            third < ready
            third: c LOGIN ann secret
            server2 comes
            server2: * OK [CAPABILITY IMAP4rev1 ID] hi
            server2 < secret
            until 4: client < a NO [UNAVAILABLE]
            until 4: other < b NO [UNAVAILABLE]
            until 4: third < c NO [UNAVAILABLE]
            server2 < LOGOUT""",
    },
    "tls patience": {
        "is over": """client < ready
            mute comes
            until 4: client < * BYE
            until 4: mute is gone""",
    },
    "patience": {
        "is over": f"""client < ready
            other comes
            other < ready
            other: a LOGIN ann secret
            {GREETS}
            server < secret
            third comes
            third < ready
            third: a LOGIN ann silent
            server2 comes
            until 4: client < * BYE
            until 4: other < * BYE
            until 4: third < * BYE
            server < LOGOUT""",
    },
}  # fmt: skip
