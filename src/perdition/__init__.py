"""Perdition 3: an IMAP4, POP3 and ManageSieve proxy."""

__version__ = "3.0.0"
