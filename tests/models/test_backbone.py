"""One interface over all families, held against each model's own forward."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, DynamicCache, Qwen2VLImageProcessorPil

from latefuse.models import backbone
from latefuse.models.backbone import BackboneError, MediaBatch, load_placed
from latefuse.models.families import FAMILIES
from latefuse.models.folder import SEAL, digest, seal
from latefuse.models.tensors import check_tensors
from latefuse.models.tiny_random import COMPOSED, CONFIGS, FRAMES, IDS, random_backbone, row_of

GLUED = [family for family in COMPOSED if row_of(family).kind == "glued"]
WHOLE = [(family, modality) for family in CONFIGS for modality in FAMILIES[family].modalities]
CASES = [*WHOLE, *((family, modality) for family in GLUED for modality in row_of(family).modalities)]
CACHEABLE = [(f, m) for f, m in CASES if row_of(f).cacheable and m != "text"]
SEEING = [(f, m) for f in (*CONFIGS, *COMPOSED) for m in row_of(f).modalities if m != "text"]


def own_inputs(base, modality, ids, batch):
    """What each model's own forward takes for the same media: from the library's signatures, not from ours."""
    pixels = dict(batch.items())[modality] if batch else None
    family = base.model.config.model_type
    if pixels is None:
        return {}
    if family == "smolvlm":
        return {"pixel_values": pixels.reshape(len(ids), -1, *pixels.shape[-3:])}
    if family.startswith("qwen"):
        steps = 1 if modality == "image" else FRAMES // 2
        token = IDS["<image>"] if modality == "image" else IDS["<video>"]
        return {
            "pixel_values" if modality == "image" else "pixel_values_videos": pixels.flatten(0, 1),
            f"{modality}_grid_thw": torch.tensor([[steps, 4, 4]] * len(pixels)),
            "mm_token_type_ids": (ids == token).long() * (1 if modality == "image" else 2),
        }
    if family == "llava_onevision" and modality == "image":
        # two pictures in one row are the model's own case without tiles
        return {"pixel_values": pixels, "image_sizes": torch.tensor([[40, 50]] * 2), "batch_num_images": [2]}
    return {"pixel_values" if modality == "image" else "pixel_values_videos": pixels}


@pytest.mark.parametrize(("family", "modality"), WHOLE)
def test_logits_equal_the_models_own_forward(family, modality, fresh, prompt, media):
    base = fresh(family)
    batch = media(base, modality, 2)
    ids, mask = prompt(base, modality, ["a dish", "what?!"])
    if (family, modality) == ("llava_onevision", "image"):
        ids = torch.cat([ids[0], ids[1]]).unsqueeze(0)
        mask = torch.ones_like(ids)
    with torch.no_grad():
        own = base.model(input_ids=ids, attention_mask=mask, **own_inputs(base, modality, ids, batch)).logits
        ours = base.logits(base.hidden(ids, mask, batch))
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "modality"), CACHEABLE)
def test_features_enter_like_pixels(family, modality, fresh, prompt, media):
    base = fresh(family)
    pixels = media(base, modality, 2)
    features = base.encode_media(dict(pixels.items())[modality], modality)
    ids, mask = prompt(base, modality, ["abc", "de"])
    with torch.no_grad():
        from_pixels = base.hidden(ids, mask, pixels)
        from_features = base.hidden(ids, mask, MediaBatch(**{modality: features}, kind="features"))
        other = base.hidden(ids, mask, MediaBatch(**{modality: features.flip(0)}, kind="features"))
    assert torch.equal(from_pixels, from_features)
    assert features.shape[0] == 2
    assert not features.requires_grad
    assert (from_features - other)[mask.bool()].abs().max() > 1e-3, "the media make no difference"


def test_picture_and_clip_in_one_batch(fresh, prompt, media):
    base = fresh("video_llava")
    image, video = media(base, "image", 1), media(base, "video", 1)
    rows = [prompt(base, m, ["x"])[0][0] for m in ("image", "video")]
    ids = torch.cat(rows).unsqueeze(0)
    batch = MediaBatch(image=image.image, video=video.video)
    with torch.no_grad():
        own = base.inner(input_ids=ids, pixel_values=image.image, pixel_values_videos=video.video).last_hidden_state
        torch.testing.assert_close(base.hidden(ids, torch.ones_like(ids), batch), own, rtol=0, atol=1e-6)
    smol = fresh("smolvlm")
    both = MediaBatch(image=media(smol, "image", 1).image, video=media(smol, "video", 1).video)
    ids, mask = prompt(smol, "image", ["x"])
    with pytest.raises(ValueError, match="share a placeholder"):
        smol.hidden(ids, mask, both)


@pytest.mark.parametrize(("family", "modality"), CASES)
def test_the_side_of_the_padding_does_not_matter(family, modality, fresh, prompt, media):
    base = fresh(family)
    batch = media(base, modality, 2)
    texts = ["short", "a much longer text"]
    states = []
    for left in (False, True):
        ids, mask = prompt(base, modality, texts, left=left)
        with torch.no_grad():
            hidden = base.hidden(ids, mask, batch)
        states.append([row[m.bool()] for row, m in zip(hidden, mask, strict=True)])
    for right, left in zip(*states, strict=True):
        torch.testing.assert_close(right, left, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("family", "modality"), CASES)
def test_two_caches_continue_side_by_side(family, modality, fresh, prompt, media):
    """Each cache continues its own rows as if all of it had been computed at once."""
    base = fresh(family)
    runs = []
    for kind, texts in ((modality, ["one", "three"]), ("text", ["a long beginning", "b"])):
        batch = media(base, kind, 2)
        ids, mask = prompt(base, kind, texts, left=True)
        cache = DynamicCache()
        with torch.no_grad():
            base.hidden(ids, mask, batch, past_key_values=cache)
        runs.append((ids, mask, batch, cache))
    more = torch.tensor([[70, 71], [72, 73]])
    for ids, mask, batch, cache in runs:
        whole_mask = torch.cat([mask, torch.ones_like(more)], dim=1)
        with torch.no_grad():
            step = base.hidden(more, whole_mask, past_key_values=cache)
            whole = base.hidden(torch.cat([ids, more], dim=1), whole_mask, batch)[:, -2:]
        torch.testing.assert_close(step, whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("family", "modality"), CASES)
def test_generation_is_greedy_and_returns_new_tokens_only(family, modality, fresh, prompt, media):
    base = fresh(family)
    batch = media(base, modality, 2)
    ids, mask = prompt(base, modality, ["abcd", "e"], left=True)
    written = base.generate(ids, mask, batch, max_new_tokens=4, eos_token_id=-1)
    by_hand, hand_mask = ids, mask
    for _ in range(4):
        with torch.no_grad():
            best = base.logits(base.hidden(by_hand, hand_mask, batch)[:, -1]).argmax(-1, keepdim=True)
        by_hand = torch.cat([by_hand, best], dim=1)
        hand_mask = torch.cat([hand_mask, torch.ones_like(best)], dim=1)
    assert written.tolist() == by_hand[:, ids.shape[1] :].tolist()
    with pytest.raises(ValueError, match="left"):
        base.generate(*prompt(base, modality, ["abcd", "e"]), batch)


def test_pixels_are_the_library_processors(fresh, pictures):
    base = fresh("video_llava")
    own = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = own(pictures[:4], return_tensors="pt")["pixel_values"]
    assert torch.equal(base.pixels(pictures[:4], "image"), expected)
    assert torch.equal(base.pixels(pictures[:4], "video"), expected.unsqueeze(0))
    assert torch.equal(base.pixels(pictures[:1], "image")[0], base.pixels(pictures[:2], "image")[0])
    with pytest.raises(ValueError, match="multiple of 4"):
        base.pixels(pictures[:3], "video")
    with pytest.raises(ValueError, match="got 0"):
        base.pixels([], "image")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_qwen_patches_against_loops(family, fresh, pictures):
    """A patch is (channel, frame, y, x); patches go block by block of 2 x 2, row by row, step by step."""
    base = fresh(family, frames=3)
    squares = [picture.resize((64, 64), Image.Resampling.BICUBIC) for picture in pictures[:3]]
    mean, std = np.array(base.processor.image_mean), np.array(base.processor.image_std)
    frames = [((np.asarray(s) / 255 - mean) / std).transpose(2, 0, 1) for s in squares]
    frames.append(frames[-1])
    expected = []
    for step in range(2):
        for block_y in range(2):
            for block_x in range(2):
                for y in range(2):
                    for x in range(2):
                        top, left = (block_y * 2 + y) * 16, (block_x * 2 + x) * 16
                        patch = [f[:, top : top + 16, left : left + 16] for f in frames[2 * step : 2 * step + 2]]
                        expected.append(np.stack(patch, axis=1).reshape(-1))
    ours = base.pixels(pictures[:3], "video")
    np.testing.assert_allclose(ours[0].numpy(), np.stack(expected), atol=1e-5)
    own = Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 4096, "longest_edge": 4096})(
        squares[:1], return_tensors="pt"
    )["pixel_values"]
    assert torch.equal(base.pixels(pictures[:1], "image")[0], own)


def test_placeholders_count_the_models_tokens(fresh):
    image, video = IDS["<image>"], IDS["<video>"]
    assert fresh("video_llava").placeholder_ids("image") == [image] * 5
    assert fresh("video_llava").placeholder_ids("video") == [video] * 5 * FRAMES
    assert fresh("llava").placeholder_ids("image") == [image] * 4
    assert fresh("llava_onevision").placeholder_ids("video") == [video] * (4 * FRAMES + 1)
    edge, whole = IDS["<fake_token_around_image>"], IDS["<global-img>"]
    assert fresh("smolvlm").placeholder_ids("image") == [edge, whole, image, image, image, image, edge]
    start, end = IDS["<|vision_start|>"], IDS["<|vision_end|>"]
    assert fresh("qwen2_5_vl", frames=3).placeholder_ids("video") == [start, *[video] * 8, end]
    third = fresh("qwen3_vl")
    assert third.tokenizer.decode(third.placeholder_ids("video")).replace("<video>", "") == (
        "<0.5 seconds><|vision_start|><|vision_end|><2.5 seconds><|vision_start|><|vision_end|>"
    )


def test_a_mark_stands_before_each_frame(tmp_path, backbone_folder, media):
    shutil.copytree(backbone_folder("video_llava"), tmp_path / "marked")
    seal(tmp_path / "marked", name="marked", frames=2, frame_marks=["1", "2", "3"])
    base = backbone.load(tmp_path / "marked")
    one, two = base.tokenizer.convert_tokens_to_ids(["1", "2"])
    video = [IDS["<video>"]] * 5
    assert base.placeholder_ids("video") == [one, *video, two, *video]
    ids = torch.tensor([base.placeholder_ids("video")])
    batch = media(base, "video", 1)
    with torch.no_grad():
        own = base.inner(input_ids=ids, pixel_values_videos=batch.video).last_hidden_state
        torch.testing.assert_close(base.hidden(ids, torch.ones_like(ids), batch), own, rtol=0, atol=1e-6)
    with pytest.raises(BackboneError, match="3 frames only"):
        backbone.load(tmp_path / "marked", frames=4)


@pytest.mark.parametrize("family", ["video_llava", "qwen2_5_vl"])
def test_a_cut_placeholder_is_an_error(family, fresh, prompt, media):
    base = fresh(family)
    ids, mask = prompt(base, "image", ["x"])
    ids[ids == IDS["<image>"]] = torch.tensor([IDS["<image>"]] * (int((ids == IDS["<image>"]).sum()) - 1) + [99])
    with pytest.raises(ValueError, match="every medium needs all of its placeholders"):
        base.hidden(ids, mask, media(base, "image", 1))


def test_what_a_backbone_can_not_read_is_refused(fresh, media, pictures):
    with pytest.raises(BackboneError, match="reads image, text, not 'video'"):
        fresh("llava").placeholder_ids("video")
    with pytest.raises(BackboneError, match="reads text, not 'image'"):
        fresh("llama").pixels(pictures[:1], "image")
    qwen = fresh("qwen2_5_vl")
    pixels = media(qwen, "image", 1).image
    assert qwen.encode_media(pixels, "image").shape == (1, 1, 32)
    ids = torch.tensor([qwen.placeholder_ids("image")])
    with pytest.raises(BackboneError, match="takes pixels, not features"):
        qwen.hidden(ids, torch.ones_like(ids), MediaBatch(image=pixels, kind="features"))


def test_parts_name_what_the_output_depends_on(fresh):
    parts = fresh("video_llava").parts()
    assert set(parts) == {"tower.image", "tower.video", "bridge", "language"}
    assert parts["bridge"] == ["model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"]
    assert len(parts["language"]) == 2 * 7
    assert all(name.startswith("model.image_tower.encoder.layers.") for name in parts["tower.image"])
    # vision_feature_layer=-2: the third of three layers makes nothing that is read
    assert {name.split(".")[4] for name in parts["tower.video"]} == {"0", "1"}
    assert "lm_head" not in {name for names in parts.values() for name in names}
    assert fresh("llama").parts()["bridge"] == []


@pytest.mark.parametrize("family", [*(f for f in CONFIGS if f != "llama"), *GLUED])
def test_every_linear_of_every_part_gets_a_gradient(family, fresh, prompt, media):
    """The table against autograd: nothing that is listed is dead, and nothing alive under a prefix is left out."""
    base = fresh(family)
    for name, parameter in base.model.named_parameters():
        if name.endswith("query_tokens"):
            parameter.data.normal_()  # equal queries, as at the start, have nothing to learn from each other
    base.model.requires_grad_(True)
    alive: set[str] = set()
    for modality in base.modalities[:-1]:
        hidden = base.hidden(*prompt(base, modality, ["abc"]), media(base, modality, 1))
        base.model.zero_grad()
        base.logits(hidden).square().sum().backward()
        named = base.model.named_parameters()
        alive |= {n.removesuffix(".weight") for n, p in named if p.grad is not None and bool(p.grad.any())}
    listed = {name for names in base.parts().values() for name in names}
    assert listed <= alive
    linears = {n for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert (linears & alive) - listed <= {"lm_head"}


@pytest.fixture
def last_states():
    """What the tower of a modality makes of pixels, caught inside the model, (n, frames, tokens, dim)."""

    def catch(base, modality, pixels):
        family, inner = base.model.config.model_type, base.inner
        name = {"smolvlm": "vision_model"}.get(family, "vision_tower")
        tower = getattr(inner, name if family != "video_llava" else f"{modality}_tower", None)
        flat = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
        with torch.no_grad():
            out = tower(flat, output_hidden_states=True)
        states = out.last_hidden_state if family in ("smolvlm", "latefuse_glued", "latefuse_light") else None
        states = out.hidden_states[inner.config.vision_feature_layer] if states is None else states
        if states.dim() == 4:
            return states.flatten(2).transpose(1, 2).unflatten(0, (len(pixels), -1))
        return states.unflatten(0, (len(pixels), -1))

    return catch


@pytest.mark.parametrize(("family", "modality"), [(f, m) for f, m in SEEING if row_of(f).cacheable])
def test_one_vector_a_medium(family, modality, fresh, media, last_states):
    """CLS where the features keep it, averaged over frames; else the mean of the patches."""
    base = fresh(family)
    pixels = dict(media(base, modality, 2).items())[modality]
    ours = base.pooled(base.encode_media(pixels, modality), modality)
    states = last_states(base, modality, pixels)
    cls = family in ("glued_mlp", "glued_qformer", "light_clip", "video_llava")
    drops_cls = family == "llava"  # strategy "default"
    by_hand = states[:, :, 0].mean(1) if cls else states[:, :, int(drops_cls) :].mean((1, 2))
    torch.testing.assert_close(ours, by_hand, rtol=1e-5, atol=1e-6)
    assert ours.shape == (2, base.pooled_width(modality))
    assert not ours.requires_grad


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_the_one_vector_of_a_model_that_takes_pixels(family, modality, fresh, prompt, media):
    """The mean of what goes into its merger, caught in its own forward; each medium alone makes the same."""
    base, caught = fresh(family), []
    batch = media(base, modality, 2)
    pixels = dict(batch.items())[modality]
    ours = base.pooled(base.encode_media(pixels, modality), modality)
    base.inner.visual.merger.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    with torch.no_grad():
        base.hidden(*prompt(base, modality, ["a", "b"]), batch)
    torch.testing.assert_close(ours, caught[0].reshape(2, -1, 32).mean(1), rtol=1e-5, atol=1e-6)
    alone = base.pooled(base.encode_media(pixels[1:], modality), modality)
    torch.testing.assert_close(ours[1:], alone, rtol=1e-5, atol=1e-6)
    assert base.pooled_width(modality) == 32
    assert not base.family.cacheable


def test_widths(fresh):
    assert {fresh(family).width for family in ("video_llava", "qwen3_vl", "smolvlm", "llama", "glued_conv")} == {32}
    with pytest.raises(BackboneError, match="no language model"):
        _ = fresh("light_conv").width


def test_the_transform_is_named_by_what_changes_pixels(tmp_path, backbone_folder, fresh):
    base = fresh("video_llava")
    assert base.transform_id == fresh("video_llava").transform_id
    assert base.transform_id != fresh("video_llava", frames=2).transform_id
    shutil.copytree(backbone_folder("video_llava"), tmp_path / "other")
    settings = json.loads((tmp_path / "other/preprocessor_config.json").read_text())
    (tmp_path / "other/preprocessor_config.json").write_text(json.dumps({**settings, "do_center_crop": False}))
    seal(tmp_path / "other", name="other", frames=FRAMES)
    assert base.transform_id != backbone.load(tmp_path / "other").transform_id


def test_random_backbones_are_the_same_each_time(tmp_path):
    one, two = random_backbone(tmp_path / "1"), random_backbone(tmp_path / "2")
    assert digest(one) == digest(two)
    assert digest(one) != digest(random_backbone(tmp_path / "3", seed=1))


def test_loaded_frozen_in_evaluation_mode_and_dtype(fresh):
    base = fresh("video_llava", dtype="bfloat16")
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert fresh("video_llava", frames=2).frames == 2


@pytest.fixture
def copy(tmp_path, backbone_folder):
    shutil.copytree(backbone_folder("video_llava"), tmp_path / "copy")
    return tmp_path / "copy"


def change_weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def one_bit(folder: Path) -> None:
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)


def edit_seal(folder: Path) -> None:
    content = json.loads((folder / SEAL).read_text())
    (folder / SEAL).write_text(json.dumps({**content, "digest": "0" * 64}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (one_bit, "files that have changed: model.safetensors"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer; save it there"),
        (lambda f: (f / "generation_config.json").unlink(), "sealed files that are gone: generation_config.json"),
        (lambda f: (f / "vocab.txt").write_text("x"), "files that were not sealed: vocab.txt"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "no place in a backbone: pytorch_model.bin"),
        (lambda f: (f / "modeling_evil.py").write_text("x"), "no place in a backbone: modeling_evil.py"),
        (lambda f: (f / SEAL).unlink(), "latefuse step backbone"),
        (edit_seal, "does not fit its own files"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
    ],
)
def test_a_folder_that_is_not_what_was_sealed_is_refused(copy, harm, message):
    harm(copy)
    with pytest.raises(BackboneError, match=message):
        backbone.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("multi_modal_projector.linear_1.bias"), "missing: model.multi_modal_projector.linear_1.bias"),
        (lambda t: t.update(surprise=torch.ones(2)), "left over: surprise"),
        (
            lambda t: t.update({"multi_modal_projector.linear_1.bias": torch.ones(3)}),
            "of another shape: .*linear_1.bias",
        ),
    ],
)
def test_every_tensor_must_land(copy, change, message):
    change_weights(copy, change)
    seal(copy, name="harmed", frames=FRAMES)
    with pytest.raises(BackboneError, match=message):
        backbone.load(copy)
    with pytest.raises(BackboneError, match=message):
        check_tensors(copy)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_came_with_a_model_is_refused(copy, file):
    raw = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**raw, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(BackboneError, match="trust_remote_code stays off"):
        seal(copy, name="evil", frames=FRAMES)


def test_pickled_weights_and_unknown_families_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    seal(copy, name="gpt2", frames=FRAMES)
    with pytest.raises(BackboneError, match="no family 'gpt2'; known: video_llava"):
        backbone.load(copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"pytorch_model\.bin, which is never unpickled"):
        seal(copy, name="pickled", frames=FRAMES)


@pytest.mark.parametrize("there", [True, False])
def test_what_measures_stands_on_the_gpu_where_there_is_one(there, backbone_folder, monkeypatch):
    moved = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *where: moved.append((type(module).__name__, where)))
    backbone = load_placed(backbone_folder())
    assert moved == ([(type(backbone.model).__name__, ("cuda",))] if there else [])
    assert backbone.model.dtype == torch.float32
