"""Sources by name: what is found, what is refused and how the message teaches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latefuse.config_data import Data
from latefuse.data import sources
from latefuse.data.errors import DataError
from latefuse.sections import ConfigError


@pytest.mark.parametrize("name", sorted(sources.SOURCES))
def test_every_entry_is_a_source(name: str) -> None:
    found = sources.get(name)
    assert found.name == name
    assert found.Options.model_config["extra"] == "forbid"


def test_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'movielens'"):
        sources.get("movielense")


def test_unknown_option_tells_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.options: 1 problem[\s\S]*did you mean 'per_class'"):
        sources.build(Data(source="labelled_images", path=str(tmp_path), options={"per_clas": 3}), tmp_path)


def test_source_of_files_needs_a_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path"):
        sources.build(Data(source="captions"), tmp_path)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        sources.build(Data(source="captions", path=str(tmp_path / "nowhere")), tmp_path)


def test_real_data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATEFUSE_REAL_DATA", "/somewhere")
    assert sources.resolve("$LATEFUSE_REAL_DATA/food") == Path("/somewhere/food")
    assert sources.resolve("$LATEFUSE_REAL_DATA") == Path("/somewhere")
    assert sources.resolve("data/$LATEFUSE_REAL_DATA") == Path("data/$LATEFUSE_REAL_DATA")
    monkeypatch.delenv("LATEFUSE_REAL_DATA")
    with pytest.raises(ConfigError, match="needs the environment variable LATEFUSE_REAL_DATA"):
        sources.resolve("$LATEFUSE_REAL_DATA/food")


def test_a_folder_below_any_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = Data(source="captions", path="$MY_PHOTOS/one", corrections=[str(tmp_path)])
    assert sources.elsewhere(data)
    with pytest.raises(ConfigError, match=r"MY_PHOTOS/one needs the environment variable MY_PHOTOS, a folder"):
        sources.resolve("$MY_PHOTOS/one")
    monkeypatch.setenv("MY_PHOTOS", str(tmp_path))
    assert sources.resolve("$MY_PHOTOS/one") == tmp_path / "one"
    assert sources.elsewhere(data)
    (tmp_path / "one").mkdir()
    assert not sources.elsewhere(data)
    assert not sources.elsewhere(Data(source="demo"))


def test_registry_imports_no_reader() -> None:
    code = (
        "import sys, latefuse.data.sources\n"
        "assert not {'polars', 'pyarrow', 'torch', 'latefuse.data.sources.movielens'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_raw_digest_sees_every_change(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.csv").write_text("1")
    data = Data(source="captions", path=str(tmp_path))
    seen = [sources.raw_digest(data)]
    for change in (
        lambda: (tmp_path / "a/one.csv").write_text("22"),
        lambda: (tmp_path / "two.csv").write_text(""),
        lambda: (tmp_path / "two.csv").rename(tmp_path / "three.csv"),
        lambda: os.utime(tmp_path / "three.csv", (1, 1)),
    ):
        change()
        seen.append(sources.raw_digest(data))
    assert len(set(seen)) == len(seen)
    assert sources.raw_digest(data) == seen[-1]
    assert sources.raw_digest(Data(source="demo")) == ""
    assert sources.raw_digest(Data(source="captions", path=str(tmp_path / "nowhere"))) == ""
