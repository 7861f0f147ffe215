"""The demo base: a real, tiny `VideoLlavaForConditionalGeneration`, pre-trained in a minute or two on general captions.

Towers and language model are far too small for the world outside the demo; the class, the code path and the file
layout are those of `LanguageBind/Video-LLaVA-7B-hf`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from latefuse import progress
from latefuse.data.demo import checks, judgements
from latefuse.data.demo.checks import Checks
from latefuse.data.demo.lessons import LOOKS, PIXELS, Lesson, Lessons
from latefuse.models.tiny_lessons import PATCH, Encoder, tokens_per_frame
from latefuse.models.tiny_tokenizer import kitchen_tokenizer
from latefuse.sections import Section

FIRST_CHECKS = 0.45
"""Share of the steps of checks that ask for what is there and for single claims only."""


class TinyOptions(Section):
    """How the demo base is pre-trained: fixed steps, not seconds, so that every machine builds the same base.

    checks: steps in which it also learns to say what is in a picture and whether it is as it is said, as bases of the
    size that judges are made of can, and knows the words of rules; checked: drawings of such a step.
    """

    steps: int = 1_000
    seed: int = 0
    lr: float = 1.5e-3
    tower_steps: int = 260
    tower_lr: float = 2e-3
    looks: int = 96
    clips: int = 4
    pictures: int = 16
    frames: int = 8
    hidden: int = 128
    layers: int = 4
    checks: int = 0
    checked: int = 32

    @property
    def more(self) -> tuple[str, ...]:
        """The words that it knows beside those of the kitchen."""
        return (*judgements.WORDS, *checks.WORDS) if self.checks else ()


MIX: Mapping[str, float] = {
    "picture": 0.20,
    "frame": 0.10,
    "drops": 0.40,
    "frames": 0.22,
    "words": 0.06,
    "echo": 0.04,
    "glossary": 0.10,
}


def build(options: Mapping[str, Any], out: Path, on_log: Callable[[dict[str, float], int], None] | None = None) -> None:
    """Pre-train the demo base and write it to `out` in the Hugging Face layout (safetensors, no pickle).

    options: the fields of TinyOptions. on_log: gets {"loss", "lr"} every 50 steps. Deterministic on one machine.
    """
    settings = TinyOptions.model_validate(dict(options))
    torch.manual_seed(settings.seed)
    tokenizer = kitchen_tokenizer(settings.more)
    model = VideoLlavaForConditionalGeneration(architecture(tokenizer, settings))
    pretrain(model, tokenizer, settings, on_log or (lambda values, step: None))
    with progress.no_library_bars():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    image_processor().save_pretrained(out)


def architecture(tokenizer: PreTrainedTokenizerFast, settings: TinyOptions) -> VideoLlavaConfig:
    """The shapes: 48 px in 24 px patches (5 tokens a frame with CLS), towers 96 x 3, Llama `hidden` x `layers`."""
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return VideoLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=tokens_per_frame(),
        video_seq_length=tokens_per_frame() * settings.frames,
        initializer_range=0.06,
        tie_word_embeddings=False,
    )


def image_processor() -> CLIPImageProcessorPil:
    """The deterministic transform of the demo base: bicubic to 48 px, values in [-1, 1]."""
    return CLIPImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def pretrain(
    model: VideoLlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    settings: TinyOptions,
    on_log: Callable[[dict[str, float], int], None],
) -> None:
    """Teach the tower to see, then bridge and language model to caption what the tower, frozen now, makes of it."""
    lessons = Lessons(settings.seed, settings.frames, more=settings.more)
    encoder, asking = Encoder(tokenizer, settings.frames), Checks(lessons)
    model.train()
    tower = model.model.image_tower
    heads = nn.ModuleDict(
        {aspect: nn.Linear(tower.config.hidden_size, len(values)) for aspect, values in LOOKS.items()}
    )
    descend(
        [*tower.parameters(), *heads.parameters()],
        lambda step: look_loss(tower, heads, *lessons.looks_of(settings.looks)),
        settings.tower_steps,
        settings.tower_lr,
        "demo tower",
        on_log,
    )
    seen = features(tower, lessons.drawings)
    learned = [
        *model.model.multi_modal_projector.parameters(),
        *model.model.language_model.parameters(),
        model.lm_head.weight,
    ]

    def told(step: int) -> torch.Tensor:
        return caption_loss(model, encoder(draw(lessons, step, settings)), seen)

    def checked(step: int) -> torch.Tensor:
        """Lists of claims come later; one step in four says captions again."""
        if step % 4 == 0:
            return told(settings.steps + step)
        ask = asking.first if step < FIRST_CHECKS * settings.checks else asking.then
        return caption_loss(model, encoder.checks(ask(settings.checked)), seen)

    descend(learned, told, settings.steps, settings.lr, "demo base", on_log)
    if settings.checks:
        descend(learned, checked, settings.checks, settings.lr, "demo base, checks", on_log)
    model.model.video_tower = copy.deepcopy(tower)
    model.eval()


def descend(
    parameters: list[nn.Parameter],
    loss_at: Callable[[int], torch.Tensor],
    steps: int,
    lr: float,
    name: str,
    on_log: Callable[[dict[str, float], int], None],
) -> None:
    """AdamW over `steps` of a loss; logs every 50 steps."""
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(step, steps))
    bar = progress.bar(range(1, steps + 1), desc=name, unit="step")
    for step in bar:
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if step % 50 == 0:
            on_log({f"{name} loss": loss.item(), f"{name} lr": float(schedule.get_last_lr()[0])}, step)
            bar.set_postfix(loss=f"{loss.item():.3f}")


def look_loss(
    tower: nn.Module, heads: nn.ModuleDict, shown: np.ndarray, classes: dict[str, np.ndarray]
) -> torch.Tensor:
    """Summed cross-entropy in nats of linear heads on CLS, an aspect each. shown: (n, 48, 48, 3) uint8."""
    cls = see(tower, shown)[:, 0]
    found = [F.cross_entropy(head(cls), torch.from_numpy(classes[aspect])) for aspect, head in heads.items()]
    return torch.stack(found).sum()


def see(tower: nn.Module, shown: np.ndarray) -> torch.Tensor:
    """(n, tokens, dim) of the tower's last layer, as the bridge reads it. shown: (n, 48, 48, 3) uint8."""
    pixels = torch.from_numpy(shown).permute(0, 3, 1, 2) / 127.5 - 1
    return tower(pixels, output_hidden_states=True).hidden_states[-1]


@torch.no_grad()
def features(tower: nn.Module, drawings: np.ndarray) -> torch.Tensor:
    """What the finished tower makes of every drawing, (n, tokens, dim): nothing frozen is computed twice."""
    return torch.cat([see(tower, drawings[k : k + 512]) for k in range(0, len(drawings), 512)])


def learning_rate(step: int, steps: int) -> float:
    """5% warm-up, constant to the half, then linear to a twentieth; a factor on the base rate."""
    done = step / steps
    return min(1.0, done / 0.05 if done < 0.05 else 1.0, 1 - 0.95 * (done - 0.5) / 0.5 if done > 0.5 else 1.0)


def draw(lessons: Lessons, step: int, settings: TinyOptions) -> list[Lesson]:
    """The lessons of one step: one kind, drawn by MIX; the first eighth are pictures and single frames."""
    mix = {kind: share for kind, share in MIX.items() if step > settings.steps / 8 or kind in ("picture", "frame")}
    kind = lessons.rng.choices(list(mix), weights=list(mix.values()))[0]
    return lessons.batch(kind, settings.clips if kind in ("drops", "frames") else settings.pictures)


def caption_loss(
    model: VideoLlavaForConditionalGeneration, batch: dict[str, torch.Tensor], seen: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy in nats over answer tokens; logits are made at answer positions only.

    batch: of an Encoder. seen: (drawings, tokens, dim), the tower's features of all drawings.
    """
    ids, labels = batch["input_ids"], batch["labels"][:, 1:]
    embeds = model.get_input_embeddings()(ids)
    if len(batch["shown"]):
        places = (ids == model.config.image_token_id) | (ids == model.config.video_token_id)
        tokens = model.model.multi_modal_projector(seen[batch["shown"]])
        embeds = embeds.masked_scatter(places.unsqueeze(-1), tokens)
    states = model.model.language_model(inputs_embeds=embeds, attention_mask=batch["attention_mask"], use_cache=False)
    answered = labels != -100
    return F.cross_entropy(model.lm_head(states.last_hidden_state[:, :-1][answered]), labels[answered])
