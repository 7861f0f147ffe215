"""Parts out of checkpoints of many kinds, put together; what does not fit is refused."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from latefuse.models import backbone, compose
from latefuse.models.bridge import BridgeOptions
from latefuse.models.folder import BackboneError, seal
from latefuse.prompts.splice import Splicer

SMALL = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {**SMALL, "image_size": 32, "patch_size": 16, "projection_dim": 8}
BRIDGE = BridgeOptions(tokens=3, layers=1, hidden=24, heads=2)


def letters(**special):
    """A tokenizer of one token a byte that knows nothing of pictures."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **special}
    pieces = [*names.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({piece: k for k, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def llama(rows, **more):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, num_key_value_heads=2, vocab_size=rows, initializer_range=0.06, **more)
    )


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a model (made under a fixed seed) and a tokenizer as somebody's folder."""

    def make(build, tokenizer=None, name="theirs"):
        torch.manual_seed(0)
        model = build().eval()
        model.save_pretrained(tmp_path / name)
        if tokenizer is not None:
            tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return make


def clip_pair():
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config={**SMALL, "vocab_size": 60}, vision_config=SQUARE, projection_dim=8)
    )


def siglip_pair():
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config={**SMALL, "vocab_size": 60}, vision_config=SQUARE)
    )


TOWERS = {
    "clip": (clip_pair, "vision_model"),
    "siglip": (siglip_pair, "vision_model"),
    "clip alone": (lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SQUARE)), ""),
    "dinov2": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SQUARE)), ""),
    "vit that names": (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SQUARE)), "vit"),
    "mobilenet that names": (
        lambda: transformers.MobileNetV2ForImageClassification(
            transformers.MobileNetV2Config(image_size=64, depth_multiplier=0.1, finegrained_output=False)
        ),
        "mobilenet_v2",
    ),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_the_tower_of_a_checkpoint(kind, checkpoint):
    """The same states as that part of the model it was taken from."""
    build, name = TOWERS[kind]
    folder, model = checkpoint(build)
    theirs = model.get_submodule(name) if name else model
    tower = compose.load_tower(folder)
    side = tower.module.config.image_size
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state
        torch.testing.assert_close(tower.module(pixels).last_hidden_state, expected, rtol=0, atol=1e-6)
    assert not any(p.requires_grad for p in tower.module.parameters())
    assert (tower.tokens, tower.width) == (5, 128 if kind.startswith("mobilenet") else 24)


def test_a_pooler_that_a_checkpoint_lacks_is_the_same_each_time(checkpoint):
    folder, _ = checkpoint(TOWERS["vit that names"][0])
    one, two = (compose.load_tower(folder).module.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not one["pooler.dense.weight"].any()


def test_half_precision_is_read_as_float32(checkpoint):
    folder, model = checkpoint(lambda: TOWERS["mobilenet that names"][0]().half())
    tower = compose.load_tower(folder).module
    kinds = {tensor.dtype for tensor in tower.state_dict().values()}
    assert kinds == {torch.float32, torch.int64}  # batch normalisation counts in whole numbers
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, model.mobilenet_v2.state_dict()[name].to(tensor.dtype)), name


@pytest.mark.parametrize("family", ["video_llava", "llava", "llava_onevision"])
def test_a_vision_language_model_gives_both_of_its_parts(family, backbone_folder, fresh, prompt):
    base = fresh(family)
    tower, language = compose.load_tower(backbone_folder(family)), compose.load_language(backbone_folder(family), 0)
    theirs = base.model.get_submodule(base.family.tower["image"]).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in tower.module.state_dict().items())
    ids, mask = prompt(base, "text", ["only words"])
    with torch.no_grad():
        own = base.model(input_ids=ids, attention_mask=mask).logits
        ours = language.head(language.base(input_ids=ids, attention_mask=mask).last_hidden_state)
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-6)


def test_tokens_for_media_take_free_rows_first(checkpoint):
    tokenizer = letters()
    folder, model = checkpoint(lambda: llama(len(tokenizer) + 2), tokenizer)
    language = compose.load_language(folder, 0)
    ids = language.tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    assert ids == [len(tokenizer), len(tokenizer) + 1]
    assert {"<image>", "<video>"} <= set(language.tokenizer.all_special_tokens)
    assert torch.equal(language.base.embed_tokens.weight, model.model.embed_tokens.weight)
    assert language.tokenizer.pad_token == "</s>"


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_drawn_from_the_seed(tied, checkpoint):
    tokenizer = letters()
    rows = len(tokenizer)
    folder, model = checkpoint(lambda: llama(rows, tie_word_embeddings=tied), tokenizer)
    before = torch.get_rng_state()
    one, two, other = (compose.load_language(folder, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    table, again, elsewhere = (language.base.embed_tokens.weight for language in (one, two, other))
    assert table.shape == (rows + 2, 24)
    assert torch.equal(table[:rows], model.model.embed_tokens.weight)
    assert torch.equal(one.head.weight[:rows], model.lm_head.weight)
    assert torch.equal(table, again)
    assert not torch.equal(table[rows:], elsewhere[rows:])
    assert table[rows:].any(1).all()
    assert (one.head.weight is table) == tied
    assert one.base.config.vocab_size == rows + 2


def bert_that_writes(rows):
    return transformers.BertLMHeadModel(transformers.BertConfig(**SMALL, vocab_size=rows))


def t5(rows):
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=rows)
    return transformers.T5ForConditionalGeneration(config)


def gemma2(rows):
    """Its logits are squeezed between two bounds."""
    config = transformers.Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=12, vocab_size=rows, final_logit_softcapping=0.05
    )
    return transformers.Gemma2ForCausalLM(config)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (bert_that_writes, "not a causal language model"),
        (t5, "can't be read as a causal language model"),
        (gemma2, "head of Gemma2ForCausalLM is more than one linear layer"),
    ],
)
def test_what_is_no_plain_causal_language_model_is_refused(build, message, checkpoint):
    tokenizer = letters(pad_token="<pad>")
    folder, _ = checkpoint(lambda: build(len(tokenizer)), tokenizer)
    with pytest.raises(BackboneError, match=f"theirs: .*{message}"):
        compose.load_language(folder, 0)


def test_parts_without_what_is_asked_of_them(backbone_folder, checkpoint):
    with pytest.raises(BackboneError, match="has no vision tower"):
        compose.load_tower(backbone_folder("llama"))
    with pytest.raises(BackboneError, match="no language model"):
        compose.load_language(backbone_folder("light_clip"), 0)
    with pytest.raises(BackboneError, match="can't be taken out of its model"):
        compose.load_tower(backbone_folder("qwen2_5_vl"))
    folder, _ = checkpoint(TOWERS["clip"][0])
    with pytest.raises(BackboneError, match="no tokenizer"):
        compose.load_language(folder, 0)


def leftover(tensors):
    tensors["encoder.layers.9.mlp.fc1.weight"] = torch.ones(2)


def lost(tensors):
    tensors.pop("post_layernorm.weight")


@pytest.mark.parametrize(
    ("harm", "message"), [(leftover, "left over: encoder.layers.9"), (lost, "missing: post_layer")]
)
def test_every_tensor_of_a_part_must_land(harm, message, checkpoint):
    folder, _ = checkpoint(TOWERS["clip alone"][0])
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
    harm(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=message):
        compose.load_tower(folder)


def test_pickles_and_code_of_parts_are_refused(checkpoint):
    folder, _ = checkpoint(TOWERS["clip alone"][0])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(BackboneError, match="trust_remote_code stays off"):
        compose.load_tower(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="never unpickled"):
        compose.load_tower(folder)


def bert(tokenizer):
    return transformers.BertModel(
        transformers.BertConfig(**SMALL, vocab_size=len(tokenizer), max_position_embeddings=48)
    )


def test_a_sentence_encoder_says_how_much_it_reads(checkpoint):
    tokenizer = letters(pad_token="<pad>", cls_token="[CLS]")
    folder, _ = checkpoint(lambda: bert(tokenizer), tokenizer)
    assert compose.load_sentences(folder).tokens == 48
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    steps = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "1_Pooling").mkdir()
    mean = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(mean))
    assert compose.load_sentences(folder).tokens == 20
    first = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(first))
    with pytest.raises(BackboneError, match=r"more than pool the mean of its tokens \(pooling_mode_cls_token\)"):
        compose.load_sentences(folder)
    (folder / "1_Pooling/config.json").write_text(json.dumps(mean))
    (folder / "modules.json").write_text(json.dumps([*steps, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(BackboneError, match=r"\(Dense\)"):
        compose.load_sentences(folder)


def test_any_tower_glued_to_any_language_model(checkpoint, tmp_path):
    """A head with a bias, a tokenizer without media, a classifier's tower; words can't be media."""
    tokenizer = letters()
    config = transformers.PhiConfig(**SMALL, vocab_size=len(tokenizer), max_position_embeddings=128)
    folder, phi = checkpoint(lambda: transformers.PhiForCausalLM(config), tokenizer, "phi")
    phi.lm_head.bias.data.normal_()
    phi.save_pretrained(folder)
    seen, _ = checkpoint(TOWERS["mobilenet that names"][0], name="seen")
    tower, language = compose.load_tower(seen), compose.load_language(folder, 0)
    model = compose.glue(tower, language, BRIDGE, 0)
    out = tmp_path / "out"
    compose.write(model, language.tokenizer, tower.processor, out)
    seal(out, name="glued", frames=2)
    base = backbone.load(out)
    ids = torch.arange(5, 12).unsqueeze(0)
    with torch.no_grad():
        logits = base.logits(base.hidden(ids, torch.ones_like(ids)))
        torch.testing.assert_close(logits[..., : len(tokenizer)], phi(ids).logits, rtol=0, atol=1e-5)
    splicer = Splicer.of(base)
    assert splicer.template.name == "v1"
    assert not {base.token_id("image"), base.token_id("video")} & set(splicer.plain("<image> <video> x"))
    assert base.generate(ids, torch.ones_like(ids), max_new_tokens=2, eos_token_id=-1).shape == (1, 2)
    assert [name for name in base.parts()["language"] if "layers.0" in name]


def test_the_bridge_depends_on_its_seed_alone(backbone_folder):
    folder = backbone_folder("video_llava")
    made = [compose.glue(compose.load_tower(folder), compose.load_language(folder, 0), BRIDGE, s) for s in (0, 0, 1)]
    one, two, other = (model.model.bridge.state_dict() for model in made)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert not one["query_tokens"].any()


def test_where_a_part_lay_leaves_no_trace(backbone_folder, tmp_path):
    """The digest is of what a backbone is, not of the folders it was made from."""
    digests = set()
    for place in ("here", "there"):
        shutil.copytree(backbone_folder("llava"), tmp_path / place)
        tower, language = compose.load_tower(tmp_path / place), compose.load_language(tmp_path / place, 0)
        out = tmp_path / f"out-{place}"
        compose.write(compose.glue(tower, language, BRIDGE, 0), language.tokenizer, tower.processor, out)
        digests.add(seal(out, name="same", frames=2)["digest"])
        assert not any(str(tmp_path) in file.read_text() for file in out.glob("*.json"))
    assert len(digests) == 1
