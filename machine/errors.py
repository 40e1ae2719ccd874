"""What may end a command, by its exit code; every message is one line with the remedy."""

from __future__ import annotations


class Refused(ValueError):
    """What was asked is wrong or not there: nothing ran. Exit code 2."""


class Failed(RuntimeError):
    """What was asked ran and could not be done. Exit code 1."""


class Interrupted(Exception):
    """The user asked to stop; what was done is saved. Exit code 130."""
