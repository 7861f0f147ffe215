"""The classifier's words against its own logits; labels and weights that can't be used are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import MobileNetV2ForImageClassification

from latefuse.config_data import MediaLimits
from latefuse.config_rank import Reader
from latefuse.data.errors import DataError
from latefuse.data.readings import classifier
from latefuse.data.readings.classifier import Classifier
from latefuse.data.readings.request import Request
from latefuse.models.folder import BackboneError
from latefuse.models.towers import default_transform

LABELS = ["red soup", "green rice", "blue tart", "white roll"]


def maker(folder: Path, words: int = 40, **options: Any) -> Classifier:
    reader = Reader(by="classifier", model=str(folder), **options)
    return Classifier(reader, words, "data.readings.pictures", MediaLimits())


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_labels_stand_in_the_order_of_the_logits(
    batch: int, classifier_folder: Callable[..., Path], pictures: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "BATCH", batch)
    folder = classifier_folder()
    one = maker(folder)
    told = dict(one.make(pictures))
    model = MobileNetV2ForImageClassification.from_pretrained(folder).eval()
    transform = default_transform(model.config)
    for place, request in enumerate(pictures):
        pixels = transform([Image.open(str(request.picture)).convert("RGB")], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            shares = model(pixels).logits.softmax(-1)[0]
        likely = [label for label in shares.argsort(descending=True).tolist() if shares[label] > 1 / 4]
        assert told[place] == ", ".join(LABELS[label] for label in likely)
    assert len(set(told.values())) > 1, "the pictures differ"
    assert one.calls == 5
    assert one.name.startswith(f"classifier {folder.name}@")


def test_as_many_labels_as_words_allow_and_one_at_least(classifier_folder: Callable[..., Path]) -> None:
    folder = classifier_folder()
    assert maker(folder, 4)._told([0.3, 0.26, 0.4, 0.04]) == "blue tart, red soup"
    assert maker(folder, 1)._told([0.3, 0.26, 0.4, 0.04]) == "blue tart"
    assert maker(folder, 40)._told([0.25, 0.25, 0.25, 0.25]) == "red soup", "of equal ones the first; no more by chance"


def test_labels_out_of_a_file(classifier_folder: Callable[..., Path], tmp_path: Path, monkeypatch: Any) -> None:
    nameless = classifier_folder(None)
    with pytest.raises(DataError, match=r"no words for its 4 classes .* data\.readings\.pictures\.labels"):
        maker(nameless)
    file = tmp_path / "labels.txt"
    monkeypatch.setenv("SHELF", str(tmp_path))
    for text in ("\n".join(LABELS), "".join(f"  {place}  {label}\n" for place, label in enumerate(LABELS))):
        file.write_text(text)
        assert maker(nameless, labels="$SHELF/labels.txt").labels == LABELS
    file.write_text("7 up\nred soup\nfanta\n2 cakes")
    one = maker(nameless, labels=str(file))
    assert one.labels[0] == "7 up", "numbers that are no order belong to the label"
    file.write_text("\n".join(LABELS))
    assert maker(nameless, labels=str(file)).method != one.method
    file.write_text("one\ntwo")
    with pytest.raises(DataError, match=r"labels\.txt: 2 labels, the classifier has 4 classes"):
        maker(nameless, labels=str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        maker(nameless, labels=str(file))
    with pytest.raises(DataError, match=r"labels: no file .*nothing\.txt"):
        maker(nameless, labels=str(tmp_path / "nothing.txt"))


def test_a_folder_without_safetensors_or_with_a_torn_head(
    classifier_folder: Callable[..., Path], pictures: list[Request], tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match="no such folder"):
        maker(tmp_path / "nowhere")
    with pytest.raises(BackboneError, match=r"config\.json"):
        maker(tmp_path)
    from safetensors.torch import load_file, save_file

    folder = classifier_folder()
    weights = load_file(folder / "model.safetensors")
    weights.pop("classifier.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=r"classifier\.weight"):
        list(maker(folder).make(pictures))
