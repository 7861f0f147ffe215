"""Backbones put together: parts out of anybody's checkpoints, and the glued, light or sighted model made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from latefuse.models import folder as folders
from latefuse.models.bridge import BridgeOptions, build_bridge
from latefuse.models.families import FAMILIES, Family
from latefuse.models.folder import FROM_FOLDER, BackboneError, must_be_complete
from latefuse.models.glued import GluedConfig, GluedForConditionalGeneration
from latefuse.models.light import LightConfig, LightModel
from latefuse.models.sighted import SightedConfig, SightedModel
from latefuse.models.tensors import family_of, read_model
from latefuse.models.towers import probe, transform
from latefuse.progress import no_library_bars
from latefuse.prompts.template import template_for

PLACEHOLDERS = ("<image>", "<video>")
PLAIN_TEMPLATE = "v1"
SENTENCE_STEPS = {"Transformer", "Pooling", "Normalize"}
MEAN = "pooling_mode_mean_tokens"


@dataclass(frozen=True)
class Tower:
    """A vision tower in float32. tokens, width: what `towers.look` makes of every picture."""

    module: Any
    processor: Any
    tokens: int
    width: int


@dataclass(frozen=True)
class Language:
    """A causal language model in its own precision: without its head, its head, and its tokenizer with placeholders."""

    base: Any
    head: nn.Linear
    tokenizer: Any
    generation: Any


@dataclass(frozen=True)
class Sentences:
    """A sentence encoder in float32. tokens: how many of a text it reads."""

    module: Any
    tokenizer: Any
    tokens: int


def load_tower(folder: Path, side: int | None = None) -> Tower:
    """The vision tower of a checkpoint: a tower alone, a pair such as CLIP, a classifier, or a vision-language model.

    side: pixels of the square that pictures become. Raises BackboneError.
    """
    folders.check(folder, tokenizer=False)
    family = _family(folder)
    if family is None:
        whole, info = _read(AutoModel, folder, torch.float32, "a vision tower")
        _must_lack_heads_only(folder, whole, info)
        module = whole.vision_model if hasattr(whole.config, "vision_config") else whole
    elif "image" in family.tower:
        module = read_model(folder, family, "float32").get_submodule(family.tower["image"])
    else:
        raise BackboneError(f"{folder}: a language model ({family.model_class}) has no vision tower")
    _must_stand_alone(folder, module)
    module = module.eval().requires_grad_(False)
    processor = transform(folder, module.config, side)
    return Tower(module, processor, *probe(module, processor, folder))


def load_language(folder: Path, seed: int) -> Language:
    """The language model of a checkpoint, of a vision-language model too, with tokens that stand for media.

    seed: draws the embeddings of tokens for which the vocabulary has no free row. Raises BackboneError, also for a
    model that is not causal or whose head is more than one linear layer.
    """
    folders.check(folder)
    family = _family(folder)
    if family is None or not family.tower:
        whole, info = _read(AutoModelForCausalLM, folder, "auto", "a causal language model")
        must_be_complete(folder, info)
        base = whole.base_model
    elif family.language:
        whole = read_model(folder, family, "auto")
        base = whole.get_submodule(family.language[0])
    else:
        raise BackboneError(f"{folder}: {family.model_class} has no language model")
    whole.eval().requires_grad_(False)
    _must_stand_alone(folder, base)
    tokenizer = _with_placeholders(folder)
    rows = max(tokenizer.convert_tokens_to_ids([*PLACEHOLDERS])) + 1
    if rows > base.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            whole.resize_token_embeddings(rows, mean_resizing=False)
    head = whole.get_output_embeddings()
    _must_be_plain(folder, whole, base, head)
    return Language(base, head, tokenizer, whole.generation_config)


def load_sentences(folder: Path) -> Sentences:
    """The sentence encoder of a checkpoint, as sentence-transformers lays it out or plain; it must pool by the mean.

    It reads as many tokens as it says itself, else as many as it has positions. Raises BackboneError.
    """
    folders.check(folder)
    steps = {str(step.get("type", "")).rpartition(".")[2] for step in _json(folder / "modules.json")}
    pooling = {k: v for k, v in _json(folder / "1_Pooling/config.json").items() if k.startswith("pooling_mode")}
    more = steps - SENTENCE_STEPS | {k for k, v in pooling.items() if v not in (False, "mean")} - {MEAN}
    if more:
        raise BackboneError(
            f"{folder}: this sentence encoder does more than pool the mean of its tokens ({', '.join(sorted(more))}): "
            "choose one like all-MiniLM-L6-v2"
        )
    module, info = _read(AutoModel, folder, torch.float32, "a sentence encoder")
    _must_lack_heads_only(folder, module, info)
    _must_stand_alone(folder, module)
    tokenizer = _tokenizer(folder)
    own = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    limit = own or min(tokenizer.model_max_length, module.config.max_position_embeddings)
    return Sentences(module.eval().requires_grad_(False), tokenizer, int(limit))


@dataclass(frozen=True)
class Reader:
    """T5 in its own precision, and its tokenizer."""

    module: Any
    tokenizer: Any


def load_reader(folder: Path, seed: int | None = None) -> Reader:
    """The T5 of a checkpoint. seed: draws new weights for all of it, where it is not None.

    Raises BackboneError for anything else.
    """
    folders.check(folder)
    family = family_of(folder)
    if family.kind != "encoder-decoder":
        raise BackboneError(f"{folder}: not an encoder-decoder ({family.model_class}); choose a T5")
    module = read_model(folder, family, "auto").get_submodule(family.seq2seq)
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = type(module)(module.config)
    return Reader(module.eval().requires_grad_(False), _tokenizer(folder))


def glue(tower: Tower, language: Language, options: BridgeOptions, seed: int) -> GluedForConditionalGeneration:
    """The parts as one model, with a new bridge between them that depends on `seed` alone."""
    table = language.base.get_input_embeddings()
    image, video = language.tokenizer.convert_tokens_to_ids([*PLACEHOLDERS])
    config = GluedConfig(
        vision_config=tower.module.config,
        text_config=language.base.config,
        bridge=options.model_dump(),
        vision_tokens=tower.tokens,
        vision_width=tower.width,
        image_token_id=image,
        video_token_id=video,
        head_bias=language.head.bias is not None,
        tie_word_embeddings=language.head.weight is table.weight,
    )
    with torch.device("meta"):
        model = GluedForConditionalGeneration(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.model.bridge = build_bridge(options, tower.width, language.base.config.hidden_size)
    model.model.vision_tower, model.model.language_model = tower.module, language.base
    model.lm_head, model.generation_config = language.head, language.generation
    return model


def pair(tower: Tower, sentences: Sentences) -> LightModel:
    """Both encoders side by side."""
    config = LightConfig(
        vision_config=tower.module.config,
        text_config=sentences.module.config,
        vision_width=tower.width,
        text_tokens=sentences.tokens,
    )
    with torch.device("meta"):
        model = LightModel(config)
    model.model.update({"vision_tower": tower.module, "text_encoder": sentences.module})
    return model


def beside(tower: Tower, reader: Reader) -> SightedModel:
    """T5 with a tower beside it."""
    config = SightedConfig(
        vision_config=tower.module.config, text_config=reader.module.config, vision_width=tower.width
    )
    with torch.device("meta"):
        model = SightedModel(config)
    model.model.update({"vision_tower": tower.module, "language_model": reader.module})
    return model


def write(model: Any, tokenizer: Any, processor: Any, target: Path) -> None:
    """All three in the Hugging Face layout, weights as safetensors."""
    with no_library_bars():
        model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    processor.save_pretrained(target)


def _family(folder: Path) -> Family | None:
    return FAMILIES.get(_json(folder / "config.json").get("model_type"))


def _json(path: Path) -> Any:
    """The content of a JSON file, empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _read(auto: Any, folder: Path, dtype: Any, what: str) -> tuple[Any, dict[str, Any]]:
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # a classifier's head that is left behind is no news
    try:
        with no_library_bars():
            model, info = auto.from_pretrained(folder, dtype=dtype, **FROM_FOLDER)
    except (ValueError, OSError, KeyError) as error:
        said = str(error).strip().splitlines()
        raise BackboneError(f"{folder}: can't be read as {what}: {said[0][:200] if said else error!r}") from error
    finally:
        logging.set_verbosity(shown)
    return model, info


@torch.no_grad()
def _must_lack_heads_only(folder: Path, model: Any, info: Mapping[str, Any]) -> None:
    """Raise BackboneError unless all of the model landed, and what is left over are heads for another task.

    A pooler that the checkpoint lacks is nothing that is used here: it is set to zero, the same each time.
    """
    own = {name.partition(".")[0] for name in model.state_dict()}
    prefix = f"{model.base_model_prefix}."
    extra = {key for key in info["unexpected_keys"] if key.removeprefix(prefix).partition(".")[0] in own}
    poolers = {key for key in info["missing_keys"] if key.startswith("pooler.")}
    must_be_complete(folder, {**info, "unexpected_keys": extra, "missing_keys": set(info["missing_keys"]) - poolers})
    for key in poolers:
        model.get_parameter(key).zero_()


def _must_stand_alone(folder: Path, module: Any) -> None:
    """Raise BackboneError unless the library makes the same kind of module from its configuration."""
    try:
        with torch.device("meta"):
            twin = AutoModel.from_config(module.config)
    except (AttributeError, ValueError) as error:
        raise BackboneError(f"{folder}: {type(module).__name__} can't be taken out of its model: {error}") from error
    if type(twin) is not type(module):
        raise BackboneError(f"{folder}: {type(module).__name__} can't be taken out of its model")


def _with_placeholders(folder: Path) -> Any:
    """The tokenizer, with the special tokens that stand for media and the prompt template of its model."""
    tokenizer = _tokenizer(folder)
    wanted = [token for token in PLACEHOLDERS if token not in tokenizer.all_special_tokens]
    if wanted:
        tokenizer.add_special_tokens({"extra_special_tokens": wanted}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        template = template_for(_json(folder / "config.json")["model_type"], tokenizer).name
    except ValueError:
        template = PLAIN_TEMPLATE
    tokenizer.init_kwargs["prompt_template"] = template
    return tokenizer


@torch.no_grad()
def _must_be_plain(folder: Path, whole: Any, base: Any, head: Any) -> None:
    """Raise BackboneError unless states depend on what stands before them alone, and logits are the head on them."""
    ids = torch.arange(2, 10).remainder(base.get_input_embeddings().num_embeddings).unsqueeze(0)
    states = base(input_ids=ids).last_hidden_state
    if _differ(base(input_ids=ids[:, :4]).last_hidden_state, states[:, :4]):
        raise BackboneError(f"{folder}: not a causal language model: what follows changes what stands before")
    if not isinstance(head, nn.Linear) or _differ(head(states), whole(input_ids=ids).logits):
        raise BackboneError(
            f"{folder}: the head of {type(whole).__name__} is more than one linear layer, which is not supported"
        )


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether more than rounding lies between two tensors."""
    allowed = 1e-3 if a.dtype == torch.float32 else 5e-2
    return float((a.float() - b.float()).norm()) > allowed * float(b.float().norm())
