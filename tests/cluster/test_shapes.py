"""Counts from a configuration against the real classes, built without memory from the same configuration."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from latefuse.cluster.shapes import UnknownShapes, shapes_of
from latefuse.models import backbone as backbones
from latefuse.models.families import FAMILIES
from latefuse.models.tensors import model_class
from latefuse.models.tiny_random import CONFIGS, FRAMES, random_backbone

PUBLISHED = json.loads(Path("configs/backbones.json").read_text())
KNOWN = ("video_llava", "llava", "llava_onevision", "llama")


def on_paper(config):
    """The real class of a configuration, its tensors without memory."""
    family = FAMILIES[config["model_type"]]
    raw = {key: value for key, value in config.items() if key not in ("source", "model_type")}
    made = transformers.AutoConfig.for_model(config["model_type"], **raw)
    with torch.device("meta"):
        return model_class(family)(made)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_backbones_have_exactly_as_many_parameters(name):
    config = PUBLISHED[name]
    assert config["source"].startswith("https://huggingface.co/" + name)
    model = on_paper(config)
    assert shapes_of(config).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_7b_is_what_its_card_says():
    """Numbers of the model cards: 7.24 G for Llama's 32-layer kind with grouped attention, 8.03 G, 7.62 G."""
    sizes = {name: shapes_of(config).parameters / 1e9 for name, config in PUBLISHED.items()}
    assert sizes["mistralai/Mistral-7B-Instruct-v0.3"] == pytest.approx(7.25, abs=0.01)
    assert sizes["meta-llama/Llama-3.1-8B-Instruct"] == pytest.approx(8.03, abs=0.01)
    assert sizes["Qwen/Qwen2.5-7B-Instruct"] == pytest.approx(7.62, abs=0.01)
    assert sizes["Qwen/Qwen3-8B"] == pytest.approx(8.19, abs=0.01)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    made = {}

    def open_(family):
        if family not in made:
            made[family] = random_backbone(tmp_path_factory.mktemp(family), family)
        return made[family], backbones.load(made[family])

    return open_


@pytest.mark.parametrize("family", KNOWN)
def test_tiny_ones_agree_with_their_own_folders(family, tiny):
    folder, base = tiny(family)
    shapes = shapes_of(json.loads((folder / "config.json").read_text()))
    assert shapes.parameters == sum(parameter.numel() for parameter in base.model.parameters())
    for modality in base.modalities:
        expected = 0 if modality == "text" else len(base.placeholder_ids(modality))
        assert shapes.tokens(modality, FRAMES) == expected


@pytest.mark.parametrize("family", KNOWN)
def test_layers_are_those_that_carry_lora(family, tiny):
    folder, base = tiny(family)
    shapes = shapes_of(json.loads((folder / "config.json").read_text()))
    parts = base.parts()
    widths = {part: [base.model.get_submodule(name) for name in names] for part, names in parts.items()}
    found = {part: sorted((one.in_features, one.out_features) for one in ones) for part, ones in widths.items()}
    assert found["language"] == sorted(shapes.language.linears * shapes.language.layers)
    assert found["bridge"] == sorted(shapes.bridge)
    for modality in set(base.modalities) - {"text"}:
        assert found[f"tower.{modality}"] == sorted(shapes.tower.linears * shapes.tower.used)


def test_what_is_not_known_is_refused():
    for family in set(CONFIGS) - set(KNOWN):
        with pytest.raises(UnknownShapes, match="known: video_llava"):
            shapes_of(CONFIGS[family](300).to_dict())
    with pytest.raises(UnknownShapes, match="gpt2"):
        shapes_of({"model_type": "llava", "vision_feature_layer": -2, "text_config": {"model_type": "gpt2"},
                   "vision_config": PUBLISHED["llava-hf/llava-1.5-7b-hf"]["vision_config"]})  # fmt: skip
    with pytest.raises(UnknownShapes, match="biases"):
        shapes_of({**PUBLISHED["Qwen/Qwen3-8B"], "attention_bias": True})
    with pytest.raises(UnknownShapes, match="does not read video"):
        shapes_of(PUBLISHED["llava-hf/llava-1.5-7b-hf"]).tokens("video", 8)
