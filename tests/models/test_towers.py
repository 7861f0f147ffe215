"""Towers of several kinds as one: tokens with the one that sums up first, and the transform each comes with."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    LlamaConfig,
    MobileNetV1Config,
    MobileNetV2Config,
    ResNetConfig,
    SiglipVisionConfig,
    ViTConfig,
)

from latefuse.models.folder import BackboneError
from latefuse.models.towers import default_transform, has_cls, look, probe, sized, transform

SMALL = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {**SMALL, "image_size": 32, "patch_size": 16}
TOWERS = {
    "clip": (CLIPVisionConfig(**SQUARE), True, (5, 24)),
    "dinov2": (Dinov2Config(**SQUARE), True, (5, 24)),
    "vit": (ViTConfig(**SQUARE), True, (5, 24)),
    "siglip": (SiglipVisionConfig(**SQUARE), False, (5, 24)),
    "siglip without a head": (SiglipVisionConfig(**SQUARE, vision_use_head=False), False, (5, 24)),
    "mobilenet_v1": (MobileNetV1Config(image_size=64, depth_multiplier=0.25), False, (5, 256)),
    "mobilenet_v2": (MobileNetV2Config(image_size=64, depth_multiplier=0.1, finegrained_output=False), False, (5, 128)),
    "resnet": (ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), False, (50, 16)),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], image_size=64), False, (5, 16)),
}


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    made = {name: AutoModel.from_config(config).eval() for name, (config, _, _) in TOWERS.items()}
    return {name: tower.requires_grad_(False) for name, tower in made.items()}


@pytest.mark.parametrize("name", TOWERS)
def test_the_first_token_sums_up_and_patches_follow(name, towers):
    tower, (_, cls, _) = towers[name], TOWERS[name]
    side = 56 if name == "resnet" else getattr(tower.config, "image_size", 64)
    pixels = torch.randn(2, 3, side, side)
    seen, out = look(tower, pixels), tower(pixels)
    assert has_cls(tower) == cls
    states = out.last_hidden_state
    if cls:
        assert torch.equal(seen, states)
        return
    if states.dim() == 4:
        rows, columns = states.shape[2:]
        by_hand = torch.stack([states[:, :, row, column] for row in range(rows) for column in range(columns)], 1)
    else:
        by_hand = states
    torch.testing.assert_close(seen[:, 1:], by_hand)
    pooled = out.pooler_output
    whole = by_hand.mean(1) if pooled is None else pooled.reshape(2, -1)
    torch.testing.assert_close(seen[:, 0], whole)


@pytest.mark.parametrize("name", [name for name in TOWERS if name != "resnet"])
def test_a_probe_tells_the_tokens_of_every_picture(name, towers):
    tower = towers[name]
    assert probe(tower, default_transform(tower.config), name) == TOWERS[name][2]


def test_a_side_makes_any_picture_that_square(towers):
    processor = default_transform(towers["resnet"].config, side=56)
    assert processor([Image.new("RGB", (90, 40))], return_tensors="pt")["pixel_values"].shape == (1, 3, 56, 56)
    assert probe(towers["resnet"], processor, "resnet") == (1 + (56 // 8) ** 2, 16)


def test_the_centre_keeps_its_share():
    """MobileNetV2's own transform scales the short edge to 256 and cuts 224 out; at 112 px that is 128 and 112."""
    processor = default_transform(MobileNetV2Config(), side=112)
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (128, 112)
    assert list(processor.image_mean) == list(processor.image_std) == [0.5] * 3
    own = default_transform(MobileNetV2Config(image_size=224))
    assert (own.size["shortest_edge"], own.crop_size["height"]) == (256, 224)
    again = sized(processor, 224)
    assert again.to_dict() == own.to_dict()


def test_a_folder_s_own_transform_comes_first(tmp_path):
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40}).save_pretrained(tmp_path)
    config = CLIPVisionConfig(**SQUARE)
    assert transform(tmp_path, config, None).crop_size["height"] == 40
    assert transform(tmp_path, config, 32).crop_size["height"] == 32
    bare = tmp_path / "bare"
    bare.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    ours = transform(bare, config, None)
    assert torch.equal(*(p([picture], return_tensors="pt")["pixel_values"] for p in (ours, theirs)))


def test_what_does_not_fit_is_refused(towers, tmp_path):
    loose = CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False)
    with pytest.raises(BackboneError, match=r"of a wide picture.*set backbone\.options\.side"):
        probe(towers["mobilenet_v2"], loose, "somewhere")
    with pytest.raises(BackboneError, match=r"can't take pictures of .*64, 64.* pixels"):
        probe(towers["clip"], default_transform(towers["clip"].config, side=64), "somewhere")
    with pytest.raises(BackboneError, match="no known picture transform for a tower of type 'llama'"):
        transform(tmp_path, LlamaConfig(), None)
