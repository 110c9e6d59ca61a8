"""One client's session: its two sides, the login, the relay, and what the log says of it."""
