"""docs/data.md tells of every column of every table, and of nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from latefuse.config_data import Data
from latefuse.data.schema import REQUIRED, TABLES
from latefuse.data.sources import SOURCES
from latefuse.data.sources.manifest import EXTRA, NUMBERED, ManifestOptions, Table

PAGE = (Path(__file__).parents[3] / "docs/data.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)


@pytest.mark.parametrize("table", sorted(TABLES))
def test_columns(table: str) -> None:
    part = PAGE.split(f"### {table}\n")[1].split("\n## ")[0].split("\n### ")[0].split("`truth` is made of")[0]
    told = {name: rest.startswith("needed") for name, _, rest in ROW.findall(part)}
    assert set(told) == set(TABLES[table].names) - {"number"} | set(EXTRA.get(table, ()))
    needed = set(REQUIRED[table]) - ({"id"} if table in NUMBERED else set())
    if table == "conversations":
        needed = {"question", "answer"}
    assert {name for name, must in told.items() if must} == needed


def test_options() -> None:
    part = PAGE.split("| option of a table |")[1].split("Beside `tables`")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == set(Table.model_fields)


def test_sources() -> None:
    part = PAGE.split("| source |")[1].split("The options of each")[0]
    assert set(re.findall(r"`(\w+)` \|", part)) | {"manifest", "demo"} == set(SOURCES)
    for recipe in re.findall(r"`(\w+\.yaml)`", part):
        assert (Path(__file__).parents[3] / "configs/recipes" / recipe).exists(), recipe


def test_the_example_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    data = Data.model_validate(yaml.safe_load(block)["data"])
    assert ManifestOptions.model_validate(data.options).tables["items"].ignore == ("price",)
