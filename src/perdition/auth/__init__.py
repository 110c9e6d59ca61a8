"""Local authentication before a server is asked: PAM, in processes of its own.

`pam` speaks to the library, `helper` is the process that may, `asking` is the worker's side.
"""
