"""What tests of several rooms share: small datasets of all three modalities, tiny backbones of the real classes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
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


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """Ctrl-C reaches the processes that a test starts: pytest-xdist, like a shell's &, hands SIGINT down as ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


DISHES = ("red rice", "green soup", "blue tart", "white roll", "black stew", "gold cake")


@pytest.fixture(scope="session")
def dishes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items that have a name, a picture, a clip and a text: each modality is asked for the name, and text for a colour.

    Of the six validation items one lacks its clip's row and one has an absent picture, as has one of the test.
    """
    from latefuse.data.dataset import store_medium, write_dataset

    out, raw = tmp_path_factory.mktemp("dishes"), tmp_path_factory.mktemp("raw")
    rows: list[dict[str, Any]] = []
    for shift, split in enumerate(("train", "valid", "test")):
        for number, name in enumerate(DISHES):
            item = f"{split}-{number}"
            for modality in MODALITIES:
                media, _, _ = _row(modality, number, shift, raw)
                stored = [{"modality": modality, "path": store_medium(out, path)} for path in media]
                if (split, number, modality) in (("valid", 1, "image"), ("test", 4, "image")):
                    stored = [{"modality": "image", "path": ""}]
                if (split, number, modality) == ("valid", 2, "video"):
                    continue
                question = {"image": "<image> name?", "video": "<video> name?", "text": f"card {number}{shift} name?"}
                asked = question[modality]
                rows.append(_named(f"{item}-{modality}", modality, "dish", item, stored, asked, name, split))
            colour = name.split()[0]
            rows.append(_named(f"{item}-colour", "text", "colour", item, [], f"card {number} colour?", colour, split))
    write_dataset(out, {"conversations": rows}, source="dishes")
    return out


def _named(
    row: str, modality: str, topic: str, item: str, media: list[dict[str, str]], question: str, answer: str, split: str
) -> dict[str, Any]:
    turns = [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]
    truth = {"name": answer, "names": "dish"} if topic == "dish" else {"answer": answer}
    return {
        "id": row, "modality": modality, "topic": topic, "item": item, "media": media, "turns": turns,
        "truth": json.dumps(truth), "split_item": split,
    }  # fmt: skip


@pytest.fixture
def make_finetuned(fresh_backbone: Callable[..., Any], dishes: Path, tmp_path: Path) -> Callable[..., Path]:
    """`make(task, modality, seed, **AdapterConfig)` -> a folder as `finetune` writes it, with random weights."""

    def make(task: str, modality: str, seed: int = 0, **options: Any) -> Path:
        import torch

        from latefuse.config import AdapterConfig
        from latefuse.data.dataset import Dataset
        from latefuse.models import adapters

        backbone = fresh_backbone()
        peft = adapters.attach(backbone, AdapterConfig(**{"r": 4, "alpha": 8, **options}), modality, seed)
        generator = torch.Generator().manual_seed(seed + 100 * len(task))
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                scale = 0.2 if "lora_B" in name else 0.02
                parameter.data += scale * torch.randn(parameter.shape, generator=generator)
        card = adapters.AdapterCard(
            task=task, modality=modality, arm=task, seed=seed, backbone_digest=backbone.digest,
            config_digest="c", data_fingerprint=Dataset(dishes).fingerprint,
        )  # fmt: skip
        folder = tmp_path / "finetuned" / f"{task}-{seed}"
        adapters.save(peft, folder / "adapter", card)
        return folder

    return make


ABSENT_PICTURE, ABSENT_WORDS, NOTHING = "item-03", "item-04", "item-59"


@pytest.fixture(scope="session")
def shop_items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 items in groups of five that share the colour of their picture; words say nothing of it.

    Pairs link the items of a group: 6 groups train, 2 valid, 4 test, by item; by pair, one in four is test. One item
    has no picture, one no words, one nothing at all.
    """
    from PIL import Image

    from latefuse.data.dataset import store_medium, write_dataset

    out, raw = tmp_path_factory.mktemp("shop"), tmp_path_factory.mktemp("raw-shop")
    items, pairs = [], []
    for number in range(60):
        key, group = f"item-{number:02d}", number // 5
        colour = (37 * group % 256, 91 * group % 256, 151 * group % 256)
        picture = raw / f"{key}.png"
        Image.new("RGB", (20 + number, 24), colour).save(picture)
        frames = [Image.new("RGB", (20, 20 + number), colour) for _ in range(4)]
        clip = raw / f"{key}.gif"
        frames[0].save(clip, save_all=True, append_images=frames[1:])
        split = "train" if group < 6 else "valid" if group < 8 else "test"
        bare, mute = key in (ABSENT_PICTURE, NOTHING), key in (ABSENT_WORDS, NOTHING)
        items.append(
            {
                "id": key,
                "number": number,
                "title": "" if mute else f"thing {number}",
                "text": "" if mute else f"a {('thing', 'toy')[number % 2]} of wood #nice" + " indeed" * (number % 7),
                "attributes": json.dumps({"size": number % 3, "tags": ["old", "new"]}),
                "images": [] if bare else [store_medium(out, picture)],
                "videos": [] if bare else [store_medium(out, clip)],
                "split_item": split,
            }
        )
        for other in range(5 * group, 5 * group + 5):
            if other != number:
                a, b = f"item-{number:02d}", f"item-{other:02d}"
                by_pair = "test" if (number + other) % 4 == 0 else "train"
                pairs.append({"a": a, "b": b, "weight": 1.0, "split_pair": by_pair, "split_item": split})
    write_dataset(out, {"items": items, "pairs": pairs}, source="shop")
    return out


SQUARES = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (30, 60, 220), "grey": (128, 128, 128)}


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two tasks over coloured squares: does the text name the colour (`fits`), or does it not (`differs`)?"""
    from PIL import Image

    from latefuse.data.dataset import store_medium, write_dataset

    out, raw = tmp_path_factory.mktemp("judged"), tmp_path_factory.mktemp("squares")
    rows = []
    for number in range(48):
        colour = list(SQUARES)[number % 4]
        picture = raw / f"{number}.png"
        Image.new("RGB", (16 + number, 16), SQUARES[colour]).save(picture)
        split = "train" if number < 32 else "valid" if number < 40 else "test"
        stored = "" if number == 46 else store_medium(out, picture)
        for task in ("fits", "differs"):
            told = list(SQUARES)[(number + (number // 4) % 2) % 4]
            rows.append(
                {
                    "id": f"{task}-{number}", "task": task, "image": stored, "item": f"item-{number}",
                    "instruction": f"relevant where the text {task} .", "text": f"{number} is {told}",
                    "label": (told == colour) == (task == "fits"), "negative": "", "split_item": split,
                }
            )  # fmt: skip
    return write_dataset(out, {"judgements": rows}, source="squares")
