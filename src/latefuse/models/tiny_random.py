"""Tiny models of the real classes with random weights, for tests: quick to build, the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from latefuse.models.families import FAMILIES, Family
from latefuse.models.folder import seal
from latefuse.models.glued import GluedConfig
from latefuse.models.light import LightConfig
from latefuse.models.sighted import SightedConfig
from latefuse.models.tensors import model_class
from latefuse.models.towers import default_transform
from latefuse.prompts.template import template_for

FRAMES = 4
SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<image>",
    "<video>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<fake_token_around_image>",
    "<global-img>",
    "<|im_start|>",
    "<|im_end|>",
    "<end_of_utterance>",
)
IDS = {token: index for index, token in enumerate(SPECIAL)}
ENDS = {"pad_token_id": IDS["<pad>"], "bos_token_id": IDS["<s>"], "eos_token_id": IDS["</s>"]}


def random_backbone(out: Path, family: str = "video_llava", seed: int = 0) -> Path:
    """Write a sealed backbone folder of `family` with random weights drawn from `seed`; returns the folder.

    family: a key of CONFIGS, COMPOSED or READERS.
    """
    tokenizer = byte_tokenizer()
    config = ALL[family](len(tokenizer))
    row = FAMILIES[config.model_type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(row)(config)
    out.mkdir(parents=True, exist_ok=True)
    if row.kind == "glued":
        tokenizer.init_kwargs["prompt_template"] = template_for(config.text_config.model_type).name
    if row.kind != "whole" and row.tower:
        default_transform(config.vision_config).save_pretrained(out)
    elif row.image_processor:
        options = row.processor_options(config, SIDES.get(family))
        getattr(transformers, row.image_processor)(**options).save_pretrained(out)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    seal(out, name=f"random/{family}", frames=FRAMES, side=SIDES.get(family))
    return out


def row_of(family: str) -> Family:
    """The row of FAMILIES that a key of CONFIGS, COMPOSED or READERS belongs to."""
    return FAMILIES[ALL[family](len(byte_tokenizer())).model_type]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text is encoded and decoded without loss."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[4:]),
        clean_up_tokenization_spaces=False,
    )


def _language(kind: str, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.06,
        **ENDS,
        **more,
    }


def _vision(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "projection_dim": 24,
        "initializer_range": 0.06,
        **more,
    }


def _video_llava(vocabulary: int) -> Any:
    return transformers.VideoLlavaConfig(
        vision_config=_vision("clip_vision_model"),
        text_config=_language("llama", vocabulary),
        image_token_index=IDS["<image>"],
        video_token_index=IDS["<video>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
    )


def _llava(vocabulary: int) -> Any:
    return transformers.LlavaConfig(
        vision_config=_vision("clip_vision_model"),
        text_config=_language("llama", vocabulary),
        image_token_index=IDS["<image>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _llava_onevision(vocabulary: int) -> Any:
    return transformers.LlavaOnevisionConfig(
        vision_config=_vision("siglip_vision_model", vision_use_head=False, image_size=48),
        text_config=_language("qwen2", vocabulary),
        image_token_index=IDS["<image>"],
        video_token_index=IDS["<video>"],
        image_grid_pinpoints=[[48, 48], [48, 96], [96, 48]],
    )


def _smolvlm(vocabulary: int) -> Any:
    return transformers.SmolVLMConfig(
        vision_config=_vision("smolvlm_vision", image_size=64),
        text_config=_language("llama", vocabulary),
        image_token_id=IDS["<image>"],
        scale_factor=2,
    )


def _qwen_vision(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 32,
        "initializer_range": 0.06,
        **more,
    }


QWEN_IDS = {
    "image_token_id": IDS["<image>"],
    "video_token_id": IDS["<video>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}


def _qwen2_5_vl(vocabulary: int) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    return transformers.Qwen2_5_VLConfig(
        vision_config=_qwen_vision("qwen2_5_vl_vision", window_size=64, fullatt_block_indexes=[1]),
        text_config=_language("qwen2_5_vl_text", vocabulary, rope_parameters=rope),
        **QWEN_IDS,
    )


def _qwen3_vl(vocabulary: int) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    return transformers.Qwen3VLConfig(
        vision_config=_qwen_vision("qwen3_vl_vision", num_position_embeddings=16, deepstack_visual_indexes=[0]),
        text_config=_language("qwen3_vl_text", vocabulary, rope_parameters=rope, head_dim=16),
        **QWEN_IDS,
    )


def _llama(vocabulary: int) -> Any:
    return transformers.LlamaConfig(**_language("llama", vocabulary))


def _clip() -> Any:
    """5 tokens of width 24."""
    return transformers.CLIPVisionConfig(**_vision("clip_vision_model"))


def _mobilenet() -> Any:
    """A convolutional tower: a map of 2 x 2, width 128; no CLS."""
    return transformers.MobileNetV2Config(
        image_size=64, depth_multiplier=0.1, finegrained_output=False, initializer_range=0.3
    )


def _glued(vision: Any, width: int, text: Any, bridge: dict[str, Any]) -> Any:
    return GluedConfig(
        vision_config=vision,
        text_config=text,
        bridge=bridge,
        vision_tokens=5,
        vision_width=width,
        image_token_id=IDS["<image>"],
        video_token_id=IDS["<video>"],
        tie_word_embeddings=text.tie_word_embeddings,
        initializer_range=0.06,
    )


QFORMER = {"kind": "qformer", "tokens": 3, "layers": 2, "hidden": 24, "heads": 2}


def _glued_mlp(vocabulary: int) -> Any:
    return _glued(_clip(), 24, _llama(vocabulary), {"kind": "mlp"})


def _glued_qformer(vocabulary: int) -> Any:
    return _glued(_clip(), 24, _llama(vocabulary), QFORMER)


def _glued_conv(vocabulary: int) -> Any:
    text = transformers.Qwen2Config(**_language("qwen2", vocabulary, tie_word_embeddings=True))
    return _glued(_mobilenet(), 128, text, QFORMER)


def _light(vision: Any, width: int, vocabulary: int) -> Any:
    text = {**_language("bert", vocabulary), "max_position_embeddings": 64}
    text = transformers.BertConfig(**{key: text[key] for key in text if not key.endswith(("_type", "key_value_heads"))})
    return LightConfig(vision_config=vision, text_config=text, vision_width=width, text_tokens=32)


def _light_conv(vocabulary: int) -> Any:
    return _light(_mobilenet(), 128, vocabulary)


def _light_clip(vocabulary: int) -> Any:
    return _light(_clip(), 24, vocabulary)


def _t5(vocabulary: int) -> Any:
    """The start token of answers is the padding, as in every T5."""
    return transformers.T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        feed_forward_proj="relu",
        decoder_start_token_id=IDS["<pad>"],
        **{key: ENDS[key] for key in ("pad_token_id", "eos_token_id")},
    )


def _sighted(vocabulary: int) -> Any:
    return SightedConfig(vision_config=_clip(), text_config=_t5(vocabulary), vision_width=24)


CONFIGS: dict[str, Callable[[int], Any]] = {
    "video_llava": _video_llava,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "smolvlm": _smolvlm,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llama": _llama,
}
COMPOSED: dict[str, Callable[[int], Any]] = {
    "glued_mlp": _glued_mlp,
    "glued_qformer": _glued_qformer,
    "glued_conv": _glued_conv,
    "light_conv": _light_conv,
    "light_clip": _light_clip,
}
READERS: dict[str, Callable[[int], Any]] = {"t5": _t5, "sighted": _sighted}
"""Encoder-decoders: tasks of kind personalise only."""
ALL = {**CONFIGS, **COMPOSED, **READERS}
SIDES = {"qwen2_5_vl": 64, "qwen3_vl": 64}
