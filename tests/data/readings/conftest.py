"""What tests of readings share: requests, and a tiny classifier of a real class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from latefuse.data.readings.request import Request

LABELS = ("red soup", "green rice", "blue tart", "white roll")


@pytest.fixture
def reviews() -> Callable[..., list[Request]]:
    """`make(documents, ...)` -> one request for an item each."""

    def make(*documents: str | tuple[str, ...]) -> list[Request]:
        return [
            Request("item", f"i{place}", 100, (said,) if isinstance(said, str) else said)
            for place, said in enumerate(documents)
        ]

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> list[Request]:
    """Five pictures of different colours and sizes."""
    out = []
    for place, colour in enumerate(("red", "lime", "blue", "white", "gold")):
        path = tmp_path / f"{place}.png"
        Image.new("RGB", (900 + place, 60), colour).save(path)
        out.append(Request("picture", f"media/aa/{place}.png", 0, picture=path))
    return out


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A MobileNetV2 with random weights; `labels` None leaves it with LABEL_0 ..."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    def make(labels: tuple[str, ...] | None = LABELS) -> Path:
        out = tmp_path_factory.mktemp("classifier")
        named = dict(enumerate(labels)) if labels else None
        config = MobileNetV2Config(
            image_size=32, depth_multiplier=0.1, finegrained_output=False, initializer_range=0.3,
            **({"id2label": named} if named else {"num_labels": 4}),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            MobileNetV2ForImageClassification(config).save_pretrained(out)
        return out

    return make
