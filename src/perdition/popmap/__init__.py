"""Popmaps: where a user's mail lives, asked of a file, a database or a service.

`base` says what a map is, `registry` which there are, `lookups` how a session asks one: at once
where the answer is at hand, in a thread where a driver may wait, with answers kept.
"""
