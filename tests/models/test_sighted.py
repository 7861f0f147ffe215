"""T5 beside a tower: the same T5 and the same tower, pooled picture vectors, and what such a backbone does not do."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from latefuse.data.dataset import store_medium
from latefuse.models import compose
from latefuse.models.backbone import BackboneError, load
from latefuse.models.folder import digest, seal
from latefuse.models.tensors import check_tensors
from latefuse.models.tiny_random import FRAMES
from latefuse.prompts import MediaRef
from latefuse.training.features import Features


def composed(eyes, reader, target, seed=None):
    tower, t5 = compose.load_tower(eyes), compose.load_reader(reader, seed)
    compose.write(compose.beside(tower, t5), t5.tokenizer, tower.processor, target)
    seal(target, name="composed", frames=FRAMES)
    check_tensors(target)
    return load(target)


def logits(t5, ids=((20, 30, 40),)):
    given = torch.tensor(ids)
    with torch.no_grad():
        return t5(input_ids=given, decoder_input_ids=given).logits


def test_both_parts_are_those_that_were_given(backbone_folder, tmp_path):
    base = composed(backbone_folder("light_clip"), backbone_folder("t5"), tmp_path / "out")
    alone = load(backbone_folder("t5"))
    assert torch.equal(logits(base.seq2seq), logits(alone.seq2seq))
    assert base.seq2seq.lm_head.weight is base.seq2seq.shared.weight is base.seq2seq.encoder.embed_tokens.weight
    assert (base.family.kind, base.width, base.modalities) == ("encoder-decoder", 32, ("image", "video", "text"))
    again = composed(tmp_path / "out", tmp_path / "out", tmp_path / "again")
    assert torch.equal(logits(again.seq2seq), logits(alone.seq2seq))


def test_a_t5_with_a_head_of_its_own_keeps_it(backbone_folder, tmp_path):
    """T5 1.1: the head is no longer the token table, and states are not scaled before it."""
    torch.manual_seed(0)
    options = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    tokenizer = compose.load_reader(backbone_folder("t5")).tokenizer
    config = T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", tie_word_embeddings=False, **options)
    model = T5ForConditionalGeneration(config).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    expected = logits(model)
    (tmp_path / "t5").mkdir()
    model.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    base = composed(backbone_folder("light_clip"), tmp_path / "t5", tmp_path / "out")
    assert not base.seq2seq.config.scale_decoder_outputs
    torch.testing.assert_close(logits(base.seq2seq), expected)


def test_new_weights_come_from_the_seed(backbone_folder, tmp_path):
    digests = {
        (seed, digest(random_into(tmp_path / str(number), seed, backbone_folder)))
        for number, seed in enumerate([1, 1, 2])
    }
    assert len(digests) == 2
    base, other = load(tmp_path / "0"), load(backbone_folder("t5"))
    assert not torch.equal(logits(base.seq2seq), logits(other.seq2seq))
    assert base.seq2seq.lm_head.weight is base.seq2seq.shared.weight


def random_into(target, seed, backbone_folder):
    composed(backbone_folder("light_clip"), backbone_folder("t5"), target, seed)
    return target


def test_picture_vectors_come_from_the_store_of_frozen_features(fresh, pictures, tmp_path):
    base = fresh("sighted")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, picture in zip(paths, pictures, strict=False):
        picture.save(path)
    (tmp_path / "data").mkdir()
    refs = [MediaRef("image", store_medium(tmp_path / "data", path)) for path in paths]
    features = Features(base, lambda path: tmp_path / "data" / path, tmp_path / "cache")
    assert features.stored("image")
    assert features.warm(refs, progress=False) == 3
    assert features.warm(refs, progress=False) == 0
    found = features.pooled(refs)
    expected = base.inner["vision_tower"](base.pixels(pictures[:3], "image")).last_hidden_state[:, 0]
    assert found.shape == (3, base.pooled_width("image"))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "sighted"])
def test_it_reads_no_prompts_of_conversations(family, fresh):
    base, ids = fresh(family), torch.full((1, 2), 20)
    asked = [
        lambda: base.hidden(ids, torch.ones_like(ids)),
        lambda: base.generate(ids, torch.ones_like(ids)),
        lambda: base.placeholder_ids("image"),
        lambda: base.token_id("image"),
    ]
    for ask in asked:
        with pytest.raises(BackboneError, match="is an encoder-decoder: it learns tasks of kind personalise only"):
            ask()
    assert not base.family.goes_on
    assert fresh("llama").seq2seq is None


def test_the_tower_stays_as_it_is_in_training(fresh):
    base = fresh("sighted")
    base.model.train()
    assert base.seq2seq.training
    assert not any(module.training for module in base.inner["vision_tower"].modules())


def test_what_is_no_t5_is_refused(backbone_folder):
    with pytest.raises(BackboneError, match=r"not an encoder-decoder \(LlamaForCausalLM\); choose a T5"):
        compose.load_reader(backbone_folder("llama"))
    with pytest.raises(BackboneError, match=r"\(T5ForConditionalGeneration\) has no vision tower"):
        compose.load_tower(backbone_folder("t5"))
