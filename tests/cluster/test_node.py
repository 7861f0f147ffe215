"""What a node hands to its step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latefuse.cluster import node
from latefuse.config_data import Data


def test_prepare_keeps_answers_in_the_cache_of_this_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latefuse.steps import prepare

    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path / "home"))
    given: dict[str, Any] = {}

    def step(data: Data, out: Path, tracker: Any, **places: Path) -> dict[str, Any]:
        given.update(places, source=data.source)
        return {}

    monkeypatch.setattr(prepare, "run", step)
    node.prepare(Data(source="demo").model_dump_json(), tmp_path / "out")
    assert given["cache"] == tmp_path / "home/cache"
    assert given["source"] == "demo"
    assert given["workdir"].is_relative_to(tmp_path / "home/work")
