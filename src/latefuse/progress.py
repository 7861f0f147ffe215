"""Progress bars: on a terminal, and for a runner that reads them. Any other log stays free of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

READ = "LATEFUSE_PROGRESS"
"""Set by a runner that shows the bars of the processes that it starts."""


def bar(rows: Iterable[Any] | None = None, *, wanted: bool = True, **options: Any) -> Any:
    """A tqdm bar, over `rows` or by hand, with tqdm's own options; silent unless it is wanted and somebody sees it."""
    seen = sys.stderr.isatty() or READ in os.environ
    return tqdm(rows, disable=not (wanted and seen), **options)


@contextmanager
def no_library_bars() -> Iterator[None]:
    """Within it Hugging Face's own bars (shards read, shards written) are silent."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
