"""What all errors have in common whose message says all there is to say; any other exception is a bug."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was asked or given, or a result that failed its check; no traceback would say more."""
