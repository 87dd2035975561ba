"""The one exception for what the user can mend: bad input, said before work starts."""

from __future__ import annotations


class InputError(Exception):
    """The call, its configuration or its data is wrong.

    The command line prints the message on standard error, without a traceback, and exits with 2.
    The message says what is wrong, where, and what to do.
    """
