"""What all errors have in common that the user can mend; any other exception is a bug."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was asked or given; the message says what it is and what to do, so no traceback is shown."""
