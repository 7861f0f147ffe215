"""Tiny models of the real classes with random weights, for tests: built in a fraction of a second, the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from latefuse.models.families import FAMILIES
from latefuse.models.folder import seal

FRAMES = 4
SPECIAL = (
    "<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", "<|vision_start|>", "<|vision_end|>",
    "<fake_token_around_image>", "<global-img>",
)
IDS = {token: index for index, token in enumerate(SPECIAL)}
ENDS = {"pad_token_id": IDS["<pad>"], "bos_token_id": IDS["<s>"], "eos_token_id": IDS["</s>"]}


def random_backbone(out: Path, family: str = "video_llava", seed: int = 0) -> Path:
    """Write a sealed backbone folder of `family` with random weights drawn from `seed`; returns the folder."""
    row, tokenizer = FAMILIES[family], byte_tokenizer()
    config = CONFIGS[family](len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, row.model_class)(config)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    if row.image_processor:
        options = row.processor_options(config, SIDES.get(family))
        getattr(transformers, row.image_processor)(**options).save_pretrained(out)
    seal(out, name=f"random/{family}", frames=FRAMES, side=SIDES.get(family))
    return out


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text is encoded and decoded without loss."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[4:]), clean_up_tokenization_spaces=False,
    )


def _language(kind: str, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.06,
        **ENDS, **more,
    }


def _vision(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16, "projection_dim": 24, "initializer_range": 0.06, **more,
    }


def _video_llava(vocabulary: int) -> Any:
    return transformers.VideoLlavaConfig(
        vision_config=_vision("clip_vision_model"), text_config=_language("llama", vocabulary),
        image_token_index=IDS["<image>"], video_token_index=IDS["<video>"],
        vision_feature_layer=-2, vision_feature_select_strategy="full", **ENDS,
    )


CONFIGS: dict[str, Callable[[int], Any]] = {"video_llava": _video_llava}
SIDES: dict[str, int] = {}
