"""What the tests of all readers share: tiny pictures, and the rows of a source as prepare will see them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latefuse.config_data import Data
from latefuse.data import sources
from latefuse.data.schema import clean

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def collect(tmp_path: Path) -> Callable[..., Rows]:
    """(source name, options) -> per table the clean rows; broken ones stand under "errors" as (line, reason)."""

    def collected(name: str, path: Path | None = None, **options: Any) -> Rows:
        source = sources.build(Data(source=name, path=str(path or tmp_path), options=options), tmp_path)
        found: Rows = {"errors": []}
        for table, rows in source.tables().items():
            found[table] = []
            for row in rows():
                if "_error" in row:
                    found["errors"].append((table, row["_line"], row["_error"].split(":")[0]))
                else:
                    assert row["_line"]
                    found[table].append(clean(table, row))
        again = [len(list(rows())) for rows in source.tables().values()]
        assert sum(again) == sum(map(len, found.values())), "a table can be streamed again"
        return found

    return collected


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """(relative path, shade) -> a small picture below tmp_path."""

    def drawn(name: str, shade: int = 100) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade, 255 - shade, 50)).save(path)
        return path

    return drawn
