"""Public data sets in the folder that LATEFUSE_REAL_DATA names, `../shared/data` beside the repository by default."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse import tracking
from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.sources import REAL_DATA

HERE = Path(__file__).resolve().parents[2]


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Name of a set -> its folder; skips with a reason where it is absent."""
    root = Path(os.environ.get(REAL_DATA) or HERE.parent / "shared/data")
    monkeypatch.setenv(REAL_DATA, str(root))

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"{root / name} is not there; set {REAL_DATA} to a folder that has {name}")
        return root / name

    return folder


@pytest.fixture
def prepared(real_data: Callable[[str], Path], tmp_path: Path) -> Callable[..., Dataset]:
    """(source, set, options) -> the dataset that prepare makes of it."""
    from latefuse.steps import prepare

    def run(source: str, name: str, **options: Any) -> Dataset:
        real_data(name)
        data = Data.model_validate({"source": source, "path": f"${REAL_DATA}/{name}", **options})
        result = prepare.run(data, tmp_path / "dataset", tracking.Null())
        assert result["leaks"] == []
        return Dataset(tmp_path / "dataset")

    return run


def splits(dataset: Dataset, table: str, scheme: str = "item") -> Counter[str]:
    """How many rows of a table each split has."""
    return Counter(dataset.table(table, columns=[f"split_{scheme}"])[f"split_{scheme}"].to_pylist())


def names(dataset: Dataset) -> set[str]:
    """The closed list of names."""
    truths = map(json.loads, dataset.table("conversations", columns=["truth"])["truth"].to_pylist())
    return {truth["name"] for truth in truths if "name" in truth}


@pytest.fixture
def split_counts() -> Callable[..., Counter[str]]:
    return splits


@pytest.fixture
def name_list() -> Callable[[Dataset], set[str]]:
    return names
