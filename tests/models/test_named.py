"""Names of model folders, each found where it says."""

import sys

import pytest

from latefuse.models.folder import BackboneError
from latefuse.models.named import is_folder, located


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "models/small").mkdir(parents=True)
    monkeypatch.setenv("MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["./models/small", "models/small", "$MODELS/small", "$MODELS/../models/small"])
def test_a_path_or_one_below_a_variable(name, home):
    assert is_folder(name)
    assert located(name) == (home / "models/small").resolve()


def test_a_variable_alone_is_its_folder(home):
    assert located("$MODELS") == (home / "models").resolve()


def test_a_name_of_a_hub_is_no_folder(home):
    assert not is_folder("owner/model")
    assert is_folder("owner/model/more")
    assert is_folder("pip:json")


def test_the_folder_model_of_a_package_is_found_without_its_code(home, monkeypatch):
    package = home / "site/an_encoder"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(home / "site"))
    assert located("pip:an_encoder") == (package / "model").resolve()
    assert "an_encoder" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./gone", r"key './gone': no such folder"),
        ("$GONE/x", r"key: \$GONE/x needs the environment variable GONE"),
        ("pip:gone", r"key: no package 'gone' here"),
        ("pip:../gone", r"key: no package"),
        ("pip:json", r"no folder `model` in the package 'json'"),
    ],
)
def test_what_is_not_there_is_told_with_the_key(name, message, home):
    with pytest.raises(BackboneError, match=message):
        located(name, "key")
