"""The processes: a master without an event loop, workers with one, and what they share."""
