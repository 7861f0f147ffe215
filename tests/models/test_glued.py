"""Tower, bridge and language model as one: against the parts put together by hand, and what is trained of it."""

import pytest
import torch
from transformers import AutoConfig, CLIPVisionModel, LlamaForCausalLM

from latefuse.config import AdapterConfig
from latefuse.models import adapters, backbone
from latefuse.models.adapters import AdapterCard
from latefuse.models.backbone import MediaBatch
from latefuse.models.folder import digest
from latefuse.models.glued import GluedConfig, GluedForConditionalGeneration
from latefuse.models.tiny_random import FRAMES, IDS, random_backbone

GLUED = ["glued_mlp", "glued_qformer", "glued_conv"]
TOKENS = {"glued_mlp": 5, "glued_qformer": 3, "glued_conv": 3}


def awake(base):
    """Queries that differ, as after some training."""
    for name, parameter in base.model.named_parameters():
        if name.endswith("query_tokens"):
            generator = torch.Generator().manual_seed(0)
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return base


@pytest.mark.parametrize("family", ["glued_mlp", "glued_qformer"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_hidden_states_are_those_of_the_parts_put_together_by_hand(family, modality, fresh, prompt, media):
    """Tower and language model as models of their own, with the same weights, and one row at a time."""
    base, inner = awake(fresh(family)), awake(fresh(family)).inner
    tower = CLIPVisionModel(inner.config.vision_config).eval()
    tower.load_state_dict(inner.vision_tower.state_dict())
    language = LlamaForCausalLM(inner.config.text_config).eval()
    language.model.load_state_dict(inner.language_model.state_dict())
    language.lm_head.load_state_dict(base.model.lm_head.state_dict())
    ids, mask = prompt(base, modality, ["a dish", "what?!"])
    batch = media(base, modality, 2)
    with torch.no_grad():
        ours = base.hidden(ids, mask, batch)
        for row, pixels in enumerate(dict(batch.items())[modality]):
            frames = pixels.unsqueeze(0) if modality == "image" else pixels
            seen = torch.cat([inner.bridge(tower(frame.unsqueeze(0)).last_hidden_state)[0] for frame in frames])
            words = language.model.embed_tokens(ids[row, len(seen) :])
            whole = language.model(inputs_embeds=torch.cat([seen, words]).unsqueeze(0)).last_hidden_state[0]
            length = int(mask[row].sum())
            torch.testing.assert_close(ours[row, :length], whole[:length], rtol=0, atol=1e-5)
            logits = language.lm_head(whole[:length])
            torch.testing.assert_close(base.logits(ours[row, :length]), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", GLUED)
def test_a_medium_takes_the_tokens_that_the_bridge_makes(family, fresh, prompt, media):
    base = fresh(family)
    assert base.placeholder_ids("image") == [IDS["<image>"]] * TOKENS[family]
    assert base.placeholder_ids("video") == [IDS["<video>"]] * TOKENS[family] * FRAMES
    for modality in ("image", "video"):
        (_, vectors), *_ = base.embed_media(media(base, modality, 2))
        assert vectors.shape == (2, len(base.placeholder_ids(modality)), 32)


@pytest.mark.parametrize("family", GLUED)
def test_a_clip_goes_through_frame_by_frame(family, fresh, pictures):
    base = awake(fresh(family))
    clip = MediaBatch(video=base.pixels(pictures[:FRAMES], "video"))
    single = MediaBatch(image=base.pixels(pictures[:FRAMES], "image"))
    features = base.encode_media(single.image, "image")
    torch.testing.assert_close(
        base.encode_media(clip.video, "video").reshape(features.shape), features, rtol=1e-5, atol=1e-5
    )
    (_, of_clip), (_, of_frames) = *base.embed_media(clip), *base.embed_media(single)
    torch.testing.assert_close(of_clip[0], of_frames.flatten(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", GLUED)
def test_the_tower_gets_no_gradient_and_no_new_statistics(family, fresh, prompt, media):
    base = awake(fresh(family))
    base.model.get_submodule("model.bridge").requires_grad_(True)
    tower = base.inner.vision_tower
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    base.model.train()
    assert not any(module.training for module in tower.modules())
    assert base.inner.bridge.training
    batch = media(base, "image", 2)
    base.hidden(*prompt(base, "image", ["a", "b"]), batch).square().sum().backward()
    assert all(p.grad is None for p in tower.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in base.inner.bridge.parameters())
    assert any(p.grad.any() for p in base.inner.bridge.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())


@pytest.mark.parametrize("family", GLUED)
def test_the_folder_gives_the_same_model_again(family, fresh, backbone_folder, tmp_path, prompt, media):
    folder, base = backbone_folder(family), fresh(family)
    assert base.digest == digest(folder) == digest(random_backbone(tmp_path / "again", family))
    assert base.digest != digest(random_backbone(tmp_path / "other", family, seed=1))
    assert isinstance(AutoConfig.from_pretrained(folder, local_files_only=True), GluedConfig)
    loaded = GluedForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    own, again = base.model.state_dict(), loaded.state_dict()
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)
    tied = base.model.lm_head.weight is base.model.get_input_embeddings().weight
    assert tied == (family == "glued_conv")
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


def test_queries_start_at_zero(fresh):
    assert not fresh("glued_qformer").inner.bridge.query_tokens.any()


def card(base):
    fixed = {"arm": "t", "seed": 0, "config_digest": "c", "data_fingerprint": "d"}
    return AdapterCard(task="t", modality="image", backbone_digest=base.digest, **fixed)


@pytest.mark.parametrize("family", GLUED)
def test_the_bridge_is_trained_whole_beside_lora(family, fresh, prompt, media, tmp_path):
    base = fresh(family)
    ids, mask = prompt(base, "image", ["a dish", "soup"])
    batch = media(base, "image", 2)
    with torch.no_grad():
        untouched = base.hidden(ids, mask, batch)
    peft = adapters.attach(base, AdapterConfig(r=2, bridge_full=True), "image", seed=0)
    trained = {name for name, parameter in base.model.named_parameters() if parameter.requires_grad}
    assert {name.split(".lora_")[0].split(".modules_to_save")[0] for name in trained} == {
        "model.bridge",
        *base.parts()["language"],
    }
    torch.testing.assert_close(base.hidden(ids, mask, batch), untouched, rtol=0, atol=1e-6)
    optimiser = torch.optim.AdamW([p for p in base.model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        base.hidden(ids, mask, batch).square().mean().backward()
        if not step:
            assert min(adapters.gradient_norms(base)[part] for part in ("bridge", "language")) > 0
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        learned = base.hidden(ids, mask, batch)
    assert (learned - untouched).abs().max() > 1e-3
    saved = adapters.save(peft, tmp_path / "adapter", card(base))
    assert saved.modules_to_save == ("model.bridge",)
    other = fresh(family)
    adapters.load(other, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(other.hidden(ids, mask, batch), learned, rtol=0, atol=1e-6)
        adapters.detach(other)
        torch.testing.assert_close(other.hidden(ids, mask, batch), untouched, rtol=0, atol=1e-6)


def test_attention_can_be_read(fresh, prompt, media):
    """As the flow of saliency needs it: with gradient, in the slow implementation, the same numbers."""
    base = awake(fresh("glued_qformer"))
    ids, mask = prompt(base, "image", ["abc"])
    batch = media(base, "image", 1)
    with torch.no_grad():
        fast = base.hidden(ids, mask, batch)
    base.model.set_attn_implementation("eager")
    inputs = base._feed(ids, batch)
    out = base.inner(**inputs, attention_mask=mask, output_attentions=True)
    torch.testing.assert_close(out.last_hidden_state, fast, rtol=0, atol=1e-5)
    assert [attention.shape for attention in out.attentions] == [(1, 2, ids.shape[1], ids.shape[1])] * 2


def test_checkpointing_changes_no_gradient(fresh, prompt, media):
    gradients = []
    for checkpointing in (False, True):
        base = awake(fresh("glued_qformer"))
        if checkpointing:
            base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.inner.bridge.requires_grad_(True)
        base.model.train()
        base.hidden(*prompt(base, "image", ["abc"]), media(base, "image", 1)).square().sum().backward()
        gradients.append(base.inner.bridge.query_tokens.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_marks_stand_before_each_frame(tmp_path, fresh):
    from latefuse.models.folder import seal

    folder = random_backbone(tmp_path / "marked", "glued_qformer")
    seal(folder, name="marked", frames=2, frame_marks=["1", "2"])
    base = backbone.load(folder)
    one, two = base.tokenizer.convert_tokens_to_ids(["1", "2"])
    video = [IDS["<video>"]] * 3
    assert base.placeholder_ids("video") == [one, *video, two, *video]
