"""Frozen tower beside frozen sentences: vectors by hand, and what such a backbone does not do."""

import pytest
import torch
from transformers import BertModel

from latefuse.models import light
from latefuse.models.backbone import BackboneError
from latefuse.models.folder import digest
from latefuse.models.tiny_random import FRAMES, random_backbone

LIGHT = ["light_conv", "light_clip"]
TEXTS = ["red rice", "a green soup with herbs", "", "x"]


def by_hand(base, text):
    """One text alone, without padding: the mean over its first 32 tokens, of unit length."""
    encoder = BertModel(base.inner["text_encoder"].config).eval()
    encoder.load_state_dict(base.inner["text_encoder"].state_dict())
    ids = torch.tensor([base.tokenizer.encode(text)[:32]])
    states = encoder(input_ids=ids).last_hidden_state[0]
    return states.mean(0) / states.mean(0).norm()


@pytest.mark.parametrize("family", LIGHT)
def test_sentence_vectors_are_the_mean_over_tokens(family, fresh):
    base = fresh(family)
    texts = ["red rice", "a green soup with herbs", "x"]
    ours = base.encode_text(texts)
    with torch.no_grad():
        torch.testing.assert_close(ours, torch.stack([by_hand(base, text) for text in texts]), rtol=0, atol=1e-6)
    assert ours.shape == (3, base.text_width)
    assert not ours.requires_grad


def test_order_and_company_do_not_matter(fresh):
    base = fresh("light_conv")
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(light.BATCH + 9)]
    together = base.encode_text(texts)
    torch.testing.assert_close(together.flip(0), base.encode_text(texts[::-1]), rtol=0, atol=1e-6)
    torch.testing.assert_close(together[5:6], base.encode_text(texts[5:6]), rtol=0, atol=1e-6)
    assert base.encode_text([]).shape == (0, 32)
    assert not base.encode_text([""]).any()
    assert base.encode_text(["", "a word"]).isfinite().all()


def test_long_texts_are_cut_and_counted(fresh):
    base = fresh("light_conv")
    fits, long = "a" * 32, "a" * 32 + "b" * 100_000
    with torch.no_grad():
        torch.testing.assert_close(base.encode_text([fits]), base.encode_text([long]), rtol=0, atol=1e-6)
        torch.testing.assert_close(base.encode_text([long])[0], by_hand(base, long), rtol=0, atol=1e-6)
    assert light.too_long(base, [fits, long, "", fits + "b"]) == [False, True, False, True]
    assert light.too_long(base, []) == []


@pytest.mark.parametrize("family", LIGHT)
def test_media_are_one_vector_a_frame(family, fresh, pictures):
    base = fresh(family)
    frames = base.encode_media(base.pixels(pictures[:FRAMES], "image"), "image")
    clip = base.encode_media(base.pixels(pictures[:FRAMES], "video"), "video")
    assert frames.shape == (FRAMES, 1, base.pooled_width("image"))
    torch.testing.assert_close(clip[0], frames[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(base.pooled(clip, "video")[0], frames[:, 0].mean(0), rtol=1e-5, atol=1e-5)
    assert (frames[0] - frames[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", LIGHT)
def test_nothing_in_it_ever_trains(family, fresh, pictures):
    base = fresh(family)
    before = base.encode_text(TEXTS), base.encode_media(base.pixels(pictures[:2], "image"), "image")
    base.model.train()
    assert not any(module.training for module in base.model.modules())
    after = base.encode_text(TEXTS), base.encode_media(base.pixels(pictures[:2], "image"), "image")
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_what_needs_a_language_model_is_refused(fresh):
    base = fresh("light_conv")
    ids = torch.zeros(1, 2, dtype=torch.long)
    asked = [
        lambda: base.hidden(ids, torch.ones_like(ids)),
        lambda: base.logits(torch.zeros(1, 32)),
        lambda: base.generate(ids, torch.ones_like(ids)),
        lambda: base.placeholder_ids("image"),
        lambda: base.token_id("image"),
        lambda: base.width,
    ]
    for ask in asked:
        with pytest.raises(BackboneError, match=r"'random/light_conv' \(LightModel\) has no language model"):
            ask()
    assert base.parts()["language"] == base.parts()["bridge"] == []
    assert base.family.kind == "light"


def test_only_light_backbones_read_sentences(fresh):
    with pytest.raises(BackboneError, match="no sentence encoder"):
        fresh("glued_mlp").encode_text(["x"])


@pytest.mark.parametrize("family", LIGHT)
def test_the_folder_gives_the_same_model_again(family, fresh, tmp_path):
    base = fresh(family)
    assert base.digest == digest(random_backbone(tmp_path / "again", family))
    assert base.digest != digest(random_backbone(tmp_path / "other", family, seed=1))
    bfloat = fresh(family, dtype="bfloat16")
    torch.testing.assert_close(bfloat.encode_text(TEXTS).float(), base.encode_text(TEXTS), rtol=0, atol=0.05)
