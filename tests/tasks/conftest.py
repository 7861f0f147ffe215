"""What tests of rankers share: the small shop and a tiny backbone, each made once a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_ranks import shop

from latefuse.data.dataset import Dataset
from latefuse.models.backbone import Backbone, load


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def backbone(backbone_folder: Callable[..., Path]) -> Backbone:
    return load(backbone_folder())
