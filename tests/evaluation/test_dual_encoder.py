"""Similarity of picture and text: the ridge map against scikit-learn by hand, a CLIP model against its own forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from latefuse.evaluation.dual_encoder import DualEncoder, ridge_similarity
from latefuse.models.folder import BackboneError
from latefuse.models.tiny_tokenizer import kitchen_tokenizer


def test_a_linear_world_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    pictures, world = torch.randn(300, 12, generator=draw), torch.randn(12, 6, generator=draw)
    texts = pictures @ world + 0.01 * torch.randn(300, 6, generator=draw)
    score = ridge_similarity(pictures[:200], texts[:200])
    right = score(pictures[200:], texts[200:])
    wrong = score(pictures[200:], texts[200:].roll(1, 0))
    assert right.min() > 0.99
    assert wrong.mean() < 0.3
    middle, scale = pictures[:200].mean(0), pictures[:200].std(0, correction=0)
    plain = Ridge(1e-2).fit(((pictures[:200] - middle) / scale).numpy(), (texts[:200] - texts[:200].mean(0)).numpy())
    mapped = torch.from_numpy(plain.predict(((pictures[200:] - middle) / scale).numpy()))
    cosine = torch.cosine_similarity(mapped, texts[200:] - texts[:200].mean(0))
    assert right == pytest.approx(cosine.numpy(), abs=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, tokenizer = tmp_path_factory.mktemp("clip"), kitchen_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 12,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(0)
    vision = {**shape, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(out)
    image = CLIPImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image, tokenizer).save_pretrained(out)
    return out


def test_a_clip_model_scores_by_its_own_cosine(folder: Path) -> None:
    shown = [Image.new("RGB", (20, 30), colour) for colour in ("red", "green", "blue")]
    texts = ["red food", "a dish with green food and a bowl plate and more than it reads of it", ""]
    found = DualEncoder(folder).similarity(shown, texts)
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    inputs = processor(
        text=texts, images=shown, return_tensors="pt", padding="max_length", truncation=True, max_length=12
    )
    with torch.no_grad():
        scale = model.logit_scale.exp().item()
        expected = model(**inputs).logits_per_image.diagonal() / scale
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert len(np.unique(found.round(6))) == 3
    assert len(DualEncoder(folder).similarity([], [])) == 0


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no config\.json"):
        DualEncoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(BackboneError, match="safetensors"):
        DualEncoder(tmp_path)
