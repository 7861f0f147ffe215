"""The one error of everything that reads or writes data."""

from __future__ import annotations


class DataError(ValueError):
    """Raw data or a dataset that can't be used; the message names the file, the row or key, and what to do."""
