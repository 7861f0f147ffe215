"""A recipe names a maker of each kind; what does not fit is refused before anything is read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from latefuse.config_data import MediaLimits
from latefuse.config_rank import Reader
from latefuse.data.readings.makers import build
from latefuse.data.readings.request import Request


def made(reader: Reader, users: Callable[[], list[str]] = list) -> Any:
    return build(reader, 9, "data.readings.reviews", MediaLimits(), False, users)


def test_each_kind(classifier_folder: Callable[..., Path], backbone_folder: Callable[..., Path]) -> None:
    assert made(Reader(by="extractive")).name == "extractive"
    assert made(Reader(by="classifier", model=str(classifier_folder()))).name.startswith("classifier ")
    assert made(Reader(by="model", model=str(backbone_folder("llama")))).name.startswith("model ")
    assert made(Reader(by="endpoint", model="m", url="http://127.0.0.1:1/v1")).name == "endpoint m"


@pytest.mark.parametrize(("mask", "seen"), [(True, False), (False, True)])
def test_users_and_names_are_masked_unless_the_recipe_says_no(mask: bool, seen: bool) -> None:
    reader = Reader(by="endpoint", model="m", url="http://127.0.0.1:1/v1", mask=mask, names=("Thomas",))
    one, request = made(reader, lambda: ["foodie_82"]), Request("item", "i", 0, ("Thomas and foodie_82",))
    assert ("Thomas and foodie_82" in one._asked.text(request)) is seen
    assert ("[name] and [name]" in one._asked.text(request)) is mask


@pytest.mark.parametrize(
    "raw",
    [
        {"by": "classifier"},
        {"by": "model", "model": "m", "url": "http://x/v1"},
        {"by": "endpoint", "model": "m"},
        {"by": "extractive", "labels": "labels.txt"},
        {"by": "endpoint", "model": "m", "url": "http://x/v1", "max_cost": 1.0},
    ],
)
def test_what_does_not_fit_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Reader.model_validate(raw)


def test_the_step_loads_no_model_library_for_it() -> None:
    heavy = "torch openai sklearn"
    code = f"import sys, latefuse.data.readings.make; print([m for m in '{heavy}'.split() if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
