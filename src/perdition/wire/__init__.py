"""Sans-IO grammars: bytes in, events and bytes out; no sockets, clocks, logs or configuration."""
