"""Errors that are a user's to mend: printed as one message without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Wrong input. Says what is wrong, where, and what to do. Exit code 2."""

    exit_code = 2


class Diverged(Exception):
    """A loss that is not finite. Exit code 1."""

    exit_code = 1
