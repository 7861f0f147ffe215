"""What tests of several rooms share: a small dataset of all three modalities, and tiny backbones of the real classes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

COLOURS = ("red", "green", "blue", "white", "black", "gold", "pink", "grey")
MODALITIES = ("image", "video", "text")
ROWS = {"train": 8, "valid": 4, "test": 4}


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 conversations: the colour of a picture, the colours of a clip in order, and a question of words only."""
    from latefuse.data.dataset import store_medium, write_dataset

    out, raw = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("raw")
    rows = []
    for modality in MODALITIES:
        for split, count in ROWS.items():
            for number in range(count):
                media, question, answer = _row(modality, number, ROWS_BEFORE[split], raw)
                stored = [{"modality": modality, "path": store_medium(out, path)} for path in media]
                rows.append(
                    {
                        "id": f"{modality}-{split}-{number}",
                        "modality": modality,
                        "topic": modality,
                        "item": f"item-{split}-{number}",
                        "media": stored,
                        "turns": [{"role": "user", "text": question}, {"role": "assistant", "text": answer}],
                        "truth": json.dumps({"answer": answer}),
                        "split_item": split,
                    }
                )
    write_dataset(out, {"conversations": rows}, source="small")
    return out


ROWS_BEFORE = {"train": 0, "valid": 3, "test": 5}


def _row(modality: str, number: int, shift: int, raw: Path) -> tuple[list[Path], str, str]:
    from PIL import Image

    here = [COLOURS[(number + shift + k) % len(COLOURS)] for k in range(4)]
    side = 32 + 2 * shift + number
    if modality == "text":
        return [], f"Which colour comes before {here[0]}?", here[3]
    frames = [Image.new("RGB", (side, side), colour) for colour in here]
    if modality == "image":
        path = raw / f"{shift}-{number}.png"
        frames[0].save(path)
        return [path], "<image>\nWhich colour?", here[0]
    path = raw / f"{shift}-{number}.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return [path], "<video>\nWhich colours, in order?", ", ".join(here[:2])


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a tiny random backbone, made once a family and seed."""
    made: dict[tuple[str, int], Path] = {}

    def folder(family: str = "video_llava", seed: int = 0) -> Path:
        from latefuse.models.tiny_random import random_backbone

        if (family, seed) not in made:
            made[family, seed] = random_backbone(tmp_path_factory.mktemp(family), family, seed)
        return made[family, seed]

    return folder


@pytest.fixture
def fresh_backbone(backbone_folder: Callable[..., Path]) -> Callable[..., Any]:
    """A backbone as loaded from its folder, without adapters."""

    def load(family: str = "video_llava", seed: int = 0) -> Any:
        from latefuse.models.backbone import load as load_backbone

        return load_backbone(backbone_folder(family, seed))

    return load
